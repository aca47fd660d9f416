//! Long kernels as state spaces: `k[t] = Re sum of c_n * p_n^t`.
//!
//! The poles are those of the shift between the rows of a Hankel matrix of the kernel (matrix pencil, Hua & Sarkar 1990),
//! whose rank is their number; the weights follow by least squares. Poles and weights are rounded to the type that they
//! are stored in before the residual is taken, so that it is that of the kernel which will run.

mod linear;

use linear::{abs, eigenvalues, least_squares, singular};
use ssmc_ir::{Complex, DType, scalar};

/// The most of a kernel's norm that a realization may be off by.
pub(super) const RESIDUAL: f64 = 1e-6;
/// The most poles that are looked for, conjugates included.
const MAX_ORDER: usize = 64;
/// The most taps that poles are found from; the weights are those for all taps.
const MAX_TAPS: usize = 512;
/// How many orders are tried beyond the least that the rank allows.
const MAX_TRIED: usize = 12;

/// A kernel of one channel as a sum of decaying oscillations; of each conjugate pair one pole is given.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Realization {
    pub(super) poles: Vec<Complex>,
    pub(super) weights: Vec<Complex>,
    /// The norm of the difference over that of the kernel.
    pub(super) residual: f64,
}

impl Realization {
    /// The number of real states.
    pub(super) fn order(&self) -> usize {
        self.poles.iter().map(|p| if p.im == 0.0 { 1 } else { 2 }).sum()
    }
}

/// The state space of least order that gives a kernel up to [`RESIDUAL`], with coefficients of type `dtype`, if it has
/// fewer states than the kernel needs steps of history. `ends` says that the kernel is zero after its last tap, rather
/// than not known there.
pub(super) fn realize(kernel: &[f64], ends: bool, dtype: DType) -> Option<Realization> {
    let norm = kernel.iter().map(|x| x * x).sum::<f64>().sqrt();
    if norm == 0.0 {
        return Some(Realization::default());
    }
    if !norm.is_finite() {
        return None;
    }
    let taps = &kernel[..kernel.len().min(MAX_TAPS)];
    let width = (taps.len() / 2).min(MAX_ORDER) + 1;
    let height = taps.len() + 1 - width;
    let columns = (0..width).map(|j| taps[j..j + height].to_vec()).collect();
    let (values, vectors) = singular(columns);
    // A matrix of lower rank is farther away than any good kernel's Hankel matrix can be (Eckart & Young), in which
    // every tap stands at most `width` times.
    let allowed = RESIDUAL * norm * (width as f64).sqrt();
    let tail = |r: usize| values[r..].iter().map(|s| s * s).sum::<f64>().sqrt();
    let least = (1..width).find(|r| tail(*r) <= allowed)?;
    let most = ((kernel.len() - 1) / 2).min(width - 1).min(least + MAX_TRIED);
    (least..=most).find_map(|order| of_order(kernel, &vectors[..order], (norm, ends), dtype))
}

fn of_order(
    kernel: &[f64],
    vectors: &[Vec<f64>],
    (norm, ends): (f64, bool),
    dtype: DType,
) -> Option<Realization> {
    let mut poles: Vec<Complex> = eigenvalues(&shift(vectors)?)?;
    // Of a real matrix they come in pairs; those with a negative imaginary part follow from the others.
    let scale = poles.iter().map(|p| abs(*p)).fold(0.0, f64::max);
    for p in &mut poles {
        if p.im.abs() <= 1e-10 * scale {
            p.im = 0.0;
        }
        // A kernel must not grow; whether it is the same without growth, the residual tells.
        let size = abs(*p);
        if size > 1.0 {
            *p = Complex::new(p.re / size, p.im / size);
        }
        *p = Complex::new(scalar::round(dtype, p.re), scalar::round(dtype, p.im));
    }
    poles.retain(|p| p.im >= 0.0);
    poles.sort_by(|p, q| abs(*q).total_cmp(&abs(*p)).then(p.im.total_cmp(&q.im)));
    if poles.iter().any(|p| abs(*p) > 1.0 + 1e-7) {
        return None;
    }
    let horizon = if ends { kernel.len() * 4 } else { kernel.len() };
    let wanted: Vec<f64> = (0..horizon).map(|t| kernel.get(t).copied().unwrap_or(0.0)).collect();
    let mut columns = Vec::new();
    for p in &poles {
        let powers = powers(*p, horizon);
        columns.push(powers.iter().map(|z| z.re).collect());
        if p.im != 0.0 {
            columns.push(powers.iter().map(|z| -z.im).collect());
        }
    }
    let x = least_squares(&columns, &wanted)?;
    let mut x = x.into_iter().map(|x| scalar::round(dtype, x));
    let mut weights = Vec::new();
    for p in &poles {
        let re = x.next()?;
        weights.push(Complex::new(re, if p.im == 0.0 { 0.0 } else { x.next()? }));
    }
    let mut rest = wanted;
    for (p, c) in poles.iter().zip(&weights) {
        for (x, z) in rest.iter_mut().zip(powers(*p, horizon)) {
            *x -= (*c * z).re;
        }
    }
    let mut off = rest.iter().map(|x| x * x).sum::<f64>().sqrt();
    if ends {
        // What follows the horizon is at most a geometric series.
        let beyond = |(p, c): (&Complex, &Complex)| {
            abs(*c) * abs(*p).powi(i32::try_from(horizon).unwrap_or(i32::MAX)) / (1.0 - abs(*p)).max(0.0)
        };
        off += poles.iter().zip(&weights).map(beyond).sum::<f64>();
    }
    let residual = off / norm;
    (residual <= RESIDUAL).then_some(Realization { poles, weights, residual })
}

