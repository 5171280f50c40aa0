//! Gigabytes in every direction, with keys exchanged anew all the time: what hangs an implementation that
//! does not read while it writes, and what a truncated dump would look like.

use std::{
    net::{Shutdown, SocketAddr, TcpStream},
    sync::LazyLock,
    time::{Duration, Instant},
};

use serde_json::json;
use tests::{
    authority::DevAuthority,
    bastion::{self, Bastion, LOGIN},
    forge::Forge,
    key::Key,
    ports,
    ssh::Person,
    target::{Pattern, Target, Transfer, drain, send},
    tunnel,
};

const LENGTH: u64 = 2 << 30;
const UP: u64 = 11;
const DOWN: u64 = 13;
const PATIENCE: Duration = Duration::from_secs(300);
/// Some 128 key exchanges in each transfer.
const REKEY: &str = "16MiB";

static SENT_UP: LazyLock<Transfer> = LazyLock::new(|| Pattern::transfer(UP, LENGTH));
static SENT_DOWN: LazyLock<Transfer> = LazyLock::new(|| Pattern::transfer(DOWN, LENGTH));

/// What stands behind the bastion.
struct Targets {
    sink: Target,
    source: Target,
    both: Target,
}

impl Targets {
    fn new() -> Self {
        Self { sink: Target::sink(), source: Target::source(DOWN, LENGTH), both: Target::both(DOWN, LENGTH) }
    }

    fn addresses(&self) -> [String; 3] {
        [&self.sink, &self.source, &self.both].map(|target| target.address().to_string())
    }

    /// Moves it all, through one local address for each target.
    fn carry(&self, how: &str, [sink, source, both]: [SocketAddr; 3]) {
        let start = Instant::now();
        let stream = connect(sink);
        send(&stream, UP, LENGTH).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(self.sink.transfer_of_something(PATIENCE), *SENT_UP, "{how}, up");
        report(how, "up", LENGTH, start);

        let start = Instant::now();
        let stream = connect(source);
        assert_eq!(drain(&stream), *SENT_DOWN, "{how}, down");
        report(how, "down", LENGTH, start);

        let start = Instant::now();
        let stream = connect(both);
        let received = std::thread::scope(|scope| {
            scope.spawn(|| {
                send(&stream, UP, LENGTH).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
            drain(&stream)
        });
        assert_eq!(received, *SENT_DOWN, "{how}, both ways, down");
        assert_eq!(self.both.transfer_of_something(PATIENCE), *SENT_UP, "{how}, both ways, up");
        report(how, "both ways", 2 * LENGTH, start);
    }
}

/// A transfer that hangs fails, instead of hanging the tests.
fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn report(how: &str, direction: &str, bytes: u64, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    let megabytes = (bytes >> 20) as f64;
    println!("{how:<10} {direction:<10} {:>6.0} MiB/s", megabytes / seconds);
}

fn bastion(authority: &str, targets: &Targets) -> bastion::Setup {
    let to = targets.addresses();
    bastion::Setup::new()
        .trust_line(authority)
        .rule(LOGIN, &to.each_ref().map(String::as_str))
        .set("/rekey", json!({"bytes": REKEY}))
}

#[test]
fn gigabytes_arrive_through_ssh() {
    let (authority, key) = (Key::ed25519(), Key::ed25519());
    let targets = Targets::new();
    let bastion: Bastion = bastion(&authority.public_line(), &targets).start();
    let certificate = Forge::user(&key, LOGIN).sign(&authority);
    let person = Person::new(LOGIN, &key, &certificate).knows(bastion.address(), &bastion.host_key());
    let local = [(); 3].map(|()| SocketAddr::from(([127, 0, 0, 1], ports::free())));
    let mut words = vec!["-o".to_owned(), "RekeyLimit=16M".to_owned()];
    for (local, to) in local.iter().zip(targets.addresses()) {
        words.extend(["-L".to_owned(), format!("{local}:{to}")]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let _ssh = person.forward(bastion.address(), &words, &local);
    targets.carry("ssh", local);
}

#[test]
fn gigabytes_arrive_through_pf_tunnel() {
    let authority = DevAuthority::start();
    let targets = Targets::new();
    let bastion = bastion(authority.users(), &targets).start();
    let setup = tunnel::Setup::new(bastion.address())
        .set("/bastion/host_key", json!(bastion.host_key().public_line()))
        .vault(authority.url(), authority.token());
    let specs = targets.addresses().map(|to| format!("{to} 0"));
    let words: Vec<&str> = specs.iter().flat_map(|spec| spec.split(' ')).collect();
    let mut tunnel = setup.start(&words);
    let local = tunnel.ready(3);
    targets.carry("pf-tunnel", [local[0], local[1], local[2]]);
}
