//! Sets up what each case begins with: two hosts, an application behind the server, and a peer's tunnel to
//! it.

use std::{
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    conversation::{Conversation, End, Fate, Idle, Manner, Speaker, probe},
    network::Network,
    peer::{Peer, Setup, Tunnel},
    report::{Report, seconds},
};

/// How long anything may take before the case goes on without it.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// What one attempt at a new connection may take where attempts are repeated.
const ATTEMPT: Duration = Duration::from_secs(1);

/// What each case begins with.
#[derive(Debug)]
pub struct Scene {
    /// The hosts and the wire.
    pub network: Network,
    /// The application behind the server.
    pub speaker: Speaker,
    /// The peer's tunnel.
    pub tunnel: Tunnel,
    /// The findings.
    pub report: Report,
}

impl Scene {
    /// A peer as its users have it.
    #[must_use]
    pub fn new(peer: Peer) -> Self {
        Self::with(peer, Setup::default())
    }

    /// A peer with settings that differ.
    #[must_use]
    pub fn with(peer: Peer, setup: Setup) -> Self {
        Self::on(Network::new(), peer, setup)
    }

    /// The same on a network that differs.
    #[must_use]
    pub fn on(network: Network, peer: Peer, setup: Setup) -> Self {
        let speaker = Speaker::new();
        let tunnel = Tunnel::start(peer, &network, &speaker, setup);
        Self { network, speaker, tunnel, report: Report::new() }
    }

    /// Opens a connection through the tunnel, that carries bytes both ways from now on.
    pub fn converse(&mut self) -> Conversation {
        self.converse_as(Manner::CHAT)
    }

    /// The same in another manner.
    pub fn converse_as(&mut self, manner: Manner) -> Conversation {
        let seed = self.report.seed();
        Conversation::open(&self.network.client, self.tunnel.local, &self.speaker, seed, manner)
    }

    /// Opens a connection that says nothing yet.
    #[must_use]
    pub fn idle(&self) -> Idle {
        Idle::open(&self.network.client, self.tunnel.local)
    }

    /// Waits until a new connection works, and says how long after `since` that was.
    #[must_use]
    pub fn usable(&self, since: Instant) -> Option<Duration> {
        self.usable_within(since, PATIENCE)
    }

    /// The same, with another patience.
    #[must_use]
    pub fn usable_within(&self, since: Instant, patience: Duration) -> Option<Duration> {
        while since.elapsed() < patience {
            if probe(&self.network.client, self.tunnel.local, ATTEMPT).is_ok() {
                return Some(since.elapsed());
            }
            thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// Finds that a connection survived a fault that lasted from `began` to `healed`.
    pub fn survives(&mut self, talk: &Conversation, began: Instant, healed: Instant, stall: Duration) {
        let fate = talk.fate(began, healed, PATIENCE);
        self.exact(talk);
        // Its reader would take what it has for the whole.
        let truncated = matches!(fate, Fate::Ended(End::Truncated, _));
        self.report.check("never a clean end", !truncated, if truncated { "FIN" } else { "none" });
        match fate {
            Fate::Lives(worst) => {
                self.report.check("stream survives", true, "yes");
                self.report.at_most("stall", stall, Some(worst));
            }
            lost => self.report.check("stream survives", false, told(&lost)),
        }
    }

    /// Finds that a connection was reset, and how long after `since`; never a clean end.
    pub fn is_reset(&mut self, talk: &Conversation, since: Instant, within: Duration) {
        let fate = talk.fate(since, since + PATIENCE, PATIENCE);
        self.exact(talk);
        match fate {
            Fate::Ended(End::Reset, after) => self.report.at_most("stream gets RST", within, Some(after)),
            Fate::Hangs if talk.goes_on_since(since + within) => {
                self.report.check("stream gets RST", false, "it goes on");
            }
            other => self.report.check("stream gets RST", false, told(&other)),
        }
    }

    /// Finds bytes that were not sent, if there are any.
    pub fn exact(&mut self, talk: &Conversation) {
        if let Some(wrong) = talk.wrong() {
            self.report.check("bytes exact", false, wrong);
        }
    }
}

/// What became of a connection, in words.
#[must_use]
pub fn told(fate: &Fate) -> String {
    match fate {
        Fate::Lives(stall) => format!("lives, stall {}", seconds(*stall)),
        Fate::Ended(end, after) => format!("{end} after {}", seconds(*after)),
        Fate::Hangs => "hangs".to_owned(),
    }
}

/// Opens new connections all the time, each of which has to be served.
#[derive(Debug)]
pub struct Knocking {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Knocked>,
}

/// How the new connections fared.
#[derive(Debug, Default)]
pub struct Knocked {
    /// So many were served.
    pub served: usize,
    /// So many were not, and why the first was not.
    pub failed: usize,
    /// The first failure.
    pub failure: Option<String>,
    /// The longest that one waited.
    pub slowest: Duration,
}

impl Knocking {
    /// Begins, with a pause between two.
    #[must_use]
    pub fn start(scene: &Scene, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, local) = (Arc::clone(&stop), scene.tunnel.local);
        let host = scene.network.client.again();
        let thread = thread::spawn(move || {
            let mut knocked = Knocked::default();
            while !stopped.load(Ordering::SeqCst) {
                let begun = Instant::now();
                match probe(&host, local, PATIENCE) {
                    Ok(()) => knocked.served += 1,
                    Err(error) => {
                        knocked.failed += 1;
                        knocked.failure.get_or_insert_with(|| match error.kind() {
                            ErrorKind::ConnectionRefused => "refused".to_owned(),
                            ErrorKind::ConnectionReset => "RST".to_owned(),
                            _ => error.to_string(),
                        });
                    }
                }
                knocked.slowest = knocked.slowest.max(begun.elapsed());
                thread::sleep(pause);
            }
            knocked
        });
        Self { stop, thread }
    }

    /// Ends, with the last one served or not.
    #[must_use]
    pub fn end(self) -> Knocked {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

impl Knocked {
    /// Finds that each was served.
    pub fn all_served(&self, report: &mut Report) {
        let failure = self.failure.as_deref().unwrap_or_default();
        let measured = if self.failed == 0 {
            format!("{} served, slowest {}", self.served, seconds(self.slowest))
        } else {
            format!("{} of {} lost ({failure})", self.failed, self.failed + self.served)
        };
        report.check("every new connection is served", self.failed == 0 && self.served > 0, measured);
    }
}
