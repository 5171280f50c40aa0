//! The life of a release in a real cluster, as the chart's README walks it: install, test, use, upgrade, roll
//! back, uninstall.

use std::{
    net::SocketAddr,
    process::Output,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{
    authority::DevAuthority,
    bastion::LOGIN,
    cluster::{Cluster, Namespace, image},
    forge::Forge,
    http,
    key::Key,
    ssh::Person,
    wait,
};

use crate::fixture::IN_FORCE;

const A_MINUTE: Duration = Duration::from_secs(60);
const PAGE: &str = "behind the bastion";
/// A page that only the bastion can reach, behind a Service.
const WEB: &str =
    "mkdir /tmp/www && echo behind the bastion >/tmp/www/index.html && exec httpd -f -p 8080 -h /tmp/www";

fn web() -> String {
    let labels = json!({"app": "web"});
    let container = json!({
        "name": "web",
        "image": image::BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", WEB],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    });
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": labels}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 1}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]}});
    json!({"apiVersion": "v1", "kind": "List", "items": [pod, service]}).to_string()
}

fn policy(principal: &str) -> String {
    json!({
        "apiVersion": "tunnel-suite.internal/v1alpha1",
        "kind": "TunnelPolicy",
        "metadata": {"name": "web"},
        "spec": {"who": {"principals": [principal]}, "to": [{"service": {"name": "web", "ports": [80]}}]},
    })
    .to_string()
}

/// The names of the bastion's pods that are not on their way out.
fn pods(namespace: &Namespace<'_>) -> Vec<String> {
    let list = namespace.get(&["pods", "--selector=app.kubernetes.io/component=bastion"]);
    let staying = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
    let mut names: Vec<_> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(staying)
        .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_release_lives_from_install_to_uninstall() {
    let cluster = Cluster::shared();
    cluster.image(image::BUSYBOX);
    let namespace = cluster.namespace("chart");
    let name = namespace.name();
    cluster.kubectl(&["label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted"]);
    let authority = DevAuthority::start();

    let port = cluster.free_node_port();
    let address = format!("{}:{port}", cluster.node_address());
    let values = json!({
        "service": {"type": "NodePort", "nodePort": port, "externalTrafficPolicy": "Cluster"},
        "minReadySeconds": 1,
        // No server has this address, and none needs to: only Vault is asked through a proxy.
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://192.0.2.1:3128"}],
        "config": {"drain": {"readiness_delay": "1s", "timeout": "5s"}},
        "networkPolicy": {"egress": {"toNamespaces": [{"namespace": name}]}},
        "connectionInfo": {"file": {"bastion": {"address": address}, "vault": {"address": authority.url(), "mount": "ssh", "role": "forward"}}},
    });
    let helm = |verb: &str, more: &[&str]| {
        let words = [&[verb, "bastion"], more, &["--namespace", name]].concat();
        cluster.helm(&words)
    };
    let notes = namespace.release("install", &values, &[]);
    assert!(notes.contains("create configmap bastion-user-ca"), "{notes}");

    // Two pods run, and are not ready: no authority is configured yet.
    cluster.wait_for("two pods run", A_MINUTE, || {
        let list = namespace.get(&["pods", "--selector=app.kubernetes.io/component=bastion"]);
        let running = |pod: &&Value| pod["status"]["phase"] == "Running";
        list["items"].as_array().unwrap().iter().filter(running).count() == 2
    });
    assert_eq!(namespace.get(&["deployment", "bastion"])["status"]["readyReplicas"], Value::Null);

    namespace.kubectl(&[
        "create",
        "configmap",
        "bastion-user-ca",
        &format!("--from-literal=ca.pub={}", authority.users().trim()),
    ]);
    namespace.wait_for_rollout("deployment/bastion");
    // The commands at the end of the notes work as they stand.
    let command = |start: &str| {
        let line = notes.lines().map(str::trim_start).rfind(|line| line.starts_with(start));
        line.unwrap_or_else(|| panic!("no {start}: {notes}"))
    };
    assert!(notes.trim_end().ends_with(command("helm test ")), "{notes}");
    let said = cluster.shell(command("helm test ")).succeed();
    assert!(said.contains("SSH-2.0-bastion_") && said.contains("HTTP/1.1 200"), "{said}");

    // An object beside the Service permits its use, and a laptop needs nothing but a
    // kubeconfig.
    namespace.apply(&web());
    namespace.wait_for_pod("web");
    namespace.apply(&policy("tunnel"));
    wait::until_true("the policy is accepted", A_MINUTE, || {
        let policy = namespace.get(&["tunnelpolicy", "web"]);
        policy["status"]["conditions"][0]["status"] == "True"
    });
    let known = || {
        namespace.get(&["configmap", "bastion-connection-info"])["data"]["known_hosts"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    wait::until_true("the bastion says who it is", A_MINUTE, || known().contains("ssh-ed25519 "));
    let who = known();
    let (local, page) =
        (SocketAddr::from(([127, 0, 0, 1], tests::ports::free())), format!("web.{name}.svc:80"));
    let pf_tunnel = command("pf-tunnel ").strip_suffix("orders.databases.svc:5432 5432").expect("an example");
    let pf_tunnel = format!("exec {pf_tunnel} {page} {}", local.port());
    let mut tunnel = cluster.shell(&pf_tunnel).env("VAULT_TOKEN", authority.token()).start();
    tunnel.wait_for("ready", A_MINUTE);
    let served = || http::get(local, "/").is_ok_and(|page| page.body.contains(PAGE));
    assert!(served());

    // `kubectl apply` changes the authorities too.
    let (another, key) = (Key::ed25519(), Key::ed25519());
    let person = Person::new(LOGIN, &key, &Forge::user(&key, LOGIN).sign(&another)).knows_line(&who);
    let ssh = || {
        let server = (cluster.node_address(), port).into();
        person.ssh(server, &["-W", &page]).input("GET / HTTP/1.0\r\n\r\n").output()
    };
    // Of both bastions, or nearly for certain: a new connection goes to any of them.
    let each = |says: &dyn Fn(Output) -> bool| (0..4).all(|_| says(ssh()));
    let denied = || each(&|output| String::from_utf8_lossy(&output.stderr).contains("Permission denied"));
    let reads = || each(&|output| String::from_utf8_lossy(&output.stdout).contains(PAGE));
    let believe = |keys: &[&str]| {
        let data = json!({"ca.pub": keys.join("\n")});
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bastion-user-ca"}, "data": data});
        namespace.apply(&map.to_string());
        Instant::now()
    };
    assert!(denied());
    let (ours, theirs) = (authority.users().trim(), another.public_line());
    // How long after it was written a client found that it holds.
    let holds = |written: Instant, says: &dyn Fn() -> bool| {
        let after = wait::until("what was written holds", A_MINUTE, || {
            let asked = written.elapsed();
            says().then_some(asked)
        });
        assert!(after < IN_FORCE, "{after:?}");
        after
    };
    let believed = holds(believe(&[ours, theirs.trim()]), &reads);
    let no_more = holds(believe(&[ours]), &denied);
    println!("another authority: believed after {believed:?}, and no more after {no_more:?}");
    assert!(served());

    // A rule in the file holds immediately; no pod is replaced for it.
    let before = pods(&namespace);
    let rule = r#"config.rules=[{"name":"x","who":{"everybody":true},"deny":["x.example.com:1"]}]"#;
    namespace.release("upgrade", &values, &["--set-json", rule]);
    namespace.wait_for_rollout("deployment/bastion");
    assert_eq!(pods(&namespace), before);

    // A setting that the bastion reads at its start replaces the pods, and its host key stays.
    let more = ["--set", "config.limits.max_sessions=500", "--set", "replicaCount=3"];
    namespace.release("upgrade", &values, &more);
    namespace.wait_for_rollout("deployment/bastion");
    assert_eq!(pods(&namespace).len(), 3);
    assert!(pods(&namespace).iter().all(|pod| !before.contains(pod)));
    assert_eq!(known(), who);
    wait::until_true("the tunnel is back", A_MINUTE, served);

    helm("rollback", &["1"]);
    namespace.wait_for_rollout("deployment/bastion");
    wait::until_true("two pods again", A_MINUTE, || pods(&namespace).len() == 2);
    assert_eq!(known(), who);
    wait::until_true("the tunnel is back", A_MINUTE, served);
    helm("test", &[]);

    helm("uninstall", &["--wait"]);
    let left = namespace.kubectl(&["get", "deployments,services,configmaps,secrets,roles,rolebindings,networkpolicies,poddisruptionbudgets,serviceaccounts", "--output=name"]);
    let left: Vec<_> = left.lines().filter(|line| line.contains("bastion")).collect();
    // The host key survives it, and so do the operator's own objects.
    assert_eq!(left, ["configmap/bastion-user-ca", "secret/bastion-host-key"]);
}
