//! Security promises of the chart, asserted on all that every case renders.

use std::{collections::BTreeSet, fs};

use bastion_server::Metrics;
use serde_json::{Value, json};
use tests::{
    chart::{self, NAMESPACE, cases, found, kinds, objects, one, rendered, template},
    scratch::Scratch,
};

/// The specs of all pods in a case.
fn pods(objects: &[Value]) -> Vec<&Value> {
    let of_deployments =
        kinds(objects, "Deployment").into_iter().map(|object| &object["spec"]["template"]["spec"]);
    of_deployments.chain(kinds(objects, "Pod").into_iter().map(|object| &object["spec"])).collect()
}

fn case(name: &str) -> Vec<Value> {
    rendered(&chart::folder().join(format!("ci/{name}-values.yaml")))
}

fn deployment(objects: &[Value]) -> &Value {
    kinds(objects, "Deployment")[0]
}

fn volume<'a>(objects: &'a [Value], name: &str) -> Option<&'a Value> {
    let volumes = deployment(objects)["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    volumes.iter().find(|volume| volume["name"] == name)
}

#[test]
fn every_pod_is_without_privileges_and_holds_nothing() {
    for (case, values) in cases() {
        let objects = rendered(&values);
        let pods = pods(&objects);
        let expected = if case == "behind-a-balancer" { 1 } else { 2 };
        assert_eq!(pods.len(), expected, "{case}: the bastion, and the test where it has anything to ask");
        for pod in pods {
            assert_eq!(pod["automountServiceAccountToken"], false, "{case}");
            assert_eq!(pod["enableServiceLinks"], false, "{case}");
            let of_pod = &pod["securityContext"];
            for (setting, value) in [
                ("runAsNonRoot", json!(true)),
                ("runAsUser", json!(65532)),
                ("runAsGroup", json!(65532)),
                ("fsGroup", json!(65532)),
            ] {
                assert_eq!(of_pod[setting], value, "{case}: {setting}");
            }
            assert_eq!(of_pod["seccompProfile"]["type"], "RuntimeDefault", "{case}");
            for shared in ["hostNetwork", "hostPID", "hostIPC"] {
                assert!(pod[shared].is_null(), "{case}: {shared}");
            }
            for container in pod["containers"].as_array().unwrap() {
                let context = &container["securityContext"];
                assert_eq!(context["allowPrivilegeEscalation"], false, "{case}");
                assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}), "{case}");
                if container["name"] != "beside" {
                    assert_eq!(context["readOnlyRootFilesystem"], true, "{case}");
                    assert_eq!(context["privileged"], false, "{case}");
                }
            }
        }
    }
}

#[test]
fn the_test_asks_what_it_may() {
    let asked = |name: &str| {
        let objects = case(name);
        one(&objects, "Pod", "bastion-test")["spec"]["containers"][0]["args"].clone()
    };
    let (ssh, ready) = ("--ssh=bastion:22", "--ready=bastion-admin:8080");
    assert_eq!(asked("default"), json!(["probe", ssh, ready]));
    assert_eq!(asked("clusterip"), json!(["probe", ssh]));
    // Only the balancer may connect.
    assert_eq!(asked("aws"), json!(["probe", ready]));
    // Only Prometheus may ask.
    assert_eq!(asked("mesh"), json!(["probe", ssh]));
}

#[test]
fn nothing_is_writable_and_secrets_are_for_the_bastion_alone() {
    for (case, values) in cases() {
        let objects = rendered(&values);
        let spec = &deployment(&objects)["spec"]["template"]["spec"];
        for volume in spec["volumes"].as_array().unwrap() {
            let secret =
                [&volume["secret"], &volume["projected"]].into_iter().find(|source| source.is_object());
            if let Some(source) = secret {
                assert_eq!(source["defaultMode"], 0o400, "{case}: {volume}");
            } else {
                assert!(volume["configMap"].is_object(), "{case}: {volume}");
            }
        }
        for mount in spec["containers"][0]["volumeMounts"].as_array().unwrap() {
            assert_eq!(mount["readOnly"], true, "{case}: {mount}");
        }
    }
}

