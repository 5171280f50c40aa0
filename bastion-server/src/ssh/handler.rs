//! Takes each request of an SSH client to the module that answers it. Nothing is decided here.
//!
//! The handler overrides every callback of russh for a request, because the defaults accept some requests and
//! leave others unanswered. Everything but a certificate login, a `direct-tcpip` channel and the subsystem of
//! resumable streams is refused.

use std::{
    borrow::Cow,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use futures_util::FutureExt;
use russh::{
    Channel, ChannelId, ChannelOpenFailure, Disconnect, MethodKind, MethodSet, Pty, Sig,
    server::{
        Auth, ChannelOpenHandle, Handle, Msg, PublicKeyOffer, Response, Session as Wire, VerifiedPublicKey,
    },
};
use ssh_key::Certificate;
use ssh_transport::{budget::Carrier, socket::Cutter};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    task::unconstrained,
    time::sleep,
};
use tunnel_stream::SUBSYSTEM;

use super::{
    Service,
    forward::{Forwards, Request},
    offers::{Offers, Reasons, refused_text},
    streams,
};
use crate::{
    accept::PendingLogin,
    audit::Event,
    identity::{
        Identity, LoginName,
        certificate::{self, Claim, Refused},
    },
    limits::{
        identities::{self, ChannelGrant, ConnectionSlot, RateExceeded},
        startups::Stage,
    },
    session::Session,
};

/// The message for a user who opens a shell here.
const PURPOSE: &str = "This host forwards TCP connections and has no shell.\r\n\
    Use it so: ssh -N -L LOCALPORT:HOST:PORT, ssh -J, ssh -W HOST:PORT, or pf-tunnel HOST:PORT LOCALPORT\r\n";

/// How long a client whose certificate was refused may take to offer the next one, if it has not asked which
/// methods are left, before it is told why and disconnected. The user of a client that has asked may be
/// typing a passphrase.
const NEXT_OFFER: Duration = Duration::from_secs(5);

/// The progress of a login.
#[derive(Debug, Clone)]
pub(super) enum Login {
    Pending,
    /// The client left without a login, and without a certificate that could be checked. It sent this name.
    Unproved(LoginName),
    /// A certificate was refused. The client may offer another.
    Refused,
    /// The client logged in.
    Accepted(Arc<Admitted>),
}

/// An identity, and the certificate that proved it, which is checked again after changes.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) identity: Arc<Identity>,
    pub(super) certificate: Certificate,
    /// The connection's share of the identity's memory budget.
    pub(super) carrier: Arc<Carrier>,
    /// The place among the connections of the same identity.
    pub(super) slot: ConnectionSlot,
}

/// Requests that the bastion never grants.
#[derive(Debug, Clone, Copy)]
enum Unserved {
    Shell,
    Exec,
    Subsystem,
    X11,
    Agent,
    RemoteForward,
    RemoteSocketForward,
    LocalSocket,
    ForwardedTcpip,
    X11Channel,
}

impl Unserved {
    fn code(self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::Exec => "exec",
            Self::Subsystem => "subsystem",
            Self::X11 => "x11",
            Self::Agent => "agent_forwarding",
            Self::RemoteForward => "tcpip_forward",
            Self::RemoteSocketForward => "streamlocal_forward",
            Self::LocalSocket => "direct_streamlocal",
            Self::ForwardedTcpip => "forwarded_tcpip",
            Self::X11Channel => "x11_channel",
        }
    }
}

/// The reason code of all of them in audit records.
const NOT_SERVED: &str = "not_served";

/// The bastion's side of one session.
pub(super) struct Handler {
    session: Session,
    service: Arc<Service>,
    forwards: Forwards,
    pending: Option<PendingLogin>,
    login: watch::Sender<Login>,
    handle: Arc<OnceLock<Handle>>,
    cutter: Cutter,
    /// Whether the client has asked which methods are left (RFC 4252 §5.2), so that it has other keys to
    /// offer.
    exploring: bool,
    offers: Offers,
    reasons: Reasons,
    /// Counts the client's requests, so that a task which waits for the next one sees it come.
    asked: Arc<AtomicUsize>,
    /// The login name of a client that only offered plain keys, which is recorded if no certificate follows.
    tried: Option<LoginName>,
    /// The places of channels without a relay that would hold them.
    session_channels: Vec<(ChannelId, OwnedSemaphorePermit)>,
}

