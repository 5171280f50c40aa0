//! Everything that was measured, as JSON.

use std::{fmt, path::Path as File, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::{machine::Machine, path::Path, row::Row, statistics::Spread};

/// What a run found out.
pub(crate) struct Report {
    machine: Machine,
    rounds: u32,
    took: Duration,
    rows: Vec<Value>,
    left_out: Vec<String>,
}

impl Report {
    /// That of some lines, and of the works that have none.
    pub(crate) fn new(
        machine: Machine,
        rounds: u32,
        took: Duration,
        rows: &[Row],
        left_out: Vec<String>,
    ) -> Self {
        Self { machine, rounds, took, rows: rows.iter().map(line).collect(), left_out }
    }

    /// Writes it to a file.
    pub(crate) fn write(&self, file: &File) -> Result<()> {
        let all = json!({
            "machine": self.machine,
            "rounds": self.rounds,
            "seconds": self.took.as_secs(),
            "rows": self.rows,
            "left_out": self.left_out,
        });
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let text = serde_json::to_string_pretty(&all)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
        println!("All samples: {}", file.display());
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        writeln!(
            f,
            "Medians of {} rounds, in turn, with the least and the most; {} s in all.",
            self.rounds,
            self.took.as_secs()
        )?;
        if !self.left_out.is_empty() {
            writeln!(f, "LEFT OUT: {}", self.left_out.join(", "))?;
        }
        Ok(())
    }
}

fn line(row: &Row) -> Value {
    let mut paths = Map::new();
    for path in row.samples.keys() {
        let figures = row.figures(*path).map(spread);
        let ratios = row.ratios(*path, Path::OO).map(spread);
        paths.insert(
            path.name().to_owned(),
            json!({"samples": row.samples[path], "figures": figures, "ratios_to_oo": ratios}),
        );
    }
    let gates = row.gates.iter().map(|gate| {
        let reached = row.reached(gate);
        json!({
            "path": gate.path.name(),
            "ratio_to": gate.to.map(Path::name),
            "must": gate.must,
            "aim": gate.aim,
            "is": reached.map(|(figure, _)| figure),
            "reached": reached.map(|(_, reached)| reached.name()),
        })
    });
    json!({
        "work": row.work,
        "what": row.what,
        "unit": row.unit,
        "paths": paths,
        "gates": gates.collect::<Vec<_>>(),
    })
}

fn spread(spread: Spread) -> Value {
    json!({"median": spread.median, "least": spread.least, "most": spread.most})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Better;

    #[test]
    fn a_line_has_every_sample_and_what_came_of_it() {
        let samples = [(Path::OO, vec![Some(2.0), Some(4.0)]), (Path::RR, vec![Some(3.0), None])];
        let row = Row::new("echo", "echo of 64 bytes", "µs", Better::Lower, samples.into()).gate(
            Path::RR,
            1.0,
            0.8,
        );
        let line = line(&row);
        assert_eq!(line["paths"]["RR"]["samples"], json!([3.0, null]));
        assert_eq!(line["paths"]["OO"]["figures"], json!({"median": 3.0, "least": 2.0, "most": 4.0}));
        assert_eq!(line["paths"]["RR"]["ratios_to_oo"]["median"], json!(1.5));
        assert_eq!(line["gates"][0]["reached"], json!("missed"));
        assert_eq!(line["gates"][0]["is"], json!(1.5));
    }
}
