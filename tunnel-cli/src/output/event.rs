//! Prints what happens, once for people and once for scripts. The names in the JSON are a promise.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use plain_text::rough;
use serde_json::{Value, json};

use crate::endpoint::Endpoint;

/// Something happened.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event<'a> {
    /// The local port is bound. Connections are held until `Ready`.
    Listening {
        /// The local address.
        listen: SocketAddr,
        /// All local addresses, that one first.
        addresses: &'a [SocketAddr],
        /// Where it leads.
        destination: &'a Endpoint,
    },
    /// Vault knows us.
    SignedIn {
        /// Vault.
        server: &'a str,
        /// Who it says we are.
        name: &'a str,
        /// How we logged in.
        method: &'a str,
        /// How long that holds; `None` for ever.
        left: Option<Duration>,
    },
    /// A new certificate.
    Signed {
        /// Its key id.
        key_id: &'a str,
        /// Its serial number.
        serial: u64,
        /// When it ends.
        until: SystemTime,
    },
    /// An attempt to reach the bastion goes to this address.
    Dialling {
        /// The bastion.
        bastion: &'a Endpoint,
        /// One of its addresses.
        address: SocketAddr,
    },
    /// The first byte can flow.
    Ready {
        /// The local address.
        listen: SocketAddr,
        /// All local addresses, that one first.
        addresses: &'a [SocketAddr],
        /// Where it leads.
        destination: &'a Endpoint,
        /// Through whom.
        bastion: &'a Endpoint,
        /// When the certificate ends.
        until: SystemTime,
        /// By how long that is from now.
        left: Duration,
    },
    /// The connection to the bastion is gone.
    Lost {
        /// The bastion.
        bastion: &'a Endpoint,
        /// Why.
        reason: &'a str,
    },
    /// An attempt failed, and another will be made.
    Retry {
        /// How many failed in a row.
        tries: u32,
        /// When the next one begins.
        next: Duration,
        /// Why the last one failed.
        reason: &'a str,
        /// Whether it has not been said yet that something is wrong.
        is_news: bool,
    },
    /// The connection is back.
    Back {
        /// The bastion.
        bastion: &'a Endpoint,
        /// How long it was gone.
        away: Duration,
        /// How many open connections went on.
        kept: usize,
    },
    /// A new connection with a new certificate took over; nothing was lost.
    Renewed {
        /// When the new certificate ends.
        until: SystemTime,
    },
    /// There is no new certificate, or no new connection with it, yet.
    RenewalFailed {
        /// Why.
        reason: &'a str,
        /// How long the present one is valid.
        left: Duration,
    },
    /// Nothing goes on before a person has signed in to Vault again.
    SignInNeeded {
        /// Why.
        reason: &'a str,
        /// What to type.
        command: &'a str,
        /// How long the present certificate is valid.
        left: Duration,
    },
    /// One stream was opened.
    Opened {
        /// The local program's address.
        peer: SocketAddr,
        /// Where it leads.
        destination: &'a Endpoint,
    },
    /// One stream ended.
    Closed {
        /// The local program's address.
        peer: SocketAddr,
        /// Where it led.
        destination: &'a Endpoint,
        /// Why.
        reason: &'a str,
    },
    /// One stream could not be opened; others are untouched.
    NotOpened {
        /// Where it should have led.
        destination: &'a Endpoint,
        /// `policy`, `target`, `limit` or `bastion`.
        cause: &'a str,
        /// The bastion's words.
        reason: &'a str,
    },
    /// New connections are not opened immediately; none is lost. Said once until it has passed.
    HeldBack {
        /// Where they lead.
        destination: &'a Endpoint,
        /// Why.
        reason: &'a str,
    },
    /// How to connect to a database.
    Database {
        /// Its name in the configuration.
        name: &'a str,
        /// Where to connect to.
        listen: SocketAddr,
        /// The database's own name.
        database: &'a str,
        /// As whom.
        user: &'a str,
        /// Shown to scripts only; people get it through [`super::Output::secret`].
        password: &'a secrecy::SecretString,
        /// `postgresql://…` without a password.
        url: &'a str,
        /// The same for libpq, with the name that the database's certificate is for.
        verifying_url: &'a str,
        /// When the credentials end unless they are renewed.
        until: SystemTime,
    },
    /// Database credentials are gone from the database.
    Revoked,
    /// Anything else that a person should know.
    Warning(&'a str),
    /// Anything else, for `-v`.
    Note(&'a str),
    /// Everything has ended as asked.
    Ended,
}

/// The least verbosity at which an event is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Every user, on standard error.
    Warning,
    /// Every user.
    Normal,
    /// `-v`.
    Detail,
    /// `-vv`.
    Trace,
}

