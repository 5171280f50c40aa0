//! Least privilege: the bastion uses each permission that the chart gives it, asks for nothing that it may
//! not, and is refused everything else.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{
    bastion::Setup,
    chart,
    cluster::{ApiServer, Cluster, Minor, control_plane::kubectl},
    http,
    key::Key,
    process::Program,
    wait,
};

const SOON: Duration = Duration::from_secs(30);
/// The release, and so its account and everything that is its own.
const NAME: &str = "bastion";
/// Its pods.
const PODS: &str = "--selector=app.kubernetes.io/component=bastion";
/// A namespace where no Role lets the bastion do anything.
const ELSEWHERE: &str = "kube-system";

#[test]
fn what_a_release_may_is_what_it_does() {
    let cluster = Cluster::shared();
    let (own, theirs) = (cluster.namespace("rbac"), cluster.namespace("rbac-theirs"));
    let server = Server { kubeconfig: cluster.kubeconfig(), audit: &|| cluster.audit() };
    let (authority, revoked) = (Key::ed25519().public_line(), "# empty\n");
    own.apply(&list([
        data("Secret", "user-ca", "ca.pub", &authority),
        data("ConfigMap", "user-ca", "ca.pub", &authority),
        data("Secret", "revoked", "list", revoked),
        data("ConfigMap", "revoked", "list", revoked),
    ]));
    let values = json!({
        "service": {"type": "ClusterIP"},
        "replicaCount": 1,
        "minReadySeconds": 0,
        "config": {
            "authorities": [
                {"secret": {"name": "user-ca", "key": "ca.pub"}},
                {"config_map": {"name": "user-ca", "key": "ca.pub"}},
            ],
            "revocation": {
                "secrets": [{"name": "revoked", "key": "list"}],
                "config_maps": [{"name": "revoked", "key": "list"}],
            },
            "kubernetes": {"policies": {"namespaces": [theirs.name()]}},
            "drain": {"readiness_delay": "1s", "timeout": "1s"},
        },
    });
    own.release("install", &values, &[]);
    own.wait_for_rollout("deployment/bastion");

    server.apply_policies(&[Some(own.name()), Some(theirs.name())]);
    own.apply(&data("Secret", "user-ca", "ca.pub", "what is this?").to_string());
    wait::until_true("an Event beside the pod", SOON, || {
        own.kubectl(&["describe", "pod", PODS]).contains("AuthorityUnreadable")
    });
    own.apply(&data("Secret", "user-ca", "ca.pub", &Key::ed25519().public_line()).to_string());
    // The next pod finds the host key that this one made.
    own.kubectl(&["delete", "pod", PODS]);
    own.wait_for_rollout("deployment/bastion");
    server.each_is_used(own.name());

    let kubeconfig = cluster.kubeconfig_of(own.name(), NAME);
    everything_else_is_refused(&server, &kubeconfig, own.name(), theirs.name());
}

