//! Tiles of operands in shared memory, fetched some tiles ahead of their use.
//!
//! Every tile has several buffers, used in turn. While a block computes with one of them it fills others, so that a loop
//! over tiles needs one barrier:
//!
//! ```text
//! fetch(tiles 0 .. ahead), arrive
//! for each tile:
//!   own copies for it have ended
//!   barrier              what all threads fetched is there; nobody reads the buffer before this one any more
//!   fetch(tile + ahead)  into a buffer that nobody reads
//!   compute              from this tile's buffer
//!   arrive               registers are stored
//! ```
//!
//! Variants: (1) elements that the group computes, or rows too odd to be copied in words, go through registers and are
//! stored after the computation; (2) operands in memory are copied asynchronously, 16 bytes at a time if rows allow it,
//! without passing through registers.

use super::scalar;
use crate::kernel::{Elem, KernelBuilder, ParamId, Reg, RegTy, SharedId};
use crate::lower::access::Cx;
use crate::lower::index::Idx;
use crate::lower::{LowerError, elem_of};
use ssmc_ir::ValueId;

/// What is staged: `rows` x `cols` elements of `value`, as one buffer.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) value: ValueId,
    pub(super) rows: i64,
    pub(super) cols: i64,
    /// Elements left free between rows, against bank conflicts.
    pub(super) pad: i64,
    /// Runs of this many columns, from multiples of it, lie together in memory and exist or lack together.
    pub(super) run: i64,
    /// Neighbors in memory are in one column rather than in one row.
    pub(super) is_column_major: bool,
}

impl Shape {
    pub(super) fn pitch(&self) -> i64 {
        self.cols + self.pad
    }

    /// Elements of one buffer.
    pub(super) fn size(&self) -> i64 {
        self.rows * self.pitch()
    }
}

/// Where the buffers of a tile lie: the first at element `first`, each `stride` elements after the one before.
#[derive(Clone, Copy)]
pub(super) struct Buffers {
    pub(super) shared: SharedId,
    pub(super) first: i64,
    pub(super) stride: i64,
}

/// A tile with its buffers.
pub(super) struct Stage {
    shape: Shape,
    buffers: Buffers,
    elem: Elem,
    threads: i64,
    /// The tensor that the operand shows and the elements of one asynchronous copy; otherwise elements go through
    /// registers.
    copy: Option<Copy>,
}

/// How a tile is copied asynchronously.
#[derive(Clone, Copy)]
struct Copy {
    param: ParamId,
    /// The tensor behind the parameter.
    from: ValueId,
    /// Elements of one copy.
    width: i64,
}

