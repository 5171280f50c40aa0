//! Failures that may pass end no tunnel: another server answers for Vault, the token ends, the bastion admits
//! no login, the clock is set.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::{
    bastion::{self, LOGIN},
    clock::Clock,
    fixture::TunnelFixture,
    front::Front,
    openbao::OpenBao,
    target::{Target, exchange},
    tunnel::{self, Tunnel},
    wait,
};

use crate::tunnel::{at, connected};

const SOON: Duration = Duration::from_secs(30);
/// Longer than the longest wait between two tries.
const LATER: Duration = Duration::from_secs(90);

/// Waits until something of these kinds was said whose reason has `words` in it.
fn said(tunnel: &mut Tunnel, kinds: &[&str], words: &str) -> Value {
    wait::until(&format!("{kinds:?}: {words}"), LATER, || {
        let found = tunnel.events().into_iter().find(|event| {
            kinds.iter().any(|kind| event["event"] == *kind)
                && ["reason", "message"]
                    .iter()
                    .any(|field| event[field].as_str().unwrap_or("").contains(words))
        });
        let ended = tunnel.process.ended();
        assert!(found.is_some() || ended.is_none(), "ended ({ended:?}): {:?}", tunnel.events());
        found
    })
}

#[test]
fn whatever_stands_in_for_vault_ends_no_tunnel() {
    let echo = Target::echo();
    let fixture =
        TunnelFixture::with(&[&echo], |bastion| bastion, |project| project.set("/vault/ttl", json!("12s")));
    let (page, json) = ("text/html", "application/json");
    let html = "<html><title>Welcome to the hotel</title></html>";
    let errors = r#"{"errors": ["permission denied"]}"#;
    let fronts = [
        ("302 Found", page, html, "points to http://portal.invalid/"),
        ("200 OK", page, html, "a web page)"),
        ("403 Forbidden", json, errors, "does not accept the token"),
        ("403 Forbidden", page, html, "a web page, status 403"),
        ("412 Precondition Failed", json, errors, "status 412"),
        ("500 Internal Server Error", page, html, "a web page, status 500"),
        ("511 Network Authentication Required", page, html, "a web page, status 511"),
        ("522 Connection Timed Out", page, html, "a web page, status 522"),
        ("200 OK", json, "{\"data\": {}}", "has not the fields"),
    ]
    .map(|(status, kind, body, words)| (Front::before(fixture.authority.url()), status, kind, body, words));
    let mut tunnels: Vec<Tunnel> = Vec::new();
    for (front, ..) in &fronts {
        let project = tunnel::Setup::new(fixture.bastion.address())
            .host_authority(fixture.authority.hosts())
            .vault(&front.url(), fixture.authority.token())
            .set("/vault/ttl", json!("12s"));
        let mut tunnel = project.start(&[&at(&echo), "0"]);
        tunnel.ready(1);
        tunnels.push(tunnel);
    }
    for (front, status, kind, body, _) in &fronts {
        front.answers(status, kind, body);
    }
    for (tunnel, (_, status, .., words)) in tunnels.iter_mut().zip(&fronts) {
        let told = said(tunnel, &["renewal-failed", "sign-in-needed"], words);
        println!("{status}: {told}");
        // The certificate ends, and with it the connection. It goes on trying.
        tunnel.event("lost", SOON);
        said(tunnel, &["retry"], words);
    }
    for (front, ..) in &fronts {
        front.passes();
    }
    for (tunnel, (_, status, ..)) in tunnels.iter_mut().zip(&fronts) {
        tunnel.event("back", LATER);
        let local = tunnel.ready(1)[0];
        assert_eq!(exchange(local, b"again").unwrap(), b"again", "{status}");
    }
}

#[test]
fn a_vault_with_another_certificate_ends_no_tunnel() {
    let echo = Target::echo();
    let fixture = TunnelFixture::new(&[&echo]);
    let front = Front::with_tls(fixture.authority.url());
    let project = tunnel::Setup::new(fixture.bastion.address())
        .host_authority(fixture.authority.hosts())
        .vault(&front.url(), fixture.authority.token())
        .set("/vault/ttl", json!("12s"));
    let ca = project.scratch().write("ca.pem", front.certificate());
    let project = project.set("/vault/ca_cert", json!(ca));
    let mut tunnel = project.start(&[&at(&echo), "0"]);
    let local = tunnel.ready(1)[0];
    front.is_another();
    said(&mut tunnel, &["renewal-failed"], "could not be verified");
    tunnel.event("lost", SOON);
    said(&mut tunnel, &["retry"], "could not be verified");
    front.passes();
    tunnel.event("back", LATER);
    assert_eq!(exchange(local, b"again").unwrap(), b"again");
}

