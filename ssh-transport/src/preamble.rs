//! Skips what a server may say before SSH begins: lines of text in front of its identification (RFC 4253 §4.2), which a client
//! skips as OpenSSH does.
//!
//! russh takes twenty lines of 255 bytes and otherwise ends without a word. A server that turns a client away says why in
//! such a line, and closes: that line is in the error.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// With this the identification begins.
const IDENTIFICATION: &[u8] = b"SSH-";

/// The most lines before it: OpenSSH's `SSH_MAX_PRE_BANNER_LINES`.
const MOST_LINES: usize = 1024;

/// The longest line, in bytes: OpenSSH's `SSH_MAX_BANNER_LEN`.
const LONGEST_LINE: usize = 8192;

/// How much of the last line an error shows, in bytes.
const SHOWN: usize = 200;

/// A byte stream whose reader hears nothing of what comes before the identification. Writes pass untouched.
#[derive(Debug)]
pub struct Preamble<S> {
    inner: S,
    skipping: Option<Skipping>,
    /// What was read behind the end of the preamble.
    ahead: BytesMut,
}

/// The lines until now.
#[derive(Debug, Default)]
struct Skipping {
    read: BytesMut,
    lines: usize,
    last: String,
}

impl<S> Preamble<S> {
    /// Wraps a connection of which nothing has been read yet.
    pub fn new(inner: S) -> Self {
        Self { inner, skipping: Some(Skipping::default()), ahead: BytesMut::new() }
    }
}

impl Skipping {
    /// Drops whole lines. Whether the identification has begun; what was read begins with it then.
    fn reached(&mut self) -> io::Result<bool> {
        loop {
            if self.read.starts_with(IDENTIFICATION) {
                return Ok(true);
            }
            let Some(end) = self.read.iter().position(|byte| *byte == b'\n') else { break };
            let line = self.read.split_to(end + 1);
            if line.len() > LONGEST_LINE {
                return Err(refused("it sent a line of more than 8192 bytes where SSH was to begin"));
            }
            let text = String::from_utf8_lossy(line.get(..SHOWN).unwrap_or(&line)).trim().to_owned();
            if !text.is_empty() {
                self.last = text;
            }
            self.lines += 1;
            if self.lines >= MOST_LINES {
                return Err(refused("it sent 1024 lines of text and no SSH identification"));
            }
        }
        if self.read.len() > LONGEST_LINE {
            return Err(refused("it sent a line of more than 8192 bytes where SSH was to begin"));
        }
        Ok(false)
    }

    /// What the end of the connection means here.
    fn ended(&self) -> io::Error {
        let rest = String::from_utf8_lossy(self.read.get(..SHOWN).unwrap_or(&self.read));
        let last = if rest.trim().is_empty() { self.last.as_str() } else { rest.trim() };
        if last.is_empty() {
            return io::ErrorKind::UnexpectedEof.into();
        }
        refused(format!("it closed the connection and said: {last}"))
    }
}

fn refused(why: impl Into<String>) -> io::Error {
    io::Error::other(why.into())
}

impl<S: AsyncRead + Unpin> AsyncRead for Preamble<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while let Some(skipping) = &mut this.skipping {
            let count = ready!(poll_read_buf(Pin::new(&mut this.inner), cx, &mut skipping.read))?;
            if count == 0 {
                return Poll::Ready(Err(skipping.ended()));
            }
            if skipping.reached()? {
                this.ahead = std::mem::take(&mut skipping.read);
                this.skipping = None;
            }
        }
        if this.ahead.is_empty() {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        }
        let count = buf.remaining().min(this.ahead.len());
        buf.put_slice(this.ahead.get(..count).unwrap_or_default());
        this.ahead.advance(count);
        if this.ahead.is_empty() {
            this.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Preamble<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// What a client hears of what a server says, which then closes; `step` bytes arrive at a time.
    async fn heard(said: &[u8], step: usize) -> Result<String, String> {
        let (ours, mut theirs) = tokio::io::duplex(step);
        let said = said.to_owned();
        tokio::spawn(async move { theirs.write_all(&said).await });
        let mut all = Vec::new();
        match Preamble::new(ours).read_to_end(&mut all).await {
            Ok(_) => Ok(String::from_utf8(all).unwrap()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[tokio::test]
    async fn lines_before_the_identification_are_skipped_up_to_openssh_s_bounds() {
        let rest = "SSH-2.0-x\r\nbinary\nSSH-again";
        let lines = |count: usize, length: usize| format!("{}\r\n", "a".repeat(length)).repeat(count) + rest;
        for said in [
            rest.to_owned(),
            lines(1, 400),
            lines(30, 10),
            lines(1023, 1),
            lines(3, 8190),
            format!("\n\r\nSSh-\nSS\n{rest}"),
        ] {
            for step in [1, 7, 64 * 1024] {
                assert_eq!(
                    heard(said.as_bytes(), step).await.as_deref(),
                    Ok(rest),
                    "{} by {step}",
                    said.len()
                );
            }
        }
        for (said, why) in [
            (lines(1024, 1), "1024 lines"),
            (lines(1, 8191), "8192 bytes"),
            ("a".repeat(1 << 20), "8192 bytes"),
            ("hello\nExceeded MaxStartups\r\n".to_owned(), "and said: Exceeded MaxStartups"),
            ("Not allowed at this time".to_owned(), "and said: Not allowed at this time"),
        ] {
            let error = heard(said.as_bytes(), 4096).await.unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert!(heard(b"", 16).await.unwrap_err().contains("unexpected end of file"));
    }
}
