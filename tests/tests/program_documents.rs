//! Keeps what is made from the programs themselves: man pages, completions, and the references of the
//! configuration files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tests::{
    process::{Program, installed},
    scratch::Scratch,
};

#[test]
fn the_man_pages_and_the_references_are_those_of_the_programs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let write = std::env::var_os("WRITE_DOCS").is_some();
    let documents = documents();
    assert!(documents.len() >= 5, "{:?}", documents.keys());
    for (path, text) in &documents {
        let file = root.join(path);
        if write {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        } else {
            let old = fs::read_to_string(file).unwrap_or_default();
            assert!(old == *text, "{} is old: `make docs` writes it anew", path.display());
        }
    }
}

#[test]
fn every_setting_of_a_reference_has_a_meaning() {
    for (path, text) in documents().iter().filter(|(path, _)| path.starts_with("docs/configuration-")) {
        for row in text.lines().filter(|line| line.starts_with("| `")) {
            assert!(row.trim_end_matches(" |").ends_with('.'), "{}: {row}", path.display());
        }
    }
}

/// What a shell offers after these words.
fn completed(program: &str, script: &str, words: &[&str]) -> Vec<String> {
    let scratch = Scratch::new("completion");
    let file = scratch.write("script", script);
    let last = words.len();
    let line = format!(
        "source {}; COMP_WORDS=({program} {}); COMP_CWORD={last}; f=$(complete -p {program}); f=${{f#*-F }}; \
         ${{f%% *}} {program} '{}' ''; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        file.display(),
        words.join(" "),
        words[last - 1],
    );
    let offered = Program::new(installed("bash")).args(["--norc", "-c", &line]).succeed();
    offered.lines().map(str::to_owned).collect()
}

#[test]
fn a_shell_completes_both_programs() {
    let tunnel = Program::ours("pf-tunnel").args(["completion", "bash"]).succeed();
    assert_eq!(completed("pf-tunnel", &tunnel, &["conf"]), ["config"]);
    assert_eq!(completed("pf-tunnel", &tunnel, &["--kube-cont"]), ["--kube-context"]);
    let database = Program::ours("pf-db-tunnel").args(["--completion", "bash"]).succeed();
    assert_eq!(completed("pf-db-tunnel", &database, &["--li"]), ["--list"]);
    for shell in ["zsh", "fish", "powershell", "elvish"] {
        let script = Program::ours("pf-tunnel").args(["completion", shell]).succeed();
        assert!(script.contains("pf-tunnel") && script.contains("kube-context"), "{shell}: {script}");
    }
}

/// Every document, with its path in the repository.
fn documents() -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let client = Program::ours("pf-tunnel").args(["config", "--schema"]).succeed();
    let about = "Settings are read from `pf-tunnel.yaml` in the working directory or above it, and from\n\
                 `~/.config/pf-tunnel/config.yaml`. Flags beat the environment, which beats the user's file, which beats the\n\
                 project's, which beats what a cluster publishes. `pf-tunnel config` prints what holds, and where it was set;\n\
                 `pf-tunnel config --schema` prints the JSON Schema that this page is made from.";
    all.insert(
        "docs/configuration-client.md".into(),
        reference("The client's configuration", about, &client),
    );
    let bastion = Program::ours("bastion-server").args(["--print-config-schema"]).succeed();
    let about = "The bastion reads one file, which its command line names. `bastion-server --check-config FILE` says what is\n\
                 wrong with one; `bastion-server --print-config-schema` prints the JSON Schema that this page is made from.\n\
                 [deploy/examples/bastion.yaml](../deploy/examples/bastion.yaml) has every setting.";
    all.insert(
        "docs/configuration-bastion.md".into(),
        reference("The bastion's configuration", about, &bastion),
    );

    let scratch = Scratch::new("man");
    for command in tunnel_cli::commands() {
        clap_mangen::generate_to(command, scratch.path()).unwrap();
    }
    for page in fs::read_dir(scratch.path()).unwrap() {
        let page = page.unwrap();
        let text = fs::read_to_string(page.path()).unwrap();
        all.insert(Path::new("docs/man").join(page.file_name()), text);
    }
    all
}

