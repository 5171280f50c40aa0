//! The path between client and server breaks: a reset, a black hole.

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

/// A black hole for so long.
pub fn black_hole_of(peer: Peer, outage: Duration) -> Report {
    let mut scene = Scene::new(peer);
    let talk = scene.converse();
    let cut = scene.network.black_hole();
    thread::sleep(outage);
    let healed = scene.network.heal();
    let usable = scene.usable(healed);
    scene.survives(&talk, cut, healed, outage + Duration::from_secs(2));
    scene.report.at_most("new connection after it", Duration::from_secs(2), usable);
    scene.report
}
