//! The chart's documents that are made of others: the schema of its values, and the table of them in its README.

use std::fs;
use std::path::PathBuf;

use k8s_openapi::api::{apps, autoscaling, core, rbac};
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::process::workspace;

/// Where the table of values begins in the README.
pub const MARK: &str = "<!-- values -->\n";

/// The chart's folder.
#[must_use]
pub fn folder() -> PathBuf {
    workspace().join("deploy/charts/bastion")
}

/// A file of the chart.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn file(name: &str) -> String {
    let path = folder().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// YAML, whose keys keep their order.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The values files in `ci/`, by name without `-values.yaml`, in the order of the names.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn cases() -> Vec<(String, PathBuf)> {
    let mut found: Vec<_> = fs::read_dir(folder().join("ci"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name.strip_suffix("-values.yaml").expect("a name that ends in -values.yaml").to_owned(), path)
        })
        .collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

/// `values.schema.json`: the base in our own hand, with the bastion's schema and those of Kubernetes where it asks for them.
///
/// # Panics
/// When the base asks for what is not known here.
#[must_use]
pub fn schema(mut config: Value) -> String {
    let mut generator = SchemaSettings::draft07().into_generator();
    let mut schema = yaml(&file("values.schema.base.yaml"));
    resolve(&mut schema, &mut generator);
    let definitions = schema["definitions"].as_object_mut().expect("definitions");
    definitions.extend(generator.take_definitions(true));
    tidy(&mut schema);
    // The bastion's own words about its settings are for editors: they stay.
    let config = config.as_object_mut().expect("a schema that is an object");
    config.retain(|key, _| key != "$schema" && key != "title");
    // The chart adds it where it is not said.
    let required = config["required"].as_array_mut().expect("what the bastion requires");
    required.retain(|key| key != "host_key");
    // Probes ask it, and the bastion alone could do without.
    required.push(json!("admin"));
    schema["properties"]["config"] = Value::Object(config.clone());
    require(&mut schema, &yaml(&file("values.yaml")));
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!("Values of the chart bastion");
    serde_json::to_string(&schema).unwrap() + "\n"
}

/// Puts in the types that are asked for by `kubernetes: TYPE`.
fn resolve(schema: &mut Value, generator: &mut SchemaGenerator) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(kind)) = map.get("kubernetes") {
                *schema = kubernetes(kind, generator);
            } else {
                map.values_mut().for_each(|value| resolve(value, generator));
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| resolve(value, generator)),
        _ => {}
    }
}

fn kubernetes(kind: &str, generator: &mut SchemaGenerator) -> Value {
    fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
        generator.subschema_for::<T>().to_value()
    }
    match kind {
        "Affinity" => of::<core::v1::Affinity>(generator),
        "Container" => of::<core::v1::Container>(generator),
        "DeploymentStrategy" => of::<apps::v1::DeploymentStrategy>(generator),
        "EnvVar" => of::<core::v1::EnvVar>(generator),
        "HorizontalPodAutoscalerBehavior" => {
            of::<autoscaling::v2::HorizontalPodAutoscalerBehavior>(generator)
        }
        "LocalObjectReference" => of::<core::v1::LocalObjectReference>(generator),
        "PodSecurityContext" => of::<core::v1::PodSecurityContext>(generator),
        "Probe" => of::<core::v1::Probe>(generator),
        "ResourceRequirements" => of::<core::v1::ResourceRequirements>(generator),
        "SecurityContext" => of::<core::v1::SecurityContext>(generator),
        "Subject" => of::<rbac::v1::Subject>(generator),
        "Toleration" => of::<core::v1::Toleration>(generator),
        "TopologySpreadConstraint" => of::<core::v1::TopologySpreadConstraint>(generator),
        "Volume" => of::<core::v1::Volume>(generator),
        "VolumeMount" => of::<core::v1::VolumeMount>(generator),
        _ => panic!("values.schema.base.yaml asks for an unknown type of Kubernetes: {kind}"),
    }
}

