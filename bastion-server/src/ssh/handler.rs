//! Each question of an SSH client, and who answers it. Nothing is decided here.
//!
//! Every callback of russh that can be asked for is overridden, because the defaults accept some things and leave
//! others unanswered. What is not a certificate login or a `direct-tcpip` channel is refused.

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use russh::server::{
    Auth, ChannelOpenHandle, Handle, Msg, PublicKeyOffer, Response, Session as Wire, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, Disconnect, MethodKind, MethodSet, Pty, Sig};
use ssh_key::Certificate;
use ssh_transport::budget::Carrier;
use ssh_transport::socket::Cutter;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::unconstrained;
use tokio::time::sleep;

use super::Service;
use super::forward::{Forwards, Request};
use super::offers::{Offers, Reasons, refused_text};
use crate::accept::PendingLogin;
use crate::identity::certificate::{self, Claim, Refused};
use crate::identity::{Identity, LoginName};
use crate::limits::identities::{self, ChannelGrant, ConnectionSlot, RateExceeded};
use crate::limits::startups::Stage;
use crate::{audit::Event, session::Session};

/// What somebody who opens a shell here gets to read.
const PURPOSE: &str = "This host forwards TCP connections and has no shell.\r\n\
    Use it so: ssh -N -L LOCALPORT:HOST:PORT, ssh -J, ssh -W HOST:PORT, or pf-tunnel HOST:PORT LOCALPORT\r\n";

/// How long a client whose certificate was refused may take to show the next one, where it has not asked what it may try,
/// before it is told why and sent away. Of one that has asked, a person may be typing a passphrase.
const NEXT_OFFER: Duration = Duration::from_secs(5);

/// How far a login has come.
#[derive(Debug, Clone)]
pub(super) enum Login {
    /// Not yet.
    Pending,
    /// The client has left without one, and without a certificate that could be looked at. It asked for this name.
    Unproved(LoginName),
    /// A certificate was refused. The client may try another.
    Refused,
    /// Here is who it is.
    Accepted(Arc<Admitted>),
}

/// An identity, and the certificate that proved it, to be asked about again.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) identity: Arc<Identity>,
    pub(super) certificate: Certificate,
    /// The connection's part of the identity's memory.
    pub(super) carrier: Arc<Carrier>,
}

/// What is asked for and never given.
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

/// The reason in the audit records of all of them.
const NOT_SERVED: &str = "not_served";

/// The bastion's side of one session.
pub(super) struct Handler {
    session: Session,
    service: Arc<Service>,
    forwards: Forwards,
    pending: Option<PendingLogin>,
    login: watch::Sender<Login>,
    /// The place among the connections of the same identity.
    member: Option<ConnectionSlot>,
    handle: Arc<OnceLock<Handle>>,
    cutter: Cutter,
    /// Whether the client has asked what it may try (RFC 4252 §5.2), so that it has other things to try.
    exploring: bool,
    offers: Offers,
    reasons: Reasons,
    /// Counts what was asked, so that who waits for the next question knows when it has come.
    asked: Arc<AtomicUsize>,
    /// Plain keys and the like, which are only worth a record if nothing better follows.
    tried: Option<LoginName>,
    /// Places of channels that have no relay to keep them.
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
            member: None,
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

    /// Where the handle of the session is to be put once there is one.
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

    /// The client asks to log in by this name, by whatever means.
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
        // One that has asked what it may try is told by another means: see `auth_keyboard_interactive`.
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

    /// Turns away somebody whose certificate is good: for now.
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

    /// Ends the connection, once what is being asked is answered, with words for the client's user.
    fn say_goodbye(&self, farewell: String) {
        if let Some(handle) = self.handle.get() {
            // This is the session's own task, which cannot wait for itself. There is room: nobody else says anything yet.
            let goodbye =
                handle.disconnect(Disconnect::NoMoreAuthMethodsAvailable, farewell, "en".to_owned());
            let _ = unconstrained(goodbye).now_or_never();
        }
    }

