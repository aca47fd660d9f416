//! Small dense linear algebra. Matrices are lists of columns.

use ssmc_ir::Complex;

/// Rotations of all pairs of columns after which the others are as orthogonal as rounding lets them be.
const MAX_SWEEPS: usize = 60;
/// Steps of the QR algorithm for one eigenvalue; a few are the rule.
const MAX_STEPS: usize = 90;

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// The singular values of a matrix, the largest first, and its right singular vectors.
///
/// One-sided Jacobi rotations (Hestenes 1958): accurate for small singular values too.
pub(super) fn singular(mut columns: Vec<Vec<f64>>) -> (Vec<f64>, Vec<Vec<f64>>) {
    let n = columns.len();
    let mut vectors: Vec<Vec<f64>> =
        (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for _ in 0..MAX_SWEEPS {
        let mut is_done = true;
        for i in 0..n {
            for j in i + 1..n {
                let (xx, yy) = (dot(&columns[i], &columns[i]), dot(&columns[j], &columns[j]));
                let xy = dot(&columns[i], &columns[j]);
                if xy.abs() <= 1e-15 * (xx * yy).sqrt() {
                    continue;
                }
                is_done = false;
                let zeta = (yy - xx) / (2.0 * xy);
                let t = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
                let c = 1.0 / t.hypot(1.0);
                rotate(&mut columns, (i, j), (c, c * t));
                rotate(&mut vectors, (i, j), (c, c * t));
            }
        }
        if is_done {
            break;
        }
    }
    let norms: Vec<f64> = columns.iter().map(|x| dot(x, x).sqrt()).collect();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|i, j| norms[*j].total_cmp(&norms[*i]));
    (order.iter().map(|i| norms[*i]).collect(), order.iter().map(|i| vectors[*i].clone()).collect())
}

fn rotate(columns: &mut [Vec<f64>], (i, j): (usize, usize), (c, s): (f64, f64)) {
    let (left, right) = columns.split_at_mut(j);
    for (x, y) in left[i].iter_mut().zip(&mut right[0]) {
        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
    }
}

/// The eigenvalues of a square matrix; `None` if they were not found, as for a matrix with elements that are no numbers.
///
/// Hessenberg form by elimination, then QR steps with Wilkinson shifts (Golub & Van Loan, 7.4 and 7.5).
pub(super) fn eigenvalues(columns: &[Vec<f64>]) -> Option<Vec<Complex>> {
    let n = columns.len();
    let mut h: Vec<Vec<Complex>> =
        (0..n).map(|i| columns.iter().map(|column| Complex::new(column[i], 0.0)).collect()).collect();
    hessenberg(&mut h);
    let mut found = Vec::new();
    let (mut end, mut steps) = (n, 0);
    while end > 0 {
        let is_small = |i: usize| {
            let around = abs(h[i][i]) + abs(h[i - 1][i - 1]);
            abs(h[i][i - 1]) <= f64::EPSILON * around
        };
        let start = (1..end).rev().find(|i| is_small(*i)).unwrap_or(0);
        if start + 1 == end {
            found.push(h[start][start]);
            (end, steps) = (start, 0);
            continue;
        }
        steps += 1;
        if steps > MAX_STEPS {
            return None;
        }
        // A shift that is none of the usual ones ends cycles.
        let shift = if steps % 10 == 0 {
            Complex::new(abs(h[end - 1][end - 2]) + h[end - 1][end - 1].re, 0.0)
        } else {
            wilkinson(&h, end)
        };
        qr_step(&mut h, start..end, shift);
    }
    Some(found)
}

fn hessenberg(h: &mut [Vec<Complex>]) {
    let n = h.len();
    for k in 1..n.saturating_sub(1) {
        let size = |i: &usize| abs(h[*i][k - 1]);
        let pivot = (k..n).max_by(|i, j| size(i).total_cmp(&size(j))).unwrap_or(k);
        if abs(h[pivot][k - 1]) == 0.0 {
            continue;
        }
        h.swap(pivot, k);
        for row in h.iter_mut() {
            row.swap(pivot, k);
        }
        for i in k + 1..n {
            let factor = h[i][k - 1] / h[k][k - 1];
            let pivots = h[k].clone();
            for (x, pivot) in h[i].iter_mut().zip(pivots) {
                *x = *x - factor * pivot;
            }
            for row in h.iter_mut() {
                let added = factor * row[i];
                row[k] = row[k] + added;
            }
        }
    }
}

/// The eigenvalue of the last two rows and columns that is nearer to the last element.
fn wilkinson(h: &[Vec<Complex>], end: usize) -> Complex {
    let (a, b) = (h[end - 2][end - 2], h[end - 2][end - 1]);
    let (c, d) = (h[end - 1][end - 2], h[end - 1][end - 1]);
    let half = Complex::new(0.5, 0.0);
    let (mean, apart) = ((a + d) * half, (a - d) * half);
    let root = sqrt(apart * apart + b * c);
    let (p, q) = (mean + root, mean - root);
    if abs(p - d) < abs(q - d) { p } else { q }
}

