//! The local end and the way to the bastion, asked as ssh is asked: which addresses a forward has, which host
//! key is wanted, what may stand before SSH begins.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::json;
use tests::{
    authority::DevAuthority,
    bastion,
    fixture::TunnelFixture,
    key::{Key, Kind},
    ports,
    private::{inside, ip, put},
    process::{Program, installed, user},
    scratch::Scratch,
    ssh::Person,
    sshd,
    target::{BlackHole, Target, exchange},
    tunnel, wait,
};
use tunnel_cli::{Forward, On};

use crate::tunnel::at;

/// A program takes `localhost` for either address, and finds the tunnel at both.
#[test]
fn a_plain_port_is_on_both_loopback_addresses() {
    let echo = Target::echo();
    let fixture = TunnelFixture::new(&[&echo]);
    let fixed = ports::free();
    let localhost = format!("localhost:0:{}", at(&echo));
    let words = [&at(&echo), &fixed.to_string() as &str, &at(&echo), "0", "-L", &localhost];
    let mut tunnel = fixture.project.start(&words);
    let local = tunnel.ready(3);
    assert_eq!(local[0], SocketAddr::from((Ipv4Addr::LOCALHOST, fixed)));
    for address in &local {
        for ip in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
            let address = SocketAddr::new(ip, address.port());
            assert_eq!(exchange(address, b"here").unwrap(), b"here", "{address}");
        }
    }
    let ready = tunnel.event("ready", Duration::from_secs(1));
    assert_eq!(ready["addresses"], json!([format!("127.0.0.1:{fixed}"), format!("[::1]:{fixed}")]));

    // ssh has the same port on both as well.
    let addresses = ssh_listens(&format!("{}:{}", ports::free(), at(&echo)));
    assert_eq!(addresses, ["127.0.0.1", "[::1]"]);
}

/// As RFC 8305 has it, the next address is tried while those before it are silent.
#[test]
fn an_address_of_the_bastion_that_does_not_answer_costs_a_moment() {
    inside("local_ports::an_address_of_the_bastion_that_does_not_answer_costs_a_moment", || {
        // The resolver gives them before the one of IPv4.
        let silent: Vec<Ipv6Addr> =
            (1..=5).map(|last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)).collect();
        let mut hosts = "127.0.0.1 bastion.test\n".to_owned();
        for address in &silent {
            ip(&["-6", "address", "add", &format!("{address}/128"), "dev", "lo", "nodad"]);
            hosts.push_str(&format!("{address} bastion.test\n"));
        }
        let scratch = Scratch::new("hosts");
        put(&scratch.write("hosts", hosts), "/etc/hosts");
        let echo = Target::echo();
        let named =
            |bastion: bastion::Setup| bastion.set("/host_key/vault/principals", json!(["bastion.test"]));
        let fixture = TunnelFixture::with(&[&echo], named, |project| project);
        let port = fixture.bastion.address().port();
        let _holes: Vec<BlackHole> =
            silent.iter().map(|address| BlackHole::at((*address, port).into())).collect();

        let project = fixture.project.set("/bastion/address", json!(format!("bastion.test:{port}")));
        let mut tunnel = project.start(&["-v", &at(&echo), "0"]);
        let first = tunnel.event("dialling", wait::START);
        let start = Instant::now();
        assert!(first["address"].as_str().unwrap().starts_with("[2001:db8::"), "{first}");
        let local = tunnel.ready(1)[0];
        assert_eq!(exchange(local, b"here").unwrap(), b"here");
        // One after another, each would be waited for: five times two seconds.
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        println!("ready {:?} after the first attempt began", start.elapsed());
    });
}

/// Otherwise a program that tries ::1 first would reach that server instead.
#[test]
fn another_server_on_one_of_them_is_named() {
    let other = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let port = other.local_addr().unwrap().port();
    let project = tunnel::Setup::new("127.0.0.1:1".parse().unwrap())
        .host_authority(&Key::ed25519().public_line())
        .vault("http://127.0.0.1:1", "x");
    let output = project.program("pf-tunnel", &["db.internal:5432", &port.to_string()]).output();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(9), "{stderr}");
    assert!(stderr.contains(&format!("[::1]:{port} is in use by ")), "{stderr}");
    assert!(stderr.contains(&format!("pid {}", std::process::id())), "{stderr}");
}

