//! Writes the documents of charts anew, or says which of them are old.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use chart_documents::documents;
use clap::Parser;

/// Writes `values.schema.json`, the table of values in README.md, and the template of the defaults where a
/// chart has one.
#[derive(Parser)]
struct Cli {
    /// Folders of charts.
    #[arg(required = true)]
    charts: Vec<PathBuf>,
    /// Writes nothing, and fails when a document is not as it would be written.
    #[arg(long)]
    check: bool,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    for chart in &cli.charts {
        for document in documents(chart).with_context(|| chart.display().to_string())? {
            let path = document.path.display();
            if cli.check {
                ensure!(document.is_current(), "{path} is old: `make chart-documents` writes it anew");
            } else {
                document.write()?;
            }
        }
    }
    Ok(())
}
