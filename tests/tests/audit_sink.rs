//! Audit records that cannot be written, to a pipe without a reader or to a full disk: nothing happens
//! unseen.

use std::{
    fs::{File, OpenOptions},
    io::Read,
    path::PathBuf,
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    sys::stat::Mode,
};
use serde_json::{Value, json};
use tests::{
    bastion::LOGIN,
    fixture::Fixture,
    key::Key,
    rogue::{Channel, Client, Gone},
    scratch::Scratch,
    wait,
};

const SOON: Duration = Duration::from_secs(30);
/// More than the bastion lets wait for its writer.
const MORE_THAN_WAIT: usize = 9000;

#[test]
fn a_blocked_sink_stops_what_is_new_and_only_that() {
    let scratch = Scratch::new("sink");
    let (path, mut reader) = pipe(&scratch);
    let fixture = recording(json!({"to": {"file": path}}));
    let mut client = fixture.login();
    let steady = fixture.open(&mut client).unwrap();
    // The pipe's reader does not read the records.
    wait::until_true("a stop", SOON, || {
        while is_recorded(&fixture, &mut client) {}
        !is_ready(&fixture)
    });
    has_stopped(&fixture, &mut client);
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
    wait::until_true("an end of the stop", SOON, || is_ready(&fixture));
    let another = fixture.open(&mut client).unwrap();
    echoes(&mut client, another);
    assert_eq!(refused(&fixture), None);
    assert_eq!(metric(&fixture, "bastion_audit_lost_total"), 0);
    drop(client);
    for line in collected.join().unwrap().lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "half a record: {line}");
    }
}

#[test]
fn a_full_disk_stops_what_is_new_and_only_that() {
    let fixture = recording(json!({"to": {"file": "/dev/full"}}));
    // The record of this login is the first that cannot be written.
    let mut client = fixture.login();
    wait::until_true("a stop", SOON, || !is_ready(&fixture));
    has_stopped(&fixture, &mut client);
    assert!(fixture.bastion.log().contains("No space left on device"), "{}", fixture.bastion.log());
}

#[test]
fn with_count_a_full_disk_stops_nothing_and_every_loss_is_counted() {
    let fixture = recording(json!({"to": {"file": "/dev/full"}, "when_full": "count"}));
    let mut client = fixture.login();
    for _ in 0..MORE_THAN_WAIT / 2 {
        assert!(is_recorded(&fixture, &mut client));
    }
    let channel = fixture.open(&mut client).unwrap();
    echoes(&mut client, channel);
    assert_eq!(refused(&fixture), None);
    assert!(is_ready(&fixture));
    // One batch is with the writer.
    assert!((1..MORE_THAN_WAIT as u64).contains(&metric(&fixture, "bastion_audit_lost_total")));
    assert!(fixture.bastion.log().contains("audit records are being lost"), "{}", fixture.bastion.log());
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

/// One that records like this. One client makes all the records.
fn recording(audit: Value) -> Fixture {
    let limits = json!({"opens": 100_000, "opens_per_second": 100_000});
    Fixture::with(|setup| setup.set("/audit", audit).set("/limits/per_identity", limits))
}

/// Why a login is refused, if it is.
fn refused(fixture: &Fixture) -> Option<String> {
    let mut client = Client::connect(fixture.bastion.address()).unwrap();
    let attempt = fixture.attempt();
    let verdict = client.attempt_to_the_end(&attempt, SOON);
    if verdict.accepted {
        return None;
    }
    match verdict.gone {
        Some(Gone::Disconnected { text, .. }) => Some(text),
        gone => panic!("refused without a word: {gone:?}"),
    }
}

/// A forward that comes and goes, which is two records while there is room for them.
fn is_recorded(fixture: &Fixture, client: &mut Client) -> bool {
    let channel = fixture.open(client);
    channel.inspect(|channel| client.close(*channel).unwrap()).is_ok()
}

fn metric(fixture: &Fixture, name: &str) -> u64 {
    let page = fixture.bastion.page("/metrics").body;
    let line = page.lines().find(|line| line.starts_with(name)).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn is_ready(fixture: &Fixture) -> bool {
    fixture.bastion.page("/readyz").status == 200
}

/// The bastion grants nothing new, and tells each client why.
fn has_stopped(fixture: &Fixture, client: &mut Client) {
    let refused = refused(fixture).expect("no login");
    assert!(refused.starts_with("audit_stopped: "), "{refused}");
    let refused = fixture.open(client).expect_err("no forward");
    assert!(refused.starts_with("audit_stopped: "), "{refused}");
    let page = fixture.bastion.page("/readyz");
    assert_eq!(page.status, 503);
    assert_eq!(page.json()["waiting_for"], json!(["audit"]));
    assert_eq!(fixture.bastion.page("/livez").status, 200, "to start it again would not help");
}
