//! The floor: networks that no rule opens, because a client that reaches them from inside reaches more than a
//! target.
//!
//! An operator may take a network off the floor, by its name. That alone permits nothing; a rule still has
//! to.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use schemars::JsonSchema;
use serde::Deserialize;

use super::embedded::spellings;

/// A kind of address that no rule opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Forbidden {
    /// 127.0.0.0/8 and ::1, which lead to the bastion itself.
    Loopback,
    /// 0.0.0.0/8 and ::, which connect to the bastion itself.
    Unspecified,
    /// 169.254.0.0/16 and fe80::/10.
    LinkLocal,
    /// 224.0.0.0/4 and ff00::/8.
    Multicast,
    /// 255.255.255.255, and 240.0.0.0/4, which no host has.
    Broadcast,
    /// The addresses at which cloud providers hand out credentials.
    CloudMetadata,
    /// The addresses of the bastion's own network interfaces.
    OwnAddresses,
    /// The API server of the cluster that the bastion runs in.
    KubernetesApi,
}

impl Forbidden {
    /// The name in the configuration.
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

/// The addresses at which cloud providers hand out credentials and instructions to a machine. Link-local ones
/// are listed too: an operator who opens link-local addresses does not mean these.
pub const CLOUD_METADATA: [IpAddr; 18] = [
    // Used by nearly every cloud.
    v4(169, 254, 169, 254),
    // Amazon, and for containers of ECS and pods of EKS.
    v6(0xfd00, 0xec2, 0, 0x254),
    v4(169, 254, 170, 2),
    v4(169, 254, 170, 23),
    v6(0xfd00, 0xec2, 0, 0x23),
    // Google.
    v6(0xfd20, 0xce, 0, 0x254),
    // Azure's "wire server".
    v4(168, 63, 129, 16),
    // Oracle.
    v4(192, 0, 0, 192),
    v6(0xfd00, 0xc1, 0xa9fe, 0xa9fe),
    // Alibaba, Tencent, Volcengine and UCloud.
    v4(100, 100, 100, 200),
    v4(169, 254, 0, 23),
    v4(100, 96, 0, 96),
    v4(100, 80, 80, 80),
    // Scaleway.
    v4(169, 254, 42, 42),
    v6(0xfd00, 0x42, 0, 0x42),
    // Akamai.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1)),
    // OpenStack.
    v6(0xfe80, 0, 0xa9fe, 0xa9fe),
    // Rancher.
    v4(169, 254, 169, 250),
];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// An address of the first two groups and the last two.
const fn v6(first: u16, second: u16, seventh: u16, eighth: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(first, second, 0, 0, 0, 0, seventh, eighth))
}

/// The address of the API server of the cluster that the bastion runs in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum KubernetesApi {
    /// The bastion runs outside a cluster.
    #[default]
    Nowhere,
    /// The API server is at these addresses.
    At(Vec<IpAddr>),
    /// The API server is at a name that has not resolved yet.
    Unknown,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Floor {
    open: Vec<Forbidden>,
    api: KubernetesApi,
}

impl Floor {
    /// A floor without the networks that the operator opened.
    pub(crate) fn new(open: Vec<Forbidden>, api: KubernetesApi) -> Self {
        Self { open, api }
    }

    /// The same floor with another address of the API server.
    #[must_use]
    pub(crate) fn with_api(&self, api: KubernetesApi) -> Self {
        Self { open: self.open.clone(), api }
    }

    /// The address of the API server, as far as it is known.
    pub(crate) fn api(&self) -> &KubernetesApi {
        &self.api
    }

    /// Returns why `address` is forbidden in any of its spellings, if it is. `own` are the addresses of the
    /// machine at this moment.
    pub(crate) fn forbids(&self, address: IpAddr, own: &[IpAddr]) -> Option<Forbidden> {
        spellings(address).find_map(|address| self.forbids_exactly(address, own))
    }

    /// Returns why an existing connection is forbidden, judged by the kernel's addresses of its two ends, if
    /// it is. The kernel knows which addresses are the machine's own better than any list.
    pub(crate) fn forbids_ends(&self, local: IpAddr, peer: IpAddr) -> Option<Forbidden> {
        let (local, peer) = (local.to_canonical(), peer.to_canonical());
        let leads_back = local == peer || local.is_loopback();
        let reason = if peer.is_loopback() { Forbidden::Loopback } else { Forbidden::OwnAddresses };
        Some(reason).filter(|reason| leads_back && !self.is_open(*reason))
    }

    /// Returns the kind of address that is not known yet, so that no address can be said to be above the
    /// floor.
    pub(crate) fn unknown(&self) -> Option<Forbidden> {
        match self.api {
            KubernetesApi::Unknown => self.forbids_api(),
            KubernetesApi::Nowhere | KubernetesApi::At(_) => None,
        }
    }

