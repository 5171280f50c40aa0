//! Many streams in both directions while keys are replaced, through each pair of ends: none ends
//! before its time.
//!
//! `make soak-rekey` moves gigabytes through each pair instead of megabytes.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{
    authority::DevAuthority,
    bastion::{Bastion, LOGIN, Setup},
    forge::Forge,
    key::Key,
    ports,
    process::user,
    ssh::Person,
    sshd::{self, Sshd},
    target::{Pattern, Target, Transfer, drain, send},
    tunnel,
};

/// Streams, each of which carries bytes both ways.
const STREAMS: u64 = 64;
/// Bytes that all of them move together, both ways, unless `SOAK_GIB` says more.
const BYTES: u64 = 256 << 20;
/// As often as a setting can have keys replaced.
const OFTEN: &str = "1MiB";

fn gigabytes() -> Option<u64> {
    std::env::var("SOAK_GIB").ok().map(|text| text.parse().unwrap())
}

fn bytes() -> u64 {
    gigabytes().map_or(BYTES, |gigabytes| gigabytes << 30)
}

/// How long one stream may rest. Between OpenSSH's own ends some rest until others are done, where keys are
/// replaced all the time.
fn patience() -> Duration {
    Duration::from_secs(if gigabytes().is_some() { 1200 } else { 120 })
}

/// Reads which stream it is, says so, and once it is told to begin, sends and receives patterns of that
/// stream's own.
fn target(length: u64) -> Target {
    Target::new(move |mut stream| {
        let mut number = [0];
        stream.read_exact(&mut number).ok()?;
        stream.write_all(&number).ok()?;
        stream.read_exact(&mut [0]).ok()?;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _ = send(&stream, down(number[0]), length);
                let _ = stream.shutdown(Shutdown::Write);
            });
            Some(drain(&stream))
        })
    })
}

fn up(number: u8) -> u64 {
    1000 + 2 * u64::from(number)
}

fn down(number: u8) -> u64 {
    2000 + 2 * u64::from(number)
}

/// One stream that reaches its target.
fn open(how: &str, local: SocketAddr, number: u8) -> TcpStream {
    let mut stream = TcpStream::connect(local).unwrap();
    // A transfer that hangs fails, instead of hanging the tests.
    stream.set_read_timeout(Some(patience())).unwrap();
    stream.set_write_timeout(Some(patience())).unwrap();
    stream.write_all(&[number]).unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [number], "{how}");
    stream
}

/// Moves it all, and says how fast. `log` is asked for where it fails.
fn carry(how: &str, local: SocketAddr, target: &Target, length: u64, log: impl Fn() -> String) {
    let start = Instant::now();
    let numbers: Vec<u8> = (0..u8::try_from(STREAMS).unwrap()).collect();
    // sshd leaves new channels waiting for as long as others have much to say and keys are replaced all the
    // time, those of stock ssh as well; and pf-tunnel gives up local programs that read nothing while another
    // waits to be opened. So all are open before either end of any of them says much.
    let streams: Vec<_> = numbers.iter().map(|number| (*number, open(how, local, *number))).collect();
    for (_, stream) in &streams {
        (&*stream).write_all(b"!").unwrap();
    }
    let stream = |(number, stream): &(u8, TcpStream)| -> Transfer {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // What fails here is found by what arrives.
                let _ = send(stream, up(*number), length);
                let _ = stream.shutdown(Shutdown::Write);
            });
            drain(stream)
        })
    };
    let arrived: Vec<Transfer> = std::thread::scope(|scope| {
        let streams: Vec<_> = streams.iter().map(|one| scope.spawn(|| stream(one))).collect();
        streams.into_iter().map(|stream| stream.join().unwrap()).collect()
    });
    let whole =
        |seed: fn(u8) -> u64| numbers.iter().map(move |number| Pattern::transfer(seed(*number), length));
    let broken: Vec<_> =
        whole(down).zip(&arrived).enumerate().filter(|(_, (sent, got))| sent != *got).collect();
    assert!(
        broken.is_empty(),
        "{how}: {} streams of {STREAMS} did not arrive whole, such as {:?}\n{}",
        broken.len(),
        broken[0],
        log()
    );
    let mut arrived: Vec<_> = numbers.iter().map(|_| target.transfer_of_something(patience())).collect();
    let mut sent: Vec<_> = whole(up).collect();
    for list in [&mut arrived, &mut sent] {
        list.sort_by(|one, other| one.hash.cmp(&other.hash));
    }
    assert_eq!(arrived, sent, "{how}, up");
    let (seconds, megabytes) = (start.elapsed().as_secs_f64(), (2 * STREAMS * length) >> 20);
    println!(
        "{how:<40} {STREAMS} streams each way {megabytes:>6} MiB {:>6.0} MiB/s",
        megabytes as f64 / seconds
    );
}

