//! Which values and which control flow depend on the thread.
//!
//! Every register gets the coarsest level at which it is the same everywhere: in the block, in each group of four
//! warps, in each warp, or in each thread only. Memory read at a uniform index counts as uniform, since a difference would be a race.

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Block,
    Group,
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
            Inst::Binary { op, lhs, rhs, .. }
                if let Some(threads) = self.quotient_of_thread(*op, *lhs, *rhs)
                    && threads % i64::from(WARP_SIZE) == 0 =>
            {
                if threads % i64::from(4 * WARP_SIZE) == 0 {
                    Level::Group
                } else {
                    Level::Warp
                }
            }
            Inst::Load { mem, .. } | Inst::Gather { mem, .. } => match mem {
                Mem::Local(_) => Level::Thread,
                Mem::Param(_) | Mem::Shared(_) => operands,
            },
            Inst::WarpShuffle { op: WarpShuffleOp::Idx, amount, .. } => self.level(*amount).max(Level::Warp),
            Inst::WarpShuffle { .. } => Level::Thread,
            Inst::TileFill { .. }
            | Inst::TileLoad { .. }
            | Inst::TileBinary { .. }
            | Inst::TileExp2 { .. }
            | Inst::TileCast { .. }
            | Inst::Mma { .. }
            | Inst::GroupMma { .. } => operands.max(Level::Warp),
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
            | Inst::GroupWait { .. }
            | Inst::TileStore { .. } => operands,
        };
        self.raise(dst, own.max(control));
    }

    /// True if all threads of a warp share y and z.
    fn rows_are_warps(&self) -> bool {
        self.kernel.block[0].is_multiple_of(WARP_SIZE)
    }

    /// The number of neighboring threads that share thread_x / n or thread_x >> log n, if rows of the block are whole.
    fn quotient_of_thread(&self, op: BinaryOp, lhs: Reg, rhs: Reg) -> Option<i64> {
        let one_row = self.kernel.block[1] == 1 && self.kernel.block[2] == 1;
        let rhs = self.consts[rhs.0 as usize].filter(|_| self.thread_x[lhs.0 as usize])?;
        if !one_row && !self.rows_are_warps() {
            return None;
        }
        let threads = match op {
            BinaryOp::Div if rhs > 0 => rhs,
            BinaryOp::Shr if (0..63).contains(&rhs) => 1 << rhs,
            _ => return None,
        };
        // Groups of warps are counted over rows.
        Some(if one_row { threads } else { threads.min(i64::from(WARP_SIZE)) })
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
            Inst::GroupMma { a, b, .. } => {
                self.group_op("group mma", control);
                if let GroupLeft::Shared(a) = a {
                    self.group_operand("group mma", "index of a", a.index);
                }
                self.group_operand("group mma", "index of b", b.index);
            }
            Inst::GroupWait { .. } => self.group_op("group wait", control),
            Inst::TileFill { .. } => self.warp_op("tile fill", control),
            Inst::TileBinary { .. } => self.warp_op("tile binary", control),
            Inst::TileExp2 { .. } => self.warp_op("tile exp2", control),
            Inst::TileCast { .. } => self.warp_op("tile cast", control),
            Inst::Copy { dst, .. } if self.kernel.ty(*dst).lanes().is_none() => {
                self.warp_op("tile copy", control);
            }
            _ => {}
        }
    }

    fn warp_op(&mut self, op: &'static str, control: Level) {
        if control > Level::Warp && self.kernel.n_threads() != 1 {
            self.fault(FaultKind::DivergentWarpOp(op));
        }
    }

    fn group_op(&mut self, op: &'static str, control: Level) {
        if control > Level::Group {
            self.fault(FaultKind::DivergentWarpOp(op));
        }
    }

    fn group_operand(&mut self, op: &'static str, what: &'static str, reg: Reg) {
        if self.level(reg) > Level::Group {
            self.fault(FaultKind::DivergentOperand { op, what });
        }
    }

    fn warp_operand(&mut self, op: &'static str, what: &'static str, reg: Reg) {
        if self.level(reg) > Level::Warp && self.kernel.n_threads() != 1 {
            self.fault(FaultKind::DivergentOperand { op, what });
        }
    }
}
