//! Changes that by which a login is judged, while connections are open: certificates end, are revoked, and
//! their authorities are exchanged.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::{
    bastion::{self, LOGIN},
    forge::Forge,
    key::Key,
    process::{Program, installed, user},
    rogue::{Attempt, Channel, Client as Rogue},
    scratch::Scratch,
    sshd,
    target::Target,
};

use crate::{
    conversation::{Conversation, End, Fate},
    network::Host,
    peer::{Client, Peer, Server, Setup},
    report::Report,
    scene::{Knocking, PATIENCE, Scene, told},
};

/// How long a change may take to be in force.
const IN_FORCE: Duration = Duration::from_secs(5);
/// How long connections that it forbids may live on.
const CUT: Duration = Duration::from_secs(10);

/// F12: ten minutes of the hour, each of whose minutes is like another.
pub fn short_lives(peer: Peer) -> Report {
    lives_of(peer, 60, Duration::from_secs(600))
}

/// Certificates live for so many seconds, for so long.
pub fn lives_of(peer: Peer, life: u64, during: Duration) -> Report {
    let mut scene = Scene::with(peer, Setup { life, ..Setup::default() });
    let talk = scene.converse();
    let begun = Instant::now();
    let knocking = Knocking::start(&scene, Duration::from_millis(200));
    while begun.elapsed() < during {
        thread::sleep(Duration::from_millis(100));
    }
    knocking.end().all_served(&mut scene.report);
    scene.survives(&talk, begun, Instant::now(), Duration::from_secs(1));
    scene.report
}

/// F13.
pub fn expires(peer: Peer) -> Report {
    let mut scene = Scene::with(peer, Setup { life: 15, ..Setup::default() });
    let talk = scene.converse();
    if let Client::PfTunnel(ours) = &scene.tunnel.client {
        ours.authority.pause();
    }
    let expiry = scene.tunnel.expiry();
    while Instant::now() < expiry {
        thread::sleep(Duration::from_millis(20));
    }
    let early = talk.client.end().filter(|(_, at)| expiry - *at > Duration::from_secs(1));
    let said = early.map_or_else(|| "yes".to_owned(), |(end, at)| format!("{end} {:?} early", expiry - at));
    scene.report.check("stream lives until then", said == "yes", said);
    scene.is_reset(&talk, expiry, Duration::from_secs(5));
    if let Server::Bastion(bastion) = &scene.tunnel.server {
        let closed = bastion.audit().into_iter().find(|record| record["event"] == "session_closed");
        let reason = closed.map_or(Value::Null, |record| record["reason"].clone());
        scene.report.check(
            "the server says why",
            reason.as_str().is_some_and(|why| why.contains("expired")),
            reason,
        );
    }
    scene.report
}

/// Replaces a file in one step.
fn replace(file: &Path, content: impl AsRef<[u8]>) {
    let next = file.with_extension("next");
    fs::write(&next, content).unwrap();
    fs::rename(next, file).unwrap();
}

/// Whether a server admits this certificate of this key.
fn admits(server: SocketAddr, login: &str, key: &Key, certificate: Vec<u8>) -> bool {
    let mut client = Rogue::connect(server).expect("a key exchange");
    client.attempt(&Attempt::certificate(login, key, certificate)).accepted
}

