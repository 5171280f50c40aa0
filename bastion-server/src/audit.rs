//! The only writer of audit records: who reached what, from where, and who let them.
//!
//! Each record is one JSON object on one line. A field is left out where it makes no sense; the names mean the same
//! in every event, and are relied upon:
//!
//! | field | meaning |
//! |---|---|
//! | `time` | UTC, RFC 3339, to the millisecond |
//! | `event` | see [`Event::name`] |
//! | `session` | names one SSH connection, also in the log |
//! | `source_address`, `source_port` | where the client connected from |
//! | `login` | the name it logged in as, or wanted to |
//! | `principals`, `key_id`, `serial`, `expires` | from its certificate |
//! | `authority`, `key` | SHA-256 fingerprints of the key that signed, and of the key that logged in |
//! | `destination_host`, `destination_port` | as the client asked |
//! | `destination_address` | what the host resolved to, and what was connected to |
//! | `rule` | the name of the rule that permitted it |
//! | `request` | what else a client asked for |
//! | `reason` | a code: why it was refused, or why it ended |
//! | `bytes_sent`, `bytes_received` | from the client to the target, and back |
//! | `duration_ms` | from open to close |
//!
//! In `login_refused` the fields of the certificate are what it claims, which nobody has verified.
//!
//! Whoever asks for a record never waits for the disk: a writer of its own takes them from a bounded queue. What does
//! not fit, or cannot be written, is counted as `bastion_audit_lost_total`.

mod record;

use std::{
    fs::OpenOptions,
    io::{self, BufWriter, Write},
    net::{IpAddr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use ssh_key::Certificate;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{config::AuditTo, identity::Identity, listener::SessionId, metrics::Metrics};
use record::Record;

/// Records that may wait for the writer.
const QUEUE: usize = 8192;

/// Which connection a record is about.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// Where it comes from.
    pub client: SocketAddr,
}

/// What happened. Reasons are codes of our own enums; everything else may be anybody's text.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A client proved who it is.
    LoginAccepted {
        /// Who.
        identity: &'a Identity,
    },
    /// A client did not.
    LoginRefused {
        /// Who it wanted to be.
        login: &'a str,
        /// What it showed, if that was a certificate at all.
        certificate: Option<&'a Certificate>,
        /// Why not.
        reason: &'static str,
    },
    /// A forwarded connection was opened.
    ForwardOpened {
        /// For whom.
        identity: &'a Identity,
        /// Where to.
        route: Route<'a>,
    },
    /// One was not.
    ForwardRefused {
        /// For whom.
        identity: &'a Identity,
        /// Where to, as far as that was known.
        route: Route<'a>,
        /// Why not.
        reason: &'static str,
    },
    /// A forwarded connection ended.
    ForwardClosed {
        /// For whom.
        identity: &'a Identity,
        /// Where to.
        route: Route<'a>,
        /// What it carried.
        traffic: Traffic,
        /// Why it ended.
        reason: &'static str,
    },
    /// Something else was asked for, which is never given.
    RequestRefused {
        /// By whom.
        identity: &'a Identity,
        /// What.
        request: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// The connection of a client that had logged in ended.
    SessionClosed {
        /// Whose.
        identity: &'a Identity,
        /// All that it carried.
        traffic: Traffic,
        /// Why it ended.
        reason: &'static str,
    },
}

/// The way of one forwarded connection, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub struct Route<'a> {
    /// The host as the client wrote it.
    pub host: &'a str,
    /// The port as the client wrote it: the protocol has room for more than there are ports.
    pub port: u32,
    /// The address that was connected to.
    pub address: Option<IpAddr>,
    /// The rule that permits it.
    pub rule: Option<&'a str>,
}

/// Bytes and time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the client to the target.
    pub sent: u64,
    /// From the target to the client.
    pub received: u64,
    /// From open to close.
    pub duration: Duration,
}

impl Event<'_> {
    /// The name that stands in the record.
    pub fn name(&self) -> &'static str {
        match self {
            Self::LoginAccepted { .. } => "login_accepted",
            Self::LoginRefused { .. } => "login_refused",
            Self::ForwardOpened { .. } => "forward_opened",
            Self::ForwardRefused { .. } => "forward_refused",
            Self::ForwardClosed { .. } => "forward_closed",
            Self::RequestRefused { .. } => "request_refused",
            Self::SessionClosed { .. } => "session_closed",
        }
    }
}

/// Takes records from everywhere.
#[derive(Clone, Debug)]
pub struct Audit {
    queue: mpsc::Sender<Message>,
    loss: Loss,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    Flush(oneshot::Sender<()>),
}

/// Counts lost records, and says so once each time it begins.
#[derive(Clone, Debug)]
struct Loss {
    metrics: Arc<Metrics>,
    losing: Arc<AtomicBool>,
}

impl Loss {
    fn lost(&self, records: u64, why: &str) {
        self.metrics.audit_lost(records);
        if !self.losing.swap(true, Ordering::Relaxed) {
            tracing::error!(why, "audit records are being lost; bastion_audit_lost_total counts them");
        }
    }

