//! The order in which a block takes the tiles of its channels.
//!
//! ```text
//! the same threads              helpers
//!
//! stage tile j                  finish tile j-1
//! barrier                       stage tile j+1        others: scan tile j
//! scan tile j                   barrier
//! barrier
//! finish tile j
//! ```
//!
//! Where blocks are few, nothing else runs while a block stages or finishes; then helpers pay.

use super::States;
use super::tile::{Kept, Loads, Tile};
use crate::kernel::{KernelBuilder, Reg};
use crate::lower::LowerError;
use crate::lower::access::Cx;
use crate::lower::block::only_if;
use crate::lower::sink::Sink;

impl<'a> Tile<'_, 'a> {
    /// All tiles, by threads that do everything.
    pub(super) fn walk(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        sink: &mut Sink<'a>,
        states: &States,
    ) -> Result<(), LowerError> {
        let n_tiles = self.n_tiles(b);
        let loads = self.loads(cx, b)?;
        let zero = b.const_i64(0);
        self.fetch_if_any(cx, b, &loads, zero)?;
        let mut result = Ok(());
        b.for_("tile", 0, n_tiles, 1, |b, j| {
            result = cx.scope(|cx| {
                let base = self.base(b, j);
                let buffer = self.buffer(b, j);
                let kept = self.stage(cx, b, &loads, (base, buffer))?;
                b.barrier();
                // The loads of a tile beyond the end are of the last step, and never used.
                let next = self.base_after(b, base);
                self.fetch(cx, b, &loads, next)?;
                self.fetch_gate(cx, b, &loads, base)?;
                self.scan(b, states, (base, buffer));
                b.barrier();
                self.finish(cx, b, sink, (base, buffer, &kept))
            });
        });
        result
    }

    /// All tiles, where `is_scanning` says which threads scan; the others stage and finish.
    pub(super) fn walk_with_helpers(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        sink: &mut Sink<'a>,
        (states, is_scanning): (&States, Reg),
    ) -> Result<(), LowerError> {
        let n_tiles = self.n_tiles(b);
        let loads = self.loads(cx, b)?;
        // Of the tile that is scanned, and of the one after it.
        let (kept, next_kept) = (self.kept(cx, b)?, self.kept(cx, b)?);
        let zero = b.const_i64(0);
        let is_helper = b.not(is_scanning);
        let has_tiles = b.gt(n_tiles, 0);
        let begins = b.and(is_helper, has_tiles);
        only_if(cx, b, begins, |cx, b| {
            self.fetch(cx, b, &loads, zero)?;
            self.stage_next(cx, b, &loads, (zero, &next_kept))
        })?;
        b.barrier();
        let mut result = Ok(());
        b.for_("tile", 0, n_tiles, 1, |b, j| {
            result = cx.scope(|cx| {
                let base = self.base(b, j);
                let buffer = self.buffer(b, j);
                b.if_(is_scanning, |b| self.scan(b, states, (base, buffer)));
                only_if(cx, b, is_helper, |cx, b| {
                    let has_before = b.gt(j, 0);
                    let before = b.sub(j, 1);
                    only_if(cx, b, has_before, |cx, b| self.finish_tile(cx, b, sink, (before, &kept)))?;
                    kept.assign(b, &next_kept);
                    let next = b.add(j, 1);
                    self.stage_next(cx, b, &loads, (next, &next_kept))
                })?;
                b.barrier();
                Ok(())
            });
        });
        result?;
        only_if(cx, b, begins, |cx, b| {
            let last = b.sub(n_tiles, 1);
            self.finish_tile(cx, b, sink, (last, &kept))
        })
    }

    /// Shares tile `j`, which is loaded, keeps what its last phase needs, and loads the tile after it.
    fn stage_next(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        loads: &Loads,
        (j, kept): (Reg, &Kept),
    ) -> Result<(), LowerError> {
        let (base, buffer) = (self.base(b, j), self.buffer(b, j));
        let staged = self.stage(cx, b, loads, (base, buffer))?;
        kept.assign(b, &staged);
        let next = self.base_after(b, base);
        self.fetch(cx, b, loads, next)
    }

    fn finish_tile(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        sink: &mut Sink<'a>,
        (j, kept): (Reg, &Kept),
    ) -> Result<(), LowerError> {
        let (base, buffer) = (self.base(b, j), self.buffer(b, j));
        self.finish(cx, b, sink, (base, buffer, kept))
    }

    fn fetch_if_any(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        loads: &Loads,
        base: Reg,
    ) -> Result<(), LowerError> {
        let has_steps = b.gt(self.len(), 0);
        only_if(cx, b, has_steps, |cx, b| self.fetch(cx, b, loads, base))
    }
}
