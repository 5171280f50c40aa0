//! Tests objects as their authors write them, and what the bastion makes of them.

use serde_json::{Value, json};

use super::*;

const OWN: &str = "bastion";

fn compiled(namespace: Option<&str>, spec: Value) -> Compiled {
    let name = PolicyName { namespace: namespace.map(str::to_owned), name: "orders".to_owned() };
    let scope = Scope::Namespaces(BTreeSet::from([OWN.to_owned(), "databases".to_owned()]));
    let external =
        HashSet::from([ServiceName { namespace: "databases".to_owned(), name: "elsewhere".to_owned() }]);
    let orders = access::Service {
        labels: [("tier".to_owned(), "db".to_owned())].into(),
        ports: [(5432, "postgres".to_owned())].into(),
        addresses: vec![],
    };
    let known = ServiceName { namespace: "databases".to_owned(), name: "orders".to_owned() };
    let services = Services::new("cluster.local", [(known, orders)].into());
    let spec = serde_json::from_value(spec).unwrap();
    compile(&name, &spec, Context { own: OWN, scope: &scope, services: &services, external: &external })
}

fn dev() -> Value {
    json!({"principals": ["dev"]})
}

fn orders() -> Value {
    json!({"service": {"name": "orders", "ports": [5432, "metrics"]}})
}

#[test]
fn a_sentence_becomes_a_rule_that_is_called_after_it() {
    let rules = compiled(Some("databases"), json!({"who": dev(), "to": [orders()]})).rules;
    let pattern = ServicePattern {
        namespace: "databases".to_owned(),
        which: Which::Named("orders".to_owned()),
        ports: vec![ServicePort::Number(5432), ServicePort::Name("metrics".to_owned())],
    };
    let expected = access::Rule {
        name: "databases/orders".to_owned(),
        who: access::Who::AllOf(vec![Condition::Principals(vec![Principal::parse("dev").unwrap()])]),
        effect: Effect::Permit,
        destinations: vec![],
        services: vec![pattern],
        closed: access::EndpointAddresses::default(),
    };
    assert_eq!(rules, [expected]);

    let hosts = json!({"who": {"everybody": true}, "to": [
        {"host": "*.example.com", "ports": [443, "8000-8100"]}, {"network": "10.20.0.0/16", "ports": ["*"]},
    ], "deny": [{"host": "payroll.example.com", "ports": ["*"]}]});
    let rules = compiled(None, hosts).rules;
    let printed: Vec<_> = rules
        .iter()
        .map(|rule| {
            (rule.name.as_str(), rule.effect, rule.destinations.iter().map(ToString::to_string).collect())
        })
        .collect();
    let destinations = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect::<Vec<_>>();
    assert_eq!(
        printed,
        [
            (
                "*/orders",
                Effect::Permit,
                destinations(&["*.example.com:443", "*.example.com:8000-8100", "10.20.0.0/16:*"])
            ),
            ("*/orders", Effect::Deny, destinations(&["payroll.example.com:*"])),
        ]
    );
}

#[test]
fn labels_mean_what_they_mean_everywhere() {
    let selector = json!({"matchLabels": {"tier": "db"}, "matchExpressions": [
        {"key": "team", "operator": "NotIn", "values": ["a", "b"]}, {"key": "public", "operator": "DoesNotExist"},
    ]});
    let spec = json!({"who": dev(), "to": [{"service": {"selector": selector}}]});
    let rules = compiled(Some("databases"), spec).rules;
    let wanted = |key: &str, wanted| LabelRequirement { key: key.to_owned(), wanted };
    let values = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect();
    assert_eq!(
        rules[0].services[0].which,
        Which::Labelled(vec![
            wanted("tier", LabelWanted::In(values(&["db"]))),
            wanted("team", LabelWanted::NotIn(values(&["a", "b"]))),
            wanted("public", LabelWanted::DoesNotExist),
        ])
    );
}

#[test]
fn who_may_name_what() {
    let service = |namespace: &str| json!({"service": {"name": "orders", "namespace": namespace}});
    let host = || json!({"host": "db.example.com", "ports": [443]});
    let network = || json!({"network": "10.0.0.0/8", "ports": [443]});
    for (place, destination, expected) in [
        (Some("databases"), orders(), None),
        (Some("databases"), service("databases"), None),
        (Some("databases"), service(OWN), Some("NotAllowedHere")),
        (Some("databases"), host(), Some("NotAllowedHere")),
        (Some("databases"), network(), Some("NotAllowedHere")),
        (Some(OWN), host(), None),
        (Some(OWN), network(), None),
        (Some(OWN), service("databases"), None),
        (Some(OWN), service("elsewhere"), Some("NotWatched")),
        (None, host(), None),
        (None, service("databases"), None),
        (None, orders(), Some("Invalid")),
        (Some("databases"), json!({"service": {"name": "elsewhere"}}), Some("ExternalName")),
    ] {
        for field in ["to", "deny"] {
            let compiled = compiled(place, json!({"who": dev(), field: [destination.clone()]}));
            let reason = compiled.verdict.as_ref().err().map(Refused::reason);
            assert_eq!(reason, expected, "{place:?} {field} {destination}");
            // The Service's owner may turn it into an ExternalName at any time; that opens nothing that is
            // denied.
            let closed = field == "deny" && expected == Some("ExternalName");
            let nothing = expected.is_some() && !closed;
            assert_eq!(compiled.rules.is_empty(), nothing, "{place:?} {field} {destination}");
        }
    }
}

