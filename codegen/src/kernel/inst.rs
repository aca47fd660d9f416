//! Instructions and their meaning.
//!
//! Unless an instruction says otherwise its operands and its result have the same type, tiles are not
//! allowed, and it works lane by lane.

use super::{DimId, Mem, Reg, types::Const};

/// Axis of the thread block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Axis {
    X,
    Y,
    Z,
}

impl Axis {
    /// Position in [`Kernel::block`](super::Kernel::block).
    pub const fn index(self) -> usize {
        match self {
            Axis::X => 0,
            Axis::Y => 1,
            Axis::Z => 2,
        }
    }
}

/// Operations of one operand with an exact or correctly rounded result.
///
/// On `f16` and `bf16` the operand is widened to `f32` and the result rounded back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnaryOp {
    /// Integers: `0 - x`, wrapping. Floats: flips the sign bit, also of NaN.
    Neg,
    /// Signed integers: wrapping, `abs(MIN) = MIN`. Floats: clears the sign bit, also of NaN.
    Abs,
    /// Floats: correctly rounded; NaN below zero, `sqrt(-0) = -0`.
    Sqrt,
    /// Floats: towards minus infinity.
    Floor,
    /// Floats: towards plus infinity.
    Ceil,
    /// Floats: towards zero.
    Trunc,
    /// Floats: to the nearest integer, ties to even.
    Round,
    /// Integers and `bool`: flips every bit.
    Not,
}

/// Functions of one float operand that need an approximation.
///
/// Here they mean the exact value rounded to the type (the interpreter evaluates them in `f64`);
/// legalization replaces them by arithmetic with a stated error bound. NaN in, NaN out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MathOp {
    /// e^x
    Exp,
    /// 2^x
    Exp2,
    /// Natural logarithm; `log(0) = -inf`, NaN below zero.
    Log,
    /// log(1 + x)
    Log1p,
    /// e^x - 1
    Expm1,
    /// 1 / (1 + e^-x)
    Sigmoid,
    /// log(1 + e^x), evaluated as max(x, 0) + log1p(exp(-|x|))
    Softplus,
    /// x / (1 + e^-x); NaN at minus infinity, as `x * sigmoid(x)` is.
    Silu,
    Tanh,
    Erf,
    Sin,
    Cos,
    /// 1 / sqrt(x)
    Rsqrt,
    /// 1 / x
    Recip,
}

/// Operations of two operands.
///
/// Floats follow IEEE 754 with rounding to nearest even; nothing is contracted or reassociated. On `f16`
/// and `bf16` the operands are widened to `f32` and the result rounded back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BinaryOp {
    /// Integers wrap.
    Add,
    /// Integers wrap.
    Sub,
    /// Integers wrap.
    Mul,
    /// Integers: truncates towards zero; a zero divisor and `MIN / -1` are faults (undefined on machines).
    Div,
    /// Integers: sign of the dividend, faults as for `Div`. Floats: C `fmod`; not available on CPU targets.
    Rem,
    /// Exactly `if lhs < rhs { lhs } else { rhs }`, for floats too: the second operand wins if either is NaN
    /// or both are zeros. Put the operand whose NaN must survive second: `min(limit, x)`.
    Min,
    /// Exactly `if lhs > rhs { lhs } else { rhs }`; see [`BinaryOp::Min`] on NaN and zeros.
    Max,
    /// Integers and `bool`.
    And,
    /// Integers and `bool`.
    Or,
    /// Integers and `bool`.
    Xor,
    /// Integers; an amount outside `0..bits` is a fault (undefined on machines).
    Shl,
    /// Integers: arithmetic on signed types, logical on unsigned ones; amounts as for `Shl`.
    Shr,
    /// Floats: lhs^rhs as C `pow`; an approximated function like those of [`MathOp`].
    Pow,
    /// Floats: 2^(lhs * rhs) where the product rounded to the type is at most 125 in magnitude, the product itself not
    /// rounded; any number elsewhere. An approximated function like those of [`MathOp`].
    Exp2Mul,
}

/// Comparisons. On floats all but `Ne` are false if an operand is NaN; `Ne` is then true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CompareOp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// Reductions of all lanes to one. The lane count is a power of two; while more than one lane is left, lane
/// `i` of the lower half is combined with lane `i` of the upper half (`op(lower, upper)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReduceOp {
    Add,
    Min,
    Max,
}

/// Which lane of the warp a warp shuffle reads. `amount` is the `i32` operand, the same in all threads of
/// the warp except for `Idx`; threads whose source lies outside the warp keep their own value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WarpShuffleOp {
    /// lane - amount
    Up,
    /// lane + amount
    Down,
    /// lane ^ amount
    Xor,
    /// amount
    Idx,
}

