//! The READMEs' ways to a bastion in Kubernetes, and to a page and a database in a closed namespace, walked
//! in new clusters as they are written there, command by command.

use std::time::{Duration, Instant};

use serde_json::json;
use tests::{
    authority::DevAuthority,
    cluster::{
        Cluster, image,
        traefik::{Class, Controllers, tls_secret},
    },
    ports,
    process::{Program, installed, workspace},
    scratch::Scratch,
    wait,
    web::Request,
};

const A_MINUTE: Duration = Duration::from_secs(60);
/// What pf-tunnel ends with when the bastion permits no such destination.
const NOT_PERMITTED: i32 = 8;
const SECTION: &str = "## In Kubernetes, in five minutes";

/// The blocks of commands of a section of the README, in order.
fn commands(section: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(workspace().join("README.md")).unwrap();
    let lines = readme.lines().skip_while(|line| *line != section).skip(1);
    let lines: Vec<_> = lines.take_while(|line| !line.starts_with("## ")).collect();
    let blocks = lines.split(|line| *line == "```sh").skip(1);
    let commands = |block: &[&str]| {
        block.iter().take_while(|line| **line != "```").map(|line| format!("{line}\n")).collect()
    };
    blocks.map(commands).collect()
}

#[test]
fn the_readme_leads_to_a_database() {
    // The README assumes a cluster with the image, and a Service `orders` in the namespace
    // `databases`.
    let cluster = Cluster::for_this_process();
    cluster.image(image::BASTION);
    let databases = cluster.namespace_called("databases");
    databases.run_postgres();
    let orders = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "orders"},
        "spec": {"selector": databases.get(&["service", "postgres"])["spec"]["selector"], "ports": [{"port": 5432}]},
    });
    databases.apply(&orders.to_string());
    let authority = DevAuthority::start();
    let shell = |commands: &str| {
        cluster
            .shell(commands)
            .env("NODE", cluster.node_address().to_string())
            .env("VAULT_ADDR", authority.url())
            .env("VAULT_TOKEN", authority.token())
    };
    let mut commands = commands(SECTION);
    let tunnel = commands.pop().expect("a command that opens a tunnel");
    let start = Instant::now();
    for block in &commands {
        println!("{block}{}", shell(block).succeed());
    }
    // Another local port: this machine may have a PostgreSQL of its own.
    let words = tunnel.trim_end().strip_suffix(" 5432").expect("a tunnel to port 5432 of this machine");
    ask_orders(|local| shell(&format!("exec {words} {local}")));
    println!("from nothing to an answer of the database: {:?}", start.elapsed());
    print!("{}", cluster.kubectl(&["get", "all,tunnelpolicy", "--all-namespaces"]));
}

/// Asks the database through a tunnel to it from a local port.
fn ask_orders(tunnel: impl Fn(&str) -> Program) {
    let local = ports::free().to_string();
    // The other bastion may hear of the policy a moment later than the one that says so.
    let _tunnel = wait::until("a tunnel", A_MINUTE, || {
        let mut tunnel = tunnel(&local).start();
        if tunnel.says("ready", A_MINUTE) {
            return Some(tunnel);
        }
        assert_eq!(tunnel.code(A_MINUTE), NOT_PERMITTED, "{}", tunnel.stderr());
        None
    });
    let address = format!("postgresql://admin:admin@127.0.0.1:{local}/orders");
    let answer = Program::new(installed("psql")).args(["-XAtqc", "select version()", &address]).succeed();
    assert!(answer.starts_with("PostgreSQL "), "{answer}");
}

/// What stands in fenced blocks of this language.
fn fenced<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let start = format!("```{language}\n");
    text.split(start.as_str()).skip(1).map(|rest| rest.split_once("```").unwrap().0).collect()
}