    fn over(&self) {
        if self.losing.load(Ordering::Relaxed) && self.losing.swap(false, Ordering::Relaxed) {
            tracing::warn!("audit records are written again");
        }
    }
}

/// Why there is no place for audit records.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be appended to.
    #[error("{}: {source}\n  audit.to names it; its folder must be there, and be writable for the bastion", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        source: io::Error,
    },
    /// There can be no thread.
    #[error("cannot start the writer of audit records: {0}")]
    Thread(io::Error),
}

/// Opens the place for records, without writing to it.
///
/// # Errors
/// When a file cannot be appended to.
pub fn open(to: &AuditTo) -> Result<Box<dyn Write + Send>, Error> {
    match to {
        AuditTo::Stdout => Ok(Box::new(io::stdout())),
        AuditTo::File(path) => OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .open(path)
            .map(|file| Box::new(file) as Box<dyn Write + Send>)
            .map_err(|source| Error::File { path: path.clone(), source }),
    }
}

impl Audit {
    /// Starts the writer.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn start(sink: Box<dyn Write + Send>, metrics: Arc<Metrics>) -> Result<Self, Error> {
        let (queue, messages) = mpsc::channel(QUEUE);
        let loss = Loss { metrics, losing: Arc::default() };
        let audit = Self { queue, loss: loss.clone() };
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || write(sink, messages, &loss))
            .map_err(Error::Thread)?;
        Ok(audit)
    }

    /// Writes down what happened just now. Never waits.
    pub fn record(&self, session: Session, event: Event<'_>) {
        let line = Record::new(SystemTime::now(), session, &event).line();
        if self.queue.try_send(Message::Line(line)).is_err() {
            self.loss.lost(1, "what writes them is too slow: more than 8192 are waiting");
        }
    }

    /// Waits until everything is written, but not for ever.
    pub async fn flush(&self, patience: Duration) {
        let (done, written) = oneshot::channel();
        let flushed = async {
            if self.queue.send(Message::Flush(done)).await.is_ok() {
                let _ = written.await;
            }
        };
        if timeout(patience, flushed).await.is_err() {
            tracing::error!("audit records are not written in time, and are lost");
        }
    }
}

/// The writer: a thread, since files and pipes block.
fn write(sink: Box<dyn Write + Send>, mut messages: mpsc::Receiver<Message>, loss: &Loss) {
    let mut sink = BufWriter::new(sink);
    let mut unwritten = 0;
    while let Some(message) = messages.blocking_recv() {
        let mut flushed = None;
        let written = match message {
            Message::Line(line) => {
                unwritten += 1;
                sink.write_all(&line)
            }
            Message::Flush(done) => {
                flushed = Some(done);
                Ok(())
            }
        };
        // Nothing is held back while nothing else comes.
        let idle = messages.is_empty() || flushed.is_some();
        match written.and_then(|()| if idle { sink.flush() } else { Ok(()) }) {
            Ok(()) if idle => {
                unwritten = 0;
                loss.over();
            }
            Ok(()) => {}
            Err(error) => {
                loss.lost(unwritten, &error.to_string());
                unwritten = 0;
                // A record may be half written. What comes next begins on a line of its own.
                sink = BufWriter::new(sink.into_parts().0);
                let _ = sink.write_all(b"\n");
            }
        }
        if let Some(done) = flushed {
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc as std_mpsc};

    use serde_json::Value;

    use super::*;

    fn session() -> Session {
        Session { id: SessionId::random(), client: "[::ffff:192.0.2.7]:4000".parse().unwrap() }
    }

    /// A sink whose writes the test lets through one by one, or has fail.
    struct Gate {
        answers: std_mpsc::Receiver<io::Result<()>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.answers.recv().unwrap_or(Ok(()))?;
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_sink_that_blocks_or_fails_holds_nobody_up_and_is_counted() {
        let (answer, answers) = std_mpsc::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let metrics = Arc::new(Metrics::new());
        let gate = Gate { answers, written: Arc::clone(&written) };
        let audit = Audit::start(Box::new(gate), Arc::clone(&metrics)).unwrap();
        let event = Event::LoginRefused { login: "root", certificate: None, reason: "unknown_user" };

        // The writer blocks in the first write, so the queue fills. It may have taken some before that.
        for _ in 0..QUEUE * 2 {
            audit.record(session(), event);
        }
        let lost = |metrics: &Metrics| -> usize {
            let text = metrics.render();
            let line = text.lines().find(|line| line.starts_with("bastion_audit_lost_total ")).unwrap();
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        let by_queue = lost(&metrics);
        assert!((QUEUE / 2..=QUEUE).contains(&by_queue), "{by_queue}");

        answer.send(Err(io::Error::other("disk full"))).unwrap();
        drop(answer);
        audit.flush(Duration::from_secs(10)).await;
        assert!(lost(&metrics) > by_queue);
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
        for line in &lines {
            serde_json::from_str::<Value>(line).expect("whole lines only");
        }
        assert_eq!(lines.len() + lost(&metrics), QUEUE * 2, "each is written or counted");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let error = open(&AuditTo::File("/nowhere/audit.jsonl".into())).err().unwrap();
        assert!(error.to_string().starts_with("/nowhere/audit.jsonl: "), "{error}");
    }
}
