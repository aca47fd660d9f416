//! The third level: the warps of a block, through shared memory.

use super::{Monoid, choose, warp};
use crate::kernel::{Axis, KernelBuilder, Reg, SharedId, Value, WARP_SIZE};

/// Where a thread is in a one-dimensional block of whole warps.
#[derive(Clone, Copy, Debug)]
pub struct ThreadPlace {
    /// Index in the block.
    pub thread: Reg,
    /// Index in the warp.
    pub lane: Reg,
    /// Index of the warp.
    pub warp: Reg,
    /// Warps of the block.
    pub n_warps: u32,
}

impl ThreadPlace {
    /// The place of the running thread; `n_threads` is a multiple of the warp's size.
    pub fn of(b: &mut KernelBuilder, n_threads: u32) -> ThreadPlace {
        assert!(n_threads.is_multiple_of(WARP_SIZE), "a block of {n_threads} threads has a broken warp");
        let thread = b.thread_idx(Axis::X);
        let (lane, warp) = (b.rem(thread, WARP_SIZE), b.div(thread, WARP_SIZE));
        ThreadPlace { thread, lane, warp, n_warps: n_threads / WARP_SIZE }
    }
}

/// Shared memory for the totals of the warps.
///
/// It has two halves. Scans that follow each other use them in turn; a scan has one barrier, between the writes and the
/// reads of its half, and that of the next scan separates these reads from the writes of the scan after it.
#[derive(Clone, Debug)]
pub struct Scratch {
    arrays: Vec<SharedId>,
    n_warps: u32,
}

impl Scratch {
    /// Declares the arrays, one per register of an element.
    pub fn declare(b: &mut KernelBuilder, name: &str, m: &impl Monoid, n_warps: u32) -> Scratch {
        let elems = m.elems().into_iter().enumerate();
        let arrays = elems.map(|(i, elem)| b.shared(&format!("{name}{i}"), elem, 2 * n_warps)).collect();
        Scratch { arrays, n_warps }
    }
}

/// What a scan tells each thread.
#[derive(Clone, Debug)]
pub struct Scanned {
    /// The composition of the elements of all threads before this one; the identity in the first thread.
    pub before: Vec<Reg>,
    /// The composition of the elements of all threads.
    pub total: Vec<Reg>,
}

/// Scans one element per thread over the block. `half` (0 or 1, an `i64` that all threads agree on) alternates from one
/// scan to the next. All threads take part.
pub fn exclusive(
    b: &mut KernelBuilder,
    m: &impl Monoid,
    place: ThreadPlace,
    scratch: &Scratch,
    half: impl Into<Value>,
    element: &[Reg],
) -> Scanned {
    let through = warp::inclusive(b, m, place.lane, element);
    let half = b.index(half);
    let first = b.mul(half, scratch.n_warps);
    let own = b.add(first, place.warp);
    let is_last = b.eq(place.lane, WARP_SIZE - 1);
    b.if_(is_last, |b| {
        for (array, r) in scratch.arrays.iter().zip(&through) {
            b.store(*array, own, *r);
        }
    });
    b.barrier();
    let mut total: Option<Vec<Reg>> = None;
    let identity = m.identity(b);
    let mut warps_before = identity.clone();
    for w in 0..scratch.n_warps {
        let at = b.add(first, w);
        let of_warp: Vec<Reg> = scratch.arrays.iter().map(|array| b.load(*array, at, 1)).collect();
        let up_to = match &total {
            Some(total) => m.compose(b, total, &of_warp),
            None => of_warp,
        };
        let is_before = b.gt(place.warp, w);
        warps_before = choose(b, is_before, &up_to, &warps_before);
        total = Some(up_to);
    }
    let lanes_before = warp::shift_up(b, &through, 1);
    let joined = m.compose(b, &warps_before, &lanes_before);
    let in_first_warp = b.eq(place.warp, 0);
    let joined = choose(b, in_first_warp, &lanes_before, &joined);
    let in_first_lane = b.eq(place.lane, 0);
    let before = choose(b, in_first_lane, &warps_before, &joined);
    Scanned { before, total: total.unwrap_or(identity) }
}
