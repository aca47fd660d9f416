//! The states of a block: where they come from, and where they go.
//!
//! States in `f32` go between memory and the accumulators of warps; others pass through the array of y, piece by piece.

use super::steps::Steps;
use super::walk::Walk;
use super::{PANEL, PANEL_SIZE, TILE, Y_PAD};
use crate::kernel::{BinaryOp, Elem, KernelBuilder, Reg, SharedId, TileLayout};
use crate::lower::LowerError;
use crate::lower::access::Cx;
use crate::lower::block::scalar;
use crate::lower::index::Idx;
use crate::lower::sink::Sink;
use ssmc_ir::{DType, ValueId};

/// Neighboring states that a thread carries together.
const LANES: u16 = 4;

/// The part of a unit's state that a warp holds.
pub(super) struct State {
    /// Its first row, in elements of 16 bits of shared memory and as a number.
    pub(super) row: Reg,
    /// Tiles beside each other, and their first columns.
    pub(super) tiles: Vec<Reg>,
    pub(super) cols: Vec<Reg>,
}

impl State {
    pub(super) fn zero(walk: &Walk<'_>, b: &mut KernelBuilder) -> State {
        let (_, beside) = walk.s.warps();
        let (down, across) = (b.div(walk.threads.warp, beside), b.rem(walk.threads.warp, beside));
        let (share, width) = (walk.states / beside, walk.tile().cols);
        let (row, first_col) = (b.mul(down, TILE), b.mul(across, share));
        let cols = (0..share).step_by(width.into()).map(|n| b.add(first_col, n)).collect();
        let zero = b.tile_fill(walk.tile(), 0.0);
        let tiles = (0..share / i64::from(width)).map(|_| b.var_init(zero)).collect();
        State { row, tiles, cols }
    }
}