#[test]
fn what_is_refused_opens_nothing_and_denies_what_it_may() {
    let spec = json!({"who": dev(), "to": [orders(), {"host": "*", "ports": ["*"]}],
        "deny": [{"service": {"name": "payroll"}}, {"host": "*", "ports": ["*"]}]});
    let compiled = compiled(Some("databases"), spec);
    let place = "to[1].host".to_owned();
    assert_eq!(compiled.verdict, Err(Refused::NotAllowedHere { place, own: OWN.to_owned() }));
    assert_eq!(compiled.rules.len(), 1);
    assert_eq!(compiled.rules[0].effect, Effect::Deny);
    assert!(compiled.rules[0].destinations.is_empty());
    assert_eq!(compiled.rules[0].services[0].which, Which::Named("payroll".to_owned()));
}

#[test]
fn what_is_not_there_is_named_and_waited_for() {
    let tier = |value: &str| json!({"matchLabels": {"tier": value}});
    for (service, expected) in [
        (json!({"name": "orders"}), None),
        (json!({"name": "orders", "ports": [5432, "postgres"]}), None),
        (json!({"name": "users", "ports": [1]}), Some("there is no Service databases/users")),
        (
            json!({"name": "orders", "ports": [5433, 5432, "metrics"]}),
            Some("Service databases/orders has no TCP port 5433, metrics"),
        ),
        (json!({"selector": tier("db"), "ports": ["postgres"]}), None),
        (json!({"selector": tier("web")}), Some("no Service of the namespace databases has these labels")),
        (
            json!({"selector": tier("db"), "ports": [80]}),
            Some("no Service of the namespace databases with these labels has the TCP port 80"),
        ),
    ] {
        for field in ["to", "deny"] {
            let compiled =
                compiled(Some("databases"), json!({"who": dev(), field: [{"service": service.clone()}]}));
            assert_eq!((compiled.verdict, compiled.rules.len()), (Ok(()), 1), "{field} {service}");
            let said: Vec<_> = compiled.unresolved.iter().map(ToString::to_string).collect();
            let expected: Vec<_> =
                expected.map(|expected| format!("{field}[0].service: {expected}")).into_iter().collect();
            assert_eq!(said, expected, "{field} {service}");
        }
    }
}

/// The API server refuses most of these before they are written. An object may be older than its definition.
#[test]
fn what_means_nothing_is_refused_and_says_where() {
    let to = |destination: Value| json!({"who": dev(), "to": [destination]});
    for (spec, expected) in [
        (json!({"who": {}, "to": [orders()]}), "who: write `everybody: true`, or"),
        (json!({"who": {"everybody": true, "principals": ["dev"]}, "to": [orders()]}), "who: write"),
        (json!({"who": {"everybody": false}, "to": [orders()]}), "who: write"),
        (json!({"who": {"principals": []}, "to": [orders()]}), "who.principals: write at least one"),
        (
            json!({"who": {"principals": ["dev", "a*"]}, "to": [orders()]}),
            "who.principals[1]: this is no principal",
        ),
        (json!({"who": {"keyIds": [""]}, "to": [orders()]}), "who.keyIds[0]: an empty key id"),
        (
            json!({"who": {"authorities": ["MD5:00"]}, "to": [orders()]}),
            "who.authorities[0]: this is no fingerprint",
        ),
        (json!({"who": dev()}), "spec: write `to` or `deny`"),
        (to(json!({})), "to[0]: write a service, a host with ports"),
        (to(json!({"host": "a.example"})), "to[0]: write a service, a host with ports"),
        (to(json!({"host": "a.example", "network": "10.0.0.0/8", "ports": [1]})), "to[0]: write a service"),
        (to(json!({"host": "a b", "ports": [1]})), "to[0].host: this is no host name"),
        (to(json!({"host": "a.example", "ports": []})), "to[0].ports: write at least one"),
        (to(json!({"host": "a.example", "ports": [1, 0]})), "to[0].ports[1]: ports are a number"),
        (to(json!({"host": "a.example", "ports": ["9-8"]})), "to[0].ports[0]: ports are a number"),
        (
            to(json!({"network": "a.example", "ports": [1]})),
            "to[0].network: this is no address and no network",
        ),
        (to(json!({"network": "10.0.0.1/8", "ports": [1]})), "to[0].network: the network has bits"),
        (
            to(json!({"service": {"name": "a", "selector": {}}})),
            "to[0].service: write either name or selector",
        ),
        (to(json!({"service": {"selector": {}}})), "to[0].service.selector: write matchLabels"),
        (
            to(json!({"service": {"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}})),
            "In and NotIn need",
        ),
        (to(json!({"service": {"name": "a", "ports": [0]}})), "to[0].service.ports[0]: a port is"),
    ] {
        let compiled = compiled(Some(OWN), spec.clone());
        let refused = compiled.verdict.unwrap_err();
        assert!(refused.to_string().contains(expected), "{spec}: {refused}");
        assert_eq!((refused.reason(), compiled.rules.len()), ("Invalid", 0), "{spec}");
    }
}
