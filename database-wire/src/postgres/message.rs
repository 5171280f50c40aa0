//! Cuts messages out of the stream: a length, and before it mostly a byte for the kind.

use zeroize::Zeroizing;

use super::startup::ZeroByte;
use crate::{
    inbox::{Inbox, Unasked},
    step::Outgoing,
};

/// What is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A single byte, which answers a request for encryption.
    Byte,
    /// A first message of a client, without a kind.
    Untyped,
    /// A kind, a length and a body.
    Typed,
}

impl Shape {
    /// The bytes before the length.
    fn before(self) -> usize {
        match self {
            Self::Byte | Self::Untyped => 0,
            Self::Typed => 1,
        }
    }

    fn header(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::Untyped | Self::Typed => self.before() + 4,
        }
    }
}

/// A whole message.
#[derive(Debug)]
pub(crate) struct Message {
    bytes: Zeroizing<Vec<u8>>,
    header: usize,
}

impl Message {
    pub(crate) fn kind(&self) -> u8 {
        self.bytes.first().copied().unwrap_or(0)
    }

    pub(crate) fn body(&self) -> &[u8] {
        self.bytes.get(self.header..).unwrap_or_default()
    }

    pub(crate) fn whole(&self) -> &[u8] {
        &self.bytes
    }
}

/// The announced length cannot be, or is more than a login needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {0} bytes is announced, which no login needs")]
pub struct Length(pub u32);

/// Cuts messages, one after the other.
#[derive(Debug)]
pub(crate) struct Framer(Inbox);

impl Framer {
    pub(crate) fn new() -> Self {
        Self(Inbox::new())
    }

    pub(crate) fn missing(&self) -> usize {
        self.0.missing()
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), Unasked> {
        self.0.feed(bytes)
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.0.capacity()
    }

    /// The next message, or nothing yet: then `missing` says how much of it is to come.
    pub(crate) fn poll(&mut self, shape: Shape, longest: usize) -> Result<Option<Message>, Length> {
        let header = shape.header();
        if self.0.held().len() < header {
            self.0.want(header);
            return Ok(None);
        }
        if shape != Shape::Byte {
            let announced = self.0.held().get(shape.before()..header).and_then(|four| four.try_into().ok());
            let announced = announced.map(u32::from_be_bytes).unwrap_or_default();
            let length = usize::try_from(announced).unwrap_or(usize::MAX);
            if !(4..=longest).contains(&length) {
                return Err(Length(announced));
            }
            let whole = shape.before() + length;
            if self.0.held().len() < whole {
                self.0.want(whole);
                return Ok(None);
            }
        }
        Ok(Some(Message { bytes: self.0.take(), header }))
    }
}

/// Writes messages.
pub(crate) struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    pub(crate) fn new() -> Self {
        Self(Zeroizing::new(Vec::new()))
    }

    /// Adds a message of a kind. Zero is a client's first message, which has none.
    pub(crate) fn message(mut self, kind: u8, body: &[&[u8]]) -> Self {
        let length = 4 + body.iter().map(|piece| piece.len()).sum::<usize>();
        self.reserve(1 + length);
        if kind != 0 {
            self.0.push(kind);
        }
        self.0.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        for piece in body {
            self.0.extend_from_slice(piece);
        }
        self
    }

    /// Adds messages as they came.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.reserve(bytes.len());
        self.0.extend_from_slice(bytes);
        self
    }

    /// Makes room, and wipes what was there: a vector that grows by itself leaves it behind.
    fn reserve(&mut self, more: usize) {
        let mut larger = Zeroizing::new(Vec::with_capacity(self.0.len() + more));
        larger.extend_from_slice(&self.0);
        self.0 = larger;
    }

    pub(crate) fn finish(mut self) -> Outgoing {
        Outgoing::new(std::mem::take(&mut self.0))
    }
}

/// A text that can be ended with a zero byte.
pub(crate) fn without_zero(text: &[u8]) -> Result<&[u8], ZeroByte> {
    if text.contains(&0) { Err(ZeroByte) } else { Ok(text) }
}
