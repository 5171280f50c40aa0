//! `--print-config-schema`: prints the JSON Schema of the configuration.

use super::{Outcome, print};
use crate::config;

pub(super) fn print_schema() -> Outcome {
    let text = serde_json::to_string_pretty(&config::json_schema()).unwrap_or_default();
    print(format_args!("{text}\n"))
}
