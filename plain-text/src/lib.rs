//! Makes text for people: escapes what others chose, prints durations and sizes as people write them, and
//! keeps a remedy beside its error.

mod escape;
mod hint;
mod units;

pub use escape::{escaped, is_printed, one_line};
pub use hint::Hint;
pub use units::{bytes, ordinal, rough};