/// How a matrix tile lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TileLayout {
    /// Element (r, c) at `index + r * stride + c`.
    RowMajor,
    /// Element (r, c) at `index + c * stride + r`.
    ColMajor,
    /// As many rows as make up four bytes beside each other, `n` of them: element (r, c) at
    /// `index + r / n * stride + c * n + r % n`. What matrix tiles of CPUs want of a right factor.
    Interleaved,
}

/// A factor of a warp group's product, in a swizzled shared array in rows of 64 elements: element (r, c) at
/// `index + 64*r + c`, where the sum is over c, or at `index + 64*c + r` if it is turned; then there are at most 64 r. The
/// index is the same in the whole group. It is a multiple of 512, but for a multiple of 16 below 64 if it is not turned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct GroupFactor {
    pub mem: Mem,
    pub index: Reg,
    pub is_turned: bool,
}

/// The left factor of a warp group's product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupLeft {
    /// In shared memory.
    Shared(GroupFactor),
    /// In registers.
    Tile(Reg),
}

impl GroupLeft {
    /// The register that is read: an index or a tile.
    pub fn reg(&self) -> Reg {
        match self {
            GroupLeft::Shared(factor) => factor.index,
            GroupLeft::Tile(tile) => *tile,
        }
    }
}

/// One instruction. `dst` is the register written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Inst {
    /// Sets every lane to `value`; the element types agree.
    Const {
        dst: Reg,
        value: Const,
    },
    /// `i64` launch argument.
    Dim {
        dst: Reg,
        dim: DimId,
    },
    /// `i64` index of this block in the launch grid.
    BlockIdx {
        dst: Reg,
    },
    /// `i64` index of this thread in its block along `axis`.
    ThreadIdx {
        dst: Reg,
        axis: Axis,
    },
    /// dst = src, of any type, tiles included.
    Copy {
        dst: Reg,
        src: Reg,
    },
    Unary {
        dst: Reg,
        op: UnaryOp,
        src: Reg,
    },
    Math {
        dst: Reg,
        op: MathOp,
        src: Reg,
    },
    Binary {
        dst: Reg,
        op: BinaryOp,
        lhs: Reg,
        rhs: Reg,
    },
    /// a * b + c with one rounding, floats only. On `f16` and `bf16` the fma is that of `f32`, rounded back.
    Fma {
        dst: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    /// Sums of products of neighbors, on CPUs: lane `i` becomes `acc[i]` plus the products of lanes `r*i .. r*(i+1)` of
    /// `a` and `b`, where `a` and `b` have `r` times as many lanes as `acc` and `dst`. The types are, for `a`, `b` and `acc`:
    /// - `u8`, `i8`, `i32` or `i8`, `i8`, `i32`, with `r = 4`, or `i16`, `i16`, `i32`, with `r = 2`: exact, the sum wraps.
    /// - `bf16`, `bf16`, `f32`, with `r = 2`: the odd product is added first, then the even one, each by a fused
    ///   multiply-add that rounds to nearest even. Subnormal operands count as zeros of their sign, and so does a result
    ///   that is below the least normal number before its exponent is limited (`vdpbf16ps`).
    Dot {
        dst: Reg,
        a: Reg,
        b: Reg,
        acc: Reg,
    },
    /// `dst` is `bool` with the lanes of the operands. `bool` operands allow `Eq` and `Ne` only.
    Compare {
        dst: Reg,
        op: CompareOp,
        lhs: Reg,
        rhs: Reg,
    },
    /// Lane-wise choice; `cond` is `bool` with the same lanes, or one lane that decides for all.
    Select {
        dst: Reg,
        cond: Reg,
        on_true: Reg,
        on_false: Reg,
    },
    /// Numeric conversion with equal lanes. Integer to narrower integer wraps; float to integer truncates and
    /// saturates, NaN gives 0; anything to float rounds to nearest even; anything to `bool` is `x != 0`;
    /// conversions between `f16`/`bf16` and a type other than `f32` go through `f32`.
    Cast {
        dst: Reg,
        src: Reg,
    },
    /// Reinterprets the bits, of which both types have as many, lane 0 lowest; not `bool`. GPUs want equal lanes.
    Bitcast {
        dst: Reg,
        src: Reg,
    },
    /// Copies a scalar to all lanes of `dst`.
    Splat {
        dst: Reg,
        src: Reg,
    },
    /// Lane `i` becomes `i`; integer types.
    Iota {
        dst: Reg,
    },
    /// Scalar at a constant lane.
    Extract {
        dst: Reg,
        src: Reg,
        lane: u16,
    },
    /// `src` with a constant lane replaced by the scalar `value`.
    Insert {
        dst: Reg,
        src: Reg,
        value: Reg,
        lane: u16,
    },
    /// Scalar from all lanes.
    Reduce {
        dst: Reg,
        op: ReduceOp,
        src: Reg,
    },
    /// Lane `i` of `dst` is lane `pattern[i]` of the concatenation of `a` and `b`, which have one type.
    Shuffle {
        dst: Reg,
        a: Reg,
        b: Reg,
        pattern: Vec<u16>,
    },
    /// Lane `i` is element `index + i` of `mem`. Lanes whose `mask` is false read as 0 and touch no memory.
    Load {
        dst: Reg,
        mem: Mem,
        index: Reg,
        mask: Option<Reg>,
    },
    /// Element `index + i` of `mem` becomes lane `i`, where `mask` is true.
    Store {
        mem: Mem,
        index: Reg,
        src: Reg,
        mask: Option<Reg>,
    },
    /// Lane `i` is element `index[i]` of `mem`; `index` is an `i64` vector. Mask as for `Load`.
    Gather {
        dst: Reg,
        mem: Mem,
        index: Reg,
        mask: Option<Reg>,
    },
    /// Element `index[i]` of `mem` becomes lane `i`, in lane order. Mask as for `Store`.
    Scatter {
        mem: Mem,
        index: Reg,
        src: Reg,
        mask: Option<Reg>,
    },
    /// Exchanges a scalar among the threads of a warp; all of them take part.
    WarpShuffle {
        dst: Reg,
        op: WarpShuffleOp,
        src: Reg,
        amount: Reg,
    },
    /// All threads of the block wait for each other; shared and global writes before it are visible after it.
    Barrier,
    /// Starts copying `elems` elements (4, 8 or 16 bytes in all, aligned to that size) from global `src` to
    /// shared `dst`. If `pred` (scalar `bool`) is false, zeros are written and `src` is not read.
    AsyncCopy {
        dst: Mem,
        dst_index: Reg,
        src: Mem,
        src_index: Reg,
        elems: u16,
        pred: Option<Reg>,
    },
    /// Closes the group of async copies this thread has started since the last commit.
    AsyncCommit,
    /// Waits until at most `pending` of this thread's committed groups are unfinished. The copied elements
    /// may be read by this thread then, by others after a barrier.
    AsyncWait {
        pending: u16,
    },
    /// Sets every element of a tile.
    TileFill {
        dst: Reg,
        value: Const,
    },
    /// Loads a tile; `index` and `stride` are `i64` scalars, the same in all threads of the warp.
    TileLoad {
        dst: Reg,
        mem: Mem,
        index: Reg,
        stride: Reg,
        layout: TileLayout,
    },
    /// Stores a tile; operands as for `TileLoad`.
    TileStore {
        mem: Mem,
        index: Reg,
        stride: Reg,
        layout: TileLayout,
        src: Reg,
    },
    /// Begins acc += a * b by a group of four warps, the first of them a multiple of four. Warp `w` of the group holds
    /// rows `16*w ..` of the result in its tile `acc`, which has 16 rows and `n` columns, `n` a multiple of 8. Element
    /// (r, c) of `a`, which has 64 rows, and element (c, r) of `b`, which has `n` columns, lie where [`GroupFactor`] says,
    /// for c below `16 * steps`; warp `w` may also hold rows `16*w ..` of `a` in a tile of `16 * steps` columns. One group
    /// of products ends here. Until [`Inst::GroupWait`] has waited for it, nothing but further products may touch `acc`,
    /// the tile must not be assigned and the factors in memory must not be overwritten. What the block wrote to shared
    /// memory before its last barrier is seen. Sums as for [`Inst::Mma`].
    GroupMma {
        acc: Reg,
        a: GroupLeft,
        b: GroupFactor,
        steps: u16,
    },
    /// Waits until at most `pending` groups of this warp's products are unfinished.
    GroupWait {
        pending: u16,
    },
    /// Addition, subtraction or multiplication of the elements of two accumulators of floats.
    TileBinary {
        dst: Reg,
        op: BinaryOp,
        lhs: Reg,
        rhs: Reg,
    },
    /// 2^x of every element of an accumulator of `f32`; on GPUs the machine's, as [`MathOp::Exp2`] is.
    TileExp2 {
        dst: Reg,
        src: Reg,
    },
    /// An accumulator as the left factor of another product: each element is rounded to nearest even.
    TileCast {
        dst: Reg,
        src: Reg,
    },
    /// dst = a * b + acc with tiles of roles A (m x k), B (k x n) and Acc (m x n). Products and sums are
    /// taken in the accumulator's type; the order of summation is the target's (the interpreter adds
    /// in ascending k with one rounding per step).
    ///
    /// On CPUs `a`, `b` and `acc` are
    /// - `i8`, `u8`, `i32`: exact, sums wrap.
    /// - `bf16`, `bf16`, `f32`: products of even k are added up by fused multiply-adds, and so are those of odd k; the sum
    ///   of both is added to the accumulator. All roundings are to nearest even, with subnormal numbers as in `Dot`
    ///   (`tdpbf16ps`).
    Mma {
        dst: Reg,
        a: Reg,
        b: Reg,
        acc: Reg,
    },
}

