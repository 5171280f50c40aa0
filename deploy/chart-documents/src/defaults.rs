//! The template that holds a chart's defaults, for the chart to fall back on.
//!
//! Helm takes a default away when an operator writes `null` or leaves a key empty, and does not add new
//! defaults under `--reuse-values`. A chart whose templates merge `.Values` over this template renders as if
//! the key had not been mentioned.

use anyhow::Result;

use serde_json::Value;

/// Where the template stands in a chart.
pub(crate) const PATH: &str = "templates/_defaults.tpl";

pub(crate) fn template(chart: &str, values: &Value) -> Result<String> {
    let text = serde_json::to_string(values)?;
    // A template would be read in it.
    anyhow::ensure!(!text.contains("{{") || !text.contains("}}"), "values.yaml: a default holds a template");
    Ok(format!(
        "{{{{/* Made of values.yaml by `make chart-documents`. */}}}}\n{{{{- define \"{chart}.defaults\" -}}}}\n{}\n{{{{- end -}}}}\n",
        text
    ))
}
