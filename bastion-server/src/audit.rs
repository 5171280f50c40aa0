//! Writes audit records: which client reached which destination, from where, and by which rule. No other
//! module writes them.
//!
//! Each record is one JSON object on one line. Fields without a value are left out. Field names have the same
//! meaning in every event, and users rely on them:
//!
//! | field | meaning |
//! |---|---|
//! | `time` | UTC, RFC 3339, to the millisecond |
//! | `event` | see [`Event::name`] |
//! | `session` | names one SSH connection, also in the log |
//! | `source_address`, `source_port` | where the client connected from |
//! | `login` | the login name that the client used or tried |
//! | `principals`, `key_id`, `serial`, `expires` | from its certificate |
//! | `authority`, `key` | SHA-256 fingerprints of the key that signed, and of the key that logged in |
//! | `destination_host`, `destination_port` | as the client asked |
//! | `destination_address` | what the host resolved to, and what was connected to |
//! | `rule` | the name of the rule that decided |
//! | `request` | another request of the client, such as a shell |
//! | `reason` | a code: why it was refused, or why it ended |
//! | `count` | how many refusals this record stands for; without it, one |
//! | `bytes_sent`, `bytes_received` | from the client to the target, and back |
//! | `duration_ms` | from open to close |
//! | `streams` | how many open forwards went on in this session |
//!
//! Repeated refusals of a session are counted: the first `forward_refused` or `request_refused` of a kind
//! (the same reason, destination and rule, or the same request) is written immediately; those like it become
//! one record with a `count`, ten seconds later at most. A session that asks for more than some thirty
//! destinations within that time gets the others counted by their reason, in a record without a destination.
//! So the counts add up to the number of refusals, and a client cannot make the log grow by hundreds of
//! records a second by being refused.
//!
//! In `login_refused` the fields of the certificate are the client's claim, which the bastion has not
//! verified.
//!
//! A session never waits for the disk: a writer thread takes the records from a bounded queue, and retries
//! for as long as it must. Records that do not fit into the queue meanwhile are counted as
//! `bastion_audit_lost_total`.
//!
//! The setting `audit.when_full` decides the rest. With `stop` the bastion grants no login and no forward
//! that it could not record, while open forwards continue. This is the default, because an attacker who can
//! fill a disk must not gain a way to act unseen. With `count` service goes on, and only the number of lost
//! records tells.

mod record;
mod repeats;

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Write},
    net::IpAddr,
    num::NonZeroU64,
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    libc::O_NONBLOCK,
};
use ssh_key::Certificate;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    config::{AuditTo, WhenFull},
    identity::Identity,
    session::Session,
    telemetry::metrics::Metrics,
};
use record::Record;
pub(crate) use repeats::{Asked, Due, Kind, Repeats};

/// The most records that wait for the writer.
const QUEUE: usize = 8192;
/// The places in the queue that are kept, when nothing new is granted, for the end of open sessions and
/// forwards.
const RESERVE: usize = QUEUE / 2;
/// The most bytes of one write.
const BATCH: usize = 64 * 1024;
/// How long one write may take before the destination counts as blocked.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause before a failed write is retried.
const RETRY: Duration = Duration::from_millis(500);

