//! The stock OpenSSH client through our bastion: forwards of every kind work, and nothing else does.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tests::{
    bastion::{self, Bastion, LOGIN},
    forge::{Forge, write_identity},
    key::Key,
    ports,
    process::{Process, Program, installed, user},
    rogue::Client,
    socks,
    ssh::{Person, gave_up},
    sshd,
    target::{Target, exchange},
    terminal::Terminal,
    wait,
    wire::Writer,
};

/// A bastion whose policy lets our person reach some ports of this machine, and the person.
struct SshFixture {
    bastion: Bastion,
    person: Person,
    key: Key,
    certificate: Vec<u8>,
}

/// The person knows the bastion only by the authority that signed its host key.
fn fixture(to: &[String]) -> SshFixture {
    let (users, hosts, key) = (Key::ed25519(), Key::ed25519(), Key::ed25519());
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let bastion = bastion::Setup::new().trust(&users).certify(&hosts, "127.0.0.1").rule(LOGIN, &to).start();
    let certificate = Forge::user(&key, LOGIN).sign(&users);
    let person = Person::new(LOGIN, &key, &certificate).believes(&hosts);
    SshFixture { bastion, person, key, certificate }
}

fn at(target: &Target) -> String {
    target.address().to_string()
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// `ssh -N` with one more forward, and its local port.
fn forward(fixture: &SshFixture, flag: &str, to: &str) -> (Process, SocketAddr) {
    let local = loopback(ports::free());
    let spec = if to.is_empty() { local.to_string() } else { format!("{local}:{to}") };
    (fixture.person.forward(fixture.bastion.address(), &[flag, &spec], &[local]), local)
}

#[test]
fn a_local_forward_carries_many_connections() {
    let target = Target::echo();
    let fixture = fixture(&[at(&target)]);
    let (_ssh, local) = forward(&fixture, "-L", &at(&target));
    std::thread::scope(|scope| {
        for number in 0..20 {
            scope.spawn(move || {
                let text = format!("connection {number}");
                assert_eq!(exchange(local, text.as_bytes()).unwrap(), text.as_bytes());
            });
        }
    });
    let opened = fixture.bastion.audited("a forward", |record| record["event"] == "forward_opened");
    assert!(opened.to_string().contains(&target.port().to_string()), "{opened}");
}

/// Clients in FIPS mode and old ones: each list by itself has nothing in common with the bastion's, until the
/// operator names some of it.
#[test]
fn what_fips_mode_speaks_is_opened_by_name_and_not_before() {
    const NAMED: [(&str, &str); 8] = [
        ("Ciphers", "aes128-ctr"),
        ("Ciphers", "aes192-ctr"),
        ("Ciphers", "aes256-ctr"),
        ("KexAlgorithms", "ecdh-sha2-nistp256"),
        ("KexAlgorithms", "ecdh-sha2-nistp384"),
        ("KexAlgorithms", "ecdh-sha2-nistp521"),
        ("MACs", "hmac-sha2-256"),
        ("MACs", "hmac-sha2-512"),
    ];
    let (users, hosts, key, target) = (Key::ed25519(), Key::ed25519(), Key::ed25519(), Target::echo());
    let certificate = Forge::user(&key, LOGIN).sign(&users);
    let started = |more: &[&str]| {
        let setup =
            bastion::Setup::new().trust(&users).certify(&hosts, "127.0.0.1").rule(LOGIN, &[&at(&target)]);
        setup.set("/more_algorithms", serde_json::json!(more)).start()
    };
    let person = Person::new(LOGIN, &key, &certificate).believes(&hosts);
    let ask = |bastion: &Bastion, options: &[(&str, &str)]| {
        let options: Vec<String> = options.iter().map(|(name, value)| format!("-o{name}={value}")).collect();
        let to = at(&target);
        let words: Vec<&str> = options.iter().map(String::as_str).chain(["-W", &to]).collect();
        person.ssh(bastion.address(), &words).input("in FIPS mode").output()
    };
    // A MAC is asked for only beside a cipher without its own.
    let with = |(name, value)| match name {
        "MACs" => vec![("Ciphers", "aes256-ctr"), (name, value)],
        _ => vec![(name, value)],
    };
    let usual = started(&[]);
    let all = started(&NAMED.map(|(_, value)| value));
    for named in NAMED {
        let refused = ask(&usual, &with(named));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("no matching"), "{named:?}: {said}");
        let answer = ask(&all, &with(named));
        assert_eq!(answer.stdout, b"in FIPS mode", "{named:?}: {}", String::from_utf8_lossy(&answer.stderr));
    }
    let fips =
        [("Ciphers", "aes256-ctr"), ("KexAlgorithms", "ecdh-sha2-nistp256"), ("MACs", "hmac-sha2-256")];
    let some = started(&fips.map(|(_, value)| value));
    assert_eq!(ask(&some, &fips).stdout, b"in FIPS mode");
    // A client that knows better algorithms gets those, and no broken one was opened.
    let best = ask(&all, &[("LogLevel", "debug1")]);
    let said = String::from_utf8_lossy(&best.stderr).into_owned();
    let chosen =
        |what: &str| said.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{said}"));
    assert!(best.stdout == b"in FIPS mode" && chosen("kex: algorithm:").contains("25519"), "{said}");
    assert!(!chosen("kex: server->client cipher:").contains("-ctr"), "{said}");
    for broken in
        [("Ciphers", "aes256-cbc"), ("KexAlgorithms", "diffie-hellman-group14-sha256"), ("MACs", "hmac-sha1")]
    {
        assert!(!ask(&all, &with(broken)).status.success(), "{broken:?}");
    }
}

