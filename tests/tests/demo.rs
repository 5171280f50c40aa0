//! The demonstration that the README begins with.

use std::{collections::BTreeSet, process::Command, time::Duration};

use tests::process::{Program, workspace};

#[test]
fn the_page_is_there_before_and_after_the_bastion_died() {
    let mut demo = Program::ours("demo").arg("--once").start();
    assert_eq!(demo.code(Duration::from_secs(60)), 0);
    let shown = demo.stdout();
    assert_eq!(shown.matches("200  \"Hello from behind the bastion\"").count(), 2, "{shown}");
    let killed = shown.find("killed with SIGKILL").unwrap();
    assert!(shown.find("GET").unwrap() < killed && killed < shown.rfind("GET").unwrap(), "{shown}");
}

/// What cargo compiles for this selection: one dependency a line, with its version and its features.
fn compiled(selection: &[&str]) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let mut tree = Command::new(cargo);
    tree.current_dir(workspace()).args([
        "tree",
        "--locked",
        "--prefix=none",
        "--no-dedupe",
        "--format={p} {f}",
    ]);
    let output = tree.args(selection).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Otherwise `make test` compiles nearly everything a second time after `make demo`.
#[test]
fn what_it_needs_is_compiled_as_the_tests_need_it() {
    let makefile = std::fs::read_to_string(workspace().join("Makefile")).unwrap();
    let (_, rule) = makefile.split_once("\ndemo: ").unwrap();
    let (_, words) = rule.lines().nth(1).unwrap().split_once("cargo build ").unwrap();
    let selection: Vec<_> = words.split(' ').filter(|word| !["--bins", "--locked"].contains(word)).collect();
    assert!(selection.starts_with(&["-p", "demo"]), "{selection:?}");
    let demo = compiled(&[&selection[..], &["--edges=normal,build"]].concat());
    let all = compiled(&["--workspace", "--edges=normal,build,dev"]);
    let otherwise: Vec<_> = demo.difference(&all).collect();
    assert!(otherwise.is_empty(), "tests/demo/Cargo.toml has not the features of the tests: {otherwise:?}");
}
