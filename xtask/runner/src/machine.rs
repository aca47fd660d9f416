//! What the machine can do at most: bytes read from memory and fused multiply-adds per second, all threads at once.

use std::hint::black_box;
use std::thread;
use std::time::Instant;

/// Rates per second.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) bytes: f64,
    pub(crate) flops: f64,
    pub(crate) threads: usize,
}

/// Bytes that each thread reads: well beyond any cache.
const BUFFER: usize = 256 << 20;
/// The best of several runs counts.
const RUNS: usize = 5;

pub(crate) fn measure() -> Machine {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let buffers: Vec<Vec<u64>> = (0..threads).map(|i| vec![i as u64; BUFFER / 8]).collect();
    let bytes = best(|| {
        thread::scope(|scope| {
            for buffer in &buffers {
                scope.spawn(move || black_box(read(buffer)));
            }
        });
        (threads * BUFFER) as f64
    });
    let flops = best(|| {
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| black_box(multiply_add(black_box(0.5))));
            }
        });
        (threads * ROUNDS * LANES * 2) as f64
    });
    Machine { bytes, flops, threads }
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
    fn every_word_is_read() {
        let mut buffer = vec![0u64; 64];
        buffer[63] = 5;
        assert_eq!(read(&buffer), 5);
    }
}
