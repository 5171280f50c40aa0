//! Limits on what a client sends: how much, how often, and for how long.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::json;
use tests::{wait, web::Request};

use super::fixture::{Api, shared};

/// So many requests at the same time, and how often each status came.
fn at_once(request: &Request, count: usize) -> BTreeMap<u16, usize> {
    let mut statuses = BTreeMap::new();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(|| request.send().unwrap().status)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for status in answers {
        *statuses.entry(status).or_default() += 1;
    }
    statuses
}

/// Tries until it is counted as it should be. The engine counts anew whenever any route changes, which other
/// tests do all the time: then more is served than may be, and never less.
pub fn counted(what: &str, mut holds: impl FnMut() -> bool) {
    wait::until_true(what, Duration::from_secs(120), || {
        let held = holds();
        if !held {
            std::thread::sleep(Duration::from_millis(500));
        }
        held
    });
}

#[test]
fn a_body_is_as_large_as_it_may_be() {
    let fixture = shared();
    let post = |host: &str, kib: usize| fixture.http(host, "/").body(vec![b'x'; kib * 1024]);
    let values = json!({"bodySize": "1m", "buffers": {"request": "64k"}});
    let host = fixture.serve(Api::Ingress, "body", values);
    let answer = fixture.until(&post(&host, 900), 200);
    assert_eq!(answer.seen().length, 900 * 1024);
    assert_eq!(post(&host, 1200).send().unwrap().status, 413);
    for (name, values) in
        [("any-body", json!({"bodySize": 0})), ("unread", json!({"requestBuffering": false}))]
    {
        let host = fixture.serve(Api::Ingress, name, values);
        fixture.until_plain(&host, "/", 200);
        let answer = post(&host, 20 * 1024).send().unwrap();
        assert_eq!((answer.status, answer.seen().length), (200, 20 * 1024 * 1024), "{name}");
    }
}

#[test]
fn a_response_is_held_back_until_it_is_whole() {
    let fixture = shared();
    let pause = Duration::from_secs(2);
    for (name, values, holds) in [
        ("held", json!({"responseBuffering": true, "buffers": {"size": "16k"}}), true),
        ("passed", json!({"responseBuffering": false}), false),
    ] {
        let host = fixture.serve(Api::Ingress, name, values);
        // More than is held in memory.
        let answer = fixture.until_plain(&host, &format!("/?size=3000000&pause={}", pause.as_secs()), 200);
        assert!(answer.body.len() > 3_000_000, "{name}");
        assert_eq!(answer.took < pause / 2, holds, "{name}: {:?} behind the head", answer.took);
    }
}

#[test]
fn a_service_may_be_silent_for_so_long() {
    let fixture = shared();
    let host = fixture.serve(Api::Ingress, "impatient", json!({"timeouts": {"read": 2, "send": 2}}));
    fixture.until_plain(&host, "/", 200);
    let start = Instant::now();
    let answer = fixture.http(&host, "/?delay=30").send().unwrap();
    assert_eq!(answer.status, 504, "{answer:?}");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    // Longer than the engine's own minute.
    let host = fixture.serve(Api::Ingress, "patient", json!({"timeouts": {"read": "20m", "send": "20m"}}));
    fixture.until_plain(&host, "/", 200);
    assert_eq!(fixture.http(&host, "/?delay=62").send().unwrap().status, 200);
}

#[test]
fn connecting_may_take_so_long() {
    let fixture = shared();
    let [first, _] = fixture.cluster.outside();
    let hole = tests::target::BlackHole::at((first, 0).into());
    let values = json!({
        "timeouts": {"connect": 1},
        "externalBackends": [{"name": "hole", "addresses": [first], "port": hole.address().port()}],
        "paths": [{"path": "/", "backend": "hole"}],
    });
    let host = fixture.serve(Api::Ingress, "hole", values);
    let start = Instant::now();
    fixture.until_plain(&host, "/", 504);
    assert!(start.elapsed() < Duration::from_secs(50), "{:?}", start.elapsed());
}

#[test]
fn a_client_asks_so_often_and_another_one_is_not_meant() {
    let fixture = shared();
    let [first, second] = fixture.cluster.outside();
    let host = fixture.serve(Api::Ingress, "rps", json!({"rateLimit": {"rps": 2}}));
    let ask = fixture.http(&host, "/");
    fixture.until(&ask.clone().from(second), 200);
    // Another client each time: what was counted for one is forgotten slowly.
    let mut number = 0;
    let mut client = || {
        number += 1;
        format!("203.0.113.{number}").parse().unwrap()
    };
    counted("two a second", || {
        let start = Instant::now();
        let statuses = at_once(&ask.clone().from(first).announced(client()), 40);
        // Five times two, and two each second that the forty have taken.
        let more = usize::try_from(start.elapsed().as_secs() + 1).unwrap() * 2;
        let served = statuses.get(&200).copied().unwrap_or(0);
        let refused = statuses.get(&429).copied().unwrap_or(0);
        (10..=10 + more).contains(&served) && served + refused == 40
    });
    assert_eq!(ask.from(second).send().unwrap().status, 200);

    let host = fixture.serve(Api::Ingress, "rpm", json!({"rateLimit": {"rpm": 2}}));
    let ask = fixture.http(&host, "/");
    fixture.until(&ask.clone().from(second), 200);
    counted("two a minute", || {
        let statuses = at_once(&ask.clone().from(first).announced(client()), 20);
        statuses == BTreeMap::from([(200, 10), (429, 10)])
    });
}

#[test]
fn a_client_asks_for_so_much_at_once() {
    let fixture = shared();
    let host = fixture.serve(Api::Ingress, "connections", json!({"rateLimit": {"connections": 2}}));
    fixture.until_plain(&host, "/", 200);
    let statuses = at_once(&fixture.http(&host, "/?delay=3"), 5);
    assert_eq!(statuses, BTreeMap::from([(200, 2), (429, 3)]));
    fixture.until_plain(&host, "/", 200);
}
