//! Types, address spaces and bounds of single instructions.

use super::*;

const I64: RegTy = RegTy::scalar(Elem::I64);

impl Verifier<'_> {
    pub(super) fn inst(&mut self, inst: &Inst) {
        match inst {
            Inst::Const { dst, value } => {
                if let Some(ty) = self.define_vec("const", *dst) {
                    self.elem("const", ty, value.elem());
                }
            }
            Inst::Dim { dst, dim } => {
                if dim.0 as usize >= self.kernel.dims.len() {
                    self.fault(FaultKind::UnknownDim(dim.0));
                }
                self.define_as("dim", *dst, I64);
            }
            Inst::BlockIdx { dst } => self.define_as("block_idx", *dst, I64),
            Inst::ThreadIdx { dst, .. } => self.define_as("thread_idx", *dst, I64),
            Inst::Copy { dst, src } => self.like("copy", *src, *dst, |_| None),
            Inst::Unary { dst, op, src } => self.like("unary", *src, *dst, |e| unary_domain(*op, e)),
            Inst::Math { dst, src, .. } => self.like("math", *src, *dst, floats),
            Inst::Binary { dst, op, lhs, rhs } => {
                if let Some(ty) = self.use_vec("binary", *lhs) {
                    self.use_as("binary", "right operand", *rhs, ty);
                    self.domain("binary", ty, binary_domain(*op, ty.elem()));
                    self.define_as("binary", *dst, ty);
                }
            }
            Inst::Fma { dst, a, b, c } => {
                if let Some(ty) = self.use_vec("fma", *a) {
                    self.use_as("fma", "second operand", *b, ty);
                    self.use_as("fma", "third operand", *c, ty);
                    self.domain("fma", ty, floats(ty.elem()));
                    self.define_as("fma", *dst, ty);
                }
            }
            Inst::Dot { dst, a, b, acc } => {
                let (a_ty, b_ty) = (self.use_vec("dot", *a), self.use_vec("dot", *b));
                if let (Some(a_ty), Some(b_ty), Some(ty)) = (a_ty, b_ty, self.use_vec("dot", *acc)) {
                    match types::dot_ratio(a_ty.elem(), b_ty.elem(), ty.elem()) {
                        None => self.domain(
                            "dot",
                            a_ty,
                            Some("u8 and i8, i8 and i8, i16 and i16, or bf16 and bf16"),
                        ),
                        Some(ratio) => {
                            let lanes = ty.lanes().map(|lanes| lanes * ratio);
                            self.lanes("dot", lanes, a_ty.lanes());
                            self.lanes("dot", lanes, b_ty.lanes());
                        }
                    }
                    self.define_as("dot", *dst, ty);
                }
            }
            Inst::Compare { dst, op, lhs, rhs } => {
                if let Some(ty) = self.use_vec("compare", *lhs) {
                    self.use_as("compare", "right operand", *rhs, ty);
                    let ordered = !matches!(op, CompareOp::Eq | CompareOp::Ne);
                    if ordered && ty.elem() == Elem::Bool {
                        self.domain("ordered compare", ty, Some("numbers"));
                    }
                    self.define_as("compare", *dst, ty.with_elem(Elem::Bool));
                }
            }
            Inst::Select { dst, cond, on_true, on_false } => {
                let cond = self.use_vec("select", *cond);
                if let Some(ty) = self.use_vec("select", *on_true) {
                    self.use_as("select", "second choice", *on_false, ty);
                    let expected = ty.with_elem(Elem::Bool);
                    if let Some(found) = cond.filter(|&c| c != expected && c != RegTy::scalar(Elem::Bool)) {
                        self.fault(FaultKind::TypeMismatch {
                            op: "select",
                            what: "condition",
                            expected,
                            found,
                        });
                    }
                    self.define_as("select", *dst, ty);
                }
            }
            Inst::Cast { dst, src } => {
                if let (Some(src), Some(dst)) = (self.use_vec("cast", *src), self.define_vec("cast", *dst)) {
                    self.lanes("cast", src.lanes(), dst.lanes());
                }
            }
            Inst::Bitcast { dst, src } => {
                if let (Some(src), Some(dst)) =
                    (self.use_vec("bitcast", *src), self.define_vec("bitcast", *dst))
                {
                    let bits = |ty: RegTy| ty.lanes().map(|lanes| ty.elem().bits() * u32::from(lanes));
                    let has_bool = [src, dst].iter().any(|ty| ty.elem() == Elem::Bool);
                    if bits(src) != bits(dst) || has_bool {
                        self.domain("bitcast", dst, Some("a type with as many bits, not bool"));
                    }
                }
            }
            Inst::Splat { dst, src } => {
                let src = self.use_vec("splat", *src);
                let dst = self.define_vec("splat", *dst);
                if let (Some(src), Some(dst)) = (src, dst) {
                    self.scalar_of("splat", "operand", dst, src);
                }
            }
            Inst::Iota { dst } => {
                if let Some(ty) = self.define_vec("iota", *dst) {
                    self.domain("iota", ty, integers(ty.elem()));
                }
            }
            Inst::Extract { dst, src, lane } => {
                if let Some(ty) = self.use_vec("extract", *src) {
                    self.lane("extract", *lane, ty);
                    self.define_as("extract", *dst, RegTy::scalar(ty.elem()));
                }
            }
            Inst::Insert { dst, src, value, lane } => {
                let value = self.use_vec("insert", *value);
                if let Some(ty) = self.use_vec("insert", *src) {
                    self.lane("insert", *lane, ty);
                    if let Some(value) = value {
                        self.scalar_of("insert", "value", ty, value);
                    }
                    self.define_as("insert", *dst, ty);
                }
            }
            Inst::Reduce { dst, src, .. } => {
                if let Some(ty) = self.use_vec("reduce", *src) {
                    if ty.elem() == Elem::Bool {
                        self.domain("reduce", ty, Some("numbers"));
                    }
                    if !ty.lanes().is_some_and(u16::is_power_of_two) {
                        self.domain("reduce", ty, Some("a power of two of lanes"));
                    }
                    self.define_as("reduce", *dst, RegTy::scalar(ty.elem()));
                }
            }
            Inst::Shuffle { dst, a, b, pattern } => {
                if let Some(ty) = self.use_vec("shuffle", *a) {
                    self.use_as("shuffle", "second operand", *b, ty);
                    let lanes = 2 * u32::from(ty.lanes().unwrap_or(0));
                    for &lane in pattern {
                        if u32::from(lane) >= lanes {
                            self.fault(FaultKind::BadLane { op: "shuffle", lane, lanes });
                        }
                    }
                    if let Some(dst) = self.define_vec("shuffle", *dst) {
                        self.elem("shuffle", dst, ty.elem());
                        if dst.lanes().map(usize::from) != Some(pattern.len()) {
                            let expected = dst.lanes().unwrap_or(0).to_string();
                            self.fault(FaultKind::LaneCount {
                                op: "shuffle",
                                expected,
                                found: pattern.len(),
                            });
                        }
                    }
                }
            }
            Inst::Load { dst, mem, index, mask } => {
                self.use_as("load", "index", *index, I64);
                let mask = self.mask(*mask);
                self.reads(*mem);
                if let Some(ty) = self.define_vec("load", *dst) {
                    self.mem_elem("load", *mem, ty);
                    self.mask_fits("load", mask, ty);
                    self.bounds(*mem, *index, ty, mask.is_some());
                }
            }
            Inst::Store { mem, index, src, mask } => {
                self.use_as("store", "index", *index, I64);
                let mask = self.mask(*mask);
                self.writes(*mem);
                if let Some(ty) = self.use_vec("store", *src) {
                    self.mem_elem("store", *mem, ty);
                    self.mask_fits("store", mask, ty);
                    self.bounds(*mem, *index, ty, mask.is_some());
                }
            }
            Inst::Gather { dst, mem, index, mask } => {
                let index = self.use_vec("gather", *index);
                let mask = self.mask(*mask);
                self.reads(*mem);
                if let Some(ty) = self.define_vec("gather", *dst) {
                    self.mem_elem("gather", *mem, ty);
                    self.mask_fits("gather", mask, ty);
                    self.index_fits("gather", index, ty);
                }
            }
            Inst::Scatter { mem, index, src, mask } => {
                let index = self.use_vec("scatter", *index);
                let mask = self.mask(*mask);
                self.writes(*mem);
                if let Some(ty) = self.use_vec("scatter", *src) {
                    self.mem_elem("scatter", *mem, ty);
                    self.mask_fits("scatter", mask, ty);
                    self.index_fits("scatter", index, ty);
                }
            }
            Inst::WarpShuffle { dst, src, amount, .. } => {
                self.use_as("warp shuffle", "amount", *amount, RegTy::scalar(Elem::I32));
                if let Some(ty) = self.use_vec("warp shuffle", *src) {
                    self.lanes("warp shuffle", Some(1), ty.lanes());
                    self.define_as("warp shuffle", *dst, ty);
                }
            }
            Inst::Barrier | Inst::AsyncCommit | Inst::AsyncWait { .. } => {}
            Inst::AsyncCopy { dst, dst_index, src, src_index, elems, pred } => {
                self.use_as("async copy", "destination index", *dst_index, I64);
                self.use_as("async copy", "source index", *src_index, I64);
                if let Some(pred) = pred {
                    self.use_as("async copy", "predicate", *pred, RegTy::scalar(Elem::Bool));
                }
                self.async_copy(*dst, *dst_index, *src, *elems);
            }
            Inst::TileFill { dst, value } => {
                if let Some(ty) = self.define(*dst) {
                    self.tile("tile fill", ty);
                    self.elem("tile fill", ty, value.elem());
                }
            }
            Inst::TileLoad { dst, mem, index, stride, .. } => {
                self.use_as("tile load", "index", *index, I64);
                self.use_as("tile load", "stride", *stride, I64);
                self.reads(*mem);
                self.not_local("tile load", *mem);
                if let Some(ty) = self.define(*dst) {
                    self.tile("tile load", ty);
                    self.mem_elem("tile load", *mem, ty);
                }
            }
            Inst::TileStore { mem, index, stride, src, .. } => {
                self.use_as("tile store", "index", *index, I64);
                self.use_as("tile store", "stride", *stride, I64);
                self.writes(*mem);
                self.not_local("tile store", *mem);
                if let Some(ty) = self.use_(*src) {
                    self.tile("tile store", ty);
                    self.mem_elem("tile store", *mem, ty);
                }
            }
            Inst::GroupMma { acc, a, b, steps } => {
                let left = match a {
                    GroupLeft::Shared(a) => {
                        self.use_as("group mma", "index of a", a.index, I64);
                        self.group_factor(a.mem)
                    }
                    GroupLeft::Tile(a) => self.group_tile(*a, *steps),
                };
                self.use_as("group mma", "index of b", b.index, I64);
                let ty = self.use_(*acc);
                self.define(*acc);
                let threads = self.kernel.n_threads();
                if !(1..=4).contains(steps) || !threads.is_multiple_of(128) {
                    self.fault(FaultKind::GroupMmaSteps { steps: *steps, threads });
                }
                if let (Some(a), Some(right), Some(acc)) = (left, self.group_factor(b.mem), ty)
                    && !(a == right && a.is_half() && is_group_acc(acc, b.is_turned))
                {
                    self.fault(FaultKind::GroupMmaShape { a, b: right, acc });
                }
            }
            Inst::GroupWait { .. } => {}
            Inst::TileBinary { dst, op, lhs, rhs } => {
                let ty = self.accumulator("tile binary", *lhs);
                if !matches!(op, BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul) {
                    self.fault(FaultKind::TileOp(*op));
                }
                if let Some(ty) = ty {
                    self.use_as("tile binary", "right operand", *rhs, ty);
                    self.define_as("tile binary", *dst, ty);
                }
            }
            Inst::TileExp2 { dst, src } => {
                if let Some(ty) = self.accumulator("tile exp2", *src) {
                    self.elem("tile exp2", ty, Elem::F32);
                    self.define_as("tile exp2", *dst, ty);
                }
            }
            Inst::TileCast { dst, src } => {
                let (from, to) = (self.accumulator("tile cast", *src), self.define(*dst));
                if let (Some(RegTy::Tile(from)), Some(to)) = (from, to) {
                    let expected = RegTy::Tile(TileTy { role: TileRole::A, elem: to.elem(), ..from });
                    if to != expected || !to.elem().is_float() {
                        self.fault(FaultKind::TypeMismatch {
                            op: "tile cast",
                            what: "result",
                            expected,
                            found: to,
                        });
                    }
                }
            }
            Inst::Mma { dst, a, b, acc } => {
                let (a, b, acc) = (self.use_(*a), self.use_(*b), self.use_(*acc));
                if let (Some(a), Some(b), Some(acc)) = (a, b, acc) {
                    if !mma_fits(a, b, acc) {
                        self.fault(FaultKind::MmaShape { a, b, acc });
                    }
                    self.define_as("mma", *dst, acc);
                }
            }
        }
    }

    fn use_vec(&mut self, op: &'static str, reg: Reg) -> Option<RegTy> {
        let ty = self.use_(reg)?;
        self.vec(op, ty)
    }

    fn define_vec(&mut self, op: &'static str, reg: Reg) -> Option<RegTy> {
        let ty = self.define(reg)?;
        self.vec(op, ty)
    }

    fn vec(&mut self, op: &'static str, ty: RegTy) -> Option<RegTy> {
        if ty.lanes().is_none() {
            self.domain(op, ty, Some("a vector or scalar"));
            return None;
        }
        Some(ty)
    }

    fn tile(&mut self, op: &'static str, ty: RegTy) {
        if ty.lanes().is_some() {
            self.domain(op, ty, Some("a tile"));
        }
    }

    /// dst has the type of src, whose element type must satisfy `domain`.
    fn like(&mut self, op: &'static str, src: Reg, dst: Reg, domain: impl Fn(Elem) -> Option<&'static str>) {
        let Some(ty) = self.use_(src) else { return };
        if op != "copy" && self.vec(op, ty).is_none() {
            return;
        }
        self.domain(op, ty, domain(ty.elem()));
        self.define_as(op, dst, ty);
    }

    fn domain(&mut self, op: &'static str, found: RegTy, expected: Option<&'static str>) {
        if let Some(expected) = expected {
            self.fault(FaultKind::BadOperandType { op, expected, found });
        }
    }

    fn elem(&mut self, op: &'static str, found: RegTy, elem: Elem) {
        let expected = found.with_elem(elem);
        if found != expected {
            self.fault(FaultKind::TypeMismatch { op, what: "element", expected, found });
        }
    }

    fn scalar_of(&mut self, op: &'static str, what: &'static str, vec: RegTy, found: RegTy) {
        let expected = RegTy::scalar(vec.elem());
        if found != expected {
            self.fault(FaultKind::TypeMismatch { op, what, expected, found });
        }
    }

    fn lanes(&mut self, op: &'static str, expected: Option<u16>, found: Option<u16>) {
        if expected != found {
            let expected = expected.unwrap_or(0).to_string();
            self.fault(FaultKind::LaneCount { op, expected, found: found.unwrap_or(0).into() });
        }
    }

    fn lane(&mut self, op: &'static str, lane: u16, ty: RegTy) {
        let lanes = ty.lanes().unwrap_or(0).into();
        if u32::from(lane) >= lanes {
            self.fault(FaultKind::BadLane { op, lane, lanes });
        }
    }

    fn mask(&mut self, mask: Option<Reg>) -> Option<RegTy> {
        mask.and_then(|m| self.use_(m))
    }

    fn mask_fits(&mut self, op: &'static str, mask: Option<RegTy>, ty: RegTy) {
        let expected = ty.with_elem(Elem::Bool);
        if let Some(found) = mask.filter(|&m| m != expected) {
            self.fault(FaultKind::TypeMismatch { op, what: "mask", expected, found });
        }
    }

    fn index_fits(&mut self, op: &'static str, index: Option<RegTy>, ty: RegTy) {
        let expected = ty.with_elem(Elem::I64);
        if let Some(found) = index.filter(|&i| i != expected) {
            self.fault(FaultKind::TypeMismatch { op, what: "index", expected, found });
        }
    }

    fn declared(&self, mem: Mem) -> bool {
        match mem {
            Mem::Param(id) => (id.0 as usize) < self.kernel.params.len(),
            Mem::Shared(id) => (id.0 as usize) < self.kernel.shared.len(),
            Mem::Local(id) => (id.0 as usize) < self.kernel.locals.len(),
        }
    }

    fn reads(&mut self, mem: Mem) {
        self.access(mem, "reads", Access::reads);
    }

    fn writes(&mut self, mem: Mem) {
        self.access(mem, "writes", Access::writes);
    }

    fn access(&mut self, mem: Mem, does: &'static str, allowed: impl Fn(Access) -> bool) {
        if !self.declared(mem) {
            self.fault(FaultKind::UnknownMem(mem));
        } else if let Mem::Param(id) = mem {
            let p = &self.kernel.params[id.0 as usize];
            if !allowed(p.access) {
                self.fault(FaultKind::Access { name: p.name.clone(), access: p.access, does });
            }
        }
    }

    fn mem_elem(&mut self, op: &'static str, mem: Mem, ty: RegTy) {
        if self.declared(mem) {
            self.elem(op, ty, self.kernel.mem_elem(mem));
        }
    }

    /// The type of an accumulator that is read.
    fn accumulator(&mut self, op: &'static str, reg: Reg) -> Option<RegTy> {
        let ty = self.use_(reg)?;
        if !matches!(ty, RegTy::Tile(tile) if tile.role == TileRole::Acc) {
            self.domain(op, ty, Some("an accumulator"));
            return None;
        }
        Some(ty)
    }

    /// The element type of a tile that is the left factor of a product of so many steps.
    fn group_tile(&mut self, reg: Reg, steps: u16) -> Option<Elem> {
        let ty = self.use_(reg)?;
        let RegTy::Tile(tile) = ty else {
            self.domain("group mma", ty, Some("a left factor"));
            return None;
        };
        let expected = TileTy { rows: 16, cols: 16 * steps, role: TileRole::A, ..tile };
        if tile != expected {
            let (op, what, expected) = ("group mma", "left factor", RegTy::Tile(expected));
            self.fault(FaultKind::TypeMismatch { op, what, expected, found: ty });
        }
        Some(tile.elem)
    }

    /// The element type of a swizzled shared array.
    fn group_factor(&mut self, mem: Mem) -> Option<Elem> {
        if !self.declared(mem) {
            return None;
        }
        let Mem::Shared(id) = mem else {
            let (op, what, expected) = ("group mma", "a factor", "shared");
            self.fault(FaultKind::AddressSpace { op, what, expected, found: mem });
            return None;
        };
        let array = &self.kernel.shared[id.0 as usize];
        if !array.swizzled {
            self.fault(FaultKind::NotSwizzled(array.name.clone()));
        }
        Some(array.elem)
    }

    /// A tile belongs to a warp; where that is one thread, its own arrays serve.
    fn not_local(&mut self, op: &'static str, mem: Mem) {
        if matches!(mem, Mem::Local(_)) && self.kernel.n_threads() != 1 {
            let expected = "global or shared";
            self.fault(FaultKind::AddressSpace { op, what: "a tile", expected, found: mem });
        }
    }

    /// Constant indices into arrays of static length.
    fn bounds(&mut self, mem: Mem, index: Reg, ty: RegTy, masked: bool) {
        if let Some(lanes) = ty.lanes().filter(|_| !masked) {
            self.bounds_of(mem, index, lanes);
        }
    }

    fn bounds_of(&mut self, mem: Mem, index: Reg, n: u16) {
        let array = match mem {
            Mem::Param(_) => None,
            Mem::Shared(id) => self.kernel.shared.get(id.0 as usize),
            Mem::Local(id) => self.kernel.locals.get(id.0 as usize),
        };
        if let (Some(array), Some(index)) = (array, self.const_of(index)) {
            let end = index.saturating_add(n.into());
            if index < 0 || end > array.len.into() {
                let name = array.name.clone();
                self.fault(FaultKind::OutOfBounds { name, index, end, len: array.len });
            }
        }
    }

    fn async_copy(&mut self, dst: Mem, dst_index: Reg, src: Mem, elems: u16) {
        let op = "async copy";
        self.reads(src);
        self.writes(dst);
        if !matches!(dst, Mem::Shared(_)) {
            self.fault(FaultKind::AddressSpace { op, what: "destination", expected: "shared", found: dst });
        }
        if !matches!(src, Mem::Param(_)) {
            self.fault(FaultKind::AddressSpace { op, what: "source", expected: "global", found: src });
        }
        if self.declared(dst) && self.declared(src) {
            let elem = self.kernel.mem_elem(src);
            self.mem_elem(op, dst, RegTy::scalar(elem));
            let bytes = elem.size() * usize::from(elems);
            if !matches!(bytes, 4 | 8 | 16) {
                self.fault(FaultKind::AsyncSize(bytes));
            }
            self.bounds_of(dst, dst_index, elems);
        }
    }
}

