//! The bastion as a program: its configuration, its records, its limits, its end, and destinations that stay
//! closed.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::MetadataExt,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::{
    authority::DevAuthority,
    bastion::{self, LOGIN},
    fixture::Fixture,
    forge::Forge,
    http,
    key::Key,
    openbao::OpenBao,
    ports,
    process::{Program, is_root},
    rogue::{Attempt, Client, Gone, Link},
    scratch::Scratch,
    ssh::Person,
    target::{BlackHole, Target},
    wait,
    wire::Writer,
};

const SOON: Duration = Duration::from_secs(20);

/// A configuration that holds, to be spoilt.
fn honest(authority: &Key) -> String {
    format!(
        "listen: 127.0.0.1:0\nhost_key: {{generate: true}}\nauthorities:\n  - key: {}\nlogin: {{users: [tunnel]}}\nrules:\n  \
         - name: all\n    who: {{principals: [tunnel]}}\n    to: [\"db.internal:5432\"]\n",
        authority.public_line()
    )
}

/// The exit code and the words of `bastion-server --check-config`.
fn check(scratch: &Scratch, text: &str) -> (i32, String) {
    let config = scratch.write("bastion.yaml", text);
    let output = Program::ours("bastion-server").arg("--check-config").arg(config).output();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_wrong_configuration_is_refused_with_its_place_and_a_remedy() {
    let authority = Key::ed25519();
    let scratch = Scratch::new("config");
    let honest = honest(&authority);
    let (code, said) = check(&scratch, &honest);
    assert_eq!(code, 0, "{said}");

    let private = scratch.write("private", authority.private_pem());
    let private = format!("- file: {}", private.display());
    let small = format!("- key: {}", Key::generate(tests::key::Kind::Rsa(1024)).public_line());
    let known = format!("- key: {}", authority.public_line());
    for (what, from, to, says) in [
        ("an unknown key", "principals:", "principal:", ":8:11"),
        ("an unknown key, its remedy", "principals:", "principal:", "Did you mean `principals`?"),
        ("a wrong type", "[tunnel]}\nrules", "tunnel}\nrules", ":5:16"),
        ("a port that is none", "127.0.0.1:0", "127.0.0.1:65536", ":1:9"),
        ("a destination that is none", "db.internal:5432", "db.internal:72739", ":9:10"),
        ("a key given twice", "login:", "listen: 127.0.0.1:1\nlogin:", ":5:1"),
        ("an authority that is not there", known.as_str(), "- file: /no/such/file", "/no/such/file"),
        ("a private key as an authority", &known, &private, "private"),
        ("a weak authority", &known, &small, "2048"),
        ("a setting that is missing", "login: {users: [tunnel]}\n", "", "login"),
        ("nothing at all", honest.as_str(), "", "bastion.yaml"),
    ] {
        let text = honest.replace(from, to);
        assert_ne!(text, honest, "{what}");
        let (code, said) = check(&scratch, &text);
        assert_eq!(code, 2, "{what}: {said}");
        assert!(said.starts_with("error: ") && said.contains(says), "{what}: {said}");
        assert!(!said.contains("BEGIN OPENSSH") && !said.contains("panicked"), "{what}: {said}");
    }
    let missing = Program::ours("bastion-server").arg("/no/such/bastion.yaml").output();
    assert_eq!(missing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/no/such/bastion.yaml"));
    let folder = Program::ours("bastion-server").arg(scratch.path()).output();
    assert_eq!(folder.status.code(), Some(2));
}

#[test]
fn a_busy_port_is_named() {
    let fixture = Fixture::without_rules(|setup| setup);
    let output = Program::ours("bastion-server")
        .arg(fixture.bastion.config())
        .env("BASTION_ADMIN_LISTEN", format!("127.0.0.1:{}", ports::free()))
        .output();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&fixture.bastion.address().to_string()), "{said}");
}

#[test]
fn the_environment_beats_the_file() {
    let port = ports::free();
    let address = format!("127.0.0.1:{port}");
    let fixture = Fixture::without_rules(|setup| {
        setup.env("BASTION_LISTEN", &address).env("BASTION_LOG_FORMAT", "json")
    });
    assert!(ports::answers(address.parse().unwrap()));
    for line in fixture.bastion.log().lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "not JSON: {line}");
    }
}

