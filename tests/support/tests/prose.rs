//! Holds what a machine can of how this repository is written: columns, the heads of modules, the words for
//! actors, words with two meanings, the languages of fenced blocks.
#![allow(clippy::unwrap_used, reason = "a test may assume: a panic is a failed test, and says why")]

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};
use test_support::process::workspace;

/// How wide a comment may be.
const COLUMNS: usize = 110;

/// Words that stand where an actor has a name: client, peer, operator, attacker, kubelet.
const NAMELESS: [&str; 5] = ["nobody", "whoever", "somebody", "anybody", "everybody"];

/// Words that mean either *immediately* or *simultaneously*.
const VAGUE: [&str; 2] = ["at", "once"];

/// The name of a setting that operators write, and of what stands for it in code.
const SETTING: &str = "everybody";

/// Words that a head does not open with: it opens with a verb, or with the field's noun.
const HEADLESS: [&str; 9] = ["What", "Whatever", "Which", "Who", "Whom", "Whose", "Where", "Why", "How"];

/// Folders whose comments are not that narrow yet. The list only ever shrinks.
const WIDE_YET: [&str; 3] = ["ssh-transport", "tunnel-cli", "vault-signer"];

/// Folders in which names of items do not name their actors yet. The list only ever shrinks.
const NAMES_YET: [&str; 3] = ["ssh-transport", "tunnel-cli", "vault-signer"];

#[test]
fn comments_are_no_wider_than_a_page() {
    held("rs", &WIDE_YET, wide);
}

#[test]
fn heads_open_with_a_verb_or_a_noun() {
    held("rs", &[], heads);
}

#[test]
fn sentences_name_their_actors() {
    in_prose(&[], |said| {
        let word = words(said).find(|word| NAMELESS.contains(&&*word.to_lowercase()))?;
        Some(format!("{word:?}: name the actor"))
    });
}

#[test]
fn what_is_immediate_is_told_from_what_is_simultaneous() {
    in_prose(&["ssh-transport"], |said| {
        let said: Vec<_> = words(said).map(str::to_lowercase).collect();
        let is_vague = said.windows(2).any(|pair| pair == VAGUE);
        is_vague.then(|| format!("{:?}: immediately, or simultaneously?", VAGUE.join(" ")))
    });
}

#[test]
fn names_in_code_name_their_actors() {
    held("rs", &NAMES_YET, |file, text| {
        let mut found = BTreeSet::new();
        names(text.parse().unwrap(), &mut found);
        found.iter().map(|name| format!("{}: {name}: name the actor", file.display())).collect()
    });
}

#[test]
fn fenced_blocks_name_their_language() {
    let mut found = String::new();
    for file in files("md") {
        let mut open = false;
        for (number, line) in read(&file).lines().enumerate() {
            let Some(language) = line.trim_start().strip_prefix("```") else { continue };
            if !open && language.is_empty() {
                writeln!(found, "{}:{}", file.display(), number + 1).unwrap();
            }
            open = !open;
        }
        assert!(!open, "{}: a block does not end", file.display());
    }
    assert!(found.is_empty(), "fenced blocks without a language:\n{found}");
}

/// Asserts that a rule is kept, but for the folders where it is not yet; and that in each of those it is not.
fn held(ending: &str, not_yet: &[&str], rule: impl Fn(&Path, &str) -> Vec<String>) {
    let mut unclean = BTreeSet::new();
    let mut broken = Vec::new();
    for file in files(ending) {
        let found = rule(&file, &read(&file));
        match not_yet.iter().find(|folder| file.starts_with(folder)) {
            Some(folder) if !found.is_empty() => _ = unclean.insert(*folder),
            Some(_) => {}
            None => broken.extend(found),
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    let clean: Vec<_> = not_yet.iter().filter(|folder| !unclean.contains(*folder)).collect();
    assert!(clean.is_empty(), "clean by now, so take them out of the list: {clean:?}");
}

fn wide(file: &Path, text: &str) -> Vec<String> {
    let lines = text.lines().enumerate();
    let comments = lines.filter(|(_, line)| line.trim_start().starts_with("//"));
    let wide = comments.filter(|(_, line)| line.chars().count() > COLUMNS);
    // A link cannot be broken.
    let wide = wide.filter(|(_, line)| !line.contains("://"));
    wide.map(|(number, _)| format!("{}:{}: a comment wider than {COLUMNS}", file.display(), number + 1))
        .collect()
}

fn heads(file: &Path, text: &str) -> Vec<String> {
    let head = text.lines().map_while(|line| line.strip_prefix("//!"));
    let first = head.flat_map(words).next().filter(|first| HEADLESS.contains(first));
    first.map(|first| format!("{}: the head opens with {first:?}", file.display())).into_iter().collect()
}

/// [`held`] for comments and documents.
fn in_prose(not_yet: &[&str], rule: impl Fn(&str) -> Option<String>) {
    for (ending, mark) in [("rs", "//"), ("yaml", "#"), ("toml", "#"), ("md", "")] {
        let not_yet = if ending == "rs" { not_yet } else { &[] };
        held(ending, not_yet, |file, text| {
            let broken = prose(text, mark).into_iter().filter_map(|(line, said)| Some((line, rule(said)?)));
            broken.map(|(line, broken)| format!("{}:{line}: {broken}", file.display())).collect()
        });
    }
}

/// The parts of lines that begin with this mark, with the numbers of the lines, but for code: what stands in
/// backquotes or in a fenced block.
fn prose<'a>(text: &'a str, mark: &str) -> Vec<(usize, &'a str)> {
    let (mut fenced, mut quoted, mut found) = (false, false, Vec::new());
    for (number, line) in text.lines().enumerate() {
        let Some(line) = line.trim_start().strip_prefix(mark).filter(|line| !line.trim().is_empty()) else {
            (fenced, quoted) = (fenced && mark.is_empty(), false);
            continue;
        };
        if line.trim_start_matches(['/', '!', ' ']).starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            for part in line.split_inclusive('`') {
                found.extend((!quoted).then_some((number + 1, part)));
                quoted ^= part.ends_with('`');
            }
        }
    }
    found
}

/// Collects such names, whatever is declared or used by them.
fn names(code: TokenStream, found: &mut BTreeSet<String>) {
    for token in code {
        match token {
            TokenTree::Group(group) => names(group.stream(), found),
            TokenTree::Ident(name) => {
                let name = name.to_string();
                let lower = name.to_lowercase();
                let is_nameless = NAMELESS.iter().any(|word| lower.contains(word)) && lower != SETTING;
                found.extend(is_nameless.then_some(name));
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty())
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(workspace().join(file)).unwrap()
}

/// The repository's files with this ending, by their path in it.
fn files(ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect(&workspace(), ending, &mut found);
    found.sort();
    assert!(found.len() > 5, "{found:?}");
    found
}

fn collect(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if entry.file_type().unwrap().is_dir() {
            // Not ours, or found by machines.
            if !name.starts_with('.')
                && !["target", "corpus", "found", "artifacts", "node_modules"].contains(&&*name)
            {
                collect(&path, ending, found);
            }
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path.strip_prefix(workspace()).unwrap().to_owned());
        }
    }
}
