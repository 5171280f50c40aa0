//! Finds the IPv4 addresses inside an IPv6 address, to which a translator, tunnel or relay on the path would
//! send it.
//!
//! One table lists all layouts. A prefix with several layouts gives several addresses, and the floor checks
//! all of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The address itself, and every address that a translator or tunnel makes of it.
pub(super) fn spellings(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let inner = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(embedded(address)),
    };
    std::iter::once(address.to_canonical()).chain(inner.into_iter().flatten().map(IpAddr::V4))
}

/// The IPv4 addresses inside an IPv6 one.
fn embedded(address: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    // :: and ::1 are complete addresses, not embedded ones.
    let its_own = address.is_unspecified() || address.is_loopback();
    LAYOUTS.iter().filter(move |_| !its_own).filter_map(move |layout| layout.read(address))
}

/// A way to write an IPv4 address into an IPv6 one.
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// The bits of the prefix, and their values.
    mask: u128,
    bits: u128,
    /// The positions of the four octets among the sixteen.
    octets: [usize; 4],
    /// The value by which the octets are masked (exclusive or).
    veil: u8,
    /// Whether the same prefix has other layouts. An address in 0.0.0.0/8 is then padding of another layout.
    shared: bool,
}

/// The positions of the octets by RFC 6052 §2.2, by the length of the prefix; octet 8 is left out.
const BY_48: [usize; 4] = [6, 7, 9, 10];
const BY_56: [usize; 4] = [7, 9, 10, 11];
const BY_64: [usize; 4] = [9, 10, 11, 12];
const BY_96: [usize; 4] = [12, 13, 14, 15];

const fn below(bits: u128, length: u32, octets: [usize; 4]) -> Layout {
    Layout { mask: u128::MAX << (128 - length), bits, octets, veil: 0, shared: false }
}

const fn of_local_nat64(octets: [usize; 4]) -> Layout {
    Layout { shared: true, ..below(0x0064_ff9b_0001 << 80, 48, octets) }
}

const LAYOUTS: [Layout; 12] = [
    // IPv4-compatible (RFC 4291 §2.5.5.1).
    below(0, 96, BY_96),
    // IPv4-mapped (RFC 4291 §2.5.5.2).
    below(0xffff << 32, 96, BY_96),
    // IPv4-translated, of SIIT (RFC 2765 §2.1).
    below(0xffff_0000 << 32, 96, BY_96),
    // NAT64's well-known prefix (RFC 6052 §2.1).
    below(0x0064_ff9b << 96, 96, BY_96),
    // Its prefix for local use (RFC 8215), which has room for prefixes of 48 bits and more.
    of_local_nat64(BY_48),
    of_local_nat64(BY_56),
    of_local_nat64(BY_64),
    of_local_nat64(BY_96),
    // 6to4 (RFC 3056 §2).
    below(0x2002 << 112, 16, [2, 3, 4, 5]),
    // Teredo: its server, and its client (RFC 4380 §4).
    below(0x2001_0000 << 96, 32, [4, 5, 6, 7]),
    Layout { veil: 0xff, ..below(0x2001_0000 << 96, 32, BY_96) },
    // ISATAP below any prefix, whether or not the address is unique in the world (RFC 5214 §6.1).
    Layout { mask: 0xfdff_ffff << 32, bits: 0x0000_5efe << 32, octets: BY_96, veil: 0, shared: false },
];

impl Layout {
    fn read(self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        if address.to_bits() & self.mask != self.bits {
            return None;
        }
        let from = address.octets();
        let found = self.octets.map(|place| from.get(place).copied().unwrap_or_default() ^ self.veil);
        (!self.shared || found[0] != 0).then(|| found.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_layout_is_read() {
        for (address, expected) in [
            ("::192.0.2.33", &["192.0.2.33"][..]),
            ("::ffff:192.0.2.33", &["192.0.2.33"]),
            ("::ffff:0:192.0.2.33", &["192.0.2.33"]),
            ("64:ff9b::192.0.2.33", &["192.0.2.33"]),
            // The examples of RFC 6052 §2.4, below the prefix for local use; every layout that fits reads
            // each of them.
            ("64:ff9b:1:c000:2:2100::", &["192.0.2.33", "2.33.0.0"]),
            ("64:ff9b:1:ffc0:0:221::", &["255.192.0.2", "192.0.2.33"]),
            ("64:ff9b:1:ffff:c0:2:2100:0", &["255.255.192.0", "255.192.0.2", "192.0.2.33", "33.0.0.0"]),
            ("64:ff9b:1::192.0.2.33", &["192.0.2.33"]),
            ("2002:c000:221::1", &["192.0.2.33"]),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", &["65.54.227.120", "192.0.2.45"]),
            ("2001:db8::5efe:192.0.2.33", &["192.0.2.33"]),
            ("2001:db8::200:5efe:192.0.2.33", &["192.0.2.33"]),
            ("fe80::5efe:192.0.2.33", &["192.0.2.33"]),
            ("2002:c000:221::5efe:198.51.100.1", &["192.0.2.33", "198.51.100.1"]),
            ("::", &[]),
            ("::1", &[]),
            ("2001:db8::192.0.2.33", &[]),
            ("2001:1::192.0.2.33", &[]),
            ("64:ff9b:2::192.0.2.33", &[]),
        ] {
            let found: Vec<String> =
                embedded(address.parse().unwrap()).map(|found| found.to_string()).collect();
            assert_eq!(found, expected, "{address}");
        }
    }

    proptest! {
        /// Bits that a layout does not use change nothing.
        #[test]
        fn what_is_written_is_read(
            number in 0..LAYOUTS.len(), v4 in 0x0100_0000_u32.., around in any::<u128>(),
        ) {
            let (layout, inner) = (LAYOUTS[number], Ipv4Addr::from_bits(v4));
            let mut octets = ((around & !layout.mask) | layout.bits).to_be_bytes();
            for (place, octet) in layout.octets.into_iter().zip(inner.octets()) {
                octets[place] = octet ^ layout.veil;
            }
            let address = Ipv6Addr::from(octets);
            prop_assume!(!address.is_loopback());
            prop_assert!(embedded(address).any(|found| found == inner), "{address}");
            prop_assert!(spellings(address.into()).any(|found| found == inner), "{address}");
        }

        #[test]
        fn an_address_is_always_among_its_spellings(address in any::<IpAddr>()) {
            prop_assert!(spellings(address).any(|found| found == address.to_canonical()));
        }
    }
}
