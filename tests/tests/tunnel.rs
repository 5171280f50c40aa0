//! `pf-tunnel` from the outside: through our bastion and through a stock sshd, while things break, and when
//! nothing can work.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::json;
use tests::{
    authority::DevAuthority,
    bastion::{self, LOGIN},
    fixture::TunnelFixture,
    http,
    key::Key,
    openbao::OpenBao,
    ports,
    process::{Program, user},
    sshd,
    target::{Target, exchange},
    terminal::Terminal,
    tunnel, wait,
};

const SOON: Duration = Duration::from_secs(20);

pub(super) fn at(target: &Target) -> String {
    target.address().to_string()
}

/// A connection that has already carried something.
pub(super) fn connected(local: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(local).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
    stream
}

/// How a stream ended that neither end closed.
fn end_of(mut stream: TcpStream) -> Result<usize, ErrorKind> {
    stream.read(&mut [0; 1]).map_err(|error| error.kind())
}

#[test]
fn a_private_page_is_on_a_local_port() {
    let page = Target::page("Hello from behind the bastion");
    let fixture = TunnelFixture::new(&[&page]);
    let (mut tunnel, local) = fixture.tunnel(&page);
    assert_eq!(http::get(local, "/").unwrap().body, "Hello from behind the bastion");
    let ready = tunnel.event("ready", SOON);
    assert_eq!(ready["destination"], at(&page));
    assert_eq!(ready["port"], local.port());
    tunnel.process.signal(Signal::SIGINT);
    assert_eq!(tunnel.process.code(SOON), 0);
    assert!(!ports::is_listening(local));
}

#[test]
fn several_pairs_ipv6_and_the_form_of_ssh_are_understood() {
    let (one, two) = (Target::page("one"), Target::page("two"));
    let six = Target::on((Ipv6Addr::LOCALHOST, 0).into(), |mut stream| {
        let _ = stream.write_all(b"six");
        None
    });
    let fixture = TunnelFixture::new(&[&one, &two, &six]);
    let fixed = ports::free();
    let third = format!("[::1]:{}:127.0.0.1:{}", fixed + 1, one.port());
    let words = [&at(&one), "0", &at(&six), "0", &at(&two), &fixed.to_string(), "-L", &third];
    let mut tunnel = fixture.project.start(&words);
    let local = tunnel.ready(4);
    let find = |destination: &Target, ip: &str| -> SocketAddr {
        let events = tunnel.events();
        let fits = |one: &&serde_json::Value| {
            one["event"] == "ready"
                && one["destination"] == at(destination)
                && one["listen"].as_str().unwrap().starts_with(ip)
        };
        events.iter().find(fits).unwrap()["listen"].as_str().unwrap().parse().unwrap()
    };
    assert_eq!(local.len(), 4);
    assert_eq!(http::get(find(&one, "127."), "/").unwrap().body, "one");
    assert_eq!(find(&two, "127.").port(), fixed);
    assert_eq!(http::get(find(&two, "127."), "/").unwrap().body, "two");
    assert_eq!(find(&one, "[::1]").port(), fixed + 1);
    assert_eq!(http::get(find(&one, "[::1]"), "/").unwrap().body, "one");
    let mut text = String::new();
    TcpStream::connect(find(&six, "127.")).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "six");
}

#[test]
fn a_stock_sshd_will_do() {
    let target = Target::echo();
    let authority = DevAuthority::start_with(&["--principal", &user()]);
    let hosts = Key::ed25519();
    for certified in [true, false] {
        let setup = sshd::Setup::new().trust_line(authority.users());
        let sshd = if certified { setup.certify(&hosts, "127.0.0.1") } else { setup }.start();
        let project = tunnel::Setup::new(sshd.address())
            .set("/bastion/user", json!(sshd.login()))
            .vault(authority.url(), authority.token());
        let project = if certified {
            project.host_authority(&hosts.public_line())
        } else {
            project.set("/bastion/host_key", json!(sshd.host_key().public_line()))
        };
        let mut tunnel = project.start(&[&at(&target), "0"]);
        let local = tunnel.ready(1)[0];
        assert_eq!(exchange(local, b"through sshd").unwrap(), b"through sshd", "certified: {certified}");
    }
}