#[test]
fn the_account_gives_no_token_of_itself() {
    for (case, values) in cases() {
        let objects = rendered(&values);
        for account in kinds(&objects, "ServiceAccount") {
            assert_eq!(account["automountServiceAccountToken"], false, "{case}");
        }
    }
    // The bastion gets one where it asks anything of Kubernetes, and one for Vault where it logs in there:
    // bound, and short-lived.
    let token = |volume: &Value| volume["projected"]["sources"][0]["serviceAccountToken"].clone();
    let objects = case("default");
    assert_eq!(
        token(volume(&objects, "kubernetes-token").unwrap()),
        json!({"path": "token", "expirationSeconds": 3600})
    );
    assert!(volume(&objects, "vault-token").is_none());
    let objects = case("vault");
    assert_eq!(
        token(volume(&objects, "vault-token").unwrap()),
        json!({"path": "token", "audience": "vault", "expirationSeconds": 600})
    );
    assert!(volume(&objects, "kubernetes-token").is_none());
    let objects = case("files");
    assert!(volume(&objects, "kubernetes-token").is_none() && volume(&objects, "vault-token").is_none());
}

/// A rule of a role as `verbs resources names`.
fn rules(role: &Value) -> BTreeSet<String> {
    let words = |value: &Value| {
        let list: Vec<_> =
            value.as_array().into_iter().flatten().map(|word| word.as_str().unwrap()).collect();
        list.join(",")
    };
    let rules = role["rules"].as_array().unwrap();
    rules
        .iter()
        .map(|rule| {
            let text = format!(
                "{} {}/{} {}",
                words(&rule["verbs"]),
                words(&rule["apiGroups"]),
                words(&rule["resources"]),
                words(&rule["resourceNames"])
            );
            text.trim_end().to_owned()
        })
        .collect()
}

fn set(rules: &[&str]) -> BTreeSet<String> {
    rules.iter().map(|rule| (*rule).to_owned()).collect()
}

const POLICIES: [&str; 4] = [
    "list,watch tunnel-suite.internal/tunnelpolicies",
    "patch tunnel-suite.internal/tunnelpolicies/status",
    "list,watch /services",
    "list,watch discovery.k8s.io/endpointslices",
];
const EVENTS: &str = "create,patch events.k8s.io/events";

#[test]
fn a_role_has_the_verbs_that_are_used_and_nothing_else() {
    let objects = case("default");
    let expected = [
        "get /secrets bastion-host-key",
        "create /secrets",
        "list,watch /configmaps bastion-user-ca",
        "patch /configmaps bastion-connection-info",
        EVENTS,
    ];
    assert_eq!(rules(one(&objects, "Role", "bastion")), set(&[&expected[..], &POLICIES].concat()));
    assert!(kinds(&objects, "ClusterRole").is_empty());

    let objects = case("objects");
    let expected = [
        "get /secrets our-host-key",
        "list,watch /secrets revoked,user-ca",
        "list,watch /configmaps next-user-ca,revoked",
        "patch /configmaps elsewhere",
    ];
    assert_eq!(rules(one(&objects, "Role", "bastion")), set(&[&expected[..], &POLICIES].concat()));

    // Of listed namespaces a Role in each, and the bastion's own is not asked for twice.
    let objects = case("nodeport");
    let listed: Vec<_> = kinds(&objects, "Role")
        .into_iter()
        .filter(|role| role["metadata"]["namespace"] != NAMESPACE)
        .collect();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["metadata"]["namespace"], "databases");
    assert_eq!(rules(listed[0]), set(&POLICIES));
    assert_eq!(
        rules(one(&objects, "Role", "bastion-connection-info")),
        set(&["get /configmaps bastion-connection-info"])
    );

    let objects = case("cluster-policies");
    let cluster = [
        "list,watch tunnel-suite.internal/clustertunnelpolicies",
        "patch tunnel-suite.internal/clustertunnelpolicies/status",
    ];
    assert_eq!(rules(one(&objects, "ClusterRole", "bastion:bastion")), set(&cluster));
    // Events of objects without a namespace stand in this one.
    let default =
        kinds(&objects, "Role").into_iter().find(|role| role["metadata"]["namespace"] == "default").unwrap();
    assert_eq!(rules(default), set(&[EVENTS]));

    let objects = case("all-namespaces");
    let everywhere = [&cluster[..], &POLICIES, &[EVENTS]].concat();
    assert_eq!(rules(one(&objects, "ClusterRole", "bastion:bastion")), set(&everywhere));
    assert_eq!(kinds(&objects, "Role").len(), 1);

    for nothing_asked in ["vault", "files", "no-account"] {
        let objects = case(nothing_asked);
        for kind in ["Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"] {
            assert!(kinds(&objects, kind).is_empty(), "{nothing_asked}: {kind}");
        }
    }
}

