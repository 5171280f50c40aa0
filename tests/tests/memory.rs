//! Memory that peers can make the bastion hold: one that takes nothing, or does not read, costs its own
//! identity alone.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{
    bastion::{Bastion, LOGIN, Setup},
    forge::Forge,
    key::Key,
    memory::{MemoryLimit, peak},
    ports,
    process::{Process, resident},
    rogue::{Channel, Client, number},
    ssh::Person,
    target::{Pattern, Target, drain, exchange, send},
    wait,
    wire::Writer,
};

/// What the chart gives the bastion.
const POD: u64 = 256 << 20;

/// A person with a key of their own, whom the records tell from others.
struct Who {
    key: Key,
    name: String,
}

impl Who {
    fn new(name: &str) -> Self {
        Self { key: Key::ed25519(), name: name.to_owned() }
    }

    fn certificate(&self, authority: &Key) -> Vec<u8> {
        Forge::user(&self.key, LOGIN).with(|fields| fields.key_id = self.name.clone().into()).sign(authority)
    }
}

struct Fixture {
    authority: Key,
    bastion: Bastion,
    echo: Target,
    /// Dropped after the bastion.
    limit: Option<MemoryLimit>,
}

impl Fixture {
    fn new(targets: &[&Target], adjust: impl FnOnce(Setup) -> Setup) -> Self {
        let (authority, echo) = (Key::ed25519(), Target::echo());
        let to: Vec<_> = targets.iter().chain(&[&echo]).map(|target| target.address().to_string()).collect();
        let to: Vec<_> = to.iter().map(String::as_str).collect();
        let mut bastion = adjust(Setup::new().trust(&authority).rule(LOGIN, &to)).start();
        let limit = MemoryLimit::on(bastion.process().id(), POD);
        Self { authority, bastion, echo, limit }
    }

    /// `ssh -L` of a person with a key of their own, to one target.
    fn forward(&self, who: &Who, target: &Target) -> (Person, Process, SocketAddr) {
        let certificate = who.certificate(&self.authority);
        let person = Person::new(LOGIN, &who.key, &certificate)
            .knows(self.bastion.address(), &self.bastion.host_key());
        let local = SocketAddr::from(([127, 0, 0, 1], ports::free()));
        let words = ["-L".to_owned(), format!("{local}:{}", target.address())];
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ssh = person.forward(self.bastion.address(), &words, &[local]);
        (person, ssh, local)
    }

    fn login(&self, who: &Who) -> Client {
        let certificate = who.certificate(&self.authority);
        Client::login(self.bastion.address(), LOGIN, &who.key, certificate)
    }

    /// The reasons of all ends so far of a person's forwards, or of their sessions.
    fn reasons(&self, event: &str, who: &Who) -> Vec<String> {
        let records = self.bastion.audit().into_iter();
        let ends = records.filter(|record| record["event"] == event && record["key_id"] == who.name);
        ends.map(|record| record["reason"].as_str().unwrap().to_owned()).collect()
    }

    fn evictions(&self, reason: &str) -> u64 {
        let metrics = self.bastion.page("/metrics").body;
        let prefix = format!("bastion_evictions_total{{reason=\"{reason}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&prefix)?.parse().ok()).unwrap_or(0)
    }
}

/// Another person, who exchanges a few words all the time; says how often, and how long the slowest took.
struct Bystander {
    stop: Arc<AtomicBool>,
    task: std::thread::JoinHandle<(u64, Duration)>,
    _ssh: (Person, Process, SocketAddr),
}

impl Bystander {
    fn start(fixture: &Fixture, who: &Who) -> Self {
        let ssh = fixture.forward(who, &fixture.echo);
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, local) = (Arc::clone(&stop), ssh.2);
        let task = std::thread::spawn(move || {
            let mut stream = TcpStream::connect(local).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let (mut count, mut slowest) = (0, Duration::ZERO);
            let (sent, mut got) = (vec![9; 16 * 1024], vec![0; 16 * 1024]);
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                stream.write_all(&sent).unwrap();
                stream.read_exact(&mut got).expect("another identity's stream flows");
                slowest = slowest.max(began.elapsed());
                count += 1;
            }
            (count, slowest)
        });
        Self { stop, task, _ssh: ssh }
    }

    fn stop(self) -> (u64, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.join().expect("another identity's stream flows")
    }
}

