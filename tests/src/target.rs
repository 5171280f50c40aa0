//! Small TCP servers behind a bastion, with one habit each, and the other end of their conversation.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

use aws_lc_rs::digest::{Context, SHA256};

const BLOCK: usize = 256 * 1024;

/// A TCP server on a free loopback port; it stops accepting when dropped.
#[derive(Debug)]
pub struct Target {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    results: Mutex<Receiver<Transfer>>,
}

/// A port where connections are neither made nor refused: what is sent to it is dropped.
#[derive(Debug)]
pub struct BlackHole {
    address: SocketAddr,
    /// Never accepts, and its queue is full, so that the kernel drops what comes.
    _listener: socket2::Socket,
    _queue: Vec<TcpStream>,
}

impl Default for BlackHole {
    fn default() -> Self {
        Self::new()
    }
}

impl BlackHole {
    /// One on a free loopback port.
    ///
    /// # Panics
    /// When it goes on taking connections.
    #[must_use]
    pub fn new() -> Self {
        Self::at((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// One at an address of this computer.
    ///
    /// # Panics
    /// When the address is taken, or the port goes on taking connections.
    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        let domain = socket2::Domain::for_address(address);
        let listener = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
        listener.bind(&address.into()).unwrap();
        listener.listen(1).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queue = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            queue.push(stream);
            assert!(queue.len() < 16, "the queue of {address} has no end");
        }
        Self { address, _listener: listener, _queue: queue }
    }

    /// An address where no server answers.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// How one connection went, as its target saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes that arrived.
    pub bytes: u64,
    /// SHA-256 of them.
    pub hash: Vec<u8>,
    /// Why reading ended: `None` is a clean end (FIN).
    pub error: Option<io::ErrorKind>,
}

impl Target {
    /// A server that treats each connection as told, in a thread of its own.
    pub fn new(serve: impl Fn(TcpStream) -> Option<Transfer> + Send + Sync + 'static) -> Self {
        Self::on((Ipv4Addr::LOCALHOST, 0).into(), serve)
    }

