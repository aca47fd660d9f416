//! Tiles of operands in shared memory, fetched one tile ahead of their use.
//!
//! Every tile has two buffers. While a block computes with one of them it fills the other, so that a loop over tiles
//! needs one barrier:
//!
//! ```text
//! fetch(tile 0), arrive
//! for each tile:
//!   barrier              what all threads fetched is there; nobody reads the other buffer any more
//!   fetch(next tile)     into the other buffer
//!   compute              from this buffer
//!   arrive               own copies have ended, or registers are stored
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

/// A tile with two buffers.
pub(super) struct Stage {
    shape: Shape,
    shared: SharedId,
    elem: Elem,
    threads: i64,
    /// The operand and the elements of one asynchronous copy; otherwise elements go through registers.
    copy: Option<(ParamId, i64)>,
}

/// Which element is at a place of the tile: its index and whether it exists.
pub(super) type Place<'f, 'a> =
    dyn FnMut(&mut Cx<'a>, &mut KernelBuilder, (Reg, Reg)) -> (Vec<Idx>, Reg) + 'f;

/// Elements under way in registers: where each goes, and whether this thread has one (always if `None`).
pub(super) struct Fetched(Vec<(Reg, Reg, Option<Reg>)>);

impl Stage {
    pub(super) fn declare(
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        name: &str,
        shape: Shape,
        threads: u32,
    ) -> Result<Stage, LowerError> {
        let elem = elem_of(cx.graph.ty(shape.value).dtype)?;
        let pitch = shape.cols + shape.pad;
        let fits = |n: &i64| [shape.run, shape.cols, pitch].iter().all(|extent| extent % n == 0);
        let widths = [16, 8, 4].into_iter().filter_map(|bytes| {
            let size = elem.size() as i64;
            (bytes % size == 0).then_some(bytes / size)
        });
        let copy = match widths.filter(|n| fits(n)).max() {
            Some(width) if !cx.is_inside(shape.value) => Some((cx.read_param(b, shape.value)?, width)),
            _ => None,
        };
        let shared = b.shared(name, elem, (2 * shape.rows * pitch) as u32);
        Ok(Stage { shape, shared, elem, threads: threads.into(), copy })
    }

    pub(super) fn pitch(&self) -> i64 {
        self.shape.cols + self.shape.pad
    }

    /// Elements of one buffer.
    pub(super) fn size(&self) -> i64 {
        self.shape.rows * self.pitch()
    }

    /// The array, for loads from it.
    pub(super) fn shared(&self) -> SharedId {
        self.shared
    }

    /// Loads `lanes` neighbors of one row, as `f32`.
    pub(super) fn load(&self, b: &mut KernelBuilder, at: Reg, lanes: u16) -> Reg {
        let x = b.load(self.shared, at, lanes);
        b.cast(x, Elem::F32)
    }

    /// Begins to fill the buffer that starts at element `buffer`. Elements that do not exist become 0.
    pub(super) fn fetch<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        (thread, buffer): (Reg, Reg),
        place: &mut Place<'_, 'a>,
    ) -> Result<Fetched, LowerError> {
        let width = self.copy.map_or(1, |(_, width)| width);
        let per_row = self.shape.cols / width;
        let chunks = self.shape.rows * per_row;
        let mut fetched = Vec::new();
        for first in (0..chunks).step_by(self.threads as usize) {
            let chunk = b.add(thread, first);
            let has_one = (first + self.threads > chunks).then(|| b.lt(chunk, chunks));
            let (row, col) = if self.shape.is_column_major {
                (b.rem(chunk, self.shape.rows), b.div(chunk, self.shape.rows))
            } else {
                (b.div(chunk, per_row), b.rem(chunk, per_row))
            };
            let col = b.mul(col, width);
            let at = b.mul(row, self.pitch());
            let at = b.add(at, col);
            let at = b.add(at, buffer);
            let (idx, exists) = cx.scope(|cx| place(cx, b, (row, col)));
            match self.copy {
                Some((param, width)) => {
                    let extents = cx.extents(b, &cx.graph.ty(self.shape.value).shape);
                    let from = scalar(cx.index(b).linear(&idx, &extents))?;
                    let copy = |b: &mut KernelBuilder| {
                        b.async_copy((self.shared, at), (param, from), width as u16, Some(exists));
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
        if self.copy.is_some() {
            b.async_commit();
        }
        Ok(Fetched(fetched))
    }

    /// Completes what [`Stage::fetch`] began; the next barrier shows it to the block.
    pub(super) fn arrive(&self, b: &mut KernelBuilder, fetched: &Fetched) {
        if self.copy.is_some() {
            b.async_wait(0);
        }
        for (at, x, has_one) in &fetched.0 {
            match has_one {
                Some(has_one) => b.if_(*has_one, |b| b.store(self.shared, *at, *x)),
                None => b.store(self.shared, *at, *x),
            }
        }
    }
}

/// Buffer 0 or 1 of a tile: where it starts for iteration `i`, and where the one of the next iteration does.
pub(super) fn buffers(b: &mut KernelBuilder, i: Reg, size: i64) -> (Reg, Reg) {
    let parity = b.and(i, 1);
    let this = b.mul(parity, size);
    let next = b.sub(size, this);
    (this, next)
}
