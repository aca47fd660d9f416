//! Builds kernels statement by statement.
//!
//! The builder infers result types, puts constants and launch arguments (each once) at the top of the body and
//! folds `i64` index arithmetic on them, so that lowerings can write index expressions plainly. Misuse is a
//! bug of the compiler and panics with the operation and the types concerned.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

mod fold;
mod ops;
#[cfg(test)]
mod tests;

/// An operand: a register, or a literal that takes the type of the operand beside it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    Reg(Reg),
    Int(i64),
    Float(f64),
}

impl From<Reg> for Value {
    fn from(r: Reg) -> Value {
        Value::Reg(r)
    }
}

impl From<i64> for Value {
    fn from(v: i64) -> Value {
        Value::Int(v)
    }
}

impl From<i32> for Value {
    fn from(v: i32) -> Value {
        Value::Int(v.into())
    }
}

impl From<u32> for Value {
    fn from(v: u32) -> Value {
        Value::Int(v.into())
    }
}

impl From<usize> for Value {
    fn from(v: usize) -> Value {
        Value::Int(v as i64)
    }
}

impl From<f32> for Value {
    fn from(v: f32) -> Value {
        Value::Float(v.into())
    }
}

impl From<f64> for Value {
    fn from(v: f64) -> Value {
        Value::Float(v)
    }
}

/// Builds one [`Kernel`]; see the module documentation.
#[derive(Debug)]
pub struct KernelBuilder {
    kernel: Kernel,
    /// Constants and launch arguments, placed before everything else.
    prelude: Vec<Stmt>,
    consts: BTreeMap<(Const, u16), Reg>,
    dims: BTreeMap<DimId, Reg>,
    /// Values of scalar `i64` constants, by register.
    known: BTreeMap<Reg, i64>,
    /// Scalar `i64` registers that are another one and a constant, if these are kept apart.
    sums: Option<BTreeMap<Reg, (Reg, i64)>>,
    /// Registers of one value that are indices and not negative.
    naturals: BTreeSet<Reg>,
    /// Registers declared with [`KernelBuilder::var`], which folding must not alias.
    mutable: Vec<bool>,
    /// Statement lists under construction, innermost last.
    open: Vec<Vec<Stmt>>,
    /// What stands for the index of this block.
    block: Option<Reg>,
}

impl KernelBuilder {
    /// A kernel with the given threads per block.
    pub fn new(name: &str, block: [u32; 3]) -> KernelBuilder {
        KernelBuilder::with_kernel(Kernel {
            name: name.to_owned(),
            params: Vec::new(),
            dims: Vec::new(),
            block,
            shared: Vec::new(),
            locals: Vec::new(),
            regs: Vec::new(),
            body: Vec::new(),
        })
    }

    /// A kernel on the CPU schedule: one thread per block.
    pub fn cpu(name: &str) -> KernelBuilder {
        KernelBuilder::new(name, [1, 1, 1])
    }

    /// Continues from the declarations and registers of `kernel`, with an empty body. Its registers count as
    /// mutable.
    pub fn rewrite(kernel: &Kernel) -> KernelBuilder {
        KernelBuilder::with_kernel(Kernel { body: Vec::new(), ..kernel.clone() })
    }

    fn with_kernel(kernel: Kernel) -> KernelBuilder {
        let mutable = vec![true; kernel.regs.len()];
        KernelBuilder {
            kernel,
            prelude: Vec::new(),
            consts: BTreeMap::new(),
            dims: BTreeMap::new(),
            known: BTreeMap::new(),
            sums: None,
            naturals: BTreeSet::new(),
            mutable,
            open: vec![Vec::new()],
            block: None,
        }
    }

    /// Threads of a block.
    pub fn n_threads(&self) -> u32 {
        self.kernel.block.iter().product()
    }

