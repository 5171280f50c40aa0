//! The frames that travel on a carrier, and their bytes. `PROTOCOL.md` has the same in prose.
//!
//! A frame has a header of 16 bytes, all numbers big-endian, and a payload:
//!
//! ```text
//! 0      1         4          8           16
//! ┌──────┬─────────┬──────────┬───────────┬──────────────
//! │ type │ length  │ stream   │ offset    │ payload …
//! └──────┴─────────┴──────────┴───────────┴──────────────
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::{
    OLDEST_VERSION, StreamId, VERSION,
    proof::{AssociationId, Challenge, Epoch, Proof, Secret},
    reason::{Code, LONGEST_TEXT, Reason},
};

/// The length of a frame's header, in bytes.
pub const HEADER: usize = 16;

/// The longest frame, in bytes. A whole one fits into one packet of a channel that both ends open with
/// packets this large.
pub const LONGEST: usize = 128 * 1024;

/// The most data in one frame, in bytes.
pub const MOST_DATA: usize = LONGEST - HEADER;

/// The most streams of one association. It may know twice as many while ends cross on their way, and their
/// list still fits into one frame.
pub const MOST_STREAMS: usize = 5000;

/// The longest list of positions.
const MOST_POSITIONS: usize = 2 * MOST_STREAMS;

/// The longest name of a host, in bytes (RFC 1035 §2.3.4, with room for a scope or a final dot).
pub(crate) const LONGEST_HOST: usize = 300;

/// Types below this have to be understood; others are skipped by an end that does not know them.
const OPTIONAL: u8 = 128;

mod kind {
    pub(super) const DATA: u8 = 1;
    pub(super) const FIN: u8 = 2;
    pub(super) const CREDIT: u8 = 3;
    pub(super) const RESET: u8 = 4;
    pub(super) const GONE: u8 = 5;
    pub(super) const OPEN: u8 = 6;
    pub(super) const OPENED: u8 = 7;
    pub(super) const BLOCKED: u8 = 8;
    pub(super) const HELLO: u8 = 16;
    pub(super) const START: u8 = 17;
    pub(super) const STARTED: u8 = 18;
    pub(super) const ATTACH: u8 = 19;
    pub(super) const ATTACHED: u8 = 20;
    pub(super) const REFUSED: u8 = 21;
    pub(super) const RECEIVED: u8 = 22;
    pub(super) const DRAIN: u8 = 23;
    pub(super) const END: u8 = 24;
}

/// What a client asks the bastion to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// A name or an address, as the user wrote it.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// Where one end stands in a stream that moves to another carrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The stream.
    pub stream: StreamId,
    /// What has arrived there in order; the end of the sending direction counts as one byte.
    pub received: u64,
}

/// A client's wish to go on with an association.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// The version that it will speak.
    pub version: u16,
    /// Which one.
    pub association: AssociationId,
    /// Higher than that of each attempt before.
    pub epoch: Epoch,
    /// That it holds the secret.
    pub proof: Proof,
    /// All streams that it has.
    pub streams: Vec<Position>,
}

/// The bastion's consent to [`Attach`].
#[derive(Debug, Clone)]
pub struct Attached {
    /// The attempt that it agrees to.
    pub epoch: Epoch,
    /// For the next time.
    pub secret: Secret,
    /// The highest stream that it was ever asked to open.
    pub highest: StreamId,
    /// All streams that it has.
    pub streams: Vec<Position>,
}

/// The bastion's first frame on a carrier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The oldest version that it speaks.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
    /// What a proof on this carrier is made over.
    pub challenge: Challenge,
    /// How many streams an association may have.
    pub most_streams: u32,
    /// How long streams are kept without a carrier, in seconds.
    pub kept_for: u32,
}

impl Hello {
    /// The version to start an association with: the newest that both ends speak.
    pub fn version(&self) -> Option<u16> {
        let newest = self.newest.min(VERSION);
        (newest >= self.oldest.max(OLDEST_VERSION)).then_some(newest)
    }
}

