//! Outputs against references.

use std::collections::BTreeMap;

use ssmc_npz::Array;

/// The worst error over all outputs of the reference, each given by `error` of its elements and those of the reference.
///
/// # Errors
/// An output is missing or of another shape.
pub(crate) fn worst_error(
    found: &BTreeMap<String, Array>,
    reference: &BTreeMap<String, Array>,
    error: fn(&[f64], &[f64]) -> f64,
) -> Result<f64, String> {
    let mut worst = 0f64;
    for (name, expected) in reference {
        let Some(output) = found.get(name) else { return Err(format!("output {name} is missing")) };
        if output.shape != expected.shape {
            return Err(format!("output {name}: expected {:?}, found {:?}", expected.shape, output.shape));
        }
        worst = worst.max(error(&output.to_f64(), &expected.to_f64()));
    }
    Ok(worst)
}

/// `max|y - reference| / max|reference|`; infinite where either is not finite and they differ.
pub(crate) fn error_over_peak(y: &[f64], reference: &[f64]) -> f64 {
    let difference = |(y, r): (&f64, &f64)| {
        let d = (y - r).abs();
        if y == r || (y.is_nan() && r.is_nan()) {
            0.0
        } else if d.is_nan() {
            f64::INFINITY
        } else {
            d
        }
    };
    let worst = y.iter().zip(reference).map(difference).fold(0.0, f64::max);
    let peak = reference.iter().map(|r| r.abs()).filter(|r| r.is_finite()).fold(0.0, f64::max);
    if worst == 0.0 { 0.0 } else { worst / peak }
}

/// The root mean square of `y - reference` over that of the reference; infinite where either is not finite and they differ.
pub(crate) fn root_mean_square(y: &[f64], reference: &[f64]) -> f64 {
    let finite = |(y, r): &(&f64, &f64)| y.is_finite() && r.is_finite();
    let same = |(y, r): (&f64, &f64)| y == r || (y.is_nan() && r.is_nan());
    let pairs = || y.iter().zip(reference);
    if !pairs().filter(|pair| !finite(pair)).all(same) {
        return f64::INFINITY;
    }
    let squares = |of: fn((&f64, &f64)) -> f64| pairs().filter(finite).map(of).sum::<f64>();
    let difference = squares(|(y, r)| (y - r) * (y - r));
    if difference == 0.0 { 0.0 } else { (difference / squares(|(_, r)| r * r)).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(values: &[f32]) -> BTreeMap<String, Array> {
        BTreeMap::from([("y".to_owned(), Array::f32s(&[values.len()], values))])
    }

    #[test]
    fn errors_are_relative_to_the_peak() {
        let reference = named(&[0.0, -4.0, 1.0]);
        assert_eq!(worst_error(&reference, &reference, error_over_peak), Ok(0.0));
        assert_eq!(worst_error(&named(&[1.0, -4.0, 1.0]), &reference, error_over_peak), Ok(0.25));
        assert_eq!(
            worst_error(&named(&[0.0, f32::NAN, 1.0]), &reference, error_over_peak),
            Ok(f64::INFINITY)
        );
        assert_eq!(worst_error(&named(&[0.0]), &named(&[0.0]), error_over_peak), Ok(0.0));
        assert_eq!(worst_error(&named(&[1.0]), &named(&[0.0]), error_over_peak), Ok(f64::INFINITY));
    }

    #[test]
    fn shapes_and_names_count() {
        assert!(
            worst_error(&named(&[1.0]), &named(&[1.0, 2.0]), error_over_peak).unwrap_err().contains("[2]")
        );
        assert!(
            worst_error(&BTreeMap::new(), &named(&[1.0]), error_over_peak).unwrap_err().contains("missing")
        );
    }

    #[test]
    fn root_mean_squares_are_relative_to_that_of_the_reference() {
        assert_eq!(root_mean_square(&[0.0, 0.0], &[0.0, 0.0]), 0.0);
        assert_eq!(root_mean_square(&[3.0, 5.0], &[3.0, 4.0]), 0.2);
        assert_eq!(root_mean_square(&[1.0], &[0.0]), f64::INFINITY);
        assert_eq!(root_mean_square(&[f64::NAN, 4.0], &[f64::NAN, 4.0]), 0.0);
        assert_eq!(root_mean_square(&[f64::NAN, 4.0], &[3.0, 4.0]), f64::INFINITY);
    }

    /// A reference that is off by ten tolerances in one element must fail, wherever the element is.
    #[test]
    fn perturbed_references_fail() {
        let tolerance = 1e-5;
        let values: Vec<f32> = (0..50).map(|i| ((i * 37 % 50) as f32 - 20.0) / 7.0).collect();
        let peak = values.iter().fold(0f32, |peak, x| peak.max(x.abs()));
        for i in 0..values.len() {
            for sign in [-1.0, 1.0] {
                let mut perturbed = values.clone();
                perturbed[i] += sign * 10.0 * tolerance as f32 * peak;
                let error = worst_error(&named(&values), &named(&perturbed), error_over_peak).unwrap();
                assert!(error > 5.0 * tolerance && error < 20.0 * tolerance, "element {i}: {error}");
            }
        }
    }
}
