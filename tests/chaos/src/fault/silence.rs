//! A peer, or what is between, falls silent and says nothing about it.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    peer::Peer,
    report::{Report, seconds},
    scene::{PATIENCE, Scene},
};

/// How much later than it was due a busy machine may notice something.
const SLACK: Duration = Duration::from_secs(1);

/// F05: within the time for which a detached stream is kept, which is ten minutes unless set.
pub fn five_minutes(peer: Peer) -> Report {
    super::wire::black_hole_of(peer, Duration::from_secs(300))
}

/// F06: for either end, the other one's host is gone for good.
pub fn vanishes(peer: Peer) -> Report {
    let mut scene = Scene::new(peer);
    let talk = scene.converse();
    let gone = scene.network.black_hole();
    let (mut known, mut freed) = (None, None);
    while (known.is_none() || freed.is_none()) && gone.elapsed() < 2 * PATIENCE {
        if known.is_none() && (talk.client.end().is_some() || scene.tunnel.has_lost_carrier()) {
            known = Some(gone.elapsed());
        }
        if freed.is_none() && scene.tunnel.server.has_no_session() {
            freed = Some(gone.elapsed());
        }
        thread::sleep(Duration::from_millis(20));
    }
    scene.exact(&talk);
    scene.report.at_most("the client knows", Duration::from_secs(15) + SLACK, known);
    scene.report.at_most("the server has freed it", Duration::from_secs(60) + SLACK, freed);
    scene.report
}

/// F26.
pub fn silent_flow(peer: Peer) -> Report {
    forgotten_after(peer, Duration::from_secs(350))
}

/// A balancer in the path forgets flows that are silent for so long, and drops what belongs to none.
pub fn forgotten_after(peer: Peer, silence: Duration) -> Report {
    let mut scene = Scene::new(peer);
    let server = &scene.network.server;
    server.set("net.netfilter.nf_conntrack_tcp_loose", "0");
    let value = silence.as_secs().to_string();
    server.set("net.netfilter.nf_conntrack_tcp_timeout_established", &value);
    server.nft(
        "table inet balancer { chain arrives { type filter hook input priority 0; \
         iifname wire ct state invalid drop; \
         iifname wire tcp flags & (syn | ack) != syn ct state new drop; }; }",
    );
    // The carrier of before is none of its flows: a new one is made through it.
    let cut = scene.network.reset(scene.tunnel.server_address);
    assert!(scene.usable(cut).is_some(), "a connection through the balancer");
    let idle = scene.idle();
    thread::sleep(silence + Duration::from_secs(30));
    let begun = Instant::now();
    match idle.speak(Duration::from_secs(30)) {
        Ok(took) => scene.report.at_most("an idle connection answers", Duration::from_secs(1), Some(took)),
        Err(error) => {
            let after = seconds(begun.elapsed());
            scene.report.check("an idle connection answers", false, format!("{error} after {after}"));
        }
    }
    scene.report
}