impl Inst {
    /// The register written, if any.
    pub fn dst(&self) -> Option<Reg> {
        match self {
            Inst::Const { dst, .. }
            | Inst::Dim { dst, .. }
            | Inst::BlockIdx { dst }
            | Inst::ThreadIdx { dst, .. }
            | Inst::Copy { dst, .. }
            | Inst::Unary { dst, .. }
            | Inst::Math { dst, .. }
            | Inst::Binary { dst, .. }
            | Inst::Fma { dst, .. }
            | Inst::Dot { dst, .. }
            | Inst::Compare { dst, .. }
            | Inst::Select { dst, .. }
            | Inst::Cast { dst, .. }
            | Inst::Bitcast { dst, .. }
            | Inst::Splat { dst, .. }
            | Inst::Iota { dst }
            | Inst::Extract { dst, .. }
            | Inst::Insert { dst, .. }
            | Inst::Reduce { dst, .. }
            | Inst::Shuffle { dst, .. }
            | Inst::Load { dst, .. }
            | Inst::Gather { dst, .. }
            | Inst::WarpShuffle { dst, .. }
            | Inst::TileFill { dst, .. }
            | Inst::TileLoad { dst, .. }
            | Inst::TileBinary { dst, .. }
            | Inst::TileExp2 { dst, .. }
            | Inst::TileCast { dst, .. }
            | Inst::Mma { dst, .. }
            | Inst::GroupMma { acc: dst, .. } => Some(*dst),
            Inst::Store { .. }
            | Inst::Scatter { .. }
            | Inst::Barrier
            | Inst::AsyncCopy { .. }
            | Inst::AsyncCommit
            | Inst::AsyncWait { .. }
            | Inst::GroupWait { .. }
            | Inst::TileStore { .. } => None,
        }
    }

