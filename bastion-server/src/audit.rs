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

use serde::Serialize;
use ssh_key::Certificate;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    config::AuditTo,
    identity::{self, Identity},
    listener::SessionId,
    metrics::Metrics,
    telemetry::moment,
};

/// Records that may wait for the writer.
const QUEUE: usize = 8192;
/// The longest text that others chose which is written, in characters before escaping.
const LONGEST_TEXT: usize = 256;
/// The most principals that are written.
const MOST_PRINCIPALS: usize = 64;

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

/// One record as it is written.
#[derive(Debug, Default, Serialize)]
struct Record {
    time: String,
    event: &'static str,
    session: String,
    source_address: String,
    source_port: u16,
    #[serde(flatten)]
    who: Who,
    #[serde(flatten)]
    route: RouteFields,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(flatten)]
    traffic: Option<TrafficFields>,
}

#[derive(Debug, Default, Serialize)]
struct Who {
    login: String,
    #[serde(flatten)]
    certificate: Option<CertificateFields>,
}

#[derive(Debug, Serialize)]
struct CertificateFields {
    principals: Vec<String>,
    key_id: String,
    serial: u64,
    expires: Option<String>,
    authority: String,
    key: String,
}

#[derive(Debug, Default, Serialize)]
struct RouteFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_port: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
}

#[derive(Debug, Serialize)]
struct TrafficFields {
    bytes_sent: u64,
    bytes_received: u64,
    duration_ms: u64,
}

impl From<&Identity> for Who {
    fn from(identity: &Identity) -> Self {
        let principals = identity.principals().iter().take(MOST_PRINCIPALS);
        Self {
            login: text(identity.login().as_str()),
            certificate: Some(CertificateFields {
                principals: principals.map(|principal| text(principal.as_str())).collect(),
                key_id: text(identity.key_id()),
                serial: identity.serial(),
                expires: Some(moment(identity.valid_before())),
                authority: identity.authority().to_string(),
                key: identity.key().to_string(),
            }),
        }
    }
}

impl From<&Certificate> for CertificateFields {
    fn from(certificate: &Certificate) -> Self {
        let principals = certificate.valid_principals().iter().take(MOST_PRINCIPALS);
        Self {
            principals: principals.map(|principal| text(principal)).collect(),
            key_id: text(certificate.key_id()),
            serial: certificate.serial(),
            expires: certificate.valid_before_time().map(moment),
            authority: identity::fingerprint(certificate.signature_key()).to_string(),
            key: identity::fingerprint(certificate.public_key()).to_string(),
        }
    }
}

impl From<Route<'_>> for RouteFields {
    fn from(route: Route<'_>) -> Self {
        Self {
            destination_host: Some(text(route.host)),
            destination_port: Some(route.port),
            destination_address: route.address,
            rule: route.rule.map(text),
        }
    }
}