/// Starts `ssh -N -L FORWARD`, and says on which addresses it listens, by the kernel's tables.
fn ssh_listens(forward: &str) -> Vec<&'static str> {
    let (authority, key) = (Key::ed25519(), Key::ed25519());
    let sshd = sshd::Setup::new().trust(&authority).start();
    let certificate = tests::forge::Forge::user(&key, &sshd.login()).sign(&authority);
    let person = Person::new(&sshd.login(), &key, &certificate).knows(sshd.address(), sshd.host_key());
    let port: u16 = forward.split(':').next().unwrap().parse().unwrap();
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let _ssh = person.forward(sshd.address(), &["-L", forward], &[local]);
    let listening = |path: &str, address: &str| {
        let table = std::fs::read_to_string(path).unwrap();
        table.contains(&format!("{address}:{port:04X} "))
    };
    let four = listening("/proc/net/tcp", "0100007F");
    let six = listening("/proc/net/tcp6", "00000000000000000000000001000000");
    let addresses = [(four, "127.0.0.1"), (six, "[::1]")];
    addresses.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect()
}

/// What a forward is to ssh: its address, port, host and port, or that it is none. The address is empty for
/// the usual one.
fn to_ssh(text: &str) -> Option<(String, u16, String, u16)> {
    let output =
        Program::new(installed("ssh")).args(["-G", "-F", "none", "-L", text, "host.invalid"]).output();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = printed.lines().find_map(|line| line.strip_prefix("localforward "))?;
    let (local, destination) = line.split_once(' ')?;
    let (bind, port) = local.rsplit_once(':').unwrap_or(("", local));
    let (host, host_port) = destination.rsplit_once(':')?;
    let bare = |text: &str| text.trim_start_matches('[').trim_end_matches(']').to_owned();
    // An empty address is every address.
    let bind = if bind == "[]" { "*".to_owned() } else { bare(bind) };
    Some((bind, port.parse().ok()?, bare(host), host_port.parse().ok()?))
}

fn to_us(text: &str) -> Result<(String, u16, String, u16), String> {
    let forward: Forward = text.parse().map_err(|error: tunnel_cli::BadForward| error.to_string())?;
    let bind = match forward.listen.on {
        On::Loopback => String::new(),
        On::Everywhere => "*".to_owned(),
        On::Address(address) => address.to_string(),
    };
    Ok((bind, forward.listen.port, forward.destination.host().bare(), forward.destination.port()))
}

#[test]
fn a_forward_means_what_it_means_to_ssh_or_is_refused_in_words() {
    for text in [
        "8080:h:80",
        "*:8080:h:80",
        "[*]:8080:h:80",
        "localhost:8080:h:80",
        "[localhost]:8080:h:80",
        "127.0.0.1:8080:h:80",
        "[127.0.0.1]:8080:h:80",
        "0.0.0.0:8080:h:80",
        "[::]:8080:h:80",
        "[::1]:8080:[2001:db8::1]:80",
        "8080:[h]:80",
        "8080:127.0.0.1:80",
        "08080:h:80",
    ] {
        let (mut ssh, us) =
            (to_ssh(text).unwrap_or_else(|| panic!("ssh refuses {text}")), to_us(text).unwrap());
        if ssh.0 == "localhost" {
            ssh.0.clear();
        }
        assert_eq!(us, ssh, "{text}");
    }
    // What ssh takes and we do not, each with the reason.
    for (text, words) in [
        (":8080:h:80", "here that is written *"),
        ("[]:8080:h:80", "here that is written *"),
        ("8080:/run/socket", "a Unix socket"),
        ("/run/socket:h:80", "a Unix socket"),
        ("8080:h/80", "a Unix socket"),
        ("b:8080:h:80", "the local address is not an IP address"),
    ] {
        let output =
            Program::new(installed("ssh")).args(["-G", "-F", "none", "-L", text, "host.invalid"]).output();
        assert!(output.status.success(), "{text}");
        let why = to_us(text).unwrap_err();
        assert!(why.contains(words) && why.contains("-L 5432:postgres.default.svc:5432"), "{text}: {why}");
    }
    // What neither takes.
    for (text, words) in [
        ("8080/h/80", "slashes do not separate"),
        ("*/8080/h/80", "slashes do not separate"),
        ("[::1]/8080/h/80", "a Unix socket"),
        ("8080:h", "not of the form"),
        ("8080", "not of the form"),
        ("8080:::1:80", "not of the form"),
        ("70000:h:80", "the local port"),
        ("8080:h:0", "the port is not a number"),
        ("8080:h:80:90:100", "not of the form"),
    ] {
        assert_eq!(to_ssh(text), None, "{text}");
        let why = to_us(text).unwrap_err();
        assert!(why.contains(words), "{text}: {why}");
    }
}

