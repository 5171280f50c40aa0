//! The companion charts before a real API server: it takes every object of every case, by the definitions
//! that other projects publish, and keeps it as it is written; and releases live there from install to
//! uninstall. No pod runs, and neither root nor a node is needed.

use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};
use tests::{
    chart::{self, cases_of, examples, folder_of},
    cluster::{ApiServer, Minor, control_plane::built},
    network_policy::objects,
    process::Program,
    scratch::Scratch,
};

/// Where the definitions of other projects are, below `.cluster/bin/definitions`.
const DEFINITIONS: [&str; 3] = ["gateway-api", "cert-manager", "cilium"];
/// Cases for what this API server has not, and that.
const ELSEWHERE: [(&str, &str, &str); 2] = [
    ("workload", "static-address-6", "addresses of IPv6 for Services"),
    ("ingress", "cdn", "the definitions of AWS's controllers, which no module brings"),
];

/// What Helm makes of a case, which the test target `charts` holds to the chart.
struct Case {
    chart: String,
    name: String,
    objects: Vec<Value>,
}

fn cases() -> Vec<Case> {
    let charts = fs::read_dir(folder_of("")).unwrap().map(|entry| entry.unwrap());
    let charts = charts.filter(|entry| entry.path().join("charts/common").exists());
    let charts: BTreeSet<_> = charts.map(|entry| entry.file_name().into_string().unwrap()).collect();
    let mut found = Vec::new();
    for chart in charts {
        for (name, _) in cases_of(&folder_of(&chart)) {
            let rendered = folder_of(&chart).join(format!("ci/{name}-rendered.yaml"));
            // That of the bastion is looked at by tests of its own.
            let Ok(text) = fs::read_to_string(rendered) else { continue };
            let known = ELSEWHERE.iter().any(|(of, case, _)| (*of, *case) == (chart.as_str(), name.as_str()));
            if !known {
                found.push(Case { chart: chart.clone(), name, objects: objects(&text) });
            }
        }
    }
    found.extend(examples().into_iter().map(|example| {
        let text = fs::read_to_string(&example.rendered).unwrap();
        Case { chart: example.chart, name: format!("the example {}", example.name), objects: objects(&text) }
    }));
    found
}

/// An API server with all definitions, and the namespaces that the cases name.
fn server(minor: Minor, cases: &[Case]) -> ApiServer {
    let server = ApiServer::with_policies(minor);
    for name in DEFINITIONS {
        let folder = built(&format!("definitions/{name}/README")).parent().unwrap().to_owned();
        let words = ["apply", "--server-side", "--recursive", "--filename"];
        server.kubectl().args(words).arg(folder.join("crds")).succeed();
    }
    let established = ["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"];
    server.kubectl().args(established).succeed();
    let objects = cases.iter().flat_map(|case| &case.objects);
    let spaces: BTreeSet<_> = objects.filter_map(|object| object["metadata"]["namespace"].as_str()).collect();
    for space in spaces {
        server.kubectl().args(["create", "namespace", space]).succeed();
    }
    server
}

/// What the server would have after this, of each object.
fn applied(server: &ApiServer, case: &Case) -> Vec<Value> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": case.objects}).to_string();
    let words =
        ["apply", "--server-side", "--dry-run=server", "--validate=strict", "--output=json", "--filename=-"];
    let output = server.kubectl().args(words).input(list).output();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let (chart, name) = (&case.chart, &case.name);
    assert!(output.status.success(), "{chart}: {name}: {said}");
    // A warning would be a field that is unknown or old.
    assert!(!said.contains("Warning"), "{chart}: {name}: {said}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    match answer["kind"].as_str() {
        Some("List") => answer["items"].as_array().unwrap().clone(),
        _ => vec![answer],
    }
}

#[test]
fn the_api_server_takes_every_object_of_every_companion_chart() {
    let cases = cases();
    let mut count = 0;
    for minor in [Minor::Newest, Minor::Before] {
        let server = server(minor, &cases);
        for case in cases.iter().filter(|case| !case.objects.is_empty()) {
            let after = applied(&server, case);
            assert_eq!(after.len(), case.objects.len(), "{}: {}", case.chart, case.name);
            // A definition's defaults stand in the object already, so that what keeps a cluster as a
            // repository says finds no difference.
            for (object, after) in case.objects.iter().zip(&after) {
                if object["apiVersion"].as_str().unwrap().contains(".io/") && !of_kubernetes(object) {
                    assert_eq!(after["spec"], object["spec"], "{}: {}: {object}", case.chart, case.name);
                }
            }
            count += after.len();
        }
    }
    println!("{count} objects of {} cases", cases.len());
}

#[test]
fn what_the_guides_have_is_refused_where_the_table_says_so() {
    let server = ApiServer::with_policies(Minor::Newest);
    let mut count = 0;
    for example in examples() {
        let Some(refused) = example.refused else { continue };
        let text = fs::read_to_string(&refused).unwrap();
        let words = text.lines().next().unwrap().rsplit_once(": ").unwrap().1;
        let apply = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename"];
        let output = server.kubectl().args(apply).arg(&refused).output();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(words), "{}: {said}", example.name);
        count += 1;
    }
    assert!(count >= 3, "{count}");
}

/// Whether the kind is one of Kubernetes itself.
fn of_kubernetes(object: &Value) -> bool {
    object["apiVersion"].as_str().unwrap().contains(".k8s.io/")
        && !object["apiVersion"].as_str().unwrap().starts_with("gateway.")
}