/// Release `b-c` in namespace `a`, and `c` in `a-b`; and releases whose names end as an object's does.
#[test]
fn no_two_releases_name_the_same_object_outside_their_namespaces() {
    let scratch = Scratch::new("names");
    let values = scratch.write(
        "values.yaml",
        "{rbac: {aggregate: true}, config: {kubernetes: {policies: {cluster: true, namespaces: [databases]}}}}",
    );
    let outside = |release: &str, namespace: &str| -> BTreeSet<String> {
        let name = format!("fullnameOverride={release}");
        let text =
            template(&chart::folder(), &[&values], &["--namespace", namespace, "--set", &name]).unwrap();
        let objects =
            objects(&text).into_iter().filter(|object| object["metadata"]["namespace"] != namespace);
        let bound = |object: &Value| object["roleRef"]["name"].as_str().map(|name| format!("{name}, bound"));
        objects
            .flat_map(|object| {
                let (kind, metadata) = (&object["kind"], &object["metadata"]);
                [Some(format!("{kind} {} {}", metadata["namespace"], metadata["name"])), bound(&object)]
            })
            .flatten()
            .collect()
    };
    for ((one, here), (other, there)) in [
        (("b-c", "a"), ("c", "a-b")),
        (("b", "c-a"), ("b-c", "a")),
        (("c", "a"), ("c-edit", "a")),
        (("c", "a"), ("c-view", "a")),
        (("a", "a-a"), ("a-a", "a")),
    ] {
        let (one, other) = (outside(one, here), outside(other, there));
        assert!(one.len() > 6, "{one:?}");
        assert_eq!(one.intersection(&other).collect::<Vec<_>>(), Vec::<&String>::new());
    }
}

#[test]
fn a_cluster_role_is_there_only_where_the_whole_cluster_is_asked_for() {
    for (case, values) in cases() {
        let objects = rendered(&values);
        let expected = match case.as_str() {
            "all-namespaces" => 3,
            "cluster-policies" | "everywhere" => 1,
            _ => 0,
        };
        assert_eq!(kinds(&objects, "ClusterRole").len(), expected, "{case}");
        for role in kinds(&objects, "Role").into_iter().chain(kinds(&objects, "ClusterRole")) {
            let text = role["rules"].to_string();
            assert!(!text.contains('*'), "{case}: {text}");
        }
        for role in kinds(&objects, "Role").into_iter().chain(kinds(&objects, "ClusterRole")) {
            for rule in role["rules"].as_array().unwrap() {
                let of_secrets =
                    rule["resources"] == json!(["secrets"]) && rule["verbs"] != json!(["create"]);
                assert!(!of_secrets || rule["resourceNames"].is_array(), "{case}: {rule}");
            }
        }
    }
}

#[test]
fn a_policy_is_in_the_words_of_the_cluster_unless_the_operator_chooses() {
    let cilium = ["--api-versions", "cilium.io/v2/CiliumNetworkPolicy"];
    let chosen = ["--set", "networkPolicy.flavour=kubernetes"];
    for (more, kind) in [
        (&[][..], "NetworkPolicy"),
        (&cilium, "CiliumNetworkPolicy"),
        (&[cilium, chosen].concat(), "NetworkPolicy"),
    ] {
        let objects = objects(&template(&chart::folder(), &[], more).unwrap());
        let made: Vec<_> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
        let made: Vec<_> = made.into_iter().filter(|kind| kind.ends_with("NetworkPolicy")).collect();
        assert_eq!(made, [kind], "{more:?}");
    }
}

