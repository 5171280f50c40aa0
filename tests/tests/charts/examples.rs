//! `deploy/examples`: what the guides of other stacks show, as values, and what is rendered of it; and the
//! table of them.

use std::fs;

use tests::{
    chart::{Example, examples},
    process::workspace,
};

use super::template;

const TABLE: &str = "deploy/examples/README.md";
const MARK: &str = "<!-- examples -->\n";

/// The text that follows a word at the start of a values file.
fn said(example: &Example, word: &str) -> Option<String> {
    let text = fs::read_to_string(&example.values).unwrap();
    let start = format!("# {word}: ");
    text.lines().find_map(|line| line.strip_prefix(start.as_str())).map(str::to_owned)
}

#[test]
fn every_example_renders_as_is_written_beside_it() {
    let examples = examples();
    assert!(examples.len() > 20);
    for example in &examples {
        let name = format!("{}/{}", example.chart, example.name);
        let text =
            template(&example.chart, &example.values, &[]).unwrap_or_else(|error| panic!("{name}: {error}"));
        if std::env::var_os("WRITE_RENDERED").is_some() {
            fs::write(&example.rendered, &text).unwrap();
        }
        let written = fs::read_to_string(&example.rendered).unwrap_or_default();
        assert!(
            written == text,
            "{name} renders otherwise; look at the difference: WRITE_RENDERED=1 cargo test --workspace --test charts examples"
        );
    }
}

#[test]
fn the_table_is_that_of_the_examples() {
    let mut table = String::from(
        "\n| guide | what it shows | values | what is other here, and why |\n|---|---|---|---|\n",
    );
    for example in examples() {
        let path = format!("{}/{}-values.yaml", example.chart, example.name);
        let [guide, shows] = ["Guide", "Shows"]
            .map(|word| said(&example, word).unwrap_or_else(|| panic!("{path}: no {word}")));
        let corrected = said(&example, "Corrected").unwrap_or_default();
        let refused = if example.refused.is_some() { "refused: " } else { "" };
        assert!(example.refused.is_none() || !corrected.is_empty(), "{path}: why?");
        table.push_str(&format!("| {guide} | {shows} | [`{path}`]({path}) | {refused}{corrected} |\n"));
    }
    let path = workspace().join(TABLE);
    let readme = fs::read_to_string(&path).unwrap();
    let (written, _) = readme.split_once(MARK).expect("the mark of the table");
    let expected = format!("{written}{MARK}{table}");
    if std::env::var_os("WRITE_DOCS").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap() == expected,
        "{TABLE} is old; write it anew: WRITE_DOCS=1 cargo test --workspace --test charts examples"
    );
}
