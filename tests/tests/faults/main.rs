//! Seeded faults: mistakes that a compiler of SSMs makes, each of which the comparisons of this project must catch.
//!
//! A fault is a change of the text of a graph or of a kernel. The text is run before and after; the outputs must
//! differ by more than the tolerance of the corpus, or the interpreter must report the fault.

mod graphs;
mod kernels;

/// What the corpus grants to outputs of f32 models, over their peak.
const TOLERANCE: f64 = 1e-5;

/// A mistake: its name and the texts that it replaces, each of which occurs once.
type Fault = (&'static str, &'static [(&'static str, &'static str)]);

fn apply(text: &str, (name, changes): &Fault) -> String {
    changes.iter().fold(text.to_owned(), |text, (from, to)| {
        assert_eq!(text.matches(from).count(), 1, "{name}: {from:?} in\n{text}");
        text.replacen(from, to, 1)
    })
}

/// The largest difference over the peak; infinite where one is NaN.
fn error_over_peak(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let peak = expected.iter().fold(0f64, |peak, x| peak.max(x.abs()));
    let differences = found.iter().zip(expected).map(|(x, y)| (x - y).abs());
    differences.fold(0f64, |worst, d| if d.is_nan() { f64::INFINITY } else { worst.max(d) }) / peak
}

/// Numbers between -1 and 1, the same in every run.
fn noise(seed: u64, n: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

#[test]
fn there_are_enough_and_their_names_differ() {
    let lists = [graphs::MAMBA_FAULTS, graphs::SSD_FAULTS, graphs::CHUNK_FAULTS, kernels::FAULTS];
    let names: Vec<&str> = lists.iter().flat_map(|faults| faults.iter().map(|fault| fault.0)).collect();
    let distinct: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len());
    assert!(names.len() >= 20, "{}", names.len());
}
