//! The chart `workload`: what a team's pods and Services look like, and what is refused.

use serde_json::{Value, json};

use super::{Refused, names, one, refuse, render, render_for, warns};

/// A Deployment with one port.
const WEB: &str = "containers: [{name: web, image: x/web:1, ports: [{name: http, port: 8080}]}]\n";

const REFUSED: Refused = &[
    // Words that are not known are answered with those that are.
    ("servise: {name: x}", "'service'"),
    ("service: {tipe: NodePort}", "'type'"),
    ("containers: [{name: web, image: x, prots: []}]", "'ports'"),
    ("mesh: {injekt: enabled}", "'inject'"),
    ("containers: [{name: web, image: x, livenessProbe: {tcpSoket: {}}}]", "tcpSoket"),
    // Values that cannot be.
    ("controller: {kind: DaemonSet}", "/controller/kind"),
    ("containers: [{name: web}]", "image"),
    ("containers: [{name: web, image: x, ports: [{port: 8080}]}]", "name"),
    ("service: {type: Loadbalancer}", "/service/type"),
    ("service: {trafficDistribution: Close}", "/service/trafficDistribution"),
    ("mesh: {inject: true}", "/mesh/inject"),
    ("service: {hostnames: ['https://shop.example.com']}", "/service/hostnames/0"),
    // Numbers where Kubernetes takes strings.
    ("podAnnotations: {example.com/retries: 3}", "podAnnotations: the value of example.com/retries is 3"),
    ("podLabels: {canary: true}", "quote it, canary: \"true\""),
    ("service: {annotations: {x: 1}}", "service.annotations: the value of x is 1"),
    ("commonLabels: {x: 1}", "commonLabels: the value of x is 1"),
    // No pods, or none that are said.
    ("containers: []", "containers: there is none"),
    (
        "controller: {kind: none}\nservice: {ports: [{name: http, port: 80}]}\ncontainers: []",
        "service.selector: with",
    ),
    ("controller: {kind: none}\nservice: {selector: {app: x}}\ncontainers: []", "service.ports: with"),
    (
        "controller: {kind: none}\nservice: {selector: {app: x}, ports: [{name: http, port: 80}]}",
        "no pods to hold them",
    ),
    ("service: {selector: {app: x}}", "are for controller.kind none"),
    ("controller: {volumeClaimTemplates: [{metadata: {name: x}}]}", "are for a StatefulSet"),
    ("controller: {strategy: {rollingUpdate: {maxSurge: 0}}}", "no pod can be replaced"),
    ("shutdown: {delay: 1fortnight}", "is no duration"),
    // Ports.
    (
        "containers: [{name: web, image: x, ports: [{name: a-name-that-goes, port: 1}]}]",
        "the port name a-name-that-goes of web has 16 characters",
    ),
    ("containers: [{name: web, image: x, ports: [{name: '80', port: 80}]}]", "has no letter"),
    (
        "containers: [{name: a, image: x, ports: [{name: http, port: 1}]}, {name: b, image: x, ports: [{name: http, port: 2}]}]",
        "a and b both call a port http",
    ),
    (
        "containers: [{name: a, image: x, ports: [{name: p, port: 1}]}, {name: b, image: x, ports: [{name: q, port: 1}]}]",
        "a and b both listen on port 1/TCP",
    ),
    (
        "containers: [{name: a, image: x, ports: [{name: p, port: 1, servicePort: 80}, {name: q, port: 2, servicePort: 80}]}]",
        "the Service has port 80/TCP twice",
    ),
    (
        "containers: [{name: a, image: x, ports: [{name: p, port: 1, nodePort: 30001}]}]",
        "say NodePort or LoadBalancer",
    ),
    // Addresses.
    ("service: {ip: 10.97.0.1, cidr: 10.96.0.0/16}", "10.97.0.1 is not in service.cidr, 10.96.0.0/16"),
    ("service: {ip: 'fd00::1:0', cidr: 'fd00::/112'}", "fd00::1:0 is not in service.cidr"),
    ("service: {ip: 10.96.0.1, cidr: 'fd00::/112'}", "10.96.0.1 is not in service.cidr"),
    ("service: {ip: 10.96.0}", "is no address"),
    ("service: {ip: 10.96.0.300}", "is no address"),
    ("service: {ip: 10.96.0.77, headless: true}", "a headless Service has no address"),
    (
        "controller: {kind: none}\ncontainers: []\nservice: {ip: 10.96.0.77, type: ExternalName, externalName: x.example.com}",
        "an ExternalName is a name",
    ),
    ("service: {headless: true, type: NodePort}", "only a Service of type ClusterIP"),
    ("service: {type: ExternalName}", "say the name that an ExternalName stands for"),
    ("service: {externalName: db.example.com}", "service.externalName is for service.type ExternalName"),
    ("service: {type: ExternalName, externalName: 192.0.2.10}", "use an EndpointSlice"),
    ("service: {type: ExternalName, externalName: 'https://db.example.com'}", "an address or a URL"),
    ("service: {type: ExternalName, externalName: db.example.com, hostnames: [db.example.org]}", "another's"),
    // Load balancers.
    ("service: {aws: {enabled: true}}", "are for a load balancer, and service.type is ClusterIP"),
    ("service: {type: NodePort, loadBalancerClass: x.example.com/y}", "and service.type is NodePort"),
    ("service: {type: NodePort, loadBalancerSourceRanges: [10.0.0.0/8]}", "are for a load balancer"),
    (
        "service: {type: LoadBalancer, externalTrafficPolicy: Local, aws: {enabled: true}}",
        "Leave it at Cluster",
    ),
    // The mesh.
    (
        "mesh: {inject: disabled}\npodAnnotations: {linkerd.io/inject: enabled}",
        "Say it once, under mesh.inject",
    ),
    (
        "commonAnnotations: {linkerd.io/inject: enabled}",
        "commonAnnotations: linkerd.io/inject does nothing there",
    ),
    ("controller: {annotations: {linkerd.io/inject: enabled}}", "Linkerd reads it on pods"),
    ("service: {annotations: {linkerd.io/inject: enabled}}", "Linkerd reads it on pods"),
    (
        "service: {type: ExternalName, externalName: db.example.com}\nmesh: {circuitBreaking: {enabled: true}}",
        "no pods to leave alone",
    ),
];