/// An sshd with keys of several kinds presents the one that its client likes best: the pinned one has to be
/// that.
#[test]
fn the_kind_of_key_that_is_pinned_is_asked_for() {
    let target = Target::echo();
    let authority = DevAuthority::start_with(&["--principal", &user()]);
    let scratch = Scratch::new("host-keys");
    let keys =
        [Key::generate(Kind::Rsa(3072)), Key::generate(Kind::Ecdsa(256)), Key::generate(Kind::Ecdsa(384))];
    let mut setup = sshd::Setup::new().trust_line(authority.users());
    for (number, key) in keys.iter().enumerate() {
        // sshd takes one key of each kind; two curves are one kind.
        if number < 2 {
            let path = scratch.write(&format!("key-{number}"), key.private_pem());
            setup = setup.option(&format!("HostKey {}", path.display()));
        }
    }
    let sshd = setup.start();
    let everything = [&keys[0], &keys[1], sshd.host_key()];
    for pinned in everything {
        let line = pinned.public_line();
        let project = tunnel::Setup::new(sshd.address())
            .set("/bastion/user", json!(sshd.login()))
            .set("/bastion/host_key", json!(line))
            .vault(authority.url(), authority.token());
        let mut tunnel = project.start(&[&at(&target), "0"]);
        let local = tunnel.ready(1)[0];
        assert_eq!(exchange(local, b"x").unwrap(), b"x", "{line}");
        assert!(reaches_login(sshd.address(), &line), "ssh: {line}");
    }
    // One that the server has not is still refused by what it presents.
    let foreign = keys[2].public_line();
    let project = tunnel::Setup::new(sshd.address())
        .set("/bastion/user", json!(sshd.login()))
        .set("/bastion/host_key", json!(foreign))
        .vault(authority.url(), authority.token());
    let output = project.program("pf-tunnel", &[&at(&target), "0"]).output();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(6), "{stderr}");
    assert!(stderr.contains("which is not the pinned one"), "{stderr}");
    assert!(!reaches_login(sshd.address(), &foreign));
}

/// Whether ssh believes the host with this key, and comes as far as to be refused for want of one of its own.
fn reaches_login(server: SocketAddr, host_key: &str) -> bool {
    let scratch = Scratch::new("known-hosts");
    let known = scratch.write("known_hosts", format!("[{}]:{} {host_key}\n", server.ip(), server.port()));
    let options =
        ["BatchMode=yes", "StrictHostKeyChecking=yes", "IdentityFile=none", "GlobalKnownHostsFile=/dev/null"];
    let mut program = Program::new(installed("ssh")).args(["-F", "none", "-p", &server.port().to_string()]);
    for option in options {
        program = program.args(["-o", option]);
    }
    let output = program
        .args(["-o", &format!("UserKnownHostsFile={}", known.display()), &server.ip().to_string(), "true"])
        .output();
    String::from_utf8_lossy(&output.stderr).contains("Permission denied")
}

/// A server that says something before it passes connections on to `sshd`.
fn talkative(sshd: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let says: Arc<Mutex<Vec<u8>>> = Arc::default();
    let said = Arc::clone(&says);
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let before = said.lock().unwrap().clone();
            std::thread::spawn(move || {
                if client.write_all(&before).is_err() {
                    return;
                }
                let server = TcpStream::connect(sshd).unwrap();
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || pump(from, to));
                pump(server, client);
            });
        }
    });
    (address, says)
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    let mut block = [0; 16 * 1024];
    while let Ok(count) = from.read(&mut block) {
        if count == 0 || to.write_all(&block[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
}

#[test]
fn what_a_server_says_before_ssh_is_skipped_as_ssh_skips_it() {
    let target = Target::echo();
    let authority = DevAuthority::start_with(&["--principal", &user()]);
    let sshd = sshd::Setup::new().trust_line(authority.users()).start();
    let (address, says) = talkative(sshd.address());
    let key = sshd.host_key().public_line();
    let project = tunnel::Setup::new(address)
        .set("/bastion/user", json!(sshd.login()))
        .set("/bastion/host_key", json!(key))
        .vault(authority.url(), authority.token());
    for (what, before, works) in [
        ("nothing", String::new(), true),
        ("30 lines", "Welcome\r\n".repeat(30), true),
        ("a line of 400 bytes", format!("{}\r\n", "x".repeat(400)), true),
        ("1000 lines", "y\n".repeat(1000), true),
        ("a line of 8000 bytes", format!("{}\r\n", "x".repeat(8000)), true),
        ("1100 lines", "y\n".repeat(1100), false),
        ("a line of 9000 bytes", format!("{}\r\n", "x".repeat(9000)), false),
    ] {
        *says.lock().unwrap() = before.into_bytes();
        assert_eq!(reaches_login(address, &key), works, "ssh: {what}");
        let mut tunnel = project.start(&["--once", &at(&target), "0"]);
        if works {
            let local = tunnel.ready(1)[0];
            assert_eq!(exchange(local, b"x").unwrap(), b"x", "{what}");
        } else {
            assert_eq!(tunnel.process.code(Duration::from_secs(60)), 5, "{what}");
            let error = tunnel.events().pop().unwrap();
            let message = error["message"].as_str().unwrap();
            assert!(message.contains("1024 lines") || message.contains("8192 bytes"), "{what}: {message}");
        }
    }
}