/// What autossh and `kubectl port-forward` cannot do.
#[test]
fn the_port_survives_the_bastions_death() {
    let (echo, page) = (Target::echo(), Target::page("back"));
    let mut fixture = TunnelFixture::new(&[&echo, &page]);
    let mut tunnel = fixture.project.start(&[&at(&echo), "0", &at(&page), "0"]);
    let local = tunnel.ready(2);
    let stream = connected(local[0]);

    fixture.bastion.kill();
    tunnel.event("lost", SOON);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| http::get(local[1], "/").unwrap().body);
        // Long enough for some tries to fail.
        tunnel.nth("retry", 3, SOON);
        assert!(!waiting.is_finished(), "the connection is held, not refused");
        fixture.bastion.start_again();
        let returned = Instant::now();
        assert_eq!(waiting.join().unwrap(), "back");
        println!("a waiting connection was served {:?} after the bastion's return", returned.elapsed());
        assert!(returned.elapsed() < Duration::from_secs(5), "{:?}", returned.elapsed());
    });
    tunnel.event("back", SOON);
    // Another process has come back, which does not have what was open at the first.
    let back = Instant::now();
    assert_eq!(end_of(stream), Err(ErrorKind::ConnectionReset), "a clean end would truncate a dump");
    assert!(back.elapsed() < Duration::from_secs(1), "the reset took {:?}", back.elapsed());
    assert_eq!(exchange(local[0], b"as before").unwrap(), b"as before");
}

/// A bastion that is there and says nothing: stopped, or behind a network that drops everything.
#[test]
fn a_dead_bastion_is_known_within_fifteen_seconds() {
    let echo = Target::echo();
    let mut fixture = TunnelFixture::new(&[&echo]);
    let (mut tunnel, local) = fixture.tunnel(&echo);
    let mut stream = connected(local);
    fixture.bastion.process().signal(Signal::SIGSTOP);
    let stopped = Instant::now();
    tunnel.event("lost", SOON);
    let known = stopped.elapsed();
    println!("known after {known:?}");
    assert!(known < Duration::from_secs(16), "{known:?}");
    fixture.bastion.process().signal(Signal::SIGCONT);
    assert_eq!(tunnel.event("back", SOON)["kept"], 1);
    assert_eq!(exchange(local, b"again").unwrap(), b"again");
    stream.write_all(b"still open").unwrap();
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"still open");
}

/// The bastion says how long it keeps what is open; after that nothing can come back.
#[test]
fn what_is_open_is_given_up_when_the_bastion_keeps_it_no_longer() {
    let echo = Target::echo();
    let keep = |bastion: bastion::Setup| bastion.set("/streams/keep_detached", json!("2s"));
    let mut fixture = TunnelFixture::with(&[&echo], keep, |project| project);
    let mut tunnel = fixture.project.start(&["-vv", &at(&echo), "0"]);
    let stream = connected(tunnel.ready(1)[0]);
    fixture.bastion.kill();
    let killed = Instant::now();
    assert_eq!(end_of(stream), Err(ErrorKind::ConnectionReset));
    assert!(killed.elapsed() >= Duration::from_secs(2), "{:?}", killed.elapsed());
    let closed = tunnel.event("closed", SOON);
    assert!(closed["reason"].as_str().unwrap().contains("for too long"), "{closed}");
}

#[test]
fn a_connection_waits_for_so_long_and_no_longer() {
    let echo = Target::echo();
    let mut fixture =
        TunnelFixture::with(&[&echo], |bastion| bastion, |project| project.set("/hold", json!("1s")));
    let (mut tunnel, local) = fixture.tunnel(&echo);
    fixture.bastion.kill();
    tunnel.event("lost", SOON);
    let start = Instant::now();
    let stream = TcpStream::connect(local).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(end_of(stream), Err(ErrorKind::ConnectionReset));
    let elapsed = start.elapsed();
    assert!(elapsed > Duration::from_millis(800) && elapsed < Duration::from_secs(4), "{elapsed:?}");
    assert!(ports::is_listening(local));
}

