//! Comparisons, logic and selection.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::shape;
use ssmc_ir::ops::{Binary, BinaryFn, Cmp, Compare, Select, UnaryFn};
use ssmc_ir::{DType, Dim};

/// The relation between two dims, if it is the same for all values of their symbols.
fn decide(cmp: Cmp, a: &Dim, b: &Dim) -> Option<bool> {
    let difference = shape::sub(a, b)?;
    let zero = Dim::from(0);
    let below = |x: &Dim, y: &Dim| shape::add(x, &Dim::from(1)).is_some_and(|x| shape::is_at_most(&x, y));
    let at_most = |x: &Dim, y: &Dim| shape::is_at_most(x, y);
    match cmp {
        Cmp::Eq if difference == zero => Some(true),
        Cmp::Eq if below(a, b) || below(b, a) => Some(false),
        Cmp::Eq => None,
        Cmp::Ne => decide(Cmp::Eq, a, b).map(|x| !x),
        Cmp::Lt if below(a, b) => Some(true),
        Cmp::Lt if at_most(b, a) => Some(false),
        Cmp::Lt => None,
        Cmp::Le => decide(Cmp::Lt, b, a).map(|x| !x),
        Cmp::Gt => decide(Cmp::Lt, b, a),
        Cmp::Ge => decide(Cmp::Lt, a, b).map(|x| !x),
    }
}

/// `Equal`, `Greater`, `Less` and their like.
pub(crate) fn compare(c: &mut Ctx<'_, '_>, cmp: Cmp) -> Imported<Vec<Val>> {
    let (a, b) = (c.input(0)?, c.input(1)?);
    if let (Some(x), Some(y)) = (c.known(a), c.known(b))
        && let Some(known) =
            x.zip(y, DType::Bool, |p, q| decide(cmp, p, q).map(|yes| Dim::from(i64::from(yes))))
    {
        return one(c.make_known(known));
    }
    let both = c.broadcast_all(&[a, b])?;
    one(c.emit(Compare { cmp }, &both)?)
}

fn fold_bits(f: BinaryFn, a: &Dim, b: &Dim) -> Option<Dim> {
    let (a, b) = (a.as_const()?, b.as_const()?);
    match f {
        BinaryFn::And => Some(Dim::from(a & b)),
        BinaryFn::Or => Some(Dim::from(a | b)),
        BinaryFn::Xor => Some(Dim::from(a ^ b)),
        _ => None,
    }
}

fn both(c: &mut Ctx<'_, '_>, f: BinaryFn) -> Imported<Vec<Val>> {
    let (a, b) = (c.input(0)?, c.input(1)?);
    if let (Some(x), Some(y)) = (c.known(a), c.known(b))
        && let Some(known) = x.zip(y, x.dtype, |p, q| fold_bits(f, p, q))
    {
        return one(c.make_known(known));
    }
    let both = c.broadcast_all(&[a, b])?;
    one(c.emit(Binary { f }, &both)?)
}

/// `And`, `Or`, `Xor` of booleans.
pub(crate) fn connective(c: &mut Ctx<'_, '_>, f: BinaryFn) -> Imported<Vec<Val>> {
    for idx in 0..2 {
        let x = c.input(idx)?;
        if c.dtype(x) != DType::Bool {
            return Err(Fault::Input { idx, expected: "booleans".into(), found: c.ty(x).to_string() }.into());
        }
    }
    both(c, f)
}

/// `BitwiseAnd` and its like, of integers.
pub(crate) fn bitwise(c: &mut Ctx<'_, '_>, f: BinaryFn) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    if !c.dtype(x).is_int() {
        return Err(Fault::Input { idx: 0, expected: "integers".into(), found: c.ty(x).to_string() }.into());
    }
    both(c, f)
}

/// `Not`.
pub(crate) fn not(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let folded = c.known(x).filter(|k| k.dtype == DType::Bool);
    if let Some(known) =
        folded.and_then(|k| k.map(DType::Bool, |d| d.as_const().map(|n| Dim::from(i64::from(n == 0)))))
    {
        return one(c.make_known(known));
    }
    one(c.unary(UnaryFn::Not, x)?)
}

/// `Where`.
pub(crate) fn where_op(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (cond, x, y) = (c.input(0)?, c.input(1)?, c.input(2)?);
    if let (Some(k), Some(p), Some(q)) = (c.known(cond), c.known(x), c.known(y)) {
        let yes = k.zip(p, p.dtype, |_, p| Some(p.clone()));
        let no = k.zip(q, q.dtype, |_, q| Some(q.clone()));
        if let (Some(yes), Some(no)) = (yes, no)
            && yes.shape == no.shape
            && let Some(k) = k.zip(&yes, DType::Bool, |k, _| k.as_const().map(Dim::from))
        {
            let elems = k.elems.iter().zip(yes.elems.iter().zip(&no.elems));
            let elems = elems.map(|(k, (yes, no))| if k.is(0) { no.clone() } else { yes.clone() }).collect();
            let known = shape::Known { dtype: yes.dtype, shape: yes.shape, elems };
            return one(c.make_known(known));
        }
    }
    let all = c.broadcast_all(&[cond, x, y])?;
    one(c.emit(Select, &all)?)
}
