//! People who log in with stock programs: who type slowly, have an agent full of other keys, or the wrong
//! certificate.

use std::{
    fs::Permissions,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tests::{
    bastion::{LOGIN, Setup},
    fixture::Fixture,
    forge::{Forge, line, write_identity},
    key::{Key, Kind},
    ports,
    process::{Process, Program, installed, workspace},
    rogue::{Attempt, Client, Gone, Link},
    scratch::Scratch,
    ssh::{Person, gave_up},
    target::exchange,
    wait,
};

const SOON: Duration = Duration::from_secs(20);

/// Longer than a silent client may be once it has logged in: five times the interval, and three are too many.
#[test]
fn a_person_may_take_their_time_to_type_a_passphrase() {
    let login = SshLogin::new(|setup| setup.set("/keepalive", json!({"interval": "1s", "max_missed": 2})));
    let _ = Program::new(installed("ssh-keygen"))
        .args(["-q", "-p", "-P", "", "-N", "open sesame", "-f"])
        .arg(&login.identity)
        .succeed();
    let askpass = login.scratch.write("askpass", "#!/bin/sh\nsleep 5\necho open sesame\n");
    permit(&askpass, 0o700);
    let identity = format!("IdentityFile={}", login.identity.display());
    let output = login
        .ssh(&[&identity, "IdentitiesOnly=yes"])
        .env("SSH_ASKPASS", &askpass)
        .env("SSH_ASKPASS_REQUIRE", "force")
        .env("DISPLAY", "none")
        .output();
    assert!(through(&output), "{}", said(&output));
}

/// Who answers stays, however long there is nothing to do; who does not is found out.
#[test]
fn a_silent_client_is_asked_whether_it_is_there() {
    let login = SshLogin::new(|setup| setup.set("/keepalive", json!({"interval": "1s", "max_missed": 2})));
    let server = login.fixture.bastion.address();
    let local = SocketAddr::from(([127, 0, 0, 1], ports::free()));
    let certificate = login.honest().sign(&login.fixture.authority);
    let person =
        Person::new(LOGIN, &login.fixture.key, &certificate).knows(server, &login.fixture.bastion.host_key());
    let mut idle =
        person.forward(server, &["-L", &format!("{local}:{}", login.fixture.echo.address())], &[local]);
    let mut mute = Client::login(server, LOGIN, &login.fixture.key, certificate);
    let mute_from = mute.packets.link().stream().local_addr().unwrap().port();
    let closed =
        login.fixture.bastion.audited("the mute one's end", |record| record["event"] == "session_closed");
    assert_eq!(closed["reason"], "client_silent", "{closed}");
    assert_eq!(closed["source_port"], mute_from, "{closed}");
    assert!(idle.ended().is_none(), "{}", idle.stderr());
    assert_eq!(exchange(local, b"still there").unwrap(), b"still there");
}

/// The same key with several certificates, of which the first ones are not good here.
#[test]
fn the_next_certificate_is_tried_whatever_is_wrong_with_the_first() {
    let login = SshLogin::new(|setup| setup);
    let (authority, stranger) = (&login.fixture.authority, Key::ed25519());
    let now = tests::forge::now();
    let good = login.certificate("good", &login.honest(), authority);
    let key = login.only_key();
    let wrong = [
        (
            "another principal",
            login.honest().with(|forge| forge.principals = vec![b"other".to_vec()]),
            authority,
        ),
        ("force-command", login.honest().critical("force-command", "/bin/true"), authority),
        ("another authority", login.honest(), &stranger),
        (
            "expired",
            login.honest().with(|forge| (forge.valid_after, forge.valid_before) = (now - 100, now - 50)),
            authority,
        ),
    ];
    for (name, forge, signer) in &wrong {
        let bad = login.certificate("bad", forge, signer);
        for batch in ["BatchMode=yes", "BatchMode=no"] {
            let output = login.ssh(&[batch, &key, "IdentitiesOnly=yes", &bad, &good]).output();
            assert!(through(&output), "{name}, {batch}: {}", said(&output));
        }
    }
    // All of them in one login, from an agent, before the good one.
    let keys: Vec<_> = (0..=wrong.len()).map(|_| Key::ed25519()).collect();
    let mut held: Vec<_> = wrong
        .iter()
        .zip(&keys)
        .map(|((_, forge, signer), key)| (key, Forge { key: key.fields(), ..forge.clone() }.sign(signer)))
        .collect();
    let last = keys.last().unwrap();
    held.push((last, Forge::user(last, LOGIN).sign(authority)));
    let (_agent, agent) = login.agent(&held);
    let output = login.ssh(&["BatchMode=yes", "IdentityFile=none", &agent]).output();
    assert!(through(&output), "from an agent: {}", said(&output));
}

/// What stock programs show to who sits there, when nothing that they have is good here.
#[test]
fn who_is_refused_reads_why() {
    let login = SshLogin::new(|setup| setup);
    let authority = &login.fixture.authority;
    let other = login.honest().with(|forge| forge.principals = vec![b"other".to_vec()]);
    let forced = login.honest().critical("force-command", "/bin/true");
    let now = tests::forge::now();
    let expired =
        login.honest().with(|forge| (forge.valid_after, forge.valid_before) = (now - 100, now - 50));
    let key = login.only_key();
    let other = login.certificate("other", &other, authority);
    let forced = login.certificate("forced", &forced, authority);
    let expired = login.certificate("expired", &expired, authority);
    for (certificates, words) in [
        (vec![&other], vec!["certificate refused: not_a_principal: "]),
        (
            vec![&other, &forced],
            vec!["certificate refused: not_a_principal: ", "certificate refused: force_command: "],
        ),
        (vec![&expired], vec!["no_valid_certificate: "]),
        (vec![], vec!["no_valid_certificate: "]),
    ] {
        let options: Vec<&str> = [key.as_str(), "IdentitiesOnly=yes", "BatchMode=no"]
            .into_iter()
            .chain(certificates.iter().map(|certificate| certificate.as_str()))
            .collect();
        let output = login.ssh(&options).output();
        let said = said(&output);
        println!("ssh says:\n{said}");
        assert!(!output.status.success());
        for word in words {
            assert_eq!(said.matches(word).count(), 1, "{word}: {said}");
        }
    }
    // A script has no person to show anything to; it ends immediately all the same, and the bastion knows
    // why.
    let output = login.ssh(&[&key, "IdentitiesOnly=yes", "BatchMode=yes", &other]).output();
    assert_eq!(output.status.code(), Some(255), "{}", said(&output));
    let _ = login.fixture.bastion.audited("the reason", |record| record["reason"] == "not_a_principal");
}

/// AsyncSSH, with one connection for all that it has, and PuTTY in a script.
#[test]
fn other_programs_go_on_after_a_refusal_too() {
    let login = SshLogin::new(|setup| setup);
    let other = login.honest().with(|forge| forge.principals = vec![b"other".to_vec()]);
    let bad = login.scratch.write("bad.pub", line(&other.sign(&login.fixture.authority)));
    let server = login.fixture.bastion.address();
    let script = "\
import asyncio, asyncssh, sys
async def main(host, port, login, key, bad, good):
    key = asyncssh.read_private_key(key)
    pairs = [(key, asyncssh.read_certificate(certificate)) for certificate in (bad, good)]
    async with asyncssh.connect(host, int(port), username=login, client_keys=pairs, known_hosts=None,
                                agent_path=None, config=None):
        print('in')
asyncio.run(main(*sys.argv[1:]))
";
    let answer = Program::new(workspace().join(".peers/venv/bin/python"))
        .args(["-c", script, &server.ip().to_string(), &server.port().to_string(), LOGIN])
        .arg(&login.identity)
        .arg(&bad)
        .arg(login.scratch.join("id-cert.pub"))
        .succeed();
    assert_eq!(answer.trim(), "in");

    let ppk = login.scratch.join("id.ppk");
    let _ = Program::new(installed("puttygen"))
        .arg(&login.identity)
        .args(["-O", "private", "-o"])
        .arg(&ppk)
        .succeed();
    let host_key =
        login.fixture.bastion.host_key().private().fingerprint(ssh_key::HashAlg::Sha256).to_string();
    let output = Program::new(installed("plink"))
        .args(["-ssh", "-batch", "-noagent", "-l", LOGIN, "-P", &server.port().to_string()])
        .args(["-hostkey", &host_key, "-i"])
        .arg(ppk)
        .arg("-cert")
        .arg(&bad)
        .args(["-nc", &login.fixture.echo.address().to_string(), &server.ip().to_string()])
        .env("HOME", login.scratch.path())
        .input("from PuTTY")
        .output();
    println!("plink says:\n{}", said(&output));
    assert!(!output.status.success());
    assert!(said(&output).contains("certificate refused: not_a_principal: "), "{}", said(&output));
}

/// A client that asks nothing first, and has no way to be shown words, gets them with the end.
#[test]
fn who_asks_for_no_words_gets_them_in_the_end() {
    let login = SshLogin::new(|setup| setup);
    let other = login.honest().with(|forge| forge.principals = vec![b"other".to_vec()]);
    let mut client = Client::connect(login.fixture.bastion.address()).unwrap();
    let refused = client.attempt(&Attempt::certificate(
        LOGIN,
        &login.fixture.key,
        other.sign(&login.fixture.authority),
    ));
    assert!(!refused.accepted && refused.gone.is_none(), "{refused:?}");
    let end = client.farewell(SOON);
    assert!(
        matches!(&end, Some(Gone::Disconnected { text, .. }) if text.starts_with("certificate refused: not_a_principal: ")),
        "{end:?}"
    );
}

/// Two kinds that other authorities make, other servers take, and the SSH library does not read.
fn unreadable(key: &Key) -> [(&'static str, Forge); 2] {
    [
        (
            "extensions out of order",
            Forge::user(key, LOGIN).with(|forge| {
                forge.extensions =
                    ["permit-pty", "permit-port-forwarding"].map(|name| (name.into(), Vec::new())).to_vec();
            }),
        ),
        (
            "a principal in Latin-1",
            Forge::user(key, LOGIN).with(|forge| forge.principals.push(b"jos\xe9".to_vec())),
        ),
    ]
}

/// Its connection ends, which is the library's doing; nothing else comes of it, however often.
#[test]
fn a_certificate_that_cannot_be_read_is_held_against_no_source() {
    // With the penalties that a bastion has; and no client has logged in from there before.
    let login = SshLogin::new(|setup| setup.set("/limits/penalties", json!({})));
    let stranger = Key::ed25519();
    let (good, server) = (login.honest().sign(&login.fixture.authority), login.fixture.bastion.address());
    let from = [127, 0, 0, 2].into();
    for (name, forge) in unreadable(&login.fixture.key) {
        let attempt = Attempt::certificate(LOGIN, &login.fixture.key, forge.sign(&stranger));
        for count in 0..20 {
            let link = Link::connect_from(from, server).unwrap();
            let mut client = Client::over(link).unwrap_or_else(|gone| panic!("{name}, {count}: {gone:?}"));
            // It asks first what it may try, as ssh does.
            assert!(!client.authenticate_by(LOGIN, "none", b"").accepted);
            assert!(!client.attempt(&attempt).accepted);
        }
    }
    for count in 0..20 {
        let link = Link::connect_from(from, server).unwrap();
        let mut client = Client::over(link).unwrap_or_else(|gone| panic!("a name, {count}: {gone:?}"));
        assert!(!client.authenticate_by_bytes(b"jos\xe9", "none", b"").accepted);
    }
    let mut client = Client::over(Link::connect_from(from, server).unwrap()).unwrap();
    assert!(client.attempt(&Attempt::certificate(LOGIN, &login.fixture.key, good)).accepted);
    let refused = login.fixture.bastion.audited("the refusal", |record| record["event"] == "login_refused");
    assert_eq!(refused["reason"], "unreadable_certificate", "{refused}");
    let metrics = login.fixture.bastion.page("/metrics").body;
    assert!(
        metrics.contains("bastion_connections_refused_total{reason=\"unreadable_certificate\"} 60"),
        "{metrics}"
    );
    assert!(!metrics.contains("reason=\"protocol\""), "{metrics}");

    // The same from a stock agent: it ends, and with the good one alone it goes through straight after.
    let (wrong, right) = (Key::ed25519(), Key::ed25519());
    let [(_, forge), _] = unreadable(&wrong);
    let (_agent, agent) = login.agent(&[
        (&wrong, forge.sign(&stranger)),
        (&right, Forge::user(&right, LOGIN).sign(&login.fixture.authority)),
    ]);
    let output = login.ssh(&["BatchMode=yes", "IdentityFile=none", &agent]).output();
    println!("ssh says: {}", said(&output));
    let chosen = format!("IdentityFile={}", login.scratch.join("agent-1").display());
    let output = login.ssh(&["BatchMode=yes", "IdentitiesOnly=yes", &chosen, &agent]).output();
    assert!(through(&output), "{}", said(&output));
}

/// The largest agent that one may have here, with certificates as large as authorities make them.
#[test]
fn an_agent_of_many_certificates_is_heard_to_the_end() {
    let login = SshLogin::new(|setup| setup.set("/limits/penalties", json!({})));
    let (stranger, rsa) = (Key::generate(Kind::Rsa(4096)), Key::generate(Kind::Rsa(2048)));
    let keys: Vec<_> = (0..9).map(|_| Key::ed25519()).collect();
    // Each stands there twice: as a key, and with its certificate.
    let mut held: Vec<_> = keys.iter().map(|key| (key, Forge::user(key, LOGIN).sign(&stranger))).collect();
    held.push((&rsa, Forge::user(&rsa, LOGIN).sign(&login.fixture.authority)));
    let (_agent, agent) = login.agent(&held);
    let (server, sent) = counted(login.fixture.bastion.address());
    let options = ["BatchMode=yes", "IdentityFile=none", &agent, "LogLevel=DEBUG1"];
    let output = login.ssh_to(server, &options).output();
    let said = said(&output);
    println!(
        "an agent of ten certificates, the authority of nine RSA-4096: {} offers, {} bytes",
        said.matches("Offering public key").count(),
        sent.load(Ordering::Relaxed)
    );
    assert!(through(&output), "{said}");
}

/// One more than that is told what to do about it, and is not locked out.
#[test]
fn an_agent_of_too_many_is_told_so() {
    let login = SshLogin::new(|setup| setup.set("/limits/penalties", json!({})));
    let keys: Vec<_> = (0..22).map(|_| Key::ed25519()).collect();
    let stranger = Key::ed25519();
    let held: Vec<_> = keys.iter().map(|key| (key, Forge::user(key, LOGIN).sign(&stranger))).collect();
    let (_agent, agent) = login.agent(&held);
    let output = login.ssh(&["BatchMode=yes", "IdentityFile=none", &agent]).output();
    let said = said(&output);
    println!("ssh says: {said}");
    assert!(said.contains("too_many_offers: "), "{said}");
    let identity = format!("IdentityFile={}", login.identity.display());
    let output = login.ssh(&["BatchMode=yes", "IdentitiesOnly=yes", &identity]).output();
    assert!(through(&output));
}

/// A bastion with an echo behind it, and the files of a person.
/// Logs in by `ssh`, with files of its own.
struct SshLogin {
    fixture: Fixture,
    scratch: Scratch,
    identity: PathBuf,
}

impl SshLogin {
    fn new(adjust: impl FnOnce(Setup) -> Setup) -> Self {
        let fixture = Fixture::with(adjust);
        let scratch = Scratch::new("login");
        let identity = write_identity(&scratch, "id", &fixture.key, &fixture.certificate());
        Self { fixture, scratch, identity }
    }

    /// `ssh` with these options before all others, which says `through` to the echo.
    fn ssh(&self, options: &[&str]) -> Program {
        self.ssh_to(self.fixture.bastion.address(), options)
    }

    fn ssh_to(&self, server: SocketAddr, options: &[&str]) -> Program {
        let known = format!(
            "[{}]:{} {}\n",
            server.ip(),
            server.port(),
            self.fixture.bastion.host_key().public_line()
        );
        let known = self.scratch.write("known_hosts", known);
        Program::new(installed("ssh"))
            .again_if(gave_up)
            .args(["-F", "none"])
            .args(options.iter().flat_map(|option| ["-o", option]))
            .args(["-o", &format!("UserKnownHostsFile={}", known.display())])
            .args(["-o", "GlobalKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=yes"])
            .args(["-o", "IdentityAgent=none", "-o", "UpdateHostKeys=no", "-o", "ControlPath=none"])
            .args(["-l", LOGIN, "-p", &server.port().to_string()])
            .args(["-W", &self.fixture.echo.address().to_string(), &server.ip().to_string()])
            .env("SSH_ASKPASS_REQUIRE", "never")
            .input("through")
    }

    /// A certificate for the key of the person, in a file.
    fn certificate(&self, name: &str, forge: &Forge, authority: &Key) -> String {
        let file = self.scratch.write(&format!("{name}.pub"), line(&forge.sign(authority)));
        format!("CertificateFile={}", file.display())
    }

    fn honest(&self) -> Forge {
        Forge::user(&self.fixture.key, LOGIN)
    }

    /// Only with certificates that are named.
    fn only_key(&self) -> String {
        let key = self.scratch.write("only", self.fixture.key.private_pem());
        permit(&key, 0o600);
        format!("IdentityFile={}", key.display())
    }

    /// An agent that holds keys with their certificates, in this order.
    fn agent(&self, keys: &[(&Key, Vec<u8>)]) -> (Process, String) {
        let socket = self.scratch.join("agent");
        let agent = Program::new(installed("ssh-agent")).args(["-D", "-a"]).arg(&socket).start();
        wait::until_true("the agent listens", SOON, || socket.exists());
        for (number, (key, certificate)) in keys.iter().enumerate() {
            let file = write_identity(&self.scratch, &format!("agent-{number}"), key, certificate);
            let _ = Program::new(installed("ssh-add"))
                .arg("-q")
                .arg(file)
                .env("SSH_AUTH_SOCK", &socket)
                .succeed();
        }
        (agent, format!("IdentityAgent={}", socket.display()))
    }
}

fn permit(file: &Path, mode: u32) {
    std::fs::set_permissions(file, Permissions::from_mode(mode)).unwrap();
}

/// A way to `server` on which what a client sends is counted.
fn counted(server: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let sent = Arc::clone(&count);
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut upstream = TcpStream::connect(server).unwrap();
        let (mut answers, mut to_client) = (upstream.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut answers, &mut to_client);
            let _ = to_client.shutdown(Shutdown::Both);
        });
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = client.read(&mut buffer) {
            sent.fetch_add(read, Ordering::Relaxed);
            if upstream.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = upstream.shutdown(Shutdown::Write);
    });
    (address, count)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn through(output: &Output) -> bool {
    output.stdout == b"through"
}
