//! Nothing in the chart is dead: each branch of each template is taken by a case, and each value changes what
//! is rendered.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tests::{
    chart::{self, cases, leaves, template, yaml},
    scratch::Scratch,
};

use super::refusals::REFUSED;

#[test]
fn every_branch_is_taken_by_a_case() {
    let defaults = yaml(&chart::file("values.yaml"));
    let scratch = Scratch::new("coverage");
    let chart = scratch.join("bastion");
    copy(&chart::folder(), &chart);
    let mut files = Vec::new();
    templates(&chart.join("templates"), &mut files);
    let originals: Vec<(PathBuf, String)> =
        files.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect();
    let mut waiting: BTreeMap<usize, (&Path, Mark)> = originals
        .iter()
        .flat_map(|(path, text)| {
            let name = path.strip_prefix(&chart).unwrap().display().to_string();
            branches(&name, text, &defaults).into_iter().map(|mark| (path.as_path(), mark))
        })
        .enumerate()
        .collect();
    let all = waiting.len();

    let write = |waiting: &BTreeMap<usize, (&Path, Mark)>, path: &Path| {
        let original = &originals.iter().find(|(known, _)| known == path).unwrap().1;
        let mut marks: Vec<_> = waiting.iter().filter(|(_, (of, _))| *of == path).collect();
        marks.sort_by_key(|(_, (_, mark))| std::cmp::Reverse(mark.place));
        let mut text = original.clone();
        for (id, (_, Mark { place, before, .. })) in marks {
            text.insert_str(*place, &format!("{before}{{{{ fail \"reached <{id}>\" }}}}"));
        }
        fs::write(path, text).unwrap();
    };
    for (path, _) in &originals {
        write(&waiting, path);
    }

    let mut values: Vec<PathBuf> = cases().into_iter().map(|(_, path)| path).collect();
    for (number, (text, _)) in REFUSED.iter().enumerate() {
        values.push(scratch.write(&format!("refused-{number}.yaml"), text));
    }
    let mut renders = 0;
    for file in &values {
        loop {
            renders += 1;
            let answer = template(&chart, &[file], &["--skip-schema-validation"]);
            let reached = answer.err().and_then(|error| {
                let (_, rest) = error.split_once("reached <")?;
                rest.split_once('>')?.0.parse::<usize>().ok()
            });
            let Some(id) = reached else { break };
            let (path, _) = waiting.remove(&id).expect("a mark that is still there");
            write(&waiting, path);
        }
    }
    let never: Vec<_> = waiting.values().map(|(_, mark)| mark.what.as_str()).collect();
    println!("{all} branches, {renders} renders");
    assert!(never.is_empty(), "no file in ci/ takes\n{}", never.join("\n"));
}

/// Other values in place of one.
fn others(value: &Value) -> Vec<Value> {
    let digits = |text: &str| -> String {
        let next = |letter: char| {
            letter.to_digit(10).map_or(letter, |digit| char::from_digit((digit + 1) % 10, 10).unwrap())
        };
        text.chars().map(next).collect()
    };
    match value {
        Value::Bool(value) => vec![json!(!value)],
        Value::Number(number) => {
            vec![json!(number.as_f64().unwrap() + 1.0), json!(number.as_i64().unwrap_or_default() + 1)]
        }
        Value::String(text) => vec![json!(format!("{text}x")), json!(digits(text))],
        Value::Null => vec![json!(7000), json!(true)],
        Value::Array(list) if list.is_empty() => vec![
            json!(["10.0.0.0/8"]),
            json!([{"name": "x", "namespace": "x", "cidr": "10.0.0.0/8", "apiVersion": "v1", "kind": "X", "metadata": {}}]),
        ],
        Value::Array(_) => vec![json!([]), json!([{"namespace": "x"}])],
        Value::Object(map) if map.is_empty() => vec![json!({"x": "y"}), json!({"x": {"secret": "y"}})],
        Value::Object(map) => {
            let more = map.iter().map(|(key, value)| (key.clone(), value.clone()));
            vec![more.chain([("x".to_owned(), json!("y"))]).collect()]
        }
    }
}

