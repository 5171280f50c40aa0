//! Key exchanges after the first: which end starts them, and when (RFC 4253 §9).
//!
//! russh ends a session in which more than twice one channel's window arrives between its own KEXINIT and its peer's.
//! Windows are per channel, so a few streams in bulk use are enough. An end that never goes first is never in that
//! state. Therefore:
//!
//! - the bastion does not go first. It announces how often it wants keys replaced in the comments of its identification
//!   line (RFC 4253 §4.2), and `pf-tunnel` starts the key exchanges;
//! - `pf-tunnel` grants the bastion a window with which russh's bound cannot be reached: [`UNREACHED_WINDOW`];
//! - a foreign peer starts its own. OpenSSH does, at either end, after what RFC 4344 §3 allows one set of keys or what its
//!   `RekeyLimit` says.

use std::time::Duration;

use russh::Limits;

/// Bytes after which an end of ours starts a key exchange with a peer that should have, and has not.
///
/// RFC 4344 allows 2^32 blocks of a cipher (§3.2) and recommends 2^31 packets (§3.1); OpenSSH obeys both. In the bytes
/// that russh counts, with 20 more for each packet, a peer has reached one of them after 64 to 104 GiB. With 128 GiB,
/// and packets of 36 bytes at least, no sequence number comes twice.
pub const BACKSTOP: u64 = 128 << 30;

/// The fewest bytes that may be asked for: each key exchange holds up all streams for a round trip.
pub const FEWEST_BYTES: u64 = 1 << 20;

/// The shortest time that may be asked for.
pub const SHORTEST: Duration = Duration::from_secs(60);

/// The most bytes that may be asked for, by which an end of ours has gone first in any case (RFC 4344 §3.2).
pub const MOST_BYTES: u64 = 64 << 30;

/// A receive window whose double does not fit into 32 bits, in which russh counts what arrives before its peer answers a
/// KEXINIT. As russh grants credit on receipt, a window of any size costs no memory at this end; a foreign sender fills
/// what it is granted, so only our own bastion gets this one.
pub const UNREACHED_WINDOW: u32 = 1 << 31;

/// What introduces the limits in an identification line.
const WORD: &str = "rekey=";

/// When the keys of a session are replaced: at whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rekey {
    /// Bytes in one direction.
    pub bytes: u64,
    /// Time.
    pub time: Duration,
}

impl Rekey {
    /// What the bastion's identification line says after its version.
    pub fn announcement(self) -> String {
        format!("{WORD}{},{}", self.bytes, self.time.as_secs())
    }

    /// What a server's identification line announces, within what is sensible.
    pub fn announced(identification: &str) -> Option<Self> {
        let said = identification.split(' ').skip(1).find_map(|word| word.strip_prefix(WORD))?;
        let (bytes, seconds) = said.split_once(',')?;
        let (bytes, seconds) = (bytes.parse::<u64>().ok()?, seconds.parse().ok()?);
        Some(Self {
            bytes: bytes.clamp(FEWEST_BYTES, MOST_BYTES),
            time: Duration::from_secs(seconds).max(SHORTEST),
        })
    }

    /// For the end that goes first.
    pub fn limits(self) -> Limits {
        limits(self.bytes, self.time)
    }
}

/// For an end that leaves key exchanges to its peer.
pub fn left_to_the_peer() -> Limits {
    limits(BACKSTOP, Duration::MAX)
}

fn limits(bytes: u64, time: Duration) -> Limits {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    Limits { rekey_write_limit: bytes, rekey_read_limit: bytes, rekey_time_limit: time }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_is_understood_and_kept_within_bounds() {
        let rekey = Rekey { bytes: 1 << 30, time: Duration::from_secs(3600) };
        let line = |said: &str| format!("SSH-2.0-bastion_0.1.0 {said}");
        assert_eq!(Rekey::announced(&line(&rekey.announcement())), Some(rekey));
        assert_eq!(
            Rekey::announced(&line("rekey=1,1")),
            Some(Rekey { bytes: FEWEST_BYTES, time: SHORTEST }),
            "no server has a client exchange keys all the time"
        );
        assert_eq!(
            Rekey::announced(&line("rekey=18446744073709551615,18446744073709551615")).map(|got| got.bytes),
            Some(MOST_BYTES)
        );
        for nothing in
            ["SSH-2.0-OpenSSH_9.2p1 Debian-2", "SSH-2.0-rekey=1,1", "SSH-2.0-x rekey=", "SSH-2.0-x rekey=1"]
        {
            assert_eq!(Rekey::announced(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn russh_cannot_count_as_far_as_two_windows() {
        assert!(2 * u64::from(UNREACHED_WINDOW) > u64::from(u32::MAX));
    }
}