/// F14.
pub fn authority_exchanged(peer: Peer) -> Report {
    let mut report = Report::new();
    // No client of another host is needed.
    Host::here().ip(&["link", "set", "lo", "up"]);
    let (old, new, key) = (Key::ed25519(), Key::ed25519(), Key::ed25519());
    let scratch = Scratch::new("authorities");
    let file = scratch.write("ca.pub", old.public_line() + "\n");
    let login = if peer == Peer::Ours { LOGIN.to_owned() } else { user() };
    let server = if peer == Peer::Ours {
        // A fast machine asks far more often than clients of one address do.
        let setup = bastion::Setup::new()
            .set("/authorities", json!([{"file": file}]))
            .set("/limits/max_startups", json!({"burst": 1_000_000}));
        Server::Bastion(Box::new(setup.start()))
    } else {
        let setup = sshd::Setup::new().option(&format!("TrustedUserCAKeys {}", file.display()));
        Server::Sshd(Box::new(setup.start()))
    };
    let admitted =
        |authority: &Key| admits(server.address(), &login, &key, Forge::user(&key, &login).sign(authority));
    assert!(admitted(&old) && !admitted(&new));
    let mut refused = 0;
    for (demand, content, stays, wanted, becomes) in [
        ("the new one is trusted", [old.public_line(), new.public_line()].join("\n"), &old, &new, true),
        ("the old one is not", new.public_line(), &new, &old, false),
    ] {
        replace(&file, content + "\n");
        let changed = Instant::now();
        let mut took = None;
        while took.is_none() && changed.elapsed() < PATIENCE {
            refused += usize::from(!admitted(stays));
            took = (admitted(wanted) == becomes).then(|| changed.elapsed());
        }
        refused += usize::from(!admitted(stays));
        report.at_most(demand, IN_FORCE, took);
    }
    report.check("never a moment without", refused == 0, format!("{refused} logins refused meanwhile"));
    report
}

/// A person other than the one whose rights change, who has a connection open.
struct Bystander {
    client: Rogue,
    channel: Channel,
}

impl Bystander {
    fn new(server: SocketAddr, login: &str, authority: &Key, echo: &Target) -> Self {
        let key = Key::ed25519();
        let certificate = Forge::user(&key, login).with(|forge| forge.key_id = b"bystander".to_vec());
        let mut client = Rogue::login(server, login, &key, certificate.sign(authority));
        let channel = client.forward("127.0.0.1", echo.port().into()).unwrap().unwrap();
        Self { client, channel }
    }

    fn is_untouched(&mut self) -> bool {
        self.client.write(self.channel, b"x").is_ok()
            && self.client.read(self.channel, 1).is_ok_and(|read| read == b"x")
    }
}

/// A tunnel and a bystander, and a list of what is revoked.
struct Watched {
    scene: Scene,
    authority: Key,
    bystander: Bystander,
    list: PathBuf,
    scratch: Scratch,
    echo: Target,
}

impl Watched {
    fn new(peer: Peer) -> Self {
        let (echo, authority, scratch) = (Target::echo(), Key::ed25519(), Scratch::new("revocation"));
        let list = scratch.join("revoked");
        // A list that revokes none of those here.
        let watched = Revocation { scratch: &scratch, list: &list };
        watched.revoke("a-person-who-has-left");
        let (line, to, files) = (authority.public_line(), echo.address().to_string(), list.clone());
        let bastion = Rc::new(move |setup: bastion::Setup| {
            setup.trust_line(&line).rule(LOGIN, &[&to]).set("/revocation/files", json!([files]))
        });
        let (line, file) = (authority.public_line(), list.display().to_string());
        let sshd =
            Rc::new(move |setup: sshd::Setup| setup.trust_line(&line).option(&format!("RevokedKeys {file}")));
        let scene = Scene::with(peer, Setup { bastion, sshd, ..Setup::default() });
        let login = login_of(peer);
        let bystander = Bystander::new(scene.tunnel.server_address, &login, &authority, &echo);
        Self { scene, authority, bystander, list, scratch, echo }
    }

    /// Revokes the person whose tunnel it is, by the key id of all their certificates.
    fn revoke(&mut self) -> (String, Instant) {
        let key_id = self.scene.tunnel.key_id();
        let revocation = Revocation { scratch: &self.scratch, list: &self.list };
        revocation.revoke(&key_id);
        (key_id, Instant::now())
    }
}

fn login_of(peer: Peer) -> String {
    if peer == Peer::Ours { LOGIN.to_owned() } else { user() }
}

