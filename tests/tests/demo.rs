//! The demonstration that the README begins with.

use std::time::Duration;

use tests::process::Program;

#[test]
fn the_page_is_there_before_and_after_the_bastion_died() {
    let mut demo = Program::ours("demo").arg("--once").start();
    assert_eq!(demo.code(Duration::from_secs(60)), 0);
    let shown = demo.stdout();
    assert_eq!(shown.matches("200  \"Hello from behind the bastion\"").count(), 2, "{shown}");
    let killed = shown.find("killed with SIGKILL").unwrap();
    assert!(shown.find("GET").unwrap() < killed && killed < shown.rfind("GET").unwrap(), "{shown}");
}
