//! Free ports, for programs that cannot be told to choose one themselves.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use crate::{claim, wait};

/// A loopback port on which nothing listens, and that no test of this user or another is given before this
/// process ends.
///
/// Below the ephemeral range, so that no outgoing connection takes it between now and its use. Always even:
/// OpenBao takes the next one too.
#[must_use]
pub fn free() -> u16 {
    loop {
        let port = rand::random_range(6_000..16_000) * 2;
        // Claimed first: between the look at the port and its use there is time for another test.
        if claim::until_the_end(&format!("port {port}"))
            && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        {
            return port;
        }
    }
}

/// Whether something accepts connections there.
#[must_use]
pub fn answers(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

/// Waits until something accepts connections there.
pub fn wait_until_answers(address: SocketAddr, deadline: Duration) {
    wait::until_true(&format!("a listener on {address}"), deadline, || answers(address));
}

/// Whether something listens there, without connecting: a connection may already mean one to the target
/// behind.
#[must_use]
pub fn is_listening(address: SocketAddr) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.contains(&format!(":{:04X} 00000000:0000 0A", address.port()))
}
