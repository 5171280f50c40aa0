//! TunnelPolicies and ClusterTunnelPolicies: in force within seconds, also for sessions that are open.

use std::time::Instant;

use serde_json::{Value, json};
use tests::{target::Target, wait};

use super::fixture::{
    ELSEWHERE, IN_FORCE, OWN, Place, SOON, THEIRS, cluster_policy, echoes, here, open, policy, ready,
    service, shared, slice, target, until_open, until_refused,
};

/// A Service with one port, `postgres` 5432, behind which a target is.
fn database(place: &Place, namespace: &str, name: &str, target: &Target) {
    place.apply(&service(namespace, name, json!([{"name": "postgres", "port": 5432}])));
    place.apply(&leading_to(namespace, name, target, ready()));
}

fn leading_to(namespace: &str, name: &str, target: &Target, endpoints: Value) -> Value {
    slice(namespace, name, json!([{"name": "postgres", "port": target.port(), "protocol": "TCP"}]), endpoints)
}

fn host(name: &str) -> String {
    format!("{name}.{THEIRS}.svc")
}

/// A rule about clients with a principal of this name.
fn who(principal: &str, to: Value) -> Value {
    json!({"who": {"principals": [principal]}, "to": to})
}

#[test]
fn a_policy_holds_within_seconds_and_ends_what_it_no_longer_permits() {
    let place = shared();
    let target = target();
    database(place, THEIRS, "sales", &target);
    let bastion = place.setup("live").start();
    let mut client = place.login(&bastion, "sales");
    assert!(open(&mut client, &host("sales"), 5432).unwrap_err().starts_with("no_rule: "));

    place.apply(&policy(THEIRS, "sales", who("sales", json!([{"service": {"name": "sales"}}]))));
    let applied = Instant::now();
    let channel = until_open(&mut client, &host("sales"), 5432);
    println!("opened {:?} after kubectl apply", applied.elapsed());
    assert!(applied.elapsed() < IN_FORCE);
    assert!(echoes(&mut client, channel));
    assert_eq!(place.verdict(&["tunnelpolicy/sales", "--namespace", THEIRS])["status"], "True");
    let record = bastion.audited("the forward", |record| record["event"] == "forward_opened");
    assert_eq!(
        (&record["rule"], &record["destination_address"]),
        (&json!("databases/sales"), &json!(here()))
    );

    place.apply(&policy(THEIRS, "sales", who("another-user", json!([{"service": {"name": "sales"}}]))));
    let changed = Instant::now();
    let record = bastion.audited("the end of the forward", |record| record["event"] == "forward_closed");
    println!("ended {:?} after kubectl apply", changed.elapsed());
    assert!(changed.elapsed() < IN_FORCE);
    assert_eq!(record["reason"], "no_rule");
    assert!(!echoes(&mut client, channel));

    place.kubectl(&["delete", "tunnelpolicy/sales", "--namespace", THEIRS]);
    let deleted = Instant::now();
    until_refused(&mut client, &host("sales"), 5432, "no_rule");
    assert!(deleted.elapsed() < IN_FORCE);
}

