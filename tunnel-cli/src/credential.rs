//! Keeps a certificate to log in to the bastion with, and gets its successor in time.

mod sign_in;
mod validity;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use backoff::{Again, Backoff, Trouble};
use plain_text::rough;
use tokio::{
    sync::{Mutex, MutexGuard},
    time::{interval, sleep},
};
use vault_signer::{
    Credential, KeyType, Request, Server, SignError, Token, Vault,
    clock::Offset,
    login::{Login, LoginError, Mark},
};

use crate::{
    failure::{Failure, Retry, Stage},
    output::{Event, Output},
    suspend::{Clocks, woken},
    verdict::{Standing, Verdict, judge},
};
pub(crate) use sign_in::SignIn;
pub(crate) use validity::Validity;

/// What expires is looked at this often at least, since the wall clock may jump while we sleep.
const LOOK: Duration = Duration::from_secs(5);
/// How often it is looked whether a person has signed in again.
const LOOK_FOR_TOKEN: Duration = Duration::from_secs(1);
/// Between two attempts to renew.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Between two attempts to renew, after many.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// A certificate, its key, and its time.
#[derive(Debug)]
pub(crate) struct Held {
    /// Both.
    pub credential: Credential,
    /// Its time.
    pub validity: Validity,
    /// Whether a bastion has taken it.
    worked: AtomicBool,
}

impl Held {
    /// Whether a bastion has taken it.
    pub(crate) fn worked(&self) -> bool {
        self.worked.load(Ordering::Relaxed)
    }

    /// A bastion has taken it.
    pub(crate) fn has_worked(&self) {
        self.worked.store(true, Ordering::Relaxed);
    }
}

/// Gets certificates and keeps the token that gets them.
pub(crate) struct Credentials {
    server: Server,
    login: Box<dyn Login>,
    mount: String,
    request: Request,
    key_type: KeyType,
    sign_in: SignIn,
    output: Arc<Output>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<(Token, Clocks)>,
    held: Option<Arc<Held>>,
    /// Where the login's files stood at the last login.
    mark: Mark,
    /// Whether the last login failed, so that the next one is worth a line.
    signed_out: bool,
    /// What was last said of the clock here.
    clock: Trouble,
}

impl Credentials {
    /// Sends nothing yet.
    pub(crate) fn new(
        server: Server,
        login: Box<dyn Login>,
        mount: String,
        request: Request,
        key_type: KeyType,
        sign_in: SignIn,
        output: Arc<Output>,
    ) -> Self {
        Self { server, login, mount, request, key_type, sign_in, output, state: Mutex::default() }
    }

    /// The server.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Who Vault says we are.
    pub(crate) async fn name(&self) -> String {
        let state = self.state.lock().await;
        state.token.as_ref().map_or_else(|| "nobody".to_owned(), |(token, _)| token.display_name().to_owned())
    }

    /// A certificate to log in with now: the one that we have, or its successor if that is due. One that is due and
    /// cannot be renewed at the moment is used as long as it is valid.
    ///
    /// # Errors
    /// When there is none to be had.
    pub(crate) async fn current(&self) -> Result<Arc<Held>, Failure> {
        let mut state = self.state.lock().await;
        let now = Clocks::now();
        match state.held.clone().filter(|held| held.validity.is_usable(&now)) {
            Some(held) if !held.validity.is_due(&now) => Ok(held),
            Some(held) => Ok(self.sign(&mut state).await.unwrap_or(held)),
            None => self.sign(&mut state).await,
        }
    }

    /// Gives up a certificate that a bastion does not take any more: the next one may do.
    pub(crate) async fn discard(&self, refused: &Held) {
        let mut state = self.state.lock().await;
        if state.held.as_ref().is_some_and(|held| std::ptr::eq(&**held, refused)) {
            state.held = None;
        }
    }

