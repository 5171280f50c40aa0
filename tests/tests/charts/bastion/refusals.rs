//! Values that make no sense are refused with a sentence, before anything is installed.

use serde_json::Value;
use tests::{
    chart::{self, objects, template},
    scratch::Scratch,
    settings,
};

/// Values, and words of the answer: first what templates refuse, then what the schema does.
pub(super) const REFUSED: &[(&str, &str)] = &[
    ("hostKeys: {mode: secret}", "say it under config.host_key"),
    ("replicas: 3", "say it under replicaCount"),
    ("config: {listen: '0.0.0.0:22'}", "ports below 1024"),
    ("config: {listen: '0.0.0.0:8080'}", "the same port"),
    ("config: {admin: {listen: '127.0.0.1:8080'}}", "probes do not reach a loopback address"),
    ("config: {admin: {listen: '[::1]:8080'}}", "probes do not reach a loopback address"),
    ("terminationGracePeriodSeconds: 629", "terminationGracePeriodSeconds is 629"),
    ("terminationGracePeriodSeconds: 0", "terminationGracePeriodSeconds is 0"),
    ("mesh: {enabled: true, proxy: {shutdownGracePeriod: 10m}}", "shutdownGracePeriod is 600 s"),
    ("extraEnv: [{name: BASTION_DRAIN_TIMEOUT, value: 1h}]", "BASTION_DRAIN_TIMEOUT would override"),
    ("extraEnv: [{name: BASTION_LISTEN, value: '0.0.0.0:2200'}]", "Say it under config"),
    ("config: {drain: {timeout: 1h 30m}}\nterminationGracePeriodSeconds: 660", "takes up to 5415 s"),
    ("config: {drain: {timeout: 1fortnight}}", "is no duration that the chart can add up"),
    (
        "config: {authorities: [{file: /a}, {vault: {mount: ssh, refresh: 1h}}]}\nprometheusRule: {enabled: true}",
        "asks Vault every 3600 s",
    ),
    ("config: {limits: {buffered_bytes: 129MiB}}", "more than half of resources.limits.memory (256Mi)"),
    (
        "config: {limits: {buffered_bytes: 1GiB}}\nresources: {limits: {memory: 2000M}}",
        "Write 953MiB or less",
    ),
    ("resources: {limits: {memory: 1.5Gi}}", "\"1.5Gi\" is no size that the chart can compare"),
    ("config: {host_key: {generate: true}}", "another key in each pod"),
    ("autoscaling: {enabled: true, targetCPUUtilizationPercentage: null}", "is enabled without a metric"),
    ("autoscaling: {enabled: true, minReplicas: 7}", "minReplicas is more than"),
    ("service: {type: NodePort, aws: {enabled: true}}", "service.aws is for a load balancer"),
    ("service: {aws: {enabled: true, deregistrationDelaySeconds: 60}}", "would cut tunnels"),
    (
        "service: {loadBalancerSourceRanges: [10.0.0.0/8], aws: {enabled: true, securityGroups: [sg-0123]}}",
        "Set the ranges in the security groups",
    ),
    (
        "service: {type: NodePort, loadBalancerSourceRanges: [10.0.0.0/8]}",
        "loadBalancerSourceRanges is for a load balancer",
    ),
    (
        "service: {type: ClusterIP, loadBalancerClass: x.example.com/y}",
        "loadBalancerClass is for a load balancer",
    ),
    (
        "service: {type: NodePort, allocateLoadBalancerNodePorts: true}",
        "allocateLoadBalancerNodePorts is for a load balancer",
    ),
    ("service: {type: ClusterIP, nodePort: 30022}", "service.nodePort is set"),
    ("networkPolicy: {egress: {toFQDNs: [{name: db.example.com}]}}", "knows no names"),
    ("gateway: {enabled: true}", "name the Gateway"),
    (
        "config: {vault: {auth: {method: kubernetes, role: bastion, token_file: /var/run/secrets/vault/token}}}",
        "set the address of Vault",
    ),
    ("image: {tag: 1.10}", "image.tag is a text, and 1.1 is none: put it into quotes"),
    ("service: {trafficDistribution: true}", "service.trafficDistribution is a text, and true is none"),
    ("commonLabels: {version: 1.10}", "commonLabels: version is to be a text, and 1.1 is a number"),
    (
        "networkPolicy: {ingress: {metricsFrom: [{namespace: x, podLabels: {version: 2.50}}]}}",
        "networkPolicy.ingress.metricsFrom.podLabels: version is to be a text",
    ),
];

