//! The inverse Fourier transform of a constant spectrum, in f64.

use ssmc_ir::Complex;

/// `x[n] = 1/N * sum over k of X[k] * exp(2*pi*i*k*n/N)`, for any N, in O(N * sum of its prime factors) steps.
pub(super) fn inverse(spectrum: &[Complex]) -> Vec<Complex> {
    let n = spectrum.len();
    let scale = Complex::new(1.0 / n.max(1) as f64, 0.0);
    sum_of_waves(spectrum).into_iter().map(|x| x * scale).collect()
}

/// The whole spectrum of a real signal of `n` elements from its first half. The imaginary parts of elements that are
/// their own mirror image are ignored.
pub(super) fn mirrored(half: &[Complex], n: usize) -> Vec<Complex> {
    let element = |k: usize| {
        let mirror = (n - k) % n;
        if k == mirror {
            Complex::new(half[k].re, 0.0)
        } else if k < mirror {
            half[k]
        } else {
            Complex::new(half[mirror].re, -half[mirror].im)
        }
    };
    (0..n).map(element).collect()
}

fn sum_of_waves(x: &[Complex]) -> Vec<Complex> {
    let n = x.len();
    let Some(p) = (2..=n).find(|p| n.is_multiple_of(*p)) else { return x.to_vec() };
    let m = n / p;
    let parts: Vec<Vec<Complex>> =
        (0..p).map(|r| sum_of_waves(&x.iter().skip(r).step_by(p).copied().collect::<Vec<_>>())).collect();
    let root = |k: usize| {
        let angle = std::f64::consts::TAU * (k % n) as f64 / n as f64;
        Complex::new(angle.cos(), angle.sin())
    };
    (0..n)
        .map(|t| {
            let terms = parts.iter().enumerate().map(|(r, part)| part[t % m] * root(r * t));
            terms.fold(Complex::default(), |sum, x| sum + x)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_sum_that_defines_it() {
        for n in [1, 2, 3, 4, 6, 7, 12, 30, 64] {
            let x: Vec<Complex> =
                (0..n).map(|k| Complex::new((k as f64).sin(), (3.0 * k as f64).cos())).collect();
            for (t, found) in inverse(&x).into_iter().enumerate() {
                let term = |(k, x): (usize, &Complex)| {
                    let angle = std::f64::consts::TAU * (k * t) as f64 / n as f64;
                    *x * Complex::new(angle.cos(), angle.sin())
                };
                let sum = x.iter().enumerate().map(term).fold(Complex::default(), |a, b| a + b);
                assert!(
                    (sum.re / n as f64 - found.re).abs() < 1e-12
                        && (sum.im / n as f64 - found.im).abs() < 1e-12
                );
            }
        }
    }

    #[test]
    fn half_a_spectrum_is_that_of_a_real_signal() {
        let half = [(3.0, 9.0), (1.0, -2.0), (-1.0, 9.0)].map(|(re, im)| Complex::new(re, im));
        for (found, expected) in inverse(&mirrored(&half, 4)).into_iter().zip([1.0, 2.0, 0.0, 0.0]) {
            assert!((found.re - expected).abs() < 1e-15 && found.im.abs() < 1e-15);
        }
    }
}
