//! The image that is shipped, as it is shipped: run by containerd under the strictest rules that Kubernetes
//! has.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tests::{
    bastion::LOGIN,
    cluster::{Cluster, image},
    forge::Forge,
    key::Key,
    process::{Program, workspace},
    scratch::Scratch,
    ssh::Person,
    target::Target,
};

const USER: u64 = 65532;

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The archive, unpacked: configuration of the image, and its layer.
fn unpacked(scratch: &Scratch) -> (Value, PathBuf) {
    Program::new("tar").arg("-xf").arg(image::bastion("oci.tar")).folder(scratch.path()).succeed();
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        scratch.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap())
    };
    let index = json_file(&scratch.join("index.json"));
    let manifest = json_file(&blob(&index["manifests"][0]));
    let said = std::fs::read_to_string(image::bastion("digest")).unwrap();
    assert_eq!(index["manifests"][0]["digest"], said.trim());
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    (json_file(&blob(&manifest["config"])), blob(&manifest["layers"][0]))
}

#[test]
fn it_is_one_static_program_and_what_that_needs() {
    let scratch = Scratch::new("image");
    let (config, layer) = unpacked(&scratch);
    let listed = Program::new("tar").args(["--numeric-owner", "-tvf"]).arg(&layer).succeed();
    let files: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    let files: Vec<[&str; 3]> = files.iter().map(|words| [words[0], words[1], words[5]]).collect();
    assert_eq!(
        files,
        [
            // Nothing that another user owns or may write, and nothing that runs as its owner.
            ["-rwxr-xr-x", "0/0", "bastion-server"],
            ["-rw-r--r--", "0/0", "bastion-server.cdx.json"],
            ["drwxr-xr-x", "0/0", "etc/"],
            ["drwxr-xr-x", "0/0", "etc/ssl/"],
            ["drwxr-xr-x", "0/0", "etc/ssl/certs/"],
            ["-rw-r--r--", "0/0", "etc/ssl/certs/ca-certificates.crt"],
        ]
    );
    assert_eq!(config["config"]["User"], format!("{USER}:{USER}"));
    assert_eq!(config["config"]["Entrypoint"], json!(["/bastion-server"]));
    assert_eq!(config["config"]["Cmd"], json!(["/etc/bastion/bastion.yaml"]));

    Program::new("tar").arg("-xf").arg(&layer).folder(scratch.path()).succeed();
    let binary = scratch.join("bastion-server");
    let headers =
        Program::new("readelf").args(["--program-headers", "--dynamic", "--wide"]).arg(&binary).succeed();
    for word in ["INTERP", "NEEDED", "RPATH", "RUNPATH"] {
        assert!(!headers.contains(word), "the program needs something of its system:\n{headers}");
    }
    assert!(
        !std::fs::read(&binary).unwrap().windows(5).any(|window| window == b"/root"),
        "it names a home folder"
    );
}

#[test]
fn its_list_of_parts_is_that_of_what_was_linked() {
    let scratch = Scratch::new("image");
    let (_, layer) = unpacked(&scratch);
    Program::new("tar").arg("-xf").arg(&layer).folder(scratch.path()).succeed();
    let sbom = json_file(&scratch.join("bastion-server.cdx.json"));
    assert_eq!(sbom, json_file(&image::bastion("cdx.json")));
    let digest = Program::new("sha256sum").arg(scratch.join("bastion-server")).succeed();
    let said = sbom["metadata"]["component"]["hashes"][0]["content"].as_str().unwrap();
    assert_eq!(digest.split_whitespace().next(), Some(said));

    // Another way to ask cargo: by what is declared, rather than by what was compiled.
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let cargo = Path::new(env!("CARGO"));
    let tree = Program::new(cargo)
        .env("PATH", cargo.parent().unwrap())
        .env("HOME", std::env::home_dir().unwrap())
        .args([
            "tree",
            "--locked",
            "--package=bastion-server",
            "--edges=normal,no-proc-macro",
            "--target",
            &target,
        ])
        .args(["--prefix=none", "--no-dedupe", "--format={p}"])
        .folder(workspace())
        .succeed();
    // `NAME vVERSION`, and for our own the path.
    let declared: BTreeSet<String> = tree
        .lines()
        .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .filter(|line| !line.starts_with("bastion-server "))
        .collect();
    let component = |part: &Value| {
        assert!(part["licenses"][0]["expression"].as_str().is_some_and(|text| !text.is_empty()), "{part}");
        format!("{} v{}", part["name"].as_str().unwrap(), part["version"].as_str().unwrap())
    };
    let listed: BTreeSet<String> = sbom["components"].as_array().unwrap().iter().map(component).collect();
    assert_eq!(listed, declared);
}

