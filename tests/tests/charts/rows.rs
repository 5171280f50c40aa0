//! `deploy/ROWS.yaml` names tests that are there, and the table in `deploy/README.md` is made of it.

use std::fs;

use serde_json::Value;
use tests::{chart::yaml, process::workspace};

const MARK: &str = "<!-- rows -->\n";

fn read(path: &str) -> String {
    fs::read_to_string(workspace().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All rows, by the letters of their ids and then by the number.
fn rows() -> Vec<(String, Value)> {
    let rows = yaml(&read("deploy/ROWS.yaml"));
    let rows = rows["rows"].as_object().unwrap().iter().map(|(id, row)| (id.clone(), row.clone()));
    let mut rows: Vec<_> = rows.collect();
    let number =
        |id: &str| id.trim_start_matches(|letter: char| !letter.is_ascii_digit()).parse::<u32>().unwrap();
    let letters = |id: &str| id.trim_end_matches(|letter: char| letter.is_ascii_digit()).to_owned();
    rows.sort_by_key(|(id, _)| (letters(id), number(id)));
    rows
}

fn texts(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap_or_else(|| panic!("{list} is no list"));
    list.iter().map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn each_row_has_a_level_and_tests_that_are_there() {
    for (id, row) in rows() {
        let level = row["level"].as_str().unwrap();
        assert!(["run", "served", "rendered", "cloud"].contains(&level), "{id}: {level}");
        let module = row["module"].as_str().unwrap();
        assert!(workspace().join("deploy").join(module).is_dir() || module == "pf-tunnel", "{id}: {module}");
        let tests = texts(&row["tests"]);
        assert!(!tests.is_empty(), "{id}");
        for test in &tests {
            let (file, name) = test.split_once("::").unwrap_or_else(|| panic!("{id}: {test}"));
            let source = read(&format!("tests/tests/{file}"));
            let here = source.contains(&format!("#[test]\nfn {name}("));
            assert!(here, "{id}: there is no test {test}");
        }
        // Rows of these levels are tested in a cluster.
        let in_cluster = tests.iter().any(|test| test.starts_with("cluster/") || test.starts_with("cilium/"));
        assert_eq!(in_cluster, ["run", "served"].contains(&level), "{id}: {level}");
    }
}

#[test]
fn the_table_in_the_readme_is_that_of_the_rows() {
    let mut table =
        String::from("\n| row | what | module | values | proof | tests |\n|---|---|---|---|---|---|\n");
    for (id, row) in rows() {
        let code =
            |list: &Value| texts(list).iter().map(|text| format!("`{text}`")).collect::<Vec<_>>().join(", ");
        let tests: Vec<_> = texts(&row["tests"])
            .iter()
            .map(|test| test.replace("::", " "))
            .map(|test| format!("`{test}`"))
            .collect();
        let (what, module, level) = (&row["what"], &row["module"], &row["level"]);
        let [what, module, level] = [what, module, level].map(|text| text.as_str().unwrap());
        table.push_str(&format!(
            "| {id} | {what} | `{module}` | {} | {level} | {} |\n",
            code(&row["keys"]),
            tests.join(", ")
        ));
    }
    let path = workspace().join("deploy/README.md");
    let readme = read("deploy/README.md");
    let (written, _) = readme.split_once(MARK).expect("the mark of the table");
    let expected = format!("{written}{MARK}{table}");
    if std::env::var_os("WRITE_DOCS").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let found = read("deploy/README.md");
    assert!(
        found == expected,
        "{} is old; write it anew: WRITE_DOCS=1 cargo test -p tests --test charts rows",
        path.display()
    );
}