fn floats(e: Elem) -> Option<&'static str> {
    (!e.is_float()).then_some("floats")
}

fn integers(e: Elem) -> Option<&'static str> {
    (!e.is_int()).then_some("integers")
}

fn unary_domain(op: UnaryOp, e: Elem) -> Option<&'static str> {
    match op {
        UnaryOp::Neg => (e == Elem::Bool).then_some("numbers"),
        UnaryOp::Abs => (!e.is_float() && !e.is_signed_int()).then_some("signed numbers"),
        UnaryOp::Sqrt | UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Trunc | UnaryOp::Round => floats(e),
        UnaryOp::Not => e.is_float().then_some("integers or bool"),
    }
}

fn binary_domain(op: BinaryOp, e: Elem) -> Option<&'static str> {
    match op {
        BinaryOp::Add
        | BinaryOp::Sub
        | BinaryOp::Mul
        | BinaryOp::Div
        | BinaryOp::Rem
        | BinaryOp::Min
        | BinaryOp::Max => (e == Elem::Bool).then_some("numbers"),
        BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => e.is_float().then_some("integers or bool"),
        BinaryOp::Shl | BinaryOp::Shr => integers(e),
        BinaryOp::Pow | BinaryOp::Exp2Mul => floats(e),
    }
}

fn mma_fits(a: RegTy, b: RegTy, acc: RegTy) -> bool {
    let (RegTy::Tile(a), RegTy::Tile(b), RegTy::Tile(acc)) = (a, b, acc) else { return false };
    (a.role, b.role, acc.role) == (TileRole::A, TileRole::B, TileRole::Acc)
        && (a.rows, b.cols, a.cols) == (acc.rows, acc.cols, b.rows)
        && match (a.elem, b.elem) {
            (Elem::I8, Elem::U8) => acc.elem == Elem::I32,
            _ => {
                a.elem == b.elem
                    && a.elem.is_float()
                    && acc.elem.is_float()
                    && a.elem.bits() <= acc.elem.bits()
            }
        }
}

/// Whether a tile can be the accumulator of a warp group's product; a turned factor has no more columns than a row holds.
fn is_group_acc(acc: RegTy, is_turned: bool) -> bool {
    let RegTy::Tile(acc) = acc else { return false };
    acc.role == TileRole::Acc
        && acc.elem == Elem::F32
        && acc.rows == 16
        && acc.cols % 8 == 0
        && acc.cols <= if is_turned { 64 } else { 256 }
}