#[test]
fn every_value_changes_what_is_rendered() {
    let defaults = yaml(&chart::file("values.yaml"));
    let scratch = Scratch::new("values");
    let plain: Vec<(PathBuf, Value, String)> = cases()
        .into_iter()
        .map(|(_, path)| {
            let text = template(&chart::folder(), &[&path], &["--skip-schema-validation"]).unwrap();
            let values = yaml(&fs::read_to_string(&path).unwrap());
            (path, values, text)
        })
        .collect();
    let mut dead = Vec::new();
    let (mut renders, all) = (plain.len(), leaves(&defaults));
    for leaf in &all {
        let default = leaf.split('.').fold(&defaults, |value, key| &value[key]);
        let top = leaf.split('.').next().unwrap();
        // First where it is spoken of, then where it is not.
        let (spoken, silent): (Vec<_>, Vec<_>) =
            plain.iter().partition(|(_, values, _)| values.get(top).is_some());
        let changes = spoken.into_iter().chain(silent).any(|(path, values, text)| {
            let said = leaf.split('.').try_fold(values, |value, key| value.get(key));
            others(said.unwrap_or(default)).into_iter().any(|other| {
                let nested = leaf.rsplit('.').fold(other, |inner, key| json!({key: inner}));
                let file = scratch.write("other.yaml", nested.to_string());
                renders += 1;
                template(&chart::folder(), &[path, &file], &["--skip-schema-validation"])
                    .is_ok_and(|other| other != *text)
            })
        });
        if !changes {
            dead.push(leaf.as_str());
        }
    }
    println!("{} values, {renders} renders", all.len());
    assert!(dead.is_empty(), "these values change nothing, in no case:\n{}", dead.join("\n"));
}

/// A place in a template where a branch begins, and what marks it: text that fails when it is reached.
struct Mark {
    place: usize,
    before: &'static str,
    what: String,
}

/// The parts of a template between `{{` and `}}`, as start, end and content.
fn actions(text: &str) -> Vec<(usize, usize, &str)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = text[at..].find("{{").map(|offset| at + offset) {
        let inner = start + 2;
        let comment = text[inner..].trim_start_matches(['-', ' ']).starts_with("/*");
        let end = if comment {
            text[inner..].find("*/").map(|offset| inner + offset + text[inner + offset..].find("}}").unwrap())
        } else {
            let mut quote = None;
            text[inner..].char_indices().find_map(|(offset, letter)| {
                match (quote, letter) {
                    (None, '"' | '`') => quote = Some(letter),
                    (Some(open), _) if open == letter => quote = None,
                    (None, '}') if text[inner + offset..].starts_with("}}") => return Some(inner + offset),
                    _ => {}
                }
                None
            })
        };
        let end = end.expect("an action has an end") + 2;
        found.push((start, end, text[inner..end - 2].trim_matches(['-', ' ', '\n'])));
        at = end;
    }
    found
}

/// Whether this `with` only shortens a path: to a part of the values that is never empty.
fn is_a_shorthand(content: &str, defaults: &Value) -> bool {
    let Some(path) = content.strip_prefix("with ") else { return false };
    let path = path.replace("$policy.", ".Values.networkPolicy.");
    let Some(path) = path.strip_prefix(".Values.") else { return false };
    path.split('.').fold(defaults, |value, key| &value[key]).as_object().is_some_and(|map| map.len() > 1)
}

/// Whether only a cluster takes this branch: without one, nothing is looked up.
fn is_looked_up(name: &str, content: &str) -> bool {
    name == "templates/NOTES.txt" && ["range $slice.endpoints", "range .addresses"].contains(&content)
}

/// All branches of one template: those that are there, and the ones that an `if` or `with` without `else`
/// skips.
fn branches(name: &str, text: &str, defaults: &Value) -> Vec<Mark> {
    struct Open {
        branching: bool,
        otherwise: bool,
        what: String,
    }
    let mut open: Vec<Open> = Vec::new();
    let mut marks = Vec::new();
    for (start, end, content) in actions(text) {
        let word = content.split([' ', '\n']).next().unwrap_or_default();
        let line = text[..start].matches('\n').count() + 1;
        let what = format!("{name}:{line}: {content}");
        match word {
            "if" | "with" | "range" => {
                if !is_looked_up(name, content) {
                    marks.push(Mark { place: end, before: "", what: what.clone() });
                }
                let branching = word != "range" && !is_a_shorthand(content, defaults);
                open.push(Open { branching, otherwise: false, what });
            }
            "define" | "block" => open.push(Open { branching: false, otherwise: false, what }),
            "else" => {
                marks.push(Mark { place: end, before: "", what });
                open.last_mut().unwrap().otherwise |= content == "else";
            }
            "end" => {
                let closed = open.pop().expect("an end has a beginning");
                if closed.branching && !closed.otherwise {
                    // The text before it is trimmed, or not, as it was.
                    let before = if text[start..].starts_with("{{-") { "{{- else }}" } else { "{{ else }}" };
                    marks.push(Mark { place: start, before, what: format!("not {}", closed.what) });
                }
            }
            _ => {}
        }
    }
    assert!(open.is_empty(), "{name}: an action has no end");
    marks
}

fn templates(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { templates(&path, found) } else { found.push(path) }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, target).unwrap();
        }
    }
}
