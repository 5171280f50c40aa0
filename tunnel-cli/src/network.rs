//! Notices that this computer's addresses or routes change, such as with another wifi: a connection from an address that is
//! gone is dead, however quiet that looks.

use std::{net::IpAddr, time::Duration};

use tokio::time::sleep;

/// One change comes as several messages, which are taken for one.
const TOGETHER: Duration = Duration::from_millis(50);

/// Waits for the next change.
pub(crate) async fn changed() {
    system::changed().await;
    sleep(TOGETHER).await;
}

/// Whether an address is this computer's at this moment; also where that cannot be known.
pub(crate) fn has(address: IpAddr) -> bool {
    system::addresses().is_none_or(|addresses| addresses.contains(&address.to_canonical()))
}

#[cfg(unix)]
fn interfaces() -> Option<Vec<IpAddr>> {
    let found = nix::ifaddrs::getifaddrs().ok()?;
    let ip = |address: nix::sys::socket::SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()).to_canonical()))
    };
    Some(found.filter_map(|interface| interface.address.and_then(ip)).collect())
}

/// The kernel tells (rtnetlink(7)).
#[cfg(target_os = "linux")]
mod system {
    use std::{future::pending, io, os::fd::AsRawFd, os::unix::net::UnixDatagram as Datagrams};

    use nix::{
        libc,
        sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket},
    };
    use tokio::net::UnixDatagram;

    pub(super) use super::interfaces as addresses;

    const GROUPS: libc::c_int = libc::RTMGRP_LINK
        | libc::RTMGRP_IPV4_IFADDR
        | libc::RTMGRP_IPV4_ROUTE
        | libc::RTMGRP_IPV6_IFADDR
        | libc::RTMGRP_IPV6_ROUTE;

    pub(super) async fn changed() {
        match listen() {
            // Whatever it says, something has changed; also when that is more than its queue holds, which is an error.
            Ok(socket) => drop(socket.recv(&mut [0; 4096]).await),
            // Where the kernel does not tell, silence does, later.
            Err(_) => pending().await,
        }
    }

    /// The runtime receives from any socket of datagrams in the same way, and has no type for this kind.
    fn listen() -> io::Result<UnixDatagram> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS.unsigned_abs()))?;
        UnixDatagram::from_std(Datagrams::from(socket))
    }
}

/// The addresses are compared now and then.
#[cfg(all(unix, not(target_os = "linux")))]
mod system {
    use tokio::time::sleep;

    pub(super) use super::interfaces as addresses;
    use crate::suspend::TICK;

    pub(super) async fn changed() {
        let before = addresses();
        while addresses() == before {
            sleep(TICK).await;
        }
    }
}

/// Silence tells, later.
#[cfg(not(unix))]
mod system {
    use std::{future::pending, net::IpAddr};

    pub(super) async fn changed() {
        pending().await
    }

    pub(super) fn addresses() -> Option<Vec<IpAddr>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_computer_are_known() {
        assert!(has("127.0.0.1".parse().unwrap()));
        assert!(has("::ffff:127.0.0.1".parse().unwrap()));
        assert!(!has("192.0.2.1".parse().unwrap()));
    }
}
