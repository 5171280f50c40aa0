//! Compares a server with what it should look like. Pure.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Map, Value, json};

use super::Kubernetes;
use crate::{request::PERMIT_PORT_FORWARDING, text::shown};

/// What a server should look like.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where users' keys are signed.
    pub mount: String,
    /// The role that signs them.
    pub role: String,
    /// The policy that lets a token use that role.
    pub policy: String,
    /// Who may be named: names, or templates such as `{{identity.entity.name}}`. The first is named when a
    /// request names no principal.
    pub principals: Vec<String>,
    /// How long a certificate lives when a request does not say.
    pub ttl: Duration,
    /// The longest that one may live.
    pub max_ttl: Duration,
    /// Where hosts' keys are signed.
    pub host_mount: String,
    /// The role that signs them.
    pub host_role: String,
    /// The policy that lets a bastion use that role.
    pub host_policy: String,
    /// The bastions' names, or the domains that they are in.
    pub domains: Vec<String>,
    /// How long a host's certificate lives when a request does not say.
    pub host_ttl: Duration,
    /// The longest that one may live.
    pub host_max_ttl: Duration,
    /// How a bastion in Kubernetes logs in, if one does.
    pub kubernetes: Option<Kubernetes>,
}

/// One field that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name in Vault.
    pub field: String,
    /// What was there, escaped.
    pub from: String,
    /// What is wanted.
    pub to: String,
}

impl Wanted {
    /// The role for users: it can forward ports, and nothing else.
    pub(super) fn user_role(&self) -> Map<String, Value> {
        let is_template = |name: &str| name.contains("{{");
        let default = self.principals.first().map(String::as_str).unwrap_or_default();
        object(json!({
            "key_type": "ca",
            "allow_user_certificates": true,
            "allow_host_certificates": false,
            "allow_empty_principals": false,
            "allowed_users": self.principals.join(","),
            "allowed_users_template": self.principals.iter().any(|name| is_template(name)),
            "default_user": default,
            "default_user_template": is_template(default),
            "ttl": self.ttl.as_secs(),
            "max_ttl": self.max_ttl.as_secs(),
            "allowed_extensions": PERMIT_PORT_FORWARDING,
            "default_extensions": { PERMIT_PORT_FORWARDING: "" },
            "allowed_critical_options": "",
            "default_critical_options": {},
            "allow_user_key_ids": false,
            "allowed_user_key_lengths": {
                "ed25519": [0],
                "ecdsa": [256, 384, 521],
                "rsa": [2048, 3072, 4096],
            },
            "algorithm_signer": "default",
        }))
    }

    /// The role for bastions.
    pub(super) fn bastion_role(&self) -> Map<String, Value> {
        object(json!({
            "key_type": "ca",
            "allow_user_certificates": false,
            "allow_host_certificates": true,
            "allow_empty_principals": false,
            "allowed_domains": self.domains.join(","),
            "allow_bare_domains": true,
            "allow_subdomains": true,
            "ttl": self.host_ttl.as_secs(),
            "max_ttl": self.host_max_ttl.as_secs(),
            "allowed_critical_options": "",
            "allow_user_key_ids": false,
            "algorithm_signer": "default",
        }))
    }

    /// What a user may do: have a key signed, and read both authorities.
    pub(super) fn user_policy(&self) -> String {
        policy(&format!("{}/sign/{}", self.mount, self.role), &[&self.mount, &self.host_mount])
    }

    /// What a bastion may do.
    pub(super) fn bastion_policy(&self) -> String {
        policy(&format!("{}/sign/{}", self.host_mount, self.host_role), &[&self.mount, &self.host_mount])
    }
}

fn policy(sign: &str, readable: &[&str]) -> String {
    let mut text = format!(
        "# Kept by `vault-signer bootstrap`.\npath \"{sign}\" {{\n  capabilities = [\"update\"]\n}}\n"
    );
    for mount in readable {
        text.push_str(&format!("path \"{mount}/public_key\" {{\n  capabilities = [\"read\"]\n}}\n"));
    }
    text
}

/// `json!` of an object is one.
pub(super) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}