#[test]
fn what_makes_no_sense_is_refused_with_a_sentence() {
    refuse("workload", WEB, REFUSED);
}

/// Where clients and members of a database are.
fn service<'a>(objects: &'a [Value], name: &str) -> &'a Value {
    &one(objects, "Service", name)["spec"]
}

#[test]
fn a_service_is_made_of_the_ports_that_containers_declare() {
    let objects = render("workload", "containers: [{name: worker, image: x/worker:1}]");
    assert_eq!(names(&objects, "Service"), Vec::<&str>::new());
    let objects = render("workload", WEB);
    assert_eq!(names(&objects, "Service"), names(&objects, "Deployment"));
    let ports = &service(&objects, "shop")["ports"];
    assert_eq!(*ports, json!([{"name": "http", "port": 8080, "protocol": "TCP", "targetPort": "http"}]));
    let objects = render(
        "workload",
        "service: {name: api}\ncontainers: [{name: a, image: x, ports: [{name: http, port: 8080, servicePort: 80}, {name: admin, port: 9000, \
         service: false}]}, {name: b, image: x, ports: [{name: grpc, port: 9001, appProtocol: grpc}]}]",
    );
    let found: Vec<_> =
        service(&objects, "api")["ports"].as_array().unwrap().iter().map(|port| &port["name"]).collect();
    assert_eq!(found, ["http", "grpc"]);
    let objects = render(
        "workload",
        "controller: {kind: none}\nservice: {selector: {app: x}, ports: [{name: http, port: 80}]}",
    );
    assert_eq!(objects.len(), 1);
    assert_eq!(service(&objects, "shop")["selector"], json!({"app": "x"}));
}

