//! How far numbers are from their reference.

use serde_json::{Value, json};

/// Tolerances: an element may differ by `atol + rtol * peak`, where `peak` is the largest magnitude of the reference.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tolerance {
    pub(crate) rtol: f64,
    pub(crate) atol: f64,
}

/// The comparison of one tensor.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    /// Largest absolute error; infinite if one side alone is not a number.
    pub(crate) error: f64,
    /// Largest magnitude of the reference.
    pub(crate) peak: f64,
    /// The error as a part of what is allowed; up to 1 passes.
    pub(crate) ratio: f64,
    /// The element with the largest error: index in row-major order, expected, found.
    pub(crate) worst: Option<(usize, f64, f64)>,
}

/// Compares numbers of equal count; `None` if the counts differ.
pub(crate) fn compare(expected: &[f64], found: &[f64], tolerance: Tolerance) -> Option<Difference> {
    if expected.len() != found.len() {
        return None;
    }
    let peak = expected.iter().filter(|x| x.is_finite()).fold(0f64, |m, x| m.max(x.abs()));
    let mut error = 0f64;
    let mut worst = None;
    for (i, (x, y)) in expected.iter().zip(found).enumerate() {
        let same = x == y || (x.is_nan() && y.is_nan());
        let here = if same { 0.0 } else { (x - y).abs() };
        let here = if here.is_nan() { f64::INFINITY } else { here };
        if here > error {
            (error, worst) = (here, Some((i, *x, *y)));
        }
    }
    let allowed = tolerance.atol + tolerance.rtol * peak;
    let ratio = if error == 0.0 { 0.0 } else { error / allowed };
    Some(Difference { error, peak, ratio, worst })
}

impl Difference {
    pub(crate) fn passed(&self) -> bool {
        self.ratio <= 1.0
    }

    pub(crate) fn to_json(&self) -> Value {
        let number = |x: f64| if x.is_finite() { json!(x) } else { json!(x.to_string()) };
        json!({
            "passed": self.passed(),
            "error": number(self.error),
            "peak": number(self.peak),
            "ratio": number(self.ratio),
            "worst": self.worst.map(|(index, expected, found)| {
                json!({"index": index, "expected": number(expected), "found": number(found)})
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: Tolerance = Tolerance { rtol: 0.1, atol: 0.0 };

    #[test]
    fn errors_are_relative_to_the_peak() {
        let found = compare(&[0.0, 10.0], &[0.5, 10.0], TOLERANCE).unwrap();
        assert!(found.passed());
        assert_eq!((found.error, found.peak, found.worst), (0.5, 10.0, Some((0, 0.0, 0.5))));
        assert!(!compare(&[0.0, 10.0], &[0.0, 11.5], TOLERANCE).unwrap().passed());
    }

    #[test]
    fn what_is_no_number_never_passes() {
        for found in [f64::NAN, f64::INFINITY] {
            assert!(!compare(&[1.0], &[found], TOLERANCE).unwrap().passed());
            assert!(compare(&[found], &[found], TOLERANCE).unwrap().passed());
        }
        assert!(compare(&[1.0], &[], TOLERANCE).is_none());
        assert!(!compare(&[0.0], &[1e-9], TOLERANCE).unwrap().passed());
    }
}
