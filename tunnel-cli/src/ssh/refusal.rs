//! Says why there is no session, or no stream on it, from what the bastion told.

use std::time::Duration;

use plain_text::escaped;
use russh::{
    ChannelOpenFailure, MethodKind, MethodSet,
    client::{self, AuthResult, KeyboardInteractiveAuthResponse},
};
use tokio::{sync::watch, time::timeout};

use super::handler::{ENDED, Ended, Handler, Shared};
use crate::trust::HostKeyMismatch;

/// How long the reason for a refusal may take to follow it.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How much of any reason of the server's is shown, in characters.
pub(super) const LONGEST_REASON: usize = 300;
/// With these words the bastion begins the reason for which it refused a certificate.
const CERTIFICATE_REFUSED: &str = "certificate refused:";

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Not the bastion.
    #[error("{0}")]
    HostKey(HostKeyMismatch),
    /// A server, or an attacker in between, that would let packets be dropped unseen (CVE-2023-48795).
    #[error("no strict key exchange")]
    NotStrict,
    /// Nothing in common.
    #[error("no {0} algorithm in common")]
    Algorithms(String),
    /// Login refused, with the server's reason if it gave one.
    #[error("login refused")]
    Certificate(Option<String>),
    /// The connection ended first.
    #[error("{0}")]
    Lost(String),
}

/// Why a stream was not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotOpened {
    /// Policy forbids it.
    Policy(String),
    /// The bastion did not reach the destination.
    Target(String),
    /// Too many.
    Limit(String),
    /// The connection to the bastion is gone; another may do.
    Lost,
}

pub(super) fn refusal(error: Ended, shared: &Shared) -> Refusal {
    match error {
        Ended::HostKey(mismatch) => Refusal::HostKey(mismatch),
        Ended::NotStrict => Refusal::NotStrict,
        Ended::Russh(russh::Error::NoCommonAlgo { kind, .. }) => {
            Refusal::Algorithms(format!("{kind:?}").to_lowercase())
        }
        Ended::Russh(error) => {
            let reason = shared.reason().filter(|reason| reason != ENDED);
            Refusal::Lost(reason.unwrap_or_else(|| escaped(&lost(&error), LONGEST_REASON)))
        }
    }
}

/// Hears why the bastion refused. It says so in the message that ends the connection, right behind the refusal; or, to who
/// may go on, as a question without a question (RFC 4256 §3.2), since SSH has no other way to say it.
pub(super) async fn reason_of(
    handle: &mut client::Handle<Handler>,
    login: &str,
    remaining: &MethodSet,
    mut ended: watch::Receiver<Option<String>>,
) -> Option<String> {
    if remaining.contains(&MethodKind::KeyboardInteractive) {
        let asked = handle.authenticate_keyboard_interactive_start(login, None);
        if let Ok(Ok(KeyboardInteractiveAuthResponse::InfoRequest { instructions, prompts, .. })) =
            timeout(LAST_WORDS, asked).await
            && prompts.is_empty()
            && !instructions.trim().is_empty()
        {
            return Some(instructions);
        }
    }
    let _ = timeout(LAST_WORDS, ended.wait_for(Option::is_some)).await;
    None
}

pub(super) fn admitted(answer: &AuthResult, told: Option<String>, shared: &Shared) -> Result<(), Refusal> {
    let AuthResult::Failure { remaining_methods, .. } = answer else { return Ok(()) };
    let farewell = shared.farewell();
    let told = told
        .as_deref()
        .map(whole_reason)
        .or_else(|| reason_in(&shared.banner()))
        .or_else(|| farewell.as_deref().map(whole_reason));
    match (told, shared.reason()) {
        (Some(why), _) => Err(Refusal::Certificate(Some(why))),
        // russh answers "refused, nothing else to try" for a connection that ended as well.
        (None, Some(reason)) if remaining_methods.is_empty() => Err(Refusal::Lost(reason)),
        (None, _) => Err(Refusal::Certificate(None)),
    }
}

/// The bastion's reason, in what it said before the end: a line that says so, or one that begins with a code of ours. Other
/// servers greet with whatever they like.
pub(super) fn reason_in(said: &str) -> Option<String> {
    said.lines()
        .find_map(|line| match line.split_once(CERTIFICATE_REFUSED) {
            Some((_, why)) => Some(why),
            None => is_for_now(code(line)).then_some(line),
        })
        .map(|why| escaped(why.trim(), LONGEST_REASON))
}

/// The reason that a server gives as it ends the connection right behind a refusal: all of it, if it does not mark one.
pub(super) fn whole_reason(farewell: &str) -> String {
    let lines = || farewell.lines().map(str::trim).filter(|line| !line.is_empty());
    reason_in(farewell).unwrap_or_else(|| escaped(&lines().collect::<Vec<_>>().join(" "), LONGEST_REASON))
}

pub(super) fn not_opened(reason: &ChannelOpenFailure, told: Option<String>) -> NotOpened {
    let told = told.filter(|told| !told.is_empty()).unwrap_or_else(|| reason.description().to_owned());
    match reason {
        ChannelOpenFailure::AdministrativelyProhibited | ChannelOpenFailure::UnknownChannelType => {
            NotOpened::Policy(told)
        }
        ChannelOpenFailure::ConnectFailed | ChannelOpenFailure::Other { .. } => NotOpened::Target(told),
        ChannelOpenFailure::ResourceShortage => NotOpened::Limit(told),
    }
}

/// What the end of a connection means to a person.
pub(super) fn lost(error: &russh::Error) -> String {
    match error {
        russh::Error::IO(error) => match error.kind() {
            std::io::ErrorKind::ConnectionReset => "the connection was reset".to_owned(),
            std::io::ErrorKind::TimedOut => "it does not answer".to_owned(),
            std::io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
            _ => error.to_string(),
        },
        russh::Error::HUP | russh::Error::Disconnect => "it closed the connection".to_owned(),
        error => error.to_string(),
    }
}

/// Whether the bastion says with `code` that a good certificate does not get in at the moment.
pub(crate) fn is_for_now(code: &str) -> bool {
    matches!(code, "audit_stopped" | "too_many_connections" | "shutdown")
}

/// The code in front of the bastion's sentence.
pub(crate) fn code(why: &str) -> &str {
    why.split_once(':').map_or("", |(code, _)| code)
}