impl Event<'_> {
    /// The least verbosity at which an event is printed.
    pub(crate) fn level(&self) -> Level {
        match self {
            Self::NotOpened { .. }
            | Self::RenewalFailed { .. }
            | Self::SignInNeeded { .. }
            | Self::Warning(_) => Level::Warning,
            Self::Retry { is_news: true, .. } => Level::Warning,
            Self::SignedIn { .. }
            | Self::Ready { .. }
            | Self::Lost { .. }
            | Self::Back { .. }
            | Self::HeldBack { .. }
            | Self::Database { .. } => Level::Normal,
            Self::Listening { .. }
            | Self::Signed { .. }
            | Self::Retry { .. }
            | Self::Renewed { .. }
            | Self::Revoked
            | Self::Note(_)
            | Self::Ended => Level::Detail,
            Self::Dialling { .. } | Self::Opened { .. } | Self::Closed { .. } => Level::Trace,
        }
    }

    /// As people read it.
    pub(super) fn human(&self) -> String {
        match self {
            Self::Listening { addresses, destination, .. } => {
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                format!("{} → {destination}   listening", addresses.join(" and "))
            }
            Self::SignedIn { server, name, method, left } => match left {
                Some(left) => format!("Signed in to {server} as {name} ({method}, {} left)", rough(*left)),
                None => format!("Signed in to {server} as {name} ({method})"),
            },
            Self::Signed { key_id, serial, until } => {
                format!("New certificate: key id {key_id}, serial {serial}, until {}", time(*until))
            }
            Self::Dialling { bastion, address } => format!("Trying {bastion} at {address}"),
            Self::Ready { listen, destination, bastion, left, .. } => {
                format!(
                    "{listen} → {destination}   ready   via {}, certificate {}",
                    bastion.host(),
                    rough(*left)
                )
            }
            Self::Lost { bastion, reason } => format!("Lost {}: {reason}", bastion.host()),
            Self::Retry { is_news: true, reason, .. } => format!("warning: {reason}; trying until it works"),
            Self::Retry { tries, next, reason, .. } => {
                format!("Try {tries} failed, next in {} ms: {reason}", next.as_millis())
            }
            Self::Back { bastion, away, kept } => {
                let kept = match kept {
                    0 => String::new(),
                    1 => "; the open connection goes on".to_owned(),
                    several => format!("; {several} open connections go on"),
                };
                format!("Back at {} after {:.1} s{kept}", bastion.host(), away.as_secs_f64())
            }
            Self::Renewed { until } => {
                format!("New connection with a new certificate, until {}", time(*until))
            }
            Self::RenewalFailed { reason, left } => {
                format!(
                    "warning: not renewed yet, the present certificate ends in {}: {reason}",
                    rough(*left)
                )
            }
            Self::SignInNeeded { reason, command, left } if left.is_zero() => {
                format!("warning: {reason}; waiting until you have signed in again:\n  {command}")
            }
            Self::SignInNeeded { reason, command, left } => {
                format!(
                    "warning: {reason}; what is open goes on for {}, as long as its certificate. Sign in again:\n  {command}",
                    rough(*left)
                )
            }
            Self::Opened { peer, destination } => format!("{peer} → {destination}   open"),
            Self::Closed { peer, destination, reason } => format!("{peer} → {destination}   {reason}"),
            Self::NotOpened { destination, cause: _, reason } => format!("{destination}   {reason}"),
            Self::HeldBack { destination, reason } => format!("{destination}   held back: {reason}"),
            Self::Database { verifying_url, .. } => format!("  psql \"{verifying_url}\""),
            Self::Revoked => "The database credentials are revoked".to_owned(),
            Self::Warning(text) => format!("warning: {text}"),
            Self::Note(text) => (*text).to_owned(),
            Self::Ended => "Ended".to_owned(),
        }
    }

    /// As scripts read it.
    pub(super) fn json(&self) -> Value {
        match self {
            Self::Listening { listen, addresses, destination } => json!({
                "event": "listening", "listen": listen, "port": listen.port(), "addresses": addresses,
                "destination": destination.to_string(),
            }),
            Self::SignedIn { server, name, method, left } => json!({
                "event": "signed-in", "server": server, "name": name, "method": method,
                "seconds_left": left.map(|left| left.as_secs()),
            }),
            Self::Signed { key_id, serial, until } => json!({
                "event": "certificate", "key_id": key_id, "serial": serial, "until": time(*until),
            }),
            Self::Dialling { bastion, address } => {
                json!({ "event": "dialling", "bastion": bastion.to_string(), "address": address })
            }
            Self::Ready { listen, addresses, destination, bastion, until, .. } => json!({
                "event": "ready", "listen": listen, "port": listen.port(), "addresses": addresses,
                "destination": destination.to_string(), "bastion": bastion.to_string(), "certificate_until": time(*until),
            }),
            Self::Lost { bastion, reason } => {
                json!({ "event": "lost", "bastion": bastion.to_string(), "reason": reason })
            }
            Self::Retry { tries, next, reason, is_news: _ } => json!({
                "event": "retry", "tries": tries, "next_ms": u64::try_from(next.as_millis()).unwrap_or(u64::MAX),
                "reason": reason,
            }),
            Self::Back { bastion, away, kept } => json!({
                "event": "back", "bastion": bastion.to_string(), "kept": kept,
                "away_ms": u64::try_from(away.as_millis()).unwrap_or(u64::MAX),
            }),
            Self::Renewed { until } => json!({ "event": "renewed", "certificate_until": time(*until) }),
            Self::RenewalFailed { reason, left } => {
                json!({ "event": "renewal-failed", "reason": reason, "seconds_left": left.as_secs() })
            }
            Self::SignInNeeded { reason, command, left } => json!({
                "event": "sign-in-needed", "reason": reason, "command": command, "seconds_left": left.as_secs(),
            }),
            Self::Opened { peer, destination } => {
                json!({ "event": "opened", "peer": peer, "destination": destination.to_string() })
            }
            Self::Closed { peer, destination, reason } => json!({
                "event": "closed", "peer": peer, "destination": destination.to_string(), "reason": reason,
            }),
            Self::NotOpened { destination, cause, reason } => json!({
                "event": "not-opened", "destination": destination.to_string(), "cause": cause, "reason": reason,
            }),
            Self::HeldBack { destination, reason } => json!({
                "event": "held-back", "destination": destination.to_string(), "reason": reason,
            }),
            Self::Database { name, listen, database, user, password, url, verifying_url, until } => {
                use secrecy::ExposeSecret;
                json!({
                    "event": "database", "name": name, "host": listen.ip(), "port": listen.port(),
                    "database": database, "user": user, "password": password.expose_secret(), "url": url,
                    "verify_full_url": verifying_url,
                    "until": time(*until),
                })
            }
            Self::Revoked => json!({ "event": "revoked" }),
            Self::Warning(text) => json!({ "event": "warning", "message": text }),
            Self::Note(text) => json!({ "event": "note", "message": text }),
            Self::Ended => json!({ "event": "ended" }),
        }
    }
}

/// RFC 3339, UTC, whole seconds.
fn time(moment: SystemTime) -> String {
    humantime::format_rfc3339_seconds(moment).to_string()
}