/// The wanted fields that are not as wanted. Fields that were not asked about are left alone.
pub(super) fn differences(found: &Map<String, Value>, wanted: &Map<String, Value>) -> Vec<Change> {
    wanted
        .iter()
        .filter_map(|(field, to)| {
            let from = found.get(field).unwrap_or(&Value::Null);
            (!same(from, to)).then(|| Change {
                field: field.clone(),
                from: shown(&readable(from)),
                to: readable(to),
            })
        })
        .collect()
}

fn same(found: &Value, wanted: &Value) -> bool {
    // A server that does not know a field yet does not have what it would switch on either.
    if found.is_null() && is_nothing(wanted) {
        return true;
    }
    match (found, wanted) {
        (Value::String(found), Value::String(wanted)) => parts(found) == parts(wanted),
        (found, wanted) => found == wanted,
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(yes) => !yes,
        Value::String(text) => text.is_empty() || text == "default",
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Number(_) => false,
    }
}

/// Vault keeps lists as text with commas, and their order means nothing.
fn parts(text: &str) -> BTreeSet<&str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn readable(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::String(text) if text.is_empty() => "nothing".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            mount: "ssh".into(),
            role: "forward".into(),
            policy: "tunnel-user".into(),
            principals: vec!["tunnel".into(), "dev".into()],
            ttl: Duration::from_secs(1800),
            max_ttl: Duration::from_secs(3600),
            host_mount: "ssh-host".into(),
            host_role: "bastion".into(),
            host_policy: "tunnel-bastion".into(),
            domains: vec!["example.com".into()],
            host_ttl: Duration::from_secs(86400),
            host_max_ttl: Duration::from_secs(30 * 86400),
            kubernetes: None,
        }
    }

    #[test]
    fn what_is_as_wanted_does_not_differ() {
        let role = wanted().user_role();
        assert_eq!(differences(&role, &role), []);
    }

    #[test]
    fn fields_of_the_server_alone_do_not_differ() {
        let mut found = wanted().user_role();
        found.insert("not_before_duration".into(), json!(30));
        found.insert("allowed_users".into(), json!("dev, tunnel"));
        assert_eq!(differences(&found, &wanted().user_role()), []);
    }

    #[test]
    fn an_older_server_without_a_switch_that_is_off_does_not_differ() {
        let mut found = wanted().user_role();
        found.remove("allow_empty_principals");
        assert_eq!(differences(&found, &wanted().user_role()), []);
    }

    #[test]
    fn what_differs_is_named_with_both_values() {
        let mut found = wanted().user_role();
        found.insert("max_ttl".into(), json!(86400));
        found.insert("default_extensions".into(), json!({ "permit-pty": "" }));
        let changes = differences(&found, &wanted().user_role());
        let told: Vec<_> =
            changes.iter().map(|c| (c.field.as_str(), c.from.as_str(), c.to.as_str())).collect();
        assert_eq!(
            told,
            [
                ("default_extensions", "{\"permit-pty\":\"\"}", "{\"permit-port-forwarding\":\"\"}"),
                ("max_ttl", "86400", "3600"),
            ]
        );
    }

    #[test]
    fn templates_are_switched_on_only_where_there_are_any() {
        let plain = wanted().user_role();
        assert_eq!(plain["allowed_users_template"], json!(false));
        assert_eq!(plain["default_user_template"], json!(false));
        let mut wanted = wanted();
        wanted.principals.push("{{identity.entity.name}}".into());
        assert_eq!(wanted.user_role()["allowed_users_template"], json!(true));
        assert_eq!(wanted.user_role()["default_user_template"], json!(false));
        wanted.principals.rotate_right(1);
        assert_eq!(wanted.user_role()["default_user_template"], json!(true));
    }

    #[test]
    fn the_policy_of_a_user_signs_with_one_role_and_writes_nothing_else() {
        let policy = wanted().user_policy();
        assert!(policy.contains("path \"ssh/sign/forward\" {\n  capabilities = [\"update\"]\n}"));
        assert_eq!(policy.matches("update").count(), 1);
        assert!(!policy.contains('*'));
    }
}
