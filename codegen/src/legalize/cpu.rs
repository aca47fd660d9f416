//! Legalization for CPUs.
//!
//! Afterwards a kernel holds:
//! - no [`Inst::Math`] and no [`BinaryOp::Pow`]: they are expanded, see [`super::math`] for the error bounds;
//! - no arithmetic, comparison, reduction or conversion on `f16` and `bf16`. Registers of these types are only
//!   set to constants, moved (copy, select, splat, lane moves, loads, stores), reinterpreted, and, if
//!   [`CpuOptions::f16_convert`] is set, cast between `f16` and `f32`;
//! - one thread per block, and nothing that needs more.

use thiserror::Error;

use super::{half, math};
use crate::kernel::*;

#[cfg(test)]
mod tests;

/// What the CPU level offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuOptions {
    /// The target converts between `f16` and `f32` (F16C, or any aarch64), subnormals included.
    pub f16_convert: bool,
}

/// A construct that a CPU cannot execute.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LegalizeError {
    #[error("kernel `{kernel}` has {threads} threads per block, a CPU kernel has 1")]
    Threads { kernel: String, threads: u32 },
    #[error("kernel `{kernel}` uses {construct}, which CPUs do not have")]
    Unsupported { kernel: String, construct: &'static str },
}

/// The kernel in the form that the module documentation describes. `kernel` must be verified.
///
/// # Errors
/// The first construct, in statement order, that CPUs do not have.
pub fn legalize(kernel: &Kernel, options: CpuOptions) -> Result<Kernel, LegalizeError> {
    if kernel.n_threads() != 1 {
        return Err(LegalizeError::Threads { kernel: kernel.name.clone(), threads: kernel.n_threads() });
    }
    let mut legalizer = Legalizer { kernel, options, b: KernelBuilder::rewrite(kernel), error: None };
    if !kernel.shared.is_empty() {
        legalizer.unsupported("shared memory");
    }
    legalizer.list(&kernel.body);
    match legalizer.error {
        None => Ok(legalizer.b.finish()),
        Some(error) => Err(error),
    }
}

struct Legalizer<'k> {
    kernel: &'k Kernel,
    options: CpuOptions,
    b: KernelBuilder,
    /// The first error.
    error: Option<LegalizeError>,
}

