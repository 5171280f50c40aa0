//! Makes text for people: escapes what others chose, and prints durations and sizes as people write them.

mod escape;
mod units;

pub use escape::{escaped, is_printed, one_line};
pub use units::{bytes, ordinal, rough};
