//! Spelling: the one place that knows PTX text.

use std::fmt::{self, Display, Formatter};

use super::isa::*;
use crate::kernel::CompareOp;
use crate::target::GpuArch;

/// Arguments of an entry point, arrays, and its lines.
pub(super) struct Entry {
    pub(super) name: String,
    /// All are 64 bits wide: addresses, then launch arguments.
    pub(super) n_params: usize,
    pub(super) threads: [u32; 3],
    pub(super) arrays: Vec<ArrayDecl>,
    /// Registers used of each class, in the order of [`Class::ALL`].
    pub(super) n_vars: [u32; 6],
    pub(super) lines: Vec<Line>,
}

/// An array of the block or of a thread.
pub(super) struct ArrayDecl {
    pub(super) space: Space,
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) align: u32,
}

/// Shared memory whose size is known to the launch alone.
pub(super) const DYNAMIC: &str = "dynamic_shared";

/// Its declaration, for modules with a kernel that uses it.
pub(super) fn dynamic_shared() -> String {
    format!("\n.extern .shared .align {} .b8 {DYNAMIC}[];\n", super::arrays::SWIZZLED_ALIGN)
}

/// Everything that stands before the entry points. ISA 8.0 knows all that is printed here, and drivers since 12.0 know it.
pub(super) fn header(arch: GpuArch) -> String {
    format!(".version 8.0\n.target {}\n.address_size 64\n", arch.name())
}

impl Class {
    fn prefix(self) -> &'static str {
        match self {
            Class::Pred => "%p",
            Class::B16 => "%h",
            Class::B32 => "%r",
            Class::B64 => "%d",
            Class::F32 => "%f",
            Class::F64 => "%g",
        }
    }

    fn declared(self) -> &'static str {
        match self {
            Class::Pred => "pred",
            Class::B16 => "b16",
            Class::B32 => "b32",
            Class::B64 => "b64",
            Class::F32 => "f32",
            Class::F64 => "f64",
        }
    }
}

impl Display for Entry {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, ".visible .entry {}(", self.name)?;
        for i in 0..self.n_params {
            let comma = if i + 1 < self.n_params { "," } else { "" };
            writeln!(f, "    .param .u64 {}_{i}{comma}", self.name)?;
        }
        let [x, y, z] = self.threads;
        writeln!(f, ")\n.reqntid {x}, {y}, {z}\n{{")?;
        for (class, n) in Class::ALL.into_iter().zip(self.n_vars) {
            if n > 0 {
                writeln!(f, "    .reg .{} {}<{n}>;", class.declared(), class.prefix())?;
            }
        }
        for a in &self.arrays {
            writeln!(f, "    .{} .align {} .b8 {}[{}];", a.space, a.align, a.name, a.bytes.max(1))?;
        }
        for line in &self.lines {
            match line {
                Line::Label(id) => writeln!(f, "L{id}:")?,
                Line::Inst { when, inst } => {
                    f.write_str("    ")?;
                    match when {
                        Some((p, true)) => write!(f, "@{p} ")?,
                        Some((p, false)) => write!(f, "@!{p} ")?,
                        None => {}
                    }
                    writeln!(f, "{};", Spelled(inst, &self.name))?;
                }
            }
        }
        writeln!(f, "}}")
    }
}

impl Display for Var {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.class.prefix(), self.id)
    }
}

impl Display for Src {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Src::Var(v) => write!(f, "{v}"),
            Src::Int(i) => write!(f, "{i}"),
            Src::F32(bits) => write!(f, "0f{bits:08X}"),
            Src::F64(bits) => write!(f, "0d{bits:016X}"),
        }
    }
}

impl Display for Ty {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ty::Pred => "pred",
            Ty::B16 => "b16",
            Ty::B32 => "b32",
            Ty::B64 => "b64",
            Ty::S8 => "s8",
            Ty::S16 => "s16",
            Ty::S32 => "s32",
            Ty::S64 => "s64",
            Ty::U8 => "u8",
            Ty::U16 => "u16",
            Ty::U32 => "u32",
            Ty::U64 => "u64",
            Ty::F16 => "f16",
            Ty::Bf16 => "bf16",
            Ty::F32 => "f32",
            Ty::F64 => "f64",
        })
    }
}

impl Ty {
    fn is_float(self) -> bool {
        matches!(self, Ty::F16 | Ty::Bf16 | Ty::F32 | Ty::F64)
    }
}

