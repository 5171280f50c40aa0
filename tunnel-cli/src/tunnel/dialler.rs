//! Reaches the bastion and logs in: resolves its name, connects, and explains what is in the way.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use socket2::SockRef;
use ssh_transport::race::{by_turns, race};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use super::carrier::Carrier;
use crate::{
    credential::Held,
    endpoint::{Endpoint, Host},
    failure::{Failure, Retry, Stage},
    output::{Event, Output},
    ssh::{Refusal, Session, code, is_for_now},
    trust::{HostKeyMismatch, Trust},
};

/// How long the resolver may take.
const RESOLVE: Duration = Duration::from_secs(5);
/// How long an address may take to accept a connection, unless others need its turn.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the bastion's kernel may leave what we sent unacknowledged.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// Knows how to reach the bastion.
pub(crate) struct Dialler {
    bastions: Vec<Endpoint>,
    trust: Trust,
    /// Where that came from, for messages.
    trust_source: String,
    login: String,
    output: Arc<Output>,
    /// The addresses that worked last, best first: for when the resolver does not.
    known: Mutex<HashMap<String, Vec<SocketAddr>>>,
}

impl Dialler {
    /// `trust_source`: where `trust` was configured.
    pub(crate) fn new(
        bastions: Vec<Endpoint>,
        trust: Trust,
        trust_source: String,
        login: String,
        output: Arc<Output>,
    ) -> Self {
        Self { bastions, trust, trust_source, login, output, known: Mutex::default() }
    }

    /// One attempt: each bastion in turn, of its addresses the first that answers.
    ///
    /// # Errors
    /// The first one that waiting cannot mend, or the last one.
    pub(crate) async fn dial(&self, held: &Arc<Held>) -> Result<Arc<Carrier>, Failure> {
        let mut last = Failure::permanent(Stage::Configuration, "no bastion is configured");
        for bastion in &self.bastions {
            let addresses = match self.resolve(bastion).await {
                Ok(addresses) => addresses,
                Err(failure) => {
                    last = failure;
                    continue;
                }
            };
            let mut left = addresses.clone();
            while !left.is_empty() {
                let (address, socket) = match self.connect(bastion, &left).await {
                    Ok(connected) => connected,
                    Err(failure) => {
                        last = failure;
                        break;
                    }
                };
                match self.log_in(bastion, socket, held).await {
                    Ok(carrier) => {
                        self.remember(bastion, address, addresses);
                        return Ok(carrier);
                    }
                    Err(failure) if failure.is_transient() => last = failure,
                    Err(failure) => return Err(failure),
                }
                left.retain(|other| *other != address);
            }
        }
        Err(last)
    }

    /// Connects to the first of `addresses` that answers (RFC 8305 §5).
    async fn connect(
        &self,
        bastion: &Endpoint,
        addresses: &[SocketAddr],
    ) -> Result<(SocketAddr, TcpStream), Failure> {
        let connected = race(addresses, async |address, turn| {
            self.output.say(&Event::Dialling { bastion, address });
            let within = turn.map_or(CONNECT, |turn| turn.min(CONNECT));
            match timeout(within, TcpStream::connect(address)).await {
                Ok(Ok(socket)) => Ok(socket),
                Ok(Err(error)) => Err(unreachable(bastion, address, &reason(&error))),
                Err(_) => Err(unreachable(bastion, address, "does not answer")),
            }
        });
        connected.await.map_err(|failure| failure.unwrap_or_else(|| without_address(bastion)))
    }

    async fn log_in(
        &self,
        bastion: &Endpoint,
        socket: TcpStream,
        held: &Arc<Held>,
    ) -> Result<Arc<Carrier>, Failure> {
        prepare(&socket);
        let local = socket.local_addr().ok().map(|local| local.ip());
        let session = Session::connect(socket, &self.trust, bastion.host(), &self.login, &held.credential)
            .await
            .map_err(|refusal| self.explain(bastion, refusal, held))?;
        Ok(Carrier::new(session, bastion.clone(), Arc::clone(held), local))
    }