/// Sends until that fails.
fn flood(local: SocketAddr, sent: &Arc<AtomicU64>) -> (TcpStream, std::thread::JoinHandle<()>) {
    let stream = TcpStream::connect(local).unwrap();
    let (mut writer, sent) = (stream.try_clone().unwrap(), Arc::clone(sent));
    let task = std::thread::spawn(move || {
        let block = vec![7; 256 * 1024];
        while let Ok(count) = writer.write(&block) {
            sent.fetch_add(count as u64, Ordering::Relaxed);
        }
    });
    (stream, task)
}

/// As many simultaneous uploads as given, over some connections of stock `ssh -L`, to a target that does not
/// read.
fn uploads(count: usize, connections: usize) {
    let (silent, attacker, bystander) = (Target::silent(), Who::new("attacker"), Who::new("bystander"));
    let mut fixture = Fixture::new(&[&silent], |setup| setup);
    let process = fixture.bastion.process().id();
    let before = resident(process);
    let other = Bystander::start(&fixture, &bystander);
    let forwards: Vec<_> = (0..connections).map(|_| fixture.forward(&attacker, &silent)).collect();
    let sent = Arc::new(AtomicU64::new(0));
    let floods: Vec<_> = (0..count).map(|number| flood(forwards[number % connections].2, &sent)).collect();
    wait::until_true("some uploads to be ended", Duration::from_secs(60), || {
        assert!(fixture.bastion.process().ended().is_none(), "the bastion was killed");
        fixture.reasons("forward_closed", &attacker).len() >= 5
    });
    let (rounds, slowest) = other.stop();
    let most = peak(process);
    let reasons = fixture.reasons("forward_closed", &attacker);
    let over_budget = reasons.iter().filter(|reason| *reason == "memory_budget").count();
    println!(
        "{count} uploads over {connections} ssh -L to a target that does not read, limit {}: {} MiB sent, {over_budget} of {} \
         ended for the budget, resident {} -> {} MiB at most, another identity's {rounds} round trips of 16 KiB took {slowest:.1?} \
         at most",
        if fixture.limit.is_some() { "256 MiB (cgroup)" } else { "none" },
        sent.load(Ordering::Relaxed) >> 20,
        reasons.len(),
        before >> 10,
        most >> 10,
    );
    for (stream, _) in &floods {
        let _ = stream.shutdown(Shutdown::Both);
    }
    drop(forwards);
    for (_, task) in floods {
        task.join().unwrap();
    }
    assert!(fixture.bastion.process().ended().is_none(), "the bastion lives");
    assert!(most < POD >> 10, "{most} KiB");
    assert!(rounds > 10, "{rounds}");
    assert!(over_budget > 0, "{reasons:?}");
    assert!(fixture.evictions("memory_budget") >= over_budget as u64);
    assert!(fixture.bastion.log().contains("limits.per_identity.buffered_bytes is spent"));
    assert_eq!(
        fixture.reasons("session_closed", &attacker).iter().filter(|r| *r == "memory_budget").count(),
        0
    );
    let others = fixture.reasons("forward_closed", &bystander);
    assert!(
        others.iter().all(|reason| reason != "memory_budget" && reason != "target_stalled"),
        "{others:?}"
    );
}

#[test]
fn twenty_uploads_that_no_target_takes_cost_their_own_identity_alone() {
    uploads(20, 1);
}

#[test]
fn forty_uploads_that_no_target_takes_cost_their_own_identity_alone() {
    uploads(40, 4);
}