    /// From here on constants in index arithmetic are added last, so that indices that differ by a constant have the
    /// rest in common: accesses take the constant as the offset of their address. Quotients and remainders by powers of
    /// two become shifts and masks where the index is known not to be negative, for machines that divide slowly.
    pub fn add_constants_last(&mut self) {
        self.sums.get_or_insert_default();
    }

    /// The finished kernel. It is well typed by construction; run the verifier for the rest.
    pub fn finish(mut self) -> Kernel {
        assert_eq!(self.open.len(), 1, "kernel {}: finish inside a nested body", self.kernel.name);
        self.kernel.body = self.prelude;
        self.kernel.body.append(&mut self.open[0]);
        self.kernel
    }

    /// Declares a buffer parameter.
    pub fn param(&mut self, name: &str, elem: Elem, access: Access) -> ParamId {
        let id = ParamId(self.kernel.params.len() as u32);
        self.kernel.params.push(Param { name: name.to_owned(), elem, access });
        id
    }

    /// Declares a shared array of `len` elements.
    pub fn shared(&mut self, name: &str, elem: Elem, len: u32) -> SharedId {
        let id = SharedId(self.kernel.shared.len() as u32);
        self.kernel.shared.push(Array::new(name, elem, len));
        id
    }

    /// Declares a shared array in the order that matrix products of warp groups want; see [`Array::swizzled`].
    pub fn shared_swizzled(&mut self, name: &str, elem: Elem, len: u32) -> SharedId {
        let id = self.shared(name, elem, len);
        self.kernel.shared[id.0 as usize].swizzled = true;
        id
    }

    /// Declares a shared array over the memory of another one; see [`Array::over`].
    pub fn shared_over(&mut self, name: &str, elem: Elem, len: u32, over: SharedId) -> SharedId {
        let id = self.shared(name, elem, len);
        self.kernel.shared[id.0 as usize].over = Some(over);
        id
    }

    /// As [`KernelBuilder::shared`], under the first of `name_0`, `name_1`, ... that is free.
    pub fn fresh_shared(&mut self, name: &str, elem: Elem, len: u32) -> SharedId {
        let used = self.kernel.shared.iter().filter(|a| a.name.starts_with(name)).count();
        self.shared(&format!("{name}_{used}"), elem, len)
    }

    /// Declares a local array of `len` elements, under the first of `name`, `name_1`, ... that no local array has.
    pub fn local(&mut self, name: &str, elem: Elem, len: u32) -> LocalId {
        let id = LocalId(self.kernel.locals.len() as u32);
        let mut free = name.to_owned();
        let mut n = 0;
        while self.kernel.locals.iter().any(|a| a.name == free) {
            n += 1;
            free = format!("{name}_{n}");
        }
        self.kernel.locals.push(Array::new(&free, elem, len));
        id
    }

    /// Puts a register in the place of the index of this block, for the loop over the blocks of a kernel that runs
    /// inside of another one. Returns what stood there before.
    pub fn set_block(&mut self, block: Option<Reg>) -> Option<Reg> {
        self.naturals.extend(block);
        std::mem::replace(&mut self.block, block)
    }

    /// The `i64` launch argument `name`, declared on first use.
    pub fn dim(&mut self, name: &str) -> Reg {
        let idx = self.kernel.dims.iter().position(|d| d == name).unwrap_or_else(|| {
            self.kernel.dims.push(name.to_owned());
            self.kernel.dims.len() - 1
        });
        let dim = DimId(idx as u32);
        if let Some(&reg) = self.dims.get(&dim) {
            return reg;
        }
        let dst = self.new_reg(RegTy::scalar(Elem::I64), Some(name));
        self.prelude.push(Stmt::Inst(Inst::Dim { dst, dim }));
        self.dims.insert(dim, dst);
        dst
    }

    /// Type of a register.
    pub fn ty(&self, reg: Reg) -> RegTy {
        self.kernel.ty(reg)
    }

    /// Element type of an array.
    pub fn mem_elem(&self, mem: impl Into<Mem>) -> Elem {
        self.kernel.mem_elem(mem.into())
    }