/// 1, z, z^2, ..
fn powers(z: Complex, n: usize) -> Vec<Complex> {
    std::iter::successors(Some(Complex::new(1.0, 0.0)), |x| Some(*x * z)).take(n).collect()
}

/// The matrix that takes the rows of the vectors but the last one to those but the first one, in the sense of least
/// squares. The vectors are orthonormal, so that their rows but the last one, v, have the product I - v v^T.
fn shift(vectors: &[Vec<f64>]) -> Option<Vec<Vec<f64>>> {
    let n = vectors.len();
    let rows = vectors.first()?.len() - 1;
    let last: Vec<f64> = vectors.iter().map(|x| x[rows]).collect();
    let left = 1.0 - last.iter().map(|x| x * x).sum::<f64>();
    if left <= 1e-12 {
        return None;
    }
    let columns = (0..n).map(|j| {
        let product: Vec<f64> =
            (0..n).map(|i| (0..rows).map(|t| vectors[i][t] * vectors[j][t + 1]).sum()).collect();
        let along = product.iter().zip(&last).map(|(x, v)| x * v).sum::<f64>() / left;
        product.iter().zip(&last).map(|(x, v)| x + along * v).collect()
    });
    Some(columns.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

    /// S4D-Lin: poles exp(dt*(-1/2 + i*pi*n)) from n = 0, which is real, and weights of any size.
    fn s4d(pairs: usize, taps: usize) -> Vec<f64> {
        let dt = 0.1;
        let weights = noise(7, 2 * pairs);
        (0..taps)
            .map(|t| {
                let term = |n: usize| {
                    let z = Complex::new(-0.5 * dt, std::f64::consts::PI * n as f64 * dt);
                    let z = Complex::new(z.re * t as f64, z.im * t as f64).exp();
                    2.0 * (Complex::new(weights[2 * n], weights[2 * n + 1]) * z).re
                };
                (0..pairs).map(term).sum()
            })
            .collect()
    }

    fn rounded(kernel: &[f64]) -> Vec<f64> {
        kernel.iter().map(|x| scalar::round(DType::F32, *x)).collect()
    }

    #[test]
    fn sums_of_oscillations_have_their_order() {
        for (pairs, taps) in [(2, 40), (4, 64), (8, 128)] {
            let found = realize(&rounded(&s4d(pairs, taps)), false, DType::F32).unwrap();
            assert_eq!(found.order(), 2 * pairs - 1, "{pairs} {taps} {found:?}");
            assert!(found.residual <= RESIDUAL);
        }
        assert_eq!(realize(&[0.0; 9], true, DType::F32).unwrap().order(), 0);
    }

    #[test]
    fn noise_is_no_state_space() {
        assert_eq!(realize(&noise(1, 64), false, DType::F32), None);
        assert_eq!(realize(&[1.0], false, DType::F32), None);
        assert_eq!(realize(&[f64::NAN, 1.0, 2.0, 3.0, 1.0], false, DType::F32), None);
    }

    #[test]
    fn the_residual_decides() {
        let kernel = s4d(2, 400);
        let norm = kernel.iter().map(|x| x * x).sum::<f64>().sqrt();
        let other = noise(5, 400);
        let size = other.iter().map(|x| x * x).sum::<f64>().sqrt();
        let with = |share: f64| -> Vec<f64> {
            kernel.iter().zip(&other).map(|(x, y)| x + share * norm / size * y).collect()
        };
        let near = realize(&with(0.9e-6), false, DType::F64).unwrap();
        assert!(near.order() == 3 && near.residual > 0.5e-6, "{near:?}");
        // A few poles fit a little of so much noise.
        assert_eq!(realize(&with(1.2e-6), false, DType::F64), None);
    }

    #[test]
    fn what_ends_must_have_decayed() {
        let kernel: Vec<f64> = (0..40).map(|t| 0.95f64.powi(t)).collect();
        assert_eq!(realize(&kernel, false, DType::F32).unwrap().order(), 1);
        assert_eq!(realize(&kernel, true, DType::F32), None);
        let kernel: Vec<f64> = (0..40).map(|t| 0.5f64.powi(t)).collect();
        assert_eq!(realize(&kernel, true, DType::F32).unwrap().order(), 1);
    }
}