impl Walk<'_> {
    /// The state that the block's segment begins with.
    pub(super) fn begin_state(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        state: &State,
    ) -> Result<(), LowerError> {
        if let (Some(h0), Some(m)) = (self.o.h0, &self.memory.read_out) {
            match cx.flat(h0).filter(|h0| cx.graph.ty(*h0).dtype == DType::F32) {
                Some(from) => {
                    let (from, stride) = (cx.read_param(b, from)?, b.const_i64(self.states));
                    self.with_tiles(cx, b, (state, h0), &mut |b, tile, at| {
                        b.tile_load_to(tile, from, (at, stride), TileLayout::RowMajor);
                    })?;
                }
                None => self.load_state(cx, b, state, (h0, m.y))?,
            }
        }
        let Some(ends) = &self.ends else { return Ok(()) };
        self.while_multiplying(b, |b| {
            b.for_("before", 0, self.place.segment, 1, |b, segment| {
                let place = self.end(b, self.threads.unit, segment);
                let kept_at = b.mul(place, PANEL);
                let kept = b.tile_load(self.tile(), ends.kept, kept_at, 0, TileLayout::RowMajor);
                let (at, stride) = self.end_state(b, state, place);
                for (tile, col) in state.tiles.iter().zip(&state.cols) {
                    let at = b.add(at, *col);
                    let added = b.tile_load(self.tile(), ends.states, at, stride, TileLayout::RowMajor);
                    let left = b.tile_binary(BinaryOp::Mul, *tile, kept);
                    let sum = b.tile_binary(BinaryOp::Add, left, added);
                    b.assign(*tile, sum);
                }
            });
        });
        Ok(())
    }

    /// Runs `body` for every tile of the warp's state, with its place in the tensor of states.
    fn with_tiles(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        (state, tensor): (&State, ValueId),
        body: &mut dyn FnMut(&mut KernelBuilder, Reg, Reg),
    ) -> Result<(), LowerError> {
        let (head, first_row) = self.head(b, self.threads.unit);
        let row = b.add(first_row, state.row);
        let zero = Idx::Uniform(b.const_i64(0));
        let idx = [self.place.batch, self.place.group, head, Idx::Uniform(row), zero];
        let extents = cx.extents(b, &cx.graph.ty(tensor).shape);
        let first = scalar(cx.index(b).linear(&idx, &extents))?;
        self.while_multiplying(b, |b| {
            for (tile, col) in state.tiles.iter().zip(&state.cols) {
                let at = b.add(first, *col);
                body(b, *tile, at);
            }
        });
        Ok(())
    }

    /// Where a unit of the block and a segment are among all of them.
    pub(super) fn end(&self, b: &mut KernelBuilder, unit: Reg, segment: Reg) -> Reg {
        let at = b.mul(self.place.heads, self.s.units);
        let at = b.add(at, unit);
        let at = b.mul(at, self.place.n_segments);
        b.add(at, segment)
    }

    /// Where the warp's rows of such a state begin, and how far they are apart.
    fn end_state(&self, b: &mut KernelBuilder, state: &State, place: Reg) -> (Reg, i64) {
        let at = b.mul(place, self.s.rows * self.states);
        let row = b.mul(state.row, self.states);
        (b.add(at, row), self.states)
    }

    /// Writes what the segment adds to the state, and how much it lets it decay.
    pub(super) fn keep_ends(&self, b: &mut KernelBuilder, state: &State, steps: &Steps) {
        let Some(ends) = &self.ends else { return };
        self.while_multiplying(b, |b| {
            let place = self.end(b, self.threads.unit, self.place.segment);
            let (at, stride) = self.end_state(b, state, place);
            for (tile, col) in state.tiles.iter().zip(&state.cols) {
                let at = b.add(at, *col);
                b.tile_store(ends.states, at, stride, TileLayout::RowMajor, *tile);
            }
        });
        self.while_summing(b, |b| self.keep_total(b, steps));
    }

    /// The state as a factor in shared memory.
    pub(super) fn round_state(&self, b: &mut KernelBuilder, state: &State) {
        let Some(m) = &self.memory.read_out else { return };
        let pitch = if self.s.is_grouped { PANEL } else { self.states + self.s.pad() };
        let row = b.mul(state.row, pitch);
        let unit = b.mul(self.threads.unit, self.states / PANEL * PANEL_SIZE);
        for (panel, (tile, col)) in (0..).zip(state.tiles.iter().zip(&state.cols)) {
            let at = match self.s.is_grouped {
                true => {
                    let at = b.add(unit, panel * PANEL_SIZE);
                    b.add(at, row)
                }
                false => b.add(row, *col),
            };
            let rounded = b.tile_cast(*tile, self.elem);
            b.tile_store(m.state, at, pitch, TileLayout::RowMajor, rounded);
        }
    }

    /// Runs `body` for every row and every `LANES` columns of the states that the array of y holds; it gets the place
    /// there and the index in the tensor of states.
    fn for_piece<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        first: i64,
        body: &mut dyn FnMut(&mut Cx<'a>, &mut KernelBuilder, Reg, [Idx; 5]) -> Result<(), LowerError>,
    ) -> Result<(), LowerError> {
        let place = &self.place;
        let n = PANEL.min(self.states - first);
        let chunks = PANEL / i64::from(LANES);
        let rows = self.s.rows * self.s.units;
        let mut result = Ok(());
        let before = std::mem::replace(&mut cx.lanes, LANES);
        b.for_("i", self.threads.thread, rows * chunks, self.s.threads().into(), |b, i| {
            let (row, col) = (b.div(i, chunks), b.rem(i, chunks));
            let col = b.mul(col, i64::from(LANES));
            let exists = b.lt(col, n);
            b.if_(exists, |b| {
                result = cx.scope(|cx| {
                    let at = b.mul(row, PANEL + Y_PAD);
                    let at = b.add(at, col);
                    let (unit, row) = (b.div(row, self.s.rows), b.rem(row, self.s.rows));
                    let (head, first_row) = self.head(b, unit);
                    let (p, n) = (b.add(first_row, row), b.add(col, first));
                    let n = cx.lanes_from(n);
                    body(cx, b, at, [place.batch, place.group, head, Idx::Uniform(p), n])
                });
            });
        });
        cx.lanes = before;
        result
    }

    /// Runs `body` for every tile of the warp's state in a piece: the tile and where it lies in the array of y.
    fn for_tiles(
        &self,
        b: &mut KernelBuilder,
        state: &State,
        first: i64,
        body: &mut dyn FnMut(&mut KernelBuilder, Reg, Reg),
    ) {
        self.while_multiplying(b, |b| {
            let unit = b.mul(self.threads.unit, self.s.rows);
            let row = b.add(state.row, unit);
            for (tile, col) in state.tiles.iter().zip(&state.cols) {
                let (from, to) = (b.ge(*col, first), b.lt(*col, first + PANEL));
                let is_here = b.and(from, to);
                b.if_(is_here, |b| {
                    let at = b.mul(row, PANEL + Y_PAD);
                    let at = b.add(at, *col);
                    let at = b.sub(at, first);
                    body(b, *tile, at);
                });
            }
        });
    }

    fn load_state(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        state: &State,
        (h0, y): (ValueId, SharedId),
    ) -> Result<(), LowerError> {
        for first in (0..self.states).step_by(PANEL as usize) {
            b.barrier();
            self.for_piece(cx, b, first, &mut |cx, b, at, idx| {
                let h = cx.get_wide_as(b, (h0, Elem::F32), &idx)?;
                b.store(y, at, h);
                Ok(())
            })?;
            b.barrier();
            self.for_tiles(b, state, first, &mut |b, tile, at| {
                let h = b.tile_load(self.tile(), y, at, PANEL + Y_PAD, TileLayout::RowMajor);
                b.assign(tile, h);
            });
        }
        b.barrier();
        Ok(())
    }

    pub(super) fn keep_state<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        sink: &mut Sink<'a>,
        state: &State,
    ) -> Result<(), LowerError> {
        let Some(m) = &self.memory.read_out else { return Ok(()) };
        if self.result == Elem::F32
            && let Some(to) = sink.extra_param(cx, b, self.o.h_last, Elem::F32)?
        {
            return self.with_tiles(cx, b, (state, self.o.h_last), &mut |b, tile, at| {
                b.tile_store(to, at, self.states, TileLayout::RowMajor, tile);
            });
        }
        for first in (0..self.states).step_by(PANEL as usize) {
            b.barrier();
            self.for_tiles(b, state, first, &mut |b, tile, at| {
                b.tile_store(m.y, at, PANEL + Y_PAD, TileLayout::RowMajor, tile);
            });
            b.barrier();
            self.for_piece(cx, b, first, &mut |cx, b, at, idx| {
                let h = b.load(m.y, at, LANES);
                let h = b.cast(h, self.result);
                sink.put_extra(cx, b, self.o.h_last, &idx, h)
            })?;
        }
        Ok(())
    }
}
