//! A name server of our own, which answers what a test tells it to, or nothing.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// What is said about a name.
#[derive(Clone, Debug)]
pub enum Answer {
    /// These addresses, to be forgotten immediately.
    Addresses(Vec<IpAddr>),
    /// Another name, and where that is.
    Alias(String, Vec<IpAddr>),
    /// There is no such name.
    Nothing,
    /// The server cannot find out (SERVFAIL).
    Failure,
    /// No answer at all.
    Silence,
}

impl Answer {
    /// [`Answer::Addresses`], as they are written.
    #[must_use]
    pub fn at(addresses: &[&str]) -> Self {
        Self::Addresses(addresses.iter().map(|address| address.parse().unwrap()).collect())
    }
}

/// The longest answer that goes by UDP; TCP has room for more (RFC 1035 §4.2).
const SHORT: usize = 512;

/// A name server on a port of the loopback interface, by UDP and TCP. It ends with its process.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
}

impl NameServer {
    /// Answers each question for addresses by asking `answer` about the name, on a free port.
    ///
    /// # Panics
    /// When there is none.
    pub fn start(answer: impl FnMut(&str) -> Answer + Send + 'static) -> Self {
        // Free for UDP is not free for TCP.
        let free = || {
            let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
            let listener = TcpListener::bind(socket.local_addr().unwrap()).ok()?;
            Some((socket, listener))
        };
        let (socket, listener) = (0..100).find_map(|_| free()).expect("a port that is free for both");
        Self::serve(socket, listener, answer)
    }

    /// [`NameServer::start`] at a given address.
    ///
    /// # Panics
    /// When another server has the address.
    pub fn start_at(address: SocketAddr, answer: impl FnMut(&str) -> Answer + Send + 'static) -> Self {
        Self::serve(UdpSocket::bind(address).unwrap(), TcpListener::bind(address).unwrap(), answer)
    }

    fn serve(
        socket: UdpSocket,
        listener: TcpListener,
        answer: impl FnMut(&str) -> Answer + Send + 'static,
    ) -> Self {
        let address = socket.local_addr().unwrap();
        let answer = Arc::new(Mutex::new(answer));
        let same = Arc::clone(&answer);
        thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                let answer = &mut *answer.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(reply) = reply(&buffer[..length], answer) {
                    let _ = socket.send_to(&cut(reply), client);
                }
            }
        });
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), same) = (stream, Arc::clone(&same)) else { continue };
                thread::spawn(move || {
                    let ask = |query: &[u8]| {
                        reply(query, &mut *same.lock().unwrap_or_else(PoisonError::into_inner))
                    };
                    let _ = converse(stream, ask);
                });
            }
        });
        Self { address }
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// An answer that is too long for UDP says only that it was cut (the TC bit).
fn cut(mut reply: Vec<u8>) -> Vec<u8> {
    if reply.len() > SHORT {
        let question = 12 + reply[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
        reply.truncate(question);
        reply[2] |= 0x02;
        reply[6..12].fill(0);
    }
    reply
}

/// Each message comes after its length.
fn converse(mut stream: TcpStream, mut ask: impl FnMut(&[u8]) -> Option<Vec<u8>>) -> std::io::Result<()> {
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut query)?;
        if let Some(reply) = ask(&query) {
            let length = u16::try_from(reply.len()).unwrap();
            stream.write_all(&[&length.to_be_bytes(), reply.as_slice()].concat())?;
        }
    }
}

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;

/// The reply to one query (RFC 1035 §4): its question again, and what there is of the type that was asked
/// for.
fn reply(query: &[u8], answer: &mut impl FnMut(&str) -> Answer) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let mut labels = Vec::new();
    let mut at = HEADER;
    while query[at] != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..=at + length]).to_lowercase());
        at += 1 + length;
    }
    let question = &query[HEADER..at + 5];
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    // The name of the question, as a pointer to it.
    let asked = vec![0xc0, 12];
    let (code, records) = match answer(&labels.join(".")) {
        Answer::Silence => return None,
        Answer::Nothing => (3, Vec::new()),
        Answer::Failure => (2, Vec::new()),
        Answer::Addresses(addresses) => (0, of_kind(&asked, kind, &addresses)),
        Answer::Alias(name, addresses) => {
            let target = encoded(&name);
            let mut records = vec![record(&asked, CNAME, &target)];
            records.extend(of_kind(&target, kind, &addresses));
            (0, records)
        }
    };
    let mut reply = query[..2].to_vec();
    // An authoritative answer, recursion as desired and available.
    reply.extend([0x85, 0x80 | code]);
    reply.extend([0, 1]);
    reply.extend(u16::try_from(records.len()).unwrap().to_be_bytes());
    reply.extend([0, 0, 0, 0]);
    reply.extend(question);
    reply.extend(records.concat());
    Some(reply)
}

fn of_kind(name: &[u8], kind: u16, addresses: &[IpAddr]) -> Vec<Vec<u8>> {
    addresses
        .iter()
        .filter_map(|address| match (kind, address) {
            (A, IpAddr::V4(address)) => Some(record(name, A, &address.octets())),
            (AAAA, IpAddr::V6(address)) => Some(record(name, AAAA, &address.octets())),
            _ => None,
        })
        .collect()
}

/// A record that lives for no time.
fn record(name: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
    let mut record = name.to_vec();
    record.extend(kind.to_be_bytes());
    record.extend([0, 1, 0, 0, 0, 0]);
    record.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    record.extend(data);
    record
}

fn encoded(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}
