//! The server or the client stops: killed, replaced, stopped, asleep.

use std::{
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::json;
use tests::bastion;

use crate::{
    conversation::{Fate, probe},
    freezer::Freezer,
    peer::{Peer, Setup, descendants, kill_all},
    report::Report,
    scene::{Knocking, PATIENCE, Scene, told},
};

/// How long the server is away.
const AWAY: Duration = Duration::from_secs(3);

/// F01.
pub fn killed(peer: Peer) -> Report {
    let mut scene = Scene::new(peer);
    let talk = scene.converse();
    let killed = Instant::now();
    scene.tunnel.kill_server();
    // Streams wait for a server that may come back; that they are gone is known from the one that does.
    let waits = peer == Peer::Ours;
    if !waits {
        scene.is_reset(&talk, killed, Duration::from_secs(1));
    }
    let (host, local) = (scene.network.client.again(), scene.tunnel.local);
    let waiting = thread::spawn(move || (probe(&host, local, PATIENCE), Instant::now()));
    thread::sleep(AWAY.saturating_sub(killed.elapsed()));
    let starts = Instant::now();
    scene.tunnel.start_server();
    let usable = scene.usable(starts);
    if waits {
        scene.is_reset(&talk, Instant::now(), Duration::from_secs(1));
    }
    let (waited, served) = waiting.join().unwrap();
    match waited {
        Ok(()) => {
            let after = Some(served.saturating_duration_since(starts));
            scene.report.at_most("a connection made meanwhile", Duration::from_secs(2), after);
        }
        Err(error) => scene.report.check("a connection made meanwhile", false, error),
    }
    scene.report.at_most("new connection after its return", Duration::from_secs(2), usable);
    scene.report
}

/// How long what is open at the old server may take to end.
const DRAIN: Duration = Duration::from_secs(20);

/// F02.
pub fn rolled(peer: Peer) -> Report {
    let drain = json!({"readiness_delay": "1s", "timeout": format!("{}s", DRAIN.as_secs())});
    let bastion = Rc::new(move |setup: bastion::Setup| setup.set("/drain", drain.clone()));
    let mut scene = Scene::with(peer, Setup { bastion, through_switch: true, ..Setup::default() });
    let knocking = Knocking::start(&scene, Duration::from_millis(50));
    let talk = scene.converse();
    let replacement = scene.tunnel.start_replica();
    let old = scene.tunnel.server_process().id();
    let sessions = descendants(old);
    scene.tunnel.server_process().signal(Signal::SIGTERM);
    let ends = Instant::now();
    // As Kubernetes does: it is asked, and killed when its time is over; and with a container's first process
    // ends every other.
    while scene.tunnel.server_process().ended().is_none() && ends.elapsed() < DRAIN + PATIENCE {
        thread::sleep(Duration::from_millis(10));
    }
    let exited = scene.tunnel.server_process().ended().map(|_| ends.elapsed());
    kill_all(&sessions);
    scene.tunnel.kill_server();
    let fate = talk.fate(ends, Instant::now(), PATIENCE);
    let _ = scene.usable(ends);
    knocking.end().all_served(&mut scene.report);
    scene.exact(&talk);
    scene.report.check("stream survives", matches!(fate, Fate::Lives(_)), told(&fate));
    // At the last moment it may be cut by the deadline itself.
    let kept = !matches!(&fate, Fate::Ended(_, after) if *after < DRAIN - Duration::from_secs(1));
    scene.report.check("stream lives while the old one drains", kept, told(&fate));
    scene.report.at_most("the old one has exited", DRAIN + Duration::from_secs(6), exited);
    drop(replacement);
    scene.report
}

/// F25.
pub fn asleep(peer: Peer) -> Report {
    let mut report = Report::new();
    report.part("server stopped 60 s", stopped(peer, Duration::from_secs(60)));
    report.part("client frozen 10 min", frozen(peer, Duration::from_secs(600)));
    report
}

/// The server is stopped for so long, and goes on.
pub fn stopped(peer: Peer, outage: Duration) -> Report {
    let mut scene = Scene::new(peer);
    let talk = scene.converse();
    let stopped = Instant::now();
    scene.tunnel.signal_server(Signal::SIGSTOP);
    thread::sleep(outage);
    scene.tunnel.signal_server(Signal::SIGCONT);
    let healed = Instant::now();
    let usable = scene.usable(healed);
    scene.survives(&talk, stopped, healed, outage + Duration::from_secs(3));
    scene.report.at_most("new connection after it", Duration::from_secs(3), usable);
    scene.report
}

/// The client's host sleeps for so long: its programs stand still, and the wire is dead. The server, which is
/// awake, notices.
pub fn frozen(peer: Peer, outage: Duration) -> Report {
    let mut scene = Scene::new(peer);
    let talk = scene.converse();
    let freezer = Freezer::of(scene.tunnel.client_process().id());
    let slept = Instant::now();
    freezer.freeze();
    scene.network.black_hole();
    thread::sleep(outage);
    let woken = scene.network.heal();
    freezer.thaw();
    let usable = scene.usable(woken);
    scene.survives(&talk, slept, woken, outage + Duration::from_secs(3));
    scene.report.at_most("new connection after it", Duration::from_secs(3), usable);
    scene.report
}
