//! One table of all cases, for people and as JSON.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use serde::{Deserialize, Serialize};
use tests::process::Program;

use crate::{
    peer::Peer,
    report::Report,
    row::{ELSEWHERE, Row, Today},
};

/// How one case went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    /// The row.
    pub row: String,
    /// The column.
    pub peer: Peer,
    /// What was measured; none where the case did not come to its end.
    pub report: Option<Report>,
    /// Why it is not as expected, if it is not.
    pub disagrees: Option<String>,
    /// How long it took.
    pub seconds: f64,
}

impl Cell {
    fn text(&self) -> String {
        let Some(report) = &self.report else {
            return format!("did not end: {}", self.disagrees.as_deref().unwrap_or_default());
        };
        let mark = if report.checks.iter().all(|check| check.holds) { "kept" } else { "LOST" };
        format!("{mark}: {}", report.summary())
    }
}

/// The whole run.
#[derive(Debug, Serialize)]
pub struct Table {
    /// On what it ran.
    pub machine: BTreeMap<String, String>,
    /// Every case.
    pub cells: Vec<Cell>,
}

impl Table {
    /// A table of these cases.
    #[must_use]
    pub fn new(cells: Vec<Cell>) -> Self {
        Self { machine: machine(), cells }
    }

    /// For people.
    #[must_use]
    pub fn text(&self, rows: &[Row]) -> String {
        let mut text = String::new();
        for row in rows {
            let cells: Vec<_> = self.cells.iter().filter(|cell| cell.row == row.id).collect();
            if cells.is_empty() {
                continue;
            }
            writeln!(text, "\n{}  {}\n     must: {}", row.id, row.fault, row.demand).unwrap();
            for cell in cells {
                let seeds = cell.report.as_ref().map_or(&[][..], |report| &report.seeds);
                writeln!(text, "     {:<22}{}   (seeds {seeds:?})", cell.peer.title(), cell.text()).unwrap();
                if let Some(why) = &cell.disagrees {
                    writeln!(text, "     {:<22}UNEXPECTED: {why}", "").unwrap();
                }
            }
            if let Today::Without(missing) | Today::Unsure(missing) = row.ours {
                writeln!(text, "     {:<22}known of ours: {}", "", missing.join(", ")).unwrap();
            }
        }
        for (id, fault, why) in ELSEWHERE {
            writeln!(text, "\n{id}  {fault}\n     not measured: {why}").unwrap();
        }
        writeln!(text).unwrap();
        for (name, value) in &self.machine {
            writeln!(text, "{name:<10}{value}").unwrap();
        }
        text
    }

    /// Writes both forms into a folder.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn write(&self, rows: &[Row], folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("table.txt"), self.text(rows)).unwrap();
        std::fs::write(folder.join("table.json"), serde_json::to_string_pretty(self).unwrap()).unwrap();
    }
}

fn machine() -> BTreeMap<String, String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let ssh = Program::new(tests::process::installed("ssh")).arg("-V").output();
    let autossh = Program::new(tests::process::installed("autossh")).arg("-V").output();
    [
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("processors", cpus.to_string()),
        ("ssh", String::from_utf8_lossy(&ssh.stderr).trim().to_owned()),
        ("autossh", String::from_utf8_lossy(&autossh.stdout).trim().to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}
