//! The chart hands to the bastion and to clients what they read, and restarts pods only for what needs it.

use std::path::Path;

use bastion_server::Config;
use serde_json::Value;
use tests::{
    chart::{self, cases, kinds, objects, one, rendered, template, yaml},
    scratch::Scratch,
};

fn file<'a>(objects: &'a [Value], map: &str, key: &str) -> &'a str {
    one(objects, "ConfigMap", map)["data"][key].as_str().unwrap()
}

#[test]
fn the_bastion_reads_the_file_of_every_case() {
    for (case, values) in cases() {
        let objects = rendered(&values);
        let map = kinds(&objects, "ConfigMap")
            .into_iter()
            .find(|map| map["metadata"]["name"].as_str().unwrap().ends_with("-config"))
            .unwrap();
        let text = map["data"]["bastion.yaml"].as_str().unwrap();
        let config: Config = config_file::parse(Path::new("bastion.yaml"), text)
            .unwrap_or_else(|error| panic!("{case}: {error}\n{text}"));
        // Pods and probes use the ports of the file.
        let container = &kinds(&objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["ports"][0]["containerPort"], config.listen.port(), "{case}");
        assert_eq!(container["ports"][1]["containerPort"], config.admin.unwrap().listen.port(), "{case}");
        let grace =
            kinds(&objects, "Deployment")[0]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
                .as_u64()
                .unwrap();
        let drain = config.drain.readiness_delay.0 + config.drain.timeout.0;
        assert!(grace >= drain.as_secs() + 15, "{case}");
    }
}

#[test]
fn what_may_wait_in_memory_fits_the_pod() {
    let scratch = Scratch::new("memory");
    for (values, bytes) in [
        ("{}", Some(96 << 20)),
        ("resources: {limits: {memory: 1Gi}}", Some(384 << 20)),
        ("resources: {limits: {memory: 512M}}", Some(187_500 << 10)),
        ("resources: {limits: {memory: 134217728}}", Some(48 << 20)),
        ("config: {limits: {buffered_bytes: 128MiB}}", Some(128 << 20)),
        ("config: {limits: {buffered_bytes: 1GiB}}\nresources: {limits: {memory: 2Gi}}", Some(1 << 30)),
        ("config: {limits: {max_sessions: 7}}", Some(96 << 20)),
        ("config: {limits: {buffered_bytes: 1GiB}}\nresources: null", Some(1 << 30)),
        ("resources: null", None),
        ("resources: {limits: {memory: null}}", None),
    ] {
        let file = scratch.write("values.yaml", values);
        let objects = objects(&template(&chart::folder(), &[&file], &[]).unwrap());
        let text = self::file(&objects, "bastion-config", "bastion.yaml");
        let said = yaml(text)["limits"]["buffered_bytes"].as_str().is_some();
        let config = config_file::parse::<Config>(Path::new("bastion.yaml"), text).unwrap();
        assert_eq!(said.then_some(config.limits.buffered_bytes.0.0), bytes, "{values}");
    }
}

#[test]
fn numbers_and_words_arrive_as_they_were_written() {
    let objects = rendered(&chart::folder().join("ci/files-values.yaml"));
    let text = file(&objects, "bastion-config", "bastion.yaml");
    assert!(text.contains("max_sessions: 1000000\n"), "{text}");
    assert!(text.contains("max_certificate_lifetime: 8h\n"), "{text}");
}

#[test]
fn a_name_that_looks_like_a_number_is_a_name() {
    fn look(place: &str, value: &Value) {
        match value {
            Value::Object(map) => map.iter().for_each(|(name, value)| look(name, value)),
            Value::Array(list) => list.iter().for_each(|value| look(place, value)),
            _ if place.to_lowercase().ends_with("name") || place.ends_with("amespace") => {
                assert!(value.is_string(), "{place}: {value}");
            }
            _ => {}
        }
    }
    let scratch = Scratch::new("names");
    let values = "{files: {a: {secret: '007'}, b: {configMap: '1e3'}}, serviceAccount: {name: '12'}, priorityClassName: '1', \
        networkPolicy: {ingress: {fromNamespaces: [{namespace: '2'}]}}, metrics: {podMonitor: {enabled: true}}, \
        config: {kubernetes: {policies: {namespaces: ['3']}}}}";
    let file = scratch.write("values.yaml", values);
    for object in objects(&template(&chart::folder(), &[&file], &["--namespace", "1e3"]).unwrap()) {
        look("", &object);
        assert!(["1e3", "3"].contains(&object["metadata"]["namespace"].as_str().unwrap()), "{object}");
    }
}

