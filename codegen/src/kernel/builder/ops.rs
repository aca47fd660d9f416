//! One method per instruction.

use super::{fold::Folded, *};

/// Methods `fn op(a, b)` for binary operations.
macro_rules! binary_methods {
    ($($(#[$doc:meta])* $name:ident = $op:ident;)*) => {
        $($(#[$doc])*
        pub fn $name(&mut self, lhs: impl Into<Value>, rhs: impl Into<Value>) -> Reg {
            self.binary(BinaryOp::$op, lhs, rhs)
        })*
    };
}

/// Methods `fn op(x)` for unary operations and math functions.
macro_rules! unary_methods {
    ($method:ident, $enum:ident: $($name:ident = $op:ident;)*) => {
        $(
            #[doc = concat!("[`", stringify!($enum), "::", stringify!($op), "`]")]
            pub fn $name(&mut self, src: Reg) -> Reg {
                self.$method($enum::$op, src)
            }
        )*
    };
}

/// Methods `fn op(a, b)` for comparisons.
macro_rules! compare_methods {
    ($($name:ident = $op:ident;)*) => {
        $(
            #[doc = concat!("[`CompareOp::", stringify!($op), "`]")]
            pub fn $name(&mut self, lhs: impl Into<Value>, rhs: impl Into<Value>) -> Reg {
                self.compare(CompareOp::$op, lhs, rhs)
            }
        )*
    };
}

impl KernelBuilder {
    unary_methods! { unary, UnaryOp:
        neg = Neg; abs = Abs; sqrt = Sqrt; floor = Floor; ceil = Ceil; trunc = Trunc; round = Round; not = Not;
    }

    unary_methods! { math, MathOp:
        exp = Exp; exp2 = Exp2; log = Log; log1p = Log1p; expm1 = Expm1; sigmoid = Sigmoid; softplus = Softplus;
        silu = Silu; tanh = Tanh; erf = Erf; sin = Sin; cos = Cos; rsqrt = Rsqrt; recip = Recip;
    }

    binary_methods! {
        add = Add;
        sub = Sub;
        mul = Mul;
        div = Div;
        rem = Rem;
        /// `if lhs < rhs { lhs } else { rhs }`: put the operand whose NaN must survive second.
        min = Min;
        /// `if lhs > rhs { lhs } else { rhs }`: put the operand whose NaN must survive second.
        max = Max;
        and = And;
        or = Or;
        xor = Xor;
        shl = Shl;
        shr = Shr;
        pow = Pow;
        /// 2^(lhs * rhs) of a product of at most 125 in magnitude, see [`BinaryOp::Exp2Mul`].
        exp2_mul = Exp2Mul;
    }

    compare_methods! { eq = Eq; ne = Ne; lt = Lt; le = Le; gt = Gt; ge = Ge; }

    pub fn unary(&mut self, op: UnaryOp, src: Reg) -> Reg {
        let dst = self.temp(self.ty(src));
        self.push(Inst::Unary { dst, op, src });
        dst
    }

    pub fn math(&mut self, op: MathOp, src: Reg) -> Reg {
        assert!(self.ty(src).elem().is_float(), "{}: {op:?} of {}", self.kernel.name, self.ty(src));
        let dst = self.temp(self.ty(src));
        self.push(Inst::Math { dst, op, src });
        dst
    }

    pub fn binary(&mut self, op: BinaryOp, lhs: impl Into<Value>, rhs: impl Into<Value>) -> Reg {
        let (lhs, rhs) = self.operands("binary", lhs.into(), rhs.into());
        let result = match self.fold(op, lhs, rhs) {
            Folded::Const(v) => self.const_i64(v),
            Folded::Operand(r) => r,
            Folded::No => self.constant_last(op, lhs, rhs).unwrap_or_else(|| {
                let dst = self.temp(self.ty(lhs));
                self.push(Inst::Binary { dst, op, lhs, rhs });
                dst
            }),
        };
        if self.gives_natural(op, lhs, rhs) {
            self.naturals.insert(result);
        }
        result
    }

    /// Larger operand; NaN if either is NaN. Three instructions, against one for [`KernelBuilder::max`].
    pub fn max_nan(&mut self, lhs: Reg, rhs: Reg) -> Reg {
        let max = self.max(lhs, rhs);
        let lhs_is_nan = self.ne(lhs, lhs);
        self.select(lhs_is_nan, lhs, max)
    }

    /// Smaller operand; NaN if either is NaN. Three instructions, against one for [`KernelBuilder::min`].
    pub fn min_nan(&mut self, lhs: Reg, rhs: Reg) -> Reg {
        let min = self.min(lhs, rhs);
        let lhs_is_nan = self.ne(lhs, lhs);
        self.select(lhs_is_nan, lhs, min)
    }

    /// ceil(lhs / rhs) for `lhs >= 0`, `rhs > 0`.
    pub fn ceil_div(&mut self, lhs: impl Into<Value>, rhs: impl Into<Value>) -> Reg {
        let (lhs, rhs) = self.operands("ceil_div", lhs.into(), rhs.into());
        let slack = self.sub(rhs, 1);
        let sum = self.add(lhs, slack);
        self.div(sum, rhs)
    }

    /// a * b + c rounded once. At least one operand is a register; literals take its type.
    pub fn fma(&mut self, a: impl Into<Value>, b: impl Into<Value>, c: impl Into<Value>) -> Reg {
        let (a, b, c) = (a.into(), b.into(), c.into());
        let ty = [a, b, c]
            .into_iter()
            .find_map(|v| match v {
                Value::Reg(r) => Some(self.ty(r)),
                Value::Int(_) | Value::Float(_) => None,
            })
            .unwrap_or_else(|| panic!("{}: fma of literals", self.kernel.name));
        let [a, b, c] = [a, b, c].map(|v| self.operand_as(v, ty));
        self.check_same("fma", a, b);
        self.check_same("fma", a, c);
        let dst = self.temp(ty);
        self.push(Inst::Fma { dst, a, b, c });
        dst
    }

    /// `acc` plus sums of products of neighbors; see [`Inst::Dot`].
    pub fn dot(&mut self, a: Reg, b: Reg, acc: Reg) -> Reg {
        let dst = self.temp(self.ty(acc));
        self.push(Inst::Dot { dst, a, b, acc });
        dst
    }

    pub fn compare(&mut self, op: CompareOp, lhs: impl Into<Value>, rhs: impl Into<Value>) -> Reg {
        let (lhs, rhs) = self.operands("compare", lhs.into(), rhs.into());
        let dst = self.temp(self.ty(lhs).with_elem(Elem::Bool));
        self.push(Inst::Compare { dst, op, lhs, rhs });
        dst
    }

    /// Lane-wise choice; `cond` has one lane or as many as the operands.
    pub fn select(&mut self, cond: Reg, on_true: impl Into<Value>, on_false: impl Into<Value>) -> Reg {
        let (on_true, on_false) = self.operands("select", on_true.into(), on_false.into());
        let dst = self.temp(self.ty(on_true));
        self.push(Inst::Select { dst, cond, on_true, on_false });
        dst
    }

    /// Numeric conversion; the operand itself if it already has type `elem` and is no variable.
    pub fn cast(&mut self, src: Reg, elem: Elem) -> Reg {
        let ty = self.ty(src);
        if ty.elem() == elem && !self.mutable[src.0 as usize] {
            return src;
        }
        let dst = self.temp(ty.with_elem(elem));
        self.push(Inst::Cast { dst, src });
        dst
    }

    pub fn bitcast(&mut self, src: Reg, elem: Elem) -> Reg {
        let dst = self.temp(self.ty(src).with_elem(elem));
        self.push(Inst::Bitcast { dst, src });
        dst
    }

    /// The bits as lanes of another width; the lanes of the result fill as many bits.
    pub fn recast(&mut self, src: Reg, elem: Elem) -> Reg {
        let ty = self.ty(src);
        let bits = u32::from(self.lanes(src)) * ty.elem().bits();
        let dst = self.temp(elem.x((bits / elem.bits()) as u16));
        self.push(Inst::Bitcast { dst, src });
        dst
    }

    /// A scalar in `lanes` lanes; the scalar itself if that is one and it is no variable.
    pub fn splat(&mut self, src: Reg, lanes: u16) -> Reg {
        assert_eq!(self.lanes(src), 1, "{}: splat of {}", self.kernel.name, self.ty(src));
        if lanes == 1 && !self.mutable[src.0 as usize] {
            return src;
        }
        let dst = self.temp(self.ty(src).elem().x(lanes));
        self.push(Inst::Splat { dst, src });
        dst
    }

    /// 0, 1, 2, ... in `lanes` lanes.
    pub fn iota(&mut self, elem: Elem, lanes: u16) -> Reg {
        let dst = self.temp(elem.x(lanes));
        self.push(Inst::Iota { dst });
        dst
    }

    /// Mask of the lanes `i` with `i < count`, for tails; `count` may be negative or beyond `lanes`.
    pub fn lane_mask(&mut self, count: impl Into<Value>, lanes: u16) -> Reg {
        let count = self.index(count);
        let count = self.splat(count, lanes);
        let ids = self.iota(Elem::I64, lanes);
        self.lt(ids, count)
    }

    pub fn extract(&mut self, src: Reg, lane: u16) -> Reg {
        let dst = self.temp(RegTy::scalar(self.ty(src).elem()));
        self.push(Inst::Extract { dst, src, lane });
        dst
    }

    pub fn insert(&mut self, src: Reg, value: Reg, lane: u16) -> Reg {
        let dst = self.temp(self.ty(src));
        self.push(Inst::Insert { dst, src, value, lane });
        dst
    }

    pub fn reduce(&mut self, op: ReduceOp, src: Reg) -> Reg {
        let dst = self.temp(RegTy::scalar(self.ty(src).elem()));
        self.push(Inst::Reduce { dst, op, src });
        dst
    }

    /// Lane `i` of the result is lane `pattern[i]` of `src`.
    pub fn shuffle(&mut self, src: Reg, pattern: &[u16]) -> Reg {
        self.shuffle2(src, src, pattern)
    }

    /// Lane `i` of the result is lane `pattern[i]` of `a` followed by `b`.
    pub fn shuffle2(&mut self, a: Reg, b: Reg, pattern: &[u16]) -> Reg {
        self.check_same("shuffle", a, b);
        let dst = self.temp(self.ty(a).elem().x(pattern.len() as u16));
        self.push(Inst::Shuffle { dst, a, b, pattern: pattern.to_vec() });
        dst
    }

    /// `lanes` consecutive elements from `index`.
    pub fn load(&mut self, mem: impl Into<Mem>, index: impl Into<Value>, lanes: u16) -> Reg {
        self.load_opt(mem.into(), index.into(), lanes, None)
    }

    /// As [`KernelBuilder::load`]; lanes outside `mask` are 0 and touch no memory.
    pub fn load_masked(
        &mut self,
        mem: impl Into<Mem>,
        index: impl Into<Value>,
        lanes: u16,
        mask: Reg,
    ) -> Reg {
        self.load_opt(mem.into(), index.into(), lanes, Some(mask))
    }

    fn load_opt(&mut self, mem: Mem, index: Value, lanes: u16, mask: Option<Reg>) -> Reg {
        let index = self.index(index);
        let dst = self.temp(self.mem_elem(mem).x(lanes));
        self.push(Inst::Load { dst, mem, index, mask });
        dst
    }

    /// Writes the lanes of `src` to consecutive elements from `index`.
    pub fn store(&mut self, mem: impl Into<Mem>, index: impl Into<Value>, src: impl Into<Value>) {
        self.store_opt(mem.into(), index.into(), src.into(), None);
    }

    /// As [`KernelBuilder::store`]; lanes outside `mask` are not written.
    pub fn store_masked(&mut self, mem: impl Into<Mem>, index: impl Into<Value>, src: Reg, mask: Reg) {
        self.store_opt(mem.into(), index.into(), src.into(), Some(mask));
    }

    fn store_opt(&mut self, mem: Mem, index: Value, src: Value, mask: Option<Reg>) {
        let index = self.index(index);
        let elem = self.mem_elem(mem);
        let src = self.operand_as(src, RegTy::scalar(elem));
        assert_eq!(self.ty(src).elem(), elem, "{}: store of %{} to {mem:?}", self.kernel.name, src.0);
        self.push(Inst::Store { mem, index, src, mask });
    }

    /// Elements at an `i64` vector of indices.
    pub fn gather(&mut self, mem: impl Into<Mem>, index: Reg, mask: Option<Reg>) -> Reg {
        let mem = mem.into();
        let dst = self.temp(self.ty(index).with_elem(self.mem_elem(mem)));
        self.push(Inst::Gather { dst, mem, index, mask });
        dst
    }

    /// Writes lanes to an `i64` vector of indices.
    pub fn scatter(&mut self, mem: impl Into<Mem>, index: Reg, src: Reg, mask: Option<Reg>) {
        self.push(Inst::Scatter { mem: mem.into(), index, src, mask });
    }

    /// Index of this block in the grid.
    pub fn block_idx(&mut self) -> Reg {
        if let Some(block) = self.block {
            return block;
        }
        let dst = self.temp(RegTy::scalar(Elem::I64));
        self.push(Inst::BlockIdx { dst });
        self.naturals.insert(dst);
        dst
    }

    /// Index of this thread in its block.
    pub fn thread_idx(&mut self, axis: Axis) -> Reg {
        let dst = self.temp(RegTy::scalar(Elem::I64));
        self.push(Inst::ThreadIdx { dst, axis });
        self.naturals.insert(dst);
        dst
    }

    pub fn warp_shuffle(&mut self, op: WarpShuffleOp, src: Reg, amount: impl Into<Value>) -> Reg {
        let amount = self.operand_as(amount.into(), RegTy::scalar(Elem::I32));
        let dst = self.temp(self.ty(src));
        self.push(Inst::WarpShuffle { dst, op, src, amount });
        dst
    }

    pub fn barrier(&mut self) {
        self.push(Inst::Barrier);
    }

    /// Starts copying `elems` elements from global `src` to shared `dst`; see [`Inst::AsyncCopy`].
    pub fn async_copy(
        &mut self,
        (dst, dst_index): (SharedId, Reg),
        (src, src_index): (ParamId, Reg),
        elems: u16,
        pred: Option<Reg>,
    ) {
        let (dst, src) = (dst.into(), src.into());
        self.push(Inst::AsyncCopy { dst, dst_index, src, src_index, elems, pred });
    }

    pub fn async_commit(&mut self) {
        self.push(Inst::AsyncCommit);
    }

    pub fn async_wait(&mut self, pending: u16) {
        self.push(Inst::AsyncWait { pending });
    }

    pub fn tile_fill(&mut self, ty: TileTy, value: f64) -> Reg {
        let value = Const::float(ty.elem, value)
            .unwrap_or_else(|| panic!("{}: tile of {}", self.kernel.name, ty.elem));
        let dst = self.temp(RegTy::Tile(ty));
        self.push(Inst::TileFill { dst, value });
        dst
    }

    /// As [`KernelBuilder::tile_load`], into a variable.
    pub fn tile_load_to(
        &mut self,
        dst: Reg,
        mem: impl Into<Mem>,
        (index, stride): (Reg, Reg),
        layout: TileLayout,
    ) {
        self.push(Inst::TileLoad { dst, mem: mem.into(), index, stride, layout });
    }

    /// Zeros in every element of a variable.
    pub fn tile_clear(&mut self, dst: Reg) {
        let value = Const::int(self.ty(dst).elem(), 0);
        self.push(Inst::TileFill { dst, value });
    }

    /// acc = a * b + acc
    pub fn mma_to(&mut self, a: Reg, b: Reg, acc: Reg) {
        self.push(Inst::Mma { dst: acc, a, b, acc });
    }

    pub fn tile_load(
        &mut self,
        ty: TileTy,
        mem: impl Into<Mem>,
        index: impl Into<Value>,
        stride: impl Into<Value>,
        layout: TileLayout,
    ) -> Reg {
        let (index, stride) = (self.index(index), self.index(stride));
        let dst = self.temp(RegTy::Tile(ty));
        self.push(Inst::TileLoad { dst, mem: mem.into(), index, stride, layout });
        dst
    }

    pub fn tile_store(
        &mut self,
        mem: impl Into<Mem>,
        index: impl Into<Value>,
        stride: impl Into<Value>,
        layout: TileLayout,
        src: Reg,
    ) {
        let (index, stride) = (self.index(index), self.index(stride));
        self.push(Inst::TileStore { mem: mem.into(), index, stride, layout, src });
    }

    /// `lhs op rhs` of the elements of two accumulators; see [`Inst::TileBinary`].
    pub fn tile_binary(&mut self, op: BinaryOp, lhs: Reg, rhs: Reg) -> Reg {
        let dst = self.temp(self.ty(lhs));
        self.push(Inst::TileBinary { dst, op, lhs, rhs });
        dst
    }

    /// 2^x of the elements of an accumulator.
    pub fn tile_exp2(&mut self, src: Reg) -> Reg {
        let dst = self.temp(self.ty(src));
        self.push(Inst::TileExp2 { dst, src });
        dst
    }

    /// An accumulator as a left factor of elements of this type.
    ///
    /// # Panics
    /// `src` is no tile.
    pub fn tile_cast(&mut self, src: Reg, elem: Elem) -> Reg {
        let RegTy::Tile(ty) = self.ty(src) else { panic!("{}: cast of no tile", self.kernel.name) };
        let dst = self.temp(RegTy::Tile(TileTy { elem, role: TileRole::A, ..ty }));
        self.push(Inst::TileCast { dst, src });
        dst
    }

    /// Begins to add the product of two matrices to an accumulator's variable; see [`Inst::GroupMma`].
    pub fn group_mma(&mut self, acc: Reg, a: GroupLeft, b: GroupFactor, steps: u16) {
        self.push(Inst::GroupMma { acc, a, b, steps });
    }

    pub fn group_wait(&mut self, pending: u16) {
        self.push(Inst::GroupWait { pending });
    }

    /// a * b + acc; assign the result to the accumulator's variable inside loops.
    pub fn mma(&mut self, a: Reg, b: Reg, acc: Reg) -> Reg {
        let dst = self.temp(self.ty(acc));
        self.push(Inst::Mma { dst, a, b, acc });
        dst
    }
}