#[test]
fn traffic_is_denied_in_both_directions_unless_the_operator_turns_that_off() {
    for (case, values) in cases() {
        let objects = rendered(&values);
        let policies = kinds(&objects, "NetworkPolicy").len() + kinds(&objects, "CiliumNetworkPolicy").len();
        assert_eq!(policies, usize::from(case != "given-account"), "{case}");
        for policy in kinds(&objects, "NetworkPolicy") {
            assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]), "{case}");
            for rule in policy["spec"]["egress"].as_array().unwrap() {
                let peers = rule["to"].as_array().unwrap();
                assert!(!peers.is_empty(), "{case}: {rule}");
                let metadata = peers.iter().filter(|peer| peer["ipBlock"]["cidr"] == "0.0.0.0/0");
                for peer in metadata {
                    let left_out = [
                        "169.254.0.0/16",
                        "100.100.100.200/32",
                        "100.96.0.96/32",
                        "100.80.80.80/32",
                        "168.63.129.16/32",
                        "192.0.0.192/32",
                    ];
                    assert_eq!(peer["ipBlock"]["except"], json!(left_out), "{case}");
                }
            }
            for rule in policy["spec"]["ingress"].as_array().unwrap() {
                assert!(!rule["from"].as_array().unwrap().is_empty(), "{case}: {rule}");
            }
        }
        for policy in kinds(&objects, "CiliumNetworkPolicy") {
            assert!(policy["spec"]["egress"].as_array().unwrap().contains(&json!({})), "{case}");
        }
        let policies = kinds(&objects, "NetworkPolicy")
            .into_iter()
            .map(|policy| &policy["spec"]["podSelector"]["matchLabels"]);
        let policies = policies.chain(
            kinds(&objects, "CiliumNetworkPolicy")
                .into_iter()
                .map(|policy| &policy["spec"]["endpointSelector"]["matchLabels"]),
        );
        for selector in policies {
            assert_eq!(*selector, deployment(&objects)["spec"]["selector"]["matchLabels"], "{case}");
        }
    }
}

#[test]
fn no_draining_pod_is_killed_or_alone() {
    let objects = case("default");
    let spec = &deployment(&objects)["spec"];
    assert_eq!(spec["replicas"], 2);
    assert_eq!(spec["strategy"]["rollingUpdate"], json!({"maxSurge": 1, "maxUnavailable": 0}));
    // 15 s for load balancers, ten minutes for sessions, 15 s for what is left.
    assert_eq!(spec["template"]["spec"]["terminationGracePeriodSeconds"], 630);
    assert_eq!(one(&objects, "PodDisruptionBudget", "bastion")["spec"]["maxUnavailable"], 1);
    assert_eq!(spec["template"]["spec"]["topologySpreadConstraints"].as_array().unwrap().len(), 2);
    for constraint in spec["template"]["spec"]["topologySpreadConstraints"].as_array().unwrap() {
        assert_eq!(constraint["labelSelector"]["matchLabels"], spec["selector"]["matchLabels"]);
    }
    assert_eq!(deployment(&case("files"))["spec"]["strategy"], json!({"type": "Recreate"}));
    assert!(found(&case("clusterip"), "PodDisruptionBudget", "bastion").is_none());
    assert!(deployment(&case("autoscaling"))["spec"]["replicas"].is_null());
    assert!(found(&case("autoscaling"), "PodDisruptionBudget", "bastion").is_some());
}

#[test]
fn the_load_balancer_of_aws_gets_its_annotations() {
    let aws = |name: &str| one(&case(name), "Service", "bastion")["metadata"]["annotations"].clone();
    let with = aws("aws");
    let prefix = "service.beta.kubernetes.io/aws-load-balancer";
    for (name, value) in [
        ("type", "external"),
        ("nlb-target-type", "ip"),
        ("scheme", "internal"),
        ("name", "bastion"),
        ("backend-protocol", "tcp"),
        ("proxy-protocol", "*"),
        ("healthcheck-protocol", "tcp"),
        ("healthcheck-port", "traffic-port"),
        ("healthcheck-interval", "10"),
        ("healthcheck-healthy-threshold", "2"),
        ("healthcheck-unhealthy-threshold", "2"),
        (
            "target-group-attributes",
            "deregistration_delay.timeout_seconds=660,deregistration_delay.connection_termination.enabled=true,\
             proxy_protocol_v2.client_to_server.header_placement=on_first_ack,preserve_client_ip.enabled=false",
        ),
        ("listener-attributes.TCP-22", "tcp.idle_timeout.seconds=6000"),
        ("attributes", "load_balancing.cross_zone.enabled=true,deletion_protection.enabled=true"),
        ("security-groups", "sg-0123"),
        ("subnets", "subnet-0123,subnet-4567"),
    ] {
        assert_eq!(with[format!("{prefix}-{name}")], value, "{name}");
    }
    assert_eq!(with["external-dns.alpha.kubernetes.io/hostname"], "bastion.example.com");
    // Without PROXY protocol the balancer keeps the client's address: one of the two, or all clients look
    // like one.
    let without = aws("aws-client-address");
    assert!(without[format!("{prefix}-proxy-protocol")].is_null());
    assert!(
        without[format!("{prefix}-target-group-attributes")]
            .as_str()
            .unwrap()
            .ends_with(",preserve_client_ip.enabled=true")
    );
    assert_eq!(without[format!("{prefix}-scheme")], "internet-facing");
    // Pods are its targets, so nodes need no ports; other balancers may need them.
    let ports =
        |name: &str| one(&case(name), "Service", "bastion")["spec"]["allocateLoadBalancerNodePorts"].clone();
    assert_eq!(
        [ports("aws"), ports("default"), ports("monitoring")],
        [json!(false), Value::Null, json!(false)]
    );
}

