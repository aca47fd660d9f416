//! Mutations of model files without coverage feedback, for machines that lack a nightly compiler.

use crate::scramble::Rng;

/// Bytes that are often special in the wire format or in sizes.
const SPECIAL: [u8; 8] = [0x00, 0x01, 0x08, 0x7f, 0x80, 0xfe, 0xff, 0x12];

/// A source of mutated files.
pub struct Mutator(Rng);

impl Mutator {
    /// A source that starts from this seed.
    pub fn new(seed: u64) -> Self {
        Self(Rng::new(seed))
    }

    /// One of the files, changed in a few places; now and then with a piece of another one in it.
    pub fn next(&mut self, pool: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = pool[self.0.below(pool.len())].clone();
        for _ in 0..=self.0.below(6) {
            if bytes.is_empty() {
                bytes.push(0);
            }
            let at = self.0.below(bytes.len());
            match self.0.below(8) {
                0 => bytes[at] ^= 1 << self.0.below(8),
                1 => bytes[at] = SPECIAL[self.0.below(SPECIAL.len())],
                2 => bytes[at] = self.0.below(256) as u8,
                3 => {
                    let end = (at + 1 + self.0.below(8)).min(bytes.len());
                    bytes.drain(at..end);
                }
                4 => {
                    let other = &pool[self.0.below(pool.len())];
                    let from = self.0.below(other.len().max(1)).min(other.len());
                    let to = (from + 1 + self.0.below(48)).min(other.len());
                    bytes.splice(at..at, other[from..to].iter().copied());
                }
                5 => {
                    let to = (at + 1 + self.0.below(32)).min(bytes.len());
                    let piece = bytes[at..to].to_vec();
                    bytes.splice(at..at, piece);
                }
                6 => {
                    // A number of ten bytes in the place of one.
                    let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
                    bytes.splice(at..=at, most);
                }
                _ => bytes.truncate(at),
            }
        }
        bytes
    }
}