/// One unit of what travels on a carrier.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are described with their frame")]
pub enum Frame {
    /// Bytes of a stream, from `offset` on.
    Data { stream: StreamId, offset: u64, data: Bytes },
    /// Nothing follows `offset`. Takes one number itself, so that it is acknowledged like a byte.
    Fin { stream: StreamId, offset: u64 },
    /// All before `acknowledged` was written to the TCP socket; all before `limit` may be sent.
    Credit { stream: StreamId, acknowledged: u64, limit: u64 },
    /// The stream has ended, in both directions, and not in order. Repeated until [`Frame::Gone`].
    Reset { stream: StreamId, reason: Reason },
    /// The answer to [`Frame::Reset`].
    Gone { stream: StreamId },
    /// Asks for a connection. The bastion may send up to `limit`.
    Open { stream: StreamId, limit: u64, request: Request },
    /// It is there. The client may send up to `limit`.
    Opened { stream: StreamId, limit: u64 },
    /// There is more to send than may be before `limit` is acknowledged or raised.
    Blocked { stream: StreamId, limit: u64 },
    /// See [`Hello`].
    Hello(Hello),
    /// A new association, by this version.
    Start { version: u16 },
    /// It has this name, and this secret for the first resumption.
    Started { association: AssociationId, secret: Secret },
    /// See [`Attach`].
    Attach(Attach),
    /// See [`Attached`].
    Attached(Attached),
    /// Neither start nor attach.
    Refused { reason: Reason },
    /// How many bytes of frames have arrived on this carrier so far.
    Received { bytes: u64 },
    /// New streams should be opened elsewhere: this process will end.
    Drain,
    /// The association is over, and all its streams.
    End { reason: Reason },
}

/// A peer sent what is no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Malformed {
    /// Its length is beyond [`LONGEST`].
    #[error("a frame of {0} bytes")]
    TooLong(usize),
    /// Its type is not known, and may not be skipped.
    #[error("a frame of the unknown type {0}")]
    UnknownType(u8),
    /// Its payload is too short, or holds what it may not.
    #[error("a frame of type {0} whose content is not valid")]
    Content(u8),
}

/// Writes the header of a data frame into the first [`HEADER`] bytes of `frame`, of which the rest is the
/// data.
pub(crate) fn write_data_header(frame: &mut [u8], stream: StreamId, offset: u64) {
    let length = frame.len().saturating_sub(HEADER);
    if let Some(mut header) = frame.get_mut(..HEADER) {
        put_header(&mut header, kind::DATA, length, stream, offset);
    }
}

fn put_header(out: &mut impl BufMut, kind: u8, length: usize, stream: StreamId, offset: u64) {
    out.put_u8(kind);
    // A payload is never beyond `LONGEST`, which fits.
    out.put_uint(length as u64, 3);
    out.put_u32(stream.0);
    out.put_u64(offset);
}

fn put_reason(out: &mut BytesMut, reason: &Reason) {
    out.put_u16(reason.code().0);
    out.put_slice(reason.text().as_bytes());
}

fn put_positions(out: &mut BytesMut, streams: &[Position]) {
    out.put_u32(u32::try_from(streams.len()).unwrap_or(u32::MAX));
    for Position { stream, received } in streams {
        out.put_u32(stream.0);
        out.put_u64(*received);
    }
}

impl Frame {
    /// The whole frame in bytes.
    pub fn encode(&self) -> Bytes {
        let mut payload = BytesMut::new();
        let (kind, stream, offset) = match self {
            Self::Data { stream, offset, data } => {
                payload.put_slice(data);
                (kind::DATA, *stream, *offset)
            }
            Self::Fin { stream, offset } => (kind::FIN, *stream, *offset),
            Self::Credit { stream, acknowledged, limit } => {
                payload.put_u64(*limit);
                (kind::CREDIT, *stream, *acknowledged)
            }
            Self::Reset { stream, reason } => {
                put_reason(&mut payload, reason);
                (kind::RESET, *stream, 0)
            }
            Self::Gone { stream } => (kind::GONE, *stream, 0),
            Self::Open { stream, limit, request } => {
                payload.put_u16(request.port);
                payload.put_u16(u16::try_from(request.host.len()).unwrap_or(u16::MAX));
                payload.put_slice(request.host.as_bytes());
                (kind::OPEN, *stream, *limit)
            }
            Self::Opened { stream, limit } => (kind::OPENED, *stream, *limit),
            Self::Blocked { stream, limit } => (kind::BLOCKED, *stream, *limit),
            Self::Hello(hello) => {
                payload.put_u16(hello.oldest);
                payload.put_u16(hello.newest);
                payload.put_slice(&hello.challenge.0);
                payload.put_u32(hello.most_streams);
                payload.put_u32(hello.kept_for);
                (kind::HELLO, StreamId(0), 0)
            }
            Self::Start { version } => {
                payload.put_u16(*version);
                (kind::START, StreamId(0), 0)
            }
            Self::Started { association, secret } => {
                payload.put_slice(&association.0);
                payload.put_slice(secret.expose());
                (kind::STARTED, StreamId(0), 0)
            }
            Self::Attach(attach) => {
                payload.put_u16(attach.version);
                payload.put_slice(&attach.association.0);
                payload.put_slice(&attach.proof.0);
                put_positions(&mut payload, &attach.streams);
                (kind::ATTACH, StreamId(0), attach.epoch.0)
            }
            Self::Attached(attached) => {
                payload.put_slice(attached.secret.expose());
                put_positions(&mut payload, &attached.streams);
                (kind::ATTACHED, attached.highest, attached.epoch.0)
            }
            Self::Refused { reason } => {
                put_reason(&mut payload, reason);
                (kind::REFUSED, StreamId(0), 0)
            }
            Self::Received { bytes } => (kind::RECEIVED, StreamId(0), *bytes),
            Self::Drain => (kind::DRAIN, StreamId(0), 0),
            Self::End { reason } => {
                put_reason(&mut payload, reason);
                (kind::END, StreamId(0), 0)
            }
        };
        let mut frame = BytesMut::with_capacity(HEADER + payload.len());
        put_header(&mut frame, kind, payload.len(), stream, offset);
        frame.unsplit(payload);
        frame.freeze()
    }

