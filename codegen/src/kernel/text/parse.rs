//! Parser. It checks the form of the text only; run the verifier on the result.

use std::collections::BTreeMap;

use super::{
    ParseError, ParseErrorKind,
    lex::{Placed, Token, error_at, lex},
    names::Named,
};
use crate::kernel::*;

/// Deepest nesting of `for` and `if` accepted.
const MAX_DEPTH: usize = 200;

/// Reads one kernel.
///
/// # Errors
/// The first fault of the text.
pub fn parse(text: &str) -> Result<Kernel, ParseError> {
    let mut p = Parser {
        text,
        tokens: lex(text)?,
        next: 0,
        depth: 0,
        types: BTreeMap::new(),
        names: BTreeMap::new(),
        kernel: Kernel {
            name: String::new(),
            params: Vec::new(),
            dims: Vec::new(),
            block: [1, 1, 1],
            shared: Vec::new(),
            locals: Vec::new(),
            regs: Vec::new(),
            body: Vec::new(),
        },
    };
    p.kernel()?;
    Ok(p.kernel)
}

struct Parser<'t> {
    text: &'t str,
    tokens: Vec<Placed<'t>>,
    next: usize,
    depth: usize,
    /// Types of the registers met at an assignment or declaration, and names of all registers met.
    types: BTreeMap<u32, RegTy>,
    names: BTreeMap<u32, Option<&'t str>>,
    kernel: Kernel,
}

type Parsed<T> = Result<T, ParseError>;

impl<'t> Parser<'t> {
    fn error<T>(&self, kind: ParseErrorKind) -> Parsed<T> {
        Err(error_at(self.text, self.tokens[self.next].1, kind))
    }

    /// An error at the token before the next one.
    fn error_back<T>(&mut self, kind: ParseErrorKind) -> Parsed<T> {
        self.next -= 1;
        self.error(kind)
    }

    fn expected<T>(&self, expected: &str) -> Parsed<T> {
        let found = self.peek().describe();
        self.error(ParseErrorKind::Expected { expected: expected.to_owned(), found })
    }

