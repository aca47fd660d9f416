//! Verifier: collects every fault of a kernel, each with the place of its statement.

mod inst;
#[cfg(test)]
mod tests;
mod uniform;

use std::{collections::BTreeSet, fmt};

use thiserror::Error;

use super::*;

/// Most threads a block may have.
pub const MAX_BLOCK_THREADS: u32 = 1024;

/// One fault and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{path}: {kind}")]
pub struct Fault {
    pub path: Path,
    pub kind: FaultKind,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FaultKind {
    #[error("`{0}` is not an identifier")]
    BadName(String),
    #[error("name `{0}` is used twice")]
    DuplicateName(String),
    #[error("block of {0:?} threads, expected 1 to {MAX_BLOCK_THREADS} in all")]
    BadBlock([u32; 3]),
    #[error("{0} is no valid register type")]
    BadRegTy(RegTy),
    #[error("register %{0} is not declared")]
    UnknownReg(u32),
    #[error("{0:?} is not declared")]
    UnknownMem(Mem),
    #[error("dim {0} is not declared")]
    UnknownDim(u32),
    #[error("{what} of {op} has type {found}, expected {expected}")]
    TypeMismatch { op: &'static str, what: &'static str, expected: RegTy, found: RegTy },
    #[error("{op} is not defined on {found}, expected {expected}")]
    BadOperandType { op: &'static str, expected: &'static str, found: RegTy },
    #[error("lane {lane} of {op}, expected less than {lanes}")]
    BadLane { op: &'static str, lane: u16, lanes: u32 },
    #[error("{op} has {found} lanes, expected {expected}")]
    LaneCount { op: &'static str, expected: String, found: usize },
    #[error("%{0} is read before it is assigned on some path")]
    Unassigned(u32),
    #[error("loop variable %{0} is assigned in the loop's body")]
    LoopVarAssigned(u32),
    #[error("loop step {0}, expected a positive number")]
    BadStep(i64),
    #[error("barrier under control flow that depends on the thread")]
    DivergentBarrier,
    #[error("{0} under control flow that differs within a warp")]
    DivergentWarpOp(&'static str),
    #[error("{what} of {op} differs within a warp")]
    DivergentOperand { op: &'static str, what: &'static str },
    #[error("{op} with {what} in {found:?}, expected {expected} memory")]
    AddressSpace { op: &'static str, what: &'static str, expected: &'static str, found: Mem },
    #[error("parameter `{name}` is {access:?}, but the kernel {does} it")]
    Access { name: String, access: Access, does: &'static str },
    #[error("elements {index}..{end} of `{name}`, which has {len}")]
    OutOfBounds { name: String, index: i64, end: i64, len: u32 },
    #[error("async copy of {0} bytes, expected 4, 8 or 16")]
    AsyncSize(usize),
    #[error("tile binary {0:?}, expected add, sub or mul")]
    TileOp(BinaryOp),
    #[error("mma of {a}, {b} and {acc} does not fit together")]
    MmaShape { a: RegTy, b: RegTy, acc: RegTy },
    #[error(
        "group mma of {a} and {b} into {acc}, expected one type of 16 bits into 16 rows of f32, 8 to 256 columns, 64 of a turned factor"
    )]
    GroupMmaShape { a: Elem, b: Elem, acc: RegTy },
    #[error("group mma of {steps} steps by {threads} threads, expected 1 to 4 by whole groups of 128")]
    GroupMmaSteps { steps: u16, threads: u32 },
    #[error("`{0}` is swizzled but no shared array of whole KiB with memory of its own")]
    BadSwizzle(String),
    #[error("`{0}` lies over what is no earlier shared array, lies over another one, or is shorter")]
    BadOverlay(String),
    #[error("group mma reads `{0}`, which is not swizzled")]
    NotSwizzled(String),
}

/// Place of a statement: `body[3].for[0].else[2]`; empty for the kernel's declarations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Path(pub Vec<Step>);

/// One step of a [`Path`]: a statement list and the position in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    pub list: List,
    pub idx: usize,
}

/// Which list of statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum List {
    Body,
    For,
    Then,
    Else,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("kernel");
        }
        for (i, step) in self.0.iter().enumerate() {
            let list = match step.list {
                List::Body => "body",
                List::For => "for",
                List::Then => "then",
                List::Else => "else",
            };
            write!(f, "{}{list}[{}]", if i > 0 { "." } else { "" }, step.idx)?;
        }
        Ok(())
    }
}