    fn decode(kind: u8, stream: StreamId, offset: u64, mut payload: Bytes) -> Result<Self, Malformed> {
        let bad = Malformed::Content(kind);
        let content = &mut payload;
        Ok(match kind {
            kind::DATA if content.is_empty() || offset.checked_add(content.len() as u64).is_none() => {
                return Err(bad);
            }
            kind::DATA => Self::Data { stream, offset, data: payload },
            kind::FIN => Self::Fin { stream, offset },
            kind::CREDIT => {
                Self::Credit { stream, acknowledged: offset, limit: content.try_get_u64().map_err(|_| bad)? }
            }
            kind::RESET => Self::Reset { stream, reason: reason(content).ok_or(bad)? },
            kind::GONE => Self::Gone { stream },
            kind::OPEN => {
                let port = content.try_get_u16().map_err(|_| bad)?;
                let length = usize::from(content.try_get_u16().map_err(|_| bad)?);
                if length > LONGEST_HOST || length > content.len() {
                    return Err(bad);
                }
                let host = String::from_utf8(content.split_to(length).to_vec()).map_err(|_| bad)?;
                Self::Open { stream, limit: offset, request: Request { host, port } }
            }
            kind::OPENED => Self::Opened { stream, limit: offset },
            kind::BLOCKED => Self::Blocked { stream, limit: offset },
            kind::HELLO => Self::Hello(Hello {
                oldest: content.try_get_u16().map_err(|_| bad)?,
                newest: content.try_get_u16().map_err(|_| bad)?,
                challenge: Challenge(array(content).ok_or(bad)?),
                most_streams: content.try_get_u32().map_err(|_| bad)?,
                kept_for: content.try_get_u32().map_err(|_| bad)?,
            }),
            kind::START => Self::Start { version: content.try_get_u16().map_err(|_| bad)? },
            kind::STARTED => Self::Started {
                association: AssociationId(array(content).ok_or(bad)?),
                secret: Secret::new(array(content).ok_or(bad)?),
            },
            kind::ATTACH => Self::Attach(Attach {
                version: content.try_get_u16().map_err(|_| bad)?,
                association: AssociationId(array(content).ok_or(bad)?),
                proof: Proof(array(content).ok_or(bad)?),
                epoch: Epoch(offset),
                streams: positions(content).ok_or(bad)?,
            }),
            kind::ATTACHED => Self::Attached(Attached {
                epoch: Epoch(offset),
                secret: Secret::new(array(content).ok_or(bad)?),
                highest: stream,
                streams: positions(content).ok_or(bad)?,
            }),
            kind::REFUSED => Self::Refused { reason: reason(content).ok_or(bad)? },
            kind::RECEIVED => Self::Received { bytes: offset },
            kind::DRAIN => Self::Drain,
            kind::END => Self::End { reason: reason(content).ok_or(bad)? },
            unknown => return Err(Malformed::UnknownType(unknown)),
        })
    }
}

fn array<const N: usize>(content: &mut Bytes) -> Option<[u8; N]> {
    let mut array = [0; N];
    content.try_copy_to_slice(&mut array).ok()?;
    Some(array)
}

