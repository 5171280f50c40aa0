//! Serializes one audit record: flat, escaped, bounded.

use std::{net::IpAddr, time::SystemTime};

use serde::Serialize;
use ssh_key::Certificate;

use super::{Event, Kind, Route, Traffic};
use crate::{
    common::text::moment,
    identity::{self, Identity},
    session::Session,
};

/// The longest text from a client that is written, in characters before escaping.
pub(super) const LONGEST_TEXT: usize = 256;
/// The most principals that are written.
const MOST_PRINCIPALS: usize = 64;

/// The fields, in the order in which they are written.
#[derive(Debug, Default, Serialize)]
pub(super) struct Record {
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
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    streams: Option<u64>,
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
    pub(super) fn new(now: SystemTime, session: Session, event: &Event<'_>) -> Self {
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
            Event::RefusedAgain { identity, kind: Kind::Forward { reason, to }, count } => {
                let route = to.as_ref().map(|to| Route {
                    host: &to.host,
                    port: to.port,
                    address: None,
                    rule: to.rule.as_deref(),
                });
                Self {
                    who: identity.into(),
                    route: route.map(Into::into).unwrap_or_default(),
                    reason: Some(reason),
                    count: Some(count.get()),
                    ..record
                }
            }
            Event::RefusedAgain { identity, kind: Kind::Request { request, reason }, count } => Self {
                who: identity.into(),
                request: Some(request),
                reason: Some(reason),
                count: Some(count.get()),
                ..record
            },
            Event::StreamsResumed { identity, streams } => {
                Self { who: identity.into(), streams: Some(streams), ..record }
            }
            Event::SessionClosed { identity, traffic, reason } => {
                Self { who: identity.into(), traffic: Some(traffic.into()), reason: Some(reason), ..record }
            }
        }
    }

    /// The record as a line of JSON, line break included.
    pub(super) fn line(&self) -> Vec<u8> {
        // A record always serializes: its keys are constant, its values texts and numbers.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// Escapes text from a client, and cuts it.
fn text(foreign: &str) -> String {
    let mut chars = foreign.chars();
    let mut text: String = chars.by_ref().take(LONGEST_TEXT).flat_map(char::escape_debug).collect();
    if chars.next().is_some() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use ssh_key::{Algorithm, PrivateKey, certificate::Builder};

    use super::*;
    use crate::session::SessionId;

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
}