/// An event to record. Reasons are codes of our own enums; all other text may come from clients.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event<'a> {
    /// A client logged in.
    LoginAccepted { identity: &'a Identity },
    /// A login was refused.
    LoginRefused {
        /// The login name that the client sent.
        login: &'a str,
        /// The certificate that the client offered, if any.
        certificate: Option<&'a Certificate>,
        reason: &'static str,
    },
    /// A forwarded connection was opened.
    ForwardOpened { identity: &'a Identity, route: Route<'a> },
    /// A forwarded connection was refused.
    ForwardRefused {
        identity: &'a Identity,
        /// The route, as far as it was known.
        route: Route<'a>,
        reason: &'static str,
    },
    /// A forwarded connection ended.
    ForwardClosed { identity: &'a Identity, route: Route<'a>, traffic: Traffic, reason: &'static str },
    /// The client went on, after a new login, with forwards that it had opened in an earlier session.
    StreamsResumed {
        identity: &'a Identity,
        /// How many.
        streams: u64,
    },
    /// The client asked for something that the bastion never grants, such as a shell.
    RequestRefused { identity: &'a Identity, request: &'static str, reason: &'static str },
    /// More refusals of a kind that was recorded before.
    RefusedAgain {
        identity: &'a Identity,
        kind: &'a Kind,
        /// The number of refusals since the last record.
        count: NonZeroU64,
    },
    /// The session of a client that had logged in ended.
    SessionClosed {
        identity: &'a Identity,
        /// The traffic of all its forwards.
        traffic: Traffic,
        reason: &'static str,
    },
}

/// The route of one forwarded connection, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route<'a> {
    /// The host as the client wrote it.
    pub host: &'a str,
    /// The port as the client wrote it: the protocol has 32 bits for it.
    pub port: u32,
    /// The address that the bastion connected to.
    pub address: Option<IpAddr>,
    /// The rule that decided.
    pub rule: Option<&'a str>,
}

/// The amount and duration of traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Bytes from the client to the target.
    pub sent: u64,
    /// Bytes from the target to the client.
    pub received: u64,
    /// The time from open to close.
    pub duration: Duration,
}

impl Event<'_> {
    /// The event's name in the record.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::LoginAccepted { .. } => "login_accepted",
            Self::LoginRefused { .. } => "login_refused",
            Self::ForwardOpened { .. } => "forward_opened",
            Self::ForwardRefused { .. } | Self::RefusedAgain { kind: Kind::Forward { .. }, .. } => {
                "forward_refused"
            }
            Self::ForwardClosed { .. } => "forward_closed",
            Self::RequestRefused { .. } | Self::RefusedAgain { kind: Kind::Request { .. }, .. } => {
                "request_refused"
            }
            Self::SessionClosed { .. } => "session_closed",
            Self::StreamsResumed { .. } => "streams_resumed",
        }
    }
}

/// Accepts records from every part of the bastion.
#[derive(Clone, Debug)]
pub(crate) struct Audit {
    queue: mpsc::Sender<Message>,
    when_full: WhenFull,
    progress: Arc<Progress>,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    Flush(oneshot::Sender<()>),
}

/// Records cannot be written, so nothing is granted that would need one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bastion cannot write its audit records, so it grants nothing new; try again later")]
pub(crate) struct Stopped;

impl Stopped {
    /// The reason code in logs, metrics and messages to clients.
    pub(crate) fn code(self) -> &'static str {
        "audit_stopped"
    }
}

/// The state of the writer.
#[derive(Debug)]
struct Progress {
    metrics: Arc<Metrics>,
    /// When the current write began, until it succeeds.
    writing: ArcSwapOption<Instant>,
    failing: AtomicBool,
    losing: AtomicBool,
}

impl Progress {
    fn begun(&self) {
        self.writing.store(Some(Arc::new(Instant::now())));
    }

    fn failed(&self, error: &io::Error) {
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "audit records cannot be written; retrying until they can");
        }
    }

    fn succeeded(&self) {
        self.writing.store(None);
        let failed = self.failing.swap(false, Ordering::Relaxed);
        let lost = self.losing.swap(false, Ordering::Relaxed);
        if failed || lost {
            tracing::info!("audit records are written again");
        }
    }

    fn lost(&self) {
        self.metrics.audit_lost(1);
        if !self.losing.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "audit records are being lost because {QUEUE} of them wait to be written; bastion_audit_lost_total \
                 counts them"
            );
        }
    }

    fn is_stuck(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
            || self.writing.load().as_ref().is_some_and(|begun| begun.elapsed() > PATIENCE)
    }
}

/// Why the destination of audit records cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file cannot be appended to.
    #[error("{}: {source}\n  audit.to names it; its folder must be there, and be writable for the bastion", .path.display())]
    File { path: PathBuf, source: io::Error },
    /// Standard output is closed.
    #[error("standard output: {0}\n  audit.to names it; a file can take its place")]
    StandardOutput(io::Error),
    /// The writer's thread cannot be started.
    #[error("cannot start the writer of audit records: {0}")]
    Thread(io::Error),
}

