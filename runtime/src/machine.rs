//! What the machine can do at most: bytes read from memory and fused multiply-adds per second, all threads at once.

#[cfg(target_arch = "x86_64")]
mod tiles;

use std::hint::black_box;
use std::thread;
use std::time::Instant;

/// What the processors reach with all threads at once, per second.
///
/// Source: the roofline of a program is the larger of its bytes over `bytes` and its operations over `flops`
/// (Williams, Waterman, Patterson 2009).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MachineRates {
    /// Bytes read from memory.
    pub bytes: f64,
    /// Operations on f32; a fused multiply-add counts as two.
    pub flops: f64,
}

/// Bytes that all threads read together: well beyond any cache, unless many threads share them.
const BUFFERS: usize = 512 << 20;
/// Bytes that one thread reads at least.
const LEAST_BUFFER: usize = 64 << 20;
/// The best of several runs counts.
const RUNS: usize = 5;

impl MachineRates {
    /// Measures both rates with `threads` threads; takes a second or two and 512 MB of memory or 64 MB per thread.
    ///
    /// Other work on the machine lowers what is found.
    pub fn measure(threads: usize) -> Self {
        let threads = threads.max(1);
        let buffer = (BUFFERS / threads).max(LEAST_BUFFER);
        let buffers: Vec<Vec<u64>> = (0..threads).map(|i| vec![i as u64 + 1; buffer / 8]).collect();
        let bytes = best(|| {
            thread::scope(|scope| {
                for buffer in &buffers {
                    scope.spawn(move || black_box(read(buffer)));
                }
            });
            (threads * buffer) as f64
        });
        let flops = rate(threads, || {
            black_box(multiply_add(black_box(0.5)));
            ROUNDS * LANES * 2
        });
        Self { bytes, flops }
    }

    /// Exponentials of f32 per second, by a polynomial of degree 5 in vectors of 512 bits with all threads at once; 0
    /// where the processors lack these.
    pub fn exponentials(threads: usize) -> f64 {
        rate(threads.max(1), exponentials)
    }

    /// Seconds that so much work takes at least.
    pub fn floor(&self, flops: f64, bytes: f64) -> f64 {
        (flops / self.flops).max(bytes / self.bytes)
    }
}

/// Operations of dot products, alone or in matrix tiles, that the processors reach with all threads at once, per second;
/// 0 where they have none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DotRates {
    /// On bf16, with sums in f32.
    pub halves: f64,
    /// On bytes, with sums in i32.
    pub integers: f64,
}

impl DotRates {
    /// Measures both rates with `threads` threads; takes about a second.
    pub fn measure(threads: usize) -> Self {
        let threads = threads.max(1);
        let [half_tiles, byte_tiles] = TILES.map(|work| rate(threads, work));
        Self {
            halves: rate(threads, half_dots).max(half_tiles),
            integers: rate(threads, byte_dots).max(byte_tiles),
        }
    }
}

/// Products of matrix tiles of bf16, and of bytes.
#[cfg(target_arch = "x86_64")]
const TILES: [fn() -> usize; 2] = [tiles::halves, tiles::bytes];

#[cfg(not(target_arch = "x86_64"))]
const TILES: [fn() -> usize; 2] = [|| 0, || 0];

/// The greatest rate of threads that do `work`, which returns its number of operations.
fn rate(threads: usize, work: fn() -> usize) -> f64 {
    best(|| {
        let done = thread::scope(|scope| {
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            running.into_iter().map(|thread| thread.join().unwrap_or(0)).sum::<usize>()
        });
        done as f64
    })
}

/// The greatest rate of `work`, which returns how much it did.
fn best(mut work: impl FnMut() -> f64) -> f64 {
    let mut rate = || {
        let start = Instant::now();
        let done = work();
        done / start.elapsed().as_secs_f64()
    };
    (0..RUNS).map(|_| rate()).fold(0.0, f64::max)
}

/// Reads every word, along several streams at once: one alone does not keep enough lines in flight.
#[inline(always)]
fn streams(buffer: &[u64]) -> u64 {
    let (a, rest) = buffer.split_at(buffer.len() / 4);
    let (b, rest) = rest.split_at(a.len());
    let (c, d) = rest.split_at(a.len());
    let mut sums = [0u64; 32];
    for (((a, b), c), d) in
        a.chunks_exact(8).zip(b.chunks_exact(8)).zip(c.chunks_exact(8)).zip(d.chunks_exact(8))
    {
        for (sums, words) in sums.chunks_exact_mut(8).zip([a, b, c, d]) {
            for (sum, x) in sums.iter_mut().zip(words) {
                *sum ^= x;
            }
        }
    }
    sums.iter().fold(0, |a, b| a ^ b)
}

/// Independent chains: enough to fill the pipelines of two wide units.
const LANES: usize = 112;
const ROUNDS: usize = 10_000_000;

