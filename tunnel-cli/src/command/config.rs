//! Prints every setting that holds and where its value came from: `pf-tunnel config`.

use serde_json::json;

use crate::{
    config::{Settings, schema},
    failure::{Failure, exit_code},
    output::Output,
};

/// Prints the schema of the configuration file.
pub(super) fn print_schema(output: &Output) -> Result<u8, Failure> {
    output.own(format!("{:#}\n", schema::json_schema()).as_bytes());
    Ok(exit_code::OK)
}

/// Prints every setting.
pub(super) fn print(settings: &Settings, output: &Output) -> Result<u8, Failure> {
    let rows = settings.rows();
    if output.is_json() {
        for row in &rows {
            let value = (!row.source.is_empty()).then_some(&row.value);
            output.json(&json!({ "setting": row.name, "value": value, "source": row.source }));
        }
        return Ok(exit_code::OK);
    }
    let widest = |length: fn(&crate::config::Row) -> usize| rows.iter().map(length).max().unwrap_or(0);
    let name = widest(|row| row.name.chars().count());
    // One long value must not push every source off the screen.
    let value = widest(|row| row.value.chars().count()).min(60);
    for row in &rows {
        output.result(format!("{:name$}  {:value$}  {}", row.name, row.value, row.source).trim_end());
    }
    Ok(exit_code::OK)
}
