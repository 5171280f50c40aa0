//! Makes those files of a chart that follow from its `values.yaml`: the schema of the values, the table of
//! them in the README, and the template of the defaults.
//!
//! What a value may be stands in the chart's `values.schema.base.yaml`, in JSON Schema with a few words of
//! our own (`schema.rs`); what it means, in the comments of `values.yaml` (`readme.rs`); what holds where an
//! operator takes it away is in `defaults.rs`.
#![expect(clippy::indexing_slicing, reason = "what is indexed is JSON, where what is missing is null")]

mod defaults;
mod kubernetes;
mod readme;
mod schema;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use schema::Nulls;

pub use readme::MARK;

/// A file that is made of others, and what it should hold.
#[derive(Debug)]
pub struct Document {
    /// Where it stands.
    pub path: PathBuf,
    /// All of it.
    pub text: String,
}

impl Document {
    /// Whether the file holds what it should.
    #[must_use]
    pub fn is_current(&self) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|found| found == self.text)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self) -> Result<()> {
        fs::write(&self.path, &self.text).with_context(|| self.path.display().to_string())
    }
}

/// All documents of a chart.
///
/// # Errors
/// When a file of the chart is missing or not what it should be, or a value is explained nowhere or not known
/// to the schema.
pub fn documents(chart: &Path) -> Result<Vec<Document>> {
    let document = |name: &str, text| Document { path: chart.join(name), text };
    let values = read(&chart.join("values.yaml"))?;
    let base = schema::Base::read(&chart.join(schema::BASE))?;
    let name =
        yaml(&read(&chart.join("Chart.yaml"))?)?["name"].as_str().context("Chart.yaml: no name")?.to_owned();
    let mut found = vec![
        document("values.schema.json", base.schema(&name, &yaml(&values)?)?),
        document("README.md", readme::whole(&read(&chart.join("README.md"))?, &values)?),
    ];
    let values = yaml(&values)?;
    match base.nulls() {
        Nulls::Missed => {}
        Nulls::Defaults => found.push(document(defaults::PATH, defaults::template(&name, &values)?)),
        Nulls::Said => {
            found.push(document(defaults::PATH, defaults::template(&name, &base.fallbacks(&values)?)?));
        }
    }
    Ok(found)
}

/// Reads YAML, whose keys keep their order.
///
/// # Errors
/// When the text is none.
pub fn yaml(text: &str) -> Result<Value> {
    serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{error}\n{text}"))
}

/// The paths of all values that hold no more values. An empty map is one.
#[must_use]
pub fn leaves(values: &Value) -> Vec<String> {
    fn below(path: &str, map: &Map<String, Value>, found: &mut Vec<String>) {
        for (key, value) in map {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match value {
                Value::Object(map) if !map.is_empty() => below(&path, map, found),
                _ => found.push(path),
            }
        }
    }
    let mut found = Vec::new();
    if let Some(map) = values.as_object() {
        below("", map, &mut found);
    }
    found
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}
