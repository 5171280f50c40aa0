//! Free ports, for programs that cannot be told to choose one themselves.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

use crate::wait;

static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A loopback port that nobody listens on, and that this process never gives out twice.
///
/// Below the ephemeral range, so that no outgoing connection takes it between now and its use. Always even: OpenBao takes the
/// next one too.
#[must_use]
pub fn free() -> u16 {
    let mut given = GIVEN.lock().unwrap();
    let given = given.get_or_insert_with(HashSet::new);
    loop {
        let port = rand::random_range(6_000..16_000) * 2;
        if !given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            given.insert(port);
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

/// Whether something listens there, without connecting: a connection may already mean one to the target behind.
#[must_use]
pub fn is_listening(address: SocketAddr) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.contains(&format!(":{:04X} 00000000:0000 0A", address.port()))
}
