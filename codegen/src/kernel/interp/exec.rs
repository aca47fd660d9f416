//! Execution of statements, all threads of a block in lockstep.

mod group;

use std::cell::Cell;

use super::{
    eval,
    memory::{MANY, Memory, Who},
    *,
};
use crate::kernel::verify::{List, Step};

/// Threads that take part; those of a full mask all do.
struct Mask {
    full: bool,
    active: Vec<bool>,
}

impl Mask {
    fn new(active: Vec<bool>) -> Mask {
        Mask { full: active.iter().all(|&a| a), active }
    }

    fn any(&self) -> bool {
        self.full || self.active.iter().any(|&a| a)
    }

    fn threads(&self) -> impl Iterator<Item = usize> {
        self.active.iter().enumerate().filter(|(_, a)| **a).map(|(t, _)| t)
    }
}

/// An async copy under way.
struct Copying {
    dst: Mem,
    index: i64,
    values: Vec<u64>,
}

/// Async copies of one thread: those not committed yet, and the committed groups, oldest first.
#[derive(Default)]
struct AsyncQueue {
    open: Vec<Copying>,
    groups: Vec<Vec<Copying>>,
}

/// Products of a warp group under way: whose, the accumulator, and the rows of factors that are read.
struct Multiplying {
    group: usize,
    acc: Reg,
    /// The left factor in registers.
    tile: Option<Reg>,
    /// What is read of the others, row by row of memory.
    rows: Vec<(Mem, i64, usize)>,
}

struct Machine<'k, 'b, 'a> {
    kernel: &'k Kernel,
    dims: &'k [i64],
    memory: Memory<'b, 'a>,
    /// Register lanes: per register all threads (or warps, for tiles), per thread all lanes.
    regs: Vec<u64>,
    /// Where each register starts in `regs`, and how many lanes it has per thread or warp.
    base: Vec<usize>,
    width: Vec<usize>,
    n_threads: usize,
    block: i64,
    /// Position of the block in this launch.
    block_nr: u32,
    /// Barriers passed by this block.
    epoch: u32,
    queues: Vec<AsyncQueue>,
    /// Oldest first.
    multiplying: Vec<Multiplying>,
}

/// A fault and the path to it, innermost step first.
struct Stop {
    fault: RunFault,
    path: Vec<Step>,
}

impl From<RunFault> for Stop {
    fn from(fault: RunFault) -> Stop {
        Stop { fault, path: Vec::new() }
    }
}

pub(super) fn run(
    kernel: &Kernel,
    blocks: Range<i64>,
    dims: &[i64],
    args: &[Arg],
    buffers: &mut [&mut [u8]],
) -> Result<(), InterpError> {
    let n_threads = kernel.n_threads() as usize;
    let n_warps = n_threads.div_ceil(WARP_SIZE as usize);
    let mut n_lanes = 0;
    let (mut base, mut width) = (Vec::new(), Vec::new());
    for info in &kernel.regs {
        let (lanes, holders) = match info.ty {
            RegTy::Vec { lanes, .. } => (usize::from(lanes), n_threads),
            RegTy::Tile(t) => (usize::from(t.rows) * usize::from(t.cols), n_warps),
        };
        base.push(n_lanes);
        width.push(lanes);
        n_lanes += lanes * holders;
    }
    let mut machine = Machine {
        kernel,
        dims,
        memory: Memory::new(kernel, args, buffers),
        regs: vec![0; n_lanes],
        base,
        width,
        n_threads,
        block: 0,
        block_nr: 0,
        epoch: 0,
        queues: Vec::new(),
        multiplying: Vec::new(),
    };
    let all = Mask::new(vec![true; n_threads]);
    for block in blocks {
        machine.start_block(block);
        machine.list(List::Body, &kernel.body, &all).map_err(|stop| {
            let path = Path(stop.path.into_iter().rev().collect());
            InterpError::Fault { kernel: kernel.name.clone(), block, path, fault: stop.fault }
        })?;
        machine.block_nr += 1;
    }
    Ok(())
}