impl Display for Space {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Space::Global => "global",
            Space::Shared => "shared",
            Space::Local => "local",
        })
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.offset {
            0 => write!(f, "[{}]", self.base),
            offset => write!(f, "[{}+{offset}]", self.base),
        }
    }
}

/// `{a, b}`, or the register alone.
struct Group<'a>(&'a [Var]);

impl Display for Group<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let [one] = self.0 {
            return write!(f, "{one}");
        }
        f.write_str("{")?;
        for (i, v) in self.0.iter().enumerate() {
            write!(f, "{}{v}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str("}")
    }
}

/// `{a, b}`, also around one register.
struct Braced<'a>(&'a [Var]);

impl Display for Braced<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            [one] => write!(f, "{{{one}}}"),
            all => write!(f, "{}", Group(all)),
        }
    }
}

/// How many elements an access has, for its suffix.
fn vector(n: usize) -> &'static str {
    match n {
        2 => ".v2",
        4 => ".v4",
        _ => "",
    }
}

fn unary(op: Unary, ty: Ty) -> String {
    match op {
        Unary::Neg => format!("neg.{ty}"),
        Unary::Abs => format!("abs.{ty}"),
        Unary::Not => format!("not.{ty}"),
        Unary::Sqrt => format!("sqrt.rn.{ty}"),
        Unary::Exp2Approx => format!("ex2.approx.ftz.{ty}"),
        Unary::RecipApprox => format!("rcp.approx.ftz.{ty}"),
    }
}

fn binary(op: Binary, ty: Ty) -> String {
    let rounded = if ty.is_float() { ".rn" } else { "" };
    match op {
        Binary::Add => format!("add{rounded}.{ty}"),
        Binary::Sub => format!("sub{rounded}.{ty}"),
        Binary::Mul if ty.is_float() => format!("mul.rn.{ty}"),
        Binary::Mul => format!("mul.lo.{ty}"),
        Binary::Div => format!("div{rounded}.{ty}"),
        Binary::Rem => format!("rem.{ty}"),
        Binary::Min => format!("min.{ty}"),
        Binary::Max => format!("max.{ty}"),
        Binary::And => format!("and.{ty}"),
        Binary::Or => format!("or.{ty}"),
        Binary::Xor => format!("xor.{ty}"),
        Binary::Shl => format!("shl.{ty}"),
        Binary::Shr => format!("shr.{ty}"),
    }
}

fn compare(op: CompareOp, ty: Ty) -> &'static str {
    match op {
        CompareOp::Eq => "eq",
        CompareOp::Ne if ty.is_float() => "neu",
        CompareOp::Ne => "ne",
        CompareOp::Lt => "lt",
        CompareOp::Le => "le",
        CompareOp::Gt => "gt",
        CompareOp::Ge => "ge",
    }
}

fn rounding(r: Rounding) -> &'static str {
    match r {
        Rounding::None => "",
        Rounding::Nearest => ".rn",
        Rounding::IntegralNearest => ".rni",
        Rounding::IntegralZero => ".rzi",
        Rounding::IntegralDown => ".rmi",
        Rounding::IntegralUp => ".rpi",
    }
}

fn special(s: Special) -> &'static str {
    match s {
        Special::ThreadX => "%tid.x",
        Special::ThreadY => "%tid.y",
        Special::ThreadZ => "%tid.z",
        Special::BlockX => "%ctaid.x",
        Special::Lane => "%laneid",
    }
}

/// Every lane of a warp takes part.
const ALL_LANES: &str = "0xffffffff";

/// An instruction of the entry point of this name.
struct Spelled<'a>(&'a Inst, &'a str);