#[test]
fn who_edits_a_namespace_writes_policies_there_and_who_views_it_reads_them() {
    let cluster = Cluster::shared();
    let (own, theirs) = (cluster.namespace("aggregate"), cluster.namespace("aggregate-theirs"));
    own.release("install", &json!({"rbac": {"aggregate": true}, "replicaCount": 0}), &[]);
    let [editor, viewer] = ["edit", "view"].map(|role| {
        theirs.kubectl(&["create", "serviceaccount", role]);
        let (role_ref, subject) =
            (format!("--clusterrole={role}"), format!("--serviceaccount={}:{role}", theirs.name()));
        theirs.kubectl(&["create", "rolebinding", role, &role_ref, &subject]);
        cluster.kubeconfig_of(theirs.name(), role)
    });
    let policy = json!({
        "apiVersion": "tunnel-suite.internal/v1alpha1", "kind": "TunnelPolicy", "metadata": {"name": "theirs"},
        "spec": {"who": {"principals": ["x"]}, "to": [{"service": {"name": "x"}}]},
    });
    let done = |person: &Path, namespace: &str, words: &[&str]| {
        let kubectl = kubectl(person).args(["--namespace", namespace]).args(words);
        let output = kubectl.input(policy.to_string()).output();
        let refused = String::from_utf8_lossy(&output.stderr).contains("(Forbidden)");
        assert_ne!(output.status.success(), refused, "{output:?}");
        !refused
    };
    let (here, there) = (theirs.name(), own.name());
    let (create, read) = (["create", "--filename=-"], ["get", "tunnelpolicies"]);
    // Kubernetes adds it to its own roles a moment later.
    wait::until_true("the editor writes one", SOON, || done(&editor, here, &create));
    wait::until_true("the viewer reads it", SOON, || done(&viewer, here, &read));
    assert!(!done(&viewer, here, &["delete", "tunnelpolicy/theirs"]));
    assert!(!done(&editor, there, &create));
    assert!(!done(&viewer, there, &read));
    assert!(done(&editor, here, &["delete", "tunnelpolicy/theirs"]));
    cluster.helm(&["uninstall", NAME, "--namespace", there, "--wait"]);
}

#[test]
fn what_is_asked_of_a_whole_cluster_is_used() {
    let alone = ApiServer::with_policies(Minor::Newest);
    let server = Server { kubeconfig: alone.kubeconfig(), audit: &|| alone.audit() };
    let theirs = "databases";
    server.kubectl(&["create", "namespace", theirs]).succeed();
    // One after the other: what one has written, the other would not write again.
    for case in ["cluster-policies", "all-namespaces"] {
        server.kubectl(&["create", "namespace", case]).succeed();
        let values = chart::folder().join(format!("ci/{case}-values.yaml"));
        let text = chart::template(&chart::folder(), &[&values], &["--namespace", case]).unwrap();
        let objects = chart::objects(&text);
        // No kubelet would run pods here.
        let is_kept = |object: &&Value| {
            let kind = object["kind"].as_str().unwrap();
            ["ServiceAccount", "ConfigMap"].contains(&kind) || kind.contains("Role")
        };
        let kept = list(objects.iter().filter(is_kept).cloned());
        server.kubectl(&["apply", "--filename=-"]).input(kept).succeed();
        let authority = data("ConfigMap", "bastion-user-ca", "ca.pub", &Key::ed25519().public_line());
        server
            .kubectl(&["apply", "--namespace", case, "--filename=-"])
            .input(authority.to_string())
            .succeed();

        let config = &chart::one(&objects, "ConfigMap", "bastion-config")["data"]["bastion.yaml"];
        let config = chart::yaml(config.as_str().unwrap());
        let mut setup = Setup::new()
            .env("KUBECONFIG", alone.kubeconfig_of(case, NAME).to_str().unwrap())
            .env("POD_NAMESPACE", case)
            .env("POD_NAME", NAME);
        for asks in ["host_key", "authorities", "kubernetes"] {
            setup = setup.set(&format!("/{asks}"), config[asks].clone());
        }
        let mut bastion = setup.start();
        server.apply_policies(&[Some(case), Some(theirs), None]);
        bastion.kill();
        bastion.start_again();
        server.each_is_used(case);
        server.kubectl(&["delete", "clustertunnelpolicies", "--all"]).succeed();
        server.kubectl(&["delete", "tunnelpolicies", "--all", "--all-namespaces"]).succeed();
    }
}

