//! Finds more than the first mistake of a file.
//!
//! A deserializer ends at the first one. The section that it is in, from one key at the left margin to the
//! next, is taken out of the text, and what is left is read again: as long as that says something new.

use std::{iter, path::Path};

use serde::de::DeserializeOwned;

use crate::{
    error::{Error, Mistake, Problem},
    is_blank, typed,
};

/// The most mistakes that are told of one file.
const MOST: usize = 10;

/// The first mistake, and those of other sections.
pub(crate) fn all<T: DeserializeOwned>(file: &Path, text: &str, first: &serde_saphyr::Error) -> Error {
    let first = Mistake::from_yaml(first);
    let mut others: Vec<Mistake> = Vec::new();
    let mut lines: Vec<&str> = text.lines().collect();
    let mut taken: Vec<&str> = Vec::new();
    while others.len() + 1 < MOST {
        let last = others.last().unwrap_or(&first);
        let Some(key) = last.inside().and_then(|line| take_out(&mut lines, line)) else { break };
        taken.push(key);
        let rest = lines.join("\n");
        let Err(error) = typed::<T>(if is_blank(&rest) { "{}" } else { &rest }) else { break };
        let next = Mistake::from_yaml(&error);
        // What was taken out is not missing, and neither is what a misspelled key was meant to be.
        let is_accounted_for = |key: &str| {
            taken.contains(&key)
                || iter::once(&first).chain(&others).any(|told| told.problem.meant() == Some(key))
        };
        match &next.problem {
            Problem::Syntax => break,
            Problem::MissingKey(key) if is_accounted_for(key) => break,
            _ => others.push(next),
        }
    }
    Error::several(file, first, others)
}

/// Empties the lines of the section that this line, counted from 1, is in, and returns its key.
fn take_out<'a>(lines: &mut [&'a str], line: u64) -> Option<&'a str> {
    let line = usize::try_from(line).ok()?.checked_sub(1)?;
    let begins = |line: &&str| !line.starts_with([' ', '\t', '#', '-', ']', '}']) && !line.is_empty();
    let first = lines.get(..=line)?.iter().rposition(begins)?;
    let (key, _) = lines.get(first)?.split_once(':').filter(|(key, _)| !key.starts_with(['{', '[']))?;
    let rest = lines.get_mut(first..)?;
    let length = rest.iter().skip(1).position(begins).map_or(rest.len(), |more| more + 1);
    rest.iter_mut().take(length).for_each(|line| *line = "");
    Some(key)
}
