//! Where audit records go does not take them: a pipe that nobody reads, and a full disk. Nothing happens unseen.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::Mode;
use serde_json::{Value, json};
use tests::bastion::{self, Bastion, LOGIN};
use tests::forge::Forge;
use tests::key::Key;
use tests::rogue::{Attempt, Channel, Client, Gone};
use tests::scratch::Scratch;
use tests::target::Target;
use tests::wait;

const SOON: Duration = Duration::from_secs(30);
/// More than the bastion lets wait for its writer.
const MORE_THAN_WAIT: usize = 9000;

/// A bastion that writes its records there, with an echo behind it.
struct Place {
    authority: Key,
    key: Key,
    target: Target,
    bastion: Bastion,
}

impl Place {
    fn new(audit: Value) -> Self {
        let (authority, key, target) = (Key::ed25519(), Key::ed25519(), Target::echo());
        let bastion = bastion::Setup::new()
            .trust(&authority)
            .rule(LOGIN, &[&target.address().to_string()])
            .set("/audit", audit)
            // One client makes all the records.
            .set("/limits/per_identity", json!({"opens": 100_000, "opens_per_second": 100_000}))
            .start();
        Self { authority, key, target, bastion }
    }

    fn certificate(&self) -> Vec<u8> {
        Forge::user(&self.key, LOGIN).sign(&self.authority)
    }

    fn login(&self) -> Client {
        Client::login(self.bastion.address(), LOGIN, &self.key, self.certificate())
    }

    /// Why a login is refused, if it is.
    fn refused(&self) -> Option<String> {
        let mut client = Client::connect(self.bastion.address()).unwrap();
        let attempt = Attempt::certificate(LOGIN, &self.key, self.certificate());
        let verdict = client.attempt_to_the_end(&attempt, SOON);
        if verdict.accepted {
            return None;
        }
        match verdict.gone {
            Some(Gone::Disconnected { text, .. }) => Some(text),
            gone => panic!("refused without a word: {gone:?}"),
        }
    }

    fn open(&self, client: &mut Client) -> Result<Channel, String> {
        client.forward("127.0.0.1", self.target.port().into()).unwrap().map_err(|failure| failure.text)
    }

    /// A forward that comes and goes, which is two records while there is room for them.
    fn is_recorded(&self, client: &mut Client) -> bool {
        let channel = self.open(client);
        channel.inspect(|channel| client.close(*channel).unwrap()).is_ok()
    }

    fn metric(&self, name: &str) -> u64 {
        let page = self.bastion.page("/metrics").body;
        let line = page.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    fn is_ready(&self) -> bool {
        self.bastion.page("/readyz").status == 200
    }

    /// Nothing new is granted, and everybody is told why.
    fn has_stopped(&self, client: &mut Client) {
        let refused = self.refused().expect("no login");
        assert!(refused.starts_with("audit_stopped: "), "{refused}");
        let refused = self.open(client).expect_err("no forward");
        assert!(refused.starts_with("audit_stopped: "), "{refused}");
        let page = self.bastion.page("/readyz");
        assert_eq!(page.status, 503);
        assert_eq!(page.json()["waiting_for"], json!(["audit"]));
        assert_eq!(self.bastion.page("/livez").status, 200, "to start it again would not help");
    }
}

fn echoes(client: &mut Client, channel: Channel) {
    client.write(channel, b"still here").unwrap();
    assert_eq!(client.read(channel, 10).unwrap(), b"still here");
}

/// A pipe that takes one page and is not read.
fn pipe(scratch: &Scratch) -> (PathBuf, File) {
    let path = scratch.join("pipe");
    nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    fcntl(&reader, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    (path, reader)
}

#[test]
fn a_blocked_sink_stops_what_is_new_and_only_that() {
    let scratch = Scratch::new("sink");
    let (path, mut reader) = pipe(&scratch);
    let place = Place::new(json!({"to": {"file": path}}));
    let mut client = place.login();
    let steady = place.open(&mut client).unwrap();
    // Nobody reads the records.
    wait::until_true("a stop", SOON, || {
        while place.is_recorded(&mut client) {}
        !place.is_ready()
    });
    place.has_stopped(&mut client);
    echoes(&mut client, steady);

    let collected = std::thread::spawn(move || {
        let mut text = Vec::new();
        let mut block = [0; 4096];
        while !(text.ends_with(b"\n") && String::from_utf8_lossy(&text).contains("session_closed")) {
            let length = reader.read(&mut block).unwrap();
            text.extend_from_slice(&block[..length]);
        }
        String::from_utf8(text).unwrap()
    });
    wait::until_true("an end of the stop", SOON, || place.is_ready());
    let another = place.open(&mut client).unwrap();
    echoes(&mut client, another);
    assert_eq!(place.refused(), None);
    assert_eq!(place.metric("bastion_audit_lost_total"), 0);
    drop(client);
    for line in collected.join().unwrap().lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "half a record: {line}");
    }
}

#[test]
fn a_full_disk_stops_what_is_new_and_only_that() {
    let place = Place::new(json!({"to": {"file": "/dev/full"}}));
    // The record of this login is the first that cannot be written.
    let mut client = place.login();
    wait::until_true("a stop", SOON, || !place.is_ready());
    place.has_stopped(&mut client);
    assert!(place.bastion.log().contains("No space left on device"), "{}", place.bastion.log());
}

#[test]
fn with_count_a_full_disk_stops_nothing_and_every_loss_is_counted() {
    let place = Place::new(json!({"to": {"file": "/dev/full"}, "when_full": "count"}));
    let mut client = place.login();
    for _ in 0..MORE_THAN_WAIT / 2 {
        assert!(place.is_recorded(&mut client));
    }
    let channel = place.open(&mut client).unwrap();
    echoes(&mut client, channel);
    assert_eq!(place.refused(), None);
    assert!(place.is_ready());
    // One batch is with the writer.
    assert!((1..MORE_THAN_WAIT as u64).contains(&place.metric("bastion_audit_lost_total")));
    assert!(place.bastion.log().contains("audit records are being lost"), "{}", place.bastion.log());
}

/// To open such a pipe would otherwise wait for its reader, for ever.
#[test]
fn a_pipe_without_a_reader_is_refused_at_the_start() {
    let scratch = Scratch::new("sink");
    let (path, reader) = pipe(&scratch);
    drop(reader);
    let config = json!({
        "listen": "127.0.0.1:0",
        "host_key": {"generate": true},
        "authorities": [{"key": Key::ed25519().public_line().trim()}],
        "login": {"users": [LOGIN]},
        "audit": {"to": {"file": path}},
    });
    let config = scratch.write("bastion.yaml", config.to_string());
    let output = tests::process::Program::ours("bastion-server").arg(config).output();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("audit.to"));
}
