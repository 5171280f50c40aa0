//! The schema of a chart's values, made of `values.schema.base.yaml`.
//!
//! The base is JSON Schema, in which an object with `properties` takes no others. It may hold besides:
//! - `kubernetes: TYPE` in place of a schema: Kubernetes' own type.
//! - `program: bastion-server` in place of a schema: that of the program's configuration file. `required` and
//!   `optional` name settings that the chart asks for, or adds, beyond what the program does.
//! - at the top, `include: FILE`: definitions of another base, of which those are taken that are referred to.
//! - at the top, `nulls: defaults`: what is null or missing holds its default. `nulls: said`: the same, but
//!   null where the base has it among the types says something else, as it does within Kubernetes' own types
//!   and programs' files. Otherwise each value that has a default must be there.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Value, json};

use crate::{kubernetes, read, yaml};

/// What the base is called in a chart.
pub(crate) const BASE: &str = "values.schema.base.yaml";

/// A chart's base.
pub(crate) struct Base {
    schema: Value,
    included: Option<Value>,
    nulls: Nulls,
}

/// What becomes of a value that has a default and is null, or missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nulls {
    /// It is refused.
    Missed,
    /// It holds its default.
    Defaults,
    /// It holds its default, but where the base says what null means.
    Said,
}

impl Base {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let mut schema = yaml(&read(path)?)?;
        let top = schema.as_object_mut().with_context(|| format!("{}: not an object", path.display()))?;
        let mut take = |name: &str| {
            let word = top.get(name).cloned();
            top.retain(|key, _| key != name);
            word
        };
        let (include, nulls) = (take("include"), take("nulls"));
        let included = match include {
            None => None,
            Some(Value::String(name)) => {
                let other: PathBuf = path.parent().context("a base in a folder")?.join(name);
                Some(yaml(&read(&other)?)?["definitions"].take())
            }
            Some(other) => bail!("{}: include names a file, and is {other}", path.display()),
        };
        let nulls = match nulls.as_ref().map(Value::as_str) {
            None => Nulls::Missed,
            Some(Some("defaults")) => Nulls::Defaults,
            Some(Some("said")) => Nulls::Said,
            Some(_) => bail!("{}: nulls is `defaults`, `said` or nothing", path.display()),
        };
        Ok(Self { schema, included, nulls })
    }

    pub(crate) fn nulls(&self) -> Nulls {
        self.nulls
    }

    /// The defaults that a template puts where nothing is: `{"=": DEFAULT}` each, by name; `{"~": DEFAULT}`
    /// for those that may be null by themselves, which only hold where the map around them is missing. Of a
    /// program's file only what the program cannot be without.
    pub(crate) fn fallbacks(&self, values: &Value) -> Result<Value> {
        fallbacks(&self.schema, values)
    }

    /// `values.schema.json` of the chart that is called so and has these defaults.
    pub(crate) fn schema(&self, chart: &str, defaults: &Value) -> Result<String> {
        let mut generator = SchemaSettings::draft07().into_generator();
        let mut schema = self.schema.clone();
        if let Some(included) = &self.included {
            include(&mut schema, included)?;
        }
        if self.nulls == Nulls::Defaults {
            // A name that is not known is refused with those that are: the near one is among them.
            name_properties(&mut schema);
        }
        resolve(&mut schema, &mut generator)?;
        let definitions = schema["definitions"].as_object_mut().context("no definitions")?;
        definitions.extend(generator.take_definitions(true));
        tidy(&mut schema);
        require(&mut schema, defaults, "", self.nulls == Nulls::Missed)?;
        if self.nulls == Nulls::Said {
            let_through(&mut schema, defaults);
        }
        // Their words about settings are for editors, and stay.
        programs(&mut schema)?;
        if self.nulls == Nulls::Said {
            not_required(&mut schema, defaults);
            for part in ["properties", "definitions"] {
                schema[part].as_object_mut().context("no schemas")?.values_mut().for_each(nullable);
            }
        }
        schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
        schema["title"] = json!(format!("Values of the chart {chart}"));
        Ok(serde_json::to_string(&schema)? + "\n")
    }
}

/// Adds the definitions that the schema refers to and does not have.
fn include(schema: &mut Value, included: &Value) -> Result<()> {
    loop {
        let mut wanted = Vec::new();
        references(schema, &mut wanted);
        wanted.retain(|name| schema["definitions"].get(name).is_none());
        if wanted.is_empty() {
            return Ok(());
        }
        for name in wanted {
            let definition = included.get(&name).with_context(|| format!("no definition {name}"))?;
            schema["definitions"][name] = definition.clone();
        }
    }
}

fn references(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str)
                && let Some(name) = name.strip_prefix("#/definitions/")
            {
                found.push(name.to_owned());
            }
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

/// Says of each object which names its properties may have.
fn name_properties(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(names) = map.get("properties").and_then(Value::as_object)
                && !map.contains_key("propertyNames")
                && !map.contains_key("additionalProperties")
            {
                let names: Vec<_> = names.keys().cloned().collect();
                map.insert("propertyNames".to_owned(), json!({"enum": names}));
                map.insert("additionalProperties".to_owned(), Value::Bool(true));
            }
            map.values_mut().for_each(name_properties);
        }
        Value::Array(list) => list.iter_mut().for_each(name_properties),
        _ => {}
    }
}

/// Puts in the types that are asked for by `kubernetes: TYPE`.
fn resolve(schema: &mut Value, generator: &mut SchemaGenerator) -> Result<()> {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(kind)) = map.get("kubernetes") {
                *schema = kubernetes::schema(kind, generator)?;
                return Ok(());
            }
            map.values_mut().try_for_each(|value| resolve(value, generator))
        }
        Value::Array(list) => list.iter_mut().try_for_each(|value| resolve(value, generator)),
        _ => Ok(()),
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

