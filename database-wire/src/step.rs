//! Defines how a machine and its caller talk: one step after the other.

use std::fmt;

use zeroize::Zeroizing;

/// The next thing that a machine needs of its caller.
#[derive(Debug)]
pub enum Step<T> {
    /// Read at least one and at most this many bytes, and give them to `feed`. More would belong to a later
    /// stage: to TLS, or to the relay.
    Read(usize),
    /// Write these bytes.
    Write(Outgoing),
    /// Begin TLS on the connection, say so with `tls_started`, and go on inside of it.
    StartTls,
    /// The machine has an answer, and is done.
    Ready(T),
}

/// Bytes to write. They may hold a secret: they do not print, and are wiped.
#[derive(Clone, PartialEq, Eq)]
pub struct Outgoing(Zeroizing<Vec<u8>>);

impl Outgoing {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl AsRef<[u8]> for Outgoing {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outgoing({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outgoing_bytes_do_not_print() {
        let printed = format!("{:?}", Step::<()>::Write(Outgoing::new(b"canary".to_vec())));
        assert_eq!(printed, "Write(Outgoing(6 bytes))");
    }
}
