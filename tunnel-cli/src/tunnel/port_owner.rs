//! Finds the process that listens on a local port, as `ss -ltnp` would, in /proc. Where there is none, it finds no process.

use std::{
    fmt, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use plain_text::escaped;

/// The state of a listening socket in /proc/net/tcp.
const LISTEN: &str = "0A";

/// A process that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortOwner {
    pid: u32,
    name: String,
}

impl fmt::Display for PortOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// The process that listens where `address` wants to, if we may see it.
pub(super) fn of(address: SocketAddr) -> Option<PortOwner> {
    let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| listening(&table, address))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if sockets.is_empty() {
        return None;
    }
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let holds = fs::read_dir(process.path().join("fd"))
            .ok()?
            .flatten()
            .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
            .any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()));
        let name = || fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        holds.then(|| PortOwner { pid, name: escaped(name().trim(), 40) })
    })
}

/// The inodes of sockets in `table` that keep others from binding `address`.
fn listening(table: &str, address: SocketAddr) -> Vec<u64> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let local = fields.next()?;
            if fields.nth(1)? != LISTEN {
                return None;
            }
            let inode = fields.nth(5)?.parse().ok()?;
            let (ip, port) = local.split_once(':')?;
            let port = u16::from_str_radix(port, 16).ok()?;
            let ip = ip_address(ip)?;
            (port == address.port() && overlap(ip, address.ip())).then_some(inode)
        })
        .collect()
}

/// Whether a socket on `one` keeps others from binding `other`. One on every IPv6 address mostly has those of IPv4 too; one
/// on every IPv4 address has no other.
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    let covers = |all: IpAddr, some: IpAddr| all.is_unspecified() && (all.is_ipv6() || some.is_ipv4());
    one == other || covers(one, other) || (other.is_unspecified() && one.is_ipv4() == other.is_ipv4())
}

/// The kernel prints addresses as 32-bit words in its own byte order.
fn ip_address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            let address = Ipv6Addr::from(bytes);
            Some(address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn the_kernels_table_is_understood() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0 0 10 0\n\
             1: 00000000:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0\n\
             2: 0100007F:0BB8 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 4713 1 0 100 0 0 10 0\n\
             garbage\n";
        let inodes = |address: &str| listening(table, address.parse().unwrap());
        assert_eq!(inodes("127.0.0.1:3000"), [4711]);
        assert_eq!(inodes("0.0.0.0:3000"), [4711]);
        assert_eq!(inodes("127.0.0.2:3000"), [] as [u64; 0]);
        assert_eq!(inodes("127.0.0.1:5432"), [4712]);
        assert_eq!(inodes("[::1]:3000"), [] as [u64; 0]);
        assert_eq!(inodes("[::1]:5432"), [] as [u64; 0], "every IPv4 address is no IPv6 address");
        assert_eq!(ip_address("00000000000000000000000001000000"), Some(Ipv6Addr::LOCALHOST.into()));
        assert_eq!(ip_address("0000000000000000FFFF00000100007F"), Some(Ipv4Addr::LOCALHOST.into()));
    }
}
