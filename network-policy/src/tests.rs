use super::*;

/// Two namespaces with a label each, and whom flows go between.
struct World {
    web: Pod,
    other: Pod,
    database: Pod,
    stranger: Pod,
}

fn world() -> World {
    World {
        web: Pod::new("shop", "web", &[("app", "web"), ("tier", "front")], "10.244.0.2"),
        other: Pod::new("shop", "other", &[("app", "other")], "10.244.0.3"),
        database: Pod::new("data", "database", &[("app", "db")], "10.244.0.4")
            .port("sql", 5432, Protocol::Tcp)
            .port("sql", 5433, Protocol::Udp),
        stranger: Pod::new("nowhere", "stranger", &[("app", "web")], "10.244.0.5"),
    }
}

fn cluster(specs: &[&str]) -> Cluster {
    let policy = |(number, spec): (usize, &&str)| {
        let yaml = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p{number}}}\nspec: {spec}\n"
        );
        objects(&yaml).remove(0)
    };
    let objects: Vec<Value> = specs.iter().enumerate().map(policy).collect();
    Cluster::new()
        .namespace("shop", &[("team", "shop")])
        .namespace("data", &[("team", "data")])
        .namespace("nowhere", &[])
        .apply(&objects, "data")
}

/// The verdict on TCP from one end to port 5432 of the database.
fn to_database(cluster: &Cluster, from: End<'_>, world: &World) -> bool {
    let flow = Flow { from, to: End::Pod(&world.database), port: 5432, protocol: Protocol::Tcp };
    cluster.decide(&flow, Blocks::EveryAddress).passes()
}

#[test]
fn who_may_come_in() {
    let world = world();
    let outside = End::address("203.0.113.7");
    // The policies of the database's namespace, and whether web, other, stranger, an address outside and its
    // own node get in.
    let all = [true; 5];
    let none = [false, false, false, false, true];
    let table: &[(&[&str], [bool; 5])] = &[
        (&[], all),
        // Isolation.
        (&["{podSelector: {}}"], none),
        (&["{podSelector: {}, policyTypes: [Ingress]}"], none),
        (&["{podSelector: {}, policyTypes: [Egress]}"], all),
        (&["{podSelector: {}, ingress: []}"], none),
        (&["{podSelector: {matchLabels: {app: db}}}"], none),
        (&["{podSelector: {matchLabels: {app: web}}}"], all),
        // Rules without peers or ports.
        (&["{podSelector: {}, ingress: [{}]}"], all),
        (&["{podSelector: {}, ingress: [{from: [], ports: []}]}"], all),
        // Peers.
        (&["{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}"], none),
        (
            &["{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}"],
            [true, true, true, false, true],
        ),
        (
            &["{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: shop}}}]}]}"],
            [true, true, false, false, true],
        ),
        (
            &[
                "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: \
                nowhere}}}]}]}",
            ],
            [false, false, true, false, true],
        ),
        // One peer with both selectors: both. Two peers: either.
        (
            &[
                "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: shop}}, podSelector: \
                {matchLabels: {app: web}}}]}]}",
            ],
            [true, false, false, false, true],
        ),
        (
            &[
                "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: shop}}}, {podSelector: \
                {matchLabels: {app: web}}}]}]}",
            ],
            [true, true, false, false, true],
        ),
        (
            &[
                "{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: tier, \
                operator: Exists}]}}]}]}",
            ],
            [true, false, false, false, true],
        ),
        // Blocks.
        (
            &["{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}]}]}"],
            [false, false, false, true, true],
        ),
        (&["{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}"], all),
        (&["{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: '::/0'}}]}]}"], none),
        // Ports.
        (&["{podSelector: {}, ingress: [{ports: [{port: 5432}]}]}"], all),
        (&["{podSelector: {}, ingress: [{ports: [{port: 5433}]}]}"], none),
        (&["{podSelector: {}, ingress: [{ports: [{port: 5432, protocol: UDP}]}]}"], none),
        (&["{podSelector: {}, ingress: [{ports: [{protocol: TCP}]}]}"], all),
        (&["{podSelector: {}, ingress: [{ports: [{port: 5000, endPort: 5431}]}]}"], none),
        (&["{podSelector: {}, ingress: [{ports: [{port: 5000, endPort: 5432}]}]}"], all),
        (&["{podSelector: {}, ingress: [{ports: [{port: sql}]}]}"], all),
        (&["{podSelector: {}, ingress: [{ports: [{port: sql, protocol: UDP}]}]}"], none),
        (&["{podSelector: {}, ingress: [{ports: [{port: http}]}]}"], none),
        // Several add up; those for other pods, or about the other direction, do not count.
        (&["{podSelector: {}}", "{podSelector: {matchLabels: {app: db}}, ingress: [{}]}"], all),
        (&["{podSelector: {}}", "{podSelector: {matchLabels: {app: x}}, ingress: [{}]}"], none),
        (
            &["{podSelector: {}}", "{podSelector: {}, policyTypes: [Egress], egress: [{}], ingress: [{}]}"],
            none,
        ),
    ];
    for (specs, expected) in table {
        let cluster = cluster(specs);
        let ends =
            [End::Pod(&world.web), End::Pod(&world.other), End::Pod(&world.stranger), outside, End::OwnNode];
        assert_eq!(ends.map(|end| to_database(&cluster, end, &world)), *expected, "{specs:#?}");
    }
}

