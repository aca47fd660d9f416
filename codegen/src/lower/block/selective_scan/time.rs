//! One channel per block, time split over its threads.
//!
//! ```text
//! block = (batch, group, channel)       tile of time = threads x items steps
//!
//! for each tile:
//!   every thread loads dt and x of its steps, once for all states
//!   for each state:
//!     compose own steps:        (a_bar, u) of the items -> one affine map        scan::thread
//!     scan over the block:      map of everything before this thread             scan::warp, scan::block
//!     replay own steps:         h after every step, from (that map)(carry)       scan::thread
//!     carry' = (map of the whole tile)(carry)       in shared memory, one buffer per parity of the tile
//! ```

use super::{Channel, Mixer, f32_at};
use crate::kernel::{Elem, KernelBuilder, Reg, SharedId, WARP_SIZE};
use crate::lower::access::Cx;
use crate::lower::conv1d::new_sequence;
use crate::lower::elementwise::row_index;
use crate::lower::index::Idx;
use crate::lower::selective_scan::step_at;
use crate::lower::sink::Sink;
use crate::lower::{LowerError, Lowering};
use crate::scan::block::{Scratch, ThreadPlace, exclusive};
use crate::scan::{Action, Affine, Segmented, thread};
use ssmc_ir::Dim;

/// One step of a thread's share of a tile.
struct Item {
    exists: Reg,
    t: Reg,
    dt: Reg,
    x: Reg,
    /// 1 where a sequence begins.
    begins: Option<Reg>,
    /// Sum of the read-outs of the states so far.
    y: Reg,
}

/// The loops around the states of a tile.
struct Block<'m, 'a, M> {
    m: &'m Mixer<'a>,
    monoid: M,
    place: ThreadPlace,
    scratch: Scratch,
    /// State of the channel before a tile: N elements for even tiles, then N for odd ones.
    carry: SharedId,
    batch: Idx,
    group: Idx,
    e: Idx,
    len: Reg,
    items: i64,
}

pub(super) fn lower<'a>(
    l: &mut Lowering<'a>,
    m: &Mixer<'a>,
    threads: u32,
    items: i64,
) -> Result<Dim, LowerError> {
    match m.seq_idx {
        Some(_) => lower_with(l, m, Segmented(Affine), threads, items),
        None => lower_with(l, m, Affine, threads, items),
    }
}

fn lower_with<'a, M: Action>(
    l: &mut Lowering<'a>,
    m: &Mixer<'a>,
    monoid: M,
    threads: u32,
    items: i64,
) -> Result<Dim, LowerError> {
    let (b, cx, sink) = l.parts();
    let grid = [m.shape[0].clone(), m.shape[2].clone(), m.shape[3].clone()];
    let index = row_index(cx, b, &grid);
    let (batch, group, e) = (index[0], index[1], index[2]);
    let place = ThreadPlace::of(b, threads);
    let scratch = Scratch::declare(b, "totals", &monoid, place.n_warps);
    let carry = b.shared("carry", Elem::F32, (2 * m.n.max(1)) as u32);
    let len = cx.dim(b, &m.shape[1]);
    let block = Block { m, monoid, place, scratch, carry, batch, group, e, len, items };
    let mut per_channel = |value: Option<_>| value.map(|v| f32_at(cx, b, v, &[group, e])).transpose();
    let channel = Channel { bias: per_channel(m.dt_bias)?, skip: per_channel(m.d)? };

    // Only the thread that stores a carry may read it before the first barrier; the first scan brings that barrier.
    let mut result = Ok(());
    b.for_("n", place.thread, m.n, threads.into(), |b, n| {
        result = cx.scope(|cx| {
            let h = match m.h0 {
                Some(h0) => f32_at(cx, b, h0, &[batch, group, e, Idx::Uniform(n)])?,
                None => b.const_f32(0.0),
            };
            b.store(carry, n, h);
            Ok(())
        });
    });
    result?;
    let steps = items * i64::from(threads);
    let n_tiles = b.ceil_div(len, steps);
    let mut result = Ok(());
    b.for_("tile", 0, n_tiles, 1, |b, j| {
        result = cx.scope(|cx| block.tile(cx, b, sink, &channel, j));
    });
    result?;
    if sink.wants(m.h_last) {
        b.barrier();
        let parity = b.and(n_tiles, 1);
        let last = b.mul(parity, m.n);
        let mut result = Ok(());
        b.for_("n", place.thread, m.n, threads.into(), |b, n| {
            result = cx.scope(|cx| {
                let at = b.add(last, n);
                let h = b.load(carry, at, 1);
                let h = b.cast(h, m.elem);
                sink.put_extra(cx, b, m.h_last, &[batch, group, e, Idx::Uniform(n)], h)
            });
        });
        result?;
    }
    Ok(grid.iter().fold(Dim::from(1), |n, d| n * d))
}