impl From<Traffic> for TrafficFields {
    fn from(traffic: Traffic) -> Self {
        Self {
            bytes_sent: traffic.sent,
            bytes_received: traffic.received,
            duration_ms: u64::try_from(traffic.duration.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl Record {
    fn new(now: SystemTime, session: Session, event: &Event<'_>) -> Self {
        let record = Self {
            time: moment(now),
            event: event.name(),
            session: session.id.to_string(),
            source_address: session.client.ip().to_canonical().to_string(),
            source_port: session.client.port(),
            ..Self::default()
        };
        match *event {
            Event::LoginAccepted { identity } => Self { who: identity.into(), ..record },
            Event::LoginRefused { login, certificate, reason } => Self {
                who: Who { login: text(login), certificate: certificate.map(Into::into) },
                reason: Some(reason),
                ..record
            },
            Event::ForwardOpened { identity, route } => {
                Self { who: identity.into(), route: route.into(), ..record }
            }
            Event::ForwardRefused { identity, route, reason } => {
                Self { who: identity.into(), route: route.into(), reason: Some(reason), ..record }
            }
            Event::ForwardClosed { identity, route, traffic, reason } => Self {
                who: identity.into(),
                route: route.into(),
                traffic: Some(traffic.into()),
                reason: Some(reason),
                ..record
            },
            Event::RequestRefused { identity, request, reason } => {
                Self { who: identity.into(), request: Some(request), reason: Some(reason), ..record }
            }
            Event::SessionClosed { identity, traffic, reason } => {
                Self { who: identity.into(), traffic: Some(traffic.into()), reason: Some(reason), ..record }
            }
        }
    }

    /// The line, with its end.
    fn line(&self) -> Vec<u8> {
        // Nothing in a record can fail to be JSON: keys are ours, and values are texts and numbers.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// Text that others chose: visible characters only, and not too many.
fn text(foreign: &str) -> String {
    let mut chars = foreign.chars();
    let mut text: String = chars.by_ref().take(LONGEST_TEXT).flat_map(char::escape_debug).collect();
    if chars.next().is_some() {
        text.push('…');
    }
    text
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

    use serde_json::{Value, json};
    use ssh_key::{Algorithm, PrivateKey, certificate::Builder};

    use super::*;

    fn session() -> Session {
        Session { id: SessionId::random(), client: "[::ffff:192.0.2.7]:4000".parse().unwrap() }
    }

    fn forged(key_id: &str, principal: &str) -> Certificate {
        let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap();
        let mut builder = Builder::new(vec![7; 16], key.public_key().key_data().clone(), 100, 1000).unwrap();
        builder.key_id(key_id).unwrap();
        builder.valid_principal(principal).unwrap();
        builder.sign(&key).unwrap()
    }

    fn written(event: Event<'_>) -> (String, Value) {
        let line = Record::new(SystemTime::UNIX_EPOCH, session(), &event).line();
        let line = String::from_utf8(line).unwrap();
        let value = serde_json::from_str(&line).unwrap();
        (line, value)
    }

    #[test]
    fn a_refused_login_says_who_whence_and_why() {
        let certificate = forged("vault-me", "dev");
        let (_, value) = written(Event::LoginRefused {
            login: "root",
            certificate: Some(&certificate),
            reason: "unknown_user",
        });
        assert_eq!(value["time"], "1970-01-01T00:00:00.000Z");
        assert_eq!(value["event"], "login_refused");
        assert_eq!(value["source_address"], "192.0.2.7");
        assert_eq!(value["source_port"], 4000);
        assert_eq!(value["login"], "root");
        assert_eq!(value["principals"], json!(["dev"]));
        assert_eq!(value["key_id"], "vault-me");
        assert_eq!(value["expires"], "1970-01-01T00:16:40.000Z");
        assert_eq!(value["reason"], "unknown_user");
        assert!(value["authority"].as_str().unwrap().starts_with("SHA256:"));
        assert_eq!(value.get("bytes_sent"), None);
        let (_, value) =
            written(Event::LoginRefused { login: "root", certificate: None, reason: "no_certificate" });
        assert_eq!(value.get("key_id"), None);
    }

    #[test]
    fn foreign_text_is_one_visible_line_of_bounded_length() {
        let evil = "a\nb\u{1b}[2Jc\u{202e}d\0\"";
        let certificate = forged(evil, evil);
        let (line, value) =
            written(Event::LoginRefused { login: evil, certificate: Some(&certificate), reason: "x" });
        assert!(line.trim_end().chars().all(|char| !char.is_control() && char != '\u{202e}'), "{line}");
        assert_eq!(value["login"], r#"a\nb\u{1b}[2Jc\u{202e}d\0\""#);
        assert_eq!(value["key_id"], value["login"]);
        assert_eq!(value["principals"][0], value["login"]);
        let long = "x".repeat(100_000);
        let (line, _) = written(Event::LoginRefused { login: &long, certificate: None, reason: "x" });
        assert!(line.len() < 1000, "{}", line.len());
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
