//! One connection misbehaves, or its target does: it alone is to suffer.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use tests::{
    dns::Answer,
    memory::MemoryLimit,
    ports,
    process::{Program, installed, open_files, resident},
    target::{BlackHole, Pattern, Target, Transfer, drain, reset, send},
};

use crate::{
    conversation::probe,
    names::Names,
    network::{Host, Network},
    peer::{Client, Peer, Setup, descendants},
    report::{Report, seconds},
    scene::{PATIENCE, Scene},
};

/// What one connection carries where that is said.
const TEN_MEGABYTES: u64 = 10 << 20;

/// A target and a scene whose first further port leads to it.
fn scene_to(peer: Peer, targets: &[&Target]) -> Scene {
    let further = targets.iter().map(|target| target.address().to_string()).collect();
    Scene::with(peer, Setup { further, ..Setup::default() })
}

fn connect(scene: &Scene, nth: usize) -> TcpStream {
    let local = scene.tunnel.further[nth];
    let stream = scene.network.client.run(|| TcpStream::connect(local)).expect("the tunnel listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// F17: a second one, for the port that the first has.
pub fn busy_port(peer: Peer) -> Report {
    let mut scene = Scene::new(peer);
    let (port, holder) = (scene.tunnel.local.port().to_string(), scene.tunnel.client_process().id());
    let Client::PfTunnel(ours) = &scene.tunnel.client else { panic!("only ours has exit codes of its own") };
    let destination = scene.speaker.target().address().to_string();
    let once = || {
        let program = ours.project.program("pf-tunnel", &[&destination, &port]);
        let begun = Instant::now();
        let output = scene.network.client.program(program).output();
        (begun.elapsed(), output)
    };
    // Starting a program takes as long as the machine's other work lets it.
    let (took, output) = (0..5).map(|_| once()).min_by_key(|(took, _)| *took).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    scene.report.at_most("exits, the fastest of five", Duration::from_millis(200), Some(took));
    let code = output.status.code();
    scene.report.check("with its own code", code == Some(9), format!("{code:?}"));
    let names = said.contains(&port) && said.contains(&format!("pid {holder}"));
    scene.report.check(
        "names the port and its holder",
        names,
        said.lines().next().unwrap_or_default().trim(),
    );
    scene.report
}

/// F18.
pub fn bad_targets(peer: Peer) -> Report {
    let network = Network::new();
    let _names = Names::on(&Host::here(), Answer::Nothing);
    let (closed, hole) = (SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free())), BlackHole::new());
    let further = vec![closed.to_string(), hole.address().to_string(), "nowhere.test:80".to_owned()];
    let mut scene = Scene::on(network, peer, Setup { further, probes: false, ..Setup::default() });
    let talk = scene.converse();
    let begun = Instant::now();
    for (nth, what) in ["refuses", "is a black hole", "does not resolve"].into_iter().enumerate() {
        let stream = connect(&scene, nth);
        let begun = Instant::now();
        let end = (&stream).read(&mut [0; 1]);
        let took = begun.elapsed();
        let fails = matches!(&end, Err(error) if error.kind() == ErrorKind::ConnectionReset);
        let how = match end {
            Ok(_) => "FIN".to_owned(),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => "RST".to_owned(),
            Err(error) => error.to_string(),
        };
        scene.report.check(&format!("target {what}: RST"), fails, format!("{how} after {}", seconds(took)));
    }
    if let Client::PfTunnel(ours) = &scene.tunnel.client {
        let told = ours.tunnel.events();
        let reasons =
            told.iter().filter(|event| event["event"] == "not-opened" && event["reason"].is_string());
        let reasons = reasons.count();
        scene.report.check("each with its reason", reasons == 3, format!("{reasons} reasons"));
    }
    scene.survives(&talk, begun, Instant::now(), Duration::from_secs(2));
    scene.report
}

/// F19.
pub fn half_closed(peer: Peer) -> Report {
    let answers = Target::new(|stream| {
        let asked = drain(&stream);
        let _ = send(&stream, 5, TEN_MEGABYTES);
        Some(asked)
    });
    let hangs_up = Target::source(3, 1000);
    let mut scene = scene_to(peer, &[&answers, &hangs_up]);
    let begun = Instant::now();
    let stream = connect(&scene, 0);
    send(&stream, 4, 1000).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let down = drain(&stream) == Pattern::transfer(5, TEN_MEGABYTES);
    scene.report.check("10 MB down after the client's half-close", down, seconds(begun.elapsed()));
    let begun = Instant::now();
    let stream = connect(&scene, 1);
    let first = drain(&stream) == Pattern::transfer(3, 1000);
    let sent = send(&stream, 6, TEN_MEGABYTES).and_then(|()| stream.shutdown(Shutdown::Write));
    let up = sent.is_ok() && hangs_up.transfer_of_something(PATIENCE) == Pattern::transfer(6, TEN_MEGABYTES);
    scene.report.check("10 MB up after the target's half-close", first && up, seconds(begun.elapsed()));
    scene.report
}

