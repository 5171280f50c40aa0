//! An API server takes every object of every case, field by field, and would let every pod in under
//! `restricted`.
//!
//! Kinds of other projects have no server here. Their definitions are stood in for by ones that take any
//! content, so that the objects' envelope is looked at and their content is not: that is as much as this
//! proves about them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::{Map, Value, json};
use tests::{
    chart::{NAMESPACE, cases, kinds, rendered},
    cluster::{ApiServer, Minor, control_plane::built},
    process::Program,
    scratch::Scratch,
    wait,
};

/// Kinds of other projects that the chart can render: group, version, kind, plural.
const FOREIGN: [(&str, &str, &str, &str); 8] = [
    ("cilium.io", "v2", "CiliumNetworkPolicy", "ciliumnetworkpolicies"),
    ("externaldns.k8s.io", "v1alpha1", "DNSEndpoint", "dnsendpoints"),
    ("gateway.networking.k8s.io", "v1alpha2", "TCPRoute", "tcproutes"),
    ("monitoring.coreos.com", "v1", "PodMonitor", "podmonitors"),
    ("monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules"),
    ("policy.linkerd.io", "v1alpha1", "AuthorizationPolicy", "authorizationpolicies"),
    ("policy.linkerd.io", "v1alpha1", "MeshTLSAuthentication", "meshtlsauthentications"),
    ("policy.linkerd.io", "v1beta3", "Server", "servers"),
];

fn stand_in((group, version, kind, plural): (&str, &str, &str, &str)) -> Value {
    let spec = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let schema = json!({"type": "object", "required": ["spec"], "properties": {"spec": spec}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{group}"),
            // Kubernetes asks this of kinds in a group of its own.
            "annotations": {"api-approved.kubernetes.io": "unapproved, a stand-in"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{"name": version, "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    })
}

fn list(objects: impl IntoIterator<Item = Value>) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": objects.into_iter().collect::<Vec<_>>()}).to_string()
}

/// An API server that knows every kind, with what objects of the chart refer to.
fn server(minor: Minor) -> ApiServer {
    let server = ApiServer::alone(minor);
    let create =
        |objects: &str| drop(server.kubectl().args(["create", "--filename=-"]).input(objects).succeed());
    let restricted = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let namespace = |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": restricted}});
    let account = |name: &str| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": NAMESPACE}});
    create(&list([NAMESPACE, "databases"].map(namespace)));
    // What a controller would make, what the cases name, and what they would bring along themselves.
    create(&list(["default", "bastion", "bastion-account", "bastion-of-others"].map(account)));
    create(&list([
        json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "gvisor"}, "handler": "runsc"}),
    ]));
    create(&list(FOREIGN.map(stand_in)));
    let names = FOREIGN.map(|(group, _, _, plural)| format!("crd/{plural}.{group}"));
    server.kubectl().args(["wait", "--for=condition=Established", "--timeout=30s"]).args(names).succeed();
    server
}

#[test]
fn the_api_server_takes_every_object_of_every_case() {
    let servers = [Minor::Newest, Minor::Before].map(server);
    let mut count = 0;
    for (server, (case, values)) in
        servers.iter().flat_map(|server| cases().into_iter().map(move |case| (server, case)))
    {
        let objects = rendered(&values);
        count += objects.len();
        let words = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename=-"];
        let output = server.kubectl().args(words).input(list(objects.clone())).output();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{case}: {said}");
        // A warning would be a field that is unknown or old, or a pod that `restricted` would refuse.
        assert!(!said.contains("Warning"), "{case}: {said}");
    }
    println!("{count} objects");
}

#[test]
fn every_pod_is_let_in_under_restricted() {
    let server = server(Minor::Newest);
    for (case, values) in cases() {
        let objects = rendered(&values);
        for deployment in kinds(&objects, "Deployment") {
            // The template as a pod of its own: the server refuses pods, and only warns of Deployments.
            let mut pod = deployment["spec"]["template"].clone();
            pod["apiVersion"] = json!("v1");
            pod["kind"] = json!("Pod");
            pod["metadata"]["name"] = json!("one");
            pod["metadata"]["namespace"] = json!(NAMESPACE);
            let words = ["create", "--dry-run=server", "--validate=strict", "--filename=-"];
            let output = server.kubectl().args(words).input(pod.to_string()).output();
            assert!(output.status.success(), "{case}: {output:?}");
            // The server's word means something.
            pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
            let output = server.kubectl().args(words).input(pod.to_string()).output();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && said.contains("violates PodSecurity"), "{case}: {said}");
        }
    }
}

