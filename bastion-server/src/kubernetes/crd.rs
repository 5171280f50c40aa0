//! Defines the custom resources `TunnelPolicy` and `ClusterTunnelPolicy`, which say who may reach what.
//!
//! People write these objects, and the API server checks them as far as a schema and CEL can.
//! [`compile`](super::compile) decides what they mean.

#![expect(unreachable_pub, reason = "the derive makes a copy of each type inside a function")]

use std::collections::BTreeMap;

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The API group of everything that is ours in a cluster, also in labels and annotations.
pub const GROUP: &str = vault_signer::DOMAIN;

/// Defines a kind of object that holds a [`Spec`]; the kinds differ only in the arguments.
macro_rules! policy {
    ($group:tt $(#[$doc:meta])* $spec:ident, $($of_this_kind:tt)*) => {
        $(#[$doc])*
        #[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
        #[kube(
            group = $group,
            version = "v1alpha1",
            $($of_this_kind)*
            status = "Status",
            derive = "PartialEq",
            printcolumn(
                name = "Accepted",
                type_ = "string",
                json_path = ".status.conditions[?(@.type==\"Accepted\")].status"
            ),
            printcolumn(
                name = "Reason",
                type_ = "string",
                json_path = ".status.conditions[?(@.type==\"Accepted\")].reason"
            ),
            printcolumn(
                name = "Resolved",
                type_ = "string",
                json_path = ".status.conditions[?(@.type==\"ResolvedRefs\")].status"
            ),
            printcolumn(
                name = "Message",
                type_ = "string",
                json_path = ".status.conditions[?(@.type==\"Accepted\")].message",
                priority = 1
            ),
            printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
        )]
        #[serde(transparent)]
        pub struct $spec(pub Spec);
    };
}

macro_rules! policies {
    ($group:tt) => {
        policy! {
            $group
            /// Permits or denies destinations to identities.
        TunnelPolicySpec,
        kind = "TunnelPolicy",
        plural = "tunnelpolicies",
        shortname = "tp",
        namespaced,
        doc = "Says who may reach what through the bastion. In the bastion's own namespace it may name any destination, elsewhere only Services of its own namespace.",
    }

        policy! {
            $group
            /// Permits or denies destinations to identities, for a whole cluster.
        ClusterTunnelPolicySpec,
        kind = "ClusterTunnelPolicy",
        plural = "clustertunnelpolicies",
        shortname = "ctp",
        doc = "Says who may reach what through the bastion, for every namespace. It may name any destination; a Service by its namespace.",
    }
    };
}

vault_signer::with_domain!(policies);

/// A rule of the policy.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, KubeSchema)]
#[x_kube(
    validation = ("has(self.to) || has(self.deny)", "write `to`, where they may go, or `deny`, where they may not")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// The identities that the rule applies to.
    pub who: Who,
    /// The destinations that the rule permits.
    #[schemars(length(min = 1, max = 64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Vec<Destination>>,
    /// The destinations that the rule denies, even if another rule permits them. A Service is denied by its
    /// names, at its addresses, and at its endpoints, also for other Services that lead to them.
    #[schemars(length(min = 1, max = 64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deny: Option<Vec<Destination>>,
}

/// A set of identities. Of several conditions all must hold, of several values in a condition one.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[x_kube(
    validation = (
        "(has(self.everybody) && self.everybody) != (has(self.principals) || has(self.keyIds) || has(self.authorities))",
        "write `everybody: true`, or one or more of principals, keyIds and authorities"
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Who {
    /// Certificates with one of these principals.
    #[schemars(length(min = 1, max = 64), inner(length(max = 1024), regex(pattern = r"^[^,*?\x00]+$")))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principals: Option<Vec<String>>,
    /// Certificates with one of these key ids; `*` stands for any characters.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 256)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_ids: Option<Vec<String>>,
    /// Certificates that one of these authorities signed, as `ssh-keygen -l` prints them: `SHA256:…`.
    #[schemars(
        length(min = 1, max = 64),
        inner(length(max = 64), regex(pattern = r"^SHA256:[A-Za-z0-9+/]{43}$"))
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorities: Option<Vec<String>>,
    /// Every client with a certificate that is valid here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub everybody: Option<bool>,
}

/// Some destinations: Services, hosts, or a network.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[x_kube(
    validation = (
        "[has(self.service), has(self.host), has(self.network)].filter(said, said).size() == 1",
        "write exactly one of service, host and network"
    ),
    validation = (
        "has(self.service) != has(self.ports)",
        "write `ports` beside a host or a network (\"*\" stands for all), and inside a service"
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Destination {
    /// Services of the cluster, reached at their endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
    /// A host by name, `*.example.com` for all names below it, or `*` for every host.
    #[schemars(
        length(max = 255),
        regex(pattern = r"^(\*|(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?)$")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// An address or a network, such as `10.20.0.0/16`, that the host's address is in.
    #[schemars(length(max = 49))]
    #[x_kube(validation = (
        "isIP(self) || (isCIDR(self) && cidr(self) == cidr(self).masked())",
        "this is no address, and no network without bits to the right of its prefix"
    ))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Ports of the host or network: `443`, `8000-8100`, `*`.
    #[schemars(length(min = 1, max = 32))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<Ports>>,
}

