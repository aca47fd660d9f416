//! State pools: rows of the batch that start from any row of the states.
//!
//! A block per row of the batch runs the steps; with slots there is one more per row of the pool, which keeps what no
//! slot names. Results do not depend on the order of the blocks: of several rows with one slot only the last one writes.

use super::LowerError;
use super::access::Cx;
use super::index::Idx;
use crate::kernel::{Elem, KernelBuilder, Reg};
use ssmc_ir::{Dim, ValueId};

/// The rows of a batch and those of its states.
pub(super) struct Rows<'a> {
    pub(super) batch: &'a Dim,
    /// The slots and the extent of the pool.
    pub(super) slots: Option<(ValueId, &'a Dim)>,
}

/// What a block does.
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// Runs the steps of a row of the batch, whose state is `row`; `writes` says whether it keeps the last one.
    Steps { batch: Idx, row: Idx, writes: Option<Reg> },
    /// Copies a row of the states that no slot names.
    Keep { row: Idx },
}

impl Part {
    /// The row of the states.
    pub(super) fn row(self) -> Idx {
        match self {
            Part::Steps { row, .. } | Part::Keep { row } => row,
        }
    }

    /// Runs `store`, unless another row of the batch keeps its state in the place of this one's.
    pub(super) fn keep<'a>(
        self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        store: &mut dyn FnMut(&mut Cx<'a>, &mut KernelBuilder) -> Result<(), LowerError>,
    ) -> Result<(), LowerError> {
        let Part::Steps { writes: Some(writes), .. } = self else { return store(cx, b) };
        let mut result = Ok(());
        b.if_(writes, |b| result = cx.scope(|cx| store(cx, b)));
        result
    }
}

/// What a block does in its part.
pub(super) type Body<'f, 'a> =
    dyn FnMut(&mut Cx<'a>, &mut KernelBuilder, Part) -> Result<(), LowerError> + 'f;

impl Rows<'_> {
    /// The extent of the grid's first axis.
    pub(super) fn grid(&self) -> Dim {
        self.slots.map_or_else(|| self.batch.clone(), |(_, pool)| self.batch.clone() + pool)
    }

    /// Runs `body` for the block at `place` of the grid's first axis.
    pub(super) fn run<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        place: Idx,
        body: &mut Body<'_, 'a>,
    ) -> Result<(), LowerError> {
        let (Some((slots, pool)), Idx::Uniform(block)) = (self.slots, place) else {
            return body(cx, b, Part::Steps { batch: place, row: place, writes: None });
        };
        let batch = cx.dim(b, self.batch);
        let pool = cx.dim(b, pool);
        let has_steps = b.lt(block, batch);
        let mut result = Ok(());
        b.if_(has_steps, |b| {
            result = cx.scope(|cx| {
                let row = slot(cx, b, slots, block, pool)?;
                let after = b.add(block, 1);
                let later = count(cx, b, slots, (after, batch), (row, pool))?;
                let writes = b.eq(later, 0);
                body(cx, b, Part::Steps { batch: place, row: Idx::Uniform(row), writes: Some(writes) })
            });
        });
        result?;
        let mut result = Ok(());
        let has_row = b.ge(block, batch);
        b.if_(has_row, |b| {
            result = cx.scope(|cx| {
                let row = b.sub(block, batch);
                let first = b.const_i64(0);
                let named = count(cx, b, slots, (first, batch), (row, pool))?;
                let is_kept = b.eq(named, 0);
                let mut kept = Ok(());
                b.if_(is_kept, |b| {
                    kept = cx.scope(|cx| body(cx, b, Part::Keep { row: Idx::Uniform(row) }));
                });
                kept
            });
        });
        result
    }
}

/// The slot of a row of the batch, inside the pool whatever it says.
fn slot(
    cx: &mut Cx<'_>,
    b: &mut KernelBuilder,
    slots: ValueId,
    row: Reg,
    pool: Reg,
) -> Result<Reg, LowerError> {
    let at = cx.get(b, slots, &[Idx::Uniform(row)])?;
    let at = b.cast(at, Elem::I64);
    let last = b.sub(pool, 1);
    let at = b.min(at, last);
    Ok(b.max(at, 0))
}

/// How many rows of the batch in `from..to` have this slot.
fn count(
    cx: &mut Cx<'_>,
    b: &mut KernelBuilder,
    slots: ValueId,
    (from, to): (Reg, Reg),
    (wanted, pool): (Reg, Reg),
) -> Result<Reg, LowerError> {
    let zero = b.const_i64(0);
    let n = b.var_init(zero);
    let mut result = Ok(());
    b.for_("i", from, to, 1, |b, i| {
        result = cx.scope(|cx| {
            let at = slot(cx, b, slots, i, pool)?;
            let same = b.eq(at, wanted);
            b.if_(same, |b| {
                let more = b.add(n, 1);
                b.assign(n, more);
            });
            Ok(())
        });
    });
    result?;
    Ok(n)
}
