//! Printer.

use std::fmt::{self, Display, Formatter, Write};

use half::{bf16, f16};

use super::names::Named;
use crate::kernel::*;

impl Display for Kernel {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "kernel {} {{", self.name)?;
        writeln!(f, "  block {} {} {}", self.block[0], self.block[1], self.block[2])?;
        for p in &self.params {
            writeln!(f, "  param {}: {} {}", p.name, p.elem, p.access.name())?;
        }
        for dim in &self.dims {
            writeln!(f, "  dim {dim}")?;
        }
        for (space, arrays) in [("shared", &self.shared), ("local", &self.locals)] {
            for a in arrays {
                write!(f, "  {space} {}: {}[{}]", a.name, a.elem, a.len)?;
                if a.swizzled {
                    f.write_str(" swizzled")?;
                }
                match a.over.map(|under| self.shared.get(under.0 as usize)) {
                    Some(Some(under)) => writeln!(f, " over {}", under.name)?,
                    Some(None) => writeln!(f, " over <undeclared>")?,
                    None => writeln!(f)?,
                }
            }
        }
        for reg in self.unassigned() {
            writeln!(f, "  reg {}: {}", R(self, reg), self.ty(reg))?;
        }
        if !self.body.is_empty() {
            writeln!(f)?;
        }
        self.list(f, &self.body, 1)?;
        writeln!(f, "}}")
    }
}

/// A register with its name.
struct R<'k>(&'k Kernel, Reg);

impl Display for R<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.1.0)?;
        match self.0.regs.get(self.1.0 as usize) {
            Some(RegInfo { name: Some(name), .. }) => write!(f, ".{name}"),
            Some(RegInfo { name: None, .. }) | None => Ok(()),
        }
    }
}

/// An element of an array.
struct At<'k>(&'k Kernel, Mem, Reg);

impl Display for At<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let At(kernel, mem, index) = *self;
        let name = match mem {
            Mem::Param(id) => kernel.params.get(id.0 as usize).map(|p| &p.name),
            Mem::Shared(id) => kernel.shared.get(id.0 as usize).map(|a| &a.name),
            Mem::Local(id) => kernel.locals.get(id.0 as usize).map(|a| &a.name),
        };
        write!(f, "{}[{}]", name.map_or("<undeclared>", String::as_str), R(kernel, index))
    }
}

/// A constant's value, without its type.
struct Literal(Const);

impl Display for Literal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let bits = self.0.bits();
        if self.0.as_float().is_some_and(f64::is_nan) {
            return write!(f, "nan {bits:#x}");
        }
        match self.0.elem() {
            Elem::Bool => write!(f, "{}", bits != 0),
            Elem::F16 => write!(f, "{:?}", f16::from_bits(bits as u16).to_f32()),
            Elem::Bf16 => write!(f, "{:?}", bf16::from_bits(bits as u16).to_f32()),
            Elem::F32 => write!(f, "{:?}", f32::from_bits(bits as u32)),
            Elem::F64 => write!(f, "{:?}", f64::from_bits(bits)),
            Elem::U64 => write!(f, "{bits}"),
            Elem::I8 | Elem::U8 | Elem::I16 | Elem::U16 | Elem::I32 | Elem::U32 | Elem::I64 => {
                write!(f, "{}", self.0.as_int().expect("not a float"))
            }
        }
    }
}

impl Kernel {
    /// Registers that no statement assigns.
    fn unassigned(&self) -> Vec<Reg> {
        let mut assigned = vec![false; self.regs.len()];
        verify::walk(&self.body, &mut |stmt| {
            let dst = match stmt {
                Stmt::Inst(inst) => inst.dst(),
                Stmt::For(l) => Some(l.var),
                Stmt::If(_) => None,
            };
            if let Some(a) = dst.and_then(|r| assigned.get_mut(r.0 as usize)) {
                *a = true;
            }
        });
        (0..self.regs.len() as u32).map(Reg).filter(|r| !assigned[r.0 as usize]).collect()
    }

