//! A proxy that delivers each byte later than it came, as a long line would, and limits nothing else.
//!
//! The kernel of many machines cannot delay what passes its loopback interface. This stands between a client
//! and its server instead: each of the two connections has no round trip of its own, so that TCP has nothing
//! to grow, and what shows is what the ends let be in flight.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::copy::{Forward, accept};

/// How much one read takes.
const BLOCK: usize = 64 * 1024;

/// How much may be on its way in one direction. At a round trip of 150 ms it takes 1.6 GiB/s to fill.
const IN_FLIGHT: usize = 128 << 20;

/// Delays connections until the process is ended.
pub(crate) fn serve(forward: Forward, one_way_ms: u64) -> Result<()> {
    let listener =
        TcpListener::bind(forward.listen).with_context(|| format!("cannot listen on {}", forward.listen))?;
    let by = Duration::from_millis(one_way_ms);
    accept(&listener, forward.to, move |from, to| one_way(from, to, by));
    Ok(())
}

/// What is on its way, and when it arrives. `None` is the end.
#[derive(Default)]
struct Line {
    blocks: VecDeque<(Instant, Option<Vec<u8>>)>,
    bytes: usize,
}

impl Line {
    /// Whether more may go on its way.
    fn has_room(&self) -> bool {
        self.bytes < IN_FLIGHT
    }

    /// Sends something on its way.
    fn push(&mut self, arrives: Instant, block: Option<Vec<u8>>) {
        self.bytes += block.as_ref().map_or(0, Vec::len);
        self.blocks.push_back((arrives, block));
    }

    /// The next that arrives: now, or in how long.
    fn next(&mut self, now: Instant) -> Next {
        match self.blocks.front() {
            None => Next::Nothing,
            Some((arrives, _)) if *arrives > now => Next::In(*arrives - now),
            Some(_) => {
                let (_, block) = self.blocks.pop_front().expect("it was looked at");
                self.bytes -= block.as_ref().map_or(0, Vec::len);
                Next::Arrived(block)
            }
        }
    }
}

/// What a [`Line`] has for its far end.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Nothing is on its way.
    Nothing,
    /// Something will be there after this time.
    In(Duration),
    /// It is there. `None` is the end.
    Arrived(Option<Vec<u8>>),
}

fn one_way(mut from: TcpStream, to: TcpStream, by: Duration) {
    let line = Arc::new((Mutex::new(Line::default()), Condvar::new()));
    let far_end = Arc::clone(&line);
    thread::spawn(move || deliver(&far_end, to));
    let (line, changed) = &*line;
    let mut read = || {
        let mut block = vec![0; BLOCK];
        let count = from.read(&mut block).ok().filter(|count| *count > 0)?;
        block.truncate(count);
        Some(block)
    };
    loop {
        let block = read();
        let arrives = Instant::now() + by;
        let is_last = block.is_none();
        let mut guard = line.lock().unwrap();
        guard.push(arrives, block);
        changed.notify_one();
        if is_last {
            return;
        }
        drop(changed.wait_while(guard, |line| !line.has_room()).unwrap());
    }
}

fn deliver(line: &(Mutex<Line>, Condvar), mut to: TcpStream) {
    let (line, changed) = line;
    let mut guard = line.lock().unwrap();
    loop {
        guard = match guard.next(Instant::now()) {
            Next::Nothing => changed.wait(guard).unwrap(),
            Next::In(time) => {
                drop(guard);
                thread::sleep(time);
                line.lock().unwrap()
            }
            Next::Arrived(Some(block)) => {
                changed.notify_one();
                drop(guard);
                // After an error it goes on taking, so that the near end does not wait for ever.
                let _ = to.write_all(&block);
                line.lock().unwrap()
            }
            Next::Arrived(None) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BY: Duration = Duration::from_millis(75);

    #[test]
    fn a_line_delivers_in_order_when_the_time_has_come() {
        let start = Instant::now();
        let mut line = Line::default();
        assert_eq!(line.next(start), Next::Nothing);
        line.push(start + BY, Some(b"one".to_vec()));
        line.push(start + 2 * BY, Some(b"two".to_vec()));
        line.push(start + 2 * BY, None);
        assert_eq!(line.next(start), Next::In(BY));
        assert_eq!(line.next(start + BY), Next::Arrived(Some(b"one".to_vec())));
        assert_eq!(line.next(start + BY), Next::In(BY));
        assert_eq!(line.next(start + 2 * BY), Next::Arrived(Some(b"two".to_vec())));
        assert_eq!(line.next(start + 2 * BY), Next::Arrived(None));
        assert_eq!(line.bytes, 0);
    }

    #[test]
    fn a_line_holds_what_is_in_flight_and_no_more() {
        let mut line = Line::default();
        let arrives = Instant::now() + BY;
        let mut held = 0;
        while line.has_room() {
            line.push(arrives, Some(vec![0; BLOCK]));
            held += BLOCK;
        }
        assert_eq!(held, IN_FLIGHT);
        assert!(matches!(line.next(arrives), Next::Arrived(Some(_))));
        assert!(line.has_room());
    }

    #[test]
    fn nothing_arrives_early_and_nothing_is_lost() {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (to, listen) = (target.local_addr().unwrap(), listener.local_addr().unwrap());
        thread::spawn(move || accept(&listener, to, move |from, to| one_way(from, to, BY)));
        let sent: Vec<u8> = (0..4_000_000_u32).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[2]).collect();
        let mut client = TcpStream::connect(listen).unwrap();
        let mut server = target.accept().unwrap().0;
        let start = Instant::now();
        // Read only once all is written: the line holds it.
        client.write_all(&sent).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        server.read_to_end(&mut received).unwrap();
        assert!(start.elapsed() >= BY);
        assert!(received == sent);
    }
}