impl Machine<'_, '_, '_> {
    fn start_block(&mut self, block: i64) {
        self.block = block;
        self.epoch = 0;
        self.memory.start_block();
        self.queues.clear();
        self.multiplying.clear();
        self.queues.resize_with(self.n_threads, AsyncQueue::default);
    }

    fn who(&self, thread: u32) -> Who {
        Who { block: self.block_nr, epoch: self.epoch, thread }
    }

    fn list(&mut self, list: List, stmts: &[Stmt], mask: &Mask) -> Result<(), Stop> {
        for (idx, stmt) in stmts.iter().enumerate() {
            let done = match stmt {
                Stmt::Inst(inst) => self.inst(inst, mask).map_err(Stop::from),
                Stmt::For(l) => self.for_(l, mask),
                Stmt::If(i) => self.if_(i, mask),
            };
            done.map_err(|mut stop| {
                stop.path.push(Step { list, idx });
                stop
            })?;
        }
        Ok(())
    }

    fn for_(&mut self, l: &For, mask: &Mask) -> Result<(), Stop> {
        if self.n_threads == 1 {
            return self.for_one_thread(l, mask);
        }
        let mut next: Vec<i64> = (0..self.n_threads).map(|t| self.scalar(l.lo, t) as i64).collect();
        let hi: Vec<i64> = (0..self.n_threads).map(|t| self.scalar(l.hi, t) as i64).collect();
        let mut done = vec![false; self.n_threads];
        loop {
            let active = |t: usize| mask.active[t] && !done[t] && next[t] < hi[t];
            let inner;
            let mask = if mask.full && (0..self.n_threads).all(active) {
                mask
            } else {
                inner = Mask::new((0..self.n_threads).map(active).collect());
                if !inner.any() {
                    return Ok(());
                }
                &inner
            };
            let var = self.base[l.var.0 as usize];
            for t in mask.threads() {
                self.regs[var + t] = next[t] as u64;
                match next[t].checked_add(l.step) {
                    Some(v) => next[t] = v,
                    None => done[t] = true,
                }
            }
            self.list(List::For, &l.body, mask)?;
        }
    }

    fn for_one_thread(&mut self, l: &For, mask: &Mask) -> Result<(), Stop> {
        let (mut next, hi) = (self.scalar(l.lo, 0) as i64, self.scalar(l.hi, 0) as i64);
        let var = self.base[l.var.0 as usize];
        while next < hi {
            self.regs[var] = next as u64;
            self.list(List::For, &l.body, mask)?;
            let Some(following) = next.checked_add(l.step) else { break };
            next = following;
        }
        Ok(())
    }

    fn if_(&mut self, i: &If, mask: &Mask) -> Result<(), Stop> {
        if self.n_threads == 1 {
            let on_true = self.scalar(i.cond, 0) != 0;
            let (list, stmts) = if on_true { (List::Then, &i.on_true) } else { (List::Else, &i.on_false) };
            return self.list(list, stmts, mask);
        }
        let cond = |t: usize| self.scalar(i.cond, t) != 0;
        let on_true = Mask::new((0..self.n_threads).map(|t| mask.active[t] && cond(t)).collect());
        let on_false = Mask::new((0..self.n_threads).map(|t| mask.active[t] && !cond(t)).collect());
        if on_true.any() {
            self.list(List::Then, &i.on_true, &on_true)?;
        }
        if on_false.any() {
            self.list(List::Else, &i.on_false, &on_false)?;
        }
        Ok(())
    }

    fn scalar(&self, reg: Reg, thread: usize) -> u64 {
        self.regs[self.base[reg.0 as usize] + thread]
    }

    /// Lanes per thread of a vector, per warp of a tile.
    fn width(&self, reg: Reg) -> usize {
        self.width[reg.0 as usize]
    }

    fn elem(&self, reg: Reg) -> Elem {
        self.kernel.ty(reg).elem()
    }

    fn lanes(&mut self, reg: Reg, thread: usize) -> &mut [u64] {
        let (base, width) = (self.base[reg.0 as usize], self.width[reg.0 as usize]);
        &mut self.regs[base + thread * width..][..width]
    }

    fn fill(&mut self, dst: Reg, mask: &Mask, f: impl Fn(usize, usize) -> u64) {
        for t in mask.threads() {
            self.lanes(dst, t).iter_mut().enumerate().for_each(|(i, lane)| *lane = f(t, i));
        }
    }

    fn map1(&mut self, mask: &Mask, dst: Reg, a: Reg, f: impl Fn(u64) -> u64) {
        let width = self.width(dst);
        let [d, a] = [dst, a].map(|r| self.base[r.0 as usize]);
        let cells = Cell::from_mut(&mut self.regs[..]).as_slice_of_cells();
        let each = |first: usize, n: usize| {
            let (d, a) = (&cells[d + first..][..n], &cells[a + first..][..n]);
            d.iter().zip(a).for_each(|(d, a)| d.set(f(a.get())));
        };
        runs(self.n_threads, width, mask, each);
    }

    fn map2(&mut self, mask: &Mask, dst: Reg, a: Reg, b: Reg, f: impl Fn(u64, u64) -> u64) {
        let width = self.width(dst);
        let [d, a, b] = [dst, a, b].map(|r| self.base[r.0 as usize]);
        let cells = Cell::from_mut(&mut self.regs[..]).as_slice_of_cells();
        let each = |first: usize, n: usize| {
            let (d, a, b) = (&cells[d + first..][..n], &cells[a + first..][..n], &cells[b + first..][..n]);
            d.iter().zip(a).zip(b).for_each(|((d, a), b)| d.set(f(a.get(), b.get())));
        };
        runs(self.n_threads, width, mask, each);
    }

    fn map3(&mut self, mask: &Mask, dst: Reg, srcs: [Reg; 3], f: impl Fn(u64, u64, u64) -> u64) {
        let width = self.width(dst);
        let d = self.base[dst.0 as usize];
        let [a, b, c] = srcs.map(|r| self.base[r.0 as usize]);
        let cells = Cell::from_mut(&mut self.regs[..]).as_slice_of_cells();
        let each = |first: usize, n: usize| {
            let (d, a) = (&cells[d + first..][..n], &cells[a + first..][..n]);
            let (b, c) = (&cells[b + first..][..n], &cells[c + first..][..n]);
            d.iter().zip(a).zip(b).zip(c).for_each(|(((d, a), b), c)| d.set(f(a.get(), b.get(), c.get())));
        };
        runs(self.n_threads, width, mask, each);
    }

    fn inst(&mut self, inst: &Inst, mask: &Mask) -> Result<(), RunFault> {
        if !self.multiplying.is_empty() {
            self.check_accumulators(inst)?;
        }
        match inst {
            Inst::Const { dst, value } => self.fill(*dst, mask, |_, _| value.bits()),
            Inst::Dim { dst, dim } => {
                let value = self.dims[dim.0 as usize] as u64;
                self.fill(*dst, mask, |_, _| value);
            }
            Inst::BlockIdx { dst } => {
                let value = self.block as u64;
                self.fill(*dst, mask, |_, _| value);
            }
            Inst::ThreadIdx { dst, axis } => {
                let block = self.kernel.block.map(|b| b as usize);
                let of_thread = |t: usize| [t % block[0], t / block[0] % block[1], t / (block[0] * block[1])];
                self.fill(*dst, mask, |t, _| of_thread(t)[axis.index()] as u64);
            }
            Inst::Copy { dst, src } if self.kernel.ty(*dst).lanes().is_none() => {
                for warp in self.warps(mask)? {
                    let tile = self.lanes(*src, warp).to_vec();
                    self.lanes(*dst, warp).copy_from_slice(&tile);
                }
            }
            Inst::Bitcast { dst, src } if self.width(*dst) != self.width(*src) => {
                let (from, to) = (self.elem(*src).size(), self.elem(*dst).size());
                for t in mask.threads() {
                    let lanes = self.lanes(*src, t);
                    let bytes: Vec<u8> =
                        lanes.iter().flat_map(|x| x.to_le_bytes()[..from].to_vec()).collect();
                    for (lane, part) in self.lanes(*dst, t).iter_mut().zip(bytes.chunks_exact(to)) {
                        *lane = part.iter().rev().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
                    }
                }
            }
            Inst::Dot { dst, a, b, acc } => {
                let elem = self.elem(*a);
                for t in mask.threads() {
                    let (a, b) = (self.lanes(*a, t).to_vec(), self.lanes(*b, t).to_vec());
                    let mut sums = self.lanes(*acc, t).to_vec();
                    let ratio = a.len() / sums.len();
                    for (sum, (a, b)) in sums.iter_mut().zip(a.chunks(ratio).zip(b.chunks(ratio))) {
                        *sum = eval::dot(elem, a, b, *sum);
                    }
                    self.lanes(*dst, t).copy_from_slice(&sums);
                }
            }
            Inst::Copy { dst, src } | Inst::Bitcast { dst, src } => self.map1(mask, *dst, *src, |x| x),
            Inst::Unary { dst, op, src } => {
                self.map1(mask, *dst, *src, eval::unary(*op, self.elem(*src)));
            }
            Inst::Math { dst, op, src } => {
                let (op, elem) = (*op, self.elem(*src));
                self.map1(mask, *dst, *src, |x| eval::from_f64(elem, math(op, eval::to_f64(elem, x))));
            }
            Inst::Binary { dst, op, lhs, rhs } => self.binary(mask, *dst, *op, *lhs, *rhs)?,
            Inst::Fma { dst, a, b, c } => match self.elem(*dst) {
                Elem::F32 => self.map3(mask, *dst, [*a, *b, *c], |a, b, c| {
                    eval::of_f32(eval::f32_of(a).mul_add(eval::f32_of(b), eval::f32_of(c)))
                }),
                elem => self.map3(mask, *dst, [*a, *b, *c], eval::fma(elem)),
            },
            Inst::Compare { dst, op, lhs, rhs } => {
                let test = eval::compare(*op, self.elem(*lhs));
                self.map2(mask, *dst, *lhs, *rhs, |a, b| test(a, b).into());
            }
            Inst::Select { dst, cond, on_true, on_false } => {
                let choose = |c, a, b| if c != 0 { a } else { b };
                if self.width(*cond) == self.width(*dst) {
                    self.map3(mask, *dst, [*cond, *on_true, *on_false], choose);
                } else {
                    for t in mask.threads() {
                        let from = if self.scalar(*cond, t) != 0 { *on_true } else { *on_false };
                        let lanes = self.lanes(from, t).to_vec();
                        self.lanes(*dst, t).copy_from_slice(&lanes);
                    }
                }
            }
            Inst::Cast { dst, src } => {
                let (from, to) = (self.elem(*src), self.elem(*dst));
                match (from, to) {
                    (Elem::Bf16, Elem::F32) => {
                        self.map1(mask, *dst, *src, |x| eval::cast(Elem::Bf16, Elem::F32, x))
                    }
                    _ => self.map1(mask, *dst, *src, |x| eval::cast(from, to, x)),
                }
            }
            Inst::Splat { dst, src } => {
                for t in mask.threads() {
                    let value = self.scalar(*src, t);
                    self.lanes(*dst, t).fill(value);
                }
            }
            Inst::Iota { dst } => {
                let elem = self.elem(*dst);
                self.fill(*dst, mask, |_, i| Const::from_bits(elem, i as u64).bits());
            }
            Inst::Extract { dst, src, lane } => {
                for t in mask.threads() {
                    self.lanes(*dst, t)[0] = self.lanes(*src, t)[usize::from(*lane)];
                }
            }
            Inst::Insert { dst, src, value, lane } => {
                for t in mask.threads() {
                    let mut lanes = self.lanes(*src, t).to_vec();
                    lanes[usize::from(*lane)] = self.scalar(*value, t);
                    self.lanes(*dst, t).copy_from_slice(&lanes);
                }
            }
            Inst::Reduce { dst, op, src } => {
                let f = eval::reduce(*op, self.elem(*src));
                for t in mask.threads() {
                    let mut lanes = self.lanes(*src, t).to_vec();
                    while lanes.len() > 1 {
                        let upper = lanes.split_off(lanes.len() / 2);
                        lanes.iter_mut().zip(upper).for_each(|(l, u)| *l = f(*l, u));
                    }
                    self.lanes(*dst, t)[0] = lanes[0];
                }
            }
            Inst::Shuffle { dst, a, b, pattern } => {
                for t in mask.threads() {
                    let mut lanes = self.lanes(*a, t).to_vec();
                    lanes.extend_from_slice(self.lanes(*b, t));
                    let to = self.lanes(*dst, t);
                    to.iter_mut().zip(pattern).for_each(|(d, &i)| *d = lanes[usize::from(i)]);
                }
            }
            Inst::Load { dst, mem, index, mask: lanes } => self.load(mask, *dst, *mem, *index, *lanes)?,
            Inst::Store { mem, index, src, mask: lanes } => self.store(mask, *mem, *index, *src, *lanes)?,
            Inst::Gather { dst, mem, index, mask: lanes } => {
                for t in mask.threads() {
                    for i in 0..self.width(*dst) {
                        let mut value = [0];
                        if self.lane_on(*lanes, t, i) {
                            let index = self.lanes(*index, t)[i] as i64;
                            self.memory.read(*mem, index, self.who(t as u32), &mut value)?;
                        }
                        self.lanes(*dst, t)[i] = value[0];
                    }
                }
            }
            Inst::Scatter { mem, index, src, mask: lanes } => {
                for t in mask.threads() {
                    for i in 0..self.width(*src) {
                        if self.lane_on(*lanes, t, i) {
                            let (index, value) = (self.lane(*index, t, i) as i64, self.lane(*src, t, i));
                            self.memory.write(*mem, index, self.who(t as u32), &[value])?;
                        }
                    }
                }
            }
            Inst::WarpShuffle { dst, op, src, amount } => {
                self.warp_shuffle(mask, *dst, *op, *src, *amount)?
            }
            Inst::Barrier => {
                if !mask.full {
                    return Err(RunFault::DivergentBarrier);
                }
                self.epoch += 1;
            }
            Inst::AsyncCopy { dst, dst_index, src, src_index, elems, pred } => {
                for t in mask.threads() {
                    let who = self.who(t as u32);
                    let n = usize::from(*elems);
                    let index = self.scalar(*dst_index, t) as i64;
                    let mut values = vec![0; n];
                    if pred.is_none_or(|p| self.scalar(p, t) != 0) {
                        let src_index = self.scalar(*src_index, t) as i64;
                        self.memory.aligned(*src, src_index, n)?;
                        self.memory.read(*src, src_index, who, &mut values)?;
                    }
                    self.memory.begin_async(*dst, index, n, who)?;
                    self.queues[t].open.push(Copying { dst: *dst, index, values });
                }
            }
            Inst::AsyncCommit => {
                for t in mask.threads() {
                    let group = std::mem::take(&mut self.queues[t].open);
                    self.queues[t].groups.push(group);
                }
            }
            Inst::AsyncWait { pending } => {
                for t in mask.threads() {
                    let n_done = self.queues[t].groups.len().saturating_sub((*pending).into());
                    let done: Vec<_> = self.queues[t].groups.drain(..n_done).flatten().collect();
                    for copy in done {
                        self.memory.end_async(copy.dst, copy.index, self.who(t as u32), &copy.values)?;
                    }
                }
            }
            Inst::TileFill { dst, value } => {
                for warp in self.warps(mask)? {
                    self.lanes(*dst, warp).fill(value.bits());
                }
            }
            Inst::TileLoad { dst, mem, index, stride, layout } => {
                for warp in self.warps(mask)? {
                    for (i, at) in
                        self.tile_indices(*dst, warp, *index, *stride, *layout)?.into_iter().enumerate()
                    {
                        let mut value = [0];
                        self.memory.read(*mem, at, self.tile_user(), &mut value)?;
                        self.lanes(*dst, warp)[i] = value[0];
                    }
                }
            }
            Inst::TileStore { mem, index, stride, layout, src } => {
                for warp in self.warps(mask)? {
                    for (i, at) in
                        self.tile_indices(*src, warp, *index, *stride, *layout)?.into_iter().enumerate()
                    {
                        let value = self.lane(*src, warp, i);
                        self.memory.write(*mem, at, self.tile_user(), &[value])?;
                    }
                }
            }
            Inst::TileBinary { dst, op, lhs, rhs } => {
                let f = eval::binary(*op, self.elem(*dst));
                for warp in self.warps(mask)? {
                    for i in 0..self.width(*dst) {
                        let value = f(self.lane(*lhs, warp, i), self.lane(*rhs, warp, i));
                        self.lanes(*dst, warp)[i] = value;
                    }
                }
            }
            Inst::TileExp2 { dst, src } => {
                let elem = self.elem(*dst);
                for warp in self.warps(mask)? {
                    for i in 0..self.width(*dst) {
                        let x = eval::to_f64(elem, self.lane(*src, warp, i));
                        self.lanes(*dst, warp)[i] = eval::from_f64(elem, math(MathOp::Exp2, x));
                    }
                }
            }
            Inst::TileCast { dst, src } => {
                let (from, to) = (self.elem(*src), self.elem(*dst));
                for warp in self.warps(mask)? {
                    for i in 0..self.width(*dst) {
                        let value = eval::cast(from, to, self.lane(*src, warp, i));
                        self.lanes(*dst, warp)[i] = value;
                    }
                }
            }
            Inst::GroupMma { acc, a, b, steps } => {
                for group in self.groups(mask)? {
                    self.group_mma(group, *acc, (*a, *b), *steps)?;
                }
            }
            Inst::GroupWait { pending } => {
                for group in self.groups(mask)? {
                    self.group_wait(group, (*pending).into())?;
                }
            }
            Inst::Mma { dst, a, b, acc } => {
                for warp in self.warps(mask)? {
                    self.mma(warp, *dst, *a, *b, *acc);
                }
            }
        }
        Ok(())
    }

    fn lane(&self, reg: Reg, thread: usize, lane: usize) -> u64 {
        self.regs[self.base[reg.0 as usize] + thread * self.width[reg.0 as usize] + lane]
    }

    fn lane_on(&self, lanes: Option<Reg>, thread: usize, lane: usize) -> bool {
        lanes.is_none_or(|m| self.lane(m, thread, lane) != 0)
    }

    fn binary(&mut self, mask: &Mask, dst: Reg, op: BinaryOp, lhs: Reg, rhs: Reg) -> Result<(), RunFault> {
        let elem = self.elem(lhs);
        match (op, elem) {
            (BinaryOp::Add, Elem::F32) => {
                self.map2(mask, dst, lhs, rhs, |a, b| eval::of_f32(eval::f32_of(a) + eval::f32_of(b)));
            }
            (BinaryOp::Mul, Elem::F32) => {
                self.map2(mask, dst, lhs, rhs, |a, b| eval::of_f32(eval::f32_of(a) * eval::f32_of(b)));
            }
            (BinaryOp::Div | BinaryOp::Rem, e) if e.is_int() => {
                self.check_lanes(mask, lhs, rhs, RunFault::BadDivision, |a, b| eval::bad_division(e, a, b))?;
                self.map2(mask, dst, lhs, rhs, eval::binary(op, elem));
            }
            (BinaryOp::Shl | BinaryOp::Shr, e) => {
                self.check_lanes(mask, lhs, rhs, RunFault::BadShift, |_, b| b >= e.bits().into())?;
                self.map2(mask, dst, lhs, rhs, eval::binary(op, elem));
            }
            _ => self.map2(mask, dst, lhs, rhs, eval::binary(op, elem)),
        }
        Ok(())
    }

    fn check_lanes(
        &self,
        mask: &Mask,
        a: Reg,
        b: Reg,
        fault: RunFault,
        bad: impl Fn(u64, u64) -> bool,
    ) -> Result<(), RunFault> {
        let width = self.width(a);
        let any = mask.threads().any(|t| (0..width).any(|i| bad(self.lane(a, t, i), self.lane(b, t, i))));
        if any { Err(fault) } else { Ok(()) }
    }

    fn load(
        &mut self,
        mask: &Mask,
        dst: Reg,
        mem: Mem,
        index: Reg,
        lanes: Option<Reg>,
    ) -> Result<(), RunFault> {
        let (base, width) = (self.base[dst.0 as usize], self.width(dst));
        for t in mask.threads() {
            let who = self.who(t as u32);
            let start = self.scalar(index, t) as i64;
            if lanes.is_none() {
                self.memory.read(mem, start, who, &mut self.regs[base + t * width..][..width])?;
                continue;
            }
            let mut values = vec![0; width];
            for (i, value) in values.iter_mut().enumerate() {
                if self.lane_on(lanes, t, i) {
                    self.memory.read(mem, start.wrapping_add(i as i64), who, std::slice::from_mut(value))?;
                }
            }
            self.lanes(dst, t).copy_from_slice(&values);
        }
        Ok(())
    }

    fn store(
        &mut self,
        mask: &Mask,
        mem: Mem,
        index: Reg,
        src: Reg,
        lanes: Option<Reg>,
    ) -> Result<(), RunFault> {
        let (base, width) = (self.base[src.0 as usize], self.width(src));
        for t in mask.threads() {
            let who = self.who(t as u32);
            let start = self.scalar(index, t) as i64;
            let values = &self.regs[base + t * width..][..width];
            if lanes.is_none() {
                self.memory.write(mem, start, who, values)?;
                continue;
            }
            for (i, value) in values.iter().enumerate() {
                if self.lane_on(lanes, t, i) {
                    let at = start.wrapping_add(i as i64);
                    self.memory.write(mem, at, who, std::slice::from_ref(value))?;
                }
            }
        }
        Ok(())
    }

    /// Warps that run; all threads of a warp must run if one does.
    fn warps(&self, mask: &Mask) -> Result<Vec<usize>, RunFault> {
        let mut warps = Vec::new();
        for (warp, threads) in mask.active.chunks(WARP_SIZE as usize).enumerate() {
            match threads.iter().filter(|a| **a).count() {
                0 => {}
                n if n == threads.len() => warps.push(warp),
                _ => return Err(RunFault::DivergentWarp { warp: warp as u32 }),
            }
        }
        Ok(warps)
    }

    fn warp_threads(&self, warp: usize) -> Range<usize> {
        let first = warp * WARP_SIZE as usize;
        first..(first + WARP_SIZE as usize).min(self.n_threads)
    }

    /// Value of a scalar that must not differ within the warp.
    fn warp_scalar(&self, reg: Reg, warp: usize) -> Result<u64, RunFault> {
        let threads = self.warp_threads(warp);
        let value = self.scalar(reg, threads.start);
        if threads.clone().any(|t| self.scalar(reg, t) != value) {
            return Err(RunFault::NonUniformOperand { warp: warp as u32 });
        }
        Ok(value)
    }

    fn warp_shuffle(
        &mut self,
        mask: &Mask,
        dst: Reg,
        op: WarpShuffleOp,
        src: Reg,
        amount: Reg,
    ) -> Result<(), RunFault> {
        for warp in self.warps(mask)? {
            if op != WarpShuffleOp::Idx {
                self.warp_scalar(amount, warp)?;
            }
            let threads = self.warp_threads(warp);
            let values: Vec<u64> = threads.clone().map(|t| self.scalar(src, t)).collect();
            for (lane, t) in threads.enumerate() {
                let amount = i64::from(self.scalar(amount, t) as i32);
                let lane = lane as i64;
                let from = match op {
                    WarpShuffleOp::Up => lane - amount,
                    WarpShuffleOp::Down => lane + amount,
                    WarpShuffleOp::Xor => lane ^ amount,
                    WarpShuffleOp::Idx => amount,
                };
                let value = usize::try_from(from).ok().and_then(|f| values.get(f).copied());
                self.lanes(dst, t)[0] = value.unwrap_or(values[lane as usize]);
            }
        }
        Ok(())
    }

    /// Who reads and writes tiles: a whole warp, or the one thread that there is.
    fn tile_user(&self) -> Who {
        self.who(if self.n_threads == 1 { 0 } else { MANY })
    }

    /// Memory indices of a tile's elements, row by row.
    fn tile_indices(
        &self,
        tile: Reg,
        warp: usize,
        index: Reg,
        stride: Reg,
        layout: TileLayout,
    ) -> Result<Vec<i64>, RunFault> {
        let index = self.warp_scalar(index, warp)? as i64;
        let stride = self.warp_scalar(stride, warp)? as i64;
        let RegTy::Tile(ty) = self.kernel.ty(tile) else { unreachable!("verified to be a tile") };
        let at = |r: i64, c: i64| match layout {
            TileLayout::RowMajor => index.wrapping_add(r.wrapping_mul(stride)).wrapping_add(c),
            TileLayout::ColMajor => index.wrapping_add(c.wrapping_mul(stride)).wrapping_add(r),
            TileLayout::Interleaved => {
                let n = 4 / ty.elem.size().min(4) as i64;
                let beside = c.wrapping_mul(n).wrapping_add(r % n);
                index.wrapping_add((r / n).wrapping_mul(stride)).wrapping_add(beside)
            }
        };
        let rows = 0..i64::from(ty.rows);
        Ok(rows.flat_map(|r| (0..i64::from(ty.cols)).map(move |c| at(r, c))).collect())
    }

    fn mma(&mut self, warp: usize, dst: Reg, a: Reg, b: Reg, acc: Reg) {
        let (RegTy::Tile(a_ty), RegTy::Tile(acc_ty)) = (self.kernel.ty(a), self.kernel.ty(acc)) else {
            unreachable!("verified to be tiles")
        };
        let (m, n, k) = (usize::from(acc_ty.rows), usize::from(acc_ty.cols), usize::from(a_ty.cols));
        let mut out = self.lanes(acc, warp).to_vec();
        if self.n_threads == 1 {
            for (i, sum) in out.iter_mut().enumerate() {
                let x: Vec<u64> = (0..k).map(|l| self.lane(a, warp, i / n * k + l)).collect();
                let y: Vec<u64> = (0..k).map(|l| self.lane(b, warp, l * n + i % n)).collect();
                *sum = eval::tile_sum(a_ty.elem, &x, &y, *sum);
            }
            self.lanes(dst, warp).copy_from_slice(&out);
            return;
        }
        let fma = eval::fma(acc_ty.elem);
        for r in 0..m {
            for c in 0..n {
                for i in 0..k {
                    let x = eval::cast(a_ty.elem, acc_ty.elem, self.lane(a, warp, r * k + i));
                    let y = eval::cast(a_ty.elem, acc_ty.elem, self.lane(b, warp, i * n + c));
                    out[r * n + c] = fma(x, y, out[r * n + c]);
                }
            }
        }
        self.lanes(dst, warp).copy_from_slice(&out);
    }
}

/// Calls `f(first, n)` for each run of lanes of active threads, relative to the start of a register.
fn runs(n_threads: usize, width: usize, mask: &Mask, mut f: impl FnMut(usize, usize)) {
    if mask.full {
        f(0, width * n_threads);
    } else {
        mask.threads().for_each(|t| f(t * width, width));
    }
}