#[test]
fn every_log_line_about_a_connection_names_it() {
    let fixture = Fixture::without_rules(|setup| setup.env("BASTION_LOG_FORMAT", "json"));
    let mut browser = TcpStream::connect(fixture.bastion.address()).unwrap();
    browser.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    wait::until_true("the bastion hangs up", Duration::from_secs(5), || {
        fixture.bastion.log().contains("connection closed")
    });
    let log = fixture.bastion.log();
    let line = log.lines().find(|line| line.contains("connection closed")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["span"]["name"], "session", "{line}");
    assert_eq!(line["span"]["client"], browser.local_addr().unwrap().to_string(), "{line}");
    assert_eq!(line["span"]["id"].as_str().map(str::len), Some(16), "{line}");
}

#[test]
fn every_step_of_a_session_is_on_record() {
    let target = Target::echo();
    let fixture = Fixture::without_rules(|setup| setup.rule(LOGIN, &[&target.address().to_string()]));
    let stranger = Key::ed25519();
    let mut refused = Client::connect(fixture.bastion.address()).unwrap();
    let attempt = Attempt::certificate(
        LOGIN,
        &fixture.key,
        Forge::user(&fixture.key, LOGIN)
            .with(|forge| forge.key_id = b"stranger\x1b[2J\nx".to_vec())
            .sign(&stranger),
    );
    assert!(!refused.attempt(&attempt).accepted);

    let mut client = fixture.login_with(|forge| {
        forge.serial = 4711;
        forge.key_id = b"me@example.com".to_vec();
    });
    let channel = client.forward("127.0.0.1", target.port().into()).unwrap().unwrap();
    client.write(channel, b"hello").unwrap();
    assert_eq!(client.read(channel, 5).unwrap(), b"hello");
    client.finish(channel).unwrap();
    assert!(client.read(channel, 1).unwrap().is_empty());
    client.close(channel).unwrap();
    assert!(client.forward("127.0.0.1", 1).unwrap().is_err());
    assert!(
        !client.global_request("tcpip-forward", &tests::wire::Writer::new().string("").u32(0).0).unwrap()
    );

    let find = |event: &str| fixture.bastion.audited(event, |record| record["event"] == event);
    let closed = find("forward_closed");
    drop(client);
    let session_closed = find("session_closed");
    let accepted = find("login_accepted");
    let opened = find("forward_opened");
    for record in [&accepted, &opened, &closed, &session_closed] {
        assert_eq!(record["session"], accepted["session"]);
        assert_eq!(record["source_address"], "127.0.0.1");
        assert_eq!(record["login"], LOGIN);
        assert_eq!(record["principals"], json!([LOGIN]));
        assert_eq!(record["key_id"], "me@example.com");
        assert_eq!(record["serial"], 4711);
        let fingerprint = |key: &Key| key.private().fingerprint(ssh_key::HashAlg::Sha256).to_string();
        assert_eq!(record["authority"], fingerprint(&fixture.authority));
        assert_eq!(record["key"], fingerprint(&fixture.key));
        assert!(record["time"].as_str().unwrap().ends_with('Z'));
    }
    for record in [&opened, &closed] {
        assert_eq!(record["destination_host"], "127.0.0.1");
        assert_eq!(record["destination_port"], target.port());
        assert_eq!(record["destination_address"], "127.0.0.1");
        assert_eq!(record["rule"], "rule 1");
    }
    assert_eq!((&closed["bytes_sent"], &closed["bytes_received"]), (&json!(5), &json!(5)));
    assert_eq!(closed["reason"], "finished");
    assert!(closed["duration_ms"].is_u64());
    assert_eq!(find("forward_refused")["reason"], "no_rule");
    assert_eq!(find("request_refused")["request"], "tcpip_forward");
    let stranger = find("login_refused");
    assert_eq!(stranger["reason"], "unknown_authority");
    assert!(!stranger["key_id"].as_str().unwrap().contains(['\x1b', '\n']), "{stranger}");
    assert!(!fixture.bastion.log().contains('\x1b'));
}

/// A client that vanishes leaves its forwards open: they are accounted for all the same, and before the
/// session is.
#[test]
fn a_session_counts_what_its_open_forwards_carried() {
    let target = Target::echo();
    let fixture = Fixture::without_rules(|setup| setup.rule(LOGIN, &[&target.address().to_string()]));
    let mut client = fixture.login();
    for _ in 0..3 {
        let channel = client.forward("127.0.0.1", target.port().into()).unwrap().unwrap();
        client.write(channel, b"hello").unwrap();
        assert_eq!(client.read(channel, 5).unwrap(), b"hello");
    }
    drop(client);
    let session = fixture.bastion.audited("session_closed", |record| record["event"] == "session_closed");
    assert_eq!((&session["bytes_sent"], &session["bytes_received"]), (&json!(15), &json!(15)), "{session}");
    let events = fixture.bastion.audit();
    let last = events.last().unwrap();
    assert_eq!(last["event"], "session_closed", "a record after the last: {last}");
    assert_eq!(events.iter().filter(|record| record["event"] == "forward_closed").count(), 3);
}

