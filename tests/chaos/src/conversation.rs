//! Has two applications talk through a tunnel, and measures what they notice: numbered records go both ways
//! all the time, and each end knows every byte that must arrive.

use std::{
    collections::HashMap,
    fmt,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ::tests::{target::Target, wait};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use crate::network::Host;

/// What the two ends say to each other.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// The pause between two records.
    pub pace: Duration,
    /// How many records each says before it says goodbye by itself.
    pub records: u64,
}

impl Manner {
    /// Something now and then, until told to stop.
    pub const CHAT: Self = Self { pace: Duration::from_millis(20), records: u64::MAX };

    /// So many records, as fast as they pass.
    #[must_use]
    pub const fn bulk(records: u64) -> Self {
        Self { pace: Duration::ZERO, records }
    }
}

/// How long the greeting is: seed, pause in milliseconds, number of records.
const GREETING: usize = 24;
/// The longest record.
const LONGEST: usize = 4096;
/// The number of the record that ends a conversation.
const BYE: u64 = u64::MAX;
/// The greeting of a connection that only asks whether the application is there.
const PROBE: u64 = 0;

/// How a conversation ended, for one of those who had it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// Both said goodbye, and every byte had arrived.
    Finished,
    /// A clean end (FIN) in the middle: a reader takes what it has for the whole.
    Truncated,
    /// RST.
    Reset,
    /// Any other error.
    Failed(String),
    /// Bytes that are not those that were sent.
    Wrong(String),
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => formatter.write_str("finished"),
            Self::Truncated => formatter.write_str("FIN"),
            Self::Reset => formatter.write_str("RST"),
            Self::Failed(error) => formatter.write_str(error),
            Self::Wrong(what) => write!(formatter, "WRONG BYTES ({what})"),
        }
    }
}

#[derive(Debug)]
struct Progress {
    sent: u64,
    received: u64,
    last: Instant,
    stall: Duration,
    end: Option<(End, Instant)>,
}

/// One end's view.
#[derive(Clone, Debug)]
pub struct Side(Arc<Mutex<Progress>>);

impl Side {
    fn new() -> Self {
        let last = Instant::now();
        Self(Arc::new(Mutex::new(Progress { sent: 0, received: 0, last, stall: Duration::ZERO, end: None })))
    }

    fn arrived(&self) {
        let mut progress = self.0.lock().unwrap();
        let now = Instant::now();
        progress.stall = progress.stall.max(now - progress.last);
        progress.last = now;
        progress.received += 1;
    }

    fn ended(&self, end: End, at: Instant) {
        self.0.lock().unwrap().end.get_or_insert((end, at));
    }

    /// Forgets how long it waited until now.
    pub fn watch(&self) {
        self.0.lock().unwrap().stall = Duration::ZERO;
    }

    /// The longest time in which nothing arrived, the present one among them.
    #[must_use]
    pub fn stall(&self) -> Duration {
        let progress = self.0.lock().unwrap();
        if progress.end.is_some() { progress.stall } else { progress.stall.max(progress.last.elapsed()) }
    }

    /// How it ended, and when.
    #[must_use]
    pub fn end(&self) -> Option<(End, Instant)> {
        self.0.lock().unwrap().end.clone()
    }

    /// How many records arrived.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.0.lock().unwrap().received
    }

    /// When the last one did.
    #[must_use]
    pub fn last(&self) -> Instant {
        self.0.lock().unwrap().last
    }
}

/// What became of a conversation under a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It went on to its end, and every byte arrived, each way. At worst nothing arrived for so long.
    Lives(Duration),
    /// It ended so long after the fault, like this for the client.
    Ended(End, Duration),
    /// Neither goes on nor ends.
    Hangs,
}

/// The application behind the bastion: it talks to each that comes.
#[derive(Debug)]
pub struct Speaker {
    target: Target,
    sides: Arc<Mutex<HashMap<u64, Side>>>,
}

