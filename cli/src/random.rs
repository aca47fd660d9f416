//! Reproducible random tensors.

use ssmc_ir::{Complex, DType, Tensor, TensorError};

/// SplitMix64 (Steele, Lea and Flood 2014): the state is a counter, each output a hash of it.
///
/// The same seed gives the same numbers on every machine and in every version of ssmc.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that starts from this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in 0..1, a multiple of 2^-53.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A tensor of numbers in -1..1, of integers within the inclusive `bounds`, or of truth values.
///
/// # Errors
/// The shape is too large.
pub fn random_tensor(
    dtype: DType,
    shape: &[usize],
    bounds: (i64, i64),
    rng: &mut Rng,
) -> Result<Tensor, TensorError> {
    // Refuses shapes that are too large before any element is made.
    let n = Tensor::zeros(DType::Bool, shape)?.len();
    let mut signed = || 2.0 * rng.unit() - 1.0;
    Ok(if dtype == DType::Bool {
        Tensor::bools(shape, (0..n).map(|_| signed() > 0.0).collect())?
    } else if dtype.is_complex() {
        let data = (0..n).map(|_| Complex::new(signed(), signed())).collect();
        Tensor::complex(dtype, shape, data)?.rounded()
    } else if dtype.is_float() {
        Tensor::floats(dtype, shape, (0..n).map(|_| signed()).collect())?.rounded()
    } else {
        let (low, high) = (bounds.0, bounds.1.max(bounds.0));
        let span = high.wrapping_sub(low) as u64;
        let mut next = || match span.checked_add(1) {
            Some(count) => low.wrapping_add((rng.next_u64() % count) as i64),
            None => rng.next_u64() as i64,
        };
        Tensor::ints(dtype, shape, (0..n).map(|_| next()).collect())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // The first outputs for seed 0, as published with the algorithm.
        let mut rng = Rng::new(0);
        assert_eq!(rng.next_u64(), 0xE220_A839_7B1D_CDAF);
        assert_eq!(rng.next_u64(), 0x6E78_9E6A_A1B9_65F4);
        let mut rng = Rng::new(1);
        assert!((0..1000).map(|_| rng.unit()).all(|x| (0.0..1.0).contains(&x)));
    }

    #[test]
    fn integers_keep_their_bounds() {
        let ids = random_tensor(DType::I64, &[500], (-3, 4), &mut Rng::new(7)).unwrap();
        let ids = ids.as_ints().unwrap();
        assert_eq!((ids.iter().min(), ids.iter().max()), (Some(&-3), Some(&4)));
        let all = random_tensor(DType::I64, &[4], (i64::MIN, i64::MAX), &mut Rng::new(7)).unwrap();
        assert_eq!(all.len(), 4);
    }

    #[test]
    fn too_large_a_shape_is_refused() {
        assert!(random_tensor(DType::F32, &[1 << 40, 1 << 40], (0, 1), &mut Rng::new(0)).is_err());
    }
}