/// Checks a kernel.
///
/// # Errors
/// All faults, in the order of the statements; those of uniformity last. Uniformity is examined only if
/// nothing else is wrong.
pub fn verify(kernel: &Kernel) -> Result<(), Vec<Fault>> {
    let mut v = Verifier::new(kernel);
    v.declarations();
    v.list(List::Body, &kernel.body);
    if v.faults.is_empty() {
        v.faults = uniform::check(kernel);
    }
    if v.faults.is_empty() { Ok(()) } else { Err(v.faults) }
}

/// Values of registers assigned exactly once, by an integer scalar constant.
fn scalar_consts(kernel: &Kernel) -> Vec<Option<i64>> {
    let mut n_assigned = vec![0u32; kernel.regs.len()];
    let mut values = vec![None; kernel.regs.len()];
    walk(&kernel.body, &mut |stmt| match stmt {
        Stmt::Inst(inst) => {
            let Some(dst) = inst.dst().map(|r| r.0 as usize).filter(|&r| r < values.len()) else { return };
            n_assigned[dst] += 1;
            if let Inst::Const { value, .. } = inst
                && kernel.regs[dst].ty.lanes() == Some(1)
            {
                values[dst] = value.as_int();
            }
        }
        Stmt::For(l) => {
            if let Some(n) = n_assigned.get_mut(l.var.0 as usize) {
                *n += 1;
            }
        }
        Stmt::If(_) => {}
    });
    values.iter().zip(n_assigned).map(|(v, n)| v.filter(|_| n == 1)).collect()
}

/// Visits every statement, outer ones first.
pub fn walk(stmts: &[Stmt], f: &mut impl FnMut(&Stmt)) {
    for stmt in stmts {
        f(stmt);
        match stmt {
            Stmt::Inst(_) => {}
            Stmt::For(l) => walk(&l.body, f),
            Stmt::If(i) => {
                walk(&i.on_true, f);
                walk(&i.on_false, f);
            }
        }
    }
}

struct Verifier<'k> {
    kernel: &'k Kernel,
    consts: Vec<Option<i64>>,
    /// Registers assigned on every path to the present statement.
    assigned: Vec<bool>,
    loop_vars: Vec<Reg>,
    path: Vec<Step>,
    faults: Vec<Fault>,
}

impl<'k> Verifier<'k> {
    fn new(kernel: &'k Kernel) -> Verifier<'k> {
        Verifier {
            kernel,
            consts: scalar_consts(kernel),
            assigned: vec![false; kernel.regs.len()],
            loop_vars: Vec::new(),
            path: Vec::new(),
            faults: Vec::new(),
        }
    }

    fn fault(&mut self, kind: FaultKind) {
        self.faults.push(Fault { path: Path(self.path.clone()), kind });
    }

    fn declarations(&mut self) {
        let k = self.kernel;
        let threads = k.block.iter().try_fold(1u32, |n, &b| n.checked_mul(b));
        if !threads.is_some_and(|n| (1..=MAX_BLOCK_THREADS).contains(&n)) {
            self.fault(FaultKind::BadBlock(k.block));
        }
        let arrays = k.shared.iter().chain(&k.locals).map(|a| &a.name);
        self.names([&k.name]);
        self.names(k.params.iter().map(|p| &p.name).chain(arrays));
        self.names(&k.dims);
        self.arrays();
        for info in &k.regs {
            if let Some(name) = &info.name
                && !is_identifier(name)
            {
                self.fault(FaultKind::BadName(name.clone()));
            }
            let ok = match info.ty {
                RegTy::Vec { lanes, .. } => lanes > 0,
                RegTy::Tile(t) => {
                    let is_number = t.elem.is_float() || (k.n_threads() == 1 && t.elem != Elem::Bool);
                    t.rows > 0 && t.cols > 0 && is_number
                }
            };
            if !ok {
                self.fault(FaultKind::BadRegTy(info.ty));
            }
        }
    }

    fn arrays(&mut self) {
        let k = self.kernel;
        for (i, a) in k.shared.iter().enumerate() {
            if a.swizzled && (a.bytes() % 1024 != 0 || a.over.is_some()) {
                self.fault(FaultKind::BadSwizzle(a.name.clone()));
            }
            let Some(under) = a.over else { continue };
            let under = k.shared[..i].get(under.0 as usize);
            if !under.is_some_and(|under| under.over.is_none() && under.bytes() >= a.bytes()) {
                self.fault(FaultKind::BadOverlay(a.name.clone()));
            }
        }
        for a in &k.locals {
            if a.swizzled {
                self.fault(FaultKind::BadSwizzle(a.name.clone()));
            }
            if a.over.is_some() {
                self.fault(FaultKind::BadOverlay(a.name.clone()));
            }
        }
    }

    fn names<'a>(&mut self, names: impl IntoIterator<Item = &'a String>) {
        let mut seen = BTreeSet::new();
        for name in names {
            if !is_identifier(name) {
                self.fault(FaultKind::BadName(name.clone()));
            }
            if !seen.insert(name) {
                self.fault(FaultKind::DuplicateName(name.clone()));
            }
        }
    }