    fn list(&self, f: &mut Formatter<'_>, stmts: &[Stmt], depth: usize) -> fmt::Result {
        for stmt in stmts {
            indent(f, depth)?;
            match stmt {
                Stmt::Inst(inst) => {
                    if let Some(dst) = inst.dst() {
                        write!(f, "{}", R(self, dst))?;
                        if let Some(info) = self.regs.get(dst.0 as usize) {
                            write!(f, ": {}", info.ty)?;
                        }
                        f.write_str(" = ")?;
                    }
                    self.inst(f, inst)?;
                }
                Stmt::For(l) => {
                    let [var, lo, hi] = [l.var, l.lo, l.hi].map(|r| R(self, r));
                    writeln!(f, "for {var} in {lo}..{hi} step {} {{", l.step)?;
                    self.list(f, &l.body, depth + 1)?;
                    indent(f, depth)?;
                    f.write_char('}')?;
                }
                Stmt::If(i) => {
                    writeln!(f, "if {} {{", R(self, i.cond))?;
                    self.list(f, &i.on_true, depth + 1)?;
                    indent(f, depth)?;
                    f.write_char('}')?;
                    if !i.on_false.is_empty() {
                        writeln!(f, " else {{")?;
                        self.list(f, &i.on_false, depth + 1)?;
                        indent(f, depth)?;
                        f.write_char('}')?;
                    }
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn inst(&self, f: &mut Formatter<'_>, inst: &Inst) -> fmt::Result {
        let r = |reg: &Reg| R(self, *reg);
        let at = |mem: &Mem, index: &Reg| At(self, *mem, *index);
        match inst {
            Inst::Const { value, .. } => write!(f, "const {}", Literal(*value)),
            Inst::Dim { dim, .. } => {
                write!(f, "dim {}", self.dims.get(dim.0 as usize).map_or("<undeclared>", String::as_str))
            }
            Inst::BlockIdx { .. } => f.write_str("block_idx"),
            Inst::ThreadIdx { axis, .. } => write!(f, "thread_idx {}", axis.name()),
            Inst::Copy { src, .. } => write!(f, "copy {}", r(src)),
            Inst::Unary { op, src, .. } => write!(f, "{} {}", op.name(), r(src)),
            Inst::Math { op, src, .. } => write!(f, "{} {}", op.name(), r(src)),
            Inst::Binary { op, lhs, rhs, .. } => write!(f, "{} {}, {}", op.name(), r(lhs), r(rhs)),
            Inst::Fma { a, b, c, .. } => write!(f, "fma {}, {}, {}", r(a), r(b), r(c)),
            Inst::Dot { a, b, acc, .. } => write!(f, "dot {}, {}, {}", r(a), r(b), r(acc)),
            Inst::Compare { op, lhs, rhs, .. } => write!(f, "{} {}, {}", op.name(), r(lhs), r(rhs)),
            Inst::Select { cond, on_true, on_false, .. } => {
                write!(f, "select {}, {}, {}", r(cond), r(on_true), r(on_false))
            }
            Inst::Cast { src, .. } => write!(f, "cast {}", r(src)),
            Inst::Bitcast { src, .. } => write!(f, "bitcast {}", r(src)),
            Inst::Splat { src, .. } => write!(f, "splat {}", r(src)),
            Inst::Iota { .. } => f.write_str("iota"),
            Inst::Extract { src, lane, .. } => write!(f, "extract {}, {lane}", r(src)),
            Inst::Insert { src, value, lane, .. } => write!(f, "insert {}, {}, {lane}", r(src), r(value)),
            Inst::Reduce { op, src, .. } => write!(f, "{} {}", op.name(), r(src)),
            Inst::Shuffle { a, b, pattern, .. } => write!(f, "shuffle {}, {}, {pattern:?}", r(a), r(b)),
            Inst::Load { mem, index, mask, .. } => {
                write!(f, "load {}", at(mem, index))?;
                self.option(f, "mask", *mask)
            }
            Inst::Store { mem, index, src, mask } => {
                write!(f, "store {}, {}", at(mem, index), r(src))?;
                self.option(f, "mask", *mask)
            }
            Inst::Gather { mem, index, mask, .. } => {
                write!(f, "gather {}", at(mem, index))?;
                self.option(f, "mask", *mask)
            }
            Inst::Scatter { mem, index, src, mask } => {
                write!(f, "scatter {}, {}", at(mem, index), r(src))?;
                self.option(f, "mask", *mask)
            }
            Inst::WarpShuffle { op, src, amount, .. } => write!(f, "{} {}, {}", op.name(), r(src), r(amount)),
            Inst::Barrier => f.write_str("barrier"),
            Inst::AsyncCopy { dst, dst_index, src, src_index, elems, pred } => {
                write!(f, "async_copy {}, {}, {elems}", at(dst, dst_index), at(src, src_index))?;
                self.option(f, "pred", *pred)
            }
            Inst::AsyncCommit => f.write_str("async_commit"),
            Inst::AsyncWait { pending } => write!(f, "async_wait {pending}"),
            Inst::TileFill { value, .. } => write!(f, "tile_fill {}", Literal(*value)),
            Inst::TileLoad { mem, index, stride, layout, .. } => {
                write!(f, "tile_load {}, {}, {}", at(mem, index), r(stride), layout.name())
            }
            Inst::TileStore { mem, index, stride, layout, src } => {
                write!(f, "tile_store {}, {}, {}, {}", at(mem, index), r(stride), layout.name(), r(src))
            }
            Inst::TileBinary { op, lhs, rhs, .. } => {
                write!(f, "tile_binary {} {}, {}", op.name(), r(lhs), r(rhs))
            }
            Inst::TileExp2 { src, .. } => write!(f, "tile_exp2 {}", r(src)),
            Inst::TileCast { src, .. } => write!(f, "tile_cast {}", r(src)),
            Inst::GroupMma { a, b, steps, .. } => {
                match a {
                    GroupLeft::Shared(a) => write!(f, "group_mma {}, ", at(&a.mem, &a.index))?,
                    GroupLeft::Tile(a) => write!(f, "group_mma_tile {}, ", r(a))?,
                }
                write!(f, "{}, {steps}", at(&b.mem, &b.index))?;
                let is_left_turned = matches!(a, GroupLeft::Shared(a) if a.is_turned);
                for (word, is) in [("left_turned", is_left_turned), ("right_turned", b.is_turned)] {
                    if is {
                        write!(f, " {word}")?;
                    }
                }
                Ok(())
            }
            Inst::GroupWait { pending } => write!(f, "group_wait {pending}"),
            Inst::Mma { a, b, acc, .. } => write!(f, "mma {}, {}, {}", r(a), r(b), r(acc)),
        }
    }

    fn option(&self, f: &mut Formatter<'_>, name: &str, reg: Option<Reg>) -> fmt::Result {
        match reg {
            Some(reg) => write!(f, " {name} {}", R(self, reg)),
            None => Ok(()),
        }
    }
}

fn indent(f: &mut Formatter<'_>, depth: usize) -> fmt::Result {
    (0..depth).try_for_each(|_| f.write_str("  "))
}
