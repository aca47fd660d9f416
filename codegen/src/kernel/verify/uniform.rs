//! Which values and which control flow depend on the thread.
//!
//! Every register gets the coarsest level at which it is the same everywhere: in the block, in each warp, or in
//! each thread only. Memory read at a uniform index counts as uniform, since a difference would be a race.

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Block,
    Warp,
    Thread,
}

pub(super) fn check(kernel: &Kernel) -> Vec<Fault> {
    if kernel.n_threads() == 1 {
        return Vec::new();
    }
    let mut a = Analysis {
        kernel,
        consts: scalar_consts(kernel),
        levels: vec![Level::Block; kernel.regs.len()],
        thread_x: single_thread_x(kernel),
        changed: true,
        path: Vec::new(),
        faults: None,
    };
    while a.changed {
        a.changed = false;
        a.list(List::Body, &kernel.body, Level::Block);
    }
    a.faults = Some(Vec::new());
    a.list(List::Body, &kernel.body, Level::Block);
    a.faults.unwrap_or_default()
}

/// Registers whose only assignment is `thread_idx x`.
fn single_thread_x(kernel: &Kernel) -> Vec<bool> {
    let mut n_assigned = vec![0u32; kernel.regs.len()];
    let mut is_x = vec![false; kernel.regs.len()];
    walk(&kernel.body, &mut |stmt| {
        if let Stmt::Inst(inst) = stmt
            && let Some(dst) = inst.dst()
        {
            n_assigned[dst.0 as usize] += 1;
            is_x[dst.0 as usize] = matches!(inst, Inst::ThreadIdx { axis: Axis::X, .. });
        }
    });
    is_x.iter().zip(n_assigned).map(|(&x, n)| x && n == 1).collect()
}

struct Analysis<'k> {
    kernel: &'k Kernel,
    consts: Vec<Option<i64>>,
    levels: Vec<Level>,
    thread_x: Vec<bool>,
    changed: bool,
    path: Vec<Step>,
    /// Faults are collected once the levels have settled.
    faults: Option<Vec<Fault>>,
}

