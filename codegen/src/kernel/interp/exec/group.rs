//! Products of warp groups: computed when they begin, finished when they are waited for.

use super::*;

/// Warps of a group.
const WARPS: usize = 4;

/// Elements from one row of a factor to the next, and the rows after which the order of memory repeats.
const PITCH: i64 = 64;
const PERIOD: i64 = 8 * PITCH;

/// Elements of one step along the rows of the factors.
const STEP: usize = 16;

impl Machine<'_, '_, '_> {
    /// Warp groups that run; all threads of a group must run if one does.
    pub(super) fn groups(&self, mask: &Mask) -> Result<Vec<usize>, RunFault> {
        let mut groups = Vec::new();
        for (group, threads) in mask.active.chunks(WARPS * WARP_SIZE as usize).enumerate() {
            match threads.iter().filter(|a| **a).count() {
                0 => {}
                n if n == threads.len() => groups.push(group),
                _ => return Err(RunFault::DivergentGroup),
            }
        }
        Ok(groups)
    }

    /// Faults if an instruction other than a product uses an accumulator of products under way, or one changes a factor
    /// in registers.
    pub(super) fn check_accumulators(&self, inst: &Inst) -> Result<(), RunFault> {
        if let Some(dst) = inst.dst()
            && self.multiplying.iter().any(|m| m.tile == Some(dst))
        {
            return Err(RunFault::GroupPending(dst.0));
        }
        if matches!(inst, Inst::GroupMma { .. }) {
            return Ok(());
        }
        let busy = |reg: Reg| self.multiplying.iter().any(|m| m.acc == reg);
        let mut found = inst.dst().filter(|reg| busy(*reg));
        inst.for_each_use(|reg| {
            if busy(reg) {
                found = Some(reg);
            }
        });
        found.map_or(Ok(()), |reg| Err(RunFault::GroupPending(reg.0)))
    }

    pub(super) fn group_mma(
        &mut self,
        group: usize,
        acc: Reg,
        (left, right): (GroupLeft, GroupFactor),
        steps: u16,
    ) -> Result<(), RunFault> {
        let RegTy::Tile(ty) = self.kernel.ty(acc) else { unreachable!("verified to be a tile") };
        let (n, depth) = (usize::from(ty.cols), STEP * usize::from(steps));
        let mut rows = Vec::new();
        let tile = if let GroupLeft::Tile(tile) = left { Some(tile) } else { None };
        let a = match left {
            GroupLeft::Shared(a) => self.group_factor(group, a, (16 * WARPS, depth), &mut rows)?,
            GroupLeft::Tile(a) => {
                let elem = self.elem(a);
                let warps = group * WARPS..(group + 1) * WARPS;
                warps
                    .flat_map(|warp| self.lanes(a, warp).to_vec())
                    .map(|x| eval::cast(elem, Elem::F32, x))
                    .collect()
            }
        };
        let b = self.group_factor(group, right, (n, depth), &mut rows)?;
        let fma = eval::fma(Elem::F32);
        for warp in 0..WARPS {
            let sums = self.lanes(acc, group * WARPS + warp);
            for (i, sum) in sums.iter_mut().enumerate() {
                let (row, col) = (16 * warp + i / n, i % n);
                let (a, b) = (&a[row * depth..][..depth], &b[col * depth..][..depth]);
                *sum = a.iter().zip(b).fold(*sum, |sum, (a, b)| fma(*a, *b, sum));
            }
        }
        self.multiplying.push(Multiplying { group, acc, tile, rows });
        Ok(())
    }

    /// The elements of a factor, `n` times `depth` that are multiplied with each other; adds to `rows` what is read.
    fn group_factor(
        &mut self,
        group: usize,
        factor: GroupFactor,
        (n, depth): (usize, usize),
        rows: &mut Vec<(Mem, i64, usize)>,
    ) -> Result<Vec<u64>, RunFault> {
        let GroupFactor { mem, index, is_turned } = factor;
        let elem = self.kernel.mem_elem(mem);
        let first = self.warp_scalar(index, group * WARPS)? as i64;
        for warp in 1..WARPS {
            if self.warp_scalar(index, group * WARPS + warp)? as i64 != first {
                return Err(RunFault::NonUniformOperand { warp: (group * WARPS + warp) as u32 });
            }
        }
        let within = first.rem_euclid(PERIOD);
        let (n_rows, len) = if is_turned { (depth, n) } else { (n, depth) };
        let step = if is_turned { PITCH } else { STEP as i64 };
        if within % step != 0 || within + len as i64 > PITCH {
            let (Mem::Param(ParamId(i)) | Mem::Shared(SharedId(i)) | Mem::Local(LocalId(i))) = mem;
            let name = self.kernel.shared[i as usize].name.clone();
            return Err(RunFault::GroupIndex { name, index: first });
        }
        let mut values = vec![0; n * depth];
        for row in 0..n_rows {
            let (at, who) = (first + row as i64 * PITCH, self.who(MANY));
            let mut found = vec![0; len];
            self.memory.begin_reading(mem, at, who, &mut found)?;
            for (i, x) in found.into_iter().enumerate() {
                let (r, c) = if is_turned { (i, row) } else { (row, i) };
                values[r * depth + c] = eval::cast(elem, Elem::F32, x);
            }
            rows.push((mem, at, len));
        }
        Ok(values)
    }

    pub(super) fn group_wait(&mut self, group: usize, pending: usize) -> Result<(), RunFault> {
        let under_way = self.multiplying.iter().filter(|m| m.group == group).count();
        for _ in pending..under_way {
            let oldest = self.multiplying.iter().position(|m| m.group == group);
            let done = self.multiplying.remove(oldest.expect("there are more than are to be left"));
            for (mem, at, n) in done.rows {
                self.memory.end_reading(mem, at, n, self.who(MANY))?;
            }
        }
        Ok(())
    }
}