/// Services of the cluster, by name or by label.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[x_kube(validation = ("has(self.name) != has(self.selector)", "write exactly one of name and selector"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// The name of one Service.
    #[schemars(length(max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The labels of several Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// The namespace of the Services, if it is not that of this object. Allowed only where any destination
    /// may be named.
    #[schemars(length(max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The ports of the Services, by number or by name. Default: all ports.
    #[schemars(length(min = 1, max = 32))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<ServicePort>>,
}

/// A Kubernetes label selector. An empty selector is refused: it would select everything.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[x_kube(validation = ("has(self.matchLabels) || has(self.matchExpressions)", "write matchLabels or matchExpressions"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    /// Labels with their values, all of which the Service must have.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 16))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_labels: Option<BTreeMap<String, String>>,
    /// Requirements, all of which must hold.
    #[schemars(length(min = 1, max = 16))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_expressions: Option<Vec<Requirement>>,
}

/// A requirement on one label.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, KubeSchema)]
#[x_kube(validation = (
    "has(self.values) == (self.operator in ['In', 'NotIn'])",
    "In and NotIn have values, Exists and DoesNotExist have none"
))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Requirement {
    /// The label's key.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// The relation of the label to the values.
    pub operator: Operator,
    /// The values for `In` and `NotIn`.
    #[schemars(length(min = 1, max = 32), inner(length(max = 63)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<String>>,
}

/// The relation of a label to values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

/// A number, or a text that stands for a number or several.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum NumberOrText {
    /// `443`.
    Number(u16),
    /// `"8000-8100"`, or a name.
    Text(String),
}

/// Ports of a host: a number, a range, or `*`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Ports(pub NumberOrText);

impl JsonSchema for Ports {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Ports".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        number_or(11, r"^(\*|[0-9]{1,5}(-[0-9]{1,5})?)$")
    }
}

/// A port of a Service: its number or its name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct ServicePort(pub NumberOrText);

impl JsonSchema for ServicePort {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ServicePort".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        number_or(63, "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
    }
}

fn number_or(longest: u32, pattern: &str) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "minimum": 1,
        "maximum": 65535,
        "maxLength": longest,
        "pattern": pattern,
    })
}

/// The bastion's verdict on the object.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// `Accepted` says whether the bastion follows the object, and why not. `ResolvedRefs` says whether the
    /// Services and ports that it names exist, and which do not; the object applies to those as soon as they
    /// exist.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    #[schemars(length(max = 16))]
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// Both definitions, as they are installed.
pub fn definitions() -> [CustomResourceDefinition; 2] {
    [TunnelPolicy::crd(), ClusterTunnelPolicy::crd()].map(strict)
}

/// Removes `nullable` from fields, since CEL takes a null field for present, and `additionalProperties:
/// false`, which changes nothing: the API server drops unknown fields.
fn strict(definition: CustomResourceDefinition) -> CustomResourceDefinition {
    fn visit(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                if fields.get("nullable").is_some_and(Value::is_boolean) {
                    fields.remove("nullable");
                }
                if fields.get("additionalProperties") == Some(&Value::Bool(false)) {
                    fields.remove("additionalProperties");
                }
                fields.values_mut().for_each(visit);
            }
            Value::Array(items) => items.iter_mut().for_each(visit),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let changed = serde_json::to_value(&definition).map(|mut value| {
        visit(&mut value);
        value
    });
    changed.and_then(serde_json::from_value).unwrap_or(definition)
}

/// Both definitions as YAML, as the chart contains them.
///
/// # Errors
/// When they cannot be written, which would be a defect.
pub fn yaml() -> Result<String, serde_saphyr::ser::Error> {
    let documents = definitions().iter().map(serde_saphyr::to_string).collect::<Result<Vec<_>, _>>()?;
    Ok(format!(
        "# Printed by `bastion-server crdgen`: change crd.rs, and run `make crds`.\n{}",
        documents.join("---\n")
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_chart_has_what_the_code_says() {
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/charts/bastion/crds/tunnelpolicies.yaml");
        let checked_in = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(checked_in == yaml().unwrap(), "{} is out of date; run `make crds`", file.display());
        assert!(definitions().iter().all(|definition| definition.spec.group == GROUP));
    }
}