impl Handler {
    pub(super) fn new(
        session: Session,
        service: Arc<Service>,
        forwards: Forwards,
        pending: PendingLogin,
        login: watch::Sender<Login>,
        cutter: Cutter,
    ) -> Self {
        Self {
            session,
            service,
            forwards,
            pending: Some(pending),
            login,
            handle: Arc::default(),
            cutter,
            exploring: false,
            offers: Offers::default(),
            reasons: Reasons::default(),
            asked: Arc::default(),
            tried: None,
            session_channels: Vec::new(),
        }
    }

    /// The cell for the handle of the session, to be filled once russh provides it.
    pub(super) fn handle(&self) -> Arc<OnceLock<Handle>> {
        Arc::clone(&self.handle)
    }

    fn identity(&self) -> Option<Arc<Identity>> {
        self.admitted().map(|admitted| Arc::clone(&admitted.identity))
    }

    fn admitted(&self) -> Option<Arc<Admitted>> {
        match &*self.login.borrow() {
            Login::Accepted(admitted) => Some(Arc::clone(admitted)),
            Login::Pending | Login::Unproved(_) | Login::Refused => None,
        }
    }

    /// Records that the client asks to log in by this name, with any method.
    fn ask(&mut self, user: &str) {
        self.tried = Some(LoginName::new(user));
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.reach(Stage::Encrypted);
    }

    fn reach(&self, stage: Stage) {
        if let Some(pending) = &self.pending {
            pending.reach(stage);
        }
    }

    fn refuse_login(&mut self, login: &LoginName, certificate: &Certificate, refused: &Refused) {
        self.reasons.refused(refused);
        self.turn_away(login, certificate, refused.code());
        // A client that has asked which methods are left is told by another method: see
        // `auth_keyboard_interactive`.
        if let (false, Some(handle)) = (self.exploring, self.handle.get().cloned()) {
            let (asked, farewell) = (Arc::clone(&self.asked), refused_text(refused));
            let now = asked.load(Ordering::Relaxed);
            tokio::spawn(async move {
                sleep(NEXT_OFFER).await;
                if asked.load(Ordering::Relaxed) == now {
                    let _ = handle
                        .disconnect(Disconnect::NoMoreAuthMethodsAvailable, farewell, "en".to_owned())
                        .await;
                }
            });
        }
    }

    /// Turns away a client whose certificate is good, for now.
    fn postpone_login(
        &mut self,
        login: &LoginName,
        certificate: &Certificate,
        reason: &'static str,
        why: impl std::fmt::Display,
    ) {
        self.turn_away(login, certificate, reason);
        self.say_goodbye(format!("{reason}: {why}"));
    }

    fn turn_away(&mut self, login: &LoginName, certificate: &Certificate, reason: &'static str) {
        self.service.metrics.auth_refused(reason);
        let event = Event::LoginRefused { login: login.as_str(), certificate: Some(certificate), reason };
        self.service.audit.record(self.session, event);
        self.tried = None;
        self.login.send_replace(Login::Refused);
    }

    /// Disconnects with a message for the client's user, after the current request is answered.
    fn say_goodbye(&self, farewell: String) {
        if let Some(handle) = self.handle.get() {
            // This is the session's own task, which cannot wait for itself. The queue has room: no other task
            // has sent a message yet.
            let goodbye =
                handle.disconnect(Disconnect::NoMoreAuthMethodsAvailable, farewell, "en".to_owned());
            let _ = unconstrained(goodbye).now_or_never();
        }
    }

    /// Refuses a login. The client may try other keys, and is offered keyboard-interactive where a reason can
    /// be shown.
    fn not_so(&self) -> Auth {
        let mut methods = MethodSet::from([MethodKind::PublicKey].as_slice());
        if self.reasons.text().is_some() {
            methods.push(MethodKind::KeyboardInteractive);
        }
        Auth::Reject { proceed_with_methods: Some(methods), partial_success: false }
    }

    /// Counts a channel that the client requests.
    fn turn(&self) -> Result<ChannelGrant, RateExceeded> {
        self.admitted().map_or(Err(RateExceeded), |admitted| admitted.slot.open(Instant::now()))
    }

    fn refuse(&self, unserved: Unserved) {
        if let Some(identity) = self.identity() {
            self.forwards.refusals().request(&identity, unserved.code(), NOT_SERVED);
        }
    }

    /// Shows the purpose of this host, as the output of a command that failed.
    fn explain(&self, channel: ChannelId, wire: &mut Wire) -> Result<(), russh::Error> {
        wire.channel_success(channel)?;
        wire.extended_data(channel, 1, PURPOSE)?;
        wire.exit_status_request(channel, 1)?;
        wire.eof(channel)?;
        wire.close(channel)
    }
}