#[test]
fn an_address_is_written_only_where_it_is_said() {
    // `clusterIP: ""` would break every later upgrade.
    for (values, address) in
        [("", None), ("service: {ip: 10.96.0.77, cidr: 10.96.0.0/16}", Some("10.96.0.77"))]
    {
        let objects = render("workload", &format!("{WEB}{values}"));
        let spec = service(&objects, "shop").as_object().unwrap();
        assert_eq!(spec.get("clusterIP").and_then(Value::as_str), address);
        assert_eq!(spec.get("clusterIPs").map(|list| &list[0]), address.map(|text| json!(text)).as_ref());
    }
    let objects = render("workload", &format!("{WEB}service: {{headless: true}}"));
    assert_eq!(service(&objects, "shop")["clusterIP"], "None");
}

#[test]
fn the_members_of_a_statefulset_have_names_that_no_setting_changes() {
    let values = |name: &str| {
        format!("{WEB}controller: {{kind: StatefulSet}}\nfullnameOverride: orders\nservice: {{name: {name}}}")
    };
    let (before, after) = (render("workload", &values("db")), render("workload", &values("database")));
    let set = one(&before, "StatefulSet", "orders");
    let members = set["spec"]["serviceName"].as_str().unwrap();
    assert_eq!(one(&after, "StatefulSet", "orders"), set);
    assert_eq!(service(&before, members)["clusterIP"], "None");
    assert_eq!(service(&before, members)["publishNotReadyAddresses"], true);
    assert_eq!(service(&before, "db")["clusterIP"], Value::Null);
    // Without ports the name is kept for the day when there are some.
    let objects = render("workload", "controller: {kind: StatefulSet}\ncontainers: [{name: x, image: x}]");
    assert_eq!(one(&objects, "StatefulSet", "shop")["spec"]["serviceName"], "shop-headless");
    assert_eq!(names(&objects, "Service"), Vec::<&str>::new());
}

#[test]
fn what_pods_are_selected_by_stays_when_versions_and_labels_change() {
    let plain = render("workload", WEB);
    let changed = render(
        "workload",
        "commonLabels: {team: a, app.kubernetes.io/name: other}\npodLabels: {tier: front, app.kubernetes.io/instance: other}\n\
         containers: [{name: web, image: 'x/web:2', ports: [{name: http, port: 9090}]}]",
    );
    let selector =
        |objects: &[Value]| one(objects, "Deployment", "shop")["spec"]["selector"]["matchLabels"].clone();
    assert_eq!(selector(&plain), selector(&changed));
    for objects in [&plain, &changed] {
        let selector = selector(objects);
        assert_eq!(service(objects, "shop")["selector"], selector);
        assert_eq!(one(objects, "PodDisruptionBudget", "shop")["spec"]["selector"]["matchLabels"], selector);
        let labels = &one(objects, "Deployment", "shop")["spec"]["template"]["metadata"]["labels"];
        assert!(selector.as_object().unwrap().iter().all(|(key, value)| labels[key] == *value), "{labels}");
    }
    let labels = &one(&changed, "Deployment", "shop")["spec"]["template"]["metadata"]["labels"];
    assert_eq!((&labels["team"], &labels["tier"]), (&json!("a"), &json!("front")));
}

#[test]
fn traffic_stays_in_its_zone_in_the_word_of_the_version() {
    let word = |said: &str, version: &str| {
        let objects =
            render_for("workload", &format!("{WEB}service: {{trafficDistribution: {said}}}"), version)?;
        Ok::<_, String>(service(&objects, "shop")["trafficDistribution"].as_str().unwrap().to_owned())
    };
    for (version, expected) in [
        ("1.32.0", "PreferClose"),
        ("1.33.4", "PreferClose"),
        ("1.34.0", "PreferSameZone"),
        ("1.36.3", "PreferSameZone"),
    ] {
        assert_eq!(word("zone", version).unwrap(), expected, "{version}");
    }
    assert_eq!(word("node", "1.34.0").unwrap(), "PreferSameNode");
    for said in ["PreferSameNode", "PreferSameZone", "node"] {
        let error = word(said, "1.33.4").unwrap_err();
        assert!(error.contains("service.trafficDistribution") && error.contains("write zone"), "{error}");
    }
}