    /// Not so. The client may try others, and, where there is something to say, be told why not.
    fn not_so(&self) -> Auth {
        let mut methods = MethodSet::from([MethodKind::PublicKey].as_slice());
        if self.reasons.text().is_some() {
            methods.push(MethodKind::KeyboardInteractive);
        }
        Auth::Reject { proceed_with_methods: Some(methods), partial_success: false }
    }

    /// Counts a channel that is asked for.
    fn turn(&self) -> Result<ChannelGrant, RateExceeded> {
        self.member.as_ref().map_or(Err(RateExceeded), |member| member.open(Instant::now()))
    }

    fn refuse(&self, unserved: Unserved) {
        if let Some(identity) = self.identity() {
            self.forwards.refusals().request(&identity, unserved.code(), NOT_SERVED);
        }
    }

    /// Tells what this host is for, as a command would that failed.
    fn explain(&self, channel: ChannelId, wire: &mut Wire) -> Result<(), russh::Error> {
        wire.channel_success(channel)?;
        wire.extended_data(channel, 1, PURPOSE)?;
        wire.exit_status_request(channel, 1)?;
        wire.eof(channel)?;
        wire.close(channel)
    }
}

impl Drop for Handler {
    /// A session that ends without a login, and without a record of why.
    ///
    /// russh itself turns away a certificate whose dates are wrong or whose signature does not verify, and calls
    /// nobody; such a client is among these.
    fn drop(&mut self) {
        if let (Some(pending), true) = (&self.pending, self.offers.are_probes()) {
            pending.probe();
        }
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

    /// Keys are exchanged, and the client wants to log in.
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

    /// No way in. It is offered to those that were refused, since of all that SSH has it is the one thing that stock clients
    /// show to their user before they give up: words, and no question.
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
            // Said once.
            (Some(_), _) | (None, None) => Auth::Reject {
                proceed_with_methods: Some(MethodSet::from([MethodKind::PublicKey].as_slice())),
                partial_success: false,
            },
        })
    }

    /// Whether a signature is worth making. The offer does not say whether the key came in a certificate, but only
    /// here is known how it is going to sign.
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
            // A client that is told to go on reads the goodbye; one that is told no may have left before.
            return Ok(Auth::Accept);
        }
        if certificate::accepted_signature(offer.public_key.key_data(), offer.algorithm) {
            self.reach(Stage::Signing);
            Ok(Auth::Accept)
        } else {
            Ok(self.not_so())
        }
    }

    /// A plain key, the authority's own included, is nobody.
    async fn auth_publickey(&mut self, user: &str, _key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        self.ask(user);
        self.offers.sign();
        self.reasons.plain_key();
        Ok(self.not_so())
    }

    async fn auth_openssh_certificate(
        &mut self,
        user: &str,
        certificate: &Certificate,
    ) -> Result<Auth, Self::Error> {
        self.ask(user);
        self.offers.sign();
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
                match self.service.quotas.enter(&identity, Instant::now()) {
                    Ok(member) => self.member = Some(member),
                    Err(too_many) => {
                        self.postpone_login(&login, certificate, too_many.code(), too_many);
                        return Ok(Auth::reject());
                    }
                }
                let carrier = self.service.budget.carrier(&identities::account_of(&identity));
                self.cutter.charge_to(Arc::clone(&carrier));
                let certificate = certificate.clone();
                let admitted = Admitted { identity: Arc::new(identity), certificate, carrier };
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

    /// A session channel is accepted, so that whoever forgot `-N` can be told.
    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _wire: &mut Wire,
    ) -> Result<(), Self::Error> {
        // It is not worth a wait, for which this is not the place either: here the whole session would wait.
        match self.forwards.place().filter(|_| self.turn().is_ok_and(|turn| turn.wait.is_zero())) {
            Some(place) => {
                self.session_channels.push((channel.id(), place));
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
        _name: &str,
        wire: &mut Wire,
    ) -> Result<(), Self::Error> {
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
        // A formality before a shell. Refused, `ssh -t` would give up and not ask for the shell, whose answer says why there
        // is none.
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