/// The bastion of the image in a pod, under `restricted` pod security, and behind a port of the node.
fn pod(config: &Value, host_key: &str) -> Vec<Value> {
    let labels = json!({"app": "bastion"});
    let container = json!({
        "name": "bastion",
        "image": image::BASTION,
        "imagePullPolicy": "Never",
        "ports": [{"name": "ssh", "containerPort": 2222}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": 1},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "config", "mountPath": "/etc/bastion", "readOnly": true}],
    });
    vec![
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bastion"},
            "stringData": {"bastion.yaml": config.to_string(), "host_key": host_key},
        }),
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bastion", "labels": labels},
            "spec": {
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                // Of an image's user, the kubelet takes the number and not the group; and without the one,
                // containerd refuses the other.
                "securityContext": {
                    "runAsNonRoot": true,
                    "runAsUser": USER,
                    "runAsGroup": USER,
                    "fsGroup": USER,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [container],
                "volumes": [{"name": "config", "secret": {"secretName": "bastion", "defaultMode": 0o440}}],
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "bastion"},
            "spec": {"type": "NodePort", "selector": labels, "ports": [{"port": 22, "targetPort": "ssh"}]},
        }),
    ]
}

#[test]
fn it_serves_without_privileges() {
    let cluster = Cluster::shared();
    cluster.image(image::BASTION);
    let namespace = cluster.namespace("image");
    let label = "pod-security.kubernetes.io/enforce=restricted";
    cluster.kubectl(&["label", "namespace", namespace.name(), label]);

    // Behind the bastion: something on the machine's side of the node.
    let host: IpAddr = cluster.host_address();
    let target = Target::on((host, 0).into(), |mut stream| {
        let _ = std::io::Write::write_all(&mut stream, b"through the bastion");
        None
    });
    let (users, host_key, key) = (Key::ed25519(), Key::ed25519(), Key::ed25519());
    let config = json!({
        "listen": "0.0.0.0:2222",
        "host_key": {"file": "/etc/bastion/host_key"},
        "authorities": [{"key": users.public_line().trim()}],
        "login": {"users": [LOGIN]},
        "rules": [{"name": "all", "who": {"principals": [LOGIN]}, "to": [target.address().to_string()]}],
        "admin": {"listen": "0.0.0.0:8080"},
        // Without both means of it, it would not start.
        "fence": "required",
    });
    for object in pod(&config, host_key.private_pem().as_ref()) {
        namespace.apply(&object.to_string());
    }
    namespace.wait_for_pod("bastion");
    let address = namespace.node_port("bastion", None);
    let person = Person::new(LOGIN, &key, &Forge::user(&key, LOGIN).sign(&users)).knows(address, &host_key);
    let to = target.address().to_string();
    // kube-proxy hears of the pod a moment later than the API server.
    cluster.wait_for("a login that reaches the target", Duration::from_secs(30), || {
        person.ssh(address, &["-W", &to]).output().stdout == b"through the bastion"
    });

    // What the kernel says about the process.
    let folder = format!("/proc/{}", cluster.process_of(&namespace.get(&["pod", "bastion"])));
    let started = cluster.enter(&["cat", &format!("{folder}/cmdline")]).succeed();
    assert!(started.starts_with("/bastion-server\0"), "{started}");
    let status = cluster.enter(&["cat", &format!("{folder}/status")]).succeed();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.unwrap_or_else(|| panic!("{name} is not in {status}"))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    let unprivileged = [USER; 4].map(|id| id.to_string()).join(" ");
    assert_eq!((field("Uid"), field("Gid")), (unprivileged.clone(), unprivileged));
    for capabilities in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(capabilities), "0000000000000000", "{capabilities}");
    }
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Seccomp"), "2");
    // The two of its own fence (the image's C library needs the second), on top of what the container runtime
    // put up.
    assert_eq!(field("Seccomp_filters"), "3");
    let mounts = cluster.enter(&["cat", &format!("{folder}/mounts")]).succeed();
    let root = mounts.lines().find(|line| line.split(' ').nth(1) == Some("/")).unwrap();
    assert!(root.split(' ').nth(3).unwrap().split(',').any(|option| option == "ro"), "{root}");
}