#[test]
fn health_and_metrics_are_told() {
    let target = Target::echo();
    let fixture = Fixture::without_rules(|setup| setup.rule(LOGIN, &[&target.address().to_string()]));
    let mut client = fixture.login();
    let channel = client.forward("127.0.0.1", target.port().into()).unwrap().unwrap();
    client.write(channel, b"hello").unwrap();
    assert_eq!(client.read(channel, 5).unwrap(), b"hello");
    assert_eq!(fixture.bastion.page("/livez").status, 200);
    assert_eq!(fixture.bastion.page("/readyz").json()["ready"], true);
    assert_eq!(fixture.bastion.page("/nothing").status, 404);
    let metrics = fixture.bastion.page("/metrics").body;
    for line in [
        "bastion_sessions_active 1",
        "bastion_channels_active 1",
        "bastion_auth_total{result=\"accepted\"",
        "bastion_forward_total{result=\"opened\"",
        "bastion_ca_keys 1",
        "# EOF",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
}

#[test]
fn a_polite_kill_ends_it_cleanly() {
    let target = Target::echo();
    let mut fixture = Fixture::without_rules(|setup| setup.rule(LOGIN, &[&target.address().to_string()]));
    let mut client = fixture.login();
    let channel = client.forward("127.0.0.1", target.port().into()).unwrap().unwrap();
    let start = Instant::now();
    fixture.bastion.process().signal(Signal::SIGTERM);
    let end = client.read(channel, 1).and_then(|_| client.wait_for(|_| false)).unwrap_err();
    assert!(matches!(&end, Gone::Disconnected { text, .. } if text.contains("shut")), "{end:?}");
    assert_eq!(fixture.bastion.process().code(SOON), 0);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(!ports::answers(fixture.bastion.address()));
    let closed = fixture.bastion.audited("the end on record", |record| record["event"] == "session_closed");
    assert_eq!(closed["reason"], "shutdown");
}

#[test]
fn a_client_that_does_not_log_in_is_cut_at_the_deadline() {
    let fixture = Fixture::without_rules(|setup| setup.set("/limits", json!({"login_deadline": "2s"})));
    let server = fixture.bastion.address();
    let start = Instant::now();
    let mut silent = Link::connect(server).unwrap();
    let mut polite = Link::connect(server).unwrap();
    polite.identify("SSH-2.0-idle").unwrap();
    // One message a moment keeps timers of idleness happy, but not the deadline.
    let mut chatty = Client::connect(server).unwrap();
    let ended = loop {
        if let Err(end) =
            chatty.packets.send(&tests::wire::Writer::message(tests::rogue::number::IGNORE).string("x").0)
        {
            break end;
        }
        chatty.packets.link().patience(Duration::from_millis(100));
        match chatty.packets.receive() {
            Err(Gone::Silent) => assert!(start.elapsed() < SOON, "it stays for ever"),
            Err(end) => break end,
            Ok(_) => {}
        }
    };
    let elapsed = start.elapsed();
    assert!(
        elapsed > Duration::from_millis(1500) && elapsed < Duration::from_secs(6),
        "{elapsed:?}: {ended:?}"
    );
    let _ = silent.receive_to_end();
    let _ = polite.receive_to_end();
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    let _ = fixture.login();
}

/// A session lives as long as its certificate, and not a moment more.
#[test]
fn a_session_ends_with_its_certificate() {
    let target = Target::echo();
    let fixture = Fixture::without_rules(|setup| setup.rule(LOGIN, &[&target.address().to_string()]));
    let now = tests::forge::now();
    // Three, since a busy machine may hold up one of them, or two.
    let sessions = [now + 8, now + 10, now + 12].map(|expiry| {
        let mut client = fixture.login_with(|forge| forge.valid_before = expiry);
        let channel = client.forward("127.0.0.1", target.port().into()).unwrap().unwrap();
        client.write(channel, b"x").unwrap();
        assert_eq!(client.read(channel, 1).unwrap(), b"x");
        (client, UNIX_EPOCH + Duration::from_secs(expiry))
    });
    let overtime = sessions.map(|(mut client, expiry)| {
        let end = client.wait_for(|_| false).unwrap_err();
        assert!(matches!(&end, Gone::Disconnected { text, .. } if text.contains("expired")), "{end:?}");
        SystemTime::now().duration_since(expiry).expect("not before its certificate expired")
    });
    assert!(overtime.iter().all(|overtime| *overtime < Duration::from_secs(5)), "{overtime:?}");
    assert!(overtime.iter().any(|overtime| *overtime < Duration::from_secs(1)), "{overtime:?}");
    let closed = fixture.bastion.audited("the end on record", |record| record["event"] == "session_closed");
    assert_eq!(closed["reason"], "expired");
}

#[test]
fn a_channel_that_waits_for_its_place_and_outlives_its_session_says_so() {
    let target = Target::echo();
    let fixture = Fixture::without_rules(|setup| {
        let setup = setup.rule(LOGIN, &[&target.address().to_string()]);
        setup.set("/limits/max_channels_per_session", json!(1))
    });
    let mut client = fixture.login();
    let first = client.forward("127.0.0.1", target.port().into()).unwrap().unwrap();
    let fields = Writer::new().string("127.0.0.1").u32(target.port().into()).string("127.0.0.1").u32(40_000);
    let _unanswered = client.begin_open("direct-tcpip", &fields.0).unwrap();
    // The session has answered a later request, so this one waits.
    client.write(first, b"x").unwrap();
    assert_eq!(client.read(first, 1).unwrap(), b"x");
    drop(client);
    let refused =
        fixture.bastion.audited("that it was given up", |record| record["event"] == "forward_refused");
    assert_eq!(refused["reason"], "session_ended");
}

/// Every spelling of a closed destination, although the one rule lets every client go everywhere.
#[test]
fn the_floor_stands_by_every_spelling() {
    let target = Target::echo();
    let everywhere = ["*:1-65535", "0.0.0.0/0:1-65535", "[::/0]:1-65535"];
    let fixture = Fixture::without_rules(|setup| {
        // Not every system has a name for it.
        let setup = setup.set("/hosts", json!({"ip6-localhost": ["::1"]}));
        setup.rule(LOGIN, &everywhere).set("/open_networks", json!([]))
    });
    let mut client = fixture.login();
    let port = u32::from(target.port());
    // Each for its own reason: most of these cannot be connected to anyway, and a refusal by the network
    // would prove nothing.
    for (host, on_the_floor) in [
        ("127.0.0.1", Some("loopback")),
        ("127.0.0.2", Some("loopback")),
        ("127.1", None),
        ("127.0.1", None),
        ("2130706433", None),
        ("0x7f000001", None),
        ("0x7f.1", None),
        ("017700000001", None),
        ("0177.0.0.1", None),
        ("0", None),
        ("0.0.0.0", Some("unspecified")),
        ("::", Some("unspecified")),
        ("::1", Some("loopback")),
        ("0:0:0:0:0:0:0:1", Some("loopback")),
        ("::ffff:127.0.0.1", Some("loopback")),
        ("::ffff:7f00:1", Some("loopback")),
        ("::127.0.0.1", Some("loopback")),
        ("64:ff9b::7f00:1", Some("loopback")),
        ("64:ff9b::127.0.0.1", Some("loopback")),
        ("2002:7f00:1::", Some("loopback")),
        ("localhost", Some("loopback")),
        ("LOCALHOST", Some("loopback")),
        ("localhost.", Some("loopback")),
        ("ip6-localhost", Some("loopback")),
        ("169.254.169.254", Some("cloud-metadata")),
        ("169.254.169.254.", None),
        ("2852039166", None),
        ("0xa9fea9fe", None),
        ("::ffff:169.254.169.254", Some("cloud-metadata")),
        ("64:ff9b::a9fe:a9fe", Some("cloud-metadata")),
        ("100.100.100.200", Some("cloud-metadata")),
        ("fd00:ec2::254", Some("cloud-metadata")),
        ("fe80::1", Some("link-local")),
        ("169.254.1.1", Some("link-local")),
        ("224.0.0.1", Some("multicast")),
        ("ff02::1", Some("multicast")),
        ("255.255.255.255", Some("broadcast")),
        ("240.0.0.1", Some("broadcast")),
        ("::ffff:0:127.0.0.1", Some("loopback")),
        ("2001:0:7f00:1::", Some("loopback")),
        ("2001:db8::5efe:127.0.0.1", Some("loopback")),
        ("64:ff9b:1:7f00:0:100::", Some("loopback")),
        ("fd20:ce::254", Some("cloud-metadata")),
        ("168.63.129.16", Some("cloud-metadata")),
        ("192.0.0.192", Some("cloud-metadata")),
        ("fd00:c1::a9fe:a9fe", Some("cloud-metadata")),
        ("fd00:ec2::23", Some("cloud-metadata")),
        ("fd00:42::42", Some("cloud-metadata")),
        ("::ffff:224.0.0.1", Some("multicast")),
    ] {
        let failure = client.forward(host, port).unwrap().expect_err(host);
        let expected = match on_the_floor {
            Some(kind) => format!("forbidden_address: this destination is at a forbidden address ({kind})"),
            None => "address_spelling: an IPv4 address is written as four decimal numbers".to_owned(),
        };
        // SSH_OPEN_ADMINISTRATIVELY_PROHIBITED
        assert_eq!((failure.reason, failure.text), (1, expected), "{host}");
    }
    assert_eq!(target.accepted(), 0, "nothing arrived");
    let _ = client.forward("127.0.0.1", 1).unwrap().expect_err("still there");
}

#[test]
fn what_is_no_destination_is_refused_and_the_connection_stays() {
    let target = Target::echo();
    let fixture =
        Fixture::without_rules(|setup| setup.rule(LOGIN, &[&target.address().to_string(), "*:1-65535"]));
    let mut client = fixture.login();
    let good = u32::from(target.port());
    let label = "a".repeat(64);
    // Every label of it is good, so that its length is what is looked at.
    let long = format!("{}example", "a.".repeat(130));
    for (host, port) in [
        (&b"127.0.0.1"[..], 0),
        (b"127.0.0.1", 65_536),
        (b"127.0.0.1", 65_536 + good),
        (b"127.0.0.1", 72_739),
        (b"127.0.0.1", u32::MAX),
        (b"", good),
        (b"127.0.0.1\0", good),
        (b"127.0.0.1\0.example.com", good),
        (b"127.0.0.1\n", good),
        (b" 127.0.0.1", good),
        (b"a b", good),
        (b"\x1b[2J\x1b]0;owned\x07", good),
        (b"[::1]", good),
        (b"::1%lo", good),
        (b"fe80::1%eth0", good),
        (b"user@127.0.0.1", good),
        (b"-oProxyCommand=x", good),
        (b"../etc/passwd", good),
        (b"a..b", good),
        (b".", good),
        (label.as_bytes(), good),
        (long.as_bytes(), good),
    ] {
        let shown = String::from_utf8_lossy(host).escape_debug().to_string();
        match client.forward(host, port) {
            Ok(Err(failure)) => {
                // Refused for what it is, and not because it leads nowhere.
                let code = if port == good { "bad_host: " } else { "bad_port: " };
                assert_eq!(failure.reason, 1, "{shown}:{port}: {failure:?}");
                assert!(failure.text.starts_with(code), "{shown}:{port}: {failure:?}");
            }
            Ok(Ok(_)) => panic!("{shown}:{port} was opened"),
            Err(gone) => panic!("{shown}:{port} ended the connection: {gone}"),
        }
    }
    assert_eq!(target.accepted(), 0, "nothing arrived");
    let channel = client.forward("127.0.0.1", good).unwrap().expect("the connection stays");
    client.write(channel, b"x").unwrap();
    assert_eq!(client.read(channel, 1).unwrap(), b"x");
    // What is not even text ends the connection, as any other message would that cannot be parsed; and only
    // that one.
    assert!(client.forward(b"\xff\xfe", good).is_err());
    let _ = fixture.login();
    let records: Vec<Value> = fixture.bastion.audit();
    for record in records.iter().filter(|record| record["event"] == "forward_refused") {
        let host = record["destination_host"].as_str().unwrap();
        assert!(!host.contains(['\x1b', '\n', '\0']), "{record}");
    }
    assert!(!fixture.bastion.log().contains('\x1b'));
}

#[test]
fn a_target_that_fails_fails_alone() {
    let (echo, resetting, silent) = (Target::echo(), Target::resetting(), Target::silent());
    let closed = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()));
    let to =
        [echo.address(), resetting.address(), silent.address(), closed].map(|address| address.to_string());
    let mut all: Vec<&str> = to.iter().map(String::as_str).collect();
    all.push("no-such-host.invalid:80");
    let fixture = Fixture::without_rules(|setup| setup.rule(LOGIN, &all));
    let mut client = fixture.login();
    let steady = client.forward("127.0.0.1", echo.port().into()).unwrap().unwrap();

    let failure = client.forward("127.0.0.1", closed.port().into()).unwrap().unwrap_err();
    assert!(failure.reason == 2 && failure.text.starts_with("connection_refused: "), "{failure:?}");
    let failure = client.forward("no-such-host.invalid", 80).unwrap().unwrap_err();
    assert!(failure.reason == 2 && failure.text.starts_with("unresolved: "), "{failure:?}");
    let reset = client.forward("127.0.0.1", resetting.port().into()).unwrap().unwrap();
    client.write(reset, b"x").unwrap();
    assert!(client.read(reset, 1).unwrap().is_empty());
    // What the target does not read piles up: as much as the window allows, and a little more.
    let stuck = client.forward("127.0.0.1", silent.port().into()).unwrap().unwrap();
    for _ in 0..stuck.window / 32_768 {
        client.write(stuck, &[0; 32_768]).unwrap();
    }
    client.write(steady, b"still here").unwrap();
    assert_eq!(client.read(steady, 10).unwrap(), b"still here");
    let closed = fixture.bastion.audited("the reset on record", |record| record["event"] == "forward_closed");
    assert_eq!(closed["reason"], "target_reset", "{closed}");
}