/// Which element is at a place of the tile: its index and whether it exists.
pub(super) type Place<'f, 'a> =
    dyn FnMut(&mut Cx<'a>, &mut KernelBuilder, (Reg, Reg)) -> (Vec<Idx>, Reg) + 'f;

/// Elements under way in registers: where each goes, and whether this thread has one (always if `None`).
pub(super) struct Fetched(Vec<(Reg, Reg, Option<Reg>)>);

impl Stage {
    pub(super) fn new(
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        shape: Shape,
        buffers: Buffers,
        threads: u32,
    ) -> Result<Stage, LowerError> {
        let elem = elem_of(cx.graph.ty(shape.value).dtype)?;
        let found = cx.shown(shape.value);
        let found = found.and_then(|(from, together)| Some((from, width(&shape, elem, together)?)));
        let copy = match found {
            Some((from, width)) => Some(Copy { param: cx.read_param(b, from)?, from, width }),
            None => None,
        };
        Ok(Stage { shape, buffers, elem, threads: threads.into(), copy })
    }

    pub(super) fn pitch(&self) -> i64 {
        self.shape.pitch()
    }

    /// The element at which buffer `slot` begins.
    pub(super) fn buffer(&self, b: &mut KernelBuilder, slot: Reg) -> Reg {
        let at = b.mul(slot, self.buffers.stride);
        b.add(at, self.buffers.first)
    }

    /// The array, for loads from it.
    pub(super) fn shared(&self) -> SharedId {
        self.buffers.shared
    }

    /// Loads `lanes` neighbors of one row, as `f32`.
    pub(super) fn load(&self, b: &mut KernelBuilder, at: Reg, lanes: u16) -> Reg {
        let x = b.load(self.buffers.shared, at, lanes);
        b.cast(x, Elem::F32)
    }

    /// Begins to fill the buffer that starts at element `buffer`; asynchronous copies are not committed. Elements that do
    /// not exist become 0.
    pub(super) fn fetch<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        (thread, buffer): (Reg, Reg),
        place: &mut Place<'_, 'a>,
    ) -> Result<Fetched, LowerError> {
        let width = self.copy.map_or(1, |copy| copy.width);
        let per_row = self.shape.cols / width;
        let chunks = self.shape.rows * per_row;
        let mut fetched = Vec::new();
        for first in (0..chunks).step_by(self.threads as usize) {
            let chunk = b.add(thread, first);
            // Indices that differ by a constant are cheap.
            let whole_rows = first % per_row == 0;
            let has_one = (first + self.threads > chunks).then(|| b.lt(chunk, chunks));
            let (row, col) = if self.shape.is_column_major {
                (b.rem(chunk, self.shape.rows), b.div(chunk, self.shape.rows))
            } else if whole_rows {
                let row = b.div(thread, per_row);
                (b.add(row, first / per_row), b.rem(thread, per_row))
            } else {
                (b.div(chunk, per_row), b.rem(chunk, per_row))
            };
            let col = b.mul(col, width);
            let at = b.mul(row, self.pitch());
            let at = b.add(at, col);
            let at = b.add(at, buffer);
            let (idx, exists) = cx.scope(|cx| place(cx, b, (row, col)));
            match self.copy {
                Some(Copy { param, from, width }) => {
                    let idx = cx.through_views(b, self.shape.value, idx);
                    let extents = cx.extents(b, &cx.graph.ty(from).shape);
                    let from = scalar(cx.index(b).linear(&idx, &extents))?;
                    let copy = |b: &mut KernelBuilder| {
                        b.async_copy((self.buffers.shared, at), (param, from), width as u16, Some(exists));
                    };
                    match has_one {
                        Some(has_one) => b.if_(has_one, copy),
                        None => copy(b),
                    }
                }
                None => {
                    let zero = b.zero(RegTy::scalar(self.elem));
                    let x = b.var_init(zero);
                    let wanted = has_one.map_or(exists, |has_one| b.and(has_one, exists));
                    let mut result = Ok(());
                    b.if_(wanted, |b| {
                        result = cx.scope(|cx| cx.get(b, self.shape.value, &idx)).map(|v| b.assign(x, v));
                    });
                    result?;
                    fetched.push((at, x, has_one));
                }
            }
        }
        Ok(Fetched(fetched))
    }

    /// Stores what [`Stage::fetch`] got in registers; the next barrier shows it to the block.
    pub(super) fn arrive(&self, b: &mut KernelBuilder, fetched: &Fetched) {
        for (at, x, has_one) in &fetched.0 {
            match has_one {
                Some(has_one) => b.if_(*has_one, |b| b.store(self.buffers.shared, *at, *x)),
                None => b.store(self.buffers.shared, *at, *x),
            }
        }
    }
}

/// Elements in one asynchronous copy of a tile whose operand shows a tensor in memory, `together` elements of which lie
/// together.
fn width(shape: &Shape, elem: Elem, together: i64) -> Option<i64> {
    let fits =
        |n: &i64| [shape.run, shape.cols, shape.pitch(), together].iter().all(|extent| extent % n == 0);
    let widths = [16, 8, 4].into_iter().filter_map(|bytes| {
        let size = elem.size() as i64;
        (bytes % size == 0).then_some(bytes / size)
    });
    widths.filter(|n| fits(n)).max()
}
