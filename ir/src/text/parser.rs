//! Tokens to graphs. Types are inferred by the builder and compared with the printed ones.

use super::TextError;
use super::lexer::{Pos, Token, lex};
use super::printer::literal_type;
use crate::builder::GraphBuilder;
use crate::entity::{LocId, ValueId};
use crate::graph::Graph;
use crate::loc::Loc;
use crate::ops::{Attr, AttrMut, F64, Op, Spec};
use crate::tensor::{Data, Tensor, wrap};
use crate::types::{DType, TensorType};
use crate::verify::{
    DUPLICATE_INPUT, DUPLICATE_OUTPUT, INVALID_OP, RESULT_COUNT, TYPE_MISMATCH, UNDEFINED_VALUE,
};
use std::collections::{BTreeMap, BTreeSet};

/// Deepest nesting of regions.
const MAX_REGION_DEPTH: usize = 16;

/// Reads one function.
///
/// # Errors
/// All faults of types and names, or the first fault of syntax after those found before it. Each has its place.
pub fn parse(text: &str) -> Result<Graph, Vec<TextError>> {
    let tokens = lex(text).map_err(|e| vec![e])?;
    let templates = Op::templates().into_iter().map(|op| (op.name(), op)).collect();
    let mut parser = Parser { tokens, at: 0, templates, faults: Vec::new() };
    let graph = parser.function(0).and_then(|graph| {
        let pos = parser.pos();
        match parser.peek() {
            Token::End => Ok(graph),
            other => Err(pos.syntax(format!("expected the end of the text, found {other}"))),
        }
    });
    match graph {
        Ok(graph) if parser.faults.is_empty() => Ok(graph),
        Ok(_) => Err(parser.faults),
        Err(fault) => {
            parser.faults.push(fault);
            Err(parser.faults)
        }
    }
}

pub(super) struct Parser {
    tokens: Vec<(Token, Pos)>,
    at: usize,
    templates: BTreeMap<&'static str, Op>,
    /// Faults after which reading goes on.
    faults: Vec<TextError>,
}

/// What the names of one function mean.
struct Scope {
    builder: GraphBuilder,
    values: BTreeMap<String, ValueId>,
    locs: BTreeMap<String, LocId>,
}

