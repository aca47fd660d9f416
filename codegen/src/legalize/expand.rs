//! What both kinds of targets need: math functions and half-width floats as arithmetic they have.

use super::walk::Walk;
use super::{LegalizeError, fma, half, math};
use crate::kernel::*;

/// What a target executes as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Features {
    /// Named in errors, in the plural.
    pub(super) target: &'static str,
    /// Conversions between `f16` and `f32`.
    pub(super) f16_convert: bool,
    /// Conversions between `bf16` and `f32`.
    pub(super) bf16_convert: bool,
    /// 2^x and 1/x of `f32`, to the bounds that the target states.
    pub(super) special_functions: bool,
    /// Fused multiply-adds of `f32`.
    pub(super) fma: bool,
    /// Dot products of unsigned by signed bytes.
    pub(super) dot_u8: bool,
    /// Dot products of signed bytes.
    pub(super) dot_i8: bool,
    /// Dot products of `bf16`.
    pub(super) dot_bf16: bool,
    /// Matrix tiles.
    pub(super) tiles: bool,
    /// Threads, and what they share and exchange.
    pub(super) thread_blocks: bool,
}

/// The kernel with everything replaced that a target with these features lacks.
pub(super) fn expand(kernel: &Kernel, features: Features) -> Result<Kernel, LegalizeError> {
    let mut legalizer = Legalizer { kernel, features, b: KernelBuilder::rewrite(kernel), error: None };
    if !kernel.shared.is_empty() && !features.thread_blocks {
        legalizer.unsupported("shared memory");
    }
    legalizer.list(&kernel.body);
    let expanded = match legalizer.error {
        None => legalizer.b.finish(),
        Some(error) => return Err(error),
    };
    // Expansions use multiply-adds themselves.
    Ok(if features.fma { expanded } else { fma::expand(&expanded) })
}

struct Legalizer<'k> {
    kernel: &'k Kernel,
    features: Features,
    b: KernelBuilder,
    /// The first error.
    error: Option<LegalizeError>,
}