/// What the schema refuses: a word that is not known, at every depth, and values that cannot be.
const OUT_OF_SHAPE: &[(&str, &str)] = &[
    ("replicaCont: 3", "replicaCont"),
    ("image: {name: x}", "name"),
    ("image: {digest: latest}", "/image/digest"),
    ("image: {pullPolicy: Sometimes}", "/image/pullPolicy"),
    ("service: {type: ExternalName}", "/service/type"),
    ("service: {port: 70000}", "/service/port"),
    ("service: {aws: {proxyProtocol: true}}", "proxyProtocol"),
    ("service: {aws: {idleTimeoutSeconds: 30}}", "/service/aws/idleTimeoutSeconds"),
    ("networkPolicy: {egress: {mode: everything}}", "/networkPolicy/egress/mode"),
    ("networkPolicy: {egress: {dns: {podLabels: {app: coredns}}}}", "podLabels"),
    ("networkPolicy: {egress: {toCIDRs: [10.0.0.0/8]}}", "/networkPolicy/egress/toCIDRs/0"),
    ("networkPolicy: {egress: {toNamespaces: [{name: x}]}}", "/networkPolicy/egress/toNamespaces/0"),
    ("networkPolicy: {ingress: {fromCIDRs: [anywhere]}}", "/networkPolicy/ingress/fromCIDRs/0"),
    ("tolerations: [{kee: x}]", "kee"),
    ("affinity: {nodeAfinity: {}}", "nodeAfinity"),
    ("resources: {limit: {cpu: 1}}", "limit"),
    ("podSecurityContext: {runAsUser: nobody}", "/podSecurityContext/runAsUser"),
    ("securityContext: {priviledged: false}", "priviledged"),
    ("extraEnv: [{name: X, vale: y}]", "vale"),
    ("extraVolumes: [{name: x, secrets: {}}]", "secrets"),
    ("extraObjects: [{kind: ConfigMap}]", "/extraObjects/0"),
    ("files: {x: {secret: a, configMap: b}}", "/files/x"),
    ("files: {x: {}}", "/files/x"),
    ("vaultToken: {expirationSeconds: 60}", "/vaultToken/expirationSeconds"),
    ("mesh: {sshPort: through}", "/mesh/sshPort"),
    ("connectionInfo: {file: {vault: {auth: {token_file: x}}}}", "token_file"),
    (
        "connectionInfo: {file: {databases: {x: {kind: oracle, host: x, port: 1, database: x, roles: {}}}}}",
        "kind",
    ),
    ("connectionInfo: {readers: [{kind: Group}]}", "/connectionInfo/readers/0"),
    ("pdb: {maxUnavailable: 0}", "/pdb/maxUnavailable"),
    ("config: {listen: 2222}", "/config/listen"),
    ("config: {rule: []}", "rule"),
    ("config: {rules: [{name: a, who: {principal: [dev]}, to: ['*:1']}]}", "/config/rules/0"),
    ("config: {host_key: {secret: {name: a}, generate: true}}", "/config/host_key"),
    ("config: {authorities: []}", "/config/authorities"),
    ("config: {login: {users: []}}", "/config/login"),
    ("config: {kubernetes: {policies: {everywhere: true}}}", "everywhere"),
    ("config: {drain: {timeout: 600}}", "/config/drain/timeout"),
];