/// A verb, an API, a resource and perhaps a name a line.
const REFUSED_IN_ITS_OWN_NAMESPACE: &str = "
    list v1 secrets
    watch v1 secrets
    get v1 secrets somebodys
    get v1 secrets user-ca
    update v1 secrets bastion-host-key
    patch v1 secrets bastion-host-key
    delete v1 secrets bastion-host-key
    patch v1 secrets user-ca
    delete v1 secrets revoked
    deletecollection v1 secrets
    list v1 configmaps
    create v1 configmaps
    get v1 configmaps somebodys
    patch v1 configmaps somebodys
    patch v1 configmaps bastion-config
    patch v1 configmaps user-ca
    update v1 configmaps bastion-connection-info
    delete v1 configmaps bastion-connection-info
    list v1 pods
    get v1 pods somebodys
    create v1 pods
    patch v1 pods somebodys
    delete v1 pods somebodys
    get v1 pods/log somebodys
    create v1 pods/exec somebodys
    create v1 pods/attach somebodys
    create v1 pods/portforward somebodys
    create v1 pods/eviction somebodys
    patch v1 pods/ephemeralcontainers somebodys
    create v1 services
    patch v1 services web
    delete v1 services web
    create discovery.k8s.io/v1 endpointslices
    patch discovery.k8s.io/v1 endpointslices web
    list v1 events
    list events.k8s.io/v1 events
    delete events.k8s.io/v1 events somebodys
    create v1 serviceaccounts
    create v1 serviceaccounts/token bastion
    create v1 serviceaccounts/token default
    patch apps/v1 deployments bastion
    update apps/v1 deployments bastion
    patch apps/v1 deployments/scale bastion
    create batch/v1 jobs
    patch networking.k8s.io/v1 networkpolicies bastion
    delete networking.k8s.io/v1 networkpolicies bastion
    create coordination.k8s.io/v1 leases
    get rbac.authorization.k8s.io/v1 roles bastion
    create rbac.authorization.k8s.io/v1 roles
    update rbac.authorization.k8s.io/v1 roles bastion
    patch rbac.authorization.k8s.io/v1 roles bastion
    create rbac.authorization.k8s.io/v1 rolebindings
    patch rbac.authorization.k8s.io/v1 rolebindings bastion
    get tunnel-suite.internal/v1alpha1 tunnelpolicies accepted
    create tunnel-suite.internal/v1alpha1 tunnelpolicies
    update tunnel-suite.internal/v1alpha1 tunnelpolicies accepted
    patch tunnel-suite.internal/v1alpha1 tunnelpolicies accepted
    delete tunnel-suite.internal/v1alpha1 tunnelpolicies accepted
    deletecollection tunnel-suite.internal/v1alpha1 tunnelpolicies
    update tunnel-suite.internal/v1alpha1 tunnelpolicies/status accepted
";
const REFUSED_IN_ONE_WHOSE_POLICIES_HOLD: &str = "
    list v1 secrets
    get v1 secrets bastion-host-key
    create v1 secrets
    list v1 configmaps
    patch v1 configmaps bastion-connection-info
    list v1 pods
    create v1 pods
    create v1 pods/exec somebodys
    patch v1 services web
    patch discovery.k8s.io/v1 endpointslices web
    patch tunnel-suite.internal/v1alpha1 tunnelpolicies accepted
    delete tunnel-suite.internal/v1alpha1 tunnelpolicies accepted
    create rbac.authorization.k8s.io/v1 rolebindings
";
const REFUSED_ELSEWHERE: &str = "
    list v1 services
    watch v1 services
    list discovery.k8s.io/v1 endpointslices
    list v1 secrets
    get v1 secrets bastion-host-key
    create v1 secrets
    list v1 configmaps
    patch v1 configmaps bastion-connection-info
    list v1 pods
    create events.k8s.io/v1 events
    list tunnel-suite.internal/v1alpha1 tunnelpolicies
    patch tunnel-suite.internal/v1alpha1 tunnelpolicies/status accepted