#[test]
fn a_dynamic_forward_resolves_at_the_bastion() {
    let target = Target::page("behind the bastion");
    let fixture = fixture(&[format!("localhost:{}", target.port()), at(&target)]);
    let (_ssh, proxy) = forward(&fixture, "-D", "");
    let page = |host: &str| {
        let mut stream = socks::connect(proxy, host, target.port()).unwrap();
        let mut text = String::new();
        std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\n\r\n").unwrap();
        std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
        text
    };
    assert!(page("localhost").ends_with("behind the bastion"));
    assert!(page("127.0.0.1").ends_with("behind the bastion"));
    let forbidden = socks::connect(proxy, "127.0.0.1", ports::free());
    assert!(forbidden.is_err(), "{forbidden:?}");
    assert_eq!(target.accepted(), 2);
}

#[test]
fn standard_input_and_output_can_be_the_stream() {
    let target = Target::echo();
    let fixture = fixture(&[at(&target)]);
    let ssh = fixture.person.ssh(fixture.bastion.address(), &["-W", &at(&target)]).input("over stdio");
    assert_eq!(ssh.succeed(), "over stdio");
}

/// `ssh -J bastion inner`: what most people who have a bastion type.
#[test]
fn the_bastion_can_be_jumped_over() {
    let authority = Key::ed25519();
    let inner = sshd::Setup::new().trust(&authority).start();
    let fixture = fixture(&[inner.address().to_string()]);
    let scratch = fixture.person.scratch();
    let key = Key::ed25519();
    let certificate = Forge::user(&key, &inner.login()).sign(&authority);
    let identity = write_identity(scratch, "inner", &key, &certificate);
    // The options of the command line are not for the host in between: only a file is for both.
    let config = format!(
        "Host bastion\n{}\nHost inner\n{}  ProxyJump bastion\n",
        host(&fixture.person, fixture.bastion.address(), LOGIN, &scratch.join("id")),
        host(&fixture.person, inner.address(), &inner.login(), &identity),
    );
    let known = std::fs::read_to_string(scratch.join("known_hosts")).unwrap();
    let line = format!("[127.0.0.1]:{} {}\n", inner.address().port(), inner.host_key().public_line());
    scratch.write("known_hosts", known + &line);
    let config = scratch.write("config", config);
    let ssh = Program::new(installed("ssh")).again_if(gave_up);
    let ssh = ssh.arg("-F").arg(config).args(["inner", "echo", "from the inside"]);
    assert_eq!(ssh.succeed().trim(), "from the inside");
}

fn host(person: &Person, address: SocketAddr, login: &str, identity: &Path) -> String {
    let _ = person.options();
    format!(
        "  HostName {}\n  Port {}\n  User {login}\n  IdentityFile {}\n  IdentitiesOnly yes\n  IdentityAgent none\n  \
         BatchMode yes\n  StrictHostKeyChecking yes\n  UserKnownHostsFile {}\n  GlobalKnownHostsFile /dev/null\n",
        address.ip(),
        address.port(),
        identity.display(),
        person.scratch().join("known_hosts").display(),
    )
}

#[test]
fn a_host_that_the_authority_did_not_sign_is_not_believed() {
    let fixture = fixture(&[]);
    let stranger = Person::new(LOGIN, &fixture.key, &fixture.certificate).believes(&Key::ed25519());
    let output = stranger.ssh(fixture.bastion.address(), &["-N"]).output();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("Host key verification failed"), "{error}");
}

#[test]
fn a_client_that_wants_a_shell_is_told_what_this_host_is_for() {
    let mut fixture = fixture(&[]);
    for command in [&[][..], &["uname", "-a"]] {
        let output = fixture.person.ssh(fixture.bastion.address(), &[]).args(command).output();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{command:?}: {said}");
        assert!(said.contains("forward") && said.contains("-N"), "{command:?}: {said}");
    }

    for more in [&[][..], &["-t"]] {
        let (screen, terminal) = Terminal::open();
        let mut ssh = fixture.person.ssh(fixture.bastion.address(), more).start_on(terminal);
        screen.wait_for("ssh -N -L", Duration::from_secs(20));
        assert_ne!(ssh.code(Duration::from_secs(20)), 0);
    }

    let output = Program::new(installed("sftp"))
        .args(fixture.person.options())
        .args(["-P", &fixture.bastion.address().port().to_string(), "127.0.0.1"])
        .output();
    assert!(!output.status.success());
    assert!(fixture.bastion.process().ended().is_none());
}

