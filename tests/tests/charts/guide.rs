//! The walk through `deploy/README.md`: its values render by its commands, and what they make fits together.

use std::fs;

use serde_json::{Value, json};
use tests::{
    chart::helm,
    network_policy::{Blocks, Cluster, End, Flow, Pod, Protocol},
    process::workspace,
    scratch::Scratch,
};

use super::{objects, one};

/// What stands in fenced blocks of this language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let start = format!("```{language}\n");
    text.split(start.as_str()).skip(1).map(|rest| rest.split_once("```").unwrap().0).collect()
}

/// The objects that all commands of the page make.
fn made() -> Vec<Value> {
    let readme = fs::read_to_string(workspace().join("deploy/README.md")).unwrap();
    let folder = Scratch::new("guide");
    let mut values = 0;
    for block in blocks(&readme, "yaml") {
        let (name, _) = block.split_once('\n').unwrap();
        folder.write(name.strip_prefix("# ").expect("a file's name"), block);
        values += 1;
    }
    let commands = blocks(&readme, "console").concat();
    let mut all = Vec::new();
    for command in commands.lines() {
        let words: Vec<_> = command.split(' ').collect();
        assert_eq!(words[..2], ["helm", "install"], "{command}");
        let words = words[2..].iter().map(|word| match word {
            word if word.starts_with("deploy/") => workspace().join(word).display().to_string(),
            word if word.ends_with(".yaml") => folder.join(word).display().to_string(),
            word => (*word).to_owned(),
        });
        let home = Scratch::new("helm");
        let text = helm(&home).args(["template"]).args(words.collect::<Vec<_>>()).succeed();
        all.extend(objects(&text));
    }
    assert_eq!(values, commands.lines().count());
    all
}

#[test]
fn what_the_page_installs_fits_together() {
    let all = made();
    let ingress = &one(&all, "Ingress", "web-ingress")["spec"];
    let path = &ingress["rules"][0]["http"]["paths"][0]["backend"]["service"];
    let web = one(&all, "Service", path["name"].as_str().unwrap());
    assert_eq!(web["spec"]["ports"][0]["name"], path["port"]["name"]);
    let certificate = &one(&all, "Certificate", "shared-tls")["spec"];
    assert_eq!(ingress["tls"][0]["secretName"], certificate["secretName"]);
    assert_eq!(ingress["tls"][0]["hosts"], certificate["dnsNames"]);
    let to = &one(&all, "TunnelPolicy", "tunnel-orders")["spec"]["to"][0]["service"];
    let orders = one(&all, "Service", to["name"].as_str().unwrap());
    assert_eq!(orders["spec"]["ports"][0]["name"], to["ports"][0]);
    let spaces = all.iter().filter(|object| object["kind"] != "Namespace");
    assert!(spaces.into_iter().all(|object| object["metadata"]["namespace"] == "shop"));
}

#[test]
fn who_gets_in_is_whom_the_page_names() {
    let all = made();
    let web = Pod::of(one(&all, "Deployment", "web"), "shop", "10.244.0.1");
    let orders = Pod::of(one(&all, "StatefulSet", "orders"), "shop", "10.244.0.2");
    let engine = Pod::new("ingress", "traefik", &[("app.kubernetes.io/name", "traefik")], "10.244.0.3");
    let bastion = Pod::new("bastion", "bastion", &[("app.kubernetes.io/component", "bastion")], "10.244.0.4");
    let stranger = Pod::new("other", "stranger", &[], "10.244.0.5");
    let cluster = ["shop", "ingress", "bastion", "other"]
        .iter()
        .fold(Cluster::new(), |cluster, name| cluster.namespace(name, &[]))
        .apply(&all, "shop");
    let outside = End::address("1.1.1.1");
    let table = [
        (End::Pod(&engine), &web, 8080, true),
        (End::Pod(&engine), &orders, 5432, false),
        (End::Pod(&bastion), &orders, 5432, true),
        (End::Pod(&bastion), &web, 8080, false),
        (End::Pod(&web), &orders, 5432, true),
        (End::Pod(&stranger), &web, 8080, false),
        (End::Pod(&stranger), &orders, 5432, false),
        (outside, &web, 8080, false),
    ];
    for (from, to, port, expected) in table {
        for blocks in Blocks::ALL {
            let flow = Flow { from, to: End::Pod(to), port, protocol: Protocol::Tcp };
            assert_eq!(cluster.decide(&flow, blocks).passes(), expected, "{from:?} to {}:{port}", to.name);
        }
    }
    let away = Flow { from: End::Pod(&web), to: outside, port: 443, protocol: Protocol::Tcp };
    assert!(Blocks::ALL.into_iter().all(|blocks| !cluster.decide(&away, blocks).passes()));
    assert_eq!(
        one(&all, "Namespace", "shop")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"],
        json!("restricted")
    );
}
