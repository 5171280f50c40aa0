//! Breaks the surroundings of a program: its settings, its home, its disk.

use std::{path::Path, process::Command, time::Instant};

use tests::{
    process::{Program, installed},
    scratch::Scratch,
    wait,
};

use crate::{
    peer::{Peer, Setup},
    report::Report,
    scene::Scene,
};

/// F29.
pub fn broken_reload(peer: Peer) -> Report {
    let mut scene = Scene::new(peer);
    let talk = scene.converse();
    let begun = Instant::now();
    let bastion = scene.tunnel.bastion();
    let config = bastion.config();
    bastion.replace_config("rules: [\n");
    let counted = "bastion_config_reloads_total{result=\"refused\",reason=\"broken\"} 1";
    wait::until_true("the broken file is seen", wait::START, || {
        bastion.page("/metrics").body.contains(counted)
    });
    let lines = bastion.log();
    let lines = lines.lines().filter(|line| line.contains("previous one stays in force")).count();
    let check = Program::ours("bastion-server").arg("--check-config").arg(config).output();
    scene.report.check("one line and a metric", lines == 1, format!("{lines} lines, 1 counted"));
    let code = check.status.code();
    scene.report.check("--check-config fails", code.is_some_and(|code| code != 0), format!("{code:?}"));
    scene.survives(&talk, begun, Instant::now(), std::time::Duration::from_secs(1));
    let usable = scene.usable(Instant::now());
    scene.report.at_most("new connection", std::time::Duration::from_secs(1), usable);
    scene.report
}

/// F28.
pub fn no_disk(peer: Peer) -> Report {
    let mut report = Report::new();
    for (name, home) in [("disk full", Home::Full), ("read-only", Home::ReadOnly), ("no HOME", Home::None)] {
        report.part(name, with_home(peer, home));
    }
    report
}

#[derive(Clone, Copy, Debug)]
enum Home {
    Full,
    ReadOnly,
    None,
}

fn with_home(peer: Peer, home: Home) -> Report {
    let scratch = Scratch::new("home");
    let folder = scratch.path().to_owned();
    let value = match home {
        Home::None => "/nonexistent/home".to_owned(),
        Home::Full => {
            mount(&["-t", "tmpfs", "-o", "size=4k", "tmpfs"], &folder);
            // Its one page is taken.
            let _ = std::fs::write(folder.join("filler"), [0; 4096]);
            folder.display().to_string()
        }
        Home::ReadOnly => {
            mount(&["-t", "tmpfs", "-o", "ro", "tmpfs"], &folder);
            folder.display().to_string()
        }
    };
    let environment = value.clone();
    let setup =
        Setup { project: Box::new(move |project| project.env("HOME", &environment)), ..Setup::default() };
    let mut scene = Scene::with(peer, setup);
    let usable = scene.usable(Instant::now());
    scene.report.at_most("it serves", std::time::Duration::from_secs(1), usable);
    let written = std::fs::read_dir(&value).into_iter().flatten().flatten();
    let written: Vec<_> = written.filter(|entry| entry.file_name() != "filler").collect();
    scene.report.check("keys stay in memory", written.is_empty(), format!("{} files", written.len()));
    let report = std::mem::take(&mut scene.report);
    drop(scene);
    if !matches!(home, Home::None) {
        let _ = Command::new(installed("umount")).arg("--lazy").arg(&folder).status();
    }
    report
}

fn mount(words: &[&str], folder: &Path) {
    let status = Command::new(installed("mount")).args(words).arg(folder).status().unwrap();
    assert!(status.success(), "{words:?}");
}