    /// Returns why the cluster's API is forbidden at any address, if it is.
    pub(super) fn forbids_api(&self) -> Option<Forbidden> {
        Some(Forbidden::KubernetesApi).filter(|reason| !self.is_open(*reason))
    }

    fn is_open(&self, reason: Forbidden) -> bool {
        self.open.contains(&reason)
    }

    fn forbids_exactly(&self, address: IpAddr, own: &[IpAddr]) -> Option<Forbidden> {
        let is_api = match &self.api {
            KubernetesApi::At(addresses) => is_among(address, addresses),
            KubernetesApi::Nowhere | KubernetesApi::Unknown => false,
        };
        let is_metadata = CLOUD_METADATA.contains(&address);
        let kind = match address {
            IpAddr::V4(address) => kind_v4(address),
            IpAddr::V6(address) => kind_v6(address),
        };
        // An address of several kinds is reported as the first that is not open. Link-local addresses of
        // metadata services count as metadata alone, whichever of the two the operator opens.
        [
            is_metadata.then_some(Forbidden::CloudMetadata),
            kind.filter(|_| !is_metadata),
            is_api.then_some(Forbidden::KubernetesApi),
            // Every machine has a loopback interface; opening own addresses does not open loopback.
            (!address.is_loopback() && is_among(address, own)).then_some(Forbidden::OwnAddresses),
        ]
        .into_iter()
        .flatten()
        .find(|reason| !self.is_open(*reason))
    }
}

fn is_among(address: IpAddr, others: &[IpAddr]) -> bool {
    others.iter().any(|other| other.to_canonical() == address)
}

fn kind_v4(address: Ipv4Addr) -> Option<Forbidden> {
    let first = address.octets()[0];
    if address.is_loopback() {
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
        None
    }
}

