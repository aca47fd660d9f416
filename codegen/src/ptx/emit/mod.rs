//! Kernels as typed PTX instructions.

mod arith;
mod convert;
mod group;
mod memory;
mod tile;
mod wait;
mod warp;

use super::align::Alignment;
use super::arrays;
use super::error::PtxError;
use super::isa::*;
use super::offsets::Offsets;
use super::print::{ArrayDecl, DYNAMIC, Entry};
use crate::kernel::{self, Axis, CompareOp, Const, Elem, For, If, Kernel, Mem, Reg, RegTy, Stmt};
use crate::target::{GpuArch, GpuTarget};

/// The entry point of a verified kernel.
pub(super) fn entry(kernel: &Kernel, target: &GpuTarget) -> Result<Entry, PtxError> {
    let (_, bytes) = arrays::places(kernel);
    if bytes > target.max_shared_bytes {
        let (kernel, limit) = (kernel.name.clone(), target.max_shared_bytes);
        return Err(PtxError::Shared { kernel, bytes, limit });
    }
    let is_dynamic = arrays::dynamic_shared_bytes(kernel, target) > 0;
    let mut e = Emitter {
        kernel,
        alignment: Alignment::of(kernel),
        offsets: Offsets::of(kernel),
        regs: Vec::with_capacity(kernel.regs.len()),
        n_vars: [0; 6],
        lines: Vec::new(),
        n_labels: 0,
        params: Vec::new(),
        shared: Vec::new(),
        locals: Vec::new(),
        lane: None,
        has_groups: has_groups(&kernel.body),
    };
    if e.has_groups && target.arch < GpuArch::Sm90a {
        return Err(PtxError::Unsupported { kernel: kernel.name.clone(), inst: "group_mma".into() });
    }
    e.registers()?;
    e.prologue(is_dynamic);
    e.body(target.arch >= GpuArch::Sm90a)?;
    e.push(Inst::Return);
    let shared = if is_dynamic { &[][..] } else { &kernel.shared[..] };
    let declared = [(Space::Shared, shared), (Space::Local, &kernel.locals[..])];
    let arrays = declared.into_iter().flat_map(|(space, arrays)| {
        arrays.iter().filter(|a| a.over.is_none()).map(move |a| ArrayDecl {
            space,
            name: array_name(kernel, &a.name),
            bytes: arrays::bytes(a),
            align: arrays::align(a),
        })
    });
    Ok(Entry {
        name: kernel.name.clone(),
        n_params: kernel.params.len() + kernel.dims.len(),
        threads: kernel.block,
        arrays: arrays.collect(),
        n_vars: e.n_vars,
        lines: e.lines,
    })
}

/// Arrays of several kernels share the module's names.
fn array_name(kernel: &Kernel, array: &str) -> String {
    format!("{}__{array}", kernel.name)
}

/// Whether there are products of warp groups.
fn has_groups(body: &[Stmt]) -> bool {
    body.iter().any(|stmt| match stmt {
        Stmt::Inst(inst) => matches!(inst, kernel::Inst::GroupMma { .. }),
        Stmt::For(l) => has_groups(&l.body),
        Stmt::If(i) => has_groups(&i.on_true) || has_groups(&i.on_false),
    })
}

struct Emitter<'k> {
    kernel: &'k Kernel,
    alignment: Alignment,
    offsets: Offsets,
    /// The registers behind each kernel register: one per lane, or those of a tile.
    regs: Vec<Vec<Var>>,
    n_vars: [u32; 6],
    lines: Vec<Line>,
    n_labels: u32,
    /// Where the arrays begin.
    params: Vec<Var>,
    shared: Vec<Var>,
    locals: Vec<Var>,
    /// The thread's place in its warp, once a tile needed it; read at the start of the kernel.
    lane: Option<Var>,
    /// Whether the matrix units read shared memory by themselves.
    has_groups: bool,
}

/// The class of registers that hold a value.
fn class(elem: Elem) -> Class {
    match elem {
        Elem::Bool => Class::Pred,
        Elem::I8 | Elem::U8 | Elem::I16 | Elem::U16 | Elem::F16 | Elem::Bf16 => Class::B16,
        Elem::I32 | Elem::U32 => Class::B32,
        Elem::I64 | Elem::U64 => Class::B64,
        Elem::F32 => Class::F32,
        Elem::F64 => Class::F64,
    }
}

