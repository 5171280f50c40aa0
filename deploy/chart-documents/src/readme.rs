//! The table of values in a chart's README, made of the comments in `values.yaml`.
//!
//! A line `# == TITLE` begins a section. A comment explains the value below it, and all that this value
//! holds.

use anyhow::{Context, Result, ensure};

use crate::{leaves, yaml};

/// Where the table of values begins in the README.
pub const MARK: &str = "<!-- values -->\n";

/// The README with the table of these values, after what is written in it by hand.
pub(crate) fn whole(readme: &str, values: &str) -> Result<String> {
    let (written, _) =
        readme.split_once(MARK).with_context(|| format!("README.md: no line {}", MARK.trim()))?;
    Ok(format!("{written}{MARK}{}", table(values)?))
}

fn table(text: &str) -> Result<String> {
    let values = yaml(text)?;
    let sections = explained(text)?;
    let known: Vec<&str> = sections.iter().flat_map(|(_, rows)| rows).map(|row| row.path.as_str()).collect();
    for leaf in leaves(&values) {
        let said = known.iter().any(|path| leaf == *path || leaf.starts_with(&format!("{path}.")));
        ensure!(said, "values.yaml explains {leaf} nowhere");
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
    Ok(table)
}

/// A value that is explained.
struct Explained {
    path: String,
    words: String,
}

/// The sections of `values.yaml` and what they explain, in its order.
fn explained(text: &str) -> Result<Vec<(String, Vec<Explained>)>> {
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
                sections.last_mut().context("values.yaml: a value before the first section")?.1.push(row);
                words.clear();
            }
        } else if content.is_empty() {
            words.clear();
        }
    }
    Ok(sections)
}
