//! A proxy that copies and does nothing else: what one hop costs by itself.
//!
//! Two of them in a row make as many hops as a tunnel has. They read into memory and write from it, as a
//! tunnel must that encrypts what it moves, and do not splice.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    str::FromStr,
    thread,
};

use anyhow::{Context, Result};

/// How much one read takes.
const BLOCK: usize = 64 * 1024;

/// Where connections are accepted, and where they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forward {
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// Where it connects to.
    pub(crate) to: SocketAddr,
}

impl FromStr for Forward {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (listen, to) = text.split_once('=').context("not of the form LISTEN=TO")?;
        Ok(Self { listen: listen.parse()?, to: to.parse()? })
    }
}

impl std::fmt::Display for Forward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.listen, self.to)
    }
}

/// Copies connections until the process is ended.
pub(crate) fn serve(forwards: &[Forward]) -> Result<()> {
    let mut listeners = Vec::new();
    for forward in forwards {
        let forward = *forward;
        let listener = TcpListener::bind(forward.listen)
            .with_context(|| format!("cannot listen on {}", forward.listen))?;
        listeners.push(thread::spawn(move || accept(&listener, forward.to, one_way)));
    }
    listeners.into_iter().for_each(|listener| listener.join().unwrap());
    Ok(())
}

/// Connects each connection onwards, and has each of its directions moved in a thread of its own.
pub(crate) fn accept<M>(listener: &TcpListener, to: SocketAddr, mover: M)
where
    M: Fn(TcpStream, TcpStream) + Send + Copy + 'static,
{
    for client in listener.incoming().map_while(std::result::Result::ok) {
        thread::spawn(move || {
            let Ok(server) = TcpStream::connect(to) else { return };
            for stream in [&client, &server] {
                let _ = stream.set_nodelay(true);
            }
            let (Ok(from_client), Ok(to_server)) = (client.try_clone(), server.try_clone()) else { return };
            thread::spawn(move || mover(from_client, to_server));
            mover(server, client);
        });
    }
}

/// Moves bytes until `from` ends, and then ends `to`.
fn one_way(mut from: TcpStream, mut to: TcpStream) {
    let mut block = vec![0; BLOCK];
    while let Ok(count @ 1..) = from.read(&mut block) {
        if to.write_all(&block[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_is_read_as_it_is_written() {
        let text = "127.0.0.1:1=127.0.0.1:2";
        assert_eq!(text.parse::<Forward>().unwrap().to_string(), text);
        for wrong in ["127.0.0.1:1", "=127.0.0.1:2", "127.0.0.1=127.0.0.1:2"] {
            assert!(wrong.parse::<Forward>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_goes_in_comes_out_and_ends() {
        let (target, listener) = ([0; 2]).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).into();
        let (to, listen) = (target.local_addr().unwrap(), listener.local_addr().unwrap());
        thread::spawn(move || accept(&listener, to, one_way));
        let mut client = TcpStream::connect(listen).unwrap();
        let mut server = target.accept().unwrap().0;
        client.write_all(b"there").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        server.read_to_string(&mut text).unwrap();
        assert_eq!(text, "there");
        server.write_all(b"and back").unwrap();
        drop(server);
        text.clear();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "and back");
    }
}