#[test]
fn who_may_leave() {
    let world = world();
    // The policies of the database's namespace, and whether it reaches 443 of web, 53/UDP of other, and 443
    // outside.
    let table: &[(&str, [bool; 3])] = &[
        // Without types, rules for what leaves make it about that; an empty list is no rule.
        ("{podSelector: {}}", [true; 3]),
        ("{podSelector: {}, egress: []}", [true; 3]),
        ("{podSelector: {}, egress: [{}]}", [true; 3]),
        ("{podSelector: {}, egress: [{ports: [{port: 1}]}]}", [false; 3]),
        ("{podSelector: {}, policyTypes: [Egress]}", [false; 3]),
        ("{podSelector: {}, policyTypes: [Ingress], egress: [{ports: [{port: 1}]}]}", [true; 3]),
        ("{podSelector: {}, policyTypes: [Ingress, Egress], egress: [{}]}", [true; 3]),
        (
            "{podSelector: {}, egress: [{to: [{namespaceSelector: {matchLabels: {team: shop}}}]}]}",
            [true, true, false],
        ),
        ("{podSelector: {}, egress: [{ports: [{port: 53, protocol: UDP}]}]}", [false, true, false]),
        (
            "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 203.0.113.0/24}}], ports: [{port: 443}]}]}",
            [false, false, true],
        ),
        // A name means a port of the pod at the other end; an address has none.
        ("{podSelector: {}, egress: [{ports: [{port: https}]}]}", [true, false, false]),
    ];
    let web = world.web.clone().port("https", 443, Protocol::Tcp);
    for (spec, expected) in table {
        let cluster = cluster(&[spec]);
        let from = End::Pod(&world.database);
        let flows = [
            Flow { from, to: End::Pod(&web), port: 443, protocol: Protocol::Tcp },
            Flow { from, to: End::Pod(&world.other), port: 53, protocol: Protocol::Udp },
            Flow { from, to: End::address("203.0.113.7"), port: 443, protocol: Protocol::Tcp },
        ];
        assert_eq!(
            flows.map(|flow| cluster.decide(&flow, Blocks::EveryAddress).passes()),
            *expected,
            "{spec}"
        );
    }
}

#[test]
fn selectors() {
    let labels = labels(&[("app", "web"), ("tier", "front")]);
    for (selector, expected) in [
        ("{}", true),
        ("{matchLabels: {app: web, tier: front}}", true),
        ("{matchLabels: {app: web, tier: back}}", false),
        ("{matchLabels: {other: web}}", false),
        ("{matchExpressions: [{key: app, operator: In, values: [db, web]}]}", true),
        ("{matchExpressions: [{key: app, operator: In, values: [db]}]}", false),
        ("{matchExpressions: [{key: app, operator: NotIn, values: [db]}]}", true),
        ("{matchExpressions: [{key: app, operator: NotIn, values: [web]}]}", false),
        ("{matchExpressions: [{key: missing, operator: In, values: [web]}]}", false),
        ("{matchExpressions: [{key: missing, operator: NotIn, values: [web]}]}", true),
        ("{matchExpressions: [{key: app, operator: Exists}]}", true),
        ("{matchExpressions: [{key: missing, operator: Exists}]}", false),
        ("{matchExpressions: [{key: app, operator: DoesNotExist}]}", false),
        ("{matchExpressions: [{key: missing, operator: DoesNotExist}]}", true),
        ("{matchLabels: {app: web}, matchExpressions: [{key: tier, operator: DoesNotExist}]}", false),
    ] {
        let parsed = read(&objects(selector)[0]);
        assert_eq!(selector::matches(&parsed, &labels), expected, "{selector}");
    }
}