#[test]
fn clients_that_send_and_do_not_read_cost_their_own_identity_alone() {
    const CLIENTS: usize = 6;
    let (source, sink, attacker, bystander) =
        (Target::source(3, 1 << 30), Target::sink(), Who::new("attacker"), Who::new("bystander"));
    let mut fixture = Fixture::new(&[&source, &sink], |setup| setup);
    let process = fixture.bastion.process().id();
    let before = resident(process);
    let other = Bystander::start(&fixture, &bystander);
    let sent = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = fixture.login(&attacker);
            let into = client.forward("127.0.0.1", sink.port().into()).unwrap().unwrap();
            let _out = client.forward("127.0.0.1", source.port().into()).unwrap().unwrap();
            let sent = Arc::clone(&sent);
            std::thread::spawn(move || {
                let block = vec![5; 32 * 1024];
                while client.write(into, &block).is_ok() {
                    sent.fetch_add(block.len() as u64, Ordering::Relaxed);
                }
            })
        })
        .collect();
    wait::until_true("a client to be ended", Duration::from_secs(60), || {
        assert!(fixture.bastion.process().ended().is_none(), "the bastion was killed");
        fixture.reasons("session_closed", &attacker).iter().any(|reason| reason == "memory_budget")
    });
    let (rounds, slowest) = other.stop();
    let most = peak(process);
    println!(
        "{CLIENTS} clients that send and do not read, limit {}: {} MiB sent, resident {} -> {} MiB at most, sessions ended so \
         far {:?}, another identity's {rounds} round trips of 16 KiB took {slowest:.1?} at most",
        if fixture.limit.is_some() { "256 MiB (cgroup)" } else { "none" },
        sent.load(Ordering::Relaxed) >> 20,
        before >> 10,
        most >> 10,
        fixture.reasons("session_closed", &attacker),
    );
    assert!(most < POD >> 10, "{most} KiB");
    assert!(rounds > 10, "{rounds}");
    assert!(fixture.evictions("memory_budget") > 0);
    assert!(!fixture.reasons("session_closed", &bystander).contains(&"memory_budget".to_owned()));
    fixture.bastion.kill();
    clients.into_iter().for_each(|client| client.join().unwrap());
}

/// The process's budget: several identities, none of which has spent its own.
#[test]
fn the_process_s_budget_is_taken_back_from_those_who_spent_it() {
    let (silent, bystander) = (Target::silent(), Who::new("bystander"));
    let mut fixture = Fixture::new(&[&silent], |setup| {
        setup
            .set("/limits/buffered_bytes", json!("24MiB"))
            .set("/limits/per_identity", json!({"buffered_bytes": "16MiB"}))
    });
    let other = Bystander::start(&fixture, &bystander);
    let attackers = ["first", "second", "third"].map(Who::new);
    let sent = Arc::new(AtomicU64::new(0));
    let forwards: Vec<_> =
        attackers.iter().flat_map(|who| [(); 3].map(|()| fixture.forward(who, &silent))).collect();
    let floods: Vec<_> = forwards.iter().map(|forward| flood(forward.2, &sent)).collect();
    wait::until_true("the process's budget to be spent", Duration::from_secs(30), || {
        assert!(fixture.bastion.process().ended().is_none());
        fixture.bastion.log().contains("free memory: limits.buffered_bytes is spent")
    });
    let (rounds, slowest) = other.stop();
    println!("three identities: {rounds} round trips of another took {slowest:.1?} at most");
    assert!(rounds > 10, "{rounds}");
    let others = fixture.reasons("forward_closed", &bystander);
    assert!(others.iter().all(|reason| reason != "memory_budget"), "{others:?}");
    floods.iter().for_each(|(stream, _)| drop(stream.shutdown(Shutdown::Both)));
    drop(forwards);
    floods.into_iter().for_each(|(_, task)| task.join().unwrap());
}

/// A target that takes nothing, however much it is sent: everything else of that session waits behind it,
/// until its patience ends; what was already behind it then goes on.
#[test]
fn a_target_that_never_reads_is_given_up_for_those_who_wait_behind_it() {
    let (silent, key) = (Target::silent(), Who::new("me"));
    let fixture = Fixture::new(&[&silent], |setup| setup.set("/timeouts", json!({"stalled_target": "2s"})));
    let mut client = fixture.login(&key);
    let steady = client.forward("127.0.0.1", fixture.echo.port().into()).unwrap().unwrap();
    client.write(steady, b"before").unwrap();
    assert_eq!(client.read(steady, 6).unwrap(), b"before");
    let stuck = client.forward("127.0.0.1", silent.port().into()).unwrap().unwrap();
    let block = vec![7; 32 * 1024];
    // More than its part of the budget and all kernels on the way hold together, and then some words for
    // another target.
    for _ in 0..(48 << 20) / block.len() {
        client.write(stuck, &block).unwrap();
    }
    client.write(steady, b"behind").unwrap();
    assert_eq!(client.read(steady, 6).unwrap(), b"behind");
    let record = fixture.bastion.audited("the end of the one that took nothing", |record| {
        record["event"] == "forward_closed" && record["destination_port"] == json!(silent.port())
    });
    assert_eq!(record["reason"], "target_stalled");
    assert_eq!(fixture.evictions("target_stalled"), 1);
    assert!(fixture.bastion.log().contains("the session waited behind it for timeouts.stalled_target"));
}