#[inline(always)]
fn chains(x: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    for (i, lane) in lanes.iter_mut().enumerate() {
        *lane = i as f32;
    }
    for _ in 0..ROUNDS {
        for lane in &mut lanes {
            *lane = lane.mul_add(x, 1.0);
        }
    }
    lanes.iter().sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,fma")]
fn chains_v4(x: f32) -> f32 {
    chains(x)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn chains_v3(x: f32) -> f32 {
    chains(x)
}

/// Independent sums of dot products.
#[cfg(target_arch = "x86_64")]
const SUMS: usize = 16;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn half_dots_v4() -> usize {
    use std::arch::x86_64::{_mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_reduce_add_ps, _mm512_set1_ps};
    let one = _mm512_set1_ps(black_box(1.0));
    let factors = _mm512_cvtne2ps_pbh(one, one);
    let mut sums = [one; SUMS];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, factors, factors);
        }
    }
    black_box(sums.map(|sum| _mm512_reduce_add_ps(sum)));
    ROUNDS * SUMS * 64
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn byte_dots_v4() -> usize {
    use std::arch::x86_64::{_mm512_dpbusd_epi32, _mm512_reduce_add_epi32, _mm512_set1_epi8};
    let factors = _mm512_set1_epi8(black_box(1));
    let mut sums = [factors; SUMS];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, factors, factors);
        }
    }
    black_box(sums.map(|sum| _mm512_reduce_add_epi32(sum)));
    ROUNDS * SUMS * 128
}

/// Powers of two of independent vectors, whose sum is kept: split off the integer, a polynomial, scale.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn exponentials_v4() -> usize {
    use std::arch::x86_64::{
        _mm512_add_ps, _mm512_fmadd_ps, _mm512_mul_ps, _mm512_reduce_add_ps, _mm512_roundscale_ps,
        _mm512_scalef_ps, _mm512_set1_ps, _mm512_sub_ps,
    };
    const VECTORS: usize = 8;
    let coefficients = [1.333_356e-3f32, 9.618_129e-3, 5.550_411e-2, 2.402_265e-1, 6.931_472e-1, 1.0]
        .map(|c| _mm512_set1_ps(c));
    // Arguments change their sign and stay small: results that are not normal numbers would take longer.
    let step = _mm512_set1_ps(black_box(-1.0));
    let mut xs = black_box([0.1f32, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]).map(|x| _mm512_set1_ps(x));
    let mut sums = xs;
    for _ in 0..ROUNDS / 4 {
        for (x, sum) in xs.iter_mut().zip(&mut sums) {
            let whole = _mm512_roundscale_ps::<8>(*x);
            let rest = _mm512_sub_ps(*x, whole);
            let mut power = coefficients[0];
            for c in &coefficients[1..] {
                power = _mm512_fmadd_ps(power, rest, *c);
            }
            *sum = _mm512_add_ps(*sum, _mm512_scalef_ps(power, whole));
            *x = _mm512_mul_ps(*x, step);
        }
    }
    black_box(sums.map(|sum| _mm512_reduce_add_ps(sum)));
    ROUNDS / 4 * VECTORS * 16
}

/// Exponentials done; 0 if the processor has no vectors of 512 bits.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "calls functions for processor features that are checked first")]
fn exponentials() -> usize {
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has the feature.
        unsafe { exponentials_v4() }
    } else {
        0
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn exponentials() -> usize {
    0
}

/// Operations of bf16 dot products done; 0 if the processor has none.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "calls functions for processor features that are checked first")]
fn half_dots() -> usize {
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16") {
        // SAFETY: the processor has the features.
        unsafe { half_dots_v4() }
    } else {
        0
    }
}

/// Operations of byte dot products done; 0 if the processor has none.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "calls functions for processor features that are checked first")]
fn byte_dots() -> usize {
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
        // SAFETY: the processor has the features.
        unsafe { byte_dots_v4() }
    } else {
        0
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn half_dots() -> usize {
    0
}

#[cfg(not(target_arch = "x86_64"))]
fn byte_dots() -> usize {
    0
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn streams_v4(buffer: &[u64]) -> u64 {
    streams(buffer)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn streams_v3(buffer: &[u64]) -> u64 {
    streams(buffer)
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "calls functions for processor features that are checked first")]
fn read(buffer: &[u64]) -> u64 {
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has the feature.
        unsafe { streams_v4(buffer) }
    } else if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the feature.
        unsafe { streams_v3(buffer) }
    } else {
        streams(buffer)
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn read(buffer: &[u64]) -> u64 {
    streams(buffer)
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "calls functions for processor features that are checked first")]
fn multiply_add(x: f32) -> f32 {
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the features.
        unsafe { chains_v4(x) }
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the features.
        unsafe { chains_v3(x) }
    } else {
        chains(x)
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn multiply_add(x: f32) -> f32 {
    chains(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_converge() {
        // x = x/2 + 1 has the fixed point 2.
        assert_eq!(multiply_add(0.5), 2.0 * LANES as f32);
    }

    #[test]
    fn the_floor_is_that_of_the_scarcer_resource() {
        let rates = MachineRates { bytes: 10.0, flops: 100.0 };
        assert_eq!(rates.floor(100.0, 20.0), 2.0);
        assert_eq!(rates.floor(400.0, 20.0), 4.0);
    }

    #[test]
    fn every_word_is_read() {
        let mut buffer = vec![0u64; 64];
        buffer[63] = 5;
        assert_eq!(read(&buffer), 5);
    }
}