/// At the start a user is there to read an error.
#[test]
fn at_the_start_a_portal_is_an_error() {
    let fixture = TunnelFixture::new(&[]);
    let front = Front::before(fixture.authority.url());
    front.answers("511 Network Authentication Required", "text/html", "<html>");
    let project = tunnel::Setup::new(fixture.bastion.address())
        .host_authority(fixture.authority.hosts())
        .vault(&front.url(), fixture.authority.token());
    let output = project.program("pf-tunnel", &["db.internal:5432", "0"]).output();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("a web page, status 511") && stderr.contains("sign in to it first"), "{stderr}");
}

/// A token that ends overnight, from either place; its owner signs in again later.
#[test]
fn a_token_that_ends_is_waited_for() {
    let bao = OpenBao::start();
    let report = bao.bootstrap("127.0.0.1", &[]);
    let (authority, echo) = (report["user_authority"].as_str().unwrap(), Target::echo());
    let bastion = bastion::Setup::new().trust_line(authority).rule(LOGIN, &[&at(&echo)]).start();
    let token = |life: &str| {
        let asked = json!({"policies": ["tunnel-user"], "ttl": life, "explicit_max_ttl": life});
        let answer = bao.api("POST", "auth/token/create", &asked);
        answer["auth"]["client_token"].as_str().unwrap().to_owned()
    };
    let mut tunnels = ["environment", "file"].map(|source| {
        let project = tunnel::Setup::new(bastion.address())
            .set("/bastion/host_key", json!(bastion.host_key().public_line()))
            .set("/vault/address", json!(bao.url()))
            .set("/vault/ttl", json!("15s"));
        let file = project.scratch().join("home").join(".vault-token");
        let project = if source == "file" {
            std::fs::write(&file, token("8s")).unwrap();
            project
        } else {
            // Of another day: what is in the file when the program starts means nothing.
            std::fs::write(&file, "s.old").unwrap();
            project.env("VAULT_TOKEN", &token("8s"))
        };
        let mut tunnel = project.start(&[&at(&echo), "0"]);
        let local = tunnel.ready(1)[0];
        let stream = connected(local);
        (source, project, file, tunnel, local, stream)
    });
    for (source, _, _, tunnel, local, stream) in &mut tunnels {
        let needed = tunnel.event("sign-in-needed", LATER);
        println!("{source}: {needed}");
        assert_eq!(needed["command"], format!("bao login -address={}", bao.url()), "{source}");
        // An open stream lives as long as its certificate.
        if needed["seconds_left"].as_u64().unwrap() > 1 {
            use std::io::{Read, Write};
            stream.write_all(b"y").unwrap();
            stream.read_exact(&mut [0; 1]).unwrap();
            assert_eq!(exchange(*local, b"new").unwrap(), b"new", "{source}");
        }
    }
    for (source, _, file, tunnel, local, _) in &mut tunnels {
        tunnel.event("lost", SOON);
        tunnel.event("retry", SOON);
        assert!(tunnel.process.ended().is_none(), "{source}");
        std::fs::write(file, token("5m")).unwrap();
        tunnel.event("back", SOON);
        assert_eq!(exchange(*local, b"again").unwrap(), b"again", "{source}");
        assert!(!tunnel.process.stderr().contains("panicked"));
    }
}

#[test]
fn a_bastion_that_lets_no_client_in_for_now_ends_nothing() {
    let echo = Target::echo();
    // The record of the first login is the first that cannot be written.
    let mut fixture = TunnelFixture::with(
        &[&echo],
        |bastion| bastion.set("/audit", json!({"to": {"file": "/dev/full"}})),
        |project| project.set("/vault/ttl", json!("12s")),
    );
    let mut tunnel = fixture.project.start(&["--no-probe", &at(&echo), "0"]);
    let local = tunnel.ready(1)[0];
    let words = "audit_stopped: the bastion cannot write its audit records";
    said(&mut tunnel, &["renewal-failed"], words);
    assert_eq!(tunnel.count("lost"), 0, "its carrier lives");
    tunnel.event("lost", SOON);
    wait::until_true("more tries", SOON, || {
        let lost = tunnel.events().iter().position(|event| event["event"] == "lost").unwrap();
        tunnel.events()[lost..]
            .iter()
            .any(|event| event["reason"].as_str().is_some_and(|why| why.contains(words)))
    });
    assert!(tunnel.process.ended().is_none());
    fixture.bastion.change("/audit/to", json!("stdout"));
    fixture.bastion.kill();
    fixture.bastion.start_again();
    tunnel.event("back", LATER);
    assert_eq!(exchange(local, b"again").unwrap(), b"again");
}

