//! The certificate that we log in to the bastion with: when it needs a successor, and who gets one.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::sleep;
use vault_signer::login::{Login, LoginError};
use vault_signer::{Credential, KeyType, Request, Server, SignError, Token, Vault};

use crate::failure::{Failure, Stage};
use crate::output::{Event, Output};
use crate::tunnel::backoff::Backoff;

/// What expires is looked at this often at least, since the wall clock may jump while we sleep.
const LOOK: Duration = Duration::from_secs(5);
/// A certificate that ends sooner than this is not worth a login.
const TOO_SHORT: Duration = Duration::from_secs(3);
/// Between two attempts to renew.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Between two attempts to renew, after many.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// From when until when something that expires is ours, by the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// When we got it. Not when it begins to be valid: authorities date that back.
    pub from: SystemTime,
    /// The first moment at which it is worth nothing.
    pub until: SystemTime,
}

impl Life {
    /// When to ask for a successor: at two thirds.
    pub fn renew_at(&self) -> SystemTime {
        let whole = self.until.duration_since(self.from).unwrap_or_default();
        self.from + whole / 3 * 2
    }

    /// Whether a successor is due. A clock that runs before the beginning makes one due as well.
    pub fn is_due(&self, now: SystemTime) -> bool {
        now >= self.renew_at() || now < self.from
    }

    /// Whether it may still be used for something new.
    pub fn is_usable(&self, now: SystemTime) -> bool {
        self.left(now) > TOO_SHORT
    }

    /// How long it lives.
    pub fn left(&self, now: SystemTime) -> Duration {
        self.until.duration_since(now).unwrap_or_default()
    }
}

/// Whether a failed renewal is worth a line: the first one, and when ten minutes or one are left.
pub fn is_milestone(last_said: Option<Duration>, left: Duration) -> bool {
    let Some(last) = last_said else { return true };
    [Duration::from_secs(600), Duration::from_secs(60), Duration::ZERO]
        .into_iter()
        .any(|mark| last > mark && left <= mark)
}

/// A certificate, its key, and its time.
#[derive(Debug)]
pub struct Held {
    /// Both.
    pub credential: Credential,
    /// Its time.
    pub life: Life,
}

/// Gets certificates and keeps the token that gets them.
pub struct Credentials {
    server: Server,
    login: Box<dyn Login>,
    mount: String,
    request: Request,
    key_type: KeyType,
    output: Arc<Output>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<(Token, SystemTime)>,
    held: Option<Arc<Held>>,
}

impl Credentials {
    /// Asks nobody yet.
    pub fn new(
        server: Server,
        login: Box<dyn Login>,
        mount: String,
        request: Request,
        key_type: KeyType,
        output: Arc<Output>,
    ) -> Self {
        Self { server, login, mount, request, key_type, output, state: Mutex::default() }
    }

    /// The server.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Who Vault says we are.
    pub async fn name(&self) -> String {
        let state = self.state.lock().await;
        state.token.as_ref().map_or_else(|| "nobody".to_owned(), |(token, _)| token.display_name().to_owned())
    }

    /// A certificate to log in with now: the one that we have, or its successor if that is due. One that is due and
    /// cannot be renewed at the moment is used as long as it is valid.
    ///
    /// # Errors
    /// When there is none to be had.
    pub async fn current(&self) -> Result<Arc<Held>, Failure> {
        let mut state = self.state.lock().await;
        let now = SystemTime::now();
        match state.held.clone().filter(|held| held.life.is_usable(now)) {
            Some(held) if !held.life.is_due(now) => Ok(held),
            Some(held) => Ok(self.sign(&mut state).await.unwrap_or(held)),
            None => self.sign(&mut state).await,
        }
    }

    /// Waits until `used` has a successor, for as long as that takes, and keeps the token alive meanwhile. What goes
    /// wrong is said, and tried again.
    pub async fn succeeded(&self, used: &Held) {
        let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
        let mut last_said = None;
        loop {
            while !used.life.is_due(SystemTime::now()) {
                sleep(LOOK.min(used.life.renew_at().duration_since(SystemTime::now()).unwrap_or_default()))
                    .await;
                self.keep_token().await;
            }
            let mut state = self.state.lock().await;
            let newer = state.held.as_ref().is_some_and(|held| held.life != used.life);
            if newer {
                return;
            }
            let Err(failure) = self.sign(&mut state).await else { return };
            drop(state);
            let left = used.life.left(SystemTime::now());
            if is_milestone(last_said, left) {
                self.output.say(&Event::RenewalFailed { reason: failure.what(), left });
                last_said = Some(left);
            }
            let delay = backoff.next(&mut rand::rng()).max(FIRST_RETRY / 2);
            sleep(delay.max(failure.retry_after().unwrap_or_default())).await;
        }
    }

    /// A token that works, as far as we know.
    ///
    /// # Errors
    /// When a login fails.
    pub async fn token(&self) -> Result<Token, Failure> {
        let mut state = self.state.lock().await;
        self.token_in(&mut state).await
    }

    /// Renews the token at two thirds of its life, if it can be. Leases end with their token.
    pub async fn keep_token(&self) {
        let mut state = self.state.lock().await;
        let _ = self.renew_token(&mut state).await;
    }