#[test]
fn labels_and_annotations_need_no_quotes() {
    let objects = rendered(&chart::folder().join("ci/loose-values.yaml"));
    let pod = &kinds(&objects, "Deployment")[0]["spec"]["template"]["metadata"];
    assert_eq!(pod["annotations"]["prometheus.io/port"], "9090");
    assert_eq!(pod["annotations"]["prometheus.io/scrape"], "true");
    assert_eq!(pod["annotations"]["example.com/build"], "20261129001");
    assert!(pod["annotations"].get("example.com/nothing").is_none());
    assert_eq!(pod["labels"]["tier"], "1");
    let text = file(&objects, "bastion-config", "bastion.yaml");
    let config: Config = config_file::parse(Path::new("bastion.yaml"), text).unwrap();
    assert_eq!(config.authorities.sources().len(), 1, "{text}");
}

#[test]
fn clients_are_told_what_the_chart_knows() {
    let told = |case: &str| {
        let objects = rendered(&chart::folder().join(format!("ci/{case}-values.yaml")));
        yaml(file(&objects, "bastion-connection-info", "pf-tunnel.yaml"))
    };
    assert_eq!(
        told("vault"),
        yaml(
            "{bastion: {address: ['bastion.example.com:22'], user: tunnel}, vault: {address: 'https://vault.example.com:8200', namespace: team, mount: ssh}}"
        )
    );
    // A value of the operator wins over one that the chart derives.
    let nodeport = told("nodeport");
    assert_eq!(nodeport["bastion"]["address"], "192.0.2.10:30022");
    assert_eq!(nodeport["databases"]["orders"]["port"], 5432);
}

#[test]
fn pods_are_replaced_only_for_what_is_read_at_the_start() {
    let scratch = Scratch::new("checksum");
    let checksum = |values: &str| {
        let file = scratch.write("values.yaml", values);
        let text = template(&chart::folder(), &[&file], &[]).unwrap();
        let objects = objects(&text);
        kinds(&objects, "Deployment")[0]["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let parsed = |values: &str| {
        let file = scratch.write("values.yaml", values);
        let objects = objects(&template(&chart::folder(), &[&file], &[]).unwrap());
        config_file::parse::<Config>(
            Path::new("bastion.yaml"),
            self::file(&objects, "bastion-config", "bastion.yaml"),
        )
        .unwrap()
    };
    let before = checksum("{}");
    for live in [
        "rules: [{name: x, who: {everybody: true}, to: ['x.example.com:1']}]",
        "login: {users: [another-user]}",
        "open_networks: [link-local]",
        "hosts: {x.example.com: [192.0.2.1]}",
        "dns: {servers: [192.0.2.1]}",
        "removed_authority: let_run_out",
        "timeouts: {connect: 1s}",
        "limits: {max_certificate_lifetime: 1h}",
    ] {
        let values = format!("config: {{{live}}}");
        assert_eq!(checksum(&values), before, "{live}");
        let (old, new) = (parsed("{}"), parsed(&values));
        assert_eq!(old.with_live_settings_of(&new), new, "the bastion does not follow {live}");
    }
    for start in [
        "limits: {max_sessions: 10}",
        "keepalive: {interval: 10s}",
        "authorities: [{vault: {mount: ssh}}]",
        "drain: {timeout: 5m}",
        "kubernetes: {policies: {cluster: true}}",
    ] {
        let values = format!("config: {{{start}}}");
        assert_ne!(checksum(&values), before, "{start}");
        let (old, new) = (parsed("{}"), parsed(&values));
        assert_ne!(
            old.with_live_settings_of(&new),
            new,
            "the bastion follows {start}: no need for a restart"
        );
    }
}
