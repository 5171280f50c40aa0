//! Defines how a machine and its caller talk: one step after the other.

use std::fmt;

use zeroize::Zeroizing;

use crate::TlsFacts;

/// One side of a login. Its caller owns the connection, and does one [`Step`] after the other.
pub trait Machine {
    /// What it ends with.
    type Answer: fmt::Debug;
    /// Why it ends without.
    type Refusal: fmt::Debug;

    /// The next thing to do.
    ///
    /// # Errors
    /// When the login is refused, by this side or the other.
    fn step(&mut self) -> Result<Step<Self::Answer>, Self::Refusal>;

    /// Takes bytes that were asked for.
    ///
    /// # Errors
    /// When they are more, or announce more than may be.
    fn feed(&mut self, bytes: &[u8]) -> Result<(), Self::Refusal>;

    /// TLS has begun, and was so. Asked only after [`Step::StartTls`]; a machine that never begins it has
    /// nothing to take.
    ///
    /// # Errors
    /// When that is not enough.
    fn tls_started(&mut self, _facts: TlsFacts<'_>) -> Result<(), Self::Refusal> {
        Ok(())
    }
}

/// The next thing that a machine needs of its caller.
#[derive(Debug)]
pub enum Step<T> {
    /// Read at least one and at most this many bytes, and give them to [`Machine::feed`]. More would belong
    /// to a later stage: to TLS, or to the relay.
    Read(usize),
    /// Write these bytes.
    Write(Outgoing),
    /// Begin TLS on the connection, say so with [`Machine::tls_started`], and go on inside of it.
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