#[test]
fn the_mesh_is_told_on_the_pods_and_nowhere_else() {
    for (inject, expected) in
        [("enabled", json!("enabled")), ("disabled", json!("disabled")), ("''", Value::Null)]
    {
        let objects = render("workload", &format!("{WEB}mesh: {{inject: {inject}}}"));
        for object in &objects {
            assert_eq!(object["metadata"]["annotations"]["linkerd.io/inject"], Value::Null, "{object}");
        }
        let template = &one(&objects, "Deployment", "shop")["spec"]["template"];
        assert_eq!(template["metadata"]["annotations"]["linkerd.io/inject"], expected);
    }
    let objects = render("workload", &format!("{WEB}mesh: {{nativeSidecar: false}}"));
    let annotations = &one(&objects, "Deployment", "shop")["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["config.linkerd.io/proxy-enable-native-sidecar"], "false");
    assert!(!annotations.to_string().contains("alpha"), "{annotations}");
}

#[test]
fn opaque_ports_stand_on_the_pods_and_on_every_service() {
    const KEY: &str = "config.linkerd.io/opaque-ports";
    let values = "controller: {kind: StatefulSet}\nmesh: {opaquePorts: [3306, 4567]}\n\
                  containers: [{name: mysql, image: x, ports: [{name: mysql, port: 3306}]}]";
    let objects = render("workload", values);
    let template = &one(&objects, "StatefulSet", "shop")["spec"]["template"]["metadata"];
    assert_eq!(template["annotations"][KEY], "3306,4567");
    assert_eq!(names(&objects, "Service"), ["shop", "shop-headless"]);
    for name in ["shop", "shop-headless"] {
        assert_eq!(one(&objects, "Service", name)["metadata"]["annotations"][KEY], "3306,4567");
    }
    warns("workload", values, "mesh.opaquePorts has 4567, which no container declares");
}

#[test]
fn a_pod_that_goes_still_serves_until_the_others_have_heard_of_it() {
    let objects = render("workload", WEB);
    let spec = &one(&objects, "Deployment", "shop")["spec"];
    assert_eq!(spec["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
    let pod = &spec["template"]["spec"];
    let sleep = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > sleep && sleep > 0, "{pod}");
}

#[test]
fn an_empty_key_holds_its_default_and_a_null_in_a_map_is_not_there() {
    let plain = render("workload", WEB);
    for values in [
        "mesh:",
        "service:",
        "controller: {strategy: null}",
        "shutdown: {delay: null}",
        "service: {annotations: {a: null}}",
        "podLabels: {a: null}",
        "global: {x: 1}\nenabled: true",
    ] {
        assert_eq!(render("workload", &format!("{WEB}{values}")), plain, "{values}");
    }
}

#[test]
fn names_in_dns_are_told_to_either_external_dns() {
    let keys = |prefix: &str| {
        let values = format!(
            "{WEB}service: {{hostnames: [a.example.com, b.example.com], externalDns: {{annotationPrefix: {prefix}}}}}"
        );
        let objects = render("workload", &values);
        let annotations =
            one(&objects, "Service", "shop")["metadata"]["annotations"].as_object().unwrap().clone();
        assert!(annotations.values().all(|value| value == "a.example.com,b.example.com"));
        annotations.keys().cloned().collect::<Vec<_>>()
    };
    let (old, new) = ("external-dns.alpha.kubernetes.io/", "external-dns.kubernetes.io/");
    assert_eq!(keys(old), [format!("{old}hostname")]);
    assert_eq!(keys(new), [format!("{new}hostname")]);
    assert_eq!(keys("both"), [format!("{old}hostname"), format!("{new}hostname")]);
}
