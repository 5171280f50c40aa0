//! A cluster that comes and goes: sessions go on, and what changed meanwhile holds as soon as it is back.

use std::time::Duration;

use serde_json::json;
use tests::{cluster::Minor, http, ports, wait};

use super::fixture::{
    IN_FORCE, OWN, Place, SOON, THEIRS, echoes, everybody, open, policy, ready, service, slice, target,
    until_open, until_refused,
};

/// How long every watch may take to notice that the API server is lost.
const NOTICED: Duration = Duration::from_secs(30);
const HOST: &str = "orders.databases.svc";

#[test]
fn a_lost_api_server_changes_nothing_for_clients() {
    let mut place = Place::new(Minor::Newest);
    let target = target();
    place.apply(&service(THEIRS, "orders", json!([{"port": 5432}])));
    place.apply(&slice(THEIRS, "orders", json!([{"port": target.port()}]), ready()));
    place.apply(&everybody("orders"));
    let bastion = place.setup("lost").start();
    let mut client = place.login(&bastion, "anyone");
    let channel = until_open(&mut client, HOST, 5432);
    let failures = || {
        let counted = |line: &&str| line.starts_with("bastion_kubernetes_watch_failures_total{");
        bastion.page("/metrics").body.lines().filter(counted).count()
    };
    let (fails, works) = ("watch failed; its last known objects stay in force; retrying", "watch restored");
    let said = |what: &str| bastion.log().lines().filter(|line| line.contains(what)).count();
    // A first watch may have been refused.
    wait::until_true("every watch works", SOON, || said(works) == said(fails));
    assert!(failures() <= said(fails), "what is counted is told");
    let before = said(fails);

    place.server.stop();
    wait::until_true("every watch has failed", NOTICED, || failures() == 7 && said(fails) >= before + 7);
    assert!(echoes(&mut client, channel), "what is open stays open");
    assert!(open(&mut client, HOST, 5432).is_ok(), "and what was permitted is");
    let mut another = place.login(&bastion, "anyone");
    assert!(open(&mut another, HOST, 5432).is_ok(), "for a client that comes now too");
    assert_eq!(bastion.page("/readyz").status, 200);
    let log = bastion.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains(fails)).skip(before).collect();
    assert_eq!(told.len(), 7, "once each\n{log}");
    // The library's own words only say what was tried; the cause, as each of them met the end, comes behind.
    let bare = ["client error (Connect)\"", "client error (SendRequest)\""];
    assert!(!told.iter().any(|line| bare.iter().any(|words| line.ends_with(words))), "and why\n{log}");

    place.server.start();
    place.kubectl(&["delete", "tunnelpolicy/orders", "--namespace", THEIRS]);
    wait::until_true("the new state", IN_FORCE, || {
        open(&mut client, HOST, 5432).is_err_and(|text| text.starts_with("no_rule: "))
    });
    assert!(!echoes(&mut client, channel));
    place.apply(&everybody("orders"));
    wait::until_true("the next one", IN_FORCE, || open(&mut another, HOST, 5432).is_ok());
    wait::until_true("every watch says that it works", IN_FORCE, || said(works) == before + 7);
    assert_eq!(said(fails), before + 7, "{}", bastion.log());
}

