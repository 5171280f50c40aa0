//! The fence (sandbox) leaves the bastion's process what it needs, and keeps the rest from an attacker in it.

use serde_json::{Value, json};
use tests::{
    bastion::{self, LOGIN},
    forge::Forge,
    key::Key,
    ports,
    process::Program,
    rogue::Client,
    scratch::Scratch,
    target::Target,
};

#[test]
fn the_fence_leaves_what_a_bastion_does_and_nothing_else() {
    let (readable, elsewhere) = (Scratch::new("readable"), Scratch::new("elsewhere"));
    readable.write("file", "its own");
    readable.write("ca.pub", "");
    elsewhere.write("file", "another's");
    let report = Program::ours("fenced")
        .arg(readable.path())
        .arg(ports::free().to_string())
        .arg(elsewhere.path())
        .succeed();
    let report: Value = serde_json::from_str(&report).unwrap();
    let those = |kind: &str, could: bool| -> Vec<String> {
        let tried = report[kind].as_object().unwrap();
        assert!(tried.len() > 7, "{report}");
        tried.iter().filter(|(_, done)| **done == json!(could)).map(|(what, _)| what.clone()).collect()
    };
    assert_eq!(those("left", false), Vec::<String>::new(), "what a bastion needs and could not do");
    assert_eq!(those("forbidden", true), Vec::<String>::new(), "what is forbidden and could be done");
    assert_eq!(std::fs::read(elsewhere.join("file")).unwrap(), b"another'sa record\n");
}

/// All other tests of this suite run behind the same fence.
#[test]
fn every_thread_of_a_bastion_that_serves_is_behind_it() {
    let (authority, key, target) = (Key::ed25519(), Key::ed25519(), Target::echo());
    let mut bastion = bastion::Setup::new()
        .trust(&authority)
        .rule(LOGIN, &[&target.address().to_string()])
        .set("/fence", json!("required"))
        .start();
    let certificate = Forge::user(&key, LOGIN).sign(&authority);
    let mut client = Client::login(bastion.address(), LOGIN, &key, certificate);
    let channel = client.forward("127.0.0.1", target.port().into()).unwrap().unwrap();
    client.write(channel, b"hello").unwrap();
    assert_eq!(client.read(channel, 5).unwrap(), b"hello");

    let mut threads = 0;
    for thread in std::fs::read_dir(format!("/proc/{}/task", bastion.process().id())).unwrap() {
        // One that has ended meanwhile has no status.
        let Ok(status) = std::fs::read_to_string(thread.unwrap().path().join("status")) else { continue };
        assert!(status.contains("Seccomp:\t2\n") && status.contains("NoNewPrivs:\t1\n"), "{status}");
        threads += 1;
    }
    assert!(threads > 2, "the workers and the writer of audit records, at least");
    let metrics = bastion.page("/metrics").body;
    for kind in ["landlock", "seccomp"] {
        assert!(metrics.contains(&format!("bastion_fence{{kind=\"{kind}\"}} 1\n")), "{metrics}");
    }
}

#[test]
fn it_can_be_left_out() {
    let mut bastion = bastion::Setup::new().trust(&Key::ed25519()).set("/fence", json!("off")).start();
    let status = std::fs::read_to_string(format!("/proc/{}/status", bastion.process().id())).unwrap();
    assert!(status.contains("Seccomp:\t0\n"), "{status}");
    assert!(bastion.page("/metrics").body.contains("bastion_fence{kind=\"seccomp\"} 0\n"));
}