/// One step on rows and columns `at`: H - shift = QR, then RQ + shift.
fn qr_step(h: &mut [Vec<Complex>], at: std::ops::Range<usize>, shift: Complex) {
    let (skipped, n) = (at.start, at.len());
    for (i, row) in h.iter_mut().enumerate().skip(skipped).take(n) {
        row[i] = row[i] - shift;
    }
    let mut rotations = Vec::new();
    for k in at.start..at.end - 1 {
        let (x, y) = (h[k][k], h[k + 1][k]);
        let norm = Complex::new(abs(x).hypot(abs(y)), 0.0);
        let (c, s) =
            if norm.re == 0.0 { (Complex::new(1.0, 0.0), Complex::default()) } else { (x / norm, y / norm) };
        for j in at.clone() {
            let (x, y) = (h[k][j], h[k + 1][j]);
            h[k][j] = conj(c) * x + conj(s) * y;
            h[k + 1][j] = c * y - s * x;
        }
        rotations.push((c, s));
    }
    for (k, (c, s)) in (at.start..).zip(rotations) {
        for row in &mut h[at.clone()] {
            let (x, y) = (row[k], row[k + 1]);
            row[k] = x * c + y * s;
            row[k + 1] = y * conj(c) - x * conj(s);
        }
    }
    for (i, row) in h.iter_mut().enumerate().skip(skipped).take(n) {
        row[i] = row[i] + shift;
    }
}

/// The combination of the columns that is nearest to `y`, by Householder reflections; `None` if columns depend on each
/// other.
pub(super) fn least_squares(columns: &[Vec<f64>], y: &[f64]) -> Option<Vec<f64>> {
    let n = columns.len();
    let mut a: Vec<Vec<f64>> = columns.iter().cloned().chain([y.to_vec()]).collect();
    if y.len() < n {
        return None;
    }
    for (k, column) in columns.iter().enumerate() {
        let size = dot(column, column).sqrt();
        let norm = dot(&a[k][k..], &a[k][k..]).sqrt();
        if norm.is_nan() || norm <= size * 1e-15 {
            return None;
        }
        let alpha = if a[k][k] > 0.0 { -norm } else { norm };
        let mut v = a[k][k..].to_vec();
        v[0] -= alpha;
        let vv = dot(&v, &v);
        for column in &mut a[k..] {
            let factor = 2.0 * dot(&v, &column[k..]) / vv;
            for (x, v) in column[k..].iter_mut().zip(&v) {
                *x -= factor * v;
            }
        }
    }
    let mut x = vec![0.0; n];
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|j| a[j][i] * x[j]).sum();
        x[i] = (a[n][i] - known) / a[i][i];
    }
    Some(x)
}

pub(super) fn abs(z: Complex) -> f64 {
    z.re.hypot(z.im)
}

fn conj(z: Complex) -> Complex {
    Complex::new(z.re, -z.im)
}

/// The square root in the right half plane.
fn sqrt(z: Complex) -> Complex {
    let r = abs(z);
    let re = ((r + z.re) / 2.0).max(0.0).sqrt();
    let im = ((r - z.re) / 2.0).max(0.0).sqrt();
    Complex::new(re, if z.im < 0.0 { -im } else { im })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

    fn matrix(seed: u64, rows: usize, columns: usize) -> Vec<Vec<f64>> {
        noise(seed, rows * columns).chunks(rows).map(<[f64]>::to_vec).collect()
    }

    #[test]
    fn singular_vectors_diagonalize_the_product() {
        let a = matrix(1, 9, 5);
        let (values, vectors) = singular(a.clone());
        assert!(values.is_sorted_by(|x, y| x >= y));
        for (value, v) in values.iter().zip(&vectors) {
            let av: Vec<f64> = (0..9).map(|i| (0..5).map(|j| a[j][i] * v[j]).sum()).collect();
            assert!((dot(&av, &av).sqrt() - value).abs() < 1e-12, "{value}");
            assert!((dot(v, v) - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn eigenvalues_are_roots() {
        // The companion matrix of a polynomial has its roots.
        let roots = [0.9, -0.5, 0.25, 0.1, -0.99];
        let mut p = vec![1.0];
        for r in roots {
            let shifted: Vec<f64> = p.iter().copied().chain([0.0]).collect();
            let scaled: Vec<f64> = [0.0].into_iter().chain(p.iter().map(|c| c * r)).collect();
            p = shifted.iter().zip(&scaled).map(|(x, y)| x - y).collect();
        }
        let n = roots.len();
        let column = |j: usize| -> Vec<f64> {
            (0..n).map(|i| if i == 0 { -p[j + 1] } else { f64::from(u8::from(i == j + 1)) }).collect()
        };
        let columns: Vec<Vec<f64>> = (0..n).map(column).collect();
        let mut found = eigenvalues(&columns).unwrap();
        found.sort_by(|x, y| x.re.total_cmp(&y.re));
        let mut roots = roots;
        roots.sort_by(f64::total_cmp);
        for (z, r) in found.iter().zip(roots) {
            assert!((z.re - r).abs() < 1e-9 && z.im.abs() < 1e-9, "{z:?} {r}");
        }
        // A rotation has a pair on the unit circle.
        let turn = [vec![0.0, 1.0], vec![-1.0, 0.0]];
        assert!(eigenvalues(&turn).unwrap().iter().all(|z| (z.im.abs() - 1.0).abs() < 1e-12));
        assert!(eigenvalues(&[vec![f64::NAN, 1.0], vec![1.0, 0.0]]).is_none());
        assert_eq!(eigenvalues(&[]), Some(Vec::new()));
    }

    #[test]
    fn least_squares_leaves_what_is_orthogonal() {
        let a = matrix(3, 8, 3);
        let y = noise(4, 8);
        let x = least_squares(&a, &y).unwrap();
        let left: Vec<f64> = (0..8).map(|i| y[i] - (0..3).map(|j| a[j][i] * x[j]).sum::<f64>()).collect();
        assert!(a.iter().all(|column| dot(column, &left).abs() < 1e-12));
        assert_eq!(least_squares(&[vec![1.0, 1.0], vec![1.0, 1.0]], &[1.0, 2.0]), None);
        assert_eq!(least_squares(&[vec![1.0], vec![2.0]], &[1.0]), None);
    }
}