/// One JSON Schema a kind, as kubeconform reads them, made of what the server publishes about itself.
fn schemas(server: &ApiServer, folder: &Scratch) -> usize {
    let get = |path: &str| -> Value {
        serde_json::from_str(&server.kubectl().args(["get", "--raw", path]).succeed()).unwrap()
    };
    let index = get("/openapi/v3");
    let mut written = 0;
    for (group, at) in index["paths"].as_object().unwrap() {
        if !group.starts_with("api") {
            continue;
        }
        let document = get(at["serverRelativeURL"].as_str().unwrap());
        let Some(components) = document["components"]["schemas"].as_object() else { continue };
        let mut components: Map<String, Value> = components.clone();
        components.values_mut().for_each(close);
        for (name, component) in &components {
            for kind in component["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
                let [group, version, kind] =
                    ["group", "version", "kind"].map(|part| kind[part].as_str().unwrap().to_lowercase());
                // As kubeconform takes an apiVersion without a group apart.
                let group = if group.is_empty() { version.clone() } else { group };
                let schema = json!({"$ref": format!("#/definitions/{name}"), "definitions": components});
                folder.write(&format!("{group}_{version}_{kind}.json"), schema.to_string());
                written += 1;
            }
        }
    }
    written
}

/// OpenAPI's words in JSON Schema's, with no room for unknown fields.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.contains_key("x-kubernetes-int-or-string")
                || map.get("format") == Some(&json!("int-or-string"))
            {
                *schema = json!({"type": ["integer", "string"]});
                return;
            }
            if let Some(Value::String(reference)) = map.get_mut("$ref") {
                *reference = reference.replace("#/components/schemas/", "#/definitions/");
            }
            let open = map.contains_key("additionalProperties")
                || map.contains_key("x-kubernetes-preserve-unknown-fields");
            if map.get("properties").is_some_and(Value::is_object) && !open {
                map.insert("additionalProperties".to_owned(), json!(false));
            }
            // Defaults make nothing optional, and formats of Go are none of JSON Schema.
            map.remove("format");
            map.values_mut().for_each(close);
        }
        Value::Array(list) => list.iter_mut().for_each(close),
        _ => {}
    }
}

#[test]
fn kubeconform_finds_every_object_in_shape() {
    let server = server(Minor::Newest);
    let folder = Scratch::new("schemas");
    // The server tells about new kinds a moment after they are there.
    let known = |kind: &str| folder.join(&format!("{kind}.json")).is_file();
    wait::until_true("the server tells about all kinds", Duration::from_secs(30), || {
        schemas(&server, &folder) > 0
            && known("policy.linkerd.io_v1beta3_server")
            && known("cilium.io_v2_ciliumnetworkpolicy")
    });
    let location = format!(
        "{}/{{{{.Group}}}}_{{{{.ResourceAPIVersion}}}}_{{{{.ResourceKind}}}}.json",
        folder.path().display()
    );
    let kubeconform = |objects: String| {
        let words = ["-strict", "-summary", "-output", "json", "-schema-location", &location, "-"];
        let output = Program::new(built("kubeconform")).args(words).input(objects).output();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (case, values) in cases() {
        let objects = rendered(&values);
        for object in &objects {
            *seen.entry(object["kind"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        let text: String = objects.iter().map(|object| format!("---\n{object}\n")).collect();
        let (good, said) = kubeconform(text);
        assert!(good, "{case}: {said}");
    }
    let all: BTreeSet<_> = seen.keys().cloned().collect();
    println!("{} objects of {} kinds: {all:?}", seen.values().sum::<usize>(), all.len());
    // It sees what is wrong.
    let wrong =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"prots": []}});
    assert!(!kubeconform(wrong.to_string()).0);
}
