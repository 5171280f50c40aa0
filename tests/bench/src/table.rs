//! The table, as text that is Markdown too.

use crate::{
    path::Path,
    row::{Better, Gate, Row},
    statistics::Spread,
};

/// Renders all lines, with a column for each path that was measured.
pub(crate) fn render(rows: &[Row]) -> String {
    let paths: Vec<Path> =
        Path::ALL.into_iter().filter(|path| rows.iter().any(|row| row.samples.contains_key(path))).collect();
    let mut head = vec!["work".to_owned()];
    head.extend(paths.iter().map(|path| path.name().to_owned()));
    head.push("must; aim".to_owned());
    let mut lines = vec![head];
    for row in rows {
        let mut line = vec![row.what.clone()];
        line.extend(paths.iter().map(|path| cell(row, *path)));
        let gates = row.gates.iter().filter_map(|gate| judged(row, gate));
        line.push(gates.collect::<Vec<_>>().join(", "));
        lines.push(line);
    }
    align(&lines)
}

/// What was measured: of OO the figure itself, of the others a ratio to it; with how far samples lie apart.
fn cell(row: &Row, path: Path) -> String {
    let failed = match row.failed(path) {
        0 => String::new(),
        failed => format!(", {failed} failed"),
    };
    let absolute = |spread: Spread| {
        format!(
            "{} {} ({}–{}{failed})",
            figure(spread.median),
            row.unit,
            figure(spread.least),
            figure(spread.most)
        )
    };
    let relative =
        |spread: Spread| format!("× {:.2} ({:.2}–{:.2}{failed})", spread.median, spread.least, spread.most);
    let is_ratio_itself = row.gates.iter().any(|gate| gate.to.is_none());
    match row.ratios(path, Path::OO) {
        Some(ratios) if path != Path::OO && !is_ratio_itself && ratios.median.is_finite() => relative(ratios),
        _ => match row.figures(path) {
            Some(figures) => absolute(figures),
            None if row.failed(path) > 0 => "failed".to_owned(),
            None => "–".to_owned(),
        },
    }
}

/// Three digits that count.
fn figure(figure: f64) -> String {
    if figure.is_infinite() {
        "frozen".to_owned()
    } else if figure >= 100.0 {
        format!("{figure:.0}")
    } else if figure >= 10.0 {
        format!("{figure:.1}")
    } else {
        format!("{figure:.2}")
    }
}

fn judged(row: &Row, gate: &Gate) -> Option<String> {
    let (_, reached) = row.reached(gate)?;
    let sign = match row.better {
        Better::Higher => "≥",
        Better::Lower => "≤",
    };
    let to = match gate.to {
        Some(Path::OO) | None => String::new(),
        Some(to) => format!(" of {}", to.name()),
    };
    Some(format!("{} {sign} {}{to}; {}: {}", gate.path.name(), gate.must, gate.aim, reached.name()))
}

/// Pads every column to one width.
fn align(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!(" {cell:width$} "));
        text.push_str(&format!("|{}|\n", cells.collect::<Vec<_>>().join("|")));
        if number == 0 {
            let rules = widths.iter().map(|width| "-".repeat(width + 2));
            text.push_str(&format!("|{}|\n", rules.collect::<Vec<_>>().join("|")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples<const N: usize>(figures: [f64; N]) -> Vec<Option<f64>> {
        figures.into_iter().map(Some).collect()
    }

    #[test]
    fn a_table_has_figures_of_openssh_and_ratios_of_the_rest() {
        let throughput = Row::new(
            "one-stream",
            "one stream up",
            "MiB/s",
            Better::Higher,
            [
                (Path::OO, samples([500.0, 400.0, 512.4])),
                (Path::RR, samples([750.0, 500.0, 512.4])),
                (Path::Raw, vec![None; 3]),
            ]
            .into(),
        )
        .gate(Path::RR, 1.25, 1.6)
        .gate_to(Path::RR, Some(Path::Raw), 1.0, 1.0);
        let echo = Row::new(
            "echo",
            "echo",
            "µs",
            Better::Lower,
            [(Path::OO, samples([99.94, 5.0, 9.0])), (Path::RR, vec![Some(4.5), None, Some(9.0)])].into(),
        )
        .gate(Path::RR, 1.0, 0.8);
        let table = render(&[throughput, echo]);
        let expected = "\
| work          | OO                  | RR                         | raw    | must; aim                   |
|---------------|---------------------|----------------------------|--------|-----------------------------|
| one stream up | 500 MiB/s (400–512) | × 1.25 (1.00–1.50)         | failed | RR ≥ 1.25; 1.6: met         |
| echo          | 9.00 µs (5.00–99.9) | × 0.52 (0.05–1.00, 1 failed) | –      | RR ≤ 1; 0.8: missed         |
";
        let trimmed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").replace("-", "");
        assert_eq!(trimmed(&table), trimmed(expected));
        let widths: Vec<_> = table.lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{table}");
    }

    #[test]
    fn what_is_a_ratio_itself_is_shown_as_it_is() {
        let stall = Row::new(
            "stall",
            "echo while another stream is stalled",
            "× its own",
            Better::Lower,
            [(Path::OO, samples([1.0, 1.1, 1.2])), (Path::RR, samples([f64::INFINITY; 3]))].into(),
        )
        .gate_to(Path::RR, None, 1.5, 1.2);
        let table = render(&[stall]);
        assert!(table.contains("1.10 × its own (1.00–1.20)"), "{table}");
        assert!(table.contains("frozen × its own (frozen–frozen)"), "{table}");
        assert!(table.contains("RR ≤ 1.5; 1.2: missed"), "{table}");
    }
}
