//! A TCP connection that can be cut from outside while somebody else reads and writes it.
//!
//! Dropping a running russh session does not stop it, and a peer that sends one packet a second keeps it alive. So
//! whoever must be able to end a connection keeps a [`KillSwitch`], which shuts the socket itself down.

use std::{
    io,
    net::Shutdown,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// The stream that is given to SSH.
#[derive(Debug)]
pub struct Socket(Arc<TcpStream>);

impl Socket {
    /// Takes a connected stream.
    pub fn new(stream: TcpStream) -> Self {
        Self(Arc::new(stream))
    }

    /// A switch that ends this connection, however many there are and whoever holds the socket by then.
    pub fn kill_switch(&self) -> KillSwitch {
        KillSwitch(Arc::downgrade(&self.0))
    }
}

/// Cuts one connection; holding it does not keep the socket open.
#[derive(Clone, Debug)]
pub struct KillSwitch(Weak<TcpStream>);

impl KillSwitch {
    /// Ends the connection in both directions: reads see its end, writes fail, and who waits for either wakes up.
    pub fn cut(&self) {
        if let Some(stream) = self.0.upgrade() {
            // Fails only if the peer was faster.
            let _ = SockRef::from(&*stream).shutdown(Shutdown::Both);
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read_buf(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(|_| ())),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write_vectored(bufs) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.0).shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        time::timeout,
    };

    use super::*;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Socket::new(listener.accept().await.unwrap().0), peer)
    }

    #[tokio::test]
    async fn carries_bytes_both_ways_and_ends_cleanly() {
        let (mut socket, mut peer) = pair().await;
        peer.write_all(b"there").await.unwrap();
        peer.shutdown().await.unwrap();
        let mut read = String::new();
        socket.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "there");
        socket.write_all(b"back").await.unwrap();
        socket.shutdown().await.unwrap();
        read.clear();
        peer.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "back");
    }

    #[tokio::test]
    async fn a_cut_wakes_a_blocked_reader_and_a_blocked_writer_and_the_peer() {
        let (socket, mut peer) = pair().await;
        let switch = socket.kill_switch();
        let (mut reader, mut writer) = tokio::io::split(socket);
        let reading = tokio::spawn(async move { reader.read(&mut [0; 16]).await });
        // The peer does not read, so the kernel's buffers fill and the writer waits.
        let writing = tokio::spawn(async move {
            loop {
                if let Err(error) = writer.write_all(&[0; 65536]).await {
                    return error;
                }
            }
        });
        tokio::task::yield_now().await;
        switch.cut();
        let deadline = Duration::from_secs(5);
        assert_eq!(timeout(deadline, reading).await.unwrap().unwrap().unwrap(), 0);
        assert_eq!(timeout(deadline, writing).await.unwrap().unwrap().kind(), io::ErrorKind::BrokenPipe);
        let mut rest = Vec::new();
        timeout(deadline, peer.read_to_end(&mut rest)).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_switch_does_not_keep_the_socket_open() {
        let (socket, mut peer) = pair().await;
        let switch = socket.kill_switch();
        drop(socket);
        assert_eq!(timeout(Duration::from_secs(5), peer.read(&mut [0; 1])).await.unwrap().unwrap(), 0);
        switch.cut();
    }
}