#[test]
fn a_service_is_named_in_every_way_that_there_is() {
    let place = shared();
    let target = target();
    database(place, THEIRS, "forms", &target);
    let bastion = place.setup("forms").start();
    let mut client = place.login(&bastion, "forms");
    let labels = |key: &str, value: &str| json!({"selector": {"matchLabels": {key: value}}});
    for (written, expected) in [
        (json!({"name": "forms"}), true),
        (json!({"name": "forms", "ports": [5432]}), true),
        (json!({"name": "forms", "ports": ["postgres"]}), true),
        (json!({"name": "forms", "ports": [5433, "metrics"]}), false),
        (json!({"name": "forms", "namespace": THEIRS}), true),
        (json!({"name": "another"}), false),
        (labels("app", "forms"), true),
        (labels("app", "another"), false),
        (json!({"selector": {"matchLabels": {"app": "forms"}}, "ports": ["postgres"]}), true),
        (
            json!({"selector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["forms", "x"]}]}}),
            true,
        ),
        (
            json!({"selector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["forms"]}]}}),
            false,
        ),
        (json!({"selector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}}), false),
    ] {
        place.apply(&policy(THEIRS, "forms", who("forms", json!([{"service": written}]))));
        let verdict = place.verdict(&["tunnelpolicy/forms", "--namespace", THEIRS]);
        assert_eq!(verdict["status"], "True", "{written}: {verdict}");
        wait::until_true("our bastion has heard it too", IN_FORCE, || {
            open(&mut client, "forms.databases", 5432).is_ok() == expected
        });
        for name in ["forms.databases", "forms.databases.svc", "FORMS.databases.svc.cluster.local."] {
            let answer = open(&mut client, name, 5432);
            assert_eq!(answer.is_ok(), expected, "{written} {name}: {answer:?}");
        }
        assert!(open(&mut client, "forms.databases.svc", 80).is_err(), "{written}");
    }
    place.kubectl(&["delete", "tunnelpolicy/forms", "--namespace", THEIRS]);
}

#[test]
fn endpoints_are_followed_and_who_is_connected_stays() {
    let place = shared();
    let (first, second) = (target(), target());
    database(place, THEIRS, "moving", &first);
    place.apply(&policy(THEIRS, "moving", who("moving", json!([{"service": {"name": "moving"}}]))));
    let bastion = place.setup("moving").start();
    let mut client = place.login(&bastion, "moving");
    let channel = until_open(&mut client, &host("moving"), 5432);
    assert!(echoes(&mut client, channel));
    assert_eq!((first.accepted(), second.accepted()), (1, 0));

    place.apply(&leading_to(THEIRS, "moving", &second, ready()));
    wait::until_true("a forward to the second", IN_FORCE, || {
        let _ = open(&mut client, &host("moving"), 5432).unwrap();
        second.accepted() > 0
    });
    for state in [json!({"ready": false}), json!({"ready": true, "terminating": true})] {
        let endpoints = json!([{"addresses": [here()], "conditions": state}]);
        place.apply(&leading_to(THEIRS, "moving", &second, endpoints));
        until_refused(&mut client, &host("moving"), 5432, "no_endpoints");
        place.apply(&leading_to(THEIRS, "moving", &second, ready()));
        let _ = until_open(&mut client, &host("moving"), 5432);
    }
    assert!(echoes(&mut client, channel), "it is connected to the first all the time");
    place.kubectl(&["delete", "service/moving", "--namespace", THEIRS]);
    until_refused(&mut client, &host("moving"), 5432, "no_rule");
    place.kubectl(&["delete", "tunnelpolicy/moving", "--namespace", THEIRS]);
}

#[test]
fn no_endpoint_lies_below_the_floor() {
    let place = shared();
    place.apply(&service(THEIRS, "deep", json!([{"port": 80}])));
    place.apply(&policy(THEIRS, "deep", who("deep", json!([{"service": {"name": "deep"}}]))));
    let bastion = place.setup("deep").start();
    let mut client = place.login(&bastion, "deep");
    // The API server refuses loopback and link-local ones by itself; it knows less of clouds.
    let endpoints = json!([{"addresses": ["100.100.100.200"]}, {"addresses": ["10.9.8.7"]}]);
    place.apply(&slice(THEIRS, "deep", json!([{"port": 80}]), endpoints));
    until_refused(&mut client, &host("deep"), 80, "forbidden_address");
    place.kubectl(&["delete", "tunnelpolicy/deep", "--namespace", THEIRS]);
}

#[test]
fn a_namespace_opens_what_is_its_own_and_is_told_so() {
    let place = shared();
    place.apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "wiki", "namespace": THEIRS},
        "spec": {"type": "ExternalName", "externalName": "wiki.example.com"},
    }));
    let bastion = place.setup("told").start();
    let mut client = place.login(&bastion, "told");
    for (name, to, reason) in [
        ("any-host", json!({"host": "*", "ports": ["*"]}), "NotAllowedHere"),
        ("any-network", json!({"network": "0.0.0.0/0", "ports": ["*"]}), "NotAllowedHere"),
        ("other-namespace", json!({"service": {"name": "x", "namespace": OWN}}), "NotAllowedHere"),
        ("external", json!({"service": {"name": "wiki"}}), "ExternalName"),
    ] {
        place.apply(&policy(THEIRS, name, who("told", json!([to]))));
        let verdict = place.verdict(&[&format!("tunnelpolicy/{name}"), "--namespace", THEIRS]);
        assert_eq!((&verdict["status"], &verdict["reason"]), (&json!("False"), &json!(reason)), "{verdict}");
        assert!(verdict["message"].as_str().unwrap().starts_with("to[0]."), "{verdict}");
        let event = wait::until("an Event", SOON, || place.events(THEIRS, name).into_iter().next());
        assert_eq!((&event["reason"], &event["type"]), (&json!(reason), &json!("Warning")), "{event}");
        assert_eq!(event["reportingController"], "tunnel-suite.internal/bastion-server");
    }
    for destination in ["db.example.com", "wiki.databases.svc", "x.bastion.svc"] {
        assert!(open(&mut client, destination, 443).unwrap_err().starts_with("no_rule: "), "{destination}");
    }
    let metrics = bastion.page("/metrics").body;
    assert!(metrics.contains("bastion_kubernetes_policies{result=\"refused\",reason=\"\"} "), "{metrics}");
    for name in ["any-host", "any-network", "other-namespace", "external"] {
        place.kubectl(&["delete", &format!("tunnelpolicy/{name}"), "--namespace", THEIRS]);
    }
}

#[test]
fn the_own_namespace_and_the_cluster_name_any_destination() {
    let place = shared();
    let (target, here) = (target(), here().to_string());
    database(place, THEIRS, "shared", &target);
    let bastion = place.setup("any").set("/hosts", json!({"target.example": [here]})).start();
    let (mut own, mut cluster) = (place.login(&bastion, "any-own"), place.login(&bastion, "any-cluster"));
    let to = json!([
        {"host": "*.example", "ports": [target.port()]},
        {"network": here, "ports": [format!("{}-65535", target.port())]},
        {"service": {"name": "shared", "namespace": THEIRS}},
    ]);
    place.apply(&policy(OWN, "any", who("any-own", to.clone())));
    place.apply(&cluster_policy("any", who("any-cluster", to)));
    assert_eq!(place.verdict(&["tunnelpolicy/any", "--namespace", OWN])["status"], "True");
    assert_eq!(place.verdict(&["clustertunnelpolicy/any"])["status"], "True");
    for (client, rule) in [(&mut own, "bastion/any"), (&mut cluster, "*/any")] {
        for (host, port) in
            [("target.example", target.port()), (here.as_str(), target.port()), ("shared.databases", 5432)]
        {
            let channel = until_open(client, host, port);
            assert!(echoes(client, channel), "{rule} {host}");
            let told = bastion.audited("the rule", |record| {
                record["event"] == "forward_opened"
                    && record["destination_host"] == host
                    && record["rule"] == rule
            });
            assert_eq!(told["destination_port"], port);
        }
    }
    // A denial beats them all, wherever it is written.
    let deny = json!({"who": {"everybody": true}, "deny": [{"service": {"name": "shared"}}]});
    place.apply(&policy(THEIRS, "closed", deny));
    assert_eq!(place.verdict(&["tunnelpolicy/closed", "--namespace", THEIRS])["status"], "True");
    for client in [&mut own, &mut cluster] {
        for (host, port) in
            [("target.example", target.port()), (here.as_str(), target.port()), ("shared.databases", 5432)]
        {
            until_refused(client, host, port, "denied_by_rule");
            assert!(open(client, host, port).unwrap_err().contains("databases/closed"), "{host}");
        }
    }
    for (name, namespace) in [("any", OWN), ("closed", THEIRS)] {
        place.kubectl(&["delete", &format!("tunnelpolicy/{name}"), "--namespace", namespace]);
    }
    place.kubectl(&["delete", "clustertunnelpolicy/any"]);
}

#[test]
fn a_denied_service_is_closed_however_it_is_reached() {
    let place = shared();
    let (target, another, here) = (target(), target(), here().to_string());
    let addresses = ["payroll", "beside"].map(|name| {
        let mut with_address = service(THEIRS, name, json!([{"name": "postgres", "port": 5432}]));
        with_address["spec"].as_object_mut().unwrap().remove("clusterIP");
        place.apply(&with_address);
        place.apply(&leading_to(THEIRS, name, &target, ready()));
        let made = place.get(&["service", name, "--namespace", THEIRS]);
        made["spec"]["clusterIP"].as_str().unwrap().to_owned()
    });
    let to = json!([
        {"network": "0.0.0.0/0", "ports": ["*"]}, {"host": "*.example", "ports": ["*"]},
        {"service": {"name": "beside", "namespace": THEIRS}},
    ]);
    place.apply(&policy(OWN, "wide", who("payroll", to)));
    let bastion = place.setup("closed").set("/hosts", json!({"alias.example": [here]})).start();
    let mut client = place.login(&bastion, "payroll");
    let there =
        [(here.as_str(), target.port()), ("alias.example", target.port()), ("beside.databases", 5432)];
    for (host, port) in there {
        let _ = until_open(&mut client, host, port);
    }

    let deny = json!({"who": {"everybody": true}, "deny": [{"service": {"name": "payroll"}}]});
    place.apply(&policy(THEIRS, "payroll", deny));
    wait::until_true("the end of what is open", IN_FORCE, || {
        let ended =
            |record: &&Value| record["event"] == "forward_closed" && record["reason"] == "denied_by_rule";
        bastion.audit().iter().filter(ended).count() == there.len()
    });
    let [own, beside] = addresses.each_ref().map(|address| (address.as_str(), 5432));
    for (host, port) in there.into_iter().chain([own, beside, ("payroll.databases.svc", 5432)]) {
        let refused = open(&mut client, host, port).unwrap_err();
        assert!(refused.starts_with("denied_by_rule: "), "{host}:{port}: {refused}");
        assert!(refused.contains("databases/payroll"), "{host}:{port}: {refused}");
    }
    let record = bastion.audited("a refusal", |record| record["event"] == "forward_refused");
    assert_eq!((&record["reason"], &record["rule"]), (&json!("denied_by_rule"), &json!("databases/payroll")));
    let channel = open(&mut client, &here, another.port()).unwrap();
    assert!(echoes(&mut client, channel), "no Service has another port of that address");

    // `explain` says the same beforehand.
    let objects = ["tunnelpolicies/wide", "tunnelpolicies/payroll"].iter().zip([OWN, THEIRS]);
    let objects = objects.map(|(object, namespace)| place.get(&[object, "--namespace", namespace]));
    let all = place.get(&["services,endpointslices", "--namespace", THEIRS]);
    let objects: Vec<_> = objects.chain([all]).map(|object| object.to_string()).collect();
    for (host, port) in there.into_iter().chain([own, beside]) {
        let (code, answer) =
            place.explain(&bastion, "payroll", &format!("{host}:{port}"), &objects.join("\n---\n"));
        assert_eq!((code, &answer["verdict"]["reason"]), (8, &json!("denied_by_rule")), "{answer}");
        let rules = answer["rules"].as_array().unwrap().iter();
        let denying: Vec<_> = rules.filter(|rule| rule["effect"] == "deny").collect();
        let [rule] = denying[..] else { panic!("{answer}") };
        assert_eq!((&rule["name"], &rule["destination"]), (&json!("databases/payroll"), &json!(true)));
    }

    // A pod that is not behind the Service is open, until it is, whether it takes connections or not.
    place.kubectl(&["delete", "endpointslice/payroll-1", "--namespace", THEIRS]);
    let channel = until_open(&mut client, &here, target.port());
    assert!(echoes(&mut client, channel));
    let endpoints = json!([{"addresses": [here], "conditions": {"ready": false}}]);
    place.apply(&leading_to(THEIRS, "payroll", &target, endpoints));
    wait::until_true("the end of it", IN_FORCE, || !echoes(&mut client, channel));
    until_refused(&mut client, &here, target.port(), "denied_by_rule");
    for (name, namespace) in [("wide", OWN), ("payroll", THEIRS)] {
        place.kubectl(&["delete", &format!("tunnelpolicy/{name}"), "--namespace", namespace]);
    }
}

#[test]
fn what_a_policy_names_and_is_not_there_is_said_and_waited_for() {
    let place = shared();
    let target = target();
    let bastion = place.setup("missing").start();
    let mut client = place.login(&bastion, "missing");
    let to = json!([
        {"service": {"name": "late", "ports": ["postgres"]}},
        {"service": {"selector": {"matchLabels": {"app": "later"}}}},
    ]);
    place.apply(&policy(THEIRS, "missing", who("missing", to)));
    let words = ["tunnelpolicy/missing", "--namespace", THEIRS];
    let labels = "to[1].service: no Service of the namespace databases has these labels";
    let service_missing = format!("to[0].service: there is no Service databases/late; {labels}");
    let condition = place.resolved(&words, "False", &service_missing);
    assert_eq!(condition["reason"], "BackendNotFound");
    assert_eq!(place.verdict(&words)["status"], "True", "it is accepted all the same");
    let event = wait::until("an Event", SOON, || place.events(THEIRS, "missing").into_iter().next());
    assert_eq!((&event["reason"], &event["type"]), (&json!("BackendNotFound"), &json!("Warning")), "{event}");
    assert_eq!((&event["note"], &event["action"]), (&json!(service_missing), &json!("Resolve")), "{event}");
    let printed = place.kubectl(&[&["get"], &words[..]].concat());
    let columns: Vec<Vec<_>> = printed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(columns[0], ["NAME", "ACCEPTED", "REASON", "RESOLVED", "AGE"]);
    assert_eq!(columns[1][..4], ["missing", "True", "Accepted", "False"]);

    place.apply(&service(THEIRS, "late", json!([{"name": "metrics", "port": 5432}])));
    let port_missing = format!("to[0].service: Service databases/late has no TCP port postgres; {labels}");
    place.resolved(&words, "False", &port_missing);
    assert!(open(&mut client, &host("late"), 5432).unwrap_err().starts_with("no_rule: "));
    database(place, THEIRS, "late", &target);
    place.resolved(&words, "False", labels);
    let channel = until_open(&mut client, &host("late"), 5432);
    assert!(echoes(&mut client, channel));
    database(place, THEIRS, "later", &target);
    let found = place.resolved(&words, "True", "every Service and port that it names exists");
    assert_eq!(found["reason"], "ResolvedRefs");
    let _ = until_open(&mut client, &host("later"), 5432);

    place.kubectl(&["delete", "service/late", "--namespace", THEIRS]);
    place.resolved(&words, "False", "to[0].service: there is no Service databases/late");
    let external = json!([{"host": "*", "ports": ["*"]}]);
    place.apply(&policy(THEIRS, "missing", who("missing", external)));
    place.resolved(&words, "Unknown", "references are resolved once the policy is accepted");
    place.kubectl(&["delete", "tunnelpolicy/missing", "--namespace", THEIRS]);
}

#[test]
fn objects_that_the_bastion_does_not_watch_are_named_or_left_alone() {
    let place = shared();
    place.apply(&policy(ELSEWHERE, "unseen", who("unseen", json!([{"service": {"name": "x"}}]))));
    place.apply(&policy(
        OWN,
        "unseen",
        who("unseen", json!([{"service": {"name": "x", "namespace": ELSEWHERE}}])),
    ));
    place.apply(&cluster_policy("unseen", who("unseen", json!([{"service": {"name": "x"}}]))));
    let _bastion = place.setup("unseen").start();
    let verdict = place.verdict(&["tunnelpolicy/unseen", "--namespace", OWN]);
    assert_eq!((&verdict["status"], &verdict["reason"]), (&json!("False"), &json!("NotWatched")));
    let verdict = place.verdict(&["clustertunnelpolicy/unseen"]);
    assert_eq!((&verdict["status"], &verdict["reason"]), (&json!("False"), &json!("Invalid")));
    assert!(verdict["message"].as_str().unwrap().contains("this object has none"), "{verdict}");
    let event = wait::until("an Event", SOON, || place.events("default", "unseen").into_iter().next());
    assert_eq!(event["regarding"]["kind"], "ClusterTunnelPolicy");
    assert!(place.get(&["tunnelpolicy/unseen", "--namespace", ELSEWHERE])["status"].is_null());
    place.kubectl(&["delete", "tunnelpolicy/unseen", "--namespace", OWN]);
    place.kubectl(&["delete", "clustertunnelpolicy/unseen"]);
}
