//! Holds the table in `tests/README.md` to the files that are there.
#![allow(clippy::unwrap_used, reason = "a test may assume: a panic is a failed test, and says why")]

use std::{collections::BTreeSet, path::Path};

use test_support::process::workspace;

#[test]
fn the_table_names_every_file_with_a_test_and_no_other() {
    let folder = workspace().join("tests");
    let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let rows = readme.lines().filter(|line| line.starts_with("| ")).flat_map(|line| line.split("](").skip(1));
    let named: BTreeSet<_> = rows.map(|rest| rest.split_once(')').unwrap().0.to_owned()).collect();
    let mut there = BTreeSet::new();
    for within in ["tests", "support/tests"] {
        collect(&folder, Path::new(within), &mut there);
    }
    assert!(there.len() > 50, "{there:?}");
    let (missing, gone): (Vec<_>, Vec<_>) =
        (there.difference(&named).collect(), named.difference(&there).collect());
    assert!(missing.is_empty(), "tests/README.md has no row for {missing:?}");
    assert!(gone.is_empty(), "tests/README.md has rows for {gone:?}, which have no test");
}

/// The files with a test in them, by their path in `tests`.
fn collect(top: &Path, within: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(top.join(within)).unwrap() {
        let path = within.join(entry.unwrap().file_name());
        if top.join(&path).is_dir() {
            collect(top, &path, found);
        } else if std::fs::read_to_string(top.join(&path)).is_ok_and(|text| text.contains("#[test]\n")) {
            found.insert(path.to_str().unwrap().to_owned());
        }
    }
}