#[test]
fn beside_linkerd_ssh_stays_out_of_the_proxy() {
    let annotations =
        |name: &str| deployment(&case(name))["spec"]["template"]["metadata"]["annotations"].clone();
    let mesh = annotations("mesh");
    assert_eq!(mesh["linkerd.io/inject"], "enabled");
    assert_eq!(mesh["config.linkerd.io/skip-inbound-ports"], "2222");
    assert_eq!(mesh["config.linkerd.io/skip-outbound-ports"], "4222");
    assert_eq!(mesh["config.linkerd.io/shutdown-grace-period"], "629s");
    assert_eq!(mesh["config.linkerd.io/proxy-cpu-request"], "10m");
    assert_eq!(mesh["config.linkerd.io/proxy-memory-limit"], "128Mi");
    let opaque = annotations("mesh-opaque");
    assert_eq!(opaque["config.linkerd.io/opaque-ports"], "2222");
    assert!(opaque["config.linkerd.io/skip-inbound-ports"].is_null());
    assert!(!annotations("default").to_string().contains("linkerd"));
}

#[test]
fn only_metrics_that_are_there_are_asked_for() {
    let metrics = Metrics::new();
    metrics.auth_refused("x");
    metrics.forward_refused("x");
    metrics.bytes(bastion_server::Direction::Sent).inc();
    metrics.config_failed();
    metrics.connection_refused("x");
    metrics.fence("x", true);
    metrics.policies(1, 1);
    let watch = bastion_server::WatchLabels { resource: "x", namespace: String::new(), name: String::new() };
    metrics.watch_failed(&watch);
    let now = std::time::SystemTime::now();
    metrics.authorities_read(1, now);
    metrics.revocations_read(1, now);
    metrics.host_certificate(now);
    metrics.watch_contact(&watch).set(now);
    let text = metrics.render();
    let known: BTreeSet<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();

    let dashboard = chart::file("files/dashboard.json");
    let alerts: String = ["monitoring", "vault"]
        .map(|name| one(&case(name), "PrometheusRule", "bastion").to_string())
        .concat();
    let autoscaler = one(&case("autoscaling"), "HorizontalPodAutoscaler", "bastion").to_string();
    let mut asked = BTreeSet::new();
    for text in [&dashboard, &alerts, &autoscaler] {
        for (at, _) in text.match_indices("bastion_") {
            let name = text[at..]
                .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
                .next()
                .unwrap();
            assert!(known.contains(name), "there is no metric {name}");
            asked.insert(name);
        }
    }
    let shown = |metric: &&&str| !dashboard.contains(**metric);
    let hidden: Vec<_> = known.iter().filter(shown).collect();
    assert!(hidden.is_empty(), "the dashboard shows nothing of {hidden:?}");
    serde_json::from_str::<Value>(&dashboard).unwrap();
}

#[test]
fn what_is_published_is_public() {
    for (case, values) in cases() {
        let objects = rendered(&values);
        let text = fs::read_to_string(&values).unwrap();
        for map in kinds(&objects, "ConfigMap")
            .into_iter()
            .filter(|map| map["metadata"]["labels"]["tunnel-suite.internal/connection-info"] == "true")
        {
            let said = map["data"]["pf-tunnel.yaml"].as_str().unwrap();
            for word in ["secret", "token", "password", "private", "host_key: {file"] {
                assert!(!said.contains(word), "{case}: {said}\n{text}");
            }
            // The bastion adds it, and owns it alone.
            assert!(map["data"]["known_hosts"].is_null(), "{case}");
        }
    }
}