impl Legalizer<'_> {
    fn unsupported(&mut self, construct: &'static str) {
        let kernel = self.kernel.name.clone();
        self.error.get_or_insert(LegalizeError::Unsupported { kernel, construct });
    }

    fn list(&mut self, stmts: &[Stmt]) {
        for stmt in stmts {
            match stmt {
                Stmt::Inst(inst) => self.inst(inst),
                Stmt::For(l) => {
                    let body = self.nested(&l.body);
                    self.b.push_stmt(Stmt::For(For { body, ..*l }));
                }
                Stmt::If(i) => {
                    let (on_true, on_false) = (self.nested(&i.on_true), self.nested(&i.on_false));
                    self.b.push_stmt(Stmt::If(If { cond: i.cond, on_true, on_false }));
                }
            }
        }
    }

    fn nested(&mut self, stmts: &[Stmt]) -> Vec<Stmt> {
        self.b.open_list();
        self.list(stmts);
        self.b.close_list()
    }

    fn inst(&mut self, inst: &Inst) {
        match inst {
            Inst::Math { dst, op, src } => self.math(*dst, *op, *src),
            Inst::Binary { op: BinaryOp::Rem, lhs, .. } if self.b.ty(*lhs).elem().is_float() => {
                self.unsupported("the floating-point remainder");
            }
            Inst::Binary { dst, op: BinaryOp::Pow, lhs, rhs } => {
                let (x, y) = (self.widen(*lhs), self.widen(*rhs));
                let result = math::pow(&mut self.b, x, y);
                self.narrow_to(*dst, result);
            }
            Inst::Unary { dst, op, src } if self.is_half(*src) => {
                let src = self.widen(*src);
                let result = self.b.unary(*op, src);
                self.narrow_to(*dst, result);
            }
            Inst::Binary { dst, op, lhs, rhs } if self.is_half(*lhs) => {
                let (lhs, rhs) = (self.widen(*lhs), self.widen(*rhs));
                let result = self.b.binary(*op, lhs, rhs);
                self.narrow_to(*dst, result);
            }
            Inst::Fma { dst, a, b, c } if self.is_half(*a) => {
                let [a, b, c] = [*a, *b, *c].map(|r| self.widen(r));
                let result = self.b.fma(a, b, c);
                self.narrow_to(*dst, result);
            }
            Inst::Compare { dst, op, lhs, rhs } if self.is_half(*lhs) => {
                let (lhs, rhs) = (self.widen(*lhs), self.widen(*rhs));
                self.b.push(Inst::Compare { dst: *dst, op: *op, lhs, rhs });
            }
            Inst::Cast { dst, src } if self.is_half(*src) || self.is_half(*dst) => self.cast(*dst, *src),
            Inst::Reduce { dst, op, src } if self.is_half(*src) => self.reduce(*dst, *op, *src),
            Inst::ThreadIdx { .. } => self.unsupported("a thread index"),
            Inst::WarpShuffle { .. } => self.unsupported("a warp shuffle"),
            Inst::Barrier => self.unsupported("a barrier"),
            Inst::AsyncCopy { .. } | Inst::AsyncCommit | Inst::AsyncWait { .. } => {
                self.unsupported("asynchronous copies");
            }
            Inst::TileFill { .. } | Inst::TileLoad { .. } | Inst::TileStore { .. } | Inst::Mma { .. } => {
                self.unsupported("matrix tiles");
            }
            Inst::Copy { dst, .. } if self.b.ty(*dst).lanes().is_none() => self.unsupported("matrix tiles"),
            Inst::Const { .. }
            | Inst::Dim { .. }
            | Inst::BlockIdx { .. }
            | Inst::Copy { .. }
            | Inst::Unary { .. }
            | Inst::Binary { .. }
            | Inst::Fma { .. }
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
            | Inst::Load { .. }
            | Inst::Store { .. }
            | Inst::Gather { .. }
            | Inst::Scatter { .. } => self.b.push(inst.clone()),
        }
    }

    fn is_half(&self, reg: Reg) -> bool {
        self.b.ty(reg).elem().is_half()
    }

    /// A half-width float as `f32`; other registers as they are.
    fn widen(&mut self, reg: Reg) -> Reg {
        match self.b.ty(reg).elem() {
            Elem::F16 if self.options.f16_convert => self.b.cast(reg, Elem::F32),
            Elem::F16 => half::f16_to_f32(&mut self.b, reg),
            Elem::Bf16 => half::bf16_to_f32(&mut self.b, reg),
            _ => reg,
        }
    }

    /// dst = value, rounded from `f32` if `dst` is a half-width float.
    fn narrow_to(&mut self, dst: Reg, value: Reg) {
        match self.b.ty(dst).elem() {
            Elem::F16 if self.options.f16_convert => self.b.push(Inst::Cast { dst, src: value }),
            Elem::F16 => {
                let bits = half::f32_to_f16_bits(&mut self.b, value);
                self.b.push(Inst::Bitcast { dst, src: bits });
            }
            Elem::Bf16 => {
                let bits = half::f32_to_bf16_bits(&mut self.b, value);
                self.b.push(Inst::Bitcast { dst, src: bits });
            }
            _ => self.b.push(Inst::Copy { dst, src: value }),
        }
    }

    fn math(&mut self, dst: Reg, op: MathOp, src: Reg) {
        let x = self.widen(src);
        let result = math::expand(&mut self.b, op, x);
        self.narrow_to(dst, result);
    }

    /// Casts from and to half-width floats go through `f32`.
    fn cast(&mut self, dst: Reg, src: Reg) {
        if self.b.ty(dst) == self.b.ty(src) {
            self.b.push(Inst::Copy { dst, src });
            return;
        }
        let wide = self.widen(src);
        if self.is_half(dst) {
            let single = self.b.cast(wide, Elem::F32);
            self.narrow_to(dst, single);
        } else {
            self.b.push(Inst::Cast { dst, src: wide });
        }
    }

    /// Folds halves, rounding after each step as the instruction does.
    fn reduce(&mut self, dst: Reg, op: ReduceOp, src: Reg) {
        let op = match op {
            ReduceOp::Add => BinaryOp::Add,
            ReduceOp::Min => BinaryOp::Min,
            ReduceOp::Max => BinaryOp::Max,
        };
        let mut value = src;
        let mut lanes = self.b.lanes(src);
        while lanes > 1 {
            lanes /= 2;
            let lower: Vec<u16> = (0..lanes).collect();
            let upper: Vec<u16> = (lanes..2 * lanes).collect();
            let (lower, upper) = (self.b.shuffle(value, &lower), self.b.shuffle(value, &upper));
            let (lower, upper) = (self.widen(lower), self.widen(upper));
            let folded = self.b.binary(op, lower, upper);
            value = self.b.var(self.b.ty(dst).elem().x(lanes));
            self.narrow_to(value, folded);
        }
        self.b.push(Inst::Copy { dst, src: value });
    }
}