";
const REFUSED_IN_THE_CLUSTER: &str = "
    list v1 secrets
    list v1 configmaps
    list v1 services
    list v1 pods
    list v1 namespaces
    create v1 namespaces
    list v1 nodes
    get v1 nodes node
    get v1 nodes/proxy node
    list v1 persistentvolumes
    list discovery.k8s.io/v1 endpointslices
    list tunnel-suite.internal/v1alpha1 tunnelpolicies
    list tunnel-suite.internal/v1alpha1 clustertunnelpolicies
    create tunnel-suite.internal/v1alpha1 clustertunnelpolicies
    patch tunnel-suite.internal/v1alpha1 clustertunnelpolicies/status x
    update rbac.authorization.k8s.io/v1 clusterroles cluster-admin
    create rbac.authorization.k8s.io/v1 clusterrolebindings
    patch apiextensions.k8s.io/v1 customresourcedefinitions tunnelpolicies.tunnel-suite.internal
    create certificates.k8s.io/v1 certificatesigningrequests
    create authentication.k8s.io/v1 tokenreviews
    create authorization.k8s.io/v1 subjectaccessreviews
    create admissionregistration.k8s.io/v1 mutatingwebhookconfigurations
";

/// Asks for everything in those tables with the bastion's own token, and finds in the audit log that this was
/// asked and refused.
fn everything_else_is_refused(server: &Server<'_>, kubeconfig: &Path, own: &str, theirs: &str) {
    let mut proxy = kubectl(kubeconfig).args(["proxy", "--port=0", "--disable-filter=true"]).start();
    proxy.wait_for("Starting to serve on ", SOON);
    let said = proxy.stdout();
    let address: SocketAddr = said
        .split("Starting to serve on ")
        .nth(1)
        .and_then(|rest| rest.lines().next())
        .unwrap()
        .parse()
        .unwrap();
    let request = |method: &str, path: &str| http::request(method, address, path, &[], "").unwrap();
    let root = |api: &str| if api == "v1" { "/api/v1".to_owned() } else { format!("/apis/{api}") };
    // The server refuses an unknown resource as well, which would prove nothing.
    let mut offers: BTreeMap<String, Value> = BTreeMap::new();
    let mut expected = BTreeSet::new();
    for (table, namespace) in [
        (REFUSED_IN_ITS_OWN_NAMESPACE, own),
        (REFUSED_IN_ONE_WHOSE_POLICIES_HOLD, theirs),
        (REFUSED_ELSEWHERE, ELSEWHERE),
        (REFUSED_IN_THE_CLUSTER, ""),
    ] {
        for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<_> = line.split(' ').collect();
            let (verb, api, resource, name) = (words[0], words[1], words[2], words.get(3).unwrap_or(&""));
            let offered = offers.entry(api.to_owned()).or_insert_with(|| request("GET", &root(api)).json());
            let known = |offer: &Value| {
                offer["name"] == resource && offer["verbs"].as_array().unwrap().contains(&json!(verb))
            };
            assert!(offered["resources"].as_array().unwrap().iter().any(known), "there is no {line}");

            let (kind, part) = resource.split_once('/').unwrap_or((resource, ""));
            let place = if namespace.is_empty() { String::new() } else { format!("namespaces/{namespace}") };
            let parts = [root(api), place, kind.to_owned(), (*name).to_owned(), part.to_owned()];
            let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            let path = parts.join("/") + if verb == "watch" { "?watch=true" } else { "" };
            let method = match verb {
                "get" | "list" | "watch" => "GET",
                "create" => "POST",
                "update" => "PUT",
                "patch" => "PATCH",
                "delete" | "deletecollection" => "DELETE",
                _ => panic!("{verb} is no verb"),
            };
            let status = request(method, &path).status;
            assert_eq!(status, 403, "{line} in {namespace:?}");
            expected.insert(Asked {
                verb: verb.to_owned(),
                group: api.rsplit_once('/').map_or("", |(group, _)| group).to_owned(),
                resource: resource.to_owned(),
                namespace: namespace.to_owned(),
                name: (*name).to_owned(),
            });
        }
    }
    wait::until_true("the audit log knows of all that", SOON, || {
        server.refusals(own).len() >= expected.len()
    });
    assert_eq!(server.refusals(own), expected);
    println!("{} requests refused", expected.len());
}

