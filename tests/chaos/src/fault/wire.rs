//! Breaks the path between client and server: a reset, a black hole.

use std::{thread, time::Duration};

use crate::{peer::Peer, report::Report, scene::Scene};

/// F03.
pub fn reset(peer: Peer) -> Report {
    let mut scene = Scene::new(peer);
    let talk = scene.converse();
    let cut = scene.network.reset(scene.tunnel.server_address);
    let usable = scene.usable(cut);
    if peer.resumes() {
        scene.survives(&talk, cut, cut, Duration::from_secs(1));
    } else {
        scene.is_reset(&talk, cut, Duration::from_secs(1));
    }
    scene.report.at_most("new connection", Duration::from_secs(2), usable);
    scene.report
}

/// F04.
pub fn black_hole(peer: Peer) -> Report {
    let mut report = Report::new();
    for outage in [8, 30] {
        report.part(&format!("{outage} s"), black_hole_of(peer, Duration::from_secs(outage)));
    }
    report
}

/// How soon a client has to know that the path is dead.
const DETECTED: Duration = Duration::from_secs(15);

/// A black hole for so long.
pub fn black_hole_of(peer: Peer, outage: Duration) -> Report {
    let mut scene = Scene::new(peer);
    let talk = scene.converse();
    let cut = scene.network.black_hole();
    let mut detected = None;
    while cut.elapsed() < outage {
        if detected.is_none() && (talk.client.end().is_some() || scene.tunnel.has_lost_carrier()) {
            detected = Some(cut.elapsed());
        }
        thread::sleep(Duration::from_millis(20));
    }
    let healed = scene.network.heal();
    let usable = scene.usable(healed);
    if outage > DETECTED {
        scene.report.at_most("detected", DETECTED, detected);
    }
    scene.survives(&talk, cut, healed, outage + Duration::from_secs(2));
    scene.report.at_most("new connection after it", Duration::from_secs(2), usable);
    scene.report
}