impl Parser {
    pub(super) fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |t| &t.0)
    }

    fn peek_after(&self) -> &Token {
        self.tokens.get(self.at + 1).map_or(&Token::End, |t| &t.0)
    }

    pub(super) fn pos(&self) -> Pos {
        let last = self.tokens.len().saturating_sub(1);
        self.tokens.get(self.at.min(last)).map_or(Pos { line: 1, column: 1 }, |t| t.1)
    }

    pub(super) fn advance(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    pub(super) fn eat(&mut self, c: char) -> bool {
        let found = *self.peek() == Token::Punct(c);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, c: char) -> Result<(), TextError> {
        if self.eat(c) { Ok(()) } else { Err(self.unexpected(format!("{c:?}"))) }
    }

    fn unexpected(&self, expected: impl std::fmt::Display) -> TextError {
        self.pos().syntax(format!("expected {expected}, found {}", self.peek()))
    }

    pub(super) fn ident(&mut self, expected: &str) -> Result<String, TextError> {
        let Token::Ident(word) = self.peek().clone() else { return Err(self.unexpected(expected)) };
        self.at += 1;
        Ok(word)
    }

    fn string(&mut self, expected: &str) -> Result<String, TextError> {
        let Token::Str(text) = self.peek().clone() else { return Err(self.unexpected(expected)) };
        self.at += 1;
        Ok(text)
    }

    fn value_name(&mut self) -> Result<String, TextError> {
        let Token::Value(name) = self.peek().clone() else { return Err(self.unexpected("a value")) };
        self.at += 1;
        Ok(name)
    }

    fn number<T: std::str::FromStr>(&mut self, expected: &str) -> Result<T, TextError> {
        let Token::Number(text) = self.peek() else { return Err(self.unexpected(expected)) };
        let Ok(n) = text.parse() else { return Err(self.unexpected(expected)) };
        self.at += 1;
        Ok(n)
    }

    /// `[item, item]`
    pub(super) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, TextError>,
    ) -> Result<Vec<T>, TextError> {
        self.expect('[')?;
        let mut items = Vec::new();
        if self.eat(']') {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if self.eat(']') {
                return Ok(items);
            }
            self.expect(',')?;
        }
    }

    fn function(&mut self, depth: usize) -> Result<Graph, TextError> {
        let pos = self.pos();
        if depth > MAX_REGION_DEPTH {
            return Err(pos.syntax(format!("regions are nested deeper than {MAX_REGION_DEPTH}")));
        }
        match self.advance() {
            Token::Ident(word) if word == "func" => {}
            other => return Err(pos.syntax(format!("expected func, found {other}"))),
        }
        let pos = self.pos();
        let Token::Func(name) = self.advance() else { return Err(pos.syntax("expected @ and a name")) };
        let mut scope =
            Scope { builder: GraphBuilder::new(name), values: BTreeMap::new(), locs: BTreeMap::new() };
        self.inputs(&mut scope)?;
        self.expect('{')?;
        while let Token::Loc(name) = self.peek().clone() {
            self.loc_definition(name, &mut scope)?;
        }
        loop {
            match self.peek() {
                Token::Ident(word) if word == "return" => break,
                Token::End | Token::Punct('}') => return Err(self.unexpected("a node or return")),
                _ => self.statement(&mut scope, depth)?,
            }
        }
        self.at += 1;
        self.outputs(&mut scope)?;
        self.expect('}')?;
        Ok(scope.builder.finish())
    }

    fn inputs(&mut self, scope: &mut Scope) -> Result<(), TextError> {
        self.expect('(')?;
        let mut names = BTreeSet::new();
        while !self.eat(')') {
            if !names.is_empty() {
                self.expect(',')?;
            }
            let pos = self.pos();
            let value = self.value_name()?;
            let name = if let Token::Str(_) = self.peek() { self.string("a name")? } else { value.clone() };
            self.expect(':')?;
            let ty = self.tensor_type()?;
            if !names.insert(name.clone()) {
                self.faults.push(pos.error(DUPLICATE_INPUT, format!("a second input is named {name:?}")));
            }
            let id = scope.builder.input(name, ty);
            self.define(value, id, pos, scope);
        }
        Ok(())
    }

    fn define(&mut self, name: String, id: ValueId, pos: Pos, scope: &mut Scope) {
        let message = format!("%{name} is defined twice");
        if scope.values.insert(name, id).is_some() {
            self.faults.push(pos.syntax(message));
        }
    }

    fn outputs(&mut self, scope: &mut Scope) -> Result<(), TextError> {
        let mut names = BTreeSet::new();
        if *self.peek() == Token::Punct('}') {
            return Ok(());
        }
        loop {
            let pos = self.pos();
            let value = self.value_name()?;
            let name = if let Token::Str(_) = self.peek() { self.string("a name")? } else { value.clone() };
            if !names.insert(name.clone()) {
                self.faults.push(pos.error(DUPLICATE_OUTPUT, format!("a second output is named {name:?}")));
            }
            match scope.values.get(&value) {
                Some(id) => scope.builder.output(name, *id),
                None => self.undefined(&value, pos),
            }
            if !self.eat(',') {
                return Ok(());
            }
        }
    }

    fn undefined(&mut self, name: &str, pos: Pos) {
        self.faults.push(pos.error(UNDEFINED_VALUE, format!("%{name} is not defined here")));
    }

    /// `!0 = "rule" [!module "a", !1]`
    fn loc_definition(&mut self, name: String, scope: &mut Scope) -> Result<(), TextError> {
        let pos = self.pos();
        self.at += 1;
        self.expect('=')?;
        let by = self.string("the name of a pass or rule in quotes")?;
        let from = self.list(|p| p.loc(scope))?;
        let id = scope.builder.intern_loc(Loc::Derived { by, from });
        if scope.locs.insert(name.clone(), id).is_some() {
            return Err(pos.syntax(format!("!{name} is defined twice")));
        }
        Ok(())
    }

    fn loc(&mut self, scope: &mut Scope) -> Result<LocId, TextError> {
        let pos = self.pos();
        let Token::Loc(kind) = self.advance() else { return Err(pos.syntax("expected a location")) };
        let loc = match kind.as_str() {
            "unknown" => Loc::Unknown,
            "onnx" => Loc::OnnxNode {
                name: self.string("a node name in quotes")?,
                op: self.string("an operator in quotes")?,
                output: self.string("an output name in quotes")?,
            },
            "module" => Loc::Module(self.string("a module path in quotes")?),
            "text" => {
                let line = self.number("a line")?;
                self.expect(':')?;
                Loc::Text { line, column: self.number("a column")? }
            }
            name => {
                let known = scope.locs.get(name).copied();
                return known.ok_or_else(|| {
                    pos.syntax(format!(
                        "expected onnx, module, text, unknown or a number defined above, found !{name}"
                    ))
                });
            }
        };
        Ok(scope.builder.intern_loc(loc))
    }

    fn statement(&mut self, scope: &mut Scope, depth: usize) -> Result<(), TextError> {
        let mut results = Vec::new();
        if let Token::Value(_) = self.peek() {
            loop {
                let pos = self.pos();
                results.push((self.value_name()?, pos));
                if !self.eat(',') {
                    break;
                }
            }
            self.expect('=')?;
        }
        let op_pos = self.pos();
        let name = self.ident("an op")?;
        let mut op = self
            .templates
            .get(name.as_str())
            .cloned()
            .ok_or_else(|| op_pos.syntax(format!("there is no op {name}")))?;
        if *self.peek() == Token::Punct('[') {
            self.spec(&mut op)?;
        }
        let operands = self.operands(scope)?;
        if *self.peek() == Token::Punct('{') && !self.at_region() {
            self.attributes(&mut op)?;
        }
        let mut types = Vec::new();
        let types_pos = self.pos();
        if self.eat(':') {
            loop {
                types.push(self.tensor_type()?);
                if !self.eat(',') {
                    break;
                }
            }
        }
        let mut regions = Vec::new();
        if self.at_region() {
            self.expect('{')?;
            while !self.eat('}') {
                regions.push(self.function(depth + 1)?);
            }
        }
        let loc = match self.peek() {
            Token::Loc(_) => self.loc(scope)?,
            _ => scope.builder.intern_loc(Loc::Unknown),
        };
        scope.builder.set_loc_id(loc);
        if types.len() != results.len() {
            let text = format!("expected as many types as results, {}, found {}", results.len(), types.len());
            return Err(types_pos.syntax(text));
        }
        let ids = self.add(scope, (op, op_pos), operands, regions, &types);
        for ((name, pos), id) in results.into_iter().zip(ids) {
            self.define(name, id, pos, scope);
        }
        Ok(())
    }

    /// Adds the node; if it has a fault, that is noted and values of the printed types stand for its results.
    fn add(
        &mut self,
        scope: &mut Scope,
        (op, pos): (Op, Pos),
        operands: Option<Vec<Option<ValueId>>>,
        regions: Vec<Graph>,
        types: &[TensorType],
    ) -> Vec<ValueId> {
        let name = op.name();
        let fault = match operands.map(|operands| scope.builder.node(op, &operands, regions)) {
            Some(Ok(ids)) => {
                let found: Vec<_> = ids.iter().map(|id| scope.builder.ty(*id).clone()).collect();
                if found == types {
                    return ids;
                }
                if found.len() == types.len() {
                    let text = format!("{name}: results have the types {found:?}, written are {types:?}");
                    pos.error(TYPE_MISMATCH, text)
                } else {
                    let text = format!("{name}: expected {} results, found {}", found.len(), types.len());
                    pos.error(RESULT_COUNT, text)
                }
            }
            Some(Err(error)) => pos.error(INVALID_OP, format!("{name}: {}", error.source)),
            // The operand that is not defined has been noted.
            None => return types.iter().map(|ty| scope.builder.input("", ty.clone())).collect(),
        };
        self.faults.push(fault);
        types.iter().map(|ty| scope.builder.input("", ty.clone())).collect()
    }

    fn at_region(&self) -> bool {
        *self.peek() == Token::Punct('{') && matches!(self.peek_after(), Token::Ident(word) if word == "func")
    }

    /// The operands, or `None` if one is not defined.
    fn operands(&mut self, scope: &Scope) -> Result<Option<Vec<Option<ValueId>>>, TextError> {
        let (mut operands, mut complete) = (Vec::new(), true);
        if !matches!(self.peek(), Token::Value(_) | Token::Punct('_')) {
            return Ok(Some(operands));
        }
        // A value here may also begin the next statement.
        if self.starts_statement() {
            return Ok(Some(operands));
        }
        loop {
            let pos = self.pos();
            if self.eat('_') {
                operands.push(None);
            } else {
                let name = self.value_name()?;
                let id = scope.values.get(&name).copied();
                if id.is_none() {
                    self.undefined(&name, pos);
                    complete = false;
                }
                operands.push(id);
            }
            if !self.eat(',') {
                return Ok(complete.then_some(operands));
            }
        }
    }

    /// Whether the values from here on are results: `%1, %2 =`.
    fn starts_statement(&self) -> bool {
        let mut at = self.at;
        while let Some((Token::Value(_), _)) = self.tokens.get(at) {
            match self.tokens.get(at + 1) {
                Some((Token::Punct(','), _)) => at += 2,
                next => return matches!(next, Some((Token::Punct('='), _))),
            }
        }
        false
    }

    /// `[bld,ed->ble]`
    fn spec(&mut self, op: &mut Op) -> Result<(), TextError> {
        let pos = self.pos();
        self.expect('[')?;
        let mut text = String::new();
        loop {
            match self.advance() {
                Token::Punct(']') => break,
                Token::Punct(',') => text.push(','),
                Token::Arrow => text.push_str("->"),
                Token::Ident(labels) => text.push_str(&labels),
                other => return Err(pos.syntax(format!("expected labels like bld,ed->ble, found {other}"))),
            }
        }
        let spec = Spec::parse(&text)
            .ok_or_else(|| pos.syntax(format!("expected labels like bld,ed->ble, found {text}")))?;
        let mut slots = 0;
        op.attrs(&mut |_: &'static str, value: AttrMut<'_>| {
            if let AttrMut::Spec(slot) = value {
                *slot = spec.clone();
                slots += 1;
            }
        });
        if slots == 0 { Err(pos.syntax(format!("{} has no labels", op.name()))) } else { Ok(()) }
    }

    /// `{name=value, name=value}`
    fn attributes(&mut self, op: &mut Op) -> Result<(), TextError> {
        self.expect('{')?;
        let (mut seen, mut literal) = (BTreeSet::new(), None);
        while !self.eat('}') {
            if !seen.is_empty() {
                self.expect(',')?;
            }
            let pos = self.pos();
            let name = self.ident("an attribute")?;
            let Some(kind) = kind_of(op, &name) else {
                return Err(pos.syntax(format!("{} has no attribute {name}", op.name())));
            };
            if !seen.insert(name.clone()) {
                return Err(pos.syntax(format!("attribute {name} is given twice")));
            }
            self.expect('=')?;
            let pos = self.pos();
            if let Attr::Bytes(_) = kind {
                literal = Some((name, pos, self.elements()?));
                continue;
            }
            let value = self.attribute(&kind)?;
            set(op, &name, value).map_err(|message| pos.syntax(message))?;
        }
        if let Some((name, pos, elements)) = literal {
            let bytes = elements.bytes(op).map_err(|message| pos.error(INVALID_OP, message))?;
            set(op, &name, Attr::Bytes(bytes)).map_err(|message| pos.syntax(message))?;
        }
        Ok(())
    }

    fn attribute(&mut self, kind: &Attr) -> Result<Attr, TextError> {
        Ok(match kind {
            Attr::Bool(_) => Attr::Bool(self.bool()?),
            Attr::Usize(_) => Attr::Usize(self.number("a number that is not negative")?),
            Attr::Usizes(_) => Attr::Usizes(self.list(|p| p.number("a number that is not negative"))?),
            Attr::Int(_) => {
                let pos = self.pos();
                let n = self.dim()?.as_const();
                Attr::Int(n.ok_or_else(|| pos.syntax("expected an integer"))?)
            }
            Attr::Float(_) => Attr::Float(F64::from(self.float()?)),
            Attr::Str(_) => Attr::Str(self.string("a string in quotes")?),
            Attr::Dim(_) => Attr::Dim(self.dim()?),
            Attr::Shape(_) => Attr::Shape(self.shape()?),
            Attr::DType(_) => Attr::DType(self.dtype()?),
            Attr::Word(_) => Attr::Word(self.ident("a word")?),
            Attr::Bools(_) => Attr::Bools(self.list(Self::bool)?),
            Attr::Spec(_) | Attr::Bytes(_) => {
                return Err(self.unexpected("an attribute that is written elsewhere"));
            }
        })
    }

    fn bool(&mut self) -> Result<bool, TextError> {
        let pos = self.pos();
        match self.ident("true or false")?.as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(pos.syntax(format!("expected true or false, found {other}"))),
        }
    }

    /// A number as `{:?}` prints it, or the bits of one as `0x7ff8000000000001`.
    fn float(&mut self) -> Result<f64, TextError> {
        let pos = self.pos();
        let negative = self.eat('-');
        let text = match self.advance() {
            Token::Number(text) => text,
            Token::Ident(word) if word == "inf" || word == "NaN" => word,
            other => return Err(pos.syntax(format!("expected a number, found {other}"))),
        };
        let magnitude = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok().map(f64::from_bits),
            None => text.parse::<f64>().ok(),
        };
        let magnitude = magnitude.ok_or_else(|| pos.syntax(format!("expected a number, found {text}")))?;
        Ok(if negative { -magnitude } else { magnitude })
    }

    fn elements(&mut self) -> Result<Elements, TextError> {
        let pos = self.pos();
        if let Token::Number(text) = self.peek()
            && let Some(hex) = text.strip_prefix("0x")
        {
            let digits: Option<Vec<u8>> = hex.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
            let digits = digits.filter(|d| d.len() % 2 == 0);
            let digits = digits.ok_or_else(|| pos.syntax("expected an even number of hexadecimal digits"))?;
            self.at += 1;
            return Ok(Elements::Bytes(digits.chunks_exact(2).map(|d| d[0] << 4 | d[1]).collect()));
        }
        Ok(Elements::List(self.list(|p| {
            let pos = p.pos();
            let negative = p.eat('-');
            Ok(match p.advance() {
                Token::Number(text) => Element { negative, text },
                Token::Ident(text) => Element { negative, text },
                other => return Err(pos.syntax(format!("expected an element, found {other}"))),
            })
        })?))
    }
}