/// How often either end resets.
const RESETS: usize = 50;

/// F20.
pub fn resets(peer: Peer) -> Report {
    // In one thread: of two that use a socket, only the first is told of its reset.
    let talks = Target::new(|stream| match send(&stream, 7, 1 << 20) {
        Ok(()) => Some(drain(&stream)),
        Err(error) => Some(Transfer { bytes: 0, hash: Vec::new(), error: Some(error.kind()) }),
    });
    let resets = Target::new(|stream| {
        let _ = send(&stream, 8, 64 * 1024);
        let _ = (&stream).read(&mut [0; 1]);
        reset(stream);
        None
    });
    let mut scene = scene_to(peer, &[&talks, &resets]);
    // The first of each kind may make what is kept.
    let _ = reset_by_each(&scene, &talks);
    let before = files(&mut scene);
    let ended: Vec<_> = (0..RESETS).map(|_| reset_by_each(&scene, &talks)).collect();
    let at_target = ended.iter().filter(|end| end.0 == Some(ErrorKind::ConnectionReset)).count();
    let at_client = ended.iter().filter(|end| end.1 == Some(ErrorKind::ConnectionReset)).count();
    scene.report.check("the client's RST arrives", at_target == RESETS, format!("{at_target} of {RESETS}"));
    scene.report.check("the target's RST arrives", at_client == RESETS, format!("{at_client} of {RESETS}"));
    leaks_nothing(&mut scene, before);
    scene.report
}

/// How the other end's reading ended: after the client's RST, and after the target's.
fn reset_by_each(scene: &Scene, talks: &Target) -> (Option<ErrorKind>, Option<ErrorKind>) {
    let stream = connect(scene, 0);
    let _ = send(&stream, 9, 64 * 1024);
    // Data of the target is in flight.
    let _ = (&stream).read(&mut [0; 1]);
    reset(stream);
    let target = talks.transfer(PATIENCE).error;
    let stream = connect(scene, 1);
    let _ = (&stream).write_all(b"x");
    (target, drain(&stream).error)
}

/// The files that the client and the server have open, each with all that it started.
fn files(scene: &mut Scene) -> [usize; 2] {
    [scene.tunnel.client_process().id(), scene.tunnel.server_process().id()]
        .map(|process| [vec![process], descendants(process)].concat().into_iter().map(open_files).sum())
}

/// Finds that as many files are open as before, soon after.
fn leaks_nothing(scene: &mut Scene, before: [usize; 2]) {
    let begun = Instant::now();
    let mut now = files(scene);
    while now.iter().zip(before).any(|(now, before)| *now > before) && begun.elapsed() < SETTLED {
        thread::sleep(Duration::from_millis(50));
        now = files(scene);
    }
    let clean = now.iter().zip(before).all(|(now, before)| *now <= before);
    scene.report.check("no file stays open", clean, format!("{before:?} before, {now:?} after"));
}

/// How long what has ended may take to be cleared away.
const SETTLED: Duration = Duration::from_secs(10);

/// Another client of the same tunnel, which wants short answers.
struct Bystander(TcpStream);

impl Bystander {
    fn new(scene: &Scene, nth: usize) -> Self {
        Self(connect(scene, nth))
    }

    /// The longest of many round trips; none when one fails.
    fn slowest(&mut self) -> io::Result<Duration> {
        let mut slowest = Duration::ZERO;
        for _ in 0..200 {
            let begun = Instant::now();
            self.0.write_all(&[7; 64])?;
            self.0.read_exact(&mut [0; 64])?;
            slowest = slowest.max(begun.elapsed());
            thread::sleep(Duration::from_millis(5));
        }
        Ok(slowest)
    }
}

/// How much longer others may wait because of those who never read.
const DISTURBED: Duration = Duration::from_millis(20);
/// How much memory those may have held, in KiB, at either end.
const HELD: u64 = 128 * 1024;

/// F21.
pub fn never_reads(peer: Peer) -> Report {
    let (echo, endless) = (Target::echo(), Target::source(1, u64::MAX));
    let mut scene = scene_to(peer, &[&echo, &endless]);
    let mut bystander = Bystander::new(&scene, 0);
    let before = bystander.slowest().unwrap();
    let memory = memory(&mut scene);
    let mut held = Vec::new();
    for (count, name) in [(1, "one"), (100, "a hundred")] {
        while held.len() < count {
            held.push(connect(&scene, 1));
        }
        // Until all that fits has arrived.
        thread::sleep(Duration::from_secs(2));
        let during = bystander.slowest();
        let limit = before + DISTURBED;
        scene.report.at_most(&format!("others' slowest of 200 beside {name}"), limit, during.ok());
    }
    let grown = memory_since(&mut scene, memory);
    let held_at_most = grown.iter().max().copied().unwrap_or_default();
    let said = format!("client {} MiB, server {} MiB more", grown[0] / 1024, grown[1] / 1024);
    scene.report.check("memory is bounded", held_at_most < HELD, said);
    scene.report
}