    /// Waits until `used` has a successor, for as long as that takes, and keeps the token alive meanwhile. What goes
    /// wrong is said, and tried again: its carrier lives.
    pub(crate) async fn succeeded(&self, used: &Held) {
        let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
        let mut renewal = Trouble::default();
        loop {
            while !used.validity.is_due(&Clocks::now()) {
                sleep(LOOK.min(used.validity.due_in(&Clocks::now()))).await;
                self.keep_token().await;
            }
            let mut state = self.state.lock().await;
            let newer = state.held.as_ref().is_some_and(|held| !std::ptr::eq(&**held, used));
            if newer {
                return;
            }
            let Err(failure) = self.sign(&mut state).await else { return };
            drop(state);
            let standing = Standing { once: false, was_ready: true, carrier_lives: true };
            let verdict = judge(failure.retry(), standing);
            let left = used.validity.left(&Clocks::now());
            if renewal.raise_renewal(failure.what(), failure.is_transient(), left, Instant::now()) {
                self.tell(&failure, verdict, left).await;
            }
            let delay = backoff.failed(&mut rand::rng()).max(FIRST_RETRY / 2);
            let delay = delay.max(failure.retry_after().unwrap_or_default());
            tokio::select! {
                () = sleep(delay) => {}
                () = woken() => {}
                () = self.news_for(verdict) => {}
            }
        }
    }

    /// Says that a renewal failed, or what a person is to do about it.
    pub(crate) async fn tell(&self, failure: &Failure, verdict: Verdict, left: Duration) {
        match verdict {
            Verdict::AwaitsSignIn => {
                let command = self.sign_in_command().await;
                self.output.say(&Event::SignInNeeded { reason: failure.what(), command: &command, left });
            }
            Verdict::Ends | Verdict::Retries => {
                self.output.say(&Event::RenewalFailed { reason: failure.what(), left });
            }
        }
    }

    /// What a person types to sign in again.
    pub(crate) async fn sign_in_command(&self) -> String {
        let state = self.state.lock().await;
        self.sign_in.command(state.token.as_ref().map(|(token, _)| token.display_name()))
    }

    /// Waits until a person has signed in again, if that is what is waited for.
    pub(crate) async fn news_for(&self, verdict: Verdict) {
        match verdict {
            Verdict::AwaitsSignIn => {}
            Verdict::Ends | Verdict::Retries => return std::future::pending().await,
        }
        let before = self.state.lock().await.mark.clone();
        let mut looks = interval(LOOK_FOR_TOKEN);
        loop {
            looks.tick().await;
            if self.login.mark() != before {
                return;
            }
        }
    }

    /// A token that works, as far as we know.
    ///
    /// # Errors
    /// When a login fails.
    pub(crate) async fn token(&self) -> Result<Token, Failure> {
        let mut state = self.state.lock().await;
        self.token_in(&mut state).await
    }

    /// Renews the token at two thirds of its life, if it can be. Leases end with their token.
    pub(crate) async fn keep_token(&self) {
        let mut state = self.state.lock().await;
        let _ = self.renew_token(&mut state).await;
    }

    async fn sign(&self, state: &mut MutexGuard<'_, State>) -> Result<Arc<Held>, Failure> {
        // A token that was revoked is only noticed when it is used, so one more login is worth a try.
        let mut again = true;
        loop {
            let token = self.token_in(state).await?;
            let vault = Vault::new(self.server.clone(), token, self.mount.clone());
            self.mind_the_clock(state);
            let from = Clocks::now();
            match Credential::generate_of(self.key_type, &vault, &self.request).await {
                Ok(credential) => {
                    let until = credential.valid_before();
                    let certificate = credential.certificate();
                    self.output.say(&Event::Signed {
                        key_id: certificate.key_id(),
                        serial: certificate.serial(),
                        until,
                    });
                    let validity = Validity::of(from, until, self.request.ttl);
                    let held = Arc::new(Held { credential, validity, worked: AtomicBool::new(false) });
                    state.held = Some(Arc::clone(&held));
                    return Ok(held);
                }
                Err(SignError::Server(vault_signer::Error::Denied { .. })) if again => {
                    state.token = None;
                    again = false;
                }
                Err(error) => return Err(signing_failed(&error, &self.server)),
            }
        }
    }

