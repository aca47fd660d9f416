//! Kernel IR: one function for a CPU thread or a GPU thread block, independent of both.
//!
//! A [`Kernel`] is launched over a one-dimensional grid of blocks. Each block runs `block[0] * block[1] *
//! block[2]` threads; a CPU kernel has one. The threads of a block, numbered `x + y * block[0] + z * block[0] *
//! block[1]`, form warps of [`WARP_SIZE`]. Blocks may run in any order and at the same time.
//!
//! A body is a list of structured statements over typed virtual registers. A register may be assigned more
//! than once; it must be assigned on every path before it is read. Memory is reached through [`Mem`] with
//! `i64` element indices relative to the start of the array. Parameters may alias each other.
//!
//! Everything numeric is exact or rounds to nearest even, instruction by instruction: the interpreter, LLVM
//! and PTX give the same bits, up to the payload and sign of NaN. See [`Inst`] for the instructions.

pub mod builder;
pub mod inst;
pub mod interp;
pub mod replay;
pub mod stmt;
pub mod text;
pub mod types;
pub mod verify;

pub use builder::{KernelBuilder, Value};
pub use inst::{
    Axis, BinaryOp, CompareOp, GroupFactor, GroupLeft, Inst, MathOp, ReduceOp, TileLayout, UnaryOp,
    WarpShuffleOp,
};
pub use stmt::{For, If, Stmt};
pub use types::{Const, Elem, RegTy, TileRole, TileTy};

/// Threads per warp.
pub const WARP_SIZE: u32 = 32;

/// A virtual register: an index into [`Kernel::regs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reg(pub u32);

/// Index into [`Kernel::params`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(pub u32);

/// Index into [`Kernel::dims`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DimId(pub u32);

/// Index into [`Kernel::shared`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SharedId(pub u32);

/// Index into [`Kernel::locals`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalId(pub u32);

/// An array in one of the address spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mem {
    /// Global memory: a buffer given at launch.
    Param(ParamId),
    /// One array per block, without contents when the block starts.
    Shared(SharedId),
    /// One array per thread, without contents when the block starts.
    Local(LocalId),
}

impl From<ParamId> for Mem {
    fn from(id: ParamId) -> Mem {
        Mem::Param(id)
    }
}

impl From<SharedId> for Mem {
    fn from(id: SharedId) -> Mem {
        Mem::Shared(id)
    }
}

impl From<LocalId> for Mem {
    fn from(id: LocalId) -> Mem {
        Mem::Local(id)
    }
}

/// What a kernel may do with a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    Read,
    /// Read; nothing writes it while any kernel of the model runs.
    Constant,
    Write,
    ReadWrite,
}

impl Access {
    pub const fn reads(self) -> bool {
        matches!(self, Access::Read | Access::Constant | Access::ReadWrite)
    }

    pub const fn writes(self) -> bool {
        matches!(self, Access::Write | Access::ReadWrite)
    }
}

/// A buffer argument in global memory, aligned to its element only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Param {
    pub name: String,
    pub elem: Elem,
    pub access: Access,
}

/// A shared or local array of static length.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Array {
    pub name: String,
    pub elem: Elem,
    pub len: u32,
    /// A shared array whose memory holds the sixteen bytes that indices call word `i` of 128-byte row `r` at word
    /// `i ^ (r % 8)`, so that eight words of one column lie in distinct banks. Indices are not concerned.
    pub swizzled: bool,
    /// A shared array at the start of whose memory this one lies; both hold what was written last, by either.
    pub over: Option<SharedId>,
}

impl Array {
    /// An array with memory of its own, in the order of its indices.
    pub fn new(name: &str, elem: Elem, len: u32) -> Array {
        Array { name: name.to_owned(), elem, len, swizzled: false, over: None }
    }

    /// Bytes of its elements.
    pub fn bytes(&self) -> u64 {
        u64::from(self.len) * self.elem.size() as u64
    }
}

/// Type and optional name of a register; the name serves readers only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegInfo {
    pub ty: RegTy,
    pub name: Option<String>,
}

/// One kernel. Names are identifiers (`[A-Za-z_][A-Za-z0-9_]*`); names of dims and of arrays (params, shared
/// and local together) are distinct.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    pub name: String,
    pub params: Vec<Param>,
    /// Names of the `i64` launch arguments.
    pub dims: Vec<String>,
    /// Threads per block; `[1, 1, 1]` for CPU kernels.
    pub block: [u32; 3],
    pub shared: Vec<Array>,
    pub locals: Vec<Array>,
    pub regs: Vec<RegInfo>,
    pub body: Vec<Stmt>,
}

impl Kernel {
    /// Type of a register.
    pub fn ty(&self, reg: Reg) -> RegTy {
        self.regs[reg.0 as usize].ty
    }

    /// Element type of an array.
    pub fn mem_elem(&self, mem: Mem) -> Elem {
        match mem {
            Mem::Param(id) => self.params[id.0 as usize].elem,
            Mem::Shared(id) => self.shared[id.0 as usize].elem,
            Mem::Local(id) => self.locals[id.0 as usize].elem,
        }
    }

    /// Threads per block.
    pub fn n_threads(&self) -> u32 {
        self.block.iter().product()
    }
}