/// The untyped suffix for a class.
fn bits(class: Class) -> Ty {
    match class {
        Class::Pred => Ty::Pred,
        Class::B16 => Ty::B16,
        Class::B32 => Ty::B32,
        Class::B64 => Ty::B64,
        Class::F32 => Ty::F32,
        Class::F64 => Ty::F64,
    }
}

/// The suffix of arithmetic. Eight-bit integers are computed in 16 bits, extended as their type says.
fn arith(elem: Elem) -> Ty {
    match elem {
        Elem::Bool => Ty::Pred,
        Elem::I8 | Elem::I16 => Ty::S16,
        Elem::U8 | Elem::U16 => Ty::U16,
        Elem::I32 => Ty::S32,
        Elem::U32 => Ty::U32,
        Elem::I64 => Ty::S64,
        Elem::U64 => Ty::U64,
        Elem::F16 => Ty::F16,
        Elem::Bf16 => Ty::Bf16,
        Elem::F32 => Ty::F32,
        Elem::F64 => Ty::F64,
    }
}

/// A constant as an operand.
fn literal(value: Const) -> Src {
    match value.elem() {
        Elem::F32 => Src::F32(value.bits() as u32),
        Elem::F64 => Src::F64(value.bits()),
        // All bits of a true predicate are set.
        Elem::Bool => Src::Int(-(value.bits() as i64)),
        Elem::F16 | Elem::Bf16 => Src::Int(value.bits() as i64),
        _ => Src::Int(value.as_int().unwrap_or_default()),
    }
}

impl<'k> Emitter<'k> {
    fn registers(&mut self) -> Result<(), PtxError> {
        for info in &self.kernel.regs {
            let vars = match info.ty {
                RegTy::Vec { elem, lanes } => (0..lanes).map(|_| self.var(class(elem))).collect(),
                RegTy::Tile(tile) => {
                    let (class, n) = tile::fragment(tile)
                        .ok_or_else(|| PtxError::Tile { kernel: self.kernel.name.clone(), ty: info.ty })?;
                    (0..n).map(|_| self.var(class)).collect()
                }
            };
            self.regs.push(vars);
        }
        Ok(())
    }

    /// Addresses of all arrays.
    fn prologue(&mut self, is_dynamic: bool) {
        for index in 0..self.kernel.params.len() {
            let (generic, dst) = (self.var(Class::B64), self.var(Class::B64));
            self.push(Inst::Param { dst: generic, index });
            self.push(Inst::ToGlobal { dst, src: generic });
            self.params.push(dst);
        }
        let address = |e: &mut Self, name: String| {
            let dst = e.var(Class::B64);
            e.push(Inst::AddressOf { dst, name });
            dst
        };
        let kernel = self.kernel;
        let (places, _) = arrays::places(kernel);
        let shared = |(array, place): (&kernel::Array, &u64)| match is_dynamic {
            true => format!("{DYNAMIC}+{place}"),
            false => {
                let owner = array.over.map_or(array, |under| &kernel.shared[under.0 as usize]);
                array_name(kernel, &owner.name)
            }
        };
        self.shared = kernel.shared.iter().zip(&places).map(|a| address(self, shared(a))).collect();
        self.locals = kernel.locals.iter().map(|a| address(self, array_name(kernel, &a.name))).collect();
        if self.kernel.regs.iter().any(|r| r.ty.lanes().is_none()) {
            let lane = self.var(Class::B32);
            self.push(Inst::Special { dst: lane, src: Special::Lane });
            let wide = self.var(Class::B64);
            self.convert((Ty::U64, Ty::U32), Rounding::None, wide, lane);
            self.lane = Some(wide);
        }
    }

    /// A new virtual register.
    fn var(&mut self, class: Class) -> Var {
        let n = &mut self.n_vars[class as usize];
        *n += 1;
        Var { class, id: *n - 1 }
    }

    fn push(&mut self, inst: Inst) {
        self.lines.push(Line::Inst { when: None, inst });
    }

    /// `inst` if the predicate holds.
    fn push_if(&mut self, when: (Var, bool), inst: Inst) {
        self.lines.push(Line::Inst { when: Some(when), inst });
    }

    fn label(&mut self) -> u32 {
        self.n_labels += 1;
        self.n_labels - 1
    }

    /// All registers of a kernel register.
    fn vars(&self, reg: Reg) -> Vec<Var> {
        self.regs[reg.0 as usize].clone()
    }

    /// The register of a scalar.
    fn scalar(&self, reg: Reg) -> Var {
        self.regs[reg.0 as usize][0]
    }

    fn elem(&self, reg: Reg) -> Elem {
        self.kernel.ty(reg).elem()
    }