impl Speaker {
    /// One on a free loopback port.
    #[must_use]
    pub fn new() -> Self {
        let sides = Arc::new(Mutex::new(HashMap::new()));
        let known = Arc::clone(&sides);
        let target = Target::new(move |mut stream| {
            let mut greeting = [0; GREETING];
            stream.read_exact(&mut greeting).ok()?;
            let number = |at: usize| u64::from_be_bytes(greeting[at..at + 8].try_into().unwrap());
            let seed = number(0);
            if seed == PROBE {
                stream.write_all(&[0; 8]).ok()?;
                return None;
            }
            let manner = Manner { pace: Duration::from_millis(number(8)), records: number(16) };
            let side = Side::new();
            known.lock().unwrap().insert(seed, side.clone());
            talk(&stream, (seed, 1), (seed, 0), manner, &side, None);
            None
        });
        Self { target, sides }
    }

    /// Where it listens.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    fn side(&self, seed: u64) -> Side {
        let known = || self.sides.lock().unwrap().get(&seed).cloned();
        wait::until("the application behind the bastion is reached", wait::START, known)
    }
}

impl Default for Speaker {
    fn default() -> Self {
        Self::new()
    }
}

/// The client's end of a conversation.
#[derive(Debug)]
pub struct Conversation {
    stream: TcpStream,
    stop: Arc<AtomicBool>,
    /// The client's view.
    pub client: Side,
    /// The view of the application behind the bastion.
    pub target: Side,
    seed: u64,
}

impl Conversation {
    /// Connects, and returns when both have heard each other.
    ///
    /// # Panics
    /// When that does not come about.
    #[must_use]
    pub fn open(host: &Host, local: SocketAddr, speaker: &Speaker, seed: u64, manner: Manner) -> Self {
        let mut stream = host.run(|| TcpStream::connect(local)).expect("the tunnel listens");
        stream.set_nodelay(true).unwrap();
        stream.write_all(&greeting(seed, manner)).unwrap();
        let (client, stop) = (Side::new(), Arc::new(AtomicBool::new(false)));
        let (side, stopped, socket) = (client.clone(), Arc::clone(&stop), stream.try_clone().unwrap());
        thread::spawn(move || talk(&socket, (seed, 0), (seed, 1), manner, &side, Some(&stopped)));
        let target = speaker.side(seed);
        let conversation = Self { stream, stop, client, target, seed };
        wait::until_true("both hear each other", wait::START, || {
            conversation.client.received() > 2 && conversation.target.received() > 2
        });
        conversation.watch();
        conversation
    }

    /// Forgets how long each waited until now.
    pub fn watch(&self) {
        self.client.watch();
        self.target.watch();
    }

    /// The longest time in which one of them heard nothing.
    #[must_use]
    pub fn stall(&self) -> Duration {
        self.client.stall().max(self.target.stall())
    }

    /// Whether both have heard something that was said after `then`, since each has news for the other all
    /// the time.
    #[must_use]
    pub fn goes_on_since(&self, then: Instant) -> bool {
        // What was under way already may arrive later than `then`.
        let then = then + Duration::from_millis(500);
        self.client.last() > then && self.target.last() > then
    }

    /// Waits until it is clear what became of it under a fault that began and ended at these times.
    #[must_use]
    pub fn fate(&self, began: Instant, healed: Instant, patience: Duration) -> Fate {
        let clear = || self.client.end().is_some() || self.goes_on_since(healed);
        let deadline = Instant::now() + patience;
        while !clear() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        if self.client.end().is_none() && !self.goes_on_since(healed) {
            return Fate::Hangs;
        }
        let stall = self.stall();
        if self.client.end().is_none_or(|(end, _)| end == End::Finished) {
            self.finish(patience);
        }
        match self.client.end() {
            Some((End::Finished, _)) => match self.target.end() {
                Some((End::Finished, _)) => Fate::Lives(stall),
                Some((end, at)) => Fate::Ended(end, at.saturating_duration_since(began)),
                None => Fate::Hangs,
            },
            Some((end, at)) => Fate::Ended(end, at.saturating_duration_since(began)),
            None => Fate::Hangs,
        }
    }