#[test]
fn opens_towards_a_black_hole_time_out_and_hold_up_no_other() {
    const OPENS: usize = 200;
    let (hole, echo) = (BlackHole::new(), Target::echo());
    let fixture = Fixture::without_rules(|setup| {
        setup
            .rule(LOGIN, &[&hole.address().to_string(), &echo.address().to_string()])
            .set("/timeouts/connect", json!("8s"))
    });
    let mut client = fixture.login();
    let to_the_hole =
        Writer::new().string("127.0.0.1").u32(hole.address().port().into()).string("::1").u32(1);
    let began = Instant::now();
    let asked: Vec<_> =
        (0..OPENS).map(|_| client.begin_open("direct-tcpip", &to_the_hole.0).unwrap()).collect();
    let channel = client.forward("127.0.0.1", echo.port().into()).unwrap().unwrap();
    client.write(channel, b"still here").unwrap();
    assert_eq!(client.read(channel, 10).unwrap(), b"still here");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(6), "{OPENS} opens to nowhere held up one to somewhere for {took:?}");
    for asked in asked {
        let failure = client.opened(asked).unwrap().unwrap_err();
        assert!(failure.reason == 2 && failure.text.starts_with("connect_timeout: "), "{failure:?}");
    }
    let took = began.elapsed();
    assert!(
        (8.0..16.0).contains(&took.as_secs_f64()),
        "all of them simultaneously, not one after the other: {took:?}"
    );
}