    fn unsupported<T>(&self, inst: &kernel::Inst) -> Result<T, PtxError> {
        Err(PtxError::Unsupported { kernel: self.kernel.name.clone(), inst: format!("{inst:?}") })
    }

    fn mov(&mut self, dst: Var, src: impl Into<Src>) {
        self.push(Inst::Mov { ty: bits(dst.class), dst, src: src.into() });
    }

    fn binary(&mut self, op: Binary, ty: Ty, dst: Var, a: impl Into<Src>, b: impl Into<Src>) {
        self.push(Inst::Binary { op, ty, dst, a: a.into(), b: b.into() });
    }

    fn convert(&mut self, (to, from): (Ty, Ty), rounding: Rounding, dst: Var, src: Var) {
        self.push(Inst::Convert { to, from, rounding, dst, src });
    }

    fn list(&mut self, body: &[Stmt]) -> Result<(), PtxError> {
        for stmt in body {
            match stmt {
                Stmt::Inst(inst) => self.inst(inst)?,
                Stmt::For(l) => self.for_(l)?,
                Stmt::If(i) => self.if_(i)?,
            }
        }
        Ok(())
    }

    /// The condition is tested before the first turn and after each.
    fn for_(&mut self, l: &For) -> Result<(), PtxError> {
        let (var, hi, go) = (self.scalar(l.var), self.var(Class::B64), self.var(Class::Pred));
        let (lo, limit) = (self.scalar(l.lo), self.scalar(l.hi));
        self.mov(hi, limit);
        self.mov(var, lo);
        let (head, end) = (self.label(), self.label());
        let test = Inst::SetPred { op: CompareOp::Lt, ty: Ty::S64, dst: go, a: var.into(), b: hi.into() };
        self.push(test.clone());
        self.push_if((go, false), Inst::Branch { label: end });
        self.lines.push(Line::Label(head));
        self.list(&l.body)?;
        self.binary(Binary::Add, Ty::S64, var, var, Src::Int(l.step));
        self.push(test);
        self.push_if((go, true), Inst::Branch { label: head });
        self.lines.push(Line::Label(end));
        Ok(())
    }

    fn if_(&mut self, i: &If) -> Result<(), PtxError> {
        let cond = self.scalar(i.cond);
        let (otherwise, end) = (self.label(), self.label());
        self.push_if((cond, false), Inst::Branch { label: otherwise });
        self.list(&i.on_true)?;
        if !i.on_false.is_empty() {
            self.push(Inst::Branch { label: end });
        }
        self.lines.push(Line::Label(otherwise));
        if !i.on_false.is_empty() {
            self.list(&i.on_false)?;
            self.lines.push(Line::Label(end));
        }
        Ok(())
    }

