//! Numbers to small integers with scales.

use ssmc_ir::{DType, Tensor};

/// Integers with one scale per group along an axis.
pub(super) struct Quantized {
    pub(super) ints: Vec<i8>,
    pub(super) scales: Vec<f64>,
    pub(super) scale_dtype: DType,
}

/// How many scales are tried for a group of few bits: the one that makes the sum of squared errors least is taken.
const TRIED: usize = 17;

/// Rounds a matrix of two axes to integers of 8 or 4 bits.
///
/// 8 bits: the largest magnitude of a group is 127, scales are f32. 4 bits: scales are f16; the number of largest
/// magnitude is about -8 (the end of the range that has one integer more), and the scale that fits the whole group best
/// is sought around that.
pub(super) fn quantize(
    exact: &[f64],
    shape: &[usize; 2],
    axis: usize,
    (bits, group): (usize, usize),
) -> Quantized {
    let scale_dtype = if bits == 8 { DType::F32 } else { DType::F16 };
    let places = Groups::new(shape, axis, group);
    let mut ints = vec![0; exact.len()];
    let mut scales = Vec::with_capacity(places.n_scales);
    let mut numbers = vec![0.0; group];
    for scale_idx in 0..places.n_scales {
        let first = places.first(scale_idx);
        for (i, x) in numbers.iter_mut().enumerate() {
            *x = exact[first + i * places.step];
        }
        let scale = if bits == 8 { scale_of_8(&numbers) } else { scale_of_4(&numbers) };
        let (low, high) = if bits == 8 { (-127.0, 127.0) } else { (-8.0, 7.0) };
        for (i, x) in numbers.iter().enumerate() {
            ints[first + i * places.step] = nearest(*x, scale, (low, high)) as i8;
        }
        scales.push(scale);
    }
    Quantized { ints, scales, scale_dtype }
}

fn scale_of_8(numbers: &[f64]) -> f64 {
    let peak = numbers.iter().fold(0.0, |peak: f64, x| peak.max(x.abs()));
    rounded(DType::F32, peak / 127.0)
}

fn scale_of_4(numbers: &[f64]) -> f64 {
    let extreme = numbers.iter().copied().fold(0.0, |e: f64, x| if x.abs() > e.abs() { x } else { e });
    let error = |scale: f64| -> f64 {
        numbers.iter().map(|x| (x - scale * nearest(*x, scale, (-8.0, 7.0))).powi(2)).sum()
    };
    let mut best = (f64::INFINITY, 0.0);
    for i in 0..TRIED {
        // From 7, where nothing is cut off, to 11.
        let range = 7.0 + 4.0 * i as f64 / (TRIED - 1) as f64;
        let scale = rounded(DType::F16, extreme / -range);
        let found = error(scale);
        if found < best.0 {
            best = (found, scale);
        }
    }
    best.1
}

/// The integer in a range whose product with the scale is nearest; 0 if the scale is 0.
fn nearest(x: f64, scale: f64, (low, high): (f64, f64)) -> f64 {
    if scale == 0.0 { 0.0 } else { (x / scale).round_ties_even().clamp(low, high) }
}

/// A number as an element type holds it; finite.
fn rounded(dtype: DType, x: f64) -> f64 {
    let largest = if dtype == DType::F16 { 65504.0 } else { f64::from(f32::MAX) };
    let tensor = Tensor::floats(dtype, [1], vec![x.clamp(-largest, largest)]).expect("one element");
    tensor.rounded().to_f64()[0]
}

/// The numbers that integers and scales stand for.
pub(super) fn numbers(
    ints: &[i8],
    scales: &[f64],
    shape: &[usize; 2],
    (axis, group): (usize, usize),
) -> Vec<f64> {
    let places = Groups::new(shape, axis, group);
    let mut out = vec![0.0; ints.len()];
    for (scale_idx, scale) in scales.iter().enumerate() {
        let first = places.first(scale_idx);
        for i in 0..group {
            let at = first + i * places.step;
            out[at] = f64::from(ints[at]) * scale;
        }
    }
    out
}

/// Where the groups of a matrix lie.
struct Groups {
    n_scales: usize,
    /// From one element of a group to the next.
    step: usize,
    group: usize,
    columns: usize,
    axis: usize,
}

impl Groups {
    fn new(shape: &[usize; 2], axis: usize, group: usize) -> Self {
        let [rows, columns] = *shape;
        let step = if axis == 0 { columns } else { 1 };
        let n_scales = rows * columns / group.max(1);
        Self { n_scales, step, group, columns, axis }
    }

    /// The first element of the group of a scale; scales are row-major with the axis divided by the group.
    fn first(&self, scale: usize) -> usize {
        if self.axis == 0 {
            scale / self.columns * self.group * self.columns + scale % self.columns
        } else {
            scale * self.group
        }
    }
}

/// Root mean square of the difference over that of `exact`; 0 if both are 0.
pub(super) fn relative_error(exact: &[f64], found: &[f64]) -> f64 {
    let error: f64 = exact.iter().zip(found).map(|(x, y)| (x - y).powi(2)).sum();
    let size: f64 = exact.iter().map(|x| x.powi(2)).sum();
    if error == 0.0 { 0.0 } else { (error / size).sqrt() }
}