/// A number or truth value as written.
struct Element {
    negative: bool,
    text: String,
}

impl Element {
    fn float(&self) -> Option<f64> {
        let x: f64 = self.text.parse().ok()?;
        Some(if self.negative { -x } else { x })
    }

    /// The integer, if the type holds it.
    fn int(&self, dtype: DType) -> Option<i64> {
        let magnitude: i128 = self.text.parse::<u64>().ok()?.into();
        let n = if self.negative { -magnitude } else { magnitude };
        let wrapped = wrap(dtype, n as i64);
        (crate::tensor::widen(dtype, wrapped) == n).then_some(wrapped)
    }

    fn bool(&self) -> Option<bool> {
        self.text.parse().ok().filter(|_| !self.negative)
    }
}

/// The elements of a literal tensor as written; what they mean depends on its type.
enum Elements {
    Bytes(Vec<u8>),
    List(Vec<Element>),
}

impl Elements {
    fn bytes(self, op: &Op) -> Result<Vec<u8>, String> {
        let elements = match self {
            Elements::Bytes(bytes) => return Ok(bytes),
            Elements::List(elements) => elements,
        };
        let Some((dtype, _)) = literal_type(op) else { return Err(format!("{} has no type", op.name())) };
        fn all<T>(
            elements: &[Element],
            f: impl Fn(&Element) -> Option<T>,
            dtype: DType,
        ) -> Result<Vec<T>, String> {
            let read = |e: &Element| {
                let sign = if e.negative { "-" } else { "" };
                f(e).ok_or_else(|| format!("expected a number of type {dtype}, found {sign}{}", e.text))
            };
            elements.iter().map(read).collect()
        }
        let data = if dtype.is_float() {
            Data::Float(all(&elements, Element::float, dtype)?)
        } else if dtype == DType::Bool {
            Data::Bool(all(&elements, Element::bool, dtype)?)
        } else if dtype.is_int() {
            Data::Int(all(&elements, |e| e.int(dtype), dtype)?)
        } else {
            return Err(format!("expected the bytes of {dtype} in hexadecimal, found a list"));
        };
        let n = data.len();
        Tensor::new(dtype, [n], data).map(|t| t.to_bytes()).map_err(|e| e.to_string())
    }
}

/// The present value of an attribute, which tells its kind.
fn kind_of(op: &mut Op, name: &str) -> Option<Attr> {
    let mut kind = None;
    op.attrs(&mut |n: &'static str, value: AttrMut<'_>| {
        if n == name && !matches!(value, AttrMut::Spec(_)) {
            kind = Some(value.get());
        }
    });
    kind
}

fn set(op: &mut Op, name: &str, new: Attr) -> Result<(), String> {
    let (mut new, mut result) = (Some(new), Ok(()));
    op.attrs(&mut |n: &'static str, slot: AttrMut<'_>| {
        if n == name
            && let Some(new) = new.take()
        {
            result = slot.set(new).map_err(|e| format!("attribute {n}: {e}"));
        }
    });
    result
}