    /// Lanes of a vector register.
    ///
    /// # Panics
    /// On a tile.
    pub fn lanes(&self, reg: Reg) -> u16 {
        self.ty(reg).lanes().unwrap_or_else(|| panic!("{}: %{} is a tile", self.kernel.name, reg.0))
    }

    /// Value of a register that holds a scalar `i64` constant.
    pub fn known_i64(&self, reg: Reg) -> Option<i64> {
        self.known.get(&reg).copied()
    }

    /// Gives a register a name for readers of the text form.
    pub fn name(&mut self, reg: Reg, name: &str) {
        self.kernel.regs[reg.0 as usize].name = Some(name.to_owned());
    }

    /// A register for [`KernelBuilder::assign`], without a value yet.
    pub fn var(&mut self, ty: RegTy) -> Reg {
        let reg = self.new_reg(ty, None);
        self.mutable[reg.0 as usize] = true;
        reg
    }

    /// A variable with an initial value: `var` and `assign` in one.
    pub fn var_init(&mut self, init: Reg) -> Reg {
        let var = self.var(self.ty(init));
        self.assign(var, init);
        var
    }

    /// var = value
    pub fn assign(&mut self, var: Reg, value: impl Into<Value>) {
        assert!(self.mutable[var.0 as usize], "{}: %{} is no variable", self.kernel.name, var.0);
        let src = self.operand_as(value.into(), self.ty(var));
        self.check_same("assign", var, src);
        self.push(Inst::Copy { dst: var, src });
    }

    /// `for name in lo..hi step step`; the closure receives the loop variable.
    pub fn for_(
        &mut self,
        name: &str,
        lo: impl Into<Value>,
        hi: impl Into<Value>,
        step: i64,
        body: impl FnOnce(&mut KernelBuilder, Reg),
    ) {
        assert!(step > 0, "{}: loop {name} has step {step}", self.kernel.name);
        let (lo, hi) = (self.index(lo), self.index(hi));
        let var = self.new_reg(RegTy::scalar(Elem::I64), Some(name));
        if self.is_natural(lo) {
            self.naturals.insert(var);
        }
        self.open.push(Vec::new());
        body(self, var);
        let body = self.close();
        self.push_stmt(Stmt::For(For { var, lo, hi, step, body }));
    }

    /// `if cond { on_true } else { on_false }`
    pub fn if_else(
        &mut self,
        cond: Reg,
        on_true: impl FnOnce(&mut KernelBuilder),
        on_false: impl FnOnce(&mut KernelBuilder),
    ) {
        assert_eq!(self.ty(cond), RegTy::scalar(Elem::Bool), "{}: if condition", self.kernel.name);
        self.open.push(Vec::new());
        on_true(self);
        let on_true = self.close();
        self.open.push(Vec::new());
        on_false(self);
        let on_false = self.close();
        self.push_stmt(Stmt::If(If { cond, on_true, on_false }));
    }

    /// `if cond { on_true }`
    pub fn if_(&mut self, cond: Reg, on_true: impl FnOnce(&mut KernelBuilder)) {
        self.if_else(cond, on_true, |_| {});
    }

    /// Appends an instruction as it is, for passes that rewrite kernels.
    pub fn push(&mut self, inst: Inst) {
        self.push_stmt(Stmt::Inst(inst));
    }

    /// Appends a statement as it is.
    pub fn push_stmt(&mut self, stmt: Stmt) {
        self.open.last_mut().expect("the outermost body is open until finish").push(stmt);
    }

    /// Starts a statement list of its own, for passes that rewrite kernels.
    pub fn open_list(&mut self) {
        self.open.push(Vec::new());
    }

    /// Ends the list started last and returns it.
    ///
    /// # Panics
    /// Without a matching [`KernelBuilder::open_list`].
    pub fn close_list(&mut self) -> Vec<Stmt> {
        assert!(self.open.len() > 1, "{}: close_list without open_list", self.kernel.name);
        self.close()
    }

