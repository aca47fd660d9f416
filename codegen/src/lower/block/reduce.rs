//! Sums over the threads of a block.

use crate::kernel::{Axis, KernelBuilder, Reg, WARP_SIZE, WarpShuffleOp};

/// The sum of `x` over all threads of a block, the same in every thread. Warps add pairwise, then every thread adds the
/// sums of the warps in their order. All threads must take part.
pub(crate) fn block_sum(b: &mut KernelBuilder, x: Reg, threads: u32) -> Reg {
    let elem = b.ty(x).elem();
    let mut sum = x;
    let mut distance = WARP_SIZE.min(threads) / 2;
    while distance > 0 {
        let other = b.warp_shuffle(WarpShuffleOp::Xor, sum, distance);
        sum = b.add(sum, other);
        distance /= 2;
    }
    let n_warps = threads.div_ceil(WARP_SIZE);
    if n_warps == 1 {
        return sum;
    }
    // An array of its own for every sum, so that no barrier must separate two of them.
    let partial = b.fresh_shared("partial_sums", elem, n_warps);
    let thread = b.thread_idx(Axis::X);
    let (warp, lane) = (b.div(thread, WARP_SIZE), b.rem(thread, WARP_SIZE));
    let is_first = b.eq(lane, 0);
    b.if_(is_first, |b| b.store(partial, warp, sum));
    b.barrier();
    let mut total = b.load(partial, 0, 1);
    for warp in 1..n_warps {
        let other = b.load(partial, warp, 1);
        total = b.add(total, other);
    }
    total
}