/// What is asked of an API server, as it decides about it. Empty is what is not said.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Asked {
    verb: String,
    group: String,
    /// With its subresource: `pods/exec`.
    resource: String,
    namespace: String,
    name: String,
}

/// A line of the audit log.
struct Request {
    asked: Asked,
    status: u64,
    /// Which role let it through.
    reason: String,
}

impl Request {
    fn read(line: &str) -> Self {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let object = &line["objectRef"];
        let parts = [&object["resource"], &object["subresource"]];
        let resource: Vec<_> = parts.into_iter().filter_map(Value::as_str).collect();
        let asked = Asked {
            verb: text(&line["verb"]),
            group: text(&object["apiGroup"]),
            resource: resource.join("/"),
            namespace: text(&object["namespace"]),
            name: text(&object["name"]),
        };
        let reason = text(&line["annotations"]["authorization.k8s.io/reason"]);
        Self { asked, status: line["responseStatus"]["code"].as_u64().unwrap(), reason }
    }
}

/// One word of a role: without a name, for objects of any.
#[derive(Debug)]
struct Permission {
    /// `Role "bastion"`, as the API server gives its reasons.
    role: String,
    to: Asked,
}

impl Permission {
    /// All that a role permits.
    fn of(role: &Value) -> Vec<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
        let kind = format!("{} {}", role["kind"].as_str().unwrap(), role["metadata"]["name"]);
        let namespace = text(&role["metadata"]["namespace"]);
        let mut all = Vec::new();
        for rule in role["rules"].as_array().into_iter().flatten() {
            let mut names = list(&rule["resourceNames"]);
            if names.is_empty() {
                names.push(String::new());
            }
            for (group, resource) in product(&list(&rule["apiGroups"]), &list(&rule["resources"])) {
                for (verb, name) in product(&list(&rule["verbs"]), &names) {
                    let (group, resource, namespace) = (group.clone(), resource.clone(), namespace.clone());
                    let to = Asked { verb, group, resource, namespace, name };
                    all.push(Self { role: kind.clone(), to });
                }
            }
        }
        all
    }

    fn is_used_by(&self, request: &Request) -> bool {
        let (to, asked) = (&self.to, &request.asked);
        // To list or watch one namespace, a Role would have done.
        let anywhere = to.namespace.is_empty() && !["list", "watch"].contains(&to.verb.as_str());
        request.status < 300
            && request.reason.contains(&format!(" of {} to ", self.role))
            && (&to.verb, &to.group, &to.resource) == (&asked.verb, &asked.group, &asked.resource)
            && (anywhere || to.namespace == asked.namespace)
            && (to.name.is_empty() || to.name == asked.name)
    }
}

fn product(left: &[String], right: &[String]) -> Vec<(String, String)> {
    left.iter().flat_map(|left| right.iter().map(move |right| (left.clone(), right.clone()))).collect()
}

/// An API server: as whom we administer it, and what it has written down.
struct Server<'a> {
    kubeconfig: &'a Path,
    audit: &'a dyn Fn() -> String,
}