    async fn sign(&self, state: &mut MutexGuard<'_, State>) -> Result<Arc<Held>, Failure> {
        // A token that was revoked is only noticed when it is used, so one more login is worth a try.
        let mut again = true;
        loop {
            let token = self.token_in(state).await?;
            let vault = Vault::new(self.server.clone(), token, self.mount.clone());
            let from = SystemTime::now();
            match Credential::generate_of(self.key_type, &vault, &self.request).await {
                Ok(credential) => {
                    let until = credential.valid_before();
                    let certificate = credential.certificate();
                    self.output.say(&Event::Signed {
                        key_id: certificate.key_id(),
                        serial: certificate.serial(),
                        until,
                    });
                    let held = Arc::new(Held { credential, life: Life { from, until } });
                    state.held = Some(Arc::clone(&held));
                    return Ok(held);
                }
                Err(SignError::Server(vault_signer::Error::Denied { .. })) if again => {
                    state.token = None;
                    again = false;
                }
                Err(error) => return Err(signing_failed(&error)),
            }
        }
    }

    async fn token_in(&self, state: &mut MutexGuard<'_, State>) -> Result<Token, Failure> {
        self.renew_token(state).await;
        if let Some((token, _)) = &state.token
            && token.expires_at().is_none_or(|end| end > SystemTime::now() + TOO_SHORT)
        {
            return Ok(token.clone());
        }
        let from = SystemTime::now();
        let token = self.login.login(&self.server).await.map_err(|error| login_failed(&error))?;
        if state.held.is_none() {
            let left = token.expires_at().map(|end| end.duration_since(from).unwrap_or_default());
            let server = self.server.name();
            let (name, method) = (token.display_name(), self.login.name());
            self.output.say(&Event::SignedIn { server: &server, name, method, left });
        }
        state.token = Some((token.clone(), from));
        Ok(token)
    }

    async fn renew_token(&self, state: &mut MutexGuard<'_, State>) {
        let Some((token, from)) = &state.token else { return };
        let Some(until) = token.expires_at() else { return };
        let from = *from;
        let life = Life { from, until };
        if !token.renewable() || !life.is_due(SystemTime::now()) {
            return;
        }
        let now = SystemTime::now();
        let renewed = token.renew(&self.server).await;
        // One that cannot be renewed is asked about again later, at two thirds of what is left.
        state.token = match renewed {
            Ok(token) => Some((token, now)),
            Err(_) => Some((token.clone(), now)),
        };
    }
}

fn login_failed(error: &LoginError) -> Failure {
    let text = error.to_string();
    let failure = described(Stage::Login, &text, error.is_transient());
    match error {
        LoginError::Server(error) => failure.after(retry_after(error)),
        _ => failure,
    }
}

fn signing_failed(error: &SignError) -> Failure {
    let text = error.to_string();
    let failure = described(Stage::Signing, &text, error.is_transient());
    match error {
        SignError::Server(error) => failure.after(retry_after(error)),
        _ => failure,
    }
}

/// A failure of Vault's in a database's lease.
pub(crate) fn database_failed(error: &vault_signer::Error) -> Failure {
    described(Stage::Database, &error.to_string(), error.is_transient()).after(retry_after(error))
}

fn retry_after(error: &vault_signer::Error) -> Option<Duration> {
    match error {
        vault_signer::Error::RateLimited { retry_after } => *retry_after,
        _ => None,
    }
}

/// The signer's errors have their advice on the lines after the first.
fn described(stage: Stage, text: &str, transient: bool) -> Failure {
    let (what, advice) = text.split_once('\n').unwrap_or((text, ""));
    let failure = if transient { Failure::passing(stage, what) } else { Failure::lasting(stage, what) };
    advice.lines().fold(failure, |failure, line| failure.advise(line.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn renewal_is_due_at_two_thirds() {
        let from = SystemTime::UNIX_EPOCH + seconds(1_800_000_000);
        let life = Life { from, until: from + seconds(3600) };
        assert_eq!(life.renew_at(), from + seconds(2400));
        for (after, due, usable) in [
            (0, false, true),
            (2399, false, true),
            (2400, true, true),
            (3596, true, true),
            (3597, true, false),
            (9999, true, false),
        ] {
            let now = from + seconds(after);
            assert_eq!((life.is_due(now), life.is_usable(now)), (due, usable), "after {after} s");
        }
        assert!(life.is_due(from - seconds(1)), "the clock was set back");
    }

    #[test]
    fn a_life_that_never_was_is_due() {
        let now = SystemTime::now();
        let life = Life { from: now, until: now - seconds(5) };
        assert!(life.is_due(now) && !life.is_usable(now));
    }

    #[test]
    fn a_failing_renewal_is_said_thrice_and_not_each_time() {
        let mut said = Vec::new();
        let mut last = None;
        for left in (0..1200).rev().map(seconds) {
            if is_milestone(last, left) {
                said.push(left);
                last = Some(left);
            }
        }
        assert_eq!(said, [seconds(1199), seconds(600), seconds(60), seconds(0)]);
    }
}
