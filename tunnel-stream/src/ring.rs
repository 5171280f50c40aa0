//! The sending half of a stream: what was taken from the TCP socket and is not acknowledged yet.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};

use crate::{
    StreamId,
    frame::{HEADER, MOST_DATA, write_data_header},
};

/// The most frames that wait for an acknowledgement, so that a stream of single bytes costs little at either
/// end.
pub(crate) const MOST_FRAMES: usize = 4096;

/// How much is taken from the socket ahead of what was sent, in bytes: two frames keep a carrier busy, and
/// more would only wait here instead of in the kernel.
const READ_AHEAD: u64 = 2 * MOST_DATA as u64;

/// Data that follows smaller data than this, which was not sent yet, is put into the same frame.
const SMALL: usize = 4 * 1024;

/// What a frame in a ring costs beside its bytes.
pub(crate) const OVERHEAD: u64 = 160;

/// Bytes for a stream, with room for the header of their frame before them, so that the frame needs no copy.
pub struct Payload(BytesMut);

impl Payload {
    /// Room for `most` bytes, at most [`MOST_DATA`].
    pub fn with_capacity(most: usize) -> Self {
        let mut frame = BytesMut::with_capacity(HEADER + most.min(MOST_DATA));
        frame.resize(HEADER, 0);
        Self(frame)
    }

    /// Of a buffer whose first [`HEADER`] bytes are free for the header.
    pub fn with_header_room(mut frame: BytesMut) -> Self {
        if frame.len() < HEADER {
            frame.resize(HEADER, 0);
        }
        Self(frame)
    }

    /// Where the bytes are put, behind the room for the header. Only what is appended counts.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.0
    }

    /// A copy of `data`, of which at most [`MOST_DATA`] bytes are taken.
    pub fn copy_of(data: &[u8]) -> Self {
        let data = data.get(..data.len().min(MOST_DATA)).unwrap_or_default();
        let mut payload = Self::with_capacity(data.len());
        payload.0.extend_from_slice(data);
        payload
    }

    /// Takes the first `length` bytes out, by a copy.
    pub fn split_off_front(&mut self, length: usize) -> Self {
        let front = Self::copy_of(self.bytes().get(..length).unwrap_or_default());
        *self = Self::copy_of(self.bytes().get(front.len()..).unwrap_or_default());
        front
    }

    /// How many bytes of data it has.
    pub fn len(&self) -> usize {
        self.0.len() - HEADER
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn bytes(&self) -> &[u8] {
        self.0.get(HEADER..).unwrap_or_default()
    }
}

/// What users send does not print.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.len())
    }
}

/// A frame that can be sent, and sent again.
struct Kept {
    frame: Bytes,
    /// The offset of its first byte.
    offset: u64,
}

impl Kept {
    fn end(&self) -> u64 {
        self.offset + (self.frame.len() - HEADER) as u64
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.offset, self.end())
    }
}

/// What the rings of an association hold together, in bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Total(Arc<AtomicU64>);

impl Total {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one ring holds, which counts in the total for as long as the ring is there.
#[derive(Debug)]
struct Held {
    own: u64,
    total: Total,
}

impl Held {
    fn more(&mut self, bytes: u64) {
        self.own += bytes;
        self.total.0.fetch_add(bytes, Ordering::Relaxed);
    }

