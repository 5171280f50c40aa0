//! Cuts packets out of the stream: three bytes of length, one of sequence, and a payload.

use zeroize::Zeroizing;

use crate::{
    inbox::{Inbox, Unasked},
    step::Outgoing,
};

const HEADER: usize = 4;

/// Why bytes are no packet of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPacket {
    /// It is longer than any that a login needs, or empty.
    #[error("a packet of {0} bytes is announced, which no login needs")]
    Length(usize),
    /// Packets are numbered, and this number is not the next.
    #[error("packets are out of order: number {got} came in the place of {expected}")]
    Sequence {
        /// The number that was to come.
        expected: u8,
        /// The number that came.
        got: u8,
    },
}

/// Cuts packets, and counts those of both sides.
#[derive(Debug)]
pub(crate) struct Framer {
    inbox: Inbox,
    sequence: u8,
}

impl Framer {
    pub(crate) fn new() -> Self {
        Self { inbox: Inbox::new(), sequence: 0 }
    }

    /// Goes on in the middle of a login.
    pub(crate) fn after(sequence: u8) -> Self {
        Self { inbox: Inbox::new(), sequence }
    }

    pub(crate) fn missing(&self) -> usize {
        self.inbox.missing()
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), Unasked> {
        self.inbox.feed(bytes)
    }

    /// The number of the next packet of either side.
    pub(crate) fn sequence(&self) -> u8 {
        self.sequence
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.inbox.capacity()
    }

    /// The payload of the next packet, or nothing yet. An empty one is possible where a client answers a
    /// question about its password.
    pub(crate) fn poll(&mut self, longest: usize) -> Result<Option<Zeroizing<Vec<u8>>>, BadPacket> {
        let held = self.inbox.held();
        let Some([low, middle, high, sequence]) = held.first_chunk::<HEADER>().copied() else {
            self.inbox.want(HEADER);
            return Ok(None);
        };
        let length = usize::from(low) | usize::from(middle) << 8 | usize::from(high) << 16;
        if length > longest {
            return Err(BadPacket::Length(length));
        }
        if sequence != self.sequence {
            return Err(BadPacket::Sequence { expected: self.sequence, got: sequence });
        }
        if held.len() < HEADER + length {
            self.inbox.want(HEADER + length);
            return Ok(None);
        }
        self.sequence = self.sequence.wrapping_add(1);
        let whole = self.inbox.take();
        Ok(Some(Zeroizing::new(whole.get(HEADER..).unwrap_or_default().to_vec())))
    }

    /// A packet with the next number.
    pub(crate) fn packet(&mut self, payload: &[u8]) -> Outgoing {
        let packet = packet(self.sequence, payload);
        self.sequence = self.sequence.wrapping_add(1);
        packet
    }
}

/// A packet with this number.
pub(crate) fn packet(sequence: u8, payload: &[u8]) -> Outgoing {
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    let [low, middle, high, ..] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    bytes.extend_from_slice(&[low, middle, high, sequence]);
    bytes.extend_from_slice(payload);
    Outgoing::new(bytes)
}
