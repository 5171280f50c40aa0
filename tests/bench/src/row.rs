//! One line of the table: a figure of every path, round by round, and what it must reach.

use std::collections::BTreeMap;

use crate::{path::Path, statistics::Spread};

/// One sample a round of each path. `None` is one that failed.
pub(crate) type Samples = BTreeMap<Path, Vec<Option<f64>>>;

/// Which of two figures is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    /// The higher.
    Higher,
    /// The lower.
    Lower,
}

/// What a path must reach, and what we would like it to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Gate {
    /// Which path.
    pub(crate) path: Path,
    /// As a ratio to which; to nothing where the figure is a ratio itself.
    pub(crate) to: Option<Path>,
    /// What it must reach.
    pub(crate) must: f64,
    /// What we would like it to.
    pub(crate) aim: f64,
}

/// A line of the table.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// The work that it belongs to.
    pub(crate) work: &'static str,
    /// What was measured.
    pub(crate) what: String,
    /// In what.
    pub(crate) unit: &'static str,
    /// Which figure is the better one.
    pub(crate) better: Better,
    /// All figures.
    pub(crate) samples: Samples,
    /// What must be reached.
    pub(crate) gates: Vec<Gate>,
}

impl Row {
    /// A line without a gate.
    pub(crate) fn new(
        work: &'static str,
        what: impl Into<String>,
        unit: &'static str,
        better: Better,
        samples: Samples,
    ) -> Self {
        Self { work, what: what.into(), unit, better, samples, gates: Vec::new() }
    }

    /// One more gate, for a ratio to OO.
    pub(crate) fn gate(self, path: Path, must: f64, aim: f64) -> Self {
        self.gate_to(path, Some(Path::OO), must, aim)
    }

    /// One more gate, for a ratio to another path, or for the figure itself.
    pub(crate) fn gate_to(mut self, path: Path, to: Option<Path>, must: f64, aim: f64) -> Self {
        self.gates.push(Gate { path, to, must, aim });
        self
    }

    /// The figures of a path.
    pub(crate) fn figures(&self, path: Path) -> Option<Spread> {
        Spread::of(self.samples.get(&path)?.iter().flatten().copied())
    }

    /// The ratios of a path to another: each of two figures of the same round.
    pub(crate) fn ratios(&self, path: Path, to: Path) -> Option<Spread> {
        let rounds = self.samples.get(&path)?.iter().zip(self.samples.get(&to)?);
        Spread::of(rounds.filter_map(|(one, other)| Some((*one)? / (*other)?)))
    }

    /// How many of a path's samples failed.
    pub(crate) fn failed(&self, path: Path) -> usize {
        self.samples.get(&path).map_or(0, |samples| samples.iter().filter(|sample| sample.is_none()).count())
    }

    /// What a gate is about, and whether it is reached. `None` where it was not measured.
    pub(crate) fn reached(&self, gate: &Gate) -> Option<(f64, Reached)> {
        let figure = match gate.to {
            Some(to) => self.ratios(gate.path, to)?,
            None => self.figures(gate.path)?,
        };
        let figure = figure.median;
        let reaches = |bound: f64| match self.better {
            Better::Higher => figure >= bound,
            Better::Lower => figure <= bound,
        };
        let reached = if self.failed(gate.path) > 0 || !reaches(gate.must) {
            Reached::Missed
        } else if reaches(gate.aim) {
            Reached::Aim
        } else {
            Reached::Met
        };
        Some((figure, reached))
    }
}

/// How far a figure came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reached {
    /// Not as far as it must.
    Missed,
    /// As far as it must.
    Met,
    /// As far as we would like it to.
    Aim,
}

impl Reached {
    /// As the table has it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Missed => "missed",
            Self::Met => "met",
            Self::Aim => "aim reached",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(better: Better, ours: &[Option<f64>]) -> Row {
        let samples = [(Path::OO, vec![Some(100.0), Some(200.0), Some(100.0)]), (Path::RR, ours.to_vec())];
        Row::new("work", "what", "s", better, samples.into())
    }

    #[test]
    fn a_ratio_is_of_two_figures_of_one_round() {
        let row = row(Better::Higher, &[Some(150.0), Some(240.0), Some(90.0)]);
        let ratios = row.ratios(Path::RR, Path::OO).unwrap();
        assert_eq!((ratios.least, ratios.median, ratios.most), (0.9, 1.2, 1.5));
        assert_eq!(row.ratios(Path::Raw, Path::OO), None);
    }

    #[test]
    fn a_gate_is_reached_on_the_better_side_of_it() {
        let reached = |better, median: f64| {
            let row = row(better, &[Some(100.0 * median), Some(200.0 * median), Some(100.0 * median)]);
            row.reached(&Gate { path: Path::RR, to: Some(Path::OO), must: 1.25, aim: 1.5 }).unwrap().1
        };
        assert_eq!(reached(Better::Higher, 1.0), Reached::Missed);
        assert_eq!(reached(Better::Higher, 1.25), Reached::Met);
        assert_eq!(reached(Better::Higher, 1.5), Reached::Aim);
        assert_eq!(reached(Better::Lower, 2.0), Reached::Missed);
        let lower = row(Better::Lower, &[Some(70.0); 3]);
        let gate = |to| Gate { path: Path::RR, to, must: 80.0, aim: 60.0 };
        assert_eq!(lower.reached(&gate(None)), Some((70.0, Reached::Met)));
    }

    #[test]
    fn one_failure_misses_a_gate_whatever_the_rest() {
        let row = row(Better::Higher, &[Some(900.0), None, Some(900.0)]);
        assert_eq!(row.failed(Path::RR), 1);
        let gate = Gate { path: Path::RR, to: Some(Path::OO), must: 1.0, aim: 2.0 };
        assert_eq!(row.reached(&gate), Some((9.0, Reached::Missed)));
        let unmeasured = Gate { path: Path::Raw, ..gate };
        assert_eq!(row.reached(&unmeasured), None);
    }
}
