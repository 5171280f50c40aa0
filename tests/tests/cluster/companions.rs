//! The companion charts before a real API server: it takes every object of every case, by the definitions that other projects publish, and keeps
//! it as it is written.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};
use tests::chart::{cases_of, folder_of};
use tests::cluster::control_plane::built;
use tests::cluster::{ApiServer, Minor};
use tests::network_policy::objects;

/// Where the definitions of other projects are, below `.cluster/bin/definitions`.
const DEFINITIONS: [&str; 3] = ["gateway-api", "cert-manager", "cilium"];
/// Cases for what this API server has not, and that.
const ELSEWHERE: [(&str, &str, &str); 1] =
    [("workload", "static-address-6", "addresses of IPv6 for Services")];

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
            // A definition's defaults stand in the object already, so that what keeps a cluster as a repository says finds no difference.
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

/// Whether the kind is one of Kubernetes itself.
fn of_kubernetes(object: &Value) -> bool {
    object["apiVersion"].as_str().unwrap().contains(".k8s.io/")
        && !object["apiVersion"].as_str().unwrap().starts_with("gateway.")
}
