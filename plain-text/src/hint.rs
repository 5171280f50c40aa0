//! Keeps a remedy beside its error.

use std::fmt::Display;

/// An error that knows what to do about it.
///
/// An error whose `Display` says both, what failed in its first line and what to do in the others, has this
/// trait by naming it; one that has them apart says them apart.
pub trait Hint: Display {
    /// What failed, in one line.
    fn what(&self) -> String {
        self.to_string().lines().next().unwrap_or_default().to_owned()
    }

    /// What it means and what to do next, a line each.
    fn hint(&self) -> Vec<String> {
        self.to_string().lines().skip(1).map(|line| line.trim().to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Hint for str {}

    #[test]
    fn the_first_line_is_what_failed() {
        let error = "the door is locked\n  Open it\n  with the key";
        assert_eq!(error.what(), "the door is locked");
        assert_eq!(error.hint(), ["Open it", "with the key"]);
        assert_eq!("alone".hint(), [] as [&str; 0]);
    }
}
