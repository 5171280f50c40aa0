//! The configuration as a JSON Schema: for editors, and for whoever renders the file from a template.
//!
//! It is made from the types that read the file, so it knows the same words; where a type takes a text apart, a pattern
//! says what such a text looks like. The parser remains the judge: a schema cannot tell, for one, that a network has
//! bits to the right of its prefix. The patterns mean the same in the dialects of JavaScript, Go and Rust.

use schemars::{JsonSchema, Schema, generate::SchemaSettings};

use super::Config;

pub(super) const HOST_NAME: &str = r"^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?$";
pub(super) const PUBLIC_KEY: &str = r"^[a-z0-9@.-]+ AAAA[A-Za-z0-9+/=]+( .*)?$";
pub(super) const FINGERPRINT: &str = r"^SHA256:[A-Za-z0-9+/]{43}$";
pub(super) const PRINCIPAL: &str = r"^[A-Za-z0-9._@-]{1,64}$";

const ADDRESS: &str = r"^((\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)$";
const NETWORK: &str = r"^((\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)/\d{1,3}$";
const SOCKET_ADDRESS: &str = r"^((\d{1,3}\.){3}\d{1,3}|\[[0-9A-Fa-f:.%]+\]):\d{1,5}$";
const NAME_SERVER: &str =
    r"^((\d{1,3}\.){3}\d{1,3}(:\d{1,5})?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*|\[[0-9A-Fa-f:.%]+\]:\d{1,5})$";

/// The text of an address.
#[derive(JsonSchema)]
#[schemars(with = "String", extend("pattern" = ADDRESS))]
pub(super) enum Address {}

/// The text of a network with its prefix, such as `10.0.0.0/8`.
#[derive(JsonSchema)]
#[schemars(with = "String", extend("pattern" = NETWORK))]
pub(crate) enum Network {}

/// The text of an address and a port.
#[derive(JsonSchema)]
#[schemars(with = "String", extend("pattern" = SOCKET_ADDRESS))]
pub(super) enum SocketAddress {}

/// The text of an address, with a port or without.
#[derive(JsonSchema)]
#[schemars(with = "String", extend("pattern" = NAME_SERVER))]
pub(super) enum NameServer {}

/// The schema of the whole file. It refers to nothing, not even within itself, so that it can become a part of another.
pub fn json_schema() -> Schema {
    SchemaSettings::draft07()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<Config>()
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::*;

    fn value(text: &str) -> Value {
        config_file::parse("bastion.yaml".as_ref(), text).unwrap()
    }

    /// What the schema has against a file with this text, which must be YAML.
    pub(crate) fn complaint(text: &str) -> Option<String> {
        let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
        compiler.add_resource("bastion.schema.json", json_schema().to_value()).unwrap();
        // Fails if this is no schema.
        let schema = compiler.compile("bastion.schema.json", &mut schemas).unwrap();
        schemas.validate(&value(text), schema).err().map(|error| error.to_string())
    }

    #[test]
    fn it_is_in_one_piece() {
        assert!(!json_schema().to_value().to_string().contains("\"$ref\""));
    }

    #[test]
    fn the_example_is_accepted_and_has_every_setting() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/bastion.yaml");
        let example = std::fs::read_to_string(example).unwrap();
        assert_eq!(complaint(&example), None);
        // Whatever can be set stands in the example.
        let names = |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
        assert_eq!(names(&json_schema().to_value()["properties"]), names(&value(&example)));
    }

    #[test]
    fn what_people_write_is_accepted() {
        let smallest = "listen: 127.0.0.1:0\nauthorities: [{file: ca.pub}]\nlogin: {users: [tunnel]}\n";
        for more in [
            "host_key: {generate: true}",
            "host_key: {file: key}",
            "host_key: {file: key, certificate: key-cert.pub}",
            "host_key: {vault: {mount: ssh-host, role: bastion}}",
        ] {
            assert_eq!(complaint(&format!("{smallest}{more}\n")), None, "{more}");
        }
        for more in [
            "vault: {auth: {method: token}}",
            "vault: {auth: {method: token, token_file: token}}",
            "vault: {auth: {method: approle, role_id: id, secret_id_file: secret}}",
            "vault: {auth: {method: userpass, username: me, password_file: password, mount: people}}",
            "vault: {auth: {method: kubernetes, role: bastion, token_file: token}}",
            "proxy_protocol: {mode: off}",
            "proxy_protocol: {mode: required, trusted: [10.0.0.0/8, \"fd00::/8\"]}",
            "hosts: {orders.internal: [10.20.3.4, \"fd00::1\"]}",
            "dns: {servers: [10.96.0.10, \"127.0.0.1:5353\", \"fd00::a\", \"[fd00::a]:53\"]}",
            "drain: {readiness_delay: 0s, timeout: 1h 30m}",
            "limits: {per_identity: {bytes_per_second: 50MiB}}",
            "audit: {to: {file: /var/log/audit.jsonl}, when_full: count}",
            "admin: {listen: \"[::]:8080\"}",
            "rules: [{name: a, who: {everybody: true}, to: [\"*:*\", \"[2001:db8::/32]:443\", \"10.0.0.0/8:1-9\"]}]",
            "rules: [{name: a, who: {principals: [dev], key_ids: [\"x-*\"]}, deny: [\"*.example.com:443\"]}]",
        ] {
            let text = format!("{smallest}host_key: {{generate: true}}\n{more}\n");
            config_file::parse::<Config>("bastion.yaml".as_ref(), &text).unwrap();
            assert_eq!(complaint(&text), None, "{more}");
        }
    }
}