impl Server<'_> {
    fn kubectl(&self, words: &[&str]) -> Program {
        kubectl(self.kubeconfig).args(words)
    }

    fn get(&self, words: &[&str], input: &str) -> Vec<Value> {
        let text = self.kubectl(&["get", "--output=json"]).args(words).input(input).succeed();
        let mut list: Value = serde_json::from_str(&text).unwrap();
        serde_json::from_value(list["items"].take()).unwrap()
    }

    /// What the bastion in this namespace has asked for.
    fn requests(&self, namespace: &str) -> Vec<Request> {
        let user = format!("\"username\":\"system:serviceaccount:{namespace}:{NAME}\"");
        (self.audit)().lines().filter(|line| line.contains(&user)).map(Request::read).collect()
    }

    /// What it was refused.
    fn refusals(&self, namespace: &str) -> BTreeSet<Asked> {
        let requests = self.requests(namespace).into_iter();
        requests.filter(|request| request.status == 403).map(|request| request.asked).collect()
    }

    /// What it may: the words of every role that is bound to its account.
    fn permissions(&self, namespace: &str) -> Vec<Permission> {
        let all = self.get(&["roles,clusterroles,rolebindings,clusterrolebindings", "--all-namespaces"], "");
        let account = json!({"kind": "ServiceAccount", "name": NAME, "namespace": namespace});
        let binds = |object: &&Value| object["subjects"].as_array().is_some_and(|all| all.contains(&account));
        all.iter()
            .filter(binds)
            .flat_map(|binding| {
                let bound = |role: &&Value| {
                    let (role, wanted) = (*role, &binding["roleRef"]);
                    let here = role["metadata"]["namespace"] == binding["metadata"]["namespace"];
                    role["kind"] == wanted["kind"]
                        && role["metadata"]["name"] == wanted["name"]
                        && (here || role["kind"] == "ClusterRole")
                };
                Permission::of(all.iter().find(bound).expect("the role of a binding"))
            })
            .collect()
    }

    /// Waits until each permission was used. A permission without a use is to be taken out of the chart.
    fn each_is_used(&self, namespace: &str) {
        let permissions = self.permissions(namespace);
        assert!(permissions.len() > 10, "{permissions:?}");
        let end = Instant::now() + SOON;
        loop {
            let requests = self.requests(namespace);
            let unused: Vec<_> = permissions
                .iter()
                .filter(|permission| !requests.iter().any(|request| permission.is_used_by(request)))
                .collect();
            if unused.is_empty() {
                println!("{namespace}: {} permissions, {} requests", permissions.len(), requests.len());
                break;
            }
            assert!(Instant::now() < end, "the bastion did not use {unused:#?}");
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(self.refusals(namespace), BTreeSet::new(), "the bastion asks for what it may not");
    }

    /// Writes policies in namespaces, or in none, of which one can be accepted and one cannot. The latter is
    /// then changed for one that can be accepted no more: its Event is not made again but counted up.
    fn apply_policies(&self, places: &[Option<&str>]) {
        for refused in ["one", "another"] {
            let policies = places.iter().flat_map(|place| {
                let (kind, accepted, refused) = match place {
                    Some(_) => (
                        "TunnelPolicy",
                        json!({"service": {"name": "web"}}),
                        json!({"service": {"name": refused, "namespace": ELSEWHERE}}),
                    ),
                    None => (
                        "ClusterTunnelPolicy",
                        json!({"host": "db.example.com", "ports": [5432]}),
                        json!({"service": {"name": refused}}),
                    ),
                };
                [("accepted", accepted), ("refused", refused)].map(|(name, to)| {
                    json!({
                        "apiVersion": "tunnel-suite.internal/v1alpha1",
                        "kind": kind,
                        "metadata": {"name": name, "namespace": place},
                        "spec": {"who": {"principals": ["no-such-user"]}, "to": [to]},
                    })
                })
            });
            let policies = list(policies);
            self.kubectl(&["apply", "--filename=-"]).input(policies.as_str()).succeed();
            wait::until_true("a verdict about each policy", SOON, || {
                self.get(&["--filename=-"], &policies).iter().all(|policy| {
                    policy["status"]["conditions"][0]["observedGeneration"]
                        == policy["metadata"]["generation"]
                })
            });
        }
    }
}

fn list(objects: impl IntoIterator<Item = Value>) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": objects.into_iter().collect::<Vec<_>>()}).to_string()
}

fn data(kind: &str, name: &str, key: &str, text: &str) -> Value {
    let field = if kind == "Secret" { "stringData" } else { "data" };
    json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, field: {key: text}})
}