    /// Calls `f` on every register read, in operand order.
    pub fn for_each_use(&self, mut f: impl FnMut(Reg)) {
        match self {
            Inst::Const { .. }
            | Inst::Dim { .. }
            | Inst::BlockIdx { .. }
            | Inst::ThreadIdx { .. }
            | Inst::Iota { .. }
            | Inst::Barrier
            | Inst::AsyncCommit
            | Inst::AsyncWait { .. }
            | Inst::GroupWait { .. }
            | Inst::TileFill { .. } => {}
            Inst::Copy { src, .. }
            | Inst::Unary { src, .. }
            | Inst::Math { src, .. }
            | Inst::Cast { src, .. }
            | Inst::Bitcast { src, .. }
            | Inst::Splat { src, .. }
            | Inst::Extract { src, .. }
            | Inst::Reduce { src, .. } => f(*src),
            Inst::TileExp2 { src, .. } | Inst::TileCast { src, .. } => f(*src),
            Inst::Binary { lhs, rhs, .. }
            | Inst::Compare { lhs, rhs, .. }
            | Inst::TileBinary { lhs, rhs, .. } => {
                f(*lhs);
                f(*rhs);
            }
            Inst::Fma { a, b, c, .. } | Inst::Dot { a, b, acc: c, .. } | Inst::Mma { a, b, acc: c, .. } => {
                f(*a);
                f(*b);
                f(*c);
            }
            Inst::Select { cond, on_true, on_false, .. } => {
                f(*cond);
                f(*on_true);
                f(*on_false);
            }
            Inst::Insert { src, value, .. } => {
                f(*src);
                f(*value);
            }
            Inst::Shuffle { a, b, .. } => {
                f(*a);
                f(*b);
            }
            Inst::Load { index, mask, .. } | Inst::Gather { index, mask, .. } => {
                f(*index);
                mask.iter().copied().for_each(f);
            }
            Inst::Store { index, src, mask, .. } | Inst::Scatter { index, src, mask, .. } => {
                f(*index);
                f(*src);
                mask.iter().copied().for_each(f);
            }
            Inst::WarpShuffle { src, amount, .. } => {
                f(*src);
                f(*amount);
            }
            Inst::AsyncCopy { dst_index, src_index, pred, .. } => {
                f(*dst_index);
                f(*src_index);
                pred.iter().copied().for_each(f);
            }
            Inst::TileLoad { index, stride, .. } => {
                f(*index);
                f(*stride);
            }
            Inst::GroupMma { acc, a, b, .. } => {
                f(*acc);
                f(a.reg());
                f(b.index);
            }
            Inst::TileStore { index, stride, src, .. } => {
                f(*index);
                f(*stride);
                f(*src);
            }
        }
    }
}