impl Walk for Legalizer<'_> {
    fn builder(&mut self) -> &mut KernelBuilder {
        &mut self.b
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
            Inst::Binary { dst, op: BinaryOp::Exp2Mul, lhs, rhs } => {
                let (x, y) = (self.widen(*lhs), self.widen(*rhs));
                let result = self.exp2_mul(x, y);
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
            Inst::Dot { dst, a, b, acc } => self.dot(*dst, [*a, *b], *acc),
            Inst::Cast { dst, src } if self.is_half(*src) || self.is_half(*dst) => self.cast(*dst, *src),
            Inst::Reduce { dst, op, src } if self.is_half(*src) => self.reduce(*dst, *op, *src),
            Inst::TileLoad { layout: TileLayout::Interleaved, .. }
            | Inst::TileStore { layout: TileLayout::Interleaved, .. }
                if self.features.thread_blocks =>
            {
                self.unsupported("tiles with interleaved rows");
            }
            _ if self.features.thread_blocks && is_of_blocks(inst, &self.b) => self.b.push(inst.clone()),
            Inst::Bitcast { dst, src }
                if self.features.thread_blocks && self.b.lanes(*dst) != self.b.lanes(*src) =>
            {
                self.unsupported("bits as lanes of another width");
            }
            Inst::ThreadIdx { .. } => self.unsupported("a thread index"),
            Inst::WarpShuffle { .. } => self.unsupported("a warp shuffle"),
            Inst::Barrier => self.unsupported("a barrier"),
            Inst::AsyncCopy { .. } | Inst::AsyncCommit | Inst::AsyncWait { .. } => {
                self.unsupported("asynchronous copies");
            }
            Inst::TileBinary { .. }
            | Inst::TileExp2 { .. }
            | Inst::TileCast { .. }
            | Inst::GroupMma { .. }
            | Inst::GroupWait { .. } => self.unsupported("matrix tiles"),
            Inst::TileFill { .. } | Inst::TileLoad { .. } | Inst::TileStore { .. } | Inst::Mma { .. }
                if !self.features.tiles =>
            {
                self.unsupported("matrix tiles");
            }
            Inst::TileFill { .. } | Inst::TileLoad { .. } | Inst::TileStore { .. } | Inst::Mma { .. } => {
                self.b.push(inst.clone());
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
}

impl Legalizer<'_> {
    fn unsupported(&mut self, construct: &'static str) {
        let kernel = self.kernel.name.clone();
        let target = self.features.target;
        self.error.get_or_insert(LegalizeError::Unsupported { kernel, construct, target });
    }

    fn is_half(&self, reg: Reg) -> bool {
        self.b.ty(reg).elem().is_half()
    }

    /// A half-width float as `f32`; other registers as they are.
    fn widen(&mut self, reg: Reg) -> Reg {
        match self.b.ty(reg).elem() {
            Elem::F16 if self.features.f16_convert => self.b.cast(reg, Elem::F32),
            Elem::F16 => half::f16_to_f32(&mut self.b, reg),
            Elem::Bf16 if self.features.bf16_convert => self.b.cast(reg, Elem::F32),
            Elem::Bf16 => half::bf16_to_f32(&mut self.b, reg),
            _ => reg,
        }
    }

    /// dst = value, rounded from `f32` if `dst` is a half-width float.
    fn narrow_to(&mut self, dst: Reg, value: Reg) {
        match self.b.ty(dst).elem() {
            Elem::F16 if self.features.f16_convert => self.b.push(Inst::Cast { dst, src: value }),
            Elem::Bf16 if self.features.bf16_convert => self.b.push(Inst::Cast { dst, src: value }),
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
        let has_native = self.features.special_functions && self.b.ty(x).elem() == Elem::F32;
        let result = match op {
            MathOp::Exp2 | MathOp::Recip if has_native => self.b.math(op, x),
            _ if has_native => {
                math::fast::expand(&mut self.b, op, x).unwrap_or_else(|| math::expand(&mut self.b, op, x))
            }
            _ => math::expand(&mut self.b, op, x),
        };
        self.narrow_to(dst, result);
    }

    /// On machines with 2^x the product is rounded.
    fn exp2_mul(&mut self, x: Reg, y: Reg) -> Reg {
        if self.features.special_functions && self.b.ty(x).elem() == Elem::F32 {
            let product = self.b.mul(x, y);
            return self.b.exp2(product);
        }
        math::exp2_mul(&mut self.b, x, y)
    }

    /// Dot products of unsigned by signed bytes are those of signed bytes, 128 less, and what that lacks; those of signed
    /// bytes are those of their 16-bit values, even and odd ones apart.
    fn dot(&mut self, dst: Reg, [a, b]: [Reg; 2], acc: Reg) {
        match self.b.ty(a).elem() {
            _ if self.features.thread_blocks => self.unsupported("a dot product of neighbors"),
            Elem::Bf16 if !self.features.dot_bf16 => self.unsupported("a dot product of bf16"),
            Elem::U8 if self.features.dot_u8 => self.b.push(Inst::Dot { dst, a, b, acc }),
            Elem::U8 if self.features.dot_i8 => {
                let (lanes, sums) = (self.b.lanes(a), self.b.ty(acc));
                let less = self.b.xor(a, 0x80);
                let less = self.b.bitcast(less, Elem::I8);
                let sum = self.b.dot(less, b, acc);
                let least = self.b.constant(Const::int(Elem::I8, -128), lanes);
                let zero = self.b.zero(sums);
                let missing = self.b.dot(least, b, zero);
                self.b.push(Inst::Binary { dst, op: BinaryOp::Sub, lhs: sum, rhs: missing });
            }
            Elem::I8 if self.features.dot_i8 => self.b.push(Inst::Dot { dst, a, b, acc }),
            Elem::U8 | Elem::I8 => {
                let is_signed = self.b.ty(a).elem() == Elem::I8;
                let [a, b] = [(a, is_signed), (b, true)].map(|(x, signed)| self.halves_of_words(x, signed));
                let acc = self.b.dot(a[0], b[0], acc);
                self.b.push(Inst::Dot { dst, a: a[1], b: b[1], acc });
            }
            _ => self.b.push(Inst::Dot { dst, a, b, acc }),
        }
    }

    /// The even and the odd bytes of a register as 16-bit values.
    fn halves_of_words(&mut self, bytes: Reg, is_signed: bool) -> [Reg; 2] {
        if is_signed {
            let words = self.b.recast(bytes, Elem::I16);
            let even = self.b.shl(words, 8);
            return [self.b.shr(even, 8), self.b.shr(words, 8)];
        }
        let words = self.b.recast(bytes, Elem::U16);
        let (even, odd) = (self.b.and(words, 0xff), self.b.shr(words, 8));
        [even, odd].map(|x| self.b.bitcast(x, Elem::I16))
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

/// Whether only thread blocks have this instruction.
fn is_of_blocks(inst: &Inst, b: &KernelBuilder) -> bool {
    match inst {
        Inst::ThreadIdx { .. }
        | Inst::WarpShuffle { .. }
        | Inst::Barrier
        | Inst::AsyncCopy { .. }
        | Inst::AsyncCommit
        | Inst::AsyncWait { .. }
        | Inst::TileFill { .. }
        | Inst::TileLoad { .. }
        | Inst::TileStore { .. }
        | Inst::Mma { .. }
        | Inst::TileBinary { .. }
        | Inst::TileExp2 { .. }
        | Inst::TileCast { .. }
        | Inst::GroupMma { .. }
        | Inst::GroupWait { .. } => true,
        Inst::Copy { dst, .. } => b.ty(*dst).lanes().is_none(),
        _ => false,
    }
}
