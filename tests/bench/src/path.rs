//! The paths that are compared.

use serde::Serialize;

/// A way for bytes from a local port to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Path {
    /// `ssh` to `sshd`: what all others are compared with.
    OO,
    /// `ssh` to our bastion.
    OR,
    /// `pf-tunnel` to `sshd`.
    RO,
    /// `pf-tunnel` to our bastion.
    RR,
    /// Two proxies that copy.
    Proxies,
    /// None: the target itself.
    Raw,
}

impl Path {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Self; 6] = [Self::OO, Self::OR, Self::RO, Self::RR, Self::Proxies, Self::Raw];

    /// All that encrypt.
    pub(crate) const SSH: [Self; 4] = [Self::OO, Self::OR, Self::RO, Self::RR];

    /// The head of its column.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::OO => "OO",
            Self::OR => "OR",
            Self::RO => "RO",
            Self::RR => "RR",
            Self::Proxies => "proxies",
            Self::Raw => "raw",
        }
    }
}