#[test]
fn what_was_forgotten_while_no_watch_listened_is_listed_again() {
    let mut place = Place::new(Minor::Newest);
    let target = target();
    for name in ["orders", "users"] {
        place.apply(&service(THEIRS, name, json!([{"port": 5432}])));
        place.apply(&slice(THEIRS, name, json!([{"port": target.port()}]), ready()));
        place.apply(&everybody(name));
    }
    let bastion = place.setup("forgotten").start();
    let mut client = place.login(&bastion, "anyone");
    let (orders, users) =
        (until_open(&mut client, HOST, 5432), until_open(&mut client, "users.databases.svc", 5432));

    // While no API server runs, etcd loses a policy and all memory of how it was before: the watches cannot
    // go on where they were.
    place.server.stop();
    let key = "/registry/tunnel-suite.internal/tunnelpolicies/databases/orders";
    assert_eq!(place.server.etcdctl().args(["del", key]).succeed().trim(), "1");
    let status = place.server.etcdctl().args(["endpoint", "status", "--write-out=json"]).succeed();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let revision = status[0]["Status"]["header"]["revision"].to_string();
    place.server.etcdctl().args(["compact", &revision, "--physical"]).succeed();
    place.server.start();

    wait::until_true("a list without that policy", IN_FORCE, || {
        open(&mut client, HOST, 5432).is_err_and(|text| text.starts_with("no_rule: "))
    });
    assert!(!echoes(&mut client, orders));
    assert!(echoes(&mut client, users), "the other one was never in doubt");
    place.kubectl(&["delete", "tunnelpolicy/users", "--namespace", THEIRS]);
    until_refused(&mut client, "users.databases.svc", 5432, "no_rule");
}

#[test]
fn a_bastion_that_has_seen_nothing_yet_is_not_ready() {
    let mut place = Place::new(Minor::Newest);
    let target = target();
    place.apply(&service(THEIRS, "orders", json!([{"port": 5432}])));
    place.apply(&slice(THEIRS, "orders", json!([{"port": target.port()}]), ready()));
    place.apply(&everybody("orders"));
    let admin = std::net::SocketAddr::from(([127, 0, 0, 1], ports::free()));
    let setup = place.setup("early").set("/admin/listen", json!(admin));
    place.server.stop();
    std::thread::scope(|scope| {
        let bastion = scope.spawn(|| setup.start());
        let waiting = wait::until("its word", SOON, || http::get(admin, "/readyz").ok()).json();
        assert_eq!(waiting["ready"], false);
        assert!(waiting["waiting_for"].as_array().unwrap().contains(&json!("policies")), "{waiting}");
        place.server.start();
        let bastion = bastion.join().unwrap();
        let mut client = place.login(&bastion, "anyone");
        assert!(open(&mut client, HOST, 5432).is_ok(), "a bastion that is ready knows its objects");
    });
}

#[test]
fn two_bastions_write_one_status_once() {
    let place = Place::new(Minor::Newest);
    let bastions = [place.setup("one").start(), place.setup("two").start()];
    place.apply(&everybody("orders"));
    let words = ["tunnelpolicy/orders", "--namespace", THEIRS];
    assert_eq!(place.verdict(&words)["status"], "True");
    place.resolved(&words, "False", "to[0].service: there is no Service databases/orders");
    place.apply(&service(THEIRS, "orders", json!([{"port": 5432}])));
    place.resolved(&words, "True", "every Service and port that it names exists");
    let bad = json!({"who": {"everybody": true}, "to": [{"host": "*", "ports": ["*"]}]});
    place.apply(&policy(THEIRS, "orders", bad));
    assert_eq!(place.verdict(&words)["reason"], "NotAllowedHere");
    // Each has seen the last state of the object, and what the other wrote into it.
    let version = place.get(&words)["metadata"]["resourceVersion"].clone();
    for bastion in &bastions {
        wait::until_true("both have refused it", IN_FORCE, || {
            bastion
                .page("/metrics")
                .body
                .contains("bastion_kubernetes_policies{result=\"refused\",reason=\"\"} 1")
        });
    }
    place.apply(&policy(
        OWN,
        "next",
        json!({"who": {"everybody": true}, "to": [{"host": "a.example", "ports": [1]}]}),
    ));
    assert_eq!(place.verdict(&["tunnelpolicy/next", "--namespace", OWN])["status"], "True");
    assert_eq!(place.get(&words)["metadata"]["resourceVersion"], version, "it was not written again");
    let audit = place.server.audit();
    let patches = audit.lines().filter(|line| {
        let record: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        record["stage"] == "ResponseComplete"
            && record["verb"] == "patch"
            && record["objectRef"]["name"] == "orders"
            && record["objectRef"]["subresource"] == "status"
    });
    let patches = patches.count();
    assert!((3..=6).contains(&patches), "three states, two bastions: {patches} writes");
}
