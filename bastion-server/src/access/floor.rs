//! The networks that no rule opens: who reaches them from inside reaches more than a target.
//!
//! An operator may take one off the floor, by its name. That does not permit anything yet; a rule still has to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use schemars::JsonSchema;
use serde::Deserialize;

/// One kind of forbidden address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Forbidden {
    /// 127.0.0.0/8 and ::1: the bastion itself.
    Loopback,
    /// 0.0.0.0/8 and ::, which connect to the bastion itself.
    Unspecified,
    /// 169.254.0.0/16 and fe80::/10.
    LinkLocal,
    /// 224.0.0.0/4 and ff00::/8.
    Multicast,
    /// 255.255.255.255, and 240.0.0.0/4, which no host has.
    Broadcast,
    /// The addresses at which clouds hand out credentials.
    CloudMetadata,
    /// The addresses of the bastion's own network interfaces.
    OwnAddresses,
    /// The API server of the cluster that the bastion runs in.
    KubernetesApi,
}

impl Forbidden {
    /// The name as it stands in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Unspecified => "unspecified",
            Self::LinkLocal => "link-local",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::CloudMetadata => "cloud-metadata",
            Self::OwnAddresses => "own-addresses",
            Self::KubernetesApi => "kubernetes-api",
        }
    }
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(169, 254, 169, 254), Ipv4Addr::new(100, 100, 100, 200)];
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// The floor of one process.
#[derive(Debug, Clone, Default)]
pub struct Floor {
    open: Vec<Forbidden>,
    own: Vec<IpAddr>,
    kubernetes_api: Vec<IpAddr>,
}

impl Floor {
    /// A floor that knows its own addresses, with holes where the operator wants them.
    pub fn new(open: Vec<Forbidden>, own: Vec<IpAddr>, kubernetes_api: Vec<IpAddr>) -> Self {
        let canonical = |addresses: Vec<IpAddr>| addresses.iter().map(IpAddr::to_canonical).collect();
        Self { open, own: canonical(own), kubernetes_api: canonical(kubernetes_api) }
    }

    /// Why `address` is forbidden, if it is, by whatever spelling of it.
    pub fn forbids(&self, address: IpAddr) -> Option<Forbidden> {
        let forbidden = match address.to_canonical() {
            IpAddr::V4(address) => self.forbids_v4(address),
            IpAddr::V6(address) => match embedded_v4(address) {
                Some(inner) => self.forbids_v4(inner),
                None => self.forbids_v6(address),
            },
        };
        forbidden.filter(|reason| !self.open.contains(reason))
    }

    /// Why the cluster's API is forbidden at whatever address it is, if it is.
    pub(super) fn forbids_api(&self) -> Option<Forbidden> {
        (!self.open.contains(&Forbidden::KubernetesApi)).then_some(Forbidden::KubernetesApi)
    }

    fn forbids_v4(&self, address: Ipv4Addr) -> Option<Forbidden> {
        let first = address.octets()[0];
        if METADATA_V4.contains(&address) {
            Some(Forbidden::CloudMetadata)
        } else if address.is_loopback() {
            Some(Forbidden::Loopback)
        } else if first == 0 {
            Some(Forbidden::Unspecified)
        } else if address.is_link_local() {
            Some(Forbidden::LinkLocal)
        } else if address.is_multicast() {
            Some(Forbidden::Multicast)
        } else if first >= 240 {
            Some(Forbidden::Broadcast)
        } else {
            self.listed(IpAddr::V4(address))
        }
    }

    fn forbids_v6(&self, address: Ipv6Addr) -> Option<Forbidden> {
        if address == METADATA_V6 {
            Some(Forbidden::CloudMetadata)
        } else if address.is_loopback() {
            Some(Forbidden::Loopback)
        } else if address.is_unspecified() {
            Some(Forbidden::Unspecified)
        } else if address.is_unicast_link_local() {
            Some(Forbidden::LinkLocal)
        } else if address.is_multicast() {
            Some(Forbidden::Multicast)
        } else {
            self.listed(IpAddr::V6(address))
        }
    }

