//! Stands at one address before servers that come and go, as a load balancer does: a new connection goes to
//! the server of the moment, and an open one stays where it is.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// A running switch; it ends with its process.
#[derive(Clone, Debug)]
pub struct Switch {
    address: SocketAddr,
    upstream: Arc<Mutex<SocketAddr>>,
}

impl Switch {
    /// One on a free port of an address of this host.
    ///
    /// # Panics
    /// When the address is not this host's.
    #[must_use]
    pub fn at(address: impl Into<std::net::IpAddr>, upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((address.into(), 0)).unwrap();
        let switch =
            Self { address: listener.local_addr().unwrap(), upstream: Arc::new(Mutex::new(upstream)) };
        let upstream = Arc::clone(&switch.upstream);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let upstream = *upstream.lock().unwrap();
                // A server that refuses is seen as one: the connection ends.
                let Ok(server) = TcpStream::connect(upstream) else { continue };
                let _ = join(client, server);
            }
        });
        switch
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads new connections to another server.
    pub fn lead_to(&self, upstream: SocketAddr) {
        *self.upstream.lock().unwrap() = upstream;
    }
}

fn join(one: TcpStream, two: TcpStream) -> io::Result<()> {
    one.set_nodelay(true)?;
    two.set_nodelay(true)?;
    for (from, to) in [(one.try_clone()?, two.try_clone()?), (two, one)] {
        thread::spawn(move || copy(from, &to));
    }
    Ok(())
}

fn copy(mut from: TcpStream, mut to: &TcpStream) {
    let mut block = vec![0; 64 * 1024];
    loop {
        match from.read(&mut block) {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                break;
            }
            Ok(length) if to.write_all(&block[..length]).is_ok() => {}
            // Either side was reset: so is the other.
            Ok(_) | Err(_) => {
                if let Ok(both) = to.try_clone() {
                    tests::target::reset(both);
                }
                let _ = to.shutdown(Shutdown::Both);
                break;
            }
        }
    }
}
