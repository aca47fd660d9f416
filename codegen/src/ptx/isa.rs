//! The instructions of PTX that the emitter uses, as types.
//!
//! Operands and meaning are those of the PTX ISA manual; rounding is to nearest even wherever PTX lets one choose, and
//! nothing flushes subnormals unless an instruction says so. How an instruction is spelled is known to
//! [`super::print`] alone.

use crate::kernel::CompareOp;

/// What a virtual register can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Class {
    Pred,
    B16,
    B32,
    B64,
    F32,
    F64,
}

impl Class {
    pub(super) const ALL: [Class; 6] =
        [Class::Pred, Class::B16, Class::B32, Class::B64, Class::F32, Class::F64];
}

/// A virtual register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Var {
    pub(super) class: Class,
    pub(super) id: u32,
}

/// Type suffix of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ty {
    Pred,
    B16,
    B32,
    B64,
    S8,
    S16,
    S32,
    S64,
    U8,
    U16,
    U32,
    U64,
    F16,
    Bf16,
    F32,
    F64,
}

/// An operand that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Src {
    Var(Var),
    Int(i64),
    /// Bits of an `f32`.
    F32(u32),
    /// Bits of an `f64`.
    F64(u64),
}

impl From<Var> for Src {
    fn from(v: Var) -> Src {
        Src::Var(v)
    }
}

/// State space of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    Global,
    Shared,
    Local,
}

/// `[base + offset]`, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) base: Var,
    pub(super) offset: i64,
}

/// Special registers, all 32 bits wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Special {
    ThreadX,
    ThreadY,
    ThreadZ,
    BlockX,
    Lane,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unary {
    Neg,
    Abs,
    Not,
    Sqrt,
    /// 2^x to 2 units of the last place; subnormals count as 0.
    Exp2Approx,
    /// 1/x to 1 unit of the last place; subnormals count as 0.
    RecipApprox,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Sub,
    /// Low half of the product for integers.
    Mul,
    Div,
    Rem,
    Min,
    Max,
    And,
    Or,
    Xor,
    Shl,
    Shr,
}

/// To an integral value or from a wider type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    /// The conversion is exact, or drops high bits of an integer.
    None,
    Nearest,
    IntegralNearest,
    IntegralZero,
    IntegralDown,
    IntegralUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shuffle {
    Up,
    Down,
    Xor,
    Idx,
}

/// One line of a kernel's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Label(u32),
    /// Runs if `when` holds: the predicate has the given value.
    Inst {
        when: Option<(Var, bool)>,
        inst: Inst,
    },
}

/// The left factor of a warp group's product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GroupFactor {
    /// A descriptor, and whether the matrix is turned.
    Shared(Var, bool),
    /// The registers of a tile.
    Tile([Var; 4]),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Inst {
    Mov {
        ty: Ty,
        dst: Var,
        src: Src,
    },
    /// Low half first.
    Pack {
        ty: Ty,
        dst: Var,
        low: Var,
        high: Var,
    },
    Unpack {
        ty: Ty,
        low: Var,
        high: Var,
        src: Var,
    },
    Special {
        dst: Var,
        src: Special,
    },
    /// Kernel parameter `index`, 64 bits.
    Param {
        dst: Var,
        index: usize,
    },
    /// A generic address that points to global memory, as a global address.
    ToGlobal {
        dst: Var,
        src: Var,
    },
    /// Address of the array called `name`.
    AddressOf {
        dst: Var,
        name: String,
    },
    Unary {
        op: Unary,
        ty: Ty,
        dst: Var,
        src: Src,
    },
    Binary {
        op: Binary,
        ty: Ty,
        dst: Var,
        a: Src,
        b: Src,
    },
    Fma {
        ty: Ty,
        dst: Var,
        a: Src,
        b: Src,
        c: Src,
    },
    /// `dst = a op b`; floats: all but `Ne` are false if an operand is NaN.
    SetPred {
        op: CompareOp,
        ty: Ty,
        dst: Var,
        a: Src,
        b: Src,
    },
    Select {
        ty: Ty,
        dst: Var,
        on_true: Src,
        on_false: Src,
        cond: Var,
    },
    Convert {
        to: Ty,
        from: Ty,
        rounding: Rounding,
        dst: Var,
        src: Var,
    },
    Load {
        space: Space,
        ty: Ty,
        dst: Vec<Var>,
        from: Address,
    },
    Store {
        space: Space,
        ty: Ty,
        src: Vec<Var>,
        to: Address,
    },
    Branch {
        label: u32,
    },
    Barrier,
    /// Waits until the launch before this one has ended and what it wrote is seen.
    WaitForLaunch,
    /// Lets the launch after this one begin, as far as that is up to this block.
    AllowLaunch,
    /// Lanes whose source lies outside the warp keep their own value, for amounts below 32.
    Shuffle {
        op: Shuffle,
        dst: Var,
        src: Var,
        amount: Var,
    },
    /// Copies `size` bytes of which `from` has the first `read`; the others become 0.
    AsyncCopy {
        to: Address,
        from: Address,
        size: u32,
        read: Src,
    },
    AsyncCommit,
    AsyncWait {
        pending: u16,
    },
    /// Two `f32` rounded to 16 bits each, low half first.
    PackRounded {
        ty: Ty,
        dst: Var,
        low: Var,
        high: Var,
    },
    /// What this thread wrote to shared memory, or was told of, is seen by the matrix units after the next barrier.
    ProxyFence,
    /// Accumulators and shared memory are ready for products of this warp group.
    GroupFence,
    /// 64xn += 64x16 * 16xn with `f32` sums, `n` twice the number of sums of a thread. Factors in shared memory are behind
    /// descriptors, and turned if the sum is not along their rows; `always` is true.
    GroupMma {
        ty: Ty,
        acc: Vec<Var>,
        a: GroupFactor,
        b: (Var, bool),
        always: Var,
    },
    GroupCommit,
    GroupWait {
        pending: u16,
    },
    /// One to four 8x8 matrices of 16-bit elements from shared memory.
    LoadMatrix {
        dst: Vec<Var>,
        transposed: bool,
        from: Address,
    },
    /// 16x8 += 16x16 * 16x8 with `f32` sums.
    Mma {
        ty: Ty,
        dst: [Var; 4],
        a: [Var; 4],
        b: [Var; 2],
        acc: [Var; 4],
    },
    Return,
}
