//! `docs/admission.md` and SECURITY.md say the truth: every row is proved by a test that exists, and every
//! certificate that is tried is listed.

use std::{collections::BTreeSet, path::Path};

use tests::process::workspace;

use crate::certificates;

const MARK: &str = "<!-- certificates -->\n";

fn document() -> String {
    std::fs::read_to_string(workspace().join("docs/admission.md")).unwrap()
}

/// Every test of the workspace, as `file::test`.
fn tests_in(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !["target", "fuzz"].contains(&name.as_str()) && !name.starts_with('.') {
            tests_in(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                let line = line.strip_prefix("async ").unwrap_or(line);
                match line.strip_prefix("fn ").and_then(|rest| rest.split_once('(')) {
                    Some((test, _)) if is_test => {
                        found.insert(format!("{name}::{test}"));
                        is_test = false;
                    }
                    Some(_) => {}
                    None => is_test |= line.starts_with("#[test") || line.starts_with("#[tokio::test"),
                }
            }
        }
    }
}

#[test]
fn every_row_names_a_test_that_exists() {
    let mut known = BTreeSet::new();
    tests_in(&workspace(), &mut known);
    let text = document();
    let (written, _) = text.split_once(MARK).expect("the mark of the generated table");
    let security = std::fs::read_to_string(workspace().join("SECURITY.md")).unwrap();
    let holes = security.lines().filter(|line| line.starts_with("| CVE-")).collect::<Vec<_>>();
    assert!(holes.len() > 15, "{} holes of others", holes.len());
    let rows = written.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| input |"));
    let rows: Vec<_> = rows
        .chain(holes)
        .map(|line| (line, line.trim_end_matches(" |").rsplit('|').next().unwrap()))
        .collect();
    assert!(rows.len() > 75, "{} rows", rows.len());
    for (row, proof) in rows {
        let named: Vec<_> = proof.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "nothing proves: {row}");
        for test in named {
            assert!(known.contains(test), "there is no test {test}, which is to prove: {row}");
        }
    }
}

#[test]
fn every_certificate_of_the_table_is_listed_with_its_answer() {
    let text = document();
    let (written, listed) = text.split_once(MARK).expect("the mark of the generated table");
    let rows: Vec<_> = certificates::table().iter().map(certificates::Row::line).collect();
    let expected = format!("\n| certificate | answer | sshd |\n|---|---|---|\n{}\n", rows.join("\n"));
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::write(workspace().join("docs/admission.md"), format!("{written}{MARK}{expected}")).unwrap();
    } else {
        assert!(
            listed == expected,
            "docs/admission.md is old; write it anew: WRITE_DOCS=1 cargo test -p tests --test peers admission"
        );
    }
}