/// Has the schema know each value that has a default, and where `must` is set, has each be there that is not
/// said to be null: Helm takes away what an operator sets to null.
fn require(schema: &mut Value, defaults: &Value, path: &str, must: bool) -> Result<()> {
    let Some(defaults) = defaults.as_object() else { return Ok(()) };
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return Ok(()) };
    let mut required = Vec::new();
    for (name, default) in defaults {
        let path = format!("{path}/{name}");
        let property = properties.get_mut(name).with_context(|| format!("{BASE} does not know {path}"))?;
        if !may_be_null(property) {
            required.push(json!(name));
        }
        require(property, default, &path, must)?;
    }
    if must {
        schema["required"] = Value::Array(required);
    }
    Ok(())
}

fn fallbacks(schema: &Value, values: &Value) -> Result<Value> {
    let mut found = serde_json::Map::new();
    for (name, default) in values.as_object().into_iter().flatten() {
        let property = &schema["properties"][name];
        if property.get("program").is_some() {
            let mut program = property.clone();
            programs(&mut program)?;
            found.insert(name.clone(), needed(&program, default));
        } else if may_be_null(property) {
            // Where the map around it is missing, no one has said null.
            found.insert(name.clone(), json!({"~": default}));
        } else {
            let inside = default.is_object() && property.get("properties").is_some();
            let default = if inside { fallbacks(property, default)? } else { json!({"=": default}) };
            found.insert(name.clone(), default);
        }
    }
    Ok(Value::Object(found))
}

/// Of these defaults the ones that the schema requires.
fn needed(schema: &Value, values: &Value) -> Value {
    let Some(required) = schema["required"].as_array() else { return json!({"=": values}) };
    let names = required.iter().filter_map(Value::as_str).filter(|name| values.get(name).is_some());
    names.map(|name| (name.to_owned(), needed(&schema["properties"][name], &values[name]))).collect()
}

/// Lets scalars through where the default is a text: a template says that they are to be put into quotes.
fn let_through(schema: &mut Value, defaults: &Value) {
    for (name, default) in defaults.as_object().into_iter().flatten() {
        let Some(property) = schema.get_mut("properties").and_then(|properties| properties.get_mut(name))
        else {
            continue;
        };
        if property["type"] == "string" && default.is_string() {
            property["type"] = json!(["string", "number", "boolean"]);
        }
        let_through(property, default);
    }
}

/// Requires nothing that has a default.
fn not_required(schema: &mut Value, defaults: &Value) {
    let Some(defaults) = defaults.as_object() else { return };
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| name.as_str().is_none_or(|name| !defaults.contains_key(name)));
    }
    for (name, default) in defaults {
        if let Some(property) = schema.get_mut("properties").and_then(|properties| properties.get_mut(name)) {
            not_required(property, default);
        }
    }
}

/// Lets a property be null, and all in it.
fn nullable(schema: &mut Value) {
    within(schema);
    let Some(map) = schema.as_object_mut() else { return };
    if ["oneOf", "anyOf", "allOf", "not", "const"].iter().any(|word| map.contains_key(*word)) {
        if !may_be_null(schema) {
            *schema = json!({"anyOf": [schema.take(), {"type": "null"}]});
        }
        return;
    }
    if let Some(Value::Array(values)) = map.get_mut("enum") {
        values.push(Value::Null);
    }
    match map.get_mut("type") {
        Some(Value::Array(kinds)) if !kinds.contains(&json!("null")) => kinds.push(json!("null")),
        Some(kind @ Value::String(_)) => *kind = json!([kind.take(), "null"]),
        _ => {}
    }
}

/// The properties in it, and not itself: an item of a list is there or is not.
fn within(schema: &mut Value) {
    for (key, inner) in schema.as_object_mut().into_iter().flatten() {
        match (key.as_str(), inner) {
            ("properties" | "patternProperties", Value::Object(children)) => {
                children.values_mut().for_each(nullable);
            }
            ("additionalProperties", inner) => nullable(inner),
            ("items", inner) => within(inner),
            ("allOf" | "anyOf" | "oneOf", Value::Array(others)) => others.iter_mut().for_each(within),
            _ => {}
        }
    }
}

fn may_be_null(schema: &Value) -> bool {
    let is_null = |kind: &Value| kind == "null";
    let kinds = schema["type"].as_array().into_iter().flatten();
    let others = schema["anyOf"].as_array().into_iter().flatten().map(|other| &other["type"]);
    kinds.chain(others).any(is_null)
}

/// Puts in the schemas of programs' configuration files.
fn programs(schema: &mut Value) -> Result<()> {
    match schema {
        Value::Object(map) => {
            let Some(Value::String(name)) = map.get("program") else {
                return map.values_mut().try_for_each(programs);
            };
            ensure!(name == "bastion-server", "no program {name} has a schema here");
            let mut config = bastion_server::json_schema().to_value();
            let config = config.as_object_mut().context("a schema that is an object")?;
            config.retain(|key, _| key != "$schema" && key != "title");
            let settings = config["required"].as_array_mut().context("what the program requires")?;
            let listed = |word: &str| map.get(word).and_then(Value::as_array).cloned().unwrap_or_default();
            let optional = listed("optional");
            settings.retain(|setting| !optional.contains(setting));
            settings.extend(listed("required"));
            *schema = Value::Object(config.clone());
            Ok(())
        }
        Value::Array(list) => list.iter_mut().try_for_each(programs),
        _ => Ok(()),
    }
}
