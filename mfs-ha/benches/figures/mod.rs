//! Figures of several rounds, as benchmarks print them.

use std::fmt;

/// One figure a round. It shows itself as the median, with the least and the most.
#[derive(Default)]
pub(crate) struct Rounds(Vec<f64>);

impl Rounds {
    pub(crate) fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// Returns the middle one; not a number without any.
    pub(crate) fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.get(sorted.len() / 2);
        middle.copied().unwrap_or(f64::NAN)
    }

    /// Returns how many per cent of `other`'s figure of the same round each figure is: load that lasts longer
    /// than a round hits both.
    pub(crate) fn per_cent_of(&self, other: &Self) -> Self {
        let pairs = self.0.iter().zip(&other.0);
        Self(pairs.map(|(own, other)| own * 100.0 / other).collect())
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

impl fmt::Display for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(1);
        let sorted = self.sorted();
        let [least, most] = [sorted.first(), sorted.last()].map(|end| end.unwrap_or(&f64::NAN));
        let text = format!(
            "{:.digits$} ({least:.digits$}..{most:.digits$})",
            self.median()
        );
        // `pad` would take the precision for a length.
        write!(f, "{text:>width$}", width = f.width().unwrap_or_default())
    }
}
