//! The chart's schema and the table in its README say what the programs and `values.yaml` say.

use std::path::Path;

use bastion_server::config::json_schema;
use tests::chart::{self, MARK};

fn compare(path: &Path, expected: &str) {
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::write(path, expected).unwrap();
    } else {
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == expected,
            "{} is old; write it anew: WRITE_DOCS=1 cargo test -p tests --test peers chart_documents",
            path.display()
        );
    }
}

#[test]
fn the_schema_is_that_of_the_bastion_and_of_kubernetes() {
    compare(&chart::folder().join("values.schema.json"), &chart::schema(json_schema().to_value()));
}

#[test]
fn the_readme_explains_every_value() {
    let text = chart::file("README.md");
    let (written, _) = text.split_once(MARK).expect("the mark of the table");
    compare(&chart::folder().join("README.md"), &format!("{written}{MARK}{}", chart::readme()));
}