#[test]
fn what_makes_no_sense_is_refused_with_a_sentence() {
    let scratch = Scratch::new("refusals");
    // A rule that the templates refuse, and the schema does not: the words come from the template.
    let by_templates = REFUSED.iter().map(|row| (row, &["--skip-schema-validation"][..]));
    let all = REFUSED.iter().chain(OUT_OF_SHAPE).map(|row| (row, &[][..]));
    let mut wrong = Vec::new();
    for ((values, words), more) in all.chain(by_templates) {
        let file = scratch.write("values.yaml", values);
        match template(&chart::folder(), &[&file], more) {
            Err(error) if error.contains(words) => {}
            answer => wrong.push(format!("{values}\nwants {words:?}\n{answer:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n\n"));
}

/// Everything that has values of its own is on.
const MUCH: &str = "
autoscaling: {enabled: true}
config: {vault: {address: 'https://vault.example.com', auth: {method: kubernetes, role: bastion, token_file: /var/run/secrets/vault/token}}}
gateway: {enabled: true, parentRefs: [{name: public}]}
grafanaDashboard: {enabled: true}
mesh: {enabled: true, policy: {enabled: true}}
metrics: {podMonitor: {enabled: true}}
networkPolicy: {flavour: cilium}
prometheusRule: {enabled: true}
rbac: {aggregate: true}
service: {aws: {enabled: true}, hostnames: [bastion.example.com], externalDns: {targets: [192.0.2.1]}}
";

/// The paths of all values, those that hold others too, as JSON pointers.
fn pointers(values: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (name, value) in values.as_object().into_iter().flatten() {
        found.push(format!("/{name}"));
        found.extend(pointers(value).into_iter().map(|rest| format!("/{name}{rest}")));
    }
    found
}

/// Where an object has null, or a text that a template made of it.
fn holes(object: &Value) -> Vec<&Value> {
    match object {
        Value::Null => vec![object],
        Value::String(text) if text == "null" || text.contains("<nil>") || text.contains("%!") => {
            vec![object]
        }
        Value::Array(list) => list.iter().flat_map(holes).collect(),
        Value::Object(map) => map.values().flat_map(holes).collect(),
        _ => vec![],
    }
}

/// Whether null says something here that its default does not: where the schema has it among the types, in
/// what Kubernetes defines, and in the bastion's own file, but for what it cannot be without.
fn means_something(base: &Value, pointer: &str) -> bool {
    const NEEDED: [&str; 6] = ["admin", "admin/listen", "authorities", "listen", "login", "login/users"];
    if pointer == "/config" {
        return true;
    }
    if let Some(setting) = pointer.strip_prefix("/config/") {
        return !NEEDED.contains(&setting);
    }
    let found = pointer.split('/').skip(1).try_fold(base, |schema, name| schema["properties"].get(name));
    found.is_none_or(|schema| {
        let others = schema["anyOf"].as_array().into_iter().flatten().map(|other| &other["type"]);
        schema["type"].as_array().into_iter().flatten().chain(others).any(|kind| kind == "null")
    })
}

fn remove(values: &mut Value, pointer: &str) {
    let (above, name) = pointer.rsplit_once('/').unwrap();
    if let Some(Value::Object(map)) = values.pointer_mut(above) {
        map.remove(name);
    }
}

#[test]
fn a_value_that_is_null_has_its_default() {
    let scratch = Scratch::new("null");
    let base = chart::yaml(&chart::file("values.schema.base.yaml"));
    let render = |values: &Value| {
        template(&chart::folder(), &[&scratch.write("values.yaml", values.to_string())], &[])
    };
    let (mut defaults, mut others) = (0, 0);
    for pointer in pointers(&chart::yaml(&chart::file("values.yaml"))) {
        let (mut null, mut silent) = (chart::yaml(MUCH), chart::yaml(MUCH));
        settings::set(&mut null, &pointer, Value::Null);
        remove(&mut silent, &pointer);
        let rendered = render(&null);
        if !means_something(&base, &pointer) {
            assert_eq!(rendered, render(&silent), "{pointer}");
            defaults += 1;
            continue;
        }
        match rendered {
            Ok(text) => {
                for object in objects(&text) {
                    assert_eq!(holes(&object), Vec::<&Value>::new(), "{pointer}\n{object}");
                }
            }
            // A sentence of a template, or what a type of Kubernetes cannot be without, by name.
            Err(error) => {
                let missed = format!("missing property '{}'", pointer.rsplit('/').next().unwrap());
                let said = error.contains("Error: execution error at") || error.contains(&missed);
                assert!(said, "{pointer}\n{error}");
            }
        }
        others += 1;
    }
    println!("{defaults} have their default, {others} say something");
    assert!(defaults > 100 && others > 20, "{defaults} and {others}");
    let said = ["--set", "tolerations=null,replicaCount=null,image=null,config.login.users=null"];
    assert_eq!(template(&chart::folder(), &[], &said), template(&chart::folder(), &[], &[]));
    // Nor does a null stay where nothing stood before.
    let file = scratch.write(
        "values.yaml",
        "{nodeSelector: {a: null}, service: {annotations: {b: null}}, config: {limits: null, vault: null}, extraEnv: null}",
    );
    assert_eq!(template(&chart::folder(), &[&file], &[]), template(&chart::folder(), &[], &[]));
}