impl Drop for Handler {
    /// Records a session that ends without a login and without an earlier record of the reason.
    ///
    /// russh itself refuses a certificate whose dates are wrong or whose signature does not verify, and calls
    /// no callback; such clients are recorded here.
    fn drop(&mut self) {
        if let Some(login) = self.tried.take() {
            self.login.send_if_modified(|held| {
                let is_pending = matches!(held, Login::Pending);
                if is_pending {
                    *held = Login::Unproved(login);
                }
                is_pending
            });
        }
    }
}

impl russh::server::Handler for Handler {
    type Error = russh::Error;

    /// Called when keys are exchanged and the client requests a login.
    async fn authentication_banner(&mut self) -> Result<Option<String>, Self::Error> {
        self.reach(Stage::Encrypted);
        Ok(None)
    }

    async fn auth_none(&mut self, user: &str) -> Result<Auth, Self::Error> {
        self.exploring = true;
        self.ask(user);
        Ok(Auth::reject())
    }

    async fn auth_password(&mut self, user: &str, _password: &str) -> Result<Auth, Self::Error> {
        self.ask(user);
        Ok(Auth::reject())
    }

    /// Never lets a client in. It is offered to refused clients because it is the only part of SSH that stock
    /// clients show to their users before they give up: a text, without a question.
    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        self.ask(user);
        Ok(match (response, self.reasons.text()) {
            (None, Some(instructions)) => Auth::Partial {
                name: Cow::Borrowed(""),
                instructions: Cow::Owned(instructions),
                prompts: Cow::Borrowed(&[]),
            },
            // The text is shown once.
            (Some(_), _) | (None, None) => Auth::Reject {
                proceed_with_methods: Some(MethodSet::from([MethodKind::PublicKey].as_slice())),
                partial_success: false,
            },
        })
    }

    /// Decides whether a signature is worth making. The offer does not say whether the key came in a
    /// certificate, but only here is the signature algorithm known.
    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        self.ask(user);
        if let Err(too_many) = self.offers.offer() {
            if let Some(pending) = &self.pending {
                pending.refuse();
            }
            self.service.metrics.auth_refused(too_many.code());
            self.say_goodbye(format!("{}: {too_many}", too_many.code()));
            // A client that is told to go on reads the disconnect message; one that is refused may have left
            // before.
            return Ok(Auth::Accept);
        }
        if certificate::accepted_signature(offer.public_key.key_data(), offer.algorithm) {
            self.reach(Stage::Signing);
            Ok(Auth::Accept)
        } else {
            Ok(self.not_so())
        }
    }

    /// Refuses a plain key, even the authority's own: it proves no identity.
    async fn auth_publickey(&mut self, user: &str, _key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        self.ask(user);
        self.reasons.plain_key();
        Ok(self.not_so())
    }

    async fn auth_openssh_certificate(
        &mut self,
        user: &str,
        certificate: &Certificate,
    ) -> Result<Auth, Self::Error> {
        self.ask(user);
        if self.offers.check().is_err() {
            return Ok(Auth::reject());
        }
        let login = LoginName::new(user);
        let claim = Claim { login: &login, client: self.session.client.ip() };
        let requirements = Arc::clone(&self.service.requirements.borrow());
        match certificate::admit(certificate, claim, &requirements, SystemTime::now()) {
            Ok(identity) => {
                if let Err(stopped) = self.service.audit.ready() {
                    self.postpone_login(&login, certificate, stopped.code(), stopped);
                    return Ok(Auth::reject());
                }
                let slot = match self.service.quotas.enter(&identity, Instant::now()) {
                    Ok(slot) => slot,
                    Err(too_many) => {
                        self.postpone_login(&login, certificate, too_many.code(), too_many);
                        return Ok(Auth::reject());
                    }
                };
                let carrier = self.service.budget.carrier(&identities::account_of(&identity));
                self.cutter.charge_to(Arc::clone(&carrier));
                let certificate = certificate.clone();
                let admitted = Admitted { identity: Arc::new(identity), certificate, carrier, slot };
                self.login.send_replace(Login::Accepted(Arc::new(admitted)));
                Ok(Auth::Accept)
            }
            Err(refused) => {
                if let Some(pending) = &self.pending {
                    pending.refuse();
                }
                self.refuse_login(&login, certificate, &refused);
                Ok(self.not_so())
            }
        }
    }

    async fn auth_succeeded(&mut self, _wire: &mut Wire) -> Result<(), Self::Error> {
        if let Some(pending) = self.pending.take() {
            pending.complete();
        }
        if let Some(identity) = self.identity() {
            self.service.metrics.auth_accepted();
            self.service.audit.record(self.session, Event::LoginAccepted { identity: &identity });
        }
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _wire: &mut Wire,
    ) -> Result<(), Self::Error> {
        match self.admitted() {
            Some(admitted) => {
                let request = Request { host: host.to_owned(), port };
                self.forwards.open(&admitted, self.turn(), request, channel, reply);
            }
            None => reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await,
        }
        Ok(())
    }

    /// Accepts a session channel, so that a user who forgot `-N` can be told.
    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _wire: &mut Wire,
    ) -> Result<(), Self::Error> {
        // The channel does not wait for a turn: a wait here would hold up the whole session.
        match self.forwards.place().filter(|_| self.turn().is_ok_and(|turn| turn.wait.is_zero())) {
            Some(place) => {
                self.session_channels.push((channel.id(), place));
                if let Some(admitted) = self.admitted() {
                    streams::await_request(channel, &self.forwards, admitted);
                }
                reply.accept().await;
            }
            None => reply.reject(ChannelOpenFailure::ResourceShortage).await,
        }
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _wire: &mut Wire) -> Result<(), Self::Error> {
        self.session_channels.retain(|(id, _)| *id != channel);
        Ok(())
    }

    async fn channel_open_x11(
        &mut self,
        _channel: Channel<Msg>,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _wire: &mut Wire,
    ) -> Result<(), Self::Error> {
        self.refuse(Unserved::X11Channel);
        reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
        Ok(())
    }

    async fn channel_open_forwarded_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        _host: &str,
        _port: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _wire: &mut Wire,
    ) -> Result<(), Self::Error> {
        self.refuse(Unserved::ForwardedTcpip);
        reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        _path: &str,
        reply: ChannelOpenHandle,
        _wire: &mut Wire,
    ) -> Result<(), Self::Error> {
        self.refuse(Unserved::LocalSocket);
        reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
        Ok(())
    }

    async fn shell_request(&mut self, channel: ChannelId, wire: &mut Wire) -> Result<(), Self::Error> {
        self.refuse(Unserved::Shell);
        self.explain(channel, wire)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        _command: &[u8],
        wire: &mut Wire,
    ) -> Result<(), Self::Error> {
        self.refuse(Unserved::Exec);
        self.explain(channel, wire)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        wire: &mut Wire,
    ) -> Result<(), Self::Error> {
        if name == SUBSYSTEM {
            return wire.channel_success(channel);
        }
        self.refuse(Unserved::Subsystem);
        wire.channel_failure(channel)
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        wire: &mut Wire,
    ) -> Result<(), Self::Error> {
        // A formality before a shell. If it were refused, `ssh -t` would give up without asking for the
        // shell, whose answer explains why there is none.
        wire.channel_success(channel)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        _name: &str,
        _value: &str,
        wire: &mut Wire,
    ) -> Result<(), Self::Error> {
        wire.channel_failure(channel)
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        wire: &mut Wire,
    ) -> Result<(), Self::Error> {
        wire.channel_failure(channel)
    }

    async fn signal(
        &mut self,
        _channel: ChannelId,
        _signal: Sig,
        _wire: &mut Wire,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single_connection: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        wire: &mut Wire,
    ) -> Result<(), Self::Error> {
        self.refuse(Unserved::X11);
        wire.channel_failure(channel)
    }

    async fn agent_request(&mut self, channel: ChannelId, wire: &mut Wire) -> Result<bool, Self::Error> {
        self.refuse(Unserved::Agent);
        wire.channel_failure(channel)?;
        Ok(false)
    }

    async fn tcpip_forward(
        &mut self,
        _address: &str,
        _port: &mut u32,
        _wire: &mut Wire,
    ) -> Result<bool, Self::Error> {
        self.refuse(Unserved::RemoteForward);
        Ok(false)
    }

    async fn cancel_tcpip_forward(
        &mut self,
        _address: &str,
        _port: u32,
        _wire: &mut Wire,
    ) -> Result<bool, Self::Error> {
        Ok(false)
    }

    async fn streamlocal_forward(&mut self, _path: &str, _wire: &mut Wire) -> Result<bool, Self::Error> {
        self.refuse(Unserved::RemoteSocketForward);
        Ok(false)
    }

    async fn cancel_streamlocal_forward(
        &mut self,
        _path: &str,
        _wire: &mut Wire,
    ) -> Result<bool, Self::Error> {
        Ok(false)
    }
}