#[test]
fn channels_past_the_cap_are_refused_with_the_right_reason() {
    let target = Target::echo();
    let fixture = Fixture::without_rules(|setup| {
        setup
            .rule(LOGIN, &[&target.address().to_string()])
            .set("/limits", json!({"max_channels_per_session": 5}))
    });
    let mut client = fixture.login();
    let channels: Vec<_> =
        (0..5).map(|_| client.forward("127.0.0.1", target.port().into()).unwrap().unwrap()).collect();
    let failure = client.forward("127.0.0.1", target.port().into()).unwrap().unwrap_err();
    assert_eq!(failure.reason, 4, "{failure:?}");
    let _ = fixture
        .login()
        .forward("127.0.0.1", target.port().into())
        .unwrap()
        .expect("another session has its own");
    client.close(channels[0]).unwrap();
    wait::until_true("a place", SOON, || client.forward("127.0.0.1", target.port().into()).unwrap().is_ok());
}

/// A first taste of what an unauthenticated peer may send: each is closed, and the next client is served.
#[test]
fn nonsense_before_login_ends_only_its_own_connection() {
    let mut fixture = Fixture::without_rules(|setup| setup);
    let server = fixture.bastion.address();
    let long = [b"SSH-2.0-".to_vec(), vec![b'x'; 1 << 20]].concat();
    let lines = b"hello\r\n".repeat(20_000);
    for (what, bytes) in [
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("TLS", [&[0x16, 3, 1, 0, 0xf0][..], &[0; 240]].concat()),
        ("SSH-1", b"SSH-1.5-old\r\n".to_vec()),
        ("a long line", long),
        ("a NUL", b"SSH-2.0-a\0b\r\n".to_vec()),
        ("many lines", lines),
        ("a packet of length 0", b"SSH-2.0-x\r\n\0\0\0\0".to_vec()),
        ("a packet of length 2^32-1", b"SSH-2.0-x\r\n\xff\xff\xff\xff".to_vec()),
        ("a packet of length 2^28", b"SSH-2.0-x\r\n\x10\0\0\0".to_vec()),
        ("a truncated KEXINIT", b"SSH-2.0-x\r\n\0\0\0\x0c\x04\x14aaaaaaaaaa".to_vec()),
        ("NEWKEYS first", b"SSH-2.0-x\r\n\0\0\0\x0c\x0a\x15\0\0\0\0\0\0\0\0\0\0".to_vec()),
    ] {
        let mut link = Link::connect(server).unwrap();
        link.patience(Duration::from_secs(25));
        let _ = link.send(&bytes);
        let _ = link.stream().shutdown(std::net::Shutdown::Write);
        let (said, end) = link.receive_to_end();
        assert_ne!(end, Gone::Silent, "{what}: it stays open");
        assert!(said.len() < 8192, "{what}: {} bytes in answer", said.len());
        assert!(fixture.bastion.process().ended().is_none(), "{what}: the bastion ended");
    }
    let _ = fixture.login();
}