    /// [`Target::new`] on a given address.
    pub fn on(
        address: SocketAddr,
        serve: impl Fn(TcpStream) -> Option<Transfer> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(AtomicUsize::new(0));
        let (report, results) = channel();
        let (stopped, counter, serve) = (Arc::clone(&stop), Arc::clone(&accepted), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { break };
                counter.fetch_add(1, Ordering::SeqCst);
                let (serve, report) = (Arc::clone(&serve), report.clone());
                std::thread::spawn(move || {
                    let _ = stream.set_nodelay(true);
                    if let Some(transfer) = serve(stream) {
                        let _ = report.send(transfer);
                    }
                });
            }
        });
        Self { address, stop, accepted, results: Mutex::new(results) }
    }

    /// Sends back what it gets, and ends when the peer does.
    #[must_use]
    pub fn echo() -> Self {
        Self::new(echo)
    }

    /// [`Target::echo`] on another address of this machine.
    #[must_use]
    pub fn echo_on(address: IpAddr) -> Self {
        Self::echo_at((address, 0).into())
    }

    /// [`Target::echo`] at a given address and port.
    #[must_use]
    pub fn echo_at(address: SocketAddr) -> Self {
        Self::on(address, echo)
    }

    /// Reads everything, answers nothing, and reports the hash.
    #[must_use]
    pub fn sink() -> Self {
        Self::new(|stream| Some(drain(&stream)))
    }

    /// Sends `length` bytes of [`Pattern`] `seed`, and ends.
    #[must_use]
    pub fn source(seed: u64, length: u64) -> Self {
        Self::new(move |stream| {
            send(&stream, seed, length).ok()?;
            let _ = stream.shutdown(Shutdown::Write);
            Some(drain(&stream))
        })
    }

    /// Sends and receives at the same time, and reports what it received.
    #[must_use]
    pub fn both(seed: u64, length: u64) -> Self {
        Self::new(move |stream| {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let _ = send(&stream, seed, length);
                    let _ = stream.shutdown(Shutdown::Write);
                });
                Some(drain(&stream))
            })
        })
    }

    /// Accepts and never reads, until the target is dropped.
    #[must_use]
    pub fn silent() -> Self {
        let held = Mutex::new(Vec::new());
        Self::new(move |stream| {
            held.lock().unwrap().push(stream);
            None
        })
    }

    /// Waits for a first byte, then resets the connection.
    #[must_use]
    pub fn resetting() -> Self {
        Self::new(|mut stream| {
            let _ = stream.read(&mut [0; 1]);
            reset(stream);
            None
        })
    }

    /// Sends a text and ends, as a web server or a daytime server would.
    pub fn says(text: impl Into<Vec<u8>>) -> Self {
        let text = text.into();
        Self::new(move |mut stream| {
            let _ = stream.write_all(&text);
            None
        })
    }

    /// A web page, the same for every path.
    #[must_use]
    pub fn page(body: &str) -> Self {
        let page = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        Self::new(move |mut stream| {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).ok()?;
                head.push(byte[0]);
            }
            let _ = stream.write_all(page.as_bytes());
            None
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many connections it took.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// The report of the next connection that ended.
    ///
    /// # Panics
    /// When none ends within the deadline.
    #[must_use]
    pub fn transfer(&self, deadline: Duration) -> Transfer {
        self.results.lock().unwrap().recv_timeout(deadline).expect("a connection to the target ends")
    }

    /// [`Target::transfer`], past connections that only looked whether the port is open.
    #[must_use]
    pub fn transfer_of_something(&self, deadline: Duration) -> Transfer {
        loop {
            let transfer = self.transfer(deadline);
            if transfer.bytes > 0 {
                return transfer;
            }
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accept loop.
        let _ = TcpStream::connect(self.address);
    }
}

fn echo(mut stream: TcpStream) -> Option<Transfer> {
    let mut block = vec![0; BLOCK];
    loop {
        let length = stream.read(&mut block).ok()?;
        if length == 0 {
            let _ = stream.shutdown(Shutdown::Write);
            return None;
        }
        stream.write_all(&block[..length]).ok()?;
    }
}

/// Closes a connection with RST instead of FIN.
pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Reads to the end, whatever the end is.
#[must_use]
pub fn drain(mut stream: &TcpStream) -> Transfer {
    let mut block = vec![0; BLOCK];
    let mut hash = Context::new(&SHA256);
    let mut bytes = 0;
    let error = loop {
        match stream.read(&mut block) {
            Ok(0) => break None,
            Ok(length) => {
                hash.update(&block[..length]);
                bytes += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Some(error.kind()),
        }
    };
    Transfer { bytes, hash: hash.finish().as_ref().to_vec(), error }
}

/// Writes `length` bytes of the pattern `seed`.
pub fn send(mut stream: &TcpStream, seed: u64, length: u64) -> io::Result<()> {
    let mut pattern = Pattern::new(seed, length);
    while let Some(block) = pattern.next_block() {
        stream.write_all(block)?;
    }
    Ok(())
}

/// What a connection is expected to carry: a reproducible stream of bytes in which no block is like another.
#[derive(Debug)]
pub struct Pattern {
    block: Vec<u8>,
    number: u64,
    left: u64,
}

impl Pattern {
    /// `length` bytes; another `seed` gives other bytes.
    #[must_use]
    pub fn new(seed: u64, length: u64) -> Self {
        let mut state = seed | 1;
        let block = std::iter::repeat_with(|| {
            // xorshift64: cheap, and long enough that nothing repeats within a block.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .take(BLOCK / 8)
        .flatten()
        .collect();
        Self { block, number: 0, left: length }
    }

    /// The next piece, until all is said.
    pub fn next_block(&mut self) -> Option<&[u8]> {
        if self.left == 0 {
            return None;
        }
        // Numbered every 4 KiB, so that a piece that is lost, doubled or out of place changes the hash.
        for (index, place) in self.block.chunks_mut(4096).enumerate() {
            place[..8].copy_from_slice(&(self.number * 64 + index as u64).to_le_bytes());
        }
        self.number += 1;
        let length = self.left.min(BLOCK as u64);
        self.left -= length;
        Some(&self.block[..length as usize])
    }

    /// What a target reports that received all of it.
    #[must_use]
    pub fn transfer(seed: u64, length: u64) -> Transfer {
        let mut pattern = Self::new(seed, length);
        let mut hash = Context::new(&SHA256);
        while let Some(block) = pattern.next_block() {
            hash.update(block);
        }
        Transfer { bytes: length, hash: hash.finish().as_ref().to_vec(), error: None }
    }
}

/// Connects, says `text`, and returns what comes back within ten seconds for as long as that is shorter.
pub fn exchange(address: SocketAddr, text: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(text)?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_sends_what_its_pattern_promises() {
        let target = Target::source(7, 3 * BLOCK as u64 + 5);
        let stream = TcpStream::connect(target.address()).unwrap();
        assert_eq!(drain(&stream), Pattern::transfer(7, 3 * BLOCK as u64 + 5));
        assert_ne!(Pattern::transfer(7, 10), Pattern::transfer(9, 10));
    }

    #[test]
    fn a_sink_tells_a_reset_from_an_end() {
        let target = Target::sink();
        let stream = TcpStream::connect(target.address()).unwrap();
        send(&stream, 1, 1000).unwrap();
        drop(stream);
        assert_eq!(target.transfer(Duration::from_secs(5)), Pattern::transfer(1, 1000));
        reset(TcpStream::connect(target.address()).unwrap());
        let error = target.transfer(Duration::from_secs(5)).error;
        assert_eq!(error, Some(io::ErrorKind::ConnectionReset));
    }

    #[test]
    fn an_echo_answers() {
        assert_eq!(exchange(Target::echo().address(), b"hello").unwrap(), b"hello");
    }
}
