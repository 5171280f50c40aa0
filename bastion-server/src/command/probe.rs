//! Checks from outside whether a bastion answers, for `helm test`: the image has no other program for that.

use std::{io, net::SocketAddr, process::ExitCode, time::Duration};

use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{Outcome, destination, fail, print};
use crate::{
    accept::IDENTIFICATION,
    cli::Probe,
    destination::{Destination, Host},
    dial::resolver::{self, NoServers, ResolveError, Resolver},
};

/// How long one attempt may take, in all.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause before the next attempt.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest identification line of SSH, in bytes (RFC 4253 §4.2), and enough for a status line of HTTP.
const LONGEST_LINE: usize = 255;

pub(super) fn run(asked: &Probe) -> Outcome {
    let questions = [("--ssh", Question::Ssh, &asked.ssh), ("--ready", Question::Ready, &asked.ready)];
    for (flag, question, target) in questions {
        let Some(target) = target else { continue };
        let answer = match destination(target) {
            Ok(target) => super::run(async { Ok(ask(question, &target, asked.within.0).await) }),
            Err(why) => return Err(fail(2, format!("{flag} {}: {why}", target.escape_debug()))),
        };
        match answer {
            Ok(Ok(line)) => {
                print(format_args!("{target}: {}\n", line.escape_debug()))?;
            }
            Ok(Err(failure)) => return Err(fail(1, format!("{target}: {failure}"))),
            Err(error) => return Err(fail(error.exit_code(), &error)),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Whether the server speaks SSH: both sides send their identification lines.
    Ssh,
    /// Whether `/readyz` returns 200.
    Ready,
}

/// Why a check failed.
#[derive(Debug, Error)]
pub(super) enum Failure {
    /// This machine has no usable name server.
    #[error(transparent)]
    NoServers(#[from] NoServers),
    /// The name does not resolve; that of a headless Service has no address while no pod is ready.
    #[error("{0}")]
    Unresolved(#[from] ResolveError),
    /// The connection failed or broke.
    #[error("no connection: {0}")]
    Connection(#[from] io::Error),
    /// The server accepted the connection and sent nothing.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Silent,
    /// The server does not speak SSH.
    #[error("this is no SSH: {:?}", .0)]
    NotSsh(String),
    /// The bastion is alive and not ready.
    #[error("not ready: {:?}", .0)]
    NotReady(String),
}

/// Repeats a check until it succeeds, and returns the first line of the answer.
///
/// # Errors
/// The last failure, when `within` has passed.
pub(super) async fn ask(
    question: Question,
    target: &Destination,
    within: Duration,
) -> Result<String, Failure> {
    let settings = resolver::Settings { patience: PATIENCE, ..resolver::Settings::default() };
    let resolver = Resolver::new(settings)?;
    let end = Instant::now() + within;
    loop {
        let attempt = timeout(PATIENCE, attempt(question, target, &resolver)).await;
        match attempt.unwrap_or(Err(Failure::Silent)) {
            Ok(line) => return Ok(line),
            Err(failure) if Instant::now() + PAUSE > end => return Err(failure),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

async fn attempt(question: Question, target: &Destination, resolver: &Resolver) -> Result<String, Failure> {
    let addresses = resolver.addresses(target.host()).await?;
    let addresses: Vec<_> = addresses.into_iter().map(|ip| SocketAddr::new(ip, target.port())).collect();
    let mut stream = TcpStream::connect(addresses.as_slice()).await?;
    match question {
        Question::Ssh => {
            stream.write_all(format!("{IDENTIFICATION}\r\n").as_bytes()).await?;
            let line = first_line(&mut stream).await?;
            if line.starts_with("SSH-2.0-") { Ok(line) } else { Err(Failure::NotSsh(line)) }
        }
        Question::Ready => {
            let host = match target.host() {
                Host::Address(std::net::IpAddr::V6(address)) => format!("[{address}]"),
                host => host.to_string(),
            };
            let request = format!("GET /readyz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let line = first_line(&mut stream).await?;
            if line.starts_with("HTTP/1.1 200 ") { Ok(line) } else { Err(Failure::NotReady(line)) }
        }
    }
}

/// Reads up to the first line end, or to the end of the stream, and no more than the length of a line.
async fn first_line(stream: &mut TcpStream) -> Result<String, Failure> {
    let mut line = Vec::with_capacity(LONGEST_LINE);
    while line.len() < LONGEST_LINE {
        match stream.read_u8().await {
            Ok(b'\n') => break,
            Ok(byte) => line.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Answers every connection with `text`.
    async fn answering(text: &'static str) -> Destination {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut heard = [0; 512];
                let _ = stream.read(&mut heard).await;
                let _ = stream.write_all(text.as_bytes()).await;
            }
        });
        Destination::parse("127.0.0.1", port.into()).unwrap()
    }

    #[tokio::test]
    async fn yes_is_the_right_first_line_and_nothing_else() {
        for (question, answer, expected) in [
            (Question::Ssh, "SSH-2.0-bastion_0\r\n", "SSH-2.0-bastion_0"),
            (Question::Ssh, "HTTP/1.1 200 OK\r\n", "this is no SSH: \"HTTP/1.1 200 OK\""),
            (Question::Ssh, "", "this is no SSH: \"\""),
            (Question::Ssh, "\x1b[2J\n", "this is no SSH: \"\\u{1b}[2J\""),
            (Question::Ready, "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK"),
            (Question::Ready, "HTTP/1.1 503 x\r\n\r\n", "not ready: \"HTTP/1.1 503 x\""),
            (Question::Ready, "SSH-2.0-x\r\n", "not ready: \"SSH-2.0-x\""),
        ] {
            let target = answering(answer).await;
            let said = ask(question, &target, Duration::ZERO).await.unwrap_or_else(|no| no.to_string());
            assert_eq!(said, expected);
        }
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_cut() {
        let target = answering(Box::leak("x".repeat(100_000).into_boxed_str())).await;
        let failure = ask(Question::Ssh, &target, Duration::ZERO).await.unwrap_err();
        assert!(matches!(&failure, Failure::NotSsh(line) if line.len() == LONGEST_LINE), "{failure}");
    }

    #[tokio::test]
    async fn who_is_not_there_yet_is_asked_again() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let target = Destination::parse("127.0.0.1", address.port().into()).unwrap();
        let failure = ask(Question::Ssh, &target, Duration::ZERO).await.unwrap_err();
        assert!(matches!(failure, Failure::Connection(_)), "{failure}");

        let asked = tokio::spawn(async move { ask(Question::Ssh, &target, Duration::from_secs(60)).await });
        let listener = TcpListener::bind(address).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"SSH-2.0-x\n").await.unwrap();
        assert_eq!(asked.await.unwrap().unwrap(), "SSH-2.0-x");
    }
}