impl Display for Spelled<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Inst::Mov { ty, dst, src } => write!(f, "mov.{ty} {dst}, {src}"),
            Inst::Pack { ty, dst, low, high } => write!(f, "mov.{ty} {dst}, {{{low}, {high}}}"),
            Inst::Unpack { ty, low, high, src } => write!(f, "mov.{ty} {{{low}, {high}}}, {src}"),
            Inst::Special { dst, src } => write!(f, "mov.u32 {dst}, {}", special(*src)),
            Inst::Param { dst, index } => write!(f, "ld.param.u64 {dst}, [{}_{index}]", self.1),
            Inst::ToGlobal { dst, src } => write!(f, "cvta.to.global.u64 {dst}, {src}"),
            Inst::AddressOf { dst, name } => write!(f, "mov.u64 {dst}, {name}"),
            Inst::Unary { op, ty, dst, src } => write!(f, "{} {dst}, {src}", unary(*op, *ty)),
            Inst::Binary { op, ty, dst, a, b } => write!(f, "{} {dst}, {a}, {b}", binary(*op, *ty)),
            Inst::Fma { ty, dst, a, b, c } => write!(f, "fma.rn.{ty} {dst}, {a}, {b}, {c}"),
            Inst::SetPred { op, ty, dst, a, b } => {
                write!(f, "setp.{}.{ty} {dst}, {a}, {b}", compare(*op, *ty))
            }
            Inst::Select { ty, dst, on_true, on_false, cond } => {
                write!(f, "selp.{ty} {dst}, {on_true}, {on_false}, {cond}")
            }
            Inst::Convert { to, from, rounding: r, dst, src } => {
                write!(f, "cvt{}.{to}.{from} {dst}, {src}", rounding(*r))
            }
            Inst::Load { space, ty, dst, from } => {
                write!(f, "ld.{space}{}.{ty} {}, {from}", vector(dst.len()), Group(dst))
            }
            Inst::Store { space, ty, src, to } => {
                write!(f, "st.{space}{}.{ty} {to}, {}", vector(src.len()), Group(src))
            }
            Inst::Branch { label } => write!(f, "bra L{label}"),
            Inst::Barrier => f.write_str("bar.sync 0"),
            Inst::WaitForLaunch => f.write_str("griddepcontrol.wait"),
            Inst::AllowLaunch => f.write_str("griddepcontrol.launch_dependents"),
            Inst::Shuffle { op, dst, src, amount } => {
                let (mode, bound) = match op {
                    Shuffle::Up => ("up", 0),
                    Shuffle::Down => ("down", 31),
                    Shuffle::Xor => ("bfly", 31),
                    Shuffle::Idx => ("idx", 31),
                };
                write!(f, "shfl.sync.{mode}.b32 {dst}, {src}, {amount}, {bound}, {ALL_LANES}")
            }
            Inst::AsyncCopy { to, from, size, read } => {
                // Only copies of 16 bytes may bypass the first-level cache.
                let cache = if *size == 16 { "cg" } else { "ca" };
                write!(f, "cp.async.{cache}.shared.global {to}, {from}, {size}, {read}")
            }
            Inst::AsyncCommit => f.write_str("cp.async.commit_group"),
            Inst::AsyncWait { pending } => write!(f, "cp.async.wait_group {pending}"),
            Inst::PackRounded { ty, dst, low, high } => write!(f, "cvt.rn.{ty}x2.f32 {dst}, {high}, {low}"),
            Inst::ProxyFence => f.write_str("fence.proxy.async.shared::cta"),
            Inst::GroupFence => f.write_str("wgmma.fence.sync.aligned"),
            Inst::GroupMma { ty, acc, a, b: (b, b_turned), always } => {
                let n = 2 * acc.len();
                write!(f, "wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{ty}.{ty} {}, ", Group(acc))?;
                let b_turned = u8::from(*b_turned);
                match a {
                    GroupFactor::Shared(a, turned) => {
                        write!(f, "{a}, {b}, {always}, 1, 1, {}, {b_turned}", u8::from(*turned))
                    }
                    GroupFactor::Tile(a) => write!(f, "{}, {b}, {always}, 1, 1, {b_turned}", Group(a)),
                }
            }
            Inst::GroupCommit => f.write_str("wgmma.commit_group.sync.aligned"),
            Inst::GroupWait { pending } => write!(f, "wgmma.wait_group.sync.aligned {pending}"),
            Inst::LoadMatrix { dst, transposed, from } => {
                let trans = if *transposed { ".trans" } else { "" };
                write!(
                    f,
                    "ldmatrix.sync.aligned.m8n8.x{}{trans}.shared.b16 {}, {from}",
                    dst.len(),
                    Braced(dst)
                )
            }
            Inst::Mma { ty, dst, a, b, acc } => write!(
                f,
                "mma.sync.aligned.m16n8k16.row.col.f32.{ty}.{ty}.f32 {}, {}, {}, {}",
                Group(dst),
                Group(a),
                Group(b),
                Group(acc)
            ),
            Inst::Return => f.write_str("ret"),
        }
    }
}