/// A target that pauses for longer than `timeouts.stalled_target` after its client has sent everything.
#[test]
fn a_target_may_pause_while_no_stream_waits_behind_it() {
    const LENGTH: u64 = 12 << 20;
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let waiting = Arc::clone(&gate);
    let target = Target::new(move |stream| {
        let (open, changed) = &*waiting;
        drop(changed.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
        Some(drain(&stream))
    });
    let key = Who::new("me");
    let fixture = Fixture::new(&[&target], |setup| {
        setup
            .set("/timeouts", json!({"stalled_target": "1s"}))
            .set("/limits/per_identity", json!({"buffered_bytes": "90MiB"}))
    });
    let (_person, _ssh, local) = fixture.forward(&key, &target);
    let stream = TcpStream::connect(local).unwrap();
    send(&stream, 5, LENGTH).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    // Three times as long as one that holds up others may.
    std::thread::sleep(Duration::from_secs(3));
    let ends: Vec<Value> = fixture.bastion.audit();
    assert!(ends.iter().all(|record| record["event"] != "forward_closed"), "{ends:?}");
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    assert_eq!(target.transfer(Duration::from_secs(30)), Pattern::transfer(5, LENGTH));
}

/// The answer of a target that has heard enough, and resets the connection of a client that still sends, and
/// that reads the answer only afterwards.
#[test]
fn an_answer_before_a_reset_arrives() {
    // As much as certainly fits into the bastion's kernel while the client does not read it: the target's own
    // throws the rest away.
    const ANSWER: usize = 50_000;
    const ROUNDS: usize = 20;
    let gone = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&gone);
    let target = Target::new(move |mut stream| {
        stream.read_exact(&mut [0; 1000]).ok()?;
        stream.write_all(&[8; ANSWER]).ok()?;
        // Closed with bytes that the target did not read, hence a reset.
        drop(stream);
        count.fetch_add(1, Ordering::SeqCst);
        None
    });
    let who = Who::new("me");
    let fixture = Fixture::new(&[&target], |setup| setup);
    let mut client = fixture.login(&who);
    let mut whole = 0;
    for round in 0..ROUNDS {
        let ours = 1000 + u32::try_from(round).unwrap();
        let fields = Writer::new().string("127.0.0.1").u32(target.port().into()).string("127.0.0.1").u32(1);
        let open =
            Writer::message(number::CHANNEL_OPEN).string("direct-tcpip").u32(ours).u32(1000).u32(32_768);
        client.packets.send(&open.raw(&fields.0).0).unwrap();
        let opened = client.wait_for(|message| message[0] == number::CHANNEL_OPEN_CONFIRMATION).unwrap();
        let theirs = u32::from_be_bytes(opened[5..9].try_into().unwrap());
        let channel = Channel { ours, theirs, window: 0, packet: 0 };
        client.write(channel, &[1; 16 * 1024]).unwrap();
        wait::until_true("the target to reset", Duration::from_secs(10), || {
            gone.load(Ordering::SeqCst) > round as u64
        });
        // The kernel refuses these bytes.
        for _ in 0..4 {
            client.write(channel, &[1; 16 * 1024]).unwrap();
            client.global_request("keepalive@openssh.com", b"").unwrap();
        }
        client
            .packets
            .send(&Writer::message(number::CHANNEL_WINDOW_ADJUST).u32(theirs).u32(1 << 20).0)
            .unwrap();
        whole += usize::from(client.read(channel, ANSWER).unwrap().len() == ANSWER);
    }
    println!("{whole} of {ROUNDS} answers of {ANSWER} bytes arrived whole before their reset");
    assert_eq!(whole, ROUNDS);
    let reasons = wait::until("the records", Duration::from_secs(10), || {
        let reasons = fixture.reasons("forward_closed", &who);
        (reasons.len() == ROUNDS).then_some(reasons)
    });
    assert!(reasons.iter().all(|reason| reason == "target_reset"), "{reasons:?}");
    let (_person, _ssh, local) = fixture.forward(&who, &fixture.echo);
    assert!(exchange(local, b"still well").is_ok());
}