/// Closes every object that says which properties it has, and leaves out what no validator reads.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("x-kubernetes-int-or-string").is_some() {
                *schema = json!({"type": ["integer", "number", "string"]});
                return;
            }
            if map.get("properties").is_some_and(Value::is_object)
                && !map.contains_key("additionalProperties")
            {
                map.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
            for (key, value) in map.iter_mut() {
                // A property may be called as a keyword is.
                if let ("properties" | "definitions" | "patternProperties", Value::Object(children)) =
                    (key.as_str(), &mut *value)
                {
                    children.values_mut().for_each(tidy);
                } else {
                    tidy(value);
                }
            }
            if map.contains_key("type") || map.contains_key("$ref") {
                map.retain(|key, value| !(key == "description" && value.is_string()) && key != "format");
            }
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// Has each value be there that has a default and is not said to be null: Helm takes away what somebody sets to null.
fn require(schema: &mut Value, defaults: &Value) {
    let Some(defaults) = defaults.as_object() else { return };
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    let mut required = Vec::new();
    for (name, default) in defaults {
        let property = properties.get_mut(name).unwrap_or_else(|| panic!("the schema does not know {name}"));
        if !may_be_null(property) {
            required.push(json!(name));
        }
        // The bastion's own says it by itself.
        if name != "config" {
            require(property, default);
        }
    }
    schema["required"] = Value::Array(required);
}

fn may_be_null(schema: &Value) -> bool {
    let is_null = |kind: &Value| kind == "null";
    let kinds = schema["type"].as_array().into_iter().flatten();
    let others = schema["anyOf"].as_array().into_iter().flatten().map(|other| &other["type"]);
    kinds.chain(others).any(is_null)
}

/// A value that is explained in `values.yaml`.
struct Explained {
    path: String,
    words: String,
}

/// The table of values, made of the comments in `values.yaml`.
///
/// # Panics
/// When a value is explained nowhere.
#[must_use]
pub fn readme() -> String {
    let text = file("values.yaml");
    let values = yaml(&text);
    let sections = explained(&text);
    let known: Vec<&str> = sections.iter().flat_map(|(_, rows)| rows).map(|row| row.path.as_str()).collect();
    for leaf in leaves(&values) {
        let said = known.iter().any(|path| leaf == *path || leaf.starts_with(&format!("{path}.")));
        assert!(said, "values.yaml explains {leaf} nowhere");
    }
    let mut table = String::new();
    for (title, rows) in &sections {
        table.push_str(&format!("\n### {title}\n\n| value | default | meaning |\n|---|---|---|\n"));
        for row in rows {
            let inside = known.iter().any(|path| path.starts_with(&format!("{}.", row.path)));
            let value = row.path.split('.').fold(&values, |value, key| &value[key]);
            let default = if inside { String::new() } else { format!("`{value}`") };
            let words = row.words.replace('|', "\\|");
            table.push_str(&format!("| `{}` | {} | {words} |\n", row.path, default.replace('|', "\\|")));
        }
    }
    table
}

/// The sections of `values.yaml` and what they explain, in its order.
fn explained(text: &str) -> Vec<(String, Vec<Explained>)> {
    let mut sections: Vec<(String, Vec<Explained>)> = Vec::new();
    let mut words: Vec<&str> = Vec::new();
    let mut path: Vec<(usize, &str)> = Vec::new();
    for line in text.lines() {
        let content = line.trim_start();
        let depth = line.len() - content.len();
        if let Some(title) = content.strip_prefix("# == ") {
            sections.push((title.to_owned(), Vec::new()));
            words.clear();
        } else if let Some(comment) = content.strip_prefix('#') {
            words.push(comment.trim());
        } else if let Some((key, _)) = content.split_once(':').filter(|(key, _)| !key.starts_with(['-', '{']))
        {
            path.retain(|(outer, _)| *outer < depth);
            path.push((depth, key));
            if !words.is_empty() {
                let path: Vec<_> = path.iter().map(|(_, key)| *key).collect();
                let row = Explained { path: path.join("."), words: words.join(" ") };
                sections.last_mut().expect("a section before the first value").1.push(row);
                words.clear();
            }
        } else if content.is_empty() {
            words.clear();
        }
    }
    sections
}

/// The paths of all values that hold no more values. An empty map is one.
#[must_use]
pub fn leaves(values: &Value) -> Vec<String> {
    fn walk(path: &str, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) if !map.is_empty() => below(path, map, found),
            _ => found.push(path.to_owned()),
        }
    }
    fn below(path: &str, map: &Map<String, Value>, found: &mut Vec<String>) {
        for (key, value) in map {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            walk(&path, value, found);
        }
    }
    let mut found = Vec::new();
    below("", values.as_object().expect("values are a map"), &mut found);
    found
}
