//! The API server takes a policy or refuses it, on two minors.

use serde_json::{Value, json};
use tests::cluster::Minor;

use super::fixture::{OWN, Place, cluster_policy, policy, printed};

#[test]
fn the_newest_minor_judges_objects_as_the_table_says() {
    is_judged_as_the_table_says(Minor::Newest);
}

#[test]
fn the_minor_before_judges_objects_as_the_table_says() {
    is_judged_as_the_table_says(Minor::Before);
}

#[test]
fn what_crdgen_prints_is_what_the_chart_installs() {
    let chart = tests::process::workspace().join("deploy/charts/bastion/crds/tunnelpolicies.yaml");
    assert_eq!(printed(&["crdgen"]), std::fs::read_to_string(chart).unwrap());
}

/// Specifications, and what is said to those that are refused.
fn table() -> Vec<(Value, Option<&'static str>)> {
    let dev = || json!({"principals": ["dev"]});
    let orders = || json!([{"service": {"name": "orders"}}]);
    let to = |destination: Value| json!({"who": dev(), "to": [destination]});
    let who = |who: Value| json!({"who": who, "to": orders()});
    let many = |count: usize| (0..count).map(|number| format!("p{number}")).collect::<Vec<_>>();
    let fingerprint = format!("SHA256:{}", "A".repeat(43));
    vec![
        (who(dev()), None),
        (who(json!({"everybody": true})), None),
        (who(json!({"principals": ["dev"], "keyIds": ["vault-oidc-*"], "authorities": [fingerprint]})), None),
        (who(json!({"principals": many(64)})), None),
        (who(json!({"principals": many(65)})), Some("must have at most 64 items")),
        (who(json!({})), Some("write `everybody: true`, or one or more")),
        (who(json!({"everybody": false})), Some("write `everybody: true`, or one or more")),
        (
            who(json!({"everybody": true, "principals": ["dev"]})),
            Some("write `everybody: true`, or one or more"),
        ),
        (who(json!({"principals": []})), Some("should have at least 1 items")),
        (
            who(json!({"principals": [
                "domain admins", "josé", "CORP\\alice", "role:dba", "a+b@example.com", "a".repeat(1024)
            ]})),
            None,
        ),
        (who(json!({"principals": ["a,b"]})), Some("should match")),
        (who(json!({"principals": ["a*"]})), Some("should match")),
        (who(json!({"principals": ["a?"]})), Some("should match")),
        (who(json!({"principals": ["a\0b"]})), Some("should match")),
        (who(json!({"principals": [""]})), Some("should match")),
        (who(json!({"principals": ["a".repeat(1025)]})), Some("Too long")),
        (who(json!({"keyIds": [""]})), Some("should be at least 1 chars long")),
        (who(json!({"authorities": ["MD5:aa"]})), Some("should match")),
        (json!({"to": orders()}), Some("spec.who: Required value")),
        (json!({"who": dev()}), Some("write `to`, where they may go, or `deny`")),
        (json!({"who": dev(), "to": null}), Some("write `to`, where they may go, or `deny`")),
        (json!({"who": dev(), "to": []}), Some("should have at least 1 items")),
        (json!({"who": dev(), "deny": orders()}), None),
        (json!({"who": dev(), "to": orders(), "deny": orders()}), None),
        (
            json!({"who": dev(), "to": vec![json!({"service": {"name": "a"}}); 65]}),
            Some("must have at most 64 items"),
        ),
        (json!({"who": dev(), "to": orders(), "unless": []}), Some("unknown field \"spec.unless\"")),
        (to(json!({})), Some("write exactly one of service, host and network")),
        (
            to(json!({"service": {"name": "orders"}, "host": "a.example"})),
            Some("write exactly one of service, host"),
        ),
        (
            to(json!({"host": "a.example", "network": "10.0.0.0/8", "ports": [1]})),
            Some("write exactly one of"),
        ),
        (to(json!({"host": "a.example"})), Some("write `ports` beside a host or a network")),
        (
            to(json!({"service": {"name": "orders"}, "ports": [1]})),
            Some("write `ports` beside a host or a network"),
        ),
        (to(json!({"service": {"name": "orders", "ports": [5432, "metrics"]}})), None),
        (to(json!({"service": {"name": "orders", "namespace": "databases"}})), None),
        (
            to(json!({"service": {"name": "orders", "ports": [0]}})),
            Some("should be greater than or equal to 1"),
        ),
        (
            to(json!({"service": {"name": "orders", "ports": [65536]}})),
            Some("should be less than or equal to 65535"),
        ),
        (to(json!({"service": {"name": "orders", "ports": ["Metrics"]}})), Some("should match")),
        (to(json!({"service": {"name": "Orders"}})), Some("should match")),
        (to(json!({"service": {}})), Some("write exactly one of name and selector")),
        (
            to(json!({"service": {"name": "a", "selector": {"matchLabels": {"a": "b"}}}})),
            Some("write exactly one of name and"),
        ),
        (to(json!({"service": {"selector": {"matchLabels": {"tier": "db"}}}})), None),
        (to(json!({"service": {"selector": {}}})), Some("write matchLabels or matchExpressions")),
        (
            to(json!({"service": {"selector": {"matchLabels": {}}}})),
            Some("should have at least 1 properties"),
        ),
        (
            to(
                json!({"service": {"selector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}}}),
            ),
            None,
        ),
        (
            to(json!({"service": {"selector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}})),
            None,
        ),
        (
            to(json!({"service": {"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}})),
            Some("In and NotIn have values"),
        ),
        (
            to(
                json!({"service": {"selector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}}}),
            ),
            Some("In and NotIn have values"),
        ),
        (
            to(json!({"service": {"selector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}})),
            Some("Unsupported value"),
        ),
        (to(json!({"host": "*.example.com", "ports": [443, "8000-8100"]})), None),
        (to(json!({"host": "*", "ports": ["*"]})), None),
        (to(json!({"host": "a b", "ports": [1]})), Some("should match")),
        (to(json!({"host": "a.*.b", "ports": [1]})), Some("should match")),
        (to(json!({"host": "a.example", "ports": ["http"]})), Some("should match")),
        (to(json!({"host": "a.example", "ports": []})), Some("should have at least 1 items")),
        (to(json!({"network": "10.20.0.0/16", "ports": ["1024-65535"]})), None),
        (to(json!({"network": "10.20.0.1", "ports": ["*"]})), None),
        (to(json!({"network": "2001:db8::/32", "ports": ["*"]})), None),
        (
            to(json!({"network": "10.20.0.1/16", "ports": ["*"]})),
            Some("no network without bits to the right"),
        ),
        (to(json!({"network": "databases", "ports": ["*"]})), Some("this is no address, and no network")),
    ]
}

fn is_judged_as_the_table_says(minor: Minor) {
    let place = Place::new(minor);
    for (spec, expected) in table() {
        for object in [policy(OWN, "judged", spec.clone()), cluster_policy("judged", spec.clone())] {
            match (place.try_apply(&object), expected) {
                (Ok(()), None) => {}
                (Err(said), Some(expected)) => assert!(said.contains(expected), "{object}: {said}"),
                (answer, expected) => panic!("{object}: {answer:?} instead of {expected:?}"),
            }
        }
    }
    let columns = |resource: &str| {
        let text = place.kubectl(&[
            "get",
            "crd",
            &format!("{resource}.tunnel-suite.internal"),
            "--output=jsonpath={.spec.versions[0].additionalPrinterColumns[*].name}",
        ]);
        text.split(' ').map(str::to_owned).collect::<Vec<_>>()
    };
    for resource in ["tunnelpolicies", "clustertunnelpolicies"] {
        assert_eq!(columns(resource), ["Accepted", "Reason", "Resolved", "Message", "Age"]);
    }
    place.apply(&policy(
        OWN,
        "short",
        json!({"who": {"everybody": true}, "to": [{"service": {"name": "a"}}]}),
    ));
    assert!(place.kubectl(&["get", "tp,ctp", "--all-namespaces"]).contains("short"), "they have short names");
}