#[test]
fn four_installs_lead_to_a_page_and_a_database_in_a_closed_namespace() {
    // The page assumes an ingress controller, the definitions of cert-manager, a bastion; and the
    // images that it names.
    let cluster = Cluster::for_this_process();
    cluster.name_image(image::ECHO, "registry.example.com/web:1.2");
    cluster.name_image(image::POSTGRES, "registry.example.com/postgres:18");
    cluster.definitions("cert-manager");
    let classes = ["nginx", "nginx-private"].map(str::to_owned);
    let controllers = Controllers::start(&cluster, cluster.namespace_called("ingress"), classes);
    let authority = DevAuthority::start();
    let bastion = cluster.namespace_called("bastion");
    let port = cluster.free_node_port();
    let address = format!("{}:{port}", cluster.node_address());
    let values = |config: serde_json::Value| {
        json!({
            "config": config,
            "service": {"type": "NodePort", "nodePort": port, "externalTrafficPolicy": "Cluster"},
            "connectionInfo": {"file": {
                "bastion": {"address": address}, "vault": {"address": authority.url(), "role": "forward"},
            }},
        })
    };
    bastion.kubectl(&[
        "create",
        "configmap",
        "bastion-user-ca",
        &format!("--from-literal=ca.pub={}", authority.users()),
    ]);
    bastion.release("install", &values(json!({})), &[]);

    let start = Instant::now();
    let readme = std::fs::read_to_string(workspace().join("deploy/README.md")).unwrap();
    let folder = Scratch::new("stack");
    let mut commands = fenced(&readme, "console").concat();
    for block in fenced(&readme, "yaml") {
        let (name, _) = block.split_once('\n').unwrap();
        let name = name.strip_prefix("# ").unwrap();
        let path = folder.write(name, block);
        commands = commands.replace(&format!("--values {name}"), &format!("--values {}", path.display()));
    }
    assert_eq!(commands.matches("helm install ").count(), 4, "{commands}");
    println!("{}", cluster.shell(&commands).succeed());
    // What cert-manager would make of the Certificate.
    let made = rcgen::generate_simple_self_signed(vec!["shop.example.com".to_owned()]).unwrap();
    let secret = tls_secret("shared-tls", &made.cert.pem(), &made.signing_key.serialize_pem());
    cluster.kubectl_program(&["--namespace=shop", "apply", "--filename=-"]).input(secret).succeed();
    bastion.release("upgrade", &values(json!({"kubernetes": {"policies": {"namespaces": ["shop"]}}})), &[]);
    bastion.wait_for_rollout("deployment/bastion");
    cluster.wait_for_rollout("shop", "deployment/web");
    cluster.wait_for_rollout("shop", "statefulset/orders");

    let page = Request::new(controllers.door(Class::Public, true), "shop.example.com", "/a").tls();
    let answer = wait::until("the page, with the namespace's certificate", A_MINUTE, || {
        page.send()
            .ok()
            .filter(|answer| answer.status == 200 && answer.certificate == made.cert.der().to_vec())
    });
    assert!(answer.seen().server.starts_with("web-"), "{answer:?}");
    let plain =
        Request::new(controllers.door(Class::Public, false), "shop.example.com", "/a").send().unwrap();
    assert_eq!((plain.status, plain.header("location")), (308, Some("https://shop.example.com/a")));

    let context = cluster.kubectl(&["config", "current-context"]);
    ask_orders(|local| {
        let words = format!("exec pf-tunnel --kube-context {} orders.shop.svc:5432 {local}", context.trim());
        cluster.shell(&words).env("VAULT_ADDR", authority.url()).env("VAULT_TOKEN", authority.token())
    });
    println!("four installs, a page and an answer of the database: {:?}", start.elapsed());

    // No other pod gets in, where policies are obeyed.
    if cluster.has_cilium() {
        cluster.image(image::TOOLS);
        let stranger = cluster.namespace_called("stranger");
        let container = json!({"name": "tools", "image": image::TOOLS, "imagePullPolicy": "Never"});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "tools"}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 1}});
        stranger.apply(&pod.to_string());
        stranger.wait_for_pod("tools");
        let reaches = |space: &str, place: &str| {
            let connect = format!("timeout 3 bash -c 'exec 3<>/dev/tcp/{place}'");
            let words = ["--namespace", space, "exec", "tools", "--", "bash", "-c", &connect];
            cluster.kubectl_program(&words).output().status.success()
        };
        assert!(
            reaches("stranger", &format!("public.{}.svc/80", controllers.namespace().name())),
            "a network"
        );
        for place in ["web.shop.svc/8080", "orders.shop.svc/5432"] {
            assert!(!reaches("stranger", place), "{place}");
        }
    }
}