/// Whose authority is trusted can change while it runs: by an atomic rewrite of a file.
#[test]
fn authorities_can_be_replaced_while_it_runs() {
    let (old, new, key) = (Key::ed25519(), Key::ed25519(), Key::ed25519());
    let scratch = Scratch::new("authorities");
    let file = scratch.write("ca.pub", old.public_line() + "\n");
    let bastion = bastion::Setup::new().set("/authorities", json!([{"file": file}])).start();
    let admits = |authority: &Key| {
        let certificate = Forge::user(&key, LOGIN).sign(authority);
        let mut client = Client::connect(bastion.address()).unwrap();
        client.attempt(&Attempt::certificate(LOGIN, &key, certificate)).accepted
    };
    let replace = |text: String| std::fs::rename(scratch.write("next", text), &file).unwrap();
    assert!(admits(&old) && !admits(&new));
    replace(format!("{}\n{}\n", old.public_line(), new.public_line()));
    wait::until_true("the new authority", SOON, || admits(&new));
    assert!(admits(&old));
    replace("this is no key\n".to_owned());
    let spoilt = Instant::now();
    wait::until_true("a word about the bad file", SOON, || bastion.log().contains("ca.pub"));
    assert!(admits(&old) && admits(&new), "the last good set is kept ({:?})", spoilt.elapsed());
    replace(format!("{}\n", new.public_line()));
    wait::until_true("the old authority is gone", SOON, || !admits(&old));
    assert!(admits(&new));
}