/// Helm, and the API server that it talks to. No pod starts there, and none is waited for.
struct Releases {
    server: ApiServer,
    home: Scratch,
}

impl Releases {
    fn new() -> Self {
        Self { server: ApiServer::with_policies(Minor::Newest), home: Scratch::new("helm") }
    }

    /// `helm VERB RELEASE CHART` with these values.
    fn helm(&self, namespace: &str, words: &[&str], chart: &str, values: &Value) -> Program {
        let file = self.home.write("values.yaml", values.to_string());
        let helm = chart::helm(&self.home).env("KUBECONFIG", self.server.kubeconfig());
        helm.args(words).arg(folder_of(chart)).args(["--namespace", namespace, "--values"]).arg(file)
    }

    fn run(&self, namespace: &str, words: &[&str]) {
        let helm = chart::helm(&self.home).env("KUBECONFIG", self.server.kubeconfig());
        helm.args(words).args(["--namespace", namespace]).succeed();
    }

    fn get(&self, namespace: &str, words: &[&str]) -> Value {
        let words = [&["--namespace", namespace, "get", "--output=json"], words].concat();
        serde_json::from_str(&self.server.kubectl().args(words).succeed()).unwrap()
    }
}

#[test]
fn a_workload_is_upgraded_whatever_changes_and_leaves_nothing() {
    let releases = Releases::new();
    releases.server.kubectl().args(["create", "namespace", "web"]).succeed();
    let container =
        |tag: &str, ports: Value| json!([{"name": "web", "image": format!("x/web:{tag}"), "ports": ports}]);
    let udp = json!({"name": "dns", "port": 5353, "servicePort": 53, "protocol": "UDP"});
    let tcp = json!({"name": "dns-tcp", "port": 5353, "servicePort": 53});
    let plain = json!({"containers": container("1", json!([udp]))});
    let changed = json!({
        "containers": container("2", json!([udp, tcp])),
        "commonLabels": {"team": "shop"},
        "podLabels": {"tier": "front"},
    });
    releases.helm("web", &["install", "shop"], "workload", &plain).succeed();
    let service = || releases.get("web", &["service", "shop"])["spec"].clone();
    let address = service()["clusterIP"].clone();
    assert!(address.is_string());
    releases.helm("web", &["upgrade", "shop"], "workload", &changed).succeed();
    assert_eq!(service()["clusterIP"], address);
    assert_eq!(service()["ports"].as_array().unwrap().len(), 2);
    releases.run("web", &["rollback", "shop", "1"]);
    assert_eq!((service()["clusterIP"].clone(), service()["ports"].as_array().unwrap().len()), (address, 1));

    // The name that clients use may change; the names of its members may not, and do not.
    let database = |name: &str| json!({"controller": {"kind": "StatefulSet"}, "service": {"name": name}, "containers": container("1", json!([tcp]))});
    releases.helm("web", &["install", "orders"], "workload", &database("db")).succeed();
    releases.helm("web", &["upgrade", "orders"], "workload", &database("database")).succeed();
    assert_eq!(releases.get("web", &["statefulset", "orders"])["spec"]["serviceName"], "orders-headless");
    assert_eq!(releases.get("web", &["service", "orders-headless"])["spec"]["clusterIP"], "None");

    // An address that is said is the one that it gets.
    let fixed = json!({"service": {"ip": "10.96.0.77", "cidr": "10.96.0.0/16"}, "containers": container("1", json!([tcp]))});
    releases.helm("web", &["install", "fixed"], "workload", &fixed).succeed();
    assert_eq!(releases.get("web", &["service", "fixed"])["spec"]["clusterIPs"], json!(["10.96.0.77"]));

    for release in ["shop", "orders", "fixed"] {
        releases.run("web", &["uninstall", release]);
    }
    let kinds = "deployments,statefulsets,services,serviceaccounts,poddisruptionbudgets";
    let left = releases.get("web", &[kinds, "--selector=app.kubernetes.io/managed-by=Helm"]);
    assert_eq!(left["items"], json!([]));
}

#[test]
fn a_tenants_namespace_outlives_its_release_and_is_taken_over() {
    let releases = Releases::new();
    let kubectl = |words: &[&str]| releases.server.kubectl().args(words).succeed();
    let values = json!({});
    releases.helm("default", &["install", "shop"], "tenant", &values).succeed();
    kubectl(&["--namespace", "shop", "create", "configmap", "of-others"]);
    let there = || kubectl(&["--namespace", "shop", "get", "configmap", "of-others", "--output=name"]);
    releases
        .helm("default", &["upgrade", "shop"], "tenant", &json!({"namespace": {"create": false}}))
        .succeed();
    there();
    releases.helm("default", &["upgrade", "shop"], "tenant", &values).succeed();
    releases.run("default", &["uninstall", "shop"]);
    there();
    assert!(releases.get("shop", &["namespace", "shop"])["metadata"]["deletionTimestamp"].is_null());
    assert_eq!(releases.get("shop", &["networkpolicies"])["items"], json!([]));

    // As the chart's README says it.
    kubectl(&["create", "namespace", "given"]);
    let output = releases.helm("default", &["install", "given"], "tenant", &values).output();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("ownership"), "{said}");
    releases.helm("default", &["install", "given", "--take-ownership"], "tenant", &values).succeed();
    let namespace = releases.get("given", &["namespace", "given"]);
    assert_eq!(namespace["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
}