fn by(clock: &Clock, project: tunnel::Setup) -> tunnel::Setup {
    clock.environment().iter().fold(project, |project, (name, value)| project.env(name, value))
}

#[test]
fn a_clock_that_falls_back_is_named_and_waited_for() {
    let echo = Target::echo();
    let fixture = TunnelFixture::new(&[&echo]);
    let clock = Clock::new();
    let project = by(
        &clock,
        tunnel::Setup::new(fixture.bastion.address())
            .host_authority(fixture.authority.hosts())
            .vault(fixture.authority.url(), fixture.authority.token())
            .set("/vault/ttl", json!("12s")),
    );
    let mut tunnel = project.start(&[&at(&echo), "0"]);
    let local = tunnel.ready(1)[0];
    let stream = connected(local);
    clock.set(-7200);
    let words = "this computer's clock is 2 h behind that of 127.0.0.1";
    said(&mut tunnel, &["renewal-failed"], words);
    // Nothing that has ended is used for longer because the clock says so.
    tunnel.event("lost", SOON);
    said(&mut tunnel, &["retry"], words);
    drop(stream);
    clock.set(0);
    tunnel.event("back", SOON);
    assert_eq!(exchange(local, b"again").unwrap(), b"again");
}

#[test]
fn a_clock_that_is_a_little_behind_at_the_start_is_named_and_waited_for() {
    let echo = Target::echo();
    let fixture = TunnelFixture::new(&[&echo]);
    let clock = Clock::new();
    clock.set(-45);
    let project = by(
        &clock,
        tunnel::Setup::new(fixture.bastion.address())
            .host_authority(fixture.authority.hosts())
            .vault(fixture.authority.url(), fixture.authority.token()),
    );
    let mut tunnel = project.start(&[&at(&echo), "0"]);
    let told = said(&mut tunnel, &["warning"], "s behind that of 127.0.0.1");
    // To the second, which is what the header has.
    let told = told["message"].as_str().unwrap();
    assert!(["44 s", "45 s"].iter().any(|by| told.contains(&format!("clock is {by} behind"))), "{told}");
    let local = tunnel.ready(1)[0];
    assert_eq!(exchange(local, b"x").unwrap(), b"x");

    clock.set(-7200);
    let output = project.program("pf-tunnel", &[&at(&echo), "0"]).output();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(stderr.contains("clock is 2 h behind") && stderr.contains("Set the clock right"), "{stderr}");
}

/// `nohup`, and a shell without job control that puts a program into the background.
#[test]
fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    let echo = Target::echo();
    let fixture = TunnelFixture::new(&[&echo]);
    let program = fixture.project.program("pf-tunnel", &["--json", &at(&echo), "0"]);
    let mut tunnel =
        Tunnel { process: program.under(&["sh", "-c", "trap '' HUP INT; exec \"$@\"", "sh"]).start() };
    let local = tunnel.ready(1)[0];
    // The kernel's own word, as for ssh: neither is listened for.
    let ignored = |process: u32| {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap()
    };
    let both = 1 << (Signal::SIGHUP as i32 - 1) | 1 << (Signal::SIGINT as i32 - 1);
    assert_eq!(ignored(tunnel.process.id()) & both, both);
    tunnel.process.signal(Signal::SIGHUP);
    tunnel.process.signal(Signal::SIGINT);
    assert_eq!(exchange(local, b"still here").unwrap(), b"still here");
    tunnel.process.signal(Signal::SIGTERM);
    assert_eq!(tunnel.process.code(SOON), 0);

    // Those who did not ask for that are heard.
    let mut plain = fixture.project.start(&[&at(&echo), "0"]);
    plain.ready(1);
    assert_eq!(ignored(plain.process.id()) & both, 0);
    plain.process.signal(Signal::SIGHUP);
    assert_eq!(plain.process.code(SOON), 0);
}