/// Users' authority and the host's certificate both from a real OpenBao, and a stock `ssh` that believes it.
#[test]
fn both_ends_can_live_on_what_openbao_signs() {
    let bao = OpenBao::start();
    let report = bao.bootstrap("127.0.0.1", &[]);
    let target = Target::echo();
    let to = target.address().to_string();
    let vault = json!({"mount": "ssh-host", "role": "bastion", "principals": ["127.0.0.1"], "ttl": "10m"});
    let bastion = bastion::Setup::new()
        .set("/authorities", json!([{"vault": {"mount": "ssh"}}]))
        .set("/host_key", json!({"vault": vault}))
        .set("/vault", json!({"address": bao.url()}))
        .env("BAO_TOKEN", &bao.token(&["tunnel-bastion"], "10m"))
        .rule(LOGIN, &[&to])
        .start();
    let (scratch, key) = (Scratch::new("signed"), Key::ed25519());
    let public = scratch.write("id.pub", key.public_line());
    let sign = bao.vault_signer(&["sign", "--public-key"]).arg(public);
    let signed = sign.env("BAO_TOKEN", bao.token(&["tunnel-user"], "5m")).succeed();
    let certificate = ssh_key::Certificate::from_openssh(signed.trim()).unwrap().to_bytes().unwrap();
    let person =
        Person::new(LOGIN, &key, &certificate).believes_line(report["host_authority"].as_str().unwrap());
    let ssh = person.ssh(bastion.address(), &["-W", &to]).input("signed by OpenBao");
    assert_eq!(ssh.succeed(), "signed by OpenBao");
}