/// A page of Markdown: a section for each part of the file, a row for each setting.
fn reference(title: &str, about: &str, schema: &str) -> String {
    let schema: Value = serde_json::from_str(schema).unwrap();
    let mut rows = Vec::new();
    collect(&schema, "", None, &mut rows, &mut BTreeSet::new());
    let mut text = format!("# {title}\n\n<!-- Made by `make docs` from the programs. -->\n\n{about}\n");
    let mut section = None;
    for Row { path, kind, default, meaning } in rows {
        let part = path.split(['.', '[']).next().unwrap().to_owned();
        if section.as_ref() != Some(&part) {
            write!(text, "\n## `{part}`\n\n| setting | type | default | meaning |\n|---|---|---|---|\n")
                .unwrap();
            section = Some(part);
        }
        writeln!(text, "| `{path}` | {kind} | {default} | {meaning} |").unwrap();
    }
    text
}

struct Row {
    path: String,
    kind: String,
    default: String,
    meaning: String,
}

/// Adds a row for `schema` at `path` and for everything under it.
///
/// `of_variant` is the meaning of a setting that has none of its own.
fn collect(
    schema: &Value,
    path: &str,
    of_variant: Option<&str>,
    rows: &mut Vec<Row>,
    known: &mut BTreeSet<String>,
) {
    if !path.is_empty() && known.insert(path.to_owned()) {
        let words = schema["description"].as_str().or(of_variant).unwrap_or_default();
        let meaning = words.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
        let default = match &schema["default"] {
            Value::Null | Value::Object(_) => String::new(),
            Value::String(text) => format!("`{text}`"),
            other => format!("`{other}`"),
        };
        rows.push(Row { path: path.to_owned(), kind: kind(schema), default, meaning });
    }
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        collect(property, &below(name), None, rows, known);
    }
    if schema["additionalProperties"]["properties"].is_object() {
        collect(&schema["additionalProperties"], &below("NAME"), None, rows, known);
    }
    if schema["items"]["properties"].is_object() || has_variants(&schema["items"]) {
        collect(&schema["items"], &format!("{path}[]"), None, rows, known);
    }
    // The setting itself has its row.
    for variant in variants(schema) {
        for (name, property) in variant["properties"].as_object().into_iter().flatten() {
            collect(property, &below(name), variant["description"].as_str(), rows, known);
        }
        collect(variant, path, None, rows, known);
    }
}

fn variants(schema: &Value) -> impl Iterator<Item = &Value> {
    ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|word| schema[word].as_array()).flatten()
}

fn has_variants(schema: &Value) -> bool {
    variants(schema).next().is_some()
}

/// The types that a setting may have, in words.
fn kind(schema: &Value) -> String {
    let one = |kind: &str| match kind {
        "object" => "section".to_owned(),
        "array" => match kind_of_items(&schema["items"]) {
            Some(items) => format!("list of {items}"),
            None => "list".to_owned(),
        },
        "string" => "text".to_owned(),
        "boolean" => "true or false".to_owned(),
        "integer" | "number" => "number".to_owned(),
        other => other.to_owned(),
    };
    if let Some(words) = schema["enum"].as_array() {
        let words = words.iter().filter_map(Value::as_str).map(|word| format!("`{word}`"));
        return words.collect::<Vec<_>>().join(", ");
    }
    if let Some(word) = schema["const"].as_str() {
        return format!("`{word}`");
    }
    let kinds = match &schema["type"] {
        Value::String(kind) => vec![kind.as_str()],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let mut names: Vec<String> = kinds.into_iter().filter(|kind| *kind != "null").map(one).collect();
    for variant in variants(schema) {
        let name = kind(variant);
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(" or ")
}

fn kind_of_items(items: &Value) -> Option<&'static str> {
    match items["type"].as_str()? {
        "string" => Some("texts"),
        "object" => Some("sections"),
        "integer" | "number" => Some("numbers"),
        _ => None,
    }
}