    fn listed(&self, address: IpAddr) -> Option<Forbidden> {
        if self.kubernetes_api.contains(&address) {
            Some(Forbidden::KubernetesApi)
        } else if self.own.contains(&address) {
            Some(Forbidden::OwnAddresses)
        } else {
            None
        }
    }
}

/// The same address as everything else that may be made of it on its way.
pub(super) fn spellings(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let canonical = address.to_canonical();
    let inner = match canonical {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => embedded_v4(address),
    };
    [Some(canonical), inner.map(IpAddr::V4)].into_iter().flatten()
}

/// The IPv4 address that a translator or a tunnel would make of an IPv6 one: NAT64 (RFC 6052), its local-use prefix
/// (RFC 8215), 6to4 (RFC 3056), and the deprecated IPv4-compatible form (RFC 4291 §2.5.5.1).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 1, _, _, _, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        // :: and ::1 are addresses of their own.
        [0, 0, 0, 0, 0, 0, high, low] if (high, low) != (0, 0) && (high, low) != (0, 1) => {
            Some(v4(high, low))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_forbidden_address() {
        let floor = Floor::new(
            vec![],
            vec!["10.1.2.3".parse().unwrap(), "2001:db8::5".parse().unwrap()],
            vec!["10.96.0.1".parse().unwrap()],
        );
        for (address, expected) in [
            ("127.0.0.1", Some(Forbidden::Loopback)),
            ("127.255.255.254", Some(Forbidden::Loopback)),
            ("::1", Some(Forbidden::Loopback)),
            ("::ffff:127.0.0.1", Some(Forbidden::Loopback)),
            ("::127.0.0.1", Some(Forbidden::Loopback)),
            ("64:ff9b::127.0.0.1", Some(Forbidden::Loopback)),
            ("64:ff9b:1::7f00:1", Some(Forbidden::Loopback)),
            ("2002:7f00:1::", Some(Forbidden::Loopback)),
            ("0.0.0.0", Some(Forbidden::Unspecified)),
            ("0.1.2.3", Some(Forbidden::Unspecified)),
            ("::", Some(Forbidden::Unspecified)),
            ("169.254.1.1", Some(Forbidden::LinkLocal)),
            ("fe80::1", Some(Forbidden::LinkLocal)),
            ("169.254.169.254", Some(Forbidden::CloudMetadata)),
            ("::ffff:169.254.169.254", Some(Forbidden::CloudMetadata)),
            ("64:ff9b::169.254.169.254", Some(Forbidden::CloudMetadata)),
            ("fd00:ec2::254", Some(Forbidden::CloudMetadata)),
            ("100.100.100.200", Some(Forbidden::CloudMetadata)),
            ("224.0.0.1", Some(Forbidden::Multicast)),
            ("ff02::1", Some(Forbidden::Multicast)),
            ("255.255.255.255", Some(Forbidden::Broadcast)),
            ("240.0.0.1", Some(Forbidden::Broadcast)),
            ("10.1.2.3", Some(Forbidden::OwnAddresses)),
            ("::ffff:10.1.2.3", Some(Forbidden::OwnAddresses)),
            ("2001:db8::5", Some(Forbidden::OwnAddresses)),
            ("10.96.0.1", Some(Forbidden::KubernetesApi)),
            ("10.1.2.4", None),
            ("192.168.0.1", None),
            ("2001:db8::6", None),
            ("fd00::1", None),
        ] {
            assert_eq!(floor.forbids(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn one_kind_is_opened_and_nothing_else() {
        let floor = Floor::new(vec![Forbidden::LinkLocal], vec![], vec![]);
        assert_eq!(floor.forbids("169.254.1.1".parse().unwrap()), None);
        assert_eq!(floor.forbids("169.254.169.254".parse().unwrap()), Some(Forbidden::CloudMetadata));
        assert_eq!(floor.forbids("127.0.0.1".parse().unwrap()), Some(Forbidden::Loopback));
    }
}