    fn list(&mut self, list: List, stmts: &[Stmt]) {
        for (idx, stmt) in stmts.iter().enumerate() {
            self.path.push(Step { list, idx });
            match stmt {
                Stmt::Inst(inst) => self.inst(inst),
                Stmt::For(l) => self.for_(l),
                Stmt::If(i) => self.if_(i),
            }
            self.path.pop();
        }
    }

    fn for_(&mut self, l: &For) {
        let i64_ty = RegTy::scalar(Elem::I64);
        self.use_as("for", "lower bound", l.lo, i64_ty);
        self.use_as("for", "upper bound", l.hi, i64_ty);
        if l.step <= 0 {
            self.fault(FaultKind::BadStep(l.step));
        }
        let runs = match (self.const_of(l.lo), self.const_of(l.hi)) {
            (Some(lo), Some(hi)) => lo < hi,
            _ => false,
        };
        let before = self.assigned.clone();
        self.define_as("for", l.var, i64_ty);
        self.loop_vars.push(l.var);
        self.list(List::For, &l.body);
        self.loop_vars.pop();
        if !runs {
            self.assigned = before;
        }
        if let Some(var) = self.assigned.get_mut(l.var.0 as usize) {
            *var = false;
        }
    }

    fn if_(&mut self, i: &If) {
        self.use_as("if", "condition", i.cond, RegTy::scalar(Elem::Bool));
        let before = self.assigned.clone();
        self.list(List::Then, &i.on_true);
        let after_true = std::mem::replace(&mut self.assigned, before);
        self.list(List::Else, &i.on_false);
        for (a, b) in self.assigned.iter_mut().zip(after_true) {
            *a &= b;
        }
    }

    fn const_of(&self, reg: Reg) -> Option<i64> {
        self.consts.get(reg.0 as usize).copied().flatten()
    }

    /// Type of a register being read; records reads of unknown and unassigned registers.
    fn use_(&mut self, reg: Reg) -> Option<RegTy> {
        let Some(info) = self.kernel.regs.get(reg.0 as usize) else {
            self.fault(FaultKind::UnknownReg(reg.0));
            return None;
        };
        if !self.assigned[reg.0 as usize] {
            self.fault(FaultKind::Unassigned(reg.0));
        }
        Some(info.ty)
    }

    fn use_as(&mut self, op: &'static str, what: &'static str, reg: Reg, expected: RegTy) {
        if let Some(found) = self.use_(reg)
            && found != expected
        {
            self.fault(FaultKind::TypeMismatch { op, what, expected, found });
        }
    }

    /// Type of a register being written; marks it assigned.
    fn define(&mut self, reg: Reg) -> Option<RegTy> {
        let Some(info) = self.kernel.regs.get(reg.0 as usize) else {
            self.fault(FaultKind::UnknownReg(reg.0));
            return None;
        };
        if self.loop_vars.contains(&reg) {
            self.fault(FaultKind::LoopVarAssigned(reg.0));
        }
        self.assigned[reg.0 as usize] = true;
        Some(info.ty)
    }

    fn define_as(&mut self, op: &'static str, reg: Reg, expected: RegTy) {
        if let Some(found) = self.define(reg)
            && found != expected
        {
            self.fault(FaultKind::TypeMismatch { op, what: "result", expected, found });
        }
    }
}

fn is_identifier(s: &str) -> bool {
    let mut chars = s.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}