fn kind_v6(address: Ipv6Addr) -> Option<Forbidden> {
    if address.is_loopback() {
        Some(Forbidden::Loopback)
    } else if address.is_unspecified() {
        Some(Forbidden::Unspecified)
    } else if address.is_unicast_link_local() {
        Some(Forbidden::LinkLocal)
    } else if address.is_multicast() {
        Some(Forbidden::Multicast)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_forbidden_address() {
        let own = ["10.1.2.3", "2001:db8::5", "::ffff:10.1.2.9"].map(|own| own.parse().unwrap());
        let floor = Floor::new(vec![], KubernetesApi::At(vec!["10.96.0.1".parse().unwrap()]));
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
            ("2002:a60:1::", Some(Forbidden::KubernetesApi)),
            ("10.1.2.9", Some(Forbidden::OwnAddresses)),
            ("64:ff9b::10.1.2.3", Some(Forbidden::OwnAddresses)),
            ("::ffff:0:127.0.0.1", Some(Forbidden::Loopback)),
            ("2001:0:7f00:1::", Some(Forbidden::Loopback)),
            ("2001:0:808:808::80ff:fffe", Some(Forbidden::Loopback)),
            ("2001:db8::5efe:127.0.0.1", Some(Forbidden::Loopback)),
            ("2001:db8::200:5efe:169.254.169.254", Some(Forbidden::CloudMetadata)),
            ("64:ff9b:1:a9fe:a9:fe00::", Some(Forbidden::CloudMetadata)),
            ("64:ff9b:1:a9:fe:a9fe::", Some(Forbidden::CloudMetadata)),
            ("64:ff9b:1:0:a9:fea9:fe00:0", Some(Forbidden::CloudMetadata)),
            ("64:ff9b:1:7f00:0:100:0:5", Some(Forbidden::Loopback)),
            ("::ffff:224.0.0.1", Some(Forbidden::Multicast)),
            ("64:ff9b::239.255.255.250", Some(Forbidden::Multicast)),
            ("fd20:ce::254", Some(Forbidden::CloudMetadata)),
            ("168.63.129.16", Some(Forbidden::CloudMetadata)),
            ("::ffff:168.63.129.16", Some(Forbidden::CloudMetadata)),
            ("192.0.0.192", Some(Forbidden::CloudMetadata)),
            ("fd00:c1::a9fe:a9fe", Some(Forbidden::CloudMetadata)),
            ("fd00:ec2::23", Some(Forbidden::CloudMetadata)),
            ("fd00:42::42", Some(Forbidden::CloudMetadata)),
            ("169.254.170.2", Some(Forbidden::CloudMetadata)),
            ("169.254.170.23", Some(Forbidden::CloudMetadata)),
            ("64:ff9b::8.8.8.8", None),
            ("64:ff9b:1::8.8.8.8", None),
            ("2002:808:808::1", None),
            ("10.1.2.4", None),
            ("192.168.0.1", None),
            ("2001:db8::6", None),
            ("fd00::1", None),
        ] {
            assert_eq!(floor.forbids(address.parse().unwrap(), &own), expected, "{address}");
        }
    }

    #[test]
    fn one_kind_is_opened_and_nothing_else() {
        let floor = Floor::new(vec![Forbidden::LinkLocal], KubernetesApi::Nowhere);
        let forbids = |address: &str| floor.forbids(address.parse().unwrap(), &[]);
        assert_eq!(forbids("169.254.1.1"), None);
        assert_eq!(forbids("127.0.0.1"), Some(Forbidden::Loopback));
        for address in CLOUD_METADATA {
            assert_eq!(floor.forbids(address, &[]), Some(Forbidden::CloudMetadata), "{address}");
        }
        let own = ["127.0.0.1", "169.254.7.7"].map(|own| own.parse().unwrap());
        let api = KubernetesApi::At(vec!["127.0.0.2".parse().unwrap()]);
        let floor = Floor::new(vec![Forbidden::LinkLocal, Forbidden::Loopback], api);
        for (address, expected) in [
            ("127.0.0.1", None),
            ("127.0.0.2", Some(Forbidden::KubernetesApi)),
            ("169.254.7.7", Some(Forbidden::OwnAddresses)),
            ("169.254.7.8", None),
        ] {
            assert_eq!(
                floor.forbids(address.parse().unwrap(), &own),
                expected,
                "{address}, of several kinds"
            );
        }
        let floor = Floor::new(vec![Forbidden::CloudMetadata], KubernetesApi::Nowhere);
        for address in CLOUD_METADATA {
            assert_eq!(floor.forbids(address, &[]), None, "{address}");
        }
        let inner = "2001:0:a9fe:a9fe::80ff:fffe".parse().unwrap();
        assert_eq!(
            floor.forbids(inner, &[]),
            Some(Forbidden::Loopback),
            "one spelling is open, another is not"
        );
    }

    #[test]
    fn where_the_api_may_be_anywhere_nothing_is_known_not_to_be_it() {
        let unknown = Floor::new(vec![], KubernetesApi::Unknown);
        assert_eq!(unknown.unknown(), Some(Forbidden::KubernetesApi));
        assert_eq!(unknown.with_api(KubernetesApi::At(vec![])).unknown(), None);
        assert_eq!(Floor::new(vec![Forbidden::KubernetesApi], KubernetesApi::Unknown).unknown(), None);
        assert_eq!(Floor::default().unknown(), None);
        let at = KubernetesApi::At(vec![Ipv4Addr::new(10, 96, 0, 1).into()]);
        assert_eq!(unknown.with_api(at.clone()).api(), &at);
        let open = Floor::new(vec![Forbidden::Loopback], KubernetesApi::Unknown).with_api(at);
        assert_eq!(open.forbids(Ipv4Addr::LOCALHOST.into(), &[]), None, "what is open stays open");
    }

    #[test]
    fn each_kind_is_opened_by_the_name_that_is_told() {
        for kind in [
            Forbidden::Loopback,
            Forbidden::Unspecified,
            Forbidden::LinkLocal,
            Forbidden::Multicast,
            Forbidden::Broadcast,
            Forbidden::CloudMetadata,
            Forbidden::OwnAddresses,
            Forbidden::KubernetesApi,
        ] {
            assert_eq!(serde_json::from_value::<Forbidden>(kind.to_string().into()).unwrap(), kind);
        }
    }

    #[test]
    fn the_kernel_says_which_connection_leads_back() {
        let ends = |open: &[Forbidden], local: &str, peer: &str| {
            let floor = Floor::new(open.to_vec(), KubernetesApi::Nowhere);
            floor.forbids_ends(local.parse().unwrap(), peer.parse().unwrap())
        };
        for (local, peer, expected) in [
            ("10.1.2.3", "10.1.2.4", None),
            ("10.1.2.3", "10.1.2.3", Some(Forbidden::OwnAddresses)),
            ("::ffff:10.1.2.3", "10.1.2.3", Some(Forbidden::OwnAddresses)),
            ("2001:db8::5", "2001:db8::5", Some(Forbidden::OwnAddresses)),
            // A whole network that is routed to the machine itself, and whose addresses no interface has.
            ("127.0.0.1", "10.9.9.9", Some(Forbidden::OwnAddresses)),
            ("127.0.0.1", "127.0.0.2", Some(Forbidden::Loopback)),
            ("::1", "::1", Some(Forbidden::Loopback)),
        ] {
            assert_eq!(ends(&[], local, peer), expected, "{local} {peer}");
        }
        assert_eq!(ends(&[Forbidden::Loopback], "127.0.0.1", "127.0.0.1"), None);
        assert_eq!(ends(&[Forbidden::Loopback], "10.1.2.3", "10.1.2.3"), Some(Forbidden::OwnAddresses));
        assert_eq!(ends(&[Forbidden::OwnAddresses], "10.1.2.3", "10.1.2.3"), None);
    }
}