struct Fixture {
    authority: DevAuthority,
    target: Target,
    length: u64,
}

impl Fixture {
    fn new() -> Self {
        let length = bytes() / STREAMS / 2;
        Self {
            authority: DevAuthority::start_with(&["--principal", &user(), "--principal", LOGIN]),
            target: target(length),
            length,
        }
    }

    fn to(&self) -> String {
        self.target.address().to_string()
    }

    fn through_pf_tunnel(&self, how: &str, setup: tunnel::Setup) {
        let setup = setup.vault(self.authority.url(), self.authority.token());
        let mut tunnel = setup.start(&["-vv", &self.to(), "0"]);
        let local = tunnel.ready(1)[0];
        let broken = || -> Vec<Value> {
            let events = tunnel.events().into_iter();
            let is_broken = |event: &Value| event["event"] == "closed" && event["reason"] != "finished";
            events.filter(|event| event["event"] == "lost" || is_broken(event)).collect()
        };
        carry(how, local, &self.target, self.length, || format!("{:#?}", broken()));
        assert_eq!(broken(), Vec::<Value>::new(), "{how}");
    }
}

fn bastion(authority: &str, to: &str, rekey: Option<Value>) -> Bastion {
    let setup = Setup::new().trust_line(authority).rule(LOGIN, &[to]);
    match rekey {
        Some(rekey) => setup.set("/rekey", rekey).start(),
        None => setup.start(),
    }
}

/// Why the sessions of a bastion ended that are over.
fn ends(bastion: &Bastion) -> Vec<Value> {
    let records = bastion.audit().into_iter().filter(|record| record["event"] == "session_closed");
    records.map(|record| record["reason"].clone()).collect()
}

#[test]
fn pf_tunnel_and_the_bastion_replace_keys_under_many_streams() {
    let fixture = Fixture::new();
    for (rekey, how) in
        [(Some(json!({"bytes": OFTEN})), "pf-tunnel → bastion, every MiB"), (None, "pf-tunnel → bastion")]
    {
        let bastion = bastion(fixture.authority.users(), &fixture.to(), rekey);
        let setup = tunnel::Setup::new(bastion.address())
            .set("/bastion/host_key", json!(bastion.host_key().public_line()));
        fixture.through_pf_tunnel(how, setup);
        assert!(ends(&bastion).iter().all(|reason| reason == "client_left"), "{how}: {:?}", ends(&bastion));
    }
}

#[test]
fn pf_tunnel_and_sshd_replace_keys_under_many_streams() {
    let fixture = Fixture::new();
    for (limit, how) in [("1M", "pf-tunnel → sshd, RekeyLimit 1M"), ("default", "pf-tunnel → sshd")] {
        let sshd: Sshd = sshd::Setup::new()
            .trust_line(fixture.authority.users())
            .option(&format!("RekeyLimit {limit}"))
            .start();
        let setup = tunnel::Setup::new(sshd.address())
            .set("/bastion/user", json!(sshd.login()))
            .set("/bastion/host_key", json!(sshd.host_key().public_line()));
        fixture.through_pf_tunnel(how, setup);
    }
}

#[test]
fn ssh_and_the_bastion_replace_keys_under_many_streams() {
    let (length, key, authority) = (bytes() / STREAMS / 2, Key::ed25519(), Key::ed25519());
    let target = target(length);
    let to = target.address().to_string();
    for (limit, how) in [("1M", "ssh → bastion, RekeyLimit 1M"), ("default", "ssh → bastion")] {
        let bastion = bastion(&authority.public_line(), &to, Some(json!({"bytes": OFTEN})));
        let certificate = Forge::user(&key, LOGIN).sign(&authority);
        let person = Person::new(LOGIN, &key, &certificate).knows(bastion.address(), &bastion.host_key());
        let local = SocketAddr::from(([127, 0, 0, 1], ports::free()));
        let words = ["-v", "-o", &format!("RekeyLimit={limit}"), "-L", &format!("{local}:{to}")];
        let mut ssh = person.forward(bastion.address(), &words, &[local]);
        carry(how, local, &target, length, || format!("{}\n{:?}", ssh.stderr(), ends(&bastion)));
        assert!(ssh.ended().is_none(), "{how}: {}", ssh.stderr());
        assert!(ends(&bastion).is_empty(), "{how}: {:?}", ends(&bastion));
        let exchanges = ssh.stderr().matches("debug1: SSH2_MSG_KEXINIT sent").count() - 1;
        println!("{how}: {exchanges} key exchanges after the first");
        if limit == "1M" {
            assert!(exchanges as u64 >= (length * STREAMS) >> 22, "{how}: only {exchanges} key exchanges");
        }
    }
}