#[test]
fn other_forwards_are_refused_and_the_connection_goes_on() {
    let target = Target::echo();
    let fixture = fixture(&[at(&target)]);
    let server = fixture.bastion.address();
    let person = &fixture.person;

    let remote = format!("127.0.0.1:{}:{}", ports::free(), at(&target));
    let output = person.ssh(server, &["-N", "-R", &remote]).output();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("remote port forwarding failed"), "{error}");

    let socket: PathBuf = person.scratch().join("postgres.sock");
    let (mut ssh, local) = forward(&fixture, "-L", &socket.display().to_string());
    assert!(exchange(local, b"x").is_err());
    ssh.wait_for("open failed", Duration::from_secs(10));

    let output = person.ssh(server, &["-N", "-o", "Tunnel=point-to-point", "-w", "any:any"]).output();
    assert!(!output.status.success());

    let mut client = Client::login(server, LOGIN, &fixture.key, fixture.certificate.clone());
    let address = || Writer::new().string("127.0.0.1").u32(0);
    let origin = |head: Writer| head.string("127.0.0.1").u32(40_000).0;
    for (kind, fields) in [
        ("direct-streamlocal@openssh.com", Writer::new().string("/run/postgresql/.s").string("").u32(0).0),
        ("forwarded-tcpip", origin(address())),
        ("forwarded-streamlocal@openssh.com", Writer::new().string("/x").string("").0),
        ("x11", origin(Writer::new())),
        ("auth-agent@openssh.com", Vec::new()),
        ("tun@openssh.com", Writer::new().u32(1).u32(0).0),
        ("no-such-channel@example.com", Vec::new()),
        ("", Vec::new()),
    ] {
        let failure = client.open(kind, &fields).unwrap().expect_err(kind);
        assert!(matches!(failure.reason, 1 | 3) && !failure.text.is_empty(), "{kind}: {failure:?}");
    }
    for (name, fields) in [
        ("tcpip-forward", address().0),
        ("cancel-tcpip-forward", address().0),
        ("streamlocal-forward@openssh.com", Writer::new().string("/tmp/x").0),
        ("no-such-request@example.com", Vec::new()),
    ] {
        assert!(!client.global_request(name, &fields).unwrap(), "{name}");
    }
    let channel = client.open("session", b"").unwrap();
    if let Ok(channel) = channel {
        for (name, fields) in [
            ("x11-req", Writer::new().flag(false).string("MIT-MAGIC-COOKIE-1").string("00").u32(0).0),
            ("auth-agent-req@openssh.com", Vec::new()),
            ("env", Writer::new().string("LD_PRELOAD").string("/tmp/x.so").0),
            ("no-such-request@example.com", Vec::new()),
        ] {
            assert!(!client.request(channel, name, &fields).unwrap(), "{name}");
        }
    }
    let channel = client.forward("127.0.0.1", target.port().into()).unwrap().expect("the connection goes on");
    client.write(channel, b"still here").unwrap();
    assert_eq!(client.read(channel, 10).unwrap(), b"still here");
}

/// OpenSSH offers the plain key first, is refused, and then offers the certificate: a refusal must cost no
/// time.
#[test]
fn a_login_takes_less_than_half_a_second() {
    let target = Target::echo();
    let fixture = fixture(&[at(&target)]);
    // Once is enough: this machine has other things to do.
    wait::until("one that is fast enough", Duration::from_secs(30), || {
        let start = Instant::now();
        let ssh = fixture.person.ssh(fixture.bastion.address(), &["-W", &at(&target)]).input("x");
        assert_eq!(ssh.succeed(), "x");
        let took = start.elapsed();
        println!("ssh start to end, with a login: {took:?}");
        (took < Duration::from_millis(500)).then_some(took)
    });
}

/// The same person, through a stock sshd: what the harness itself takes for granted.
#[test]
fn the_same_works_through_a_stock_sshd() {
    let (authority, hosts, key) = (Key::ed25519(), Key::ed25519(), Key::ed25519());
    let target = Target::echo();
    let sshd = sshd::Setup::new().trust(&authority).certify(&hosts, "127.0.0.1").start();
    let certificate = Forge::user(&key, &user()).sign(&authority);
    let person = Person::new(&user(), &key, &certificate).believes(&hosts);
    assert_eq!(person.ssh(sshd.address(), &["-W", &at(&target)]).input("x").succeed(), "x");
}