impl Analysis<'_> {
    fn level(&self, reg: Reg) -> Level {
        self.levels[reg.0 as usize]
    }

    fn raise(&mut self, reg: Reg, level: Level) {
        let old = &mut self.levels[reg.0 as usize];
        if level > *old {
            *old = level;
            self.changed = true;
        }
    }

    fn fault(&mut self, kind: FaultKind) {
        if let Some(faults) = &mut self.faults {
            faults.push(Fault { path: Path(self.path.clone()), kind });
        }
    }

    fn list(&mut self, list: List, stmts: &[Stmt], control: Level) {
        for (idx, stmt) in stmts.iter().enumerate() {
            self.path.push(Step { list, idx });
            match stmt {
                Stmt::Inst(inst) => self.inst(inst, control),
                Stmt::For(l) => {
                    let inner = control.max(self.level(l.lo)).max(self.level(l.hi));
                    self.raise(l.var, inner);
                    self.list(List::For, &l.body, inner);
                }
                Stmt::If(i) => {
                    let inner = control.max(self.level(i.cond));
                    self.list(List::Then, &i.on_true, inner);
                    self.list(List::Else, &i.on_false, inner);
                }
            }
            self.path.pop();
        }
    }

    fn inst(&mut self, inst: &Inst, control: Level) {
        self.check_control(inst, control);
        let Some(dst) = inst.dst() else { return };
        let mut operands = Level::Block;
        inst.for_each_use(|r| operands = operands.max(self.levels[r.0 as usize]));
        let own = match inst {
            Inst::ThreadIdx { axis: Axis::Y | Axis::Z, .. } if self.rows_are_warps() => Level::Warp,
            Inst::ThreadIdx { .. } => Level::Thread,
            Inst::Binary { op, lhs, rhs, .. } if self.is_warp_idx(*op, *lhs, *rhs) => Level::Warp,
            Inst::Load { mem, .. } | Inst::Gather { mem, .. } => match mem {
                Mem::Local(_) => Level::Thread,
                Mem::Param(_) | Mem::Shared(_) => operands,
            },
            Inst::WarpShuffle { op: WarpShuffleOp::Idx, amount, .. } => self.level(*amount).max(Level::Warp),
            Inst::WarpShuffle { .. } => Level::Thread,
            Inst::TileFill { .. } | Inst::TileLoad { .. } | Inst::Mma { .. } => operands.max(Level::Warp),
            Inst::Const { .. }
            | Inst::Dim { .. }
            | Inst::BlockIdx { .. }
            | Inst::Copy { .. }
            | Inst::Unary { .. }
            | Inst::Math { .. }
            | Inst::Binary { .. }
            | Inst::Fma { .. }
            | Inst::Dot { .. }
            | Inst::Compare { .. }
            | Inst::Select { .. }
            | Inst::Cast { .. }
            | Inst::Bitcast { .. }
            | Inst::Splat { .. }
            | Inst::Iota { .. }
            | Inst::Extract { .. }
            | Inst::Insert { .. }
            | Inst::Reduce { .. }
            | Inst::Shuffle { .. }
            | Inst::Store { .. }
            | Inst::Scatter { .. }
            | Inst::Barrier
            | Inst::AsyncCopy { .. }
            | Inst::AsyncCommit
            | Inst::AsyncWait { .. }
            | Inst::TileStore { .. } => operands,
        };
        self.raise(dst, own.max(control));
    }

    /// True if all threads of a warp share y and z.
    fn rows_are_warps(&self) -> bool {
        self.kernel.block[0].is_multiple_of(WARP_SIZE)
    }

    /// thread_x / (multiple of 32) or thread_x >> (5 or more) is the same in all threads of a warp.
    fn is_warp_idx(&self, op: BinaryOp, lhs: Reg, rhs: Reg) -> bool {
        let one_row = self.kernel.block[1] == 1 && self.kernel.block[2] == 1;
        let Some(rhs) = self.consts[rhs.0 as usize].filter(|_| self.thread_x[lhs.0 as usize]) else {
            return false;
        };
        (one_row || self.rows_are_warps())
            && match op {
                BinaryOp::Div => rhs > 0 && rhs % i64::from(WARP_SIZE) == 0,
                BinaryOp::Shr => (5..64).contains(&rhs),
                _ => false,
            }
    }

    fn check_control(&mut self, inst: &Inst, control: Level) {
        match inst {
            Inst::Barrier if control > Level::Block => self.fault(FaultKind::DivergentBarrier),
            Inst::WarpShuffle { op, amount, .. } => {
                self.warp_op("warp shuffle", control);
                if *op != WarpShuffleOp::Idx {
                    self.warp_operand("warp shuffle", "amount", *amount);
                }
            }
            Inst::TileLoad { index, stride, .. } => {
                self.warp_op("tile load", control);
                self.warp_operand("tile load", "index", *index);
                self.warp_operand("tile load", "stride", *stride);
            }
            Inst::TileStore { index, stride, .. } => {
                self.warp_op("tile store", control);
                self.warp_operand("tile store", "index", *index);
                self.warp_operand("tile store", "stride", *stride);
            }
            Inst::Mma { .. } => self.warp_op("mma", control),
            Inst::TileFill { .. } => self.warp_op("tile fill", control),
            Inst::Copy { dst, .. } if self.kernel.ty(*dst).lanes().is_none() => {
                self.warp_op("tile copy", control);
            }
            _ => {}
        }
    }

    fn warp_op(&mut self, op: &'static str, control: Level) {
        if control > Level::Warp {
            self.fault(FaultKind::DivergentWarpOp(op));
        }
    }

    fn warp_operand(&mut self, op: &'static str, what: &'static str, reg: Reg) {
        if self.level(reg) > Level::Warp {
            self.fault(FaultKind::DivergentOperand { op, what });
        }
    }
}
