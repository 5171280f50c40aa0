//! Stores a set of serial numbers as ranges: looking one up is as quick in a bitmap of a million as in a list
//! of one.

/// Ranges with both ends included; after `finish`, sorted and with a gap between any two.
#[derive(Debug, Default)]
pub(super) struct Serials(Vec<(u64, u64)>);

impl Serials {
    /// Adds `first` to `last`, and returns whether that took a new range.
    pub(super) fn add(&mut self, first: u64, last: u64) -> bool {
        // Lists are mostly written in order, so most numbers follow the one before.
        if let Some(range) = self.0.last_mut()
            && joins(*range, first)
        {
            range.1 = range.1.max(last);
            return false;
        }
        self.0.push((first, last));
        true
    }

    /// Sorts the ranges and merges those that touch.
    pub(super) fn finish(&mut self) {
        self.0.sort_unstable();
        self.0.dedup_by(|next, range| {
            let joined = joins(*range, next.0);
            if joined {
                range.1 = range.1.max(next.1);
            }
            joined
        });
        self.0.shrink_to_fit();
    }

    pub(super) fn contains(&self, serial: u64) -> bool {
        let next = self.0.partition_point(|&(_, last)| last < serial);
        self.0.get(next).is_some_and(|&(first, _)| first <= serial)
    }
}

/// Whether a range that begins at `first`, and not before `range`, can be merged with it.
fn joins(range: (u64, u64), first: u64) -> bool {
    range.0 <= first && first <= range.1.saturating_add(1)
}