    /// Every address of `bastion`, in the order in which they are tried: the one that worked last, then the families by
    /// turns.
    async fn resolve(&self, bastion: &Endpoint) -> Result<Vec<SocketAddr>, Failure> {
        if let Host::Address(address) = bastion.host() {
            return Ok(vec![SocketAddr::new(*address, bastion.port())]);
        }
        let name = bastion.host().bare();
        let answer = timeout(RESOLVE, lookup_host((name.as_str(), bastion.port()))).await;
        let known =
            self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&bastion.to_string()).cloned();
        let why = match answer {
            Ok(Ok(found)) => {
                let mut found = by_turns(&found.collect::<Vec<_>>());
                if let Some(best) = known.as_deref().and_then(<[_]>::first) {
                    found.sort_by_key(|address| address != best);
                }
                if !found.is_empty() {
                    return Ok(found);
                }
                "it has no address".to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the resolver does not answer".to_owned(),
        };
        known.ok_or_else(|| {
            Failure::transient(Stage::Name, format!("the name of the bastion, {name}, is not resolved: {why}"))
                .advise("Check the name (--bastion, bastion.address), and whether this network can resolve it, perhaps only in a VPN.")
        })
    }

    fn remember(&self, bastion: &Endpoint, worked: SocketAddr, mut addresses: Vec<SocketAddr>) {
        addresses.sort_by_key(|address| *address != worked);
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(bastion.to_string(), addresses);
    }

    fn explain(&self, bastion: &Endpoint, refusal: Refusal, held: &Held) -> Failure {
        let host = bastion.host();
        let retry = Retry::of_bastion(&refusal, held.worked());
        match refusal {
            Refusal::HostKey(why) => self.not_the_bastion(bastion, &why, retry),
            Refusal::NotStrict => Failure::new(
                Stage::HostKey,
                format!("{host} does not use strict key exchange"),
                retry,
            )
            .advise("An attacker in between could drop messages unseen (CVE-2023-48795). Nothing secret was sent.")
            .advise("If it is an old server, update it: OpenSSH 9.6, or a distribution's version with that fix."),
            Refusal::Algorithms(kind) => Failure::new(
                Stage::Session,
                format!("{host} and this program have no {kind} algorithm in common"),
                retry,
            )
            .advise("Only current algorithms are offered. An SSH server of the last years has them: ask its operator."),
            Refusal::Certificate(Some(why)) if is_for_now(code(&why)) => {
                Failure::new(Stage::Session, format!("{host} does not let you in for now: {why}"), retry)
                    .advise("The certificate is good; another try may do.")
            }
            Refusal::Certificate(why) => {
                let certificate = held.credential.certificate();
                let failure = Failure::new(
                    Stage::Certificate,
                    format!("{host} refused the certificate: {}", why.as_deref().unwrap_or("it gave no reason")),
                    retry,
                );
                let failure = if why.is_some() {
                    failure
                } else {
                    failure.advise(format!(
                        "Most often it does not trust the authority that signed ({}), or {} may not log in there.",
                        self.authority(held),
                        self.login,
                    ))
                };
                failure.advise(format!(
                    "Login {}, principals {}, key id {}, serial {}.",
                    self.login,
                    certificate.valid_principals().join(", "),
                    certificate.key_id(),
                    certificate.serial(),
                ))
            }
            Refusal::Lost(why) => Failure::new(Stage::Session, format!("no connection with {host}: {why}"), retry)
                .advise("It is reachable, but it may be starting, overloaded, or no SSH server at all."),
        }
    }

    fn authority(&self, held: &Held) -> String {
        held.credential.authority().fingerprint(Default::default()).to_string()
    }

    fn not_the_bastion(&self, bastion: &Endpoint, why: &HostKeyMismatch, retry: Retry) -> Failure {
        let setting = self.trust.setting();
        Failure::new(
            Stage::HostKey,
            format!("{} did not prove that it is the bastion: {why}", bastion.host()),
            retry,
        )
        .advise("An attacker may be listening in. Nothing secret was sent.")
        .advise(format!("If the bastion was installed anew, change {setting}."))
        .advise(format!("configured  {} (from {})", self.trust, self.trust_source))
    }
}

/// Small packets leave immediately; and what the peer's kernel does not acknowledge in time ends the connection, even while
/// we have so much to send that silence would prove nothing.
fn prepare(socket: &TcpStream) {
    // Each is an improvement, not a condition.
    let _ = socket.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = SockRef::from(socket).set_tcp_user_timeout(Some(UNACKNOWLEDGED));
}

fn without_address(bastion: &Endpoint) -> Failure {
    Failure::transient(Stage::Connect, format!("{} has no address", bastion.host()))
}

fn unreachable(bastion: &Endpoint, address: SocketAddr, why: &str) -> Failure {
    Failure::transient(Stage::Connect, format!("{} {why} ({address})", bastion.host()))
        .advise("Check that the bastion runs and that this network lets you reach it, perhaps only in a VPN.")
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "refuses the connection".to_owned(),
        std::io::ErrorKind::TimedOut => "does not answer".to_owned(),
        _ => format!("cannot be reached: {error}"),
    }
}
