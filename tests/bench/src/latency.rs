//! Measures how long answers take.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// What is sent, and comes back.
const MESSAGE: usize = 64;

/// An answer that takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(2);

/// The number of answers that are not counted, until all is warm.
const WARM_UP: usize = 50;

/// Asks one question after another for a while: the time of each answer, in microseconds.
///
/// # Errors
/// When an answer does not come, which is [`io::ErrorKind::WouldBlock`] where the connection lives.
pub(crate) fn echoes(address: SocketAddr, time: Duration) -> io::Result<Vec<f64>> {
    let mut stream = connect(address)?;
    let mut ask = || {
        let start = Instant::now();
        stream.write_all(&[7; MESSAGE])?;
        stream.read_exact(&mut [0; MESSAGE])?;
        io::Result::Ok(micros(start.elapsed()))
    };
    for _ in 0..WARM_UP {
        ask()?;
    }
    let start = Instant::now();
    let mut took = Vec::new();
    while start.elapsed() < time {
        took.push(ask()?);
    }
    Ok(took)
}

/// Makes so many connections, one after another: the time of each until its first byte, in microseconds.
///
/// # Errors
/// When one fails.
pub(crate) fn first_bytes(address: SocketAddr, first: Speaks, count: usize) -> io::Result<Vec<f64>> {
    (0..count).map(|_| first_byte(address, first).map(micros)).collect()
}

/// Which end of a new connection speaks first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// The client, as in HTTP and with PostgreSQL.
    Client,
    /// The target, as with MySQL, and in SSH and SMTP.
    Target,
}

/// Connects, says something if it is to speak first, and waits for a byte.
///
/// # Errors
/// When it does not come.
pub(crate) fn first_byte(address: SocketAddr, first: Speaks) -> io::Result<Duration> {
    let start = Instant::now();
    let mut stream = connect(address)?;
    if first == Speaks::Client {
        stream.write_all(b"?")?;
    }
    stream.read_exact(&mut [0; 1])?;
    Ok(start.elapsed())
}

/// Connects, without a wait for what could be sent together.
///
/// # Errors
/// When that fails.
pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use harness::target::Target;

    use super::*;

    #[test]
    fn answers_are_counted_and_silence_is_an_error() {
        let took = echoes(Target::echo().address(), Duration::from_millis(1)).unwrap();
        assert!(!took.is_empty() && took.iter().all(|time| *time > 0.0), "{took:?}");
        let silent = Target::silent();
        let error = echoes(silent.address(), Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(first_bytes(Target::says("!").address(), Speaks::Target, 3).unwrap().len(), 3);
        assert_eq!(first_bytes(Target::echo().address(), Speaks::Client, 3).unwrap().len(), 3);
        assert!(first_byte(Target::says("").address(), Speaks::Target).is_err());
    }
}
