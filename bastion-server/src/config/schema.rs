//! Describes the configuration as a JSON Schema, for editors and for templates that render the file.
//!
//! The schema is made from the types that parse the file, so both know the same keys; where a type parses a
//! text, a pattern describes it. The parser is stricter: a schema cannot express, for example, that a network
//! has no bits to the right of its prefix. The patterns have the same meaning in the dialects of JavaScript,
//! Go and Rust.

use std::net::SocketAddr;

use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde::de::{Deserialize, Deserializer, Error};
use serde_json::Value;

use super::Config;

pub(super) const HOST_NAME: &str = r"^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?$";
pub(super) const PUBLIC_KEY: &str = r"^[a-z0-9@.-]+ AAAA[A-Za-z0-9+/=]+( .*)?\s*$";
pub(super) const FINGERPRINT: &str = r"^SHA256:[A-Za-z0-9+/]{43}$";
pub(super) const LOGIN_NAME: &str = r"^[A-Za-z0-9._@-]{1,64}$";
pub(super) const PRINCIPAL: &str = r"^[^,*?\x00]+$";

const ADDRESS: &str = r"^((\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)$";
const NETWORK: &str = r"^((\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)/\d{1,3}$";
const SOCKET_ADDRESS: &str = r"^((\d{1,3}\.){3}\d{1,3}|\[[0-9A-Fa-f:.%]+\]):\d{1,5}$";
const NAME_SERVER: &str =
    r"^((\d{1,3}\.){3}\d{1,3}(:\d{1,5})?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*|\[[0-9A-Fa-f:.%]+\]:\d{1,5})$";

/// An IPv4 or IPv6 address.
#[derive(JsonSchema)]
#[schemars(with = "String", extend("pattern" = ADDRESS))]
pub(super) enum Address {}

/// An IPv4 or IPv6 network with its prefix, such as `10.0.0.0/8`.
#[derive(JsonSchema)]
#[schemars(with = "String", extend("pattern" = NETWORK))]
pub(crate) enum Network {}

/// An IP address and a port, such as `0.0.0.0:2222` or `[::]:2222`.
#[derive(JsonSchema)]
#[schemars(with = "String", extend("pattern" = SOCKET_ADDRESS))]
pub(super) enum SocketAddress {}

/// An IP address, with or without a port.
#[derive(JsonSchema)]
#[schemars(with = "String", extend("pattern" = NAME_SERVER))]
pub(super) enum NameServer {}

/// Parses an address and a port to listen on.
pub(super) fn socket_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(|_| {
        D::Error::custom(
            "this is no address with a port; write 0.0.0.0:2222 for every IPv4 address, [::]:2222 for IPv6 too, \
             or 127.0.0.1:2222 for localhost",
        )
    })
}

/// The schema of the whole file. It contains no references, so that it can be embedded in another schema.
pub fn json_schema() -> Schema {
    let mut schema = SchemaSettings::draft07()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<Config>();
    if let Some(settings) = schema.get_mut("properties") {
        let _ = empty_sections(settings);
    }
    schema
}

/// Lets each section be null, which means an empty section, where the section has no required key.
fn empty_sections(properties: &mut Value) -> Option<()> {
    for property in properties.as_object_mut()?.values_mut() {
        if let Some(inner) = property.get_mut("properties") {
            let _ = empty_sections(inner);
        }
        let may_be_empty =
            ["required", "minItems", "oneOf", "anyOf"].iter().all(|word| property.get(word).is_none());
        match property.get_mut("type") {
            Some(kind) if may_be_empty && (kind == "object" || kind == "array") => {
                *kind = Value::from(vec![kind.take(), Value::from("null")]);
            }
            _ => {}
        }
    }
    Some(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;

    fn value(text: &str) -> Value {
        config_file::parse("bastion.yaml".as_ref(), text).unwrap()
    }

    /// Returns the schema's complaint about a file with this text, which must be YAML.
    pub(crate) fn complaint(text: &str) -> Option<String> {
        let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
        compiler.add_resource("bastion.schema.json", json_schema().to_value()).unwrap();
        // Fails if the schema itself is invalid.
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
        // Every setting is in the example.
        let names = |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
        assert_eq!(names(&json_schema().to_value()["properties"]), names(&value(&example)));
    }

    /// Every setting that holds others, at any depth, with everything under it commented out.
    #[test]
    fn an_empty_section_is_taken_by_schema_and_parser_alike() {
        fn sections(schema: &Value, path: &str, found: &mut Vec<(String, bool)>) {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                let path = if path.is_empty() { name.clone() } else { format!("{path}: {{{name}") };
                let kinds = property["type"]
                    .as_str()
                    .into_iter()
                    .chain(property["type"].as_array().into_iter().flatten().filter_map(Value::as_str));
                let kinds: Vec<&str> = kinds.collect();
                if kinds.iter().any(|kind| ["object", "array"].contains(kind)) {
                    found.push((path.clone(), kinds.contains(&"null")));
                }
                sections(property, &path, found);
            }
        }
        let mut found = Vec::new();
        sections(&json_schema().to_value(), "", &mut found);
        let parse = |text: &str| config_file::parse::<Config>("bastion.yaml".as_ref(), text);
        let smallest = "listen: 127.0.0.1:0\nauthorities: [{file: ca.pub}]\nlogin: {users: [tunnel]}\nhost_key: {generate: true}\n";
        let mut taken = 0;
        for (path, may_be_empty) in found {
            let (first, close) = (path.split(':').next().unwrap(), "}".repeat(path.matches('{').count()));
            if smallest.contains(&format!("{first}:")) {
                continue;
            }
            let text = |value: &str| format!("{smallest}{path}: {value}{close}\n");
            let (empty, nothing) = (text("~"), text(""));
            match parse(&empty) {
                Ok(config) => {
                    assert!(may_be_empty, "the schema refuses {empty}");
                    assert_eq!(complaint(&empty), None, "{path}");
                    // An option is skipped here if its type cannot be empty.
                    let Ok(written) = parse(&text("{}")).or_else(|_| parse(&text("[]"))) else { continue };
                    assert_eq!(config, written, "{path}");
                    assert_eq!(parse(&nothing).unwrap(), written, "{path}");
                    taken += 1;
                }
                Err(error) => {
                    assert!(!may_be_empty || error.to_string().contains("missing"), "{empty}{error}")
                }
            }
        }
        assert!(taken > 20, "{taken} sections may be empty");
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