    /// Says goodbye, and waits for the other's.
    fn finish(&self, patience: Duration) {
        self.stop.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + patience;
        while (self.client.end().is_none() || self.target.end().is_none()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether a byte arrived that was not sent, at either end.
    #[must_use]
    pub fn wrong(&self) -> Option<String> {
        [&self.client, &self.target].into_iter().find_map(|side| match side.end() {
            Some((End::Wrong(what), _)) => Some(what),
            _ => None,
        })
    }

    /// What its bytes are made of.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Asks whether the application answers by way of `local`, and waits for so long.
pub fn probe(host: &Host, local: SocketAddr, patience: Duration) -> io::Result<()> {
    let mut stream = host.run(|| TcpStream::connect_timeout(&local, patience))?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(&greeting(PROBE, Manner::CHAT))?;
    stream.read_exact(&mut [0; 8])
}

fn greeting(seed: u64, manner: Manner) -> [u8; GREETING] {
    let pace = u64::try_from(manner.pace.as_millis()).unwrap();
    let mut greeting = [0; GREETING];
    for (place, number) in greeting.chunks_mut(8).zip([seed, pace, manner.records]) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    greeting
}

/// A connection that was opened, and has said half a greeting.
#[derive(Debug)]
pub struct Idle(TcpStream);

impl Idle {
    /// Opens it.
    ///
    /// # Panics
    /// When the tunnel does not listen.
    #[must_use]
    pub fn open(host: &Host, local: SocketAddr) -> Self {
        let mut stream = host.run(|| TcpStream::connect(local)).expect("the tunnel listens");
        stream.set_nodelay(true).unwrap();
        stream.write_all(&greeting(PROBE, Manner::CHAT)[..4]).unwrap();
        Self(stream)
    }

    /// Says the other half, and how long the answer took.
    pub fn speak(mut self, patience: Duration) -> io::Result<Duration> {
        let begun = Instant::now();
        self.0.set_read_timeout(Some(patience))?;
        self.0.write_all(&greeting(PROBE, Manner::CHAT)[4..])?;
        self.0.read_exact(&mut [0; 8])?;
        Ok(begun.elapsed())
    }
}

/// The bytes that one end says, for both: one writes them, the other expects them.
struct Script {
    random: StdRng,
    number: u64,
}

impl Script {
    fn new((seed, direction): (u64, u64)) -> Self {
        Self { random: StdRng::seed_from_u64(seed ^ (direction << 63)), number: 0 }
    }

    fn next(&mut self) -> Vec<u8> {
        let mut payload = vec![0; self.random.random_range(1..LONGEST)];
        self.random.fill(&mut payload[..]);
        let record = record(self.number, &payload);
        self.number += 1;
        record
    }
}

fn record(number: u64, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    [&number.to_be_bytes(), &length.to_be_bytes()[..], payload].concat()
}

/// Says what one script has until told to stop, hears what the other has, and writes down how it went.
/// Without a `stop`, it ends when the peer says goodbye.
fn talk(
    stream: &TcpStream,
    says: (u64, u64),
    hears: (u64, u64),
    manner: Manner,
    side: &Side,
    stop: Option<&AtomicBool>,
) {
    let (heard, was_reset) = (AtomicBool::new(false), AtomicBool::new(false));
    let end = thread::scope(|scope| {
        scope.spawn(|| {
            let stop = stop.unwrap_or(&heard);
            let mut script = Script::new(says);
            let mut stream = stream;
            // Told to stop, it says goodbye; one that has a number of records to say says them all.
            while script.number < manner.records
                && (manner.records < u64::MAX || !stop.load(Ordering::SeqCst))
            {
                if let Err(error) = stream.write_all(&script.next()) {
                    was_reset.store(error.kind() == ErrorKind::ConnectionReset, Ordering::SeqCst);
                    return;
                }
                side.0.lock().unwrap().sent += 1;
                thread::sleep(manner.pace);
            }
            let _ = stream.write_all(&record(BYE, &script.number.to_be_bytes()));
            let _ = stream.shutdown(Shutdown::Write);
        });
        let end = (hear(stream, hears, side, &heard), Instant::now());
        if end.0 != End::Finished {
            // The writer may wait for room that never comes.
            let _ = stream.shutdown(Shutdown::Both);
        }
        end
    });
    // The kernel tells of a RST once: where the writer is told, the reader finds a clean end.
    let was_reset = was_reset.into_inner() && end.0 == End::Truncated;
    side.ended(if was_reset { End::Reset } else { end.0 }, end.1);
}

fn hear(mut stream: &TcpStream, hears: (u64, u64), side: &Side, bye: &AtomicBool) -> End {
    let mut script = Script::new(hears);
    let mut head = [0; 10];
    loop {
        if let Err(error) = stream.read_exact(&mut head) {
            return ended(&error);
        }
        let number = u64::from_be_bytes(head[..8].try_into().unwrap());
        let mut payload = vec![0; usize::from(u16::from_be_bytes([head[8], head[9]]))];
        if let Err(error) = stream.read_exact(&mut payload) {
            return ended(&error);
        }
        if number == BYE {
            let count = payload.try_into().map(u64::from_be_bytes);
            bye.store(true, Ordering::SeqCst);
            return match stream.read(&mut [0; 1]) {
                Ok(0) if count == Ok(script.number) => End::Finished,
                Ok(0) => End::Wrong(format!("{count:?} records were sent, {} came", script.number)),
                Ok(_) => End::Wrong("something came after the end".to_owned()),
                Err(error) => ended(&error),
            };
        }
        let expected = script.next();
        if expected != record(number, &payload) {
            return End::Wrong(format!("record {} is not what was sent", script.number - 1));
        }
        side.arrived();
    }
}

fn ended(error: &io::Error) -> End {
    match error.kind() {
        ErrorKind::UnexpectedEof => End::Truncated,
        ErrorKind::ConnectionReset => End::Reset,
        _ => End::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(manner: Manner) -> (Speaker, Conversation) {
        let speaker = Speaker::new();
        let conversation = Conversation::open(&Host::here(), speaker.target().address(), &speaker, 7, manner);
        (speaker, conversation)
    }

    fn fate(conversation: &Conversation) -> Fate {
        conversation.fate(Instant::now(), Instant::now(), Duration::from_secs(10))
    }

    #[test]
    fn what_goes_on_lives() {
        let (_speaker, conversation) = pair(Manner::CHAT);
        assert!(matches!(fate(&conversation), Fate::Lives(stall) if stall < Duration::from_secs(5)));
    }

    #[test]
    fn a_number_of_records_is_said_to_its_end() {
        let (_speaker, conversation) = pair(Manner::bulk(500));
        assert!(matches!(fate(&conversation), Fate::Lives(_)));
        assert_eq!((conversation.client.received(), conversation.target.received()), (500, 500));
    }

    #[test]
    fn a_clean_end_in_the_middle_is_told_from_a_reset() {
        for (with_linger, end) in [(false, End::Truncated), (true, End::Reset)] {
            let target = Target::new(move |mut stream| {
                let mut script = Script::new((7, 1));
                let _ = stream.write_all(&script.next());
                // Unread bytes would turn the end into a reset.
                let _ = stream.read_exact(&mut [0; 24]);
                if with_linger {
                    ::tests::target::reset(stream);
                } else {
                    let _ = stream.shutdown(Shutdown::Write);
                    let _ = ::tests::target::drain(&stream);
                }
                None
            });
            let stream = TcpStream::connect(target.address()).unwrap();
            (&stream).write_all(&greeting(7, Manner::CHAT)).unwrap();
            let side = Side::new();
            talk(&stream, (7, 0), (7, 1), Manner::CHAT, &side, None);
            assert_eq!(side.end().unwrap().0, end);
        }
    }

    #[test]
    fn a_reset_of_which_the_writer_is_told_is_one() {
        for _ in 0..20 {
            let target = Target::new(|mut stream| {
                let _ = stream.read_exact(&mut [0; GREETING]);
                ::tests::target::reset(stream);
                None
            });
            let stream = TcpStream::connect(target.address()).unwrap();
            (&stream).write_all(&greeting(7, Manner::CHAT)).unwrap();
            let side = Side::new();
            talk(&stream, (7, 0), (7, 1), Manner::bulk(u64::MAX), &side, None);
            assert_eq!(side.end().unwrap().0, End::Reset);
        }
    }

    #[test]
    fn a_record_that_is_lost_or_changed_is_noticed() {
        for change in [|record: &mut Vec<u8>| record[12] ^= 1, |record: &mut Vec<u8>| record.clear()] {
            let target = Target::new(move |mut stream| {
                let mut script = Script::new((7, 1));
                let _ = stream.write_all(&script.next());
                let mut second = script.next();
                change(&mut second);
                let _ = stream.write_all(&[second, script.next()].concat());
                let _ = ::tests::target::drain(&stream);
                None
            });
            let side = Side::new();
            let stream = TcpStream::connect(target.address()).unwrap();
            talk(&stream, (7, 0), (7, 1), Manner::CHAT, &side, None);
            assert!(matches!(side.end(), Some((End::Wrong(_), _))), "{:?}", side.end());
        }
    }
}
