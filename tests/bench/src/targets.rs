//! Servers at the end of a path.

use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use harness::{
    ports,
    process::{Process, Program, installed},
    target::Target,
};

/// One server of each kind.
#[derive(Debug)]
pub(crate) struct Targets {
    /// Sends back what it gets.
    pub(crate) echo: Target,
    /// Sends one byte, and ends.
    pub(crate) greeter: Target,
    /// Accepts, and never reads.
    pub(crate) deaf: Target,
    /// Sends without end.
    pub(crate) endless: Endless,
    generator: SocketAddr,
    _iperf3: Process,
}

impl Targets {
    /// Starts them.
    pub(crate) fn start() -> Self {
        let generator = SocketAddr::from(([127, 0, 0, 1], ports::free()));
        let mut iperf3 = Program::new(installed("iperf3"))
            .args(["--server", "--bind", "127.0.0.1", "--port", &generator.port().to_string()])
            .start();
        // A connection would be a test to it.
        iperf3.wait_until_up(|| ports::is_listening(generator));
        Self {
            echo: Target::echo(),
            greeter: Target::says("!"),
            deaf: Target::silent(),
            endless: Endless::start(),
            generator,
            _iperf3: iperf3,
        }
    }

    /// The server of iperf3.
    pub(crate) fn generator(&self) -> SocketAddr {
        self.generator
    }
}

/// A server that sends without end, and counts what the kernel took.
#[derive(Debug)]
pub(crate) struct Endless {
    target: Target,
    sent: Arc<AtomicU64>,
}

impl Endless {
    fn start() -> Self {
        let sent = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&sent);
        let target = Target::new(move |mut stream: TcpStream| {
            let block = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = stream.write(&block) {
                counter.fetch_add(count as u64, Ordering::Relaxed);
            }
            None
        });
        Self { target, sent }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.target.address()
    }

    /// How much it has sent, over all connections.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}