/// A host certificate of fifteen seconds, over thirty: a client finds a valid one whenever it connects.
#[test]
fn the_host_certificate_is_renewed_before_it_expires() {
    let vault = DevAuthority::start();
    let (authority, key) = (Key::ed25519(), Key::ed25519());
    let target = Target::echo();
    let to = target.address().to_string();
    let host = json!({"mount": "ssh-host", "role": "bastion", "principals": ["127.0.0.1"], "ttl": "15s"});
    let bastion = bastion::Setup::new()
        .trust(&authority)
        .set("/host_key", json!({"vault": host}))
        .set("/vault", json!({"address": vault.url()}))
        .env("VAULT_TOKEN", vault.token())
        .rule(LOGIN, &[&to])
        .start();
    let person =
        Person::new(LOGIN, &key, &Forge::user(&key, LOGIN).sign(&authority)).believes_line(vault.hosts());
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        let ssh = person.ssh(bastion.address(), &["-W", &to]).input("x");
        assert_eq!(ssh.succeed(), "x", "after {:?}", start.elapsed());
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Vault's public key is asked for again and again: while Vault is away the last answer holds, and a new one
/// replaces it.
#[test]
fn the_authority_in_vault_is_read_again() {
    let mut vault = DevAuthority::start();
    let source = json!([{"vault": {"mount": "ssh", "refresh": "1s"}}]);
    let bastion = bastion::Setup::new()
        .set("/authorities", source)
        .set("/vault", json!({"address": vault.url()}))
        .start();
    let (key, scratch) = (Key::ed25519(), Scratch::new("signed"));
    let public = scratch.write("id.pub", key.public_line());
    let signed = |vault: &DevAuthority| {
        let sign = Program::ours("vault-signer").args(["sign", "--public-key"]).arg(&public);
        let text = sign.env("VAULT_ADDR", vault.url()).env("VAULT_TOKEN", vault.token()).succeed();
        ssh_key::Certificate::from_openssh(text.trim()).unwrap().to_bytes().unwrap()
    };
    let admits = |certificate: &[u8]| {
        let attempt = Attempt::certificate(LOGIN, &key, certificate.to_vec());
        Client::connect(bastion.address()).unwrap().attempt(&attempt).accepted
    };
    let old = signed(&vault);
    assert!(admits(&old));
    vault.pause();
    let failures = || bastion.page("/metrics").body.contains("bastion_ca_refresh_failures_total 0");
    wait::until_true("a failed refresh", Duration::from_secs(40), || !failures());
    assert!(admits(&old), "the last good set is kept");
    vault.resume();
    vault.replace();
    let new = signed(&vault);
    wait::until_true("the new authority", Duration::from_secs(60), || admits(&new));
    assert!(!admits(&old));
}

/// While Vault is away at its start it is not ready, says what it waits for, and goes on by itself.
#[test]
fn a_bastion_without_its_vault_waits_and_says_so() {
    let authority = Key::ed25519();
    let scratch = Scratch::new("waiting");
    let (admin, vault) = (ports::free(), ports::free());
    let config = json!({
        "listen": format!("127.0.0.1:{}", ports::free()),
        "host_key": {"generate": true},
        "authorities": [{"key": authority.public_line()}, {"vault": {"mount": "ssh"}}],
        "vault": {"address": format!("http://127.0.0.1:{vault}")},
        "login": {"users": [LOGIN]},
        "admin": {"listen": format!("127.0.0.1:{admin}")},
    });
    let config = scratch.write("bastion.yaml", config.to_string());
    let _bastion = Program::ours("bastion-server").arg(config).start();
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, admin));
    ports::wait_until_answers(admin, wait::START);
    let page = http::get(admin, "/readyz").unwrap();
    assert_eq!(page.status, 503);
    assert!(page.body.contains("authorities"), "{}", page.body);
    let _vault =
        Program::ours("vault-signer").args(["dev", "--listen", &format!("127.0.0.1:{vault}")]).start();
    wait::until_true("ready", Duration::from_secs(60), || {
        http::get(admin, "/readyz").is_ok_and(|page| page.status == 200)
    });
}

/// The user who runs the tests is either root, and starts it as the user `nobody`, or has no privilege
/// already.
#[test]
fn it_needs_no_privilege() {
    let target = Target::echo();
    let mut fixture = Fixture::without_rules(|setup| {
        let setup = setup.rule(LOGIN, &[&target.address().to_string()]);
        if is_root() { setup.as_user("nobody") } else { setup }
    });
    let id = fixture.bastion.process().id();
    assert_ne!(std::fs::metadata(format!("/proc/{id}")).unwrap().uid(), 0);
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    let mut client = fixture.login();
    assert!(client.forward("127.0.0.1", target.port().into()).unwrap().is_ok());
}

#[test]
fn a_half_closed_stream_still_carries_ten_megabytes() {
    const LENGTH: u64 = 10 << 20;
    let target = Target::new(|stream| {
        // First everything is heard, then everything is said.
        let heard = tests::target::drain(&stream);
        tests::target::send(&stream, 5, LENGTH).ok()?;
        Some(heard)
    });
    let to = target.address().to_string();
    let fixture = Fixture::without_rules(|setup| setup.rule(LOGIN, &[&to]));
    let certificate = Forge::user(&fixture.key, LOGIN).sign(&fixture.authority);
    let person = Person::new(LOGIN, &fixture.key, &certificate)
        .knows(fixture.bastion.address(), &fixture.bastion.host_key());
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()));
    let _ssh = person.forward(fixture.bastion.address(), &["-L", &format!("{local}:{to}")], &[local]);
    let stream = TcpStream::connect(local).unwrap();
    tests::target::send(&stream, 4, LENGTH).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(tests::target::drain(&stream), tests::target::Pattern::transfer(5, LENGTH));
    assert_eq!(target.transfer(SOON), tests::target::Pattern::transfer(4, LENGTH));
}