#[test]
fn a_flow_needs_a_yes_at_both_ends_and_both_are_named() {
    let world = world();
    let flow = Flow {
        from: End::Pod(&world.web),
        to: End::Pod(&world.database),
        port: 5432,
        protocol: Protocol::Tcp,
    };
    let leaves = "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 5432}]}]}";
    let wrong = "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 1}]}]}";
    let open = cluster(&["{podSelector: {}}", "{podSelector: {}, ingress: [{}]}"]);
    let denied = |name: &str| Decision::Denied { policies: vec![name.to_owned()] };
    let allowed = |name: &str| Decision::Allowed { policy: name.to_owned() };
    let policies = |spec: &str| {
        let mut object =
            objects(&format!("{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, spec: {spec}}}"));
        object[0]["metadata"] = serde_json::json!({"name": "leave", "namespace": "shop"});
        object
    };
    let verdict = open.decide(&flow, Blocks::EveryAddress);
    assert_eq!(verdict, Verdict { egress: Decision::Open, ingress: allowed("data/p1") });
    let verdict = open.clone().apply(&policies(leaves), "data").decide(&flow, Blocks::EveryAddress);
    assert_eq!(verdict, Verdict { egress: allowed("shop/leave"), ingress: allowed("data/p1") });
    let verdict = open.apply(&policies(wrong), "data").decide(&flow, Blocks::EveryAddress);
    assert_eq!(verdict, Verdict { egress: denied("shop/leave"), ingress: allowed("data/p1") });
    assert!(!verdict.passes());
    let verdict = cluster(&["{podSelector: {}}"]).decide(&flow, Blocks::EveryAddress);
    assert_eq!(verdict, Verdict { egress: Decision::Open, ingress: denied("data/p0") });
    assert!(!verdict.passes());
}

#[test]
fn nothing_keeps_a_pod_from_itself() {
    let world = world();
    let itself = End::Pod(&world.database);
    assert!(to_database(&cluster(&["{podSelector: {}, policyTypes: [Ingress, Egress]}"]), itself, &world));
}

#[test]
fn whether_a_block_means_pods_is_the_networks_choice() {
    let world = world();
    let cluster = cluster(&["{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.244.0.0/16}}]}]}"]);
    let to = End::Pod(&world.database);
    let passes =
        |from, blocks| cluster.decide(&Flow { from, to, port: 1, protocol: Protocol::Sctp }, blocks).passes();
    assert!(passes(End::Pod(&world.web), Blocks::EveryAddress));
    assert!(!passes(End::Pod(&world.web), Blocks::OnlyOutside));
    // The same address, but that of no pod.
    assert!(passes(End::Address(world.web.ip), Blocks::OnlyOutside));
}

#[test]
fn a_pod_is_read_from_what_makes_it() {
    let deployment = objects(
        "{metadata: {name: bastion}, spec: {template: {metadata: {labels: {app: bastion}}, spec: {containers: [{ports: \
            [{name: ssh, containerPort: 2222}, {name: dns, containerPort: 53, protocol: UDP}]}]}}}}",
    );
    let expected = Pod::new("n", "bastion", &[("app", "bastion")], "10.0.0.1")
        .port("ssh", 2222, Protocol::Tcp)
        .port("dns", 53, Protocol::Udp);
    assert_eq!(Pod::of(&deployment[0], "n", "10.0.0.1"), expected);
}

#[test]
#[should_panic(expected = "not a part of")]
fn an_exception_outside_its_block_is_no_policy() {
    let world = world();
    let spec =
        "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [192.0.2.0/24]}}]}]}";
    to_database(&cluster(&[spec]), End::address("10.0.0.1"), &world);
}