/// Twelve certificates one after the other, while a stream stays open.
#[test]
fn certificates_of_twenty_seconds_last_for_three_minutes() {
    let echo = Target::echo();
    let fixture =
        TunnelFixture::with(&[&echo], |bastion| bastion, |project| project.set("/vault/ttl", json!("20s")));
    let (tunnel, local) = fixture.tunnel(&echo);
    let start = Instant::now();
    let (mut count, mut slowest) = (0, Duration::ZERO);
    while start.elapsed() < Duration::from_secs(180) {
        let begun = Instant::now();
        let text = format!("connection {count}");
        assert_eq!(exchange(local, text.as_bytes()).unwrap(), text.as_bytes(), "after {:?}", start.elapsed());
        slowest = slowest.max(begun.elapsed());
        count += 1;
        std::thread::sleep(Duration::from_millis(200));
    }
    let (certificates, renewed, lost) =
        (tunnel.count("certificate"), tunnel.count("renewed"), tunnel.count("lost"));
    println!("{count} connections, the slowest {slowest:?}; {certificates} certificates, {renewed} renewals");
    assert!(certificates >= 10 && renewed >= 9, "{certificates} certificates, {renewed} renewals");
    assert_eq!(lost, 0, "the old connection is left only when the new one is there");
}

#[test]
fn an_authority_that_is_away_is_waited_for() {
    let echo = Target::echo();
    let fixture =
        TunnelFixture::with(&[&echo], |bastion| bastion, |project| project.set("/vault/ttl", json!("15s")));
    let (mut tunnel, local) = fixture.tunnel(&echo);
    fixture.authority.pause();
    // The renewal is due at ten seconds; what is there goes on meanwhile.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(12) {
        assert_eq!(exchange(local, b"x").unwrap(), b"x", "after {:?}", start.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
    fixture.authority.resume();
    tunnel.nth("certificate", 2, Duration::from_secs(40));
    assert_eq!(exchange(local, b"y").unwrap(), b"y");
}

/// The other ways into Vault, and nothing of what is secret in any output, however loud.
#[test]
fn logins_without_a_token_work_and_secrets_stay_secret() {
    let bao = OpenBao::start();
    let report = bao.bootstrap("127.0.0.1", &[]);
    let (authority, echo) = (report["user_authority"].as_str().unwrap(), Target::echo());
    let bastion = bastion::Setup::new().trust_line(authority).rule(LOGIN, &[&at(&echo)]).start();
    bao.run(&["auth", "enable", "userpass"]);
    bao.run(&[
        "write",
        "auth/userpass/users/alice",
        "password=canary-password",
        "token_policies=tunnel-user",
    ]);
    bao.run(&["auth", "enable", "approle"]);
    bao.run(&["write", "auth/approle/role/ci", "token_policies=tunnel-user"]);
    let role = bao.run(&["read", "-field=role_id", "auth/approle/role/ci/role-id"]);
    let secret = bao.run(&["write", "-f", "-field=secret_id", "auth/approle/role/ci/secret-id"]);
    let token = bao.token(&["tunnel-user"], "5m");
    let project = || {
        tunnel::Setup::new(bastion.address())
            .set("/bastion/host_key", json!(bastion.host_key().public_line()))
            .set("/vault/address", json!(bao.url()))
    };
    for (method, project, canary) in [
        (
            "userpass",
            project().env("PF_TUNNEL_USERNAME", "alice").env("PF_TUNNEL_PASSWORD", "canary-password"),
            "canary-password",
        ),
        ("token", project().env("VAULT_TOKEN", &token), token.as_str()),
        (
            "approle",
            project().env("PF_TUNNEL_ROLE_ID", role.trim()).env("PF_TUNNEL_SECRET_ID", secret.trim()),
            secret.trim(),
        ),
    ] {
        let words = ["--auth", method, "-vv", &at(&echo), "0"];
        let mut tunnel = project.program("pf-tunnel", &words).start();
        tunnel.wait_for("ready", SOON);
        let line = tunnel.stdout().lines().find(|line| line.contains("ready")).unwrap().to_owned();
        let local = line.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(exchange(local, b"x").unwrap(), b"x", "{method}");
        let command_line = std::fs::read_to_string(format!("/proc/{}/cmdline", tunnel.id())).unwrap();
        for text in [tunnel.stdout(), tunnel.stderr(), command_line] {
            assert!(!text.contains(canary) && !text.contains("PRIVATE KEY"), "{method}: {text}");
        }
        tunnel.signal(Signal::SIGTERM);
        assert_eq!(tunnel.code(SOON), 0);
    }
}

/// Runs `pf-tunnel` to its end: exit code, standard output, standard error.
fn ends(program: Program) -> (i32, String, String) {
    let output = program.output();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn every_failure_has_its_exit_code_and_its_remedy() {
    let echo = Target::echo();
    let fixture = TunnelFixture::new(&[&echo]);
    let stranger = DevAuthority::start();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy_port = busy.local_addr().unwrap().port().to_string();
    let (to, forbidden) = (at(&echo), format!("127.0.0.1:{}", ports::free()));
    let closed = format!("127.0.0.1:{}", ports::free());
    let secret = fixture.authority.token();
    let foreign_key = Key::ed25519().public_line();
    let project = || {
        tunnel::Setup::new(fixture.bastion.address())
            .host_authority(fixture.authority.hosts())
            .vault(fixture.authority.url(), secret)
    };
    let closed_vault = format!("http://{closed}");
    for (what, code, says, project, words) in [
        (
            "no such key",
            2,
            "pf-tunnel.yaml",
            project().set("/bastion/adress", json!("x")),
            vec![to.as_str(), "0"],
        ),
        ("a wrong token", 3, "token", project().env("VAULT_TOKEN", "s.wrong"), vec![&to, "0"]),
        ("no token at all", 3, "token", project().env("VAULT_TOKEN", ""), vec![&to, "0"]),
        (
            "no server at Vault's address",
            3,
            &closed,
            project().set("/vault/address", json!(closed_vault)),
            vec!["--once", &to, "0"],
        ),
        ("no such role", 4, "no-such-role", project(), vec!["--role", "no-such-role", &to, "0"]),
        ("a principal that is not given", 4, "root", project(), vec!["--principal", "root", &to, "0"]),
        (
            "no bastion",
            5,
            &closed,
            project().set("/bastion/address", json!(closed)),
            vec!["--once", &to, "0"],
        ),
        ("another host authority", 6, "SHA256:", project().host_authority(stranger.hosts()), vec![&to, "0"]),
        (
            "a bare key where an authority signs",
            6,
            "SHA256:",
            project().set(
                "/bastion",
                json!({"address": fixture.bastion.address().to_string(), "host_key": foreign_key}),
            ),
            vec![&to, "0"],
        ),
        (
            "another users' authority",
            7,
            "unknown_authority",
            project().vault(stranger.url(), stranger.token()),
            vec![&to, "0"],
        ),
        ("a forbidden destination", 8, &forbidden, project(), vec![&forbidden, "0"]),
        ("a busy port", 9, &busy_port, project(), vec![&to, &busy_port]),
    ] {
        let (got, stdout, stderr) = ends(project.program("pf-tunnel", &words));
        println!("--- {what}: {got}\n{stdout}{stderr}");
        assert_eq!(got, code, "{what}: {stdout}{stderr}");
        let error = stderr.lines().find(|line| line.starts_with("error: "));
        assert!(error.is_some(), "{what}: {stderr}");
        assert!(stderr.contains(says), "{what}: {stderr}");
        assert!(stderr.lines().count() >= 2, "{what} has no remedy: {stderr}");
        for text in [&stdout, &stderr] {
            assert!(
                !text.contains(secret) && !text.contains('\x1b') && !text.contains("panicked"),
                "{what}: {text}"
            );
        }

        let mut json = vec!["--json"];
        json.extend(&words);
        let (got, stdout, _) = ends(project.program("pf-tunnel", &json));
        let last: serde_json::Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
        assert_eq!(
            (got, &last["event"], &last["code"]),
            (code, &json!("error"), &json!(code)),
            "{what}: {stdout}"
        );
    }
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_happens() {
    let project = tunnel::Setup::new("127.0.0.1:1".parse().unwrap());
    for words in [
        &[][..],
        &["host"],
        &["host:", "0"],
        &[":80", "0"],
        &["host:80"],
        &["host:99999", "0"],
        &["host:0", "0"],
        &["host:80", "70000"],
        &["[::1:80", "0"],
        &["user@host:80", "0"],
        &["-oProxyCommand=x", "0"],
        &["$(id):80", "0"],
        &["host:٨٠", "0"],
        &["host:80", "٣٠٠٠"],
        &["host:+80", "0"],
        &["-L", "80"],
        &["-L", ":1:host:80"],
        &["--ttl", "soon", "host:80", "0"],
    ] {
        let (code, stdout, stderr) = ends(project.program("pf-tunnel", words));
        assert_eq!(code, 2, "{words:?}: {stdout}{stderr}");
        assert!(stderr.starts_with("error: ") && stdout.is_empty(), "{words:?}: {stdout}{stderr}");
        assert!(!stderr.contains("panicked"), "{words:?}: {stderr}");
    }
}

#[test]
fn a_busy_port_names_its_holder_at_once() {
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = busy.local_addr().unwrap().port().to_string();
    let project = tunnel::Setup::new("127.0.0.1:1".parse().unwrap())
        .host_authority(&Key::ed25519().public_line())
        .vault("http://127.0.0.1:1", "x");
    let start = Instant::now();
    let (code, _, stderr) = ends(project.program("pf-tunnel", &["db.internal:5432", &port]));
    let elapsed = start.elapsed();
    assert_eq!(code, 9, "{stderr}");
    assert!(stderr.contains(&format!("127.0.0.1:{port} is in use by ")), "{stderr}");
    assert!(stderr.contains(&format!("pid {}", std::process::id())), "{stderr}");
    println!("refused after {elapsed:?}");
    assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
}

#[test]
fn piped_it_says_little_and_on_a_terminal_it_keeps_one_line() {
    let page = Target::page("page");
    let mut fixture = TunnelFixture::new(&[&page]);
    let port = ports::free();
    let local = SocketAddr::from(([127, 0, 0, 1], port));
    let words = [&at(&page), &port.to_string() as &str];
    let mut piped = fixture.project.program("pf-tunnel", &words).start();
    piped.wait_for("ready", SOON);
    assert_eq!(http::get(local, "/").unwrap().body, "page");
    fixture.bastion.kill();
    piped.wait_for("Lost", SOON);
    fixture.bastion.start_again();
    piped.wait_for("Back", SOON);
    piped.signal(Signal::SIGTERM);
    assert_eq!(piped.code(SOON), 0);
    let (stdout, stderr) = (piped.stdout(), piped.stderr());
    assert!(!stdout.contains('\x1b') && !stdout.contains('\r') && stderr.is_empty(), "{stdout}{stderr}");
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{stdout}");
    assert!(
        lines[0].starts_with("Signed in to ") && lines[1].contains(" → ") && lines[1].contains("ready"),
        "{stdout}"
    );

    let mut quiet = fixture.project.program("pf-tunnel", &["-q"]).args(words).start();
    wait::until_true("the page", SOON, || ports::is_listening(local) && http::get(local, "/").is_ok());
    quiet.signal(Signal::SIGINT);
    assert_eq!(quiet.code(SOON), 0);
    assert_eq!((quiet.stdout(), quiet.stderr()), (String::new(), String::new()));

    let (mut screen, terminal) = Terminal::open();
    let mut shown = fixture.project.program("pf-tunnel", &words).env("TERM", "xterm").start_on(terminal);
    screen.wait_for("ready", SOON);
    assert_eq!(http::get(local, "/").unwrap().body, "page");
    screen.wait_for("0 open", SOON);
    screen.wait_for("certificate", SOON);
    screen.interrupt();
    assert_eq!(shown.code(SOON), 0);
    assert!(!screen.text().contains(fixture.authority.token()));
}

#[test]
fn the_settings_that_hold_are_told_with_their_source() {
    let project = tunnel::Setup::new("127.0.0.1:2222".parse().unwrap())
        .host_authority(&Key::ed25519().public_line())
        .vault("http://127.0.0.1:1", "hunter2")
        .env("PF_TUNNEL_ROLE", "from-environment");
    let text = project.program("pf-tunnel", &["config", "--mount", "from-flag"]).succeed();
    for part in
        ["127.0.0.1:2222", "pf-tunnel.yaml:", "from-environment", "PF_TUNNEL_ROLE", "from-flag", "--mount"]
    {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert!(!text.contains("hunter2"), "{text}");
}