    /// Says once how far the clock here is off, before that shows in something that is harder to understand.
    fn mind_the_clock(&self, state: &mut MutexGuard<'_, State>) {
        let offset = self.server.clock();
        match offset {
            None => _ = state.clock.clear(),
            Some(offset) if state.clock.raise("", Again::Never, Instant::now()) => {
                self.output.say(&Event::Warning(&format!("{}; set it right", off(offset, &self.server))));
            }
            Some(_) => {}
        }
    }

    async fn token_in(&self, state: &mut MutexGuard<'_, State>) -> Result<Token, Failure> {
        self.renew_token(state).await;
        if let Some((token, from)) = &state.token
            && token
                .expires_at()
                .is_none_or(|end| Validity::of(*from, end, Duration::MAX).is_usable(&Clocks::now()))
        {
            return Ok(token.clone());
        }
        let from = Clocks::now();
        state.mark = self.login.mark();
        let token = match self.login.login(&self.server).await {
            Ok(token) => token,
            Err(error) => {
                state.signed_out = true;
                let who = state.token.as_ref().map(|(token, _)| token.display_name());
                return Err(login_failed(&error, &self.sign_in.command(who)));
            }
        };
        if std::mem::take(&mut state.signed_out) || state.held.is_none() {
            let left = token.expires_at().map(|end| end.duration_since(from.wall()).unwrap_or_default());
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
        let now = Clocks::now();
        if !token.renewable() || !Validity::of(*from, until, Duration::MAX).is_due(&now) {
            return;
        }
        let renewed = token.renew(&self.server).await;
        // One that cannot be renewed is asked about again later, at two thirds of what is left.
        state.token = match renewed {
            Ok(token) => Some((token, now)),
            Err(_) => Some((token.clone(), now)),
        };
    }
}

/// In which way the clock here is off.
fn off(offset: Offset, server: &Server) -> String {
    let (by, than) = match offset {
        Offset::Behind(by) => (by, "behind that"),
        Offset::Ahead(by) => (by, "ahead of that"),
    };
    format!("this computer's clock is {} {than} of {}", rough(by), server.name())
}

fn login_failed(error: &LoginError, command: &str) -> Failure {
    let failure = Failure::hinted(Stage::Login, error, Retry::of_login(error));
    let failure = match failure.retry() {
        Retry::AfterSignIn => failure.advise(format!("  {command}")),
        Retry::Soon
        | Retry::OnAnotherRoute
        | Retry::AfterClockIsSet
        | Retry::AfterOperator
        | Retry::Never => failure,
    };
    match error {
        LoginError::Server(error) => failure.after(retry_after(error)),
        _ => failure,
    }
}

fn signing_failed(error: &SignError, server: &Server) -> Failure {
    let offset = server.clock();
    let retry = Retry::of_signing(error, offset.is_some());
    let failure = match (retry, offset) {
        (Retry::AfterClockIsSet, Some(offset)) => {
            let what = format!("{}, so no certificate of now is valid here", off(offset, server));
            Failure::new(Stage::Signing, what, retry)
                .advise("Set the clock right. Under WSL, after sleep: sudo hwclock -s")
        }
        _ => Failure::hinted(Stage::Signing, error, retry),
    };
    match error {
        SignError::Server(error) => failure.after(retry_after(error)),
        _ => failure,
    }
}

/// A failure of Vault's in a database's lease.
pub(crate) fn database_failed(error: &vault_signer::Error) -> Failure {
    Failure::hinted(Stage::Database, error, Retry::of_server(error)).after(retry_after(error))
}

fn retry_after(error: &vault_signer::Error) -> Option<Duration> {
    match error {
        vault_signer::Error::RateLimited { retry_after } => *retry_after,
        _ => None,
    }
}
