//! The way between the machine and a node: a pair of virtual devices, each end with an address of the range
//! for such tests (RFC 2544).

use std::{net::Ipv4Addr, path::Path};

use serde::{Deserialize, Serialize};

use test_support::process::Program;

/// Where pods have their addresses. The machine has no route there: it reaches Services through ports of the
/// node.
pub const PODS: &str = "10.244.0.0/16";
/// Where Services have theirs.
pub const SERVICES: &str = "10.96.0.0/16";
/// The Service of the API server, which always gets the first one.
pub const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The Service of the cluster's DNS.
pub const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// The addresses of both ends.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Addresses {
    /// The machine's end.
    pub host: Ipv4Addr,
    /// The node's end, and its address in the cluster.
    pub node: Ipv4Addr,
}

impl Addresses {
    pub(super) fn none() -> Self {
        Self { host: Ipv4Addr::UNSPECIFIED, node: Ipv4Addr::UNSPECIFIED }
    }

    /// Connects the network namespace of this process with the machine's, and lets pods reach the machine
    /// through the node's address.
    ///
    /// # Panics
    /// When the kernel says no.
    #[must_use]
    pub fn connect(process: u32) -> Self {
        let addresses = Self::free();
        let device = addresses.device();
        let process = process.to_string();
        let ip = |words: String| Program::new("ip").args(words.split(' ')).succeed();
        let enter = || Program::new("nsenter").args(["--target", &process, "--net", "--"]);
        let inside = |words: &str| enter().args(words.split(' ')).succeed();
        let Self { host, node } = addresses;
        ip(format!("link add {device} type veth peer name uplink netns {process}"));
        ip(format!("address add {host}/30 dev {device}"));
        ip(format!("address add {}/32 dev {device}", addresses.second()));
        ip(format!("link set {device} up"));
        inside("ip link set lo up");
        inside(&format!("ip address add {node}/30 dev uplink"));
        inside("ip link set uplink up");
        inside(&format!("ip route add default via {host}"));
        // Connections whose other end was killed would keep the namespace for minutes.
        for (name, value) in [("ip_forward", 1), ("tcp_orphan_retries", 1), ("tcp_fin_timeout", 1)] {
            // The switch is that of the writer's network namespace.
            enter().args(["sh", "-c", &format!("echo {value} >/proc/sys/net/ipv4/{name}")]).succeed();
        }
        inside("nft add table ip pods");
        inside("nft add chain ip pods leave { type nat hook postrouting priority srcnat ; }");
        inside(&format!("nft add rule ip pods leave ip saddr {PODS} oifname uplink masquerade"));
        addresses
    }

    /// Four addresses that no interface of this machine has.
    fn free() -> Self {
        let taken = Program::new("ip").args(["-4", "-oneline", "address"]).succeed();
        loop {
            let [third, fourth]: [u8; 2] = rand::random();
            let [host, node] = [1, 2].map(|last| Ipv4Addr::new(198, 18, third, (fourth & 0xfc) | last));
            if !taken.contains(&format!(" {host}/")) {
                return Self { host, node };
            }
        }
    }

    /// What is outside of the cluster, as pods reach it: two addresses of the machine.
    #[must_use]
    pub fn outside(&self) -> [Ipv4Addr; 2] {
        [self.host, self.second()]
    }

    /// The machine's other address, which is its end's too.
    fn second(&self) -> Ipv4Addr {
        let [_, _, third, fourth] = self.host.octets();
        Ipv4Addr::new(198, 19, third, fourth)
    }

    /// The name of the machine's end.
    #[must_use]
    pub fn device(&self) -> String {
        let [_, _, third, fourth] = self.host.octets();
        format!("cluster{third:02x}{fourth:02x}")
    }

    pub(super) fn write(&self, folder: &Path) {
        std::fs::write(folder.join("addresses.json"), serde_json::to_vec(self).unwrap()).unwrap();
    }

    pub(super) fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(folder.join("addresses.json")).ok()?).ok()
    }
}