    fn inst(&mut self, inst: &kernel::Inst) -> Result<(), PtxError> {
        use kernel::Inst as K;
        match inst {
            K::Const { dst, value } => {
                for var in self.vars(*dst) {
                    self.mov(var, literal(*value));
                }
            }
            K::Dim { dst, dim } => {
                let (dst, index) = (self.scalar(*dst), self.kernel.params.len() + dim.0 as usize);
                self.push(Inst::Param { dst, index });
            }
            K::BlockIdx { dst } => self.special(*dst, Special::BlockX),
            K::ThreadIdx { dst, axis } => self.special(
                *dst,
                match axis {
                    Axis::X => Special::ThreadX,
                    Axis::Y => Special::ThreadY,
                    Axis::Z => Special::ThreadZ,
                },
            ),
            K::Copy { dst, src } => {
                for (dst, src) in self.vars(*dst).into_iter().zip(self.vars(*src)) {
                    self.mov(dst, src);
                }
            }
            K::Unary { dst, op, src } => self.unary(inst, *dst, *op, *src)?,
            K::Math { dst, op, src } => self.math(inst, *dst, *op, *src)?,
            K::Binary { dst, op, lhs, rhs } => self.arithmetic(inst, *dst, *op, *lhs, *rhs)?,
            K::Fma { dst, a, b, c } => self.fma(inst, *dst, [*a, *b, *c])?,
            K::Dot { .. } => return self.unsupported(inst),
            K::Compare { dst, op, lhs, rhs } => self.compare(inst, *dst, *op, *lhs, *rhs)?,
            K::Select { dst, cond, on_true, on_false } => self.select(*dst, *cond, *on_true, *on_false),
            K::Cast { dst, src } => self.cast(*dst, *src),
            K::Bitcast { dst, src } => self.bitcast(*dst, *src),
            K::Splat { dst, src } => {
                let src = self.scalar(*src);
                for dst in self.vars(*dst) {
                    self.mov(dst, src);
                }
            }
            K::Iota { dst } => {
                for (lane, dst) in self.vars(*dst).into_iter().enumerate() {
                    self.mov(dst, Src::Int(lane as i64));
                }
            }
            K::Extract { dst, src, lane } => {
                let (dst, src) = (self.scalar(*dst), self.vars(*src)[usize::from(*lane)]);
                self.mov(dst, src);
            }
            K::Insert { dst, src, value, lane } => {
                let (value, src) = (self.scalar(*value), self.vars(*src));
                self.assign(*dst, |i| if i == usize::from(*lane) { value } else { src[i] });
            }
            K::Reduce { dst, op, src } => self.reduce(inst, *dst, *op, *src)?,
            K::Shuffle { dst, a, b, pattern } => {
                let from = [self.vars(*a), self.vars(*b)].concat();
                self.assign(*dst, |i| from[usize::from(pattern[i])]);
            }
            K::Load { dst, mem, index, mask } => self.load(*dst, *mem, *index, *mask),
            K::Store { mem, index, src, mask } => self.store(*mem, *index, *src, *mask),
            K::Gather { dst, mem, index, mask } => self.gather(*dst, *mem, *index, *mask),
            K::Scatter { mem, index, src, mask } => self.scatter(*mem, *index, *src, *mask),
            K::WarpShuffle { dst, op, src, amount } => self.warp_shuffle(*dst, *op, *src, *amount),
            K::Barrier => {
                if self.has_groups {
                    self.push(Inst::ProxyFence);
                }
                self.push(Inst::Barrier);
            }
            K::TileBinary { dst, op, lhs, rhs } => self.tile_binary(inst, *dst, *op, (*lhs, *rhs))?,
            K::TileExp2 { dst, src } => {
                for (dst, src) in self.vars(*dst).into_iter().zip(self.vars(*src)) {
                    self.push(Inst::Unary { op: Unary::Exp2Approx, ty: Ty::F32, dst, src: src.into() });
                }
            }
            K::TileCast { dst, src } => self.tile_cast(inst, *dst, *src)?,
            K::GroupMma { acc, a, b, steps } => self.group_mma(*acc, *a, *b, *steps),
            K::GroupWait { pending } => self.push(Inst::GroupWait { pending: *pending }),
            K::AsyncCopy { dst, dst_index, src, src_index, elems, pred } => {
                self.async_copy((*dst, *dst_index), (*src, *src_index), *elems, *pred);
            }
            K::AsyncCommit => self.push(Inst::AsyncCommit),
            K::AsyncWait { pending } => self.push(Inst::AsyncWait { pending: *pending }),
            K::TileFill { dst, value } => self.tile_fill(*dst, *value),
            K::TileLoad { dst, mem, index, stride, layout } => {
                self.tile_load(*dst, *mem, (*index, *stride), *layout);
            }
            K::TileStore { mem, index, stride, layout, src } => {
                self.tile_store(inst, *mem, (*index, *stride), *layout, *src)?;
            }
            K::Mma { dst, a, b, acc } => self.mma(inst, *dst, (*a, *b, *acc))?,
        }
        Ok(())
    }

    fn special(&mut self, dst: Reg, src: Special) {
        let (narrow, dst) = (self.var(Class::B32), self.scalar(dst));
        self.push(Inst::Special { dst: narrow, src });
        self.convert((Ty::U64, Ty::U32), Rounding::None, dst, narrow);
    }

    /// Lane `i` of `dst` becomes `from(i)`, as if all were read before any is written.
    fn assign(&mut self, dst: Reg, from: impl Fn(usize) -> Var) {
        let dst = self.vars(dst);
        let copies: Vec<Var> = dst.iter().map(|d| self.var(d.class)).collect();
        for (i, copy) in copies.iter().enumerate() {
            self.mov(*copy, from(i));
        }
        for (dst, copy) in dst.into_iter().zip(copies) {
            self.mov(dst, copy);
        }
    }

    /// Where an array begins, and its space.
    fn array(&self, mem: Mem) -> (Space, Var) {
        match mem {
            Mem::Param(id) => (Space::Global, self.params[id.0 as usize]),
            Mem::Shared(id) => (Space::Shared, self.shared[id.0 as usize]),
            Mem::Local(id) => (Space::Local, self.locals[id.0 as usize]),
        }
    }
}