impl<'a, M: Action> Block<'_, 'a, M> {
    /// Tile number `j` of time, with all states.
    fn tile(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        sink: &mut Sink<'a>,
        channel: &Channel,
        j: Reg,
    ) -> Result<(), LowerError> {
        let items = self.load_items(cx, b, channel, j)?;
        let n_states = self.m.n;
        let parity = b.and(j, 1);
        let read = b.mul(parity, n_states);
        let write = b.sub(n_states, read);
        let scans_before = b.mul(j, n_states);
        let mut result = Ok(());
        b.for_("n", 0, n_states, 1, |b, n| {
            let nr = b.add(scans_before, n);
            let half = b.and(nr, 1);
            let (from, to) = (b.add(read, n), b.add(write, n));
            result = cx.scope(|cx| self.state(cx, b, &items, n, half, (from, to)));
        });
        result?;
        for item in &items {
            let mut result = Ok(());
            b.if_(item.exists, |b| {
                result =
                    cx.scope(|cx| self.m.output(cx, b, sink, channel, &self.at(item.t), (item.y, item.x)));
            });
            result?;
        }
        Ok(())
    }

    /// This thread's steps of tile `j`. Steps beyond the end repeat the last one; nothing comes of them.
    fn load_items(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        channel: &Channel,
        j: Reg,
    ) -> Result<Vec<Item>, LowerError> {
        let m = self.m;
        let n_threads = i64::from(self.place.n_warps * WARP_SIZE);
        let (base, offset) = (b.mul(j, n_threads * self.items), b.mul(self.place.thread, self.items));
        let (base, last) = (b.add(base, offset), b.sub(self.len, 1));
        let mut steps = Vec::new();
        for k in 0..self.items {
            let i = b.add(base, k);
            let exists = b.lt(i, self.len);
            let i = b.min(i, last);
            let (t, before) = step_at(b, i, self.len, m.op.reverse);
            steps.push((exists, t, before));
            // Requested here, found again below: the loads of all steps are under way before the first use.
            for value in [m.dt, m.x] {
                cx.get(b, value, &self.at(t))?;
            }
        }
        let zero = b.const_f32(0.0);
        let mut items = Vec::new();
        for (exists, t, before) in steps {
            let (dt, x) = m.inputs(cx, b, channel, &self.at(t))?;
            let begins = match m.seq_idx {
                Some(seq_idx) => {
                    let is_new = new_sequence(cx, b, seq_idx, self.batch, (t, before))?;
                    Some(b.cast(is_new, Elem::I32))
                }
                None => None,
            };
            items.push(Item { exists, t, dt, x, begins, y: b.var_init(zero) });
        }
        Ok(items)
    }

    /// Where x, dt, z and y of a step are.
    fn at(&self, t: Reg) -> [Idx; 4] {
        [self.batch, Idx::Uniform(t), self.group, self.e]
    }

    /// State number `n` along the tile. `half` is that of the scan's scratch, `from` and `to` are places of the carry.
    fn state(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        items: &[Item],
        n: Reg,
        half: Reg,
        (from, to): (Reg, Reg),
    ) -> Result<(), LowerError> {
        let m = self.m;
        let a = f32_at(cx, b, m.a, &[self.group, self.e, Idx::Uniform(n)])?;
        let decay = b.mul(a, std::f64::consts::LOG2_E);
        let pick = |item: &Item| [self.batch, Idx::Uniform(item.t), self.group, Idx::Uniform(n)];
        for item in items {
            cx.get(b, m.b, &pick(item))?;
            cx.get(b, m.c, &pick(item))?;
        }
        let identity = self.monoid.identity(b);
        let mut maps = Vec::new();
        for item in items {
            let b_t = f32_at(cx, b, m.b, &pick(item))?;
            let exponent = b.mul(item.dt, decay);
            let a_bar = b.exp2(exponent);
            let dt_x = b.mul(item.dt, item.x);
            let input = b.mul(dt_x, b_t);
            let mut map: Vec<Reg> = [a_bar, input].into_iter().chain(item.begins).collect();
            for (r, neutral) in map.iter_mut().zip(&identity) {
                *r = b.select(item.exists, *r, *neutral);
            }
            maps.push(map);
        }
        let own = thread::reduce(b, &self.monoid, &maps);
        let scanned = exclusive(b, &self.monoid, self.place, &self.scratch, half, &own);
        let carried = b.load(self.carry, from, 1);
        let start = self.monoid.act(b, &scanned.before, carried);
        let states = thread::replay(b, &self.monoid, start, &maps);
        for (item, h) in items.iter().zip(states) {
            let c_t = f32_at(cx, b, m.c, &pick(item))?;
            let y = b.fma(h, c_t, item.y);
            b.assign(item.y, y);
        }
        let after = self.monoid.act(b, &scanned.total, carried);
        let is_first = b.eq(self.place.thread, 0);
        b.if_(is_first, |b| b.store(self.carry, to, after));
        Ok(())
    }
}