/// Opens the destination of records, without writing to it.
///
/// # Errors
/// When a file cannot be appended to.
pub(crate) fn open(to: &AuditTo) -> Result<File, Error> {
    match to {
        // The file descriptor itself: the buffer of `Stdout` would not tell what was written and what was
        // not.
        AuditTo::Stdout => {
            io::stdout().as_fd().try_clone_to_owned().map(File::from).map_err(Error::StandardOutput)
        }
        AuditTo::File(path) => append(path).map_err(|source| Error::File { path: path.clone(), source }),
    }
}

/// Opens a file at its end. A pipe without a reader is an error; the bastion does not wait for one.
fn append(path: &Path) -> io::Result<File> {
    let file =
        OpenOptions::new().create(true).append(true).mode(0o640).custom_flags(O_NONBLOCK).open(path)?;
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
    Ok(file)
}

impl Audit {
    /// Starts the writer.
    ///
    /// # Errors
    /// When its thread cannot be started.
    pub(crate) fn start(
        sink: impl Write + Send + 'static,
        when_full: WhenFull,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        let (queue, messages) = mpsc::channel(QUEUE);
        let progress = Arc::new(Progress {
            metrics,
            writing: ArcSwapOption::empty(),
            failing: AtomicBool::new(false),
            losing: AtomicBool::new(false),
        });
        let audit = Self { queue, when_full, progress: Arc::clone(&progress) };
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || write(sink, messages, &progress))
            .map_err(Error::Thread)?;
        Ok(audit)
    }

    /// Checks, before a login or forward is granted, that records can be written.
    ///
    /// # Errors
    /// When they cannot, and `audit.when_full` is `stop`.
    pub(crate) fn ready(&self) -> Result<(), Stopped> {
        match self.when_full {
            WhenFull::Stop if self.progress.is_stuck() || self.queue.capacity() < RESERVE => Err(Stopped),
            WhenFull::Stop | WhenFull::Count => Ok(()),
        }
    }

    /// Records an event that has just happened. Never blocks.
    pub(crate) fn record(&self, session: Session, event: Event<'_>) {
        let line = Record::new(SystemTime::now(), session, &event).line();
        if self.queue.try_send(Message::Line(line)).is_err() {
            self.progress.lost();
        }
    }

    /// Waits until every record is written, for `patience` at most.
    pub(crate) async fn flush(&self, patience: Duration) {
        let (done, written) = oneshot::channel();
        let flushed = async {
            if self.queue.send(Message::Flush(done)).await.is_ok() {
                let _ = written.await;
            }
        };
        if timeout(patience, flushed).await.is_err() {
            tracing::error!("audit records were not written before the shutdown, and are lost");
        }
    }
}

/// Runs the writer, in a thread of its own because files and pipes block.
fn write(mut sink: impl Write, mut messages: mpsc::Receiver<Message>, progress: &Progress) {
    let mut batch = Vec::new();
    let mut next = messages.blocking_recv();
    while let Some(message) = next {
        let flushed = match message {
            Message::Line(line) => {
                batch.extend_from_slice(&line);
                None
            }
            Message::Flush(done) => Some(done),
        };
        // A batch is written as soon as no other record waits.
        if flushed.is_some() || batch.len() >= BATCH || messages.is_empty() {
            progress.begun();
            if !persist(&mut sink, &batch, &messages, progress) {
                return;
            }
            progress.succeeded();
            batch.clear();
        }
        if let Some(done) = flushed {
            let _ = done.send(());
        }
        next = messages.blocking_recv();
    }
}