/// The resident memory of client and server in KiB, each with all that it started.
fn memory(scene: &mut Scene) -> [u64; 2] {
    [scene.tunnel.client_process().id(), scene.tunnel.server_process().id()]
        .map(|process| [vec![process], descendants(process)].concat().into_iter().map(resident).sum())
}

fn memory_since(scene: &mut Scene, before: [u64; 2]) -> [u64; 2] {
    let now = memory(scene);
    [now[0].saturating_sub(before[0]), now[1].saturating_sub(before[1])]
}

const SHORT_ONES: usize = 100_000;
/// How many of them there are simultaneously.
const HANDS: usize = 8;

/// F22.
pub fn short_ones(peer: Peer) -> Report {
    let mut scene = Scene::new(peer);
    let (host, local) = (scene.network.client.again(), scene.tunnel.local);
    let many = |count: usize| {
        let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..HANDS {
                scope.spawn(|| {
                    host.run(|| {
                        while next.fetch_add(1, Ordering::SeqCst) < count {
                            if probe(&Host::here(), local, PATIENCE).is_err() {
                                failed.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                    });
                });
            }
        });
        failed.into_inner()
    };
    // What is kept for good is made by the first.
    many(SHORT_ONES / 20);
    let (open, held) = (files(&mut scene), memory(&mut scene));
    let begun = Instant::now();
    let failed = many(SHORT_ONES);
    let said = format!("{failed} of {SHORT_ONES} in {}", seconds(begun.elapsed()));
    scene.report.check("no error", failed == 0, said);
    leaks_nothing(&mut scene, open);
    let grown = memory_since(&mut scene, held);
    let said = format!("client {} MiB, server {} MiB more", grown[0] / 1024, grown[1] / 1024);
    scene.report.check("memory is back", grown.iter().all(|kib| *kib < 16 * 1024), said);
    scene.report
}

/// F23.
pub fn no_more_files(peer: Peer) -> Report {
    let echo = Target::echo();
    let mut scene = scene_to(peer, &[&echo]);
    let server = scene.tunnel.server_process().id();
    for process in [vec![server], descendants(server)].concat() {
        let limit = format!("--nofile={}", open_files(process) + 10);
        let _ = Program::new(installed("prlimit")).args(["--pid", &process.to_string(), &limit]).succeed();
    }
    let held: Vec<_> = (0..60).map(|_| connect(&scene, 0)).collect();
    thread::sleep(Duration::from_secs(1));
    let shed = held.iter().filter(|stream| is_over(stream)).count();
    scene.report.check("sheds load", shed > 0, format!("{shed} of {} connections ended", held.len()));
    drop(held);
    let freed = Instant::now();
    let usable = scene.usable(freed);
    scene.report.at_most("new connection after some have ended", Duration::from_secs(1), usable);
    let alive = scene.tunnel.server_process().ended().is_none() && !scene.tunnel.has_lost_carrier();
    scene.report.check("nothing else ends", alive, if alive { "yes" } else { "no" });
    scene.report
}

/// Whether a connection on which nothing was said has ended.
fn is_over(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let ended = !matches!(stream.read(&mut [0; 1]), Err(error) if error.kind() == ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
    ended
}

/// What the chart gives a bastion.
const LIMIT: u64 = 256 << 20;

/// F24.
pub fn little_memory(peer: Peer) -> Report {
    let (echo, endless, silent) = (Target::echo(), Target::source(1, u64::MAX), Target::silent());
    let mut scene = scene_to(peer, &[&echo, &endless, &silent]);
    let server = scene.tunnel.server_process().id();
    let limits: Vec<_> = [vec![server], descendants(server)]
        .concat()
        .into_iter()
        .map(|process| MemoryLimit::on(process, LIMIT).expect("root, and control groups"))
        .collect();
    let held: Vec<_> = (0..100).map(|nth| connect(&scene, 1 + nth % 2)).collect();
    for stream in held.iter().skip(1).step_by(2) {
        stream.set_nonblocking(true).unwrap();
        while (&*stream).write(&[0; 64 * 1024]).is_ok() {}
    }
    thread::sleep(Duration::from_secs(10));
    let alive = scene.tunnel.server_process().ended().is_none();
    scene.report.check("the server is not killed", alive, if alive { "it lives" } else { "it was killed" });
    let begun = Instant::now();
    let usable = scene.usable(begun);
    scene.report.at_most("new connection beside them", Duration::from_secs(2), usable);
    drop(held);
    scene.tunnel.kill_server();
    drop(limits);
    scene.report
}
