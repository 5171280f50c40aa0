//! Medians, and how far samples lie apart.

/// The middle of some samples, and their extremes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    /// The median.
    pub(crate) median: f64,
    /// The least.
    pub(crate) least: f64,
    /// The most.
    pub(crate) most: f64,
}

impl Spread {
    /// That of some samples; `None` of none.
    pub(crate) fn of(samples: impl IntoIterator<Item = f64>) -> Option<Self> {
        let samples = sorted(samples);
        let (least, most) = (*samples.first()?, *samples.last()?);
        Some(Self { median: middle(&samples), least, most })
    }
}

/// The sample below which `part` of 100 are; of an even number of samples the upper one.
///
/// # Panics
/// When there is no sample.
pub(crate) fn percentile(samples: impl IntoIterator<Item = f64>, part: usize) -> f64 {
    let samples = sorted(samples);
    samples[(samples.len() * part / 100).min(samples.len() - 1)]
}

fn sorted(samples: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut samples: Vec<f64> = samples.into_iter().collect();
    samples.sort_by(f64::total_cmp);
    samples
}

fn middle(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { f64::midpoint(sorted[half - 1], sorted[half]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_however_samples_come() {
        let spread = |samples: &[f64]| Spread::of(samples.iter().copied());
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[3.0]), Some(Spread { median: 3.0, least: 3.0, most: 3.0 }));
        assert_eq!(spread(&[9.0, 1.0, 2.0]), Some(Spread { median: 2.0, least: 1.0, most: 9.0 }));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 9.0]), Some(Spread { median: 3.0, least: 1.0, most: 9.0 }));
        let infinite = spread(&[f64::INFINITY, 1.0, f64::INFINITY]).unwrap();
        assert!(infinite.median.is_infinite() && infinite.least == 1.0, "one that froze counts as slowest");
    }

    #[test]
    fn percentiles_are_samples() {
        let samples = || (1..=100).rev().map(f64::from);
        assert_eq!(percentile(samples(), 50), 51.0);
        assert_eq!(percentile(samples(), 99), 100.0);
        assert_eq!(percentile([7.0], 99), 7.0);
        assert_eq!(percentile((1..=1000).map(f64::from), 99), 991.0);
    }
}