struct Revocation<'a> {
    scratch: &'a Scratch,
    list: &'a Path,
}

impl Revocation<'_> {
    /// Replaces the list, as `ssh-keygen` makes it, by one of this key id.
    fn revoke(&self, key_id: &str) {
        let spec = self.scratch.write("spec", format!("id: {key_id}\n"));
        let made = self.scratch.join("made");
        let _ = Program::new(installed("ssh-keygen"))
            .args(["-k", "-q", "-f"])
            .arg(&made)
            .args(["-s", "none"])
            .arg(spec)
            .succeed();
        replace(self.list, fs::read(&made).unwrap());
    }
}

/// Finds that a connection was ended by RST within the time for that.
fn is_cut(scene: &mut Scene, talk: &Conversation, since: Instant) {
    match talk.fate(since, since + PATIENCE, Duration::from_secs(20)) {
        Fate::Ended(End::Reset, after) => scene.report.at_most("stream is cut", CUT, Some(after)),
        other => scene.report.check("stream is cut", false, told(&other)),
    }
}

/// F15.
pub fn revoked(peer: Peer) -> Report {
    let mut report = Report::new();
    report.part("revoked", revoked_by_key_id(peer));
    if peer == Peer::Ours {
        report.part("narrowed", narrowed());
    }
    report
}

fn revoked_by_key_id(peer: Peer) -> Report {
    let mut watched = Watched::new(peer);
    let talk = watched.scene.converse();
    let (key_id, since) = watched.revoke();
    let (key, login, server) = (Key::ed25519(), login_of(peer), watched.scene.tunnel.server_address);
    let certificate =
        |id: &str| Forge::user(&key, &login).with(|forge| forge.key_id = id.into()).sign(&watched.authority);
    let mut refused = None;
    while refused.is_none() && since.elapsed() < PATIENCE {
        refused = (!admits(server, &login, &key, certificate(&key_id))).then(|| since.elapsed());
    }
    watched.scene.report.at_most("no new login", IN_FORCE, refused);
    is_cut(&mut watched.scene, &talk, since);
    let untouched = watched.bystander.is_untouched();
    watched.scene.report.check("others untouched", untouched, if untouched { "yes" } else { "no" });
    watched.scene.report
}

fn narrowed() -> Report {
    let mut watched = Watched::new(Peer::Ours);
    let talk = watched.scene.converse();
    let to = watched.echo.address().to_string();
    let rules = json!([{"name": "what is left", "who": {"principals": [LOGIN]}, "to": [to]}]);
    let since = Instant::now();
    watched.scene.tunnel.bastion().change("/rules", rules);
    is_cut(&mut watched.scene, &talk, since);
    let untouched = watched.bystander.is_untouched();
    watched.scene.report.check("others untouched", untouched, if untouched { "yes" } else { "no" });
    watched.scene.report
}

/// F34: the client sleeps, as processes do that are stopped.
pub fn revoked_asleep(peer: Peer) -> Report {
    let mut watched = Watched::new(peer);
    let talk = watched.scene.converse();
    watched.scene.tunnel.signal_client(Signal::SIGSTOP);
    let (_, since) = watched.revoke();
    thread::sleep(CUT.saturating_sub(since.elapsed()));
    let before = (talk.client.received(), talk.target.received());
    watched.scene.tunnel.signal_client(Signal::SIGCONT);
    let woken = Instant::now();
    thread::sleep(Duration::from_secs(10));
    let after = (talk.client.received() - before.0, talk.target.received() - before.1);
    let said = format!("{} records to the client, {} to the target", after.0, after.1);
    watched.scene.report.check("not one byte after waking", after == (0, 0), said);
    match talk.fate(woken, woken + PATIENCE, Duration::from_secs(1)) {
        Fate::Ended(End::Reset, after) => watched.scene.report.at_most("stream gets RST", CUT, Some(after)),
        other => watched.scene.report.check("stream gets RST", false, told(&other)),
    }
    watched.scene.report
}