    fn close(&mut self) -> Vec<Stmt> {
        self.open.pop().expect("close follows a push of the same function")
    }

    fn new_reg(&mut self, ty: RegTy, name: Option<&str>) -> Reg {
        let reg = Reg(self.kernel.regs.len() as u32);
        self.kernel.regs.push(RegInfo { ty, name: name.map(str::to_owned) });
        self.mutable.push(false);
        reg
    }

    fn temp(&mut self, ty: RegTy) -> Reg {
        self.new_reg(ty, None)
    }

    /// Every lane set to `value`.
    pub fn constant(&mut self, value: Const, lanes: u16) -> Reg {
        if let Some(&reg) = self.consts.get(&(value, lanes)) {
            return reg;
        }
        let dst = self.temp(value.elem().x(lanes));
        self.prelude.push(Stmt::Inst(Inst::Const { dst, value }));
        self.consts.insert((value, lanes), dst);
        if lanes == 1 && value.elem() == Elem::I64 {
            self.known.insert(dst, value.as_int().expect("an i64 constant is an integer"));
        }
        dst
    }

    pub fn const_i64(&mut self, v: i64) -> Reg {
        self.constant(Const::i64(v), 1)
    }

    pub fn const_f32(&mut self, v: f32) -> Reg {
        self.constant(Const::f32(v), 1)
    }

    /// `v` in every lane of type `f32`.
    pub fn splat_f32(&mut self, v: f32, lanes: u16) -> Reg {
        self.constant(Const::f32(v), lanes)
    }

    /// `v` rounded to `ty`'s element type in every lane; for integer types `v` must be an integer.
    pub fn const_like(&mut self, ty: RegTy, v: f64) -> Reg {
        self.operand_as(Value::Float(v), ty)
    }

    /// Zero (or false) in every lane.
    pub fn zero(&mut self, ty: RegTy) -> Reg {
        self.operand_as(Value::Int(0), ty)
    }

    /// The operand as an `i64` scalar.
    pub fn index(&mut self, v: impl Into<Value>) -> Reg {
        let ty = RegTy::scalar(Elem::I64);
        let reg = self.operand_as(v.into(), ty);
        assert_eq!(self.ty(reg), ty, "{}: %{} used as an index", self.kernel.name, reg.0);
        reg
    }

    /// Literals become constants of type `ty`; registers stay.
    fn operand_as(&mut self, v: Value, ty: RegTy) -> Reg {
        let (elem, lanes) = match ty {
            RegTy::Vec { elem, lanes } => (elem, lanes),
            RegTy::Tile(_) => match v {
                Value::Reg(r) => return r,
                Value::Int(_) | Value::Float(_) => panic!("{}: literal as a tile", self.kernel.name),
            },
        };
        let value = match v {
            Value::Reg(r) => return r,
            Value::Int(i) => Const::int(elem, i),
            Value::Float(x) => Const::float(elem, x).unwrap_or_else(|| {
                assert!(x.fract() == 0.0, "{}: {x} as {elem}", self.kernel.name);
                Const::int(elem, x as i64)
            }),
        };
        self.constant(value, lanes)
    }

    /// Resolves two operands to one type: that of a register among them, else `i64` or `f32`.
    fn operands(&mut self, what: &str, a: Value, b: Value) -> (Reg, Reg) {
        let ty = match (a, b) {
            (Value::Reg(r), _) | (_, Value::Reg(r)) => self.ty(r),
            (Value::Int(_), Value::Int(_)) => RegTy::scalar(Elem::I64),
            (Value::Float(_), _) | (_, Value::Float(_)) => RegTy::scalar(Elem::F32),
        };
        let (a, b) = (self.operand_as(a, ty), self.operand_as(b, ty));
        self.check_same(what, a, b);
        (a, b)
    }

    fn check_same(&self, what: &str, a: Reg, b: Reg) {
        assert_eq!(self.ty(a), self.ty(b), "{}: {what} of %{} and %{}", self.kernel.name, a.0, b.0);
    }
}
