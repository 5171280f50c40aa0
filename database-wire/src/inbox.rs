//! Collects the bytes that a machine asked for, and no others.

use zeroize::Zeroizing;

/// The caller gave more bytes than the machine had asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more bytes came than were asked for, which is a defect of the caller")]
pub struct Unasked;

/// A message on its way in. It is wiped: a client may send a password in one.
#[derive(Debug)]
pub(crate) struct Inbox {
    held: Zeroizing<Vec<u8>>,
    wanted: usize,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { held: Zeroizing::new(Vec::new()), wanted: 0 }
    }

    /// Asks for a message of this length. The callers compare it with their bound before.
    pub(crate) fn want(&mut self, wanted: usize) {
        self.wanted = wanted;
        if wanted > self.held.capacity() {
            // Growing in place would leave what was there, unwiped, to the allocator.
            let mut larger = Zeroizing::new(Vec::with_capacity(wanted));
            larger.extend_from_slice(&self.held);
            self.held = larger;
        }
    }

    /// How many bytes of the message are missing.
    pub(crate) fn missing(&self) -> usize {
        self.wanted.saturating_sub(self.held.len())
    }

    pub(crate) fn held(&self) -> &[u8] {
        &self.held
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), Unasked> {
        if bytes.len() > self.missing() {
            return Err(Unasked);
        }
        self.held.extend_from_slice(bytes);
        Ok(())
    }

    /// The memory that is taken.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.held.capacity()
    }

    /// Takes everything, and asks for nothing.
    pub(crate) fn take(&mut self) -> Zeroizing<Vec<u8>> {
        self.wanted = 0;
        std::mem::replace(&mut self.held, Zeroizing::new(Vec::new()))
    }
}