fn reason(content: &mut Bytes) -> Option<Reason> {
    let code = Code(content.try_get_u16().ok()?);
    let text = content.get(..content.len().min(LONGEST_TEXT))?;
    Some(Reason::new(code, String::from_utf8_lossy(text)))
}

fn positions(content: &mut Bytes) -> Option<Vec<Position>> {
    let count = usize::try_from(content.try_get_u32().ok()?).ok()?;
    if count > MOST_POSITIONS {
        return None;
    }
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let stream = StreamId(content.try_get_u32().ok()?);
        streams.push(Position { stream, received: content.try_get_u64().ok()? });
    }
    // Each stream once, so that the list can be looked up.
    streams.is_sorted_by(|a, b| a.stream < b.stream).then_some(streams)
}

/// Puts frames together from what a channel brings, however that is cut.
#[derive(Debug, Default)]
pub struct Decoder {
    /// A piece that no frame was taken from yet; in most cases it holds whole frames, which are not copied.
    piece: Bytes,
    /// The beginning of a frame whose end is in a later piece.
    partial: BytesMut,
    /// How much of a frame that is skipped is still to come.
    skip: usize,
    /// How long the frames were that were skipped since the last one that was not.
    skipped: usize,
}

impl Decoder {
    /// Takes what has arrived. All frames of the piece before should have been taken out.
    pub fn feed(&mut self, piece: Bytes) {
        if self.piece.is_empty() {
            self.piece = piece;
        } else {
            let mut both = BytesMut::from(self.piece.as_ref());
            both.extend_from_slice(&piece);
            self.piece = both.freeze();
        }
    }

    /// The next frame, if all of it is there, with how many bytes that makes: its length, and that of the
    /// frames skipped before it, since the peer's count of what is under way has them too.
    ///
    /// # Errors
    /// What follows cannot be read any more: the carrier must end.
    pub fn next_frame(&mut self) -> Result<Option<(Frame, usize)>, Malformed> {
        loop {
            let skipped = self.skip.min(self.piece.len());
            self.piece.advance(skipped);
            self.skip -= skipped;
            let Some(header) = self.header()? else { return Ok(None) };
            if header.kind >= OPTIONAL {
                let have = self.partial.len();
                self.partial.clear();
                self.skip = HEADER + header.length - have;
                self.skipped += HEADER + header.length;
                continue;
            }
            let whole = HEADER + header.length;
            let mut frame = if self.partial.is_empty() {
                if self.piece.len() < whole {
                    self.gather(whole);
                    return Ok(None);
                }
                self.piece.split_to(whole)
            } else {
                if !self.gather(whole) {
                    return Ok(None);
                }
                self.partial.split().freeze()
            };
            frame.advance(HEADER);
            let length = whole + std::mem::take(&mut self.skipped);
            return Frame::decode(header.kind, header.stream, header.offset, frame)
                .map(|frame| Some((frame, length)));
        }
    }

    /// Whether part of a frame waits for its rest.
    pub fn is_between_frames(&self) -> bool {
        self.partial.is_empty() && self.piece.is_empty() && self.skip == 0
    }

    /// Moves up to `whole` bytes in all from the piece to the beginning that is kept. Says whether they are
    /// there.
    fn gather(&mut self, whole: usize) -> bool {
        let more = whole.saturating_sub(self.partial.len()).min(self.piece.len());
        self.partial.extend_from_slice(&self.piece.split_to(more));
        self.partial.len() == whole
    }

    fn header(&mut self) -> Result<Option<Header>, Malformed> {
        if !self.partial.is_empty() || self.piece.len() < HEADER {
            if self.partial.len() < HEADER && !self.gather(HEADER) {
                return Ok(None);
            }
            return Header::read(&self.partial).map(Some);
        }
        Header::read(&self.piece).map(Some)
    }
}

struct Header {
    kind: u8,
    length: usize,
    stream: StreamId,
    offset: u64,
}

impl Header {
    fn read(mut bytes: &[u8]) -> Result<Self, Malformed> {
        let kind = bytes.get_u8();
        let length = usize::try_from(bytes.get_uint(3)).unwrap_or(usize::MAX);
        if length > MOST_DATA {
            return Err(Malformed::TooLong(length));
        }
        Ok(Self { kind, length, stream: StreamId(bytes.get_u32()), offset: bytes.get_u64() })
    }
}