/// Writes all of the batch, with as many retries as that takes. Gives up, and returns so, only when every
/// sender is gone.
fn persist(
    sink: &mut impl Write,
    mut bytes: &[u8],
    messages: &mpsc::Receiver<Message>,
    progress: &Progress,
) -> bool {
    while !bytes.is_empty() {
        let error = match sink.write(bytes) {
            // A write cannot accept more bytes than it was given.
            Ok(written) if written > 0 => {
                bytes = bytes.get(written..).unwrap_or_default();
                continue;
            }
            Ok(_) => ErrorKind::WriteZero.into(),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => error,
        };
        progress.failed(&error);
        if messages.is_closed() {
            return false;
        }
        std::thread::sleep(RETRY);
    }
    true
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc as std_mpsc};

    use serde_json::Value;

    use super::*;

    fn session() -> Session {
        Session {
            id: crate::session::SessionId::random(),
            client: "[::ffff:192.0.2.7]:4000".parse().unwrap(),
        }
    }

    /// A sink whose writes the test lets through one by one, or makes fail.
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

    type Answers = std_mpsc::Sender<io::Result<()>>;
    type Written = Arc<Mutex<Vec<u8>>>;

    fn start(when_full: WhenFull) -> (Audit, Answers, Written) {
        let (answer, answers) = std_mpsc::channel();
        let written = Written::default();
        let gate = Gate { answers, written: Arc::clone(&written) };
        (Audit::start(gate, when_full, Arc::default()).unwrap(), answer, written)
    }

    fn lost(audit: &Audit) -> usize {
        let text = audit.progress.metrics.render();
        let line = text.lines().find(|line| line.starts_with("bastion_audit_lost_total ")).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    const REFUSED: Event<'_> =
        Event::LoginRefused { login: "root", certificate: None, reason: "unknown_user" };

    #[tokio::test]
    async fn a_sink_that_blocks_and_fails_holds_no_session_up_and_loses_only_what_is_counted() {
        let (audit, answer, written) = start(WhenFull::Count);
        // The writer blocks in the first write, so the queue fills. The writer may have taken some records
        // before that.
        for _ in 0..QUEUE * 2 {
            audit.record(session(), REFUSED);
        }
        let lost_by_queue = lost(&audit);
        assert!((QUEUE / 2..=QUEUE).contains(&lost_by_queue), "{lost_by_queue}");
        assert_eq!(audit.ready(), Ok(()));

        answer.send(Err(io::Error::other("disk full"))).unwrap();
        drop(answer);
        audit.flush(Duration::from_secs(10)).await;
        assert_eq!(lost(&audit), lost_by_queue, "a failed write is tried again");
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        for line in text.lines() {
            serde_json::from_str::<Value>(line).expect("whole lines only");
        }
        assert_eq!(text.lines().count() + lost_by_queue, QUEUE * 2, "each is written or counted");
    }

    #[tokio::test]
    async fn nothing_is_granted_while_records_wait_for_too_long() {
        let (audit, answer, _) = start(WhenFull::Stop);
        assert_eq!(audit.ready(), Ok(()));
        for _ in 0..QUEUE {
            audit.record(session(), REFUSED);
        }
        assert_eq!(audit.ready(), Err(Stopped), "too many are waiting");
        drop(answer);
        audit.flush(Duration::from_secs(10)).await;
        assert_eq!(audit.ready(), Ok(()), "it recovers");
    }

    #[tokio::test]
    async fn a_failed_write_stops_until_it_succeeds() {
        let (audit, answer, _) = start(WhenFull::Stop);
        audit.record(session(), REFUSED);
        answer.send(Err(io::Error::other("disk full"))).unwrap();
        let stopped = async {
            while audit.ready().is_ok() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), stopped).await.unwrap();
        drop(answer);
        audit.flush(Duration::from_secs(10)).await;
        assert_eq!(audit.ready(), Ok(()));
    }

    #[test]
    fn a_pipe_without_a_reader_is_refused_immediately() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(open(&AuditTo::File(path)), Err(Error::File { .. })));
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let error = open(&AuditTo::File("/nowhere/audit.jsonl".into())).err().unwrap();
        assert!(error.to_string().starts_with("/nowhere/audit.jsonl: "), "{error}");
    }
}
