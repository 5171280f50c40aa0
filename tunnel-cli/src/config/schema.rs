//! Describes the configuration file as a JSON Schema, for editors and for `docs/configuration-client.md`.
//!
//! It is made from the types that read the file, so it knows the same keys. The parser remains the judge.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::file::File;

/// The schema of the whole file. It refers to nothing, so that it can become a part of another.
pub(crate) fn json_schema() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<File>().to_value();
    if let Some(properties) = schema.get_mut("properties") {
        empty_sections(properties);
    }
    schema
}

/// Lets each section be null, which reads as an empty one.
fn empty_sections(properties: &mut Value) {
    for property in properties.as_object_mut().into_iter().flat_map(|properties| properties.values_mut()) {
        if let Some(inner) = property.get_mut("properties") {
            empty_sections(inner);
        }
        match property.get_mut("type") {
            Some(kind) if *kind == "object" => *kind = json!(["object", "null"]),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every setting of the schema, with a value that its type takes.
    fn written(properties: &Value) -> Value {
        let value = |property: &Value| match property {
            _ if property["properties"].is_object() => written(&property["properties"]),
            _ if !property["default"].is_null() && !property["default"].is_object() => {
                property["default"].clone()
            }
            _ if property["additionalProperties"].is_object() => json!({}),
            _ => json!("text"),
        };
        let all = properties.as_object().unwrap().iter();
        all.map(|(name, property)| (name.clone(), value(property))).collect::<serde_json::Map<_, _>>().into()
    }

    #[test]
    fn the_parser_knows_every_key_of_the_schema_and_takes_every_default() {
        let schema = json_schema();
        assert!(!schema.to_string().contains("$ref"), "{schema}");
        let text = written(&schema["properties"]).to_string();
        let read: Result<File, _> = config_file::parse("pf-tunnel.yaml".as_ref(), &text);
        // The method and the sizes of keys are words of another crate.
        read.unwrap_or_else(|error| panic!("{error} in {text}"));
    }

    #[test]
    fn every_setting_is_described() {
        fn check(properties: &Value, above: &str) {
            for (name, property) in properties.as_object().unwrap() {
                let path = format!("{above}{name}");
                assert!(property["description"].as_str().is_some_and(|text| text.ends_with('.')), "{path}");
                if property["properties"].is_object() {
                    check(&property["properties"], &format!("{path}."));
                }
            }
        }
        check(&json_schema()["properties"], "");
    }
}
