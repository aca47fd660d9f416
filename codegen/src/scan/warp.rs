//! The second level: the threads of a warp, by shuffles.

use super::{Monoid, choose};
use crate::kernel::{KernelBuilder, Reg, WARP_SIZE, WarpShuffleOp};

/// The composition of the elements of lanes `0..=lane`; `lane` is an `i64`. All threads of the warp take part.
///
/// In step d = 1, 2, 4, .. every lane puts what lane - d has in front of what it has:
///
/// ```text
/// d = 1   0   0-1   1-2   2-3   3-4   ..
/// d = 2   0   0-1   0-2   0-3   1-4   ..
/// d = 4   0   0-1   0-2   0-3   0-4   ..
/// ```
pub fn inclusive(b: &mut KernelBuilder, m: &impl Monoid, lane: Reg, element: &[Reg]) -> Vec<Reg> {
    let mut sum = element.to_vec();
    let mut distance = 1;
    while distance < WARP_SIZE {
        let before = shift_up(b, &sum, distance);
        let joined = m.compose(b, &before, &sum);
        let has_before = b.ge(lane, distance);
        sum = choose(b, has_before, &joined, &sum);
        distance *= 2;
    }
    sum
}

/// The element of the lane `distance` below; the own one where there is none.
pub fn shift_up(b: &mut KernelBuilder, element: &[Reg], distance: u32) -> Vec<Reg> {
    element.iter().map(|r| b.warp_shuffle(WarpShuffleOp::Up, *r, distance)).collect()
}