    fn less(&mut self, bytes: u64) {
        self.own -= bytes;
        self.total.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.less(self.own);
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Ring {
    stream: StreamId,
    /// All that is not acknowledged, in order. Everything before `next` was sent on the present carrier.
    frames: VecDeque<Kept>,
    next: usize,
    /// The last of it, while it is small and was not sent.
    tail: Option<Payload>,
    /// The offset behind everything that was taken from the socket.
    taken: u64,
    /// All before this was acknowledged.
    acknowledged: u64,
    /// All before this may be sent.
    limit: u64,
    /// How much may wait for an acknowledgement, whatever the peer would take.
    most: u64,
    fin: Fin,
    /// Whether the end was ever sent.
    fin_sent: bool,
    /// Bytes that were sent more than once.
    resent: u64,
    /// The offset behind everything that was ever sent.
    sent: u64,
    held: Held,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fin {
    /// More may be taken from the socket.
    Open,
    /// Nothing more is, and the peer has to be told.
    Due,
    /// The peer was told on the present carrier.
    Sent,
    /// The peer has acknowledged it, and so everything.
    Acknowledged,
}

/// What is to be sent next.
#[derive(Debug)]
pub(crate) enum Next {
    /// A whole data frame.
    Data(Bytes),
    /// The end, at this offset.
    Fin(u64),
}

impl Ring {
    pub(crate) fn new(stream: StreamId, limit: u64, most: u64, total: &Total) -> Self {
        Self {
            stream,
            frames: VecDeque::new(),
            next: 0,
            tail: None,
            taken: 0,
            acknowledged: 0,
            limit,
            most,
            fin: Fin::Open,
            fin_sent: false,
            resent: 0,
            sent: 0,
            held: Held { own: 0, total: total.clone() },
        }
    }

    /// How many bytes may be taken from the socket now.
    pub(crate) fn room(&self) -> usize {
        if self.fin != Fin::Open || self.frames.len() >= MOST_FRAMES {
            return 0;
        }
        let ahead = READ_AHEAD.saturating_sub(self.taken - self.reached());
        let limit = self.limit.min(self.acknowledged.saturating_add(self.most));
        let room = ahead.min(limit.saturating_sub(self.taken));
        usize::try_from(room).unwrap_or(usize::MAX).min(MOST_DATA)
    }

    /// Whether only an acknowledgement makes room: all that was taken has been sent.
    pub(crate) fn awaits_credit(&self) -> bool {
        self.fin == Fin::Open && !self.has_next()
    }

    /// The offset behind what was sent on the present carrier.
    fn reached(&self) -> u64 {
        match self.next.checked_sub(1) {
            Some(last) => self.frames.get(last).map_or(self.acknowledged, Kept::end),
            None => {
                self.frames.front().map_or(self.acknowledged, |first| first.offset.max(self.acknowledged))
            }
        }
    }

    /// Keeps what was taken from the socket. No more than [`Ring::room`] is expected.
    pub(crate) fn push(&mut self, payload: Payload) {
        if payload.is_empty() {
            return;
        }
        self.taken += payload.len() as u64;
        self.held.more(payload.len() as u64);
        match &mut self.tail {
            Some(tail) if tail.len() < SMALL && tail.len() + payload.len() <= MOST_DATA => {
                tail.0.extend_from_slice(payload.bytes());
            }
            _ => {
                self.close_tail();
                self.tail = Some(payload);
            }
        }
    }

    fn close_tail(&mut self) {
        let Some(Payload(mut frame)) = self.tail.take() else { return };
        let offset = self.frames.back().map_or(self.acknowledged, Kept::end);
        write_data_header(&mut frame, self.stream, offset);
        self.held.more(OVERHEAD);
        self.frames.push_back(Kept { frame: frame.freeze(), offset });
    }

    /// Nothing more comes from the socket.
    pub(crate) fn finish(&mut self) {
        if self.fin == Fin::Open {
            self.fin = Fin::Due;
        }
    }

    /// Whether something is to be sent.
    pub(crate) fn has_next(&self) -> bool {
        self.next < self.frames.len() || self.tail.is_some() || self.fin == Fin::Due
    }

    /// How long the next frame is, in bytes.
    pub(crate) fn next_length(&self) -> usize {
        match (self.frames.get(self.next), &self.tail) {
            (Some(kept), _) => kept.frame.len(),
            (None, Some(tail)) => tail.0.len(),
            (None, None) => HEADER,
        }
    }

    /// The next frame, which counts as sent from now on.
    pub(crate) fn send_next(&mut self) -> Option<Next> {
        if self.next == self.frames.len() {
            self.close_tail();
        }
        if let Some(kept) = self.frames.get(self.next) {
            self.next += 1;
            if kept.end() <= self.sent {
                self.resent += (kept.frame.len() - HEADER) as u64;
            }
            self.sent = self.sent.max(kept.end());
            return Some(Next::Data(kept.frame.clone()));
        }
        if self.fin == Fin::Due {
            self.fin = Fin::Sent;
            self.fin_sent = true;
            return Some(Next::Fin(self.taken));
        }
        None
    }

    /// The peer has written all before `acknowledged`, and takes all before `limit`. Says how much less is
    /// held, or `None` where the peer acknowledges what was never sent.
    pub(crate) fn credit(&mut self, acknowledged: u64, limit: u64) -> Option<u64> {
        let before = self.held.own;
        self.acknowledge(acknowledged)?;
        self.limit = self.limit.max(limit);
        Some(before - self.held.own)
    }

    fn acknowledge(&mut self, acknowledged: u64) -> Option<()> {
        // The end itself counts as one.
        let is_end = self.fin_sent && acknowledged == self.taken + 1;
        let acknowledged = if is_end { self.taken } else { acknowledged };
        if acknowledged > self.sent {
            return None;
        }
        if is_end {
            self.fin = Fin::Acknowledged;
        }
        self.acknowledged = self.acknowledged.max(acknowledged);
        while let Some(kept) = self.frames.front()
            && kept.end() <= self.acknowledged
        {
            self.held.less((kept.frame.len() - HEADER) as u64 + OVERHEAD);
            self.frames.pop_front();
            // What was acknowledged on one carrier need not be sent on the next.
            self.next = self.next.saturating_sub(1);
        }
        Some(())
    }

    /// Whether a peer can stand there: it cannot have received what was never sent. It may have acknowledged
    /// more on the carrier before than it says here.
    pub(crate) fn can_resume(&self, received: u64) -> bool {
        received <= self.sent || (self.fin_sent && received == self.taken + 1)
    }

    /// Goes on from what the peer has received, on another carrier. See [`Ring::can_resume`].
    pub(crate) fn resume(&mut self, received: u64) {
        let received = received.max(self.acknowledged);
        if self.fin == Fin::Acknowledged {
            return;
        }
        if self.fin_sent && received == self.taken + 1 {
            self.fin = Fin::Sent;
            self.next = self.frames.len();
            return;
        }
        if self.fin == Fin::Sent {
            self.fin = Fin::Due;
        }
        self.next = self.frames.partition_point(|kept| kept.end() <= received);
    }

    /// Whether the peer has everything, and has been told that it is everything.
    pub(crate) fn is_done(&self) -> bool {
        self.fin == Fin::Acknowledged
    }

    /// Whether everything was sent at least once, with the end.
    pub(crate) fn is_all_sent(&self) -> bool {
        self.fin_sent
    }

    /// How much memory it holds, in bytes.
    pub(crate) fn held(&self) -> u64 {
        self.held.own
    }

    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    #[cfg(test)]
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    pub(crate) fn resent(&self) -> u64 {
        self.resent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: StreamId = StreamId(5);
    const MANY: u64 = 1 << 40;

    fn payload(bytes: usize) -> Payload {
        Payload::copy_of(&vec![7; bytes])
    }

    /// Sends all there is: the lengths of the data, and where the end is, if it is sent.
    fn send(ring: &mut Ring) -> (Vec<usize>, Option<u64>) {
        let mut data = Vec::new();
        while let Some(next) = ring.send_next() {
            match next {
                Next::Data(frame) => data.push(frame.len() - HEADER),
                Next::Fin(offset) => return (data, Some(offset)),
            }
        }
        (data, None)
    }

    #[test]
    fn a_payload_has_room_for_its_header_and_no_more_than_a_frame() {
        let mut payload = Payload::with_capacity(3);
        assert!(payload.is_empty());
        payload.buffer().extend_from_slice(b"abc");
        assert_eq!((payload.len(), payload.is_empty()), (3, false));
        assert_eq!(format!("{payload:?}"), "Payload(3 bytes)");
        assert_eq!(Payload::copy_of(&[1; MOST_DATA + 1]).len(), MOST_DATA);
        assert!(Payload::with_capacity(usize::MAX).0.capacity() < 2 * MOST_DATA);
        let mut ring = Ring::new(ID, MANY, MANY, &Total::default());
        ring.push(payload);
        let Some(Next::Data(frame)) = ring.send_next() else { panic!() };
        assert_eq!(format!("{:?}", ring.frames), "[0..3]", "what users send does not print");
        assert_eq!(*frame, *b"\x01\0\0\x03\0\0\0\x05\0\0\0\0\0\0\0\0abc");
    }

    #[test]
    fn small_pieces_share_a_frame_until_it_is_sent_or_no_longer_small() {
        let mut ring = Ring::new(ID, MANY, MANY, &Total::default());
        ring.push(payload(0));
        assert!(!ring.has_next());
        for _ in 0..3 {
            ring.push(payload(10));
        }
        assert_eq!((ring.next_length(), ring.held()), (HEADER + 30, 30));
        assert_eq!(send(&mut ring), (vec![30], None));
        ring.push(payload(4095));
        ring.push(payload(1));
        ring.push(payload(1));
        assert_eq!(ring.next_length(), HEADER + 4096);
        assert_eq!(send(&mut ring), (vec![4096, 1], None));
        ring.push(payload(1));
        ring.push(payload(MOST_DATA - 1));
        ring.push(payload(1));
        assert_eq!(send(&mut ring), (vec![MOST_DATA, 1], None));
        ring.push(payload(1));
        ring.push(payload(MOST_DATA));
        assert_eq!(send(&mut ring), (vec![1, MOST_DATA], None), "not beyond a frame");
        assert_eq!(ring.taken(), ring.sent);
        assert_eq!(ring.next_length(), HEADER, "the end would be");
    }

    #[test]
    fn no_more_is_taken_than_two_frames_ahead_or_the_peer_allows() {
        let mut ring = Ring::new(ID, 300_000, MANY, &Total::default());
        assert_eq!(ring.room(), MOST_DATA);
        ring.push(payload(MOST_DATA));
        assert_eq!(ring.room(), MOST_DATA);
        ring.push(payload(MOST_DATA - 100));
        assert_eq!(ring.room(), 100, "ahead of what was sent");
        send(&mut ring);
        let left = 300_000 - (2 * MOST_DATA - 100);
        assert_eq!(ring.room(), left);
        ring.push(payload(left));
        assert_eq!(ring.room(), 0);
        send(&mut ring);
        assert_eq!(ring.credit(100_000, 300_050), Some(0));
        assert_eq!((ring.room(), ring.limit()), (50, 300_050));
        assert_eq!(ring.credit(100_000, 200_000), Some(0), "a limit is not taken back");
        assert_eq!(ring.room(), 50);
        ring.finish();
        assert_eq!(ring.room(), 0);
    }

    #[test]
    fn no_more_is_kept_than_this_end_allows() {
        let mut ring = Ring::new(ID, u64::MAX, 1000, &Total::default());
        assert_eq!(ring.room(), 1000);
        ring.push(payload(1000));
        send(&mut ring);
        assert_eq!(ring.room(), 0);
        ring.credit(0, u64::MAX);
        assert_eq!(ring.room(), 0);
        ring.credit(1000, u64::MAX);
        assert_eq!(ring.room(), 1000);
    }

    #[test]
    fn no_more_frames_are_kept_than_the_peer_expects() {
        let mut ring = Ring::new(ID, MANY, MANY, &Total::default());
        for _ in 0..MOST_FRAMES {
            assert!(ring.room() > 0);
            ring.push(payload(1));
            send(&mut ring);
        }
        assert_eq!(ring.room(), 0);
        assert_eq!(ring.held(), MOST_FRAMES as u64 * (1 + OVERHEAD));
        assert_eq!(ring.credit(2, MANY), Some(2 * (1 + OVERHEAD)));
        assert!(ring.room() > 0);
    }

    #[test]
    fn what_was_acknowledged_is_let_go_frame_by_frame() {
        let mut ring = Ring::new(ID, MANY, MANY, &Total::default());
        for _ in 0..3 {
            ring.push(payload(5000));
        }
        send(&mut ring);
        let frame = 5000 + OVERHEAD;
        assert_eq!(ring.held(), 3 * frame);
        assert_eq!(ring.credit(4999, 0), Some(0));
        assert_eq!(ring.credit(5000, 0), Some(frame));
        assert_eq!(ring.credit(4000, 0), Some(0), "an acknowledgement is not taken back");
        assert_eq!(ring.credit(15_001, 0), None, "never sent");
        assert_eq!(ring.held(), 2 * frame);
        assert_eq!(ring.credit(15_000, 0), Some(2 * frame));
        assert_eq!(ring.held(), 0);
        // The next frame begins where the last one ended.
        ring.push(payload(1));
        let Some(Next::Data(sent)) = ring.send_next() else { panic!() };
        assert_eq!(sent.get(8..HEADER), Some(&15_000_u64.to_be_bytes()[..]));
    }

    #[test]
    fn what_was_taken_and_not_sent_cannot_be_acknowledged() {
        let mut ring = Ring::new(ID, MANY, MANY, &Total::default());
        ring.push(payload(5000));
        assert_eq!(ring.credit(1, 0), None);
        send(&mut ring);
        ring.push(payload(5000));
        assert_eq!(ring.credit(5001, 0), None);
        assert_eq!(ring.credit(5000, 0), Some(5000 + OVERHEAD));
    }

    #[test]
    fn the_end_is_a_number_of_its_own_and_is_sent_last() {
        let mut ring = Ring::new(ID, MANY, MANY, &Total::default());
        ring.push(payload(10));
        ring.finish();
        assert_eq!(ring.credit(11, 0), None, "not sent");
        assert!(!ring.is_all_sent());
        assert_eq!(send(&mut ring), (vec![10], Some(10)));
        assert!(ring.is_all_sent() && !ring.is_done() && !ring.has_next());
        assert_eq!(ring.credit(10, 0), Some(10 + OVERHEAD));
        assert!(!ring.is_done());
        assert_eq!(ring.credit(12, 0), None);
        assert_eq!(ring.credit(11, 0), Some(0));
        assert!(ring.is_done());
        ring.finish();
        ring.resume(0);
        assert_eq!(send(&mut ring), (vec![], None), "the peer has everything");
    }

    /// Three frames of 100 bytes and the end were sent; the peer says what it has.
    fn resumed(received: u64) -> (Vec<usize>, Option<u64>, u64) {
        let mut ring = Ring::new(ID, MANY, MANY, &Total::default());
        for _ in 0..3 {
            ring.push(payload(100));
            send(&mut ring);
        }
        ring.finish();
        send(&mut ring);
        assert!(ring.can_resume(received));
        ring.resume(received);
        let (data, end) = send(&mut ring);
        (data, end, ring.resent())
    }

    #[test]
    fn a_peer_is_sent_again_what_it_has_not_received_in_whole_frames() {
        assert_eq!(resumed(0), (vec![100; 3], Some(300), 300));
        assert_eq!(resumed(99), (vec![100; 3], Some(300), 300));
        assert_eq!(resumed(100), (vec![100; 2], Some(300), 200));
        assert_eq!(resumed(299), (vec![100; 1], Some(300), 100));
        assert_eq!(resumed(300), (vec![], Some(300), 0));
        assert_eq!(resumed(301), (vec![], None, 0));
    }

    #[test]
    fn a_peer_has_nothing_that_was_never_sent() {
        let mut ring = Ring::new(ID, MANY, MANY, &Total::default());
        ring.push(payload(100));
        assert!(ring.can_resume(0) && !ring.can_resume(1));
        send(&mut ring);
        ring.push(payload(100));
        assert!(ring.can_resume(100) && !ring.can_resume(101));
        send(&mut ring);
        assert!(ring.can_resume(200) && !ring.can_resume(201));
        ring.finish();
        assert!(!ring.can_resume(201));
        send(&mut ring);
        assert!(ring.can_resume(201) && !ring.can_resume(202));
    }

    #[test]
    fn what_was_acknowledged_is_not_sent_again_however_far_back_the_peer_says_it_is() {
        let mut ring = Ring::new(ID, MANY, MANY, &Total::default());
        for _ in 0..3 {
            ring.push(payload(100));
            send(&mut ring);
        }
        ring.credit(200, 0);
        ring.resume(0);
        assert_eq!(send(&mut ring), (vec![100], None));
    }

    #[test]
    fn room_is_counted_from_what_was_sent_on_the_present_carrier() {
        let mut ring = Ring::new(ID, MANY, MANY, &Total::default());
        for _ in 0..3 {
            ring.push(payload(MOST_DATA));
            send(&mut ring);
        }
        assert_eq!(ring.room(), MOST_DATA);
        ring.resume(0);
        assert_eq!(ring.room(), 0);
        ring.send_next();
        assert_eq!(ring.room(), 0);
        ring.send_next();
        assert_eq!(ring.room(), MOST_DATA);
        // And what is acknowledged before it was sent again need not be sent.
        ring.resume(0);
        ring.credit(2 * MOST_DATA as u64, 0);
        assert_eq!(ring.room(), MOST_DATA);
        assert_eq!(send(&mut ring), (vec![MOST_DATA], None));
    }
}