    fn peek(&self) -> Token<'t> {
        self.tokens[self.next].0
    }

    fn advance(&mut self) {
        self.next = (self.next + 1).min(self.tokens.len() - 1);
    }

    fn eat(&mut self, token: Token<'static>) -> bool {
        let eaten = self.peek() == token;
        if eaten {
            self.advance();
        }
        eaten
    }

    fn punct(&mut self, p: &'static str) -> Parsed<()> {
        if self.eat(Token::Punct(p)) { Ok(()) } else { self.expected(&format!("`{p}`")) }
    }

    fn keyword(&mut self, word: &'static str) -> Parsed<()> {
        if self.eat(Token::Word(word)) { Ok(()) } else { self.expected(&format!("`{word}`")) }
    }

    fn word(&mut self, what: &str) -> Parsed<&'t str> {
        let Token::Word(word) = self.peek() else { return self.expected(what) };
        self.advance();
        Ok(word)
    }

    fn named<T: Named>(&mut self, what: &'static str) -> Parsed<T> {
        let name = self.word(what)?;
        match T::from_name(name) {
            Some(value) => Ok(value),
            None => self.error_back(ParseErrorKind::Unknown { what, name: name.to_owned() }),
        }
    }

    fn number<T: std::str::FromStr>(&mut self) -> Parsed<T> {
        let Token::Number(number) = self.peek() else { return self.expected("a number") };
        self.advance();
        match number.parse() {
            Ok(value) => Ok(value),
            Err(_) => self.error_back(ParseErrorKind::Number(number.to_owned())),
        }
    }

    fn kernel(&mut self) -> Parsed<()> {
        self.keyword("kernel")?;
        self.kernel.name = self.word("a name")?.to_owned();
        self.punct("{")?;
        while let Token::Word(word) = self.peek() {
            if !self.declaration(word)? {
                break;
            }
        }
        self.kernel.body = self.stmts()?;
        if self.peek() != Token::End {
            return self.expected("the end");
        }
        self.registers()
    }

    /// Reads a declaration, if `word` starts one.
    fn declaration(&mut self, word: &str) -> Parsed<bool> {
        match word {
            "block" => {
                self.advance();
                for i in 0..3 {
                    self.kernel.block[i] = self.number()?;
                }
            }
            "param" => {
                self.advance();
                let name = self.word("a name")?.to_owned();
                self.punct(":")?;
                let elem = self.elem()?;
                let access = self.named("access")?;
                self.kernel.params.push(Param { name, elem, access });
            }
            "dim" => {
                self.advance();
                let name = self.word("a name")?.to_owned();
                self.kernel.dims.push(name);
            }
            "shared" => {
                self.advance();
                let array = self.array()?;
                self.kernel.shared.push(array);
            }
            "local" => {
                self.advance();
                let array = self.array()?;
                self.kernel.locals.push(array);
            }
            "reg" => {
                self.advance();
                self.typed_reg()?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn array(&mut self) -> Parsed<Array> {
        let name = self.word("a name")?.to_owned();
        self.punct(":")?;
        let elem = self.elem()?;
        self.punct("[")?;
        let len = self.number()?;
        self.punct("]")?;
        let swizzled = self.eat(Token::Word("swizzled"));
        let over = if self.eat(Token::Word("over")) {
            let name = self.word("a shared array")?;
            match self.kernel.shared.iter().position(|a| a.name == name) {
                Some(i) => Some(SharedId(i as u32)),
                None => {
                    return self
                        .error_back(ParseErrorKind::Unknown { what: "shared array", name: name.to_owned() });
                }
            }
        } else {
            None
        };
        Ok(Array { name, elem, len, swizzled, over })
    }

    /// The register table, from what the text said about each.
    fn registers(&mut self) -> Parsed<()> {
        let used = self.names.keys().next_back().map_or(0, |&last| u64::from(last) + 1);
        for reg in 0..used {
            let reg = reg as u32;
            let Some(&ty) = self.types.get(&reg) else { return self.error(ParseErrorKind::Undeclared(reg)) };
            let name = self.names.get(&reg).copied().flatten().map(str::to_owned);
            self.kernel.regs.push(RegInfo { ty, name });
        }
        Ok(())
    }

    fn elem(&mut self) -> Parsed<Elem> {
        let name = self.word("an element type")?;
        match Elem::from_name(name) {
            Some(elem) => Ok(elem),
            None => self.error_back(ParseErrorKind::Unknown { what: "element type", name: name.to_owned() }),
        }
    }

    fn ty(&mut self) -> Parsed<RegTy> {
        let word = self.word("a type")?;
        if word == "tile" {
            return self.tile_ty();
        }
        let (elem, lanes) = match word.split_once('x') {
            Some((elem, lanes)) => (elem, lanes.parse().ok()),
            None => (word, Some(1)),
        };
        match (Elem::from_name(elem), lanes) {
            (Some(elem), Some(lanes)) => Ok(elem.x(lanes)),
            _ => self.error_back(ParseErrorKind::Unknown { what: "type", name: word.to_owned() }),
        }
    }

    /// `<role, RxC, elem>`
    fn tile_ty(&mut self) -> Parsed<RegTy> {
        self.punct("<")?;
        let role = self.named("tile role")?;
        self.punct(",")?;
        let Token::Number(size) = self.peek() else { return self.expected("rows and columns") };
        let sizes = size.split_once('x').map(|(r, c)| (r.parse(), c.parse()));
        let Some((Ok(rows), Ok(cols))) = sizes else { return self.expected("rows and columns") };
        self.advance();
        self.punct(",")?;
        let elem = self.elem()?;
        self.punct(">")?;
        Ok(RegTy::Tile(TileTy { rows, cols, elem, role }))
    }

    fn reg(&mut self) -> Parsed<Reg> {
        let Token::Reg { number, name } = self.peek() else { return self.expected("a register") };
        self.advance();
        let Ok(reg) = number.parse::<u32>() else {
            return self.error_back(ParseErrorKind::Number(number.to_owned()));
        };
        let known = *self.names.entry(reg).or_insert(name);
        if known != name {
            let spell = |n: Option<&str>| n.map_or("without a name".to_owned(), |n| format!("called {n}"));
            let (expected, found) = (spell(known), spell(name));
            return self.error_back(ParseErrorKind::Inconsistent { reg, expected, found });
        }
        Ok(Reg(reg))
    }

    fn define(&mut self, reg: Reg, ty: RegTy) -> Parsed<()> {
        let known = *self.types.entry(reg.0).or_insert(ty);
        if known != ty {
            let (expected, found) = (known.to_string(), ty.to_string());
            return self.error_back(ParseErrorKind::Inconsistent { reg: reg.0, expected, found });
        }
        Ok(())
    }

    /// `%1: ty`
    fn typed_reg(&mut self) -> Parsed<(Reg, RegTy)> {
        let reg = self.reg()?;
        self.punct(":")?;
        let ty = self.ty()?;
        self.define(reg, ty)?;
        Ok((reg, ty))
    }

    /// Statements up to and with the closing brace.
    fn stmts(&mut self) -> Parsed<Vec<Stmt>> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.error(ParseErrorKind::Depth(MAX_DEPTH));
        }
        let mut stmts = Vec::new();
        while !self.eat(Token::Punct("}")) {
            stmts.push(self.stmt()?);
        }
        self.depth -= 1;
        Ok(stmts)
    }

    fn stmt(&mut self) -> Parsed<Stmt> {
        if self.eat(Token::Word("for")) {
            let var = self.reg()?;
            self.define(var, RegTy::scalar(Elem::I64))?;
            self.keyword("in")?;
            let lo = self.reg()?;
            self.punct("..")?;
            let hi = self.reg()?;
            self.keyword("step")?;
            let step = self.number()?;
            self.punct("{")?;
            let body = self.stmts()?;
            return Ok(Stmt::For(For { var, lo, hi, step, body }));
        }
        if self.eat(Token::Word("if")) {
            let cond = self.reg()?;
            self.punct("{")?;
            let on_true = self.stmts()?;
            let on_false = if self.eat(Token::Word("else")) {
                self.punct("{")?;
                self.stmts()?
            } else {
                Vec::new()
            };
            return Ok(Stmt::If(If { cond, on_true, on_false }));
        }
        if let Token::Reg { .. } = self.peek() {
            let (dst, ty) = self.typed_reg()?;
            self.punct("=")?;
            return Ok(Stmt::Inst(self.assignment(dst, ty)?));
        }
        Ok(Stmt::Inst(self.effect()?))
    }

    /// Instructions with a result, after the equals sign.
    fn assignment(&mut self, dst: Reg, ty: RegTy) -> Parsed<Inst> {
        let name = self.word("an instruction")?;
        if let Some(op) = UnaryOp::from_name(name) {
            return Ok(Inst::Unary { dst, op, src: self.reg()? });
        }
        if let Some(op) = MathOp::from_name(name) {
            return Ok(Inst::Math { dst, op, src: self.reg()? });
        }
        if let Some(op) = ReduceOp::from_name(name) {
            return Ok(Inst::Reduce { dst, op, src: self.reg()? });
        }
        if let Some(op) = BinaryOp::from_name(name) {
            let [lhs, rhs] = self.regs()?;
            return Ok(Inst::Binary { dst, op, lhs, rhs });
        }
        if let Some(op) = CompareOp::from_name(name) {
            let [lhs, rhs] = self.regs()?;
            return Ok(Inst::Compare { dst, op, lhs, rhs });
        }
        if let Some(op) = WarpShuffleOp::from_name(name) {
            let [src, amount] = self.regs()?;
            return Ok(Inst::WarpShuffle { dst, op, src, amount });
        }
        Ok(match name {
            "const" => Inst::Const { dst, value: self.literal(ty.elem())? },
            "dim" => Inst::Dim { dst, dim: self.dim()? },
            "block_idx" => Inst::BlockIdx { dst },
            "thread_idx" => Inst::ThreadIdx { dst, axis: self.named("axis")? },
            "copy" => Inst::Copy { dst, src: self.reg()? },
            "cast" => Inst::Cast { dst, src: self.reg()? },
            "bitcast" => Inst::Bitcast { dst, src: self.reg()? },
            "splat" => Inst::Splat { dst, src: self.reg()? },
            "iota" => Inst::Iota { dst },
            "fma" => {
                let [a, b, c] = self.regs()?;
                Inst::Fma { dst, a, b, c }
            }
            "dot" => {
                let [a, b, acc] = self.regs()?;
                Inst::Dot { dst, a, b, acc }
            }
            "select" => {
                let [cond, on_true, on_false] = self.regs()?;
                Inst::Select { dst, cond, on_true, on_false }
            }
            "extract" => {
                let src = self.reg()?;
                self.punct(",")?;
                Inst::Extract { dst, src, lane: self.number()? }
            }
            "insert" => {
                let [src, value] = self.regs()?;
                self.punct(",")?;
                Inst::Insert { dst, src, value, lane: self.number()? }
            }
            "shuffle" => {
                let [a, b] = self.regs()?;
                self.punct(",")?;
                Inst::Shuffle { dst, a, b, pattern: self.pattern()? }
            }
            "load" => {
                let (mem, index) = self.at()?;
                Inst::Load { dst, mem, index, mask: self.option("mask")? }
            }
            "gather" => {
                let (mem, index) = self.at()?;
                Inst::Gather { dst, mem, index, mask: self.option("mask")? }
            }
            "tile_fill" => Inst::TileFill { dst, value: self.literal(ty.elem())? },
            "tile_load" => {
                let (mem, index, stride, layout) = self.tile_at()?;
                Inst::TileLoad { dst, mem, index, stride, layout }
            }
            "mma" => {
                let [a, b, acc] = self.regs()?;
                Inst::Mma { dst, a, b, acc }
            }
            "tile_exp2" => Inst::TileExp2 { dst, src: self.reg()? },
            "tile_cast" => Inst::TileCast { dst, src: self.reg()? },
            "tile_binary" => {
                let op = self.named("operation")?;
                let [lhs, rhs] = self.regs()?;
                Inst::TileBinary { dst, op, lhs, rhs }
            }
            "group_mma" => {
                let a = self.at()?;
                self.punct(",")?;
                let (b, steps) = (self.group_right()?, self.number()?);
                let a = GroupFactor { mem: a.0, index: a.1, is_turned: self.eat(Token::Word("left_turned")) };
                let b = GroupFactor { is_turned: self.eat(Token::Word("right_turned")), ..b };
                Inst::GroupMma { acc: dst, a: GroupLeft::Shared(a), b, steps }
            }
            "group_mma_tile" => {
                let a = GroupLeft::Tile(self.reg()?);
                self.punct(",")?;
                let (b, steps) = (self.group_right()?, self.number()?);
                let b = GroupFactor { is_turned: self.eat(Token::Word("right_turned")), ..b };
                Inst::GroupMma { acc: dst, a, b, steps }
            }
            _ => {
                return self
                    .error_back(ParseErrorKind::Unknown { what: "instruction", name: name.to_owned() });
            }
        })
    }

    /// Instructions without a result.
    fn effect(&mut self) -> Parsed<Inst> {
        let name = self.word("a statement")?;
        Ok(match name {
            "store" => {
                let (mem, index) = self.at()?;
                self.punct(",")?;
                Inst::Store { mem, index, src: self.reg()?, mask: self.option("mask")? }
            }
            "scatter" => {
                let (mem, index) = self.at()?;
                self.punct(",")?;
                Inst::Scatter { mem, index, src: self.reg()?, mask: self.option("mask")? }
            }
            "barrier" => Inst::Barrier,
            "async_copy" => {
                let (dst, dst_index) = self.at()?;
                self.punct(",")?;
                let (src, src_index) = self.at()?;
                self.punct(",")?;
                let elems = self.number()?;
                Inst::AsyncCopy { dst, dst_index, src, src_index, elems, pred: self.option("pred")? }
            }
            "async_commit" => Inst::AsyncCommit,
            "async_wait" => Inst::AsyncWait { pending: self.number()? },
            "group_wait" => Inst::GroupWait { pending: self.number()? },
            "tile_store" => {
                let (mem, index, stride, layout) = self.tile_at()?;
                self.punct(",")?;
                Inst::TileStore { mem, index, stride, layout, src: self.reg()? }
            }
            _ => {
                return self.error_back(ParseErrorKind::Unknown { what: "statement", name: name.to_owned() });
            }
        })
    }

    /// `N` registers with commas between them.
    fn regs<const N: usize>(&mut self) -> Parsed<[Reg; N]> {
        let mut regs = [Reg(0); N];
        for (i, reg) in regs.iter_mut().enumerate() {
            if i > 0 {
                self.punct(",")?;
            }
            *reg = self.reg()?;
        }
        Ok(regs)
    }

    fn option(&mut self, word: &'static str) -> Parsed<Option<Reg>> {
        if self.eat(Token::Word(word)) { self.reg().map(Some) } else { Ok(None) }
    }

    fn dim(&mut self) -> Parsed<DimId> {
        let name = self.word("a dim")?;
        match self.kernel.dims.iter().position(|d| d == name) {
            Some(i) => Ok(DimId(i as u32)),
            None => self.error_back(ParseErrorKind::Unknown { what: "dim", name: name.to_owned() }),
        }
    }

    /// `array[%index]`
    /// The right factor of a warp group's product, not turned, and the comma after it.
    fn group_right(&mut self) -> Parsed<GroupFactor> {
        let (mem, index) = self.at()?;
        self.punct(",")?;
        Ok(GroupFactor { mem, index, is_turned: false })
    }

    fn at(&mut self) -> Parsed<(Mem, Reg)> {
        let name = self.word("an array")?;
        let k = &self.kernel;
        let param = k.params.iter().position(|p| p.name == name).map(|i| Mem::Param(ParamId(i as u32)));
        let shared = k.shared.iter().position(|a| a.name == name).map(|i| Mem::Shared(SharedId(i as u32)));
        let local = k.locals.iter().position(|a| a.name == name).map(|i| Mem::Local(LocalId(i as u32)));
        let Some(mem) = param.or(shared).or(local) else {
            return self.error_back(ParseErrorKind::Unknown { what: "array", name: name.to_owned() });
        };
        self.punct("[")?;
        let index = self.reg()?;
        self.punct("]")?;
        Ok((mem, index))
    }

    /// `array[%index], %stride, layout`
    fn tile_at(&mut self) -> Parsed<(Mem, Reg, Reg, TileLayout)> {
        let (mem, index) = self.at()?;
        self.punct(",")?;
        let stride = self.reg()?;
        self.punct(",")?;
        Ok((mem, index, stride, self.named("tile layout")?))
    }

    /// `[0, 2, 1]`
    fn pattern(&mut self) -> Parsed<Vec<u16>> {
        self.punct("[")?;
        let mut pattern = Vec::new();
        while !self.eat(Token::Punct("]")) {
            if !pattern.is_empty() {
                self.punct(",")?;
            }
            pattern.push(self.number()?);
        }
        Ok(pattern)
    }

    fn literal(&mut self, elem: Elem) -> Parsed<Const> {
        if self.eat(Token::Word("nan")) {
            let Token::Number(bits) = self.peek() else { return self.expected("the bits of a NaN") };
            self.advance();
            let parsed = bits.strip_prefix("0x").and_then(|b| u64::from_str_radix(b, 16).ok());
            let value = parsed.map(|b| Const::from_bits(elem, b));
            return match value.filter(|v| Some(v.bits()) == parsed && v.as_float().is_some_and(f64::is_nan)) {
                Some(value) => Ok(value),
                None => self.error_back(ParseErrorKind::Number(bits.to_owned())),
            };
        }
        let (Token::Number(s) | Token::Word(s)) = self.peek() else { return self.expected("a constant") };
        self.advance();
        let value = match elem {
            Elem::Bool => s.parse().ok().map(Const::bool),
            Elem::F16 | Elem::Bf16 | Elem::F32 => {
                s.parse::<f32>().ok().and_then(|v| Const::float(elem, v.into()))
            }
            Elem::F64 => s.parse().ok().map(Const::f64),
            Elem::U64 => s.parse().ok().map(|v| Const::from_bits(elem, v)),
            Elem::I8 | Elem::U8 | Elem::I16 | Elem::U16 | Elem::I32 | Elem::U32 | Elem::I64 => s
                .parse::<i64>()
                .ok()
                .filter(|&v| Const::int(elem, v).as_int() == Some(v))
                .map(|v| Const::int(elem, v)),
        };
        match value {
            Some(v) if !v.as_float().is_some_and(f64::is_nan) => Ok(v),
            Some(_) | None => self.error_back(ParseErrorKind::Number(s.to_owned())),
        }
    }
}
