//! Products: every one becomes a labelled contraction.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::shape::{self, OVERFLOW};
use ssmc_ir::Dim;
use ssmc_ir::ops::{BinaryFn, Contract, Spec};
use std::collections::BTreeMap;

/// The `n`-th label of a spec that is built here.
fn label(n: usize) -> Result<u8, Fault> {
    match u8::try_from(n) {
        Ok(n @ 0..26) => Ok(b'a' + n),
        Ok(n @ 26..52) => Ok(b'A' + n - 26),
        _ => Err(Fault::Limit { what: "labels of a product", limit: 52 }),
    }
}

/// A contraction of tensors whose axes of extent 1 may stand for any extent of their label: these axes are dropped
/// where another operand has the label at full extent.
fn contract(c: &mut Ctx<'_, '_>, operands: &[Val], inputs: &[Vec<u8>], output: &[u8]) -> Result<Val, Fault> {
    let mut extents: BTreeMap<u8, Dim> = BTreeMap::new();
    for (v, labels) in operands.iter().zip(inputs) {
        for (label, dim) in labels.iter().zip(c.dims(*v)) {
            let known = extents.entry(*label).or_insert_with(|| dim.clone());
            if known.is(1) {
                *known = dim;
            } else if *known != dim && !dim.is(1) {
                let (a, b) = (c.ty(operands[0]).clone(), c.ty(*v).clone());
                return Err(Fault::Broadcast { a, b });
            }
        }
    }
    let mut spec = Spec { inputs: Vec::new(), output: output.to_vec() };
    let mut values = Vec::new();
    for (v, labels) in operands.iter().zip(inputs) {
        let dims = c.dims(*v);
        let kept: Vec<usize> =
            (0..labels.len()).filter(|i| !dims[*i].is(1) || extents[&labels[*i]].is(1)).collect();
        spec.inputs.push(kept.iter().map(|i| labels[*i]).collect());
        let kept: Vec<Dim> = kept.iter().map(|i| dims[*i].clone()).collect();
        values.push(c.reshape(*v, &kept)?);
    }
    c.emit(Contract { spec: spec.renamed() }, &values)
}

/// `MatMul` as numpy defines it.
pub(crate) fn matmul(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (a, b) = (c.input(0)?, c.input(1)?);
    one(matmul_of(c, a, b)?)
}

/// The product of two tensors as numpy defines it.
pub(crate) fn matmul_of(c: &mut Ctx<'_, '_>, a: Val, b: Val) -> Result<Val, Fault> {
    let (p, q) = (c.rank(a), c.rank(b));
    for (idx, rank) in [p, q].into_iter().enumerate() {
        if rank == 0 {
            return Err(Fault::Input { idx, expected: "at least 1 axis".into(), found: "a scalar".into() });
        }
    }
    let (inner_a, inner_b) = (c.dims(a)[p - 1].clone(), c.dims(b)[q.saturating_sub(2)].clone());
    if inner_a != inner_b {
        return Err(Fault::Broadcast { a: c.ty(a).clone(), b: c.ty(b).clone() });
    }
    // Labels: 0 summed, 1 rows, 2 columns, 3.. batch axes from the last one.
    let batch = |n: usize| (0..n).rev().map(|i| label(3 + i)).collect::<Result<Vec<u8>, _>>();
    let (sum, row, column) = (label(0)?, label(1)?, label(2)?);
    let (batch_a, batch_b) = (p.saturating_sub(2), q.saturating_sub(2));
    let mut left = batch(batch_a)?;
    let mut right = batch(batch_b)?;
    let mut out = batch(batch_a.max(batch_b))?;
    if p > 1 {
        left.push(row);
        out.push(row);
    }
    left.push(sum);
    right.push(sum);
    if q > 1 {
        right.push(column);
        out.push(column);
    }
    contract(c, &[a, b], &[left, right], &out)
}

/// `Gemm`: alpha * A' * B' + beta * C.
pub(crate) fn gemm(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (a, b) = (c.input(0)?, c.input(1)?);
    for (idx, v) in [a, b].into_iter().enumerate() {
        if c.rank(v) != 2 {
            let (expected, found) = ("2 axes".into(), c.ty(v).to_string());
            return Err(Fault::Input { idx, expected, found }.into());
        }
    }
    let (alpha, beta) = (c.attrs.float_or("alpha", 1.0)?, c.attrs.float_or("beta", 1.0)?);
    let left = if c.attrs.flag("transA", false)? { b"km" } else { b"mk" };
    let right = if c.attrs.flag("transB", false)? { b"nk" } else { b"kn" };
    let spec = Spec { inputs: vec![left.to_vec(), right.to_vec()], output: b"mn".to_vec() };
    let mut y = c.emit(Contract { spec: spec.renamed() }, &[a, b])?;
    if alpha != 1.0 {
        y = c.binary_scalar(BinaryFn::Mul, y, alpha.into())?;
    }
    if let Some(bias) = c.opt(2) {
        let scaled = if beta == 1.0 { bias } else { c.binary_scalar(BinaryFn::Mul, bias, beta.into())? };
        let dims = c.dims(y);
        let bias = c.broadcast_to(scaled, &dims)?;
        y = c.binary(BinaryFn::Add, y, bias)?;
    }
    one(y)
}

/// `Einsum` with explicit or implicit output and `...`.
pub(crate) fn einsum(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let equation = c.attrs.string("equation")?.ok_or(Fault::MissingAttribute { name: "equation" })?;
    let operands = c.all_inputs()?;
    let ranks: Vec<usize> = operands.iter().map(|v| c.rank(*v)).collect();
    let wrong = |expected: &str| c.attrs.wrong("equation", expected, format!("{equation:?}"));
    let (inputs, output) = parse(equation, &ranks).map_err(wrong)?;
    let (mut operands, mut inputs) = (operands, inputs);
    for (operand, labels) in operands.iter_mut().zip(&mut inputs) {
        while let Some(axis) = (0..labels.len()).find(|i| labels[..*i].contains(&labels[*i])) {
            let first = labels.iter().position(|l| *l == labels[axis]).unwrap_or(0);
            *operand = diagonal(c, *operand, first, axis)?;
            labels.remove(axis);
        }
    }
    one(contract(c, &operands, &inputs, &output)?)
}

/// The elements whose indices along two axes of one extent agree; the second axis disappears.
fn diagonal(c: &mut Ctx<'_, '_>, x: Val, first: usize, second: usize) -> Result<Val, Fault> {
    let dims = c.dims(x);
    let (n, rank) = (dims[first].clone(), dims.len());
    if dims[second] != n {
        return Err(Fault::Broadcast { a: c.ty(x).clone(), b: c.ty(x).clone() });
    }
    // Both axes behind the others and merged, the diagonal lies n + 1 elements apart.
    let others: Vec<usize> = (0..rank).filter(|i| ![first, second].contains(i)).collect();
    let x = c.transpose(x, &[others.as_slice(), &[first, second]].concat())?;
    let kept: Vec<Dim> = others.iter().map(|i| dims[*i].clone()).collect();
    let flat = shape::mul(&n, &n).ok_or(OVERFLOW)?;
    let x = c.reshape(x, &[kept.as_slice(), &[flat]].concat())?;
    let step = n.as_const().and_then(|n| n.checked_add(1));
    let step = step.ok_or_else(|| Fault::Unproven(format!("the extent {n} of a diagonal is constant")))?;
    let x = c.slice(x, rank - 2, Dim::from(0), n, step)?;
    // The axis back to its place among the others.
    let at = others.iter().filter(|i| **i < first).count();
    let mut perm: Vec<usize> = (0..rank - 2).collect();
    perm.insert(at, rank - 2);
    c.transpose(x, &perm)
}

fn repeats(labels: &[u8]) -> bool {
    labels.iter().enumerate().any(|(i, l)| labels[..i].contains(l))
}

/// Labels of the operands and of the result; the axes of `...` get labels that the equation does not use. The error
/// is what was expected.
fn parse(equation: &str, ranks: &[usize]) -> Result<(Vec<Vec<u8>>, Vec<u8>), &'static str> {
    const TERMS: &str = "labels a-z and A-Z, at most one ... in a term, commas and ->";
    let text: String = equation.chars().filter(|ch| !ch.is_whitespace()).collect();
    let (left, right) = match text.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (text.as_str(), None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != ranks.len() {
        return Err("one term per input");
    }
    let all_letters = |s: &str| s.bytes().all(|b| b.is_ascii_alphabetic());
    let halves = |term: &str| -> Result<(Vec<u8>, Option<Vec<u8>>), &'static str> {
        let (head, tail) = match term.split_once("...") {
            Some((head, tail)) => (head, Some(tail)),
            None => (term, None),
        };
        if !all_letters(head) || !tail.is_none_or(all_letters) {
            return Err(TERMS);
        }
        Ok((head.into(), tail.map(|t| t.as_bytes().to_vec())))
    };
    let split = terms.iter().map(|t| halves(t)).collect::<Result<Vec<_>, _>>()?;
    let mut n_dots = 0;
    for ((head, tail), rank) in split.iter().zip(ranks) {
        let named = head.len() + tail.as_ref().map_or(0, Vec::len);
        match tail {
            None if named != *rank => return Err("one label per axis"),
            Some(_) => n_dots = n_dots.max(rank.checked_sub(named).ok_or("one label per axis")?),
            None => {}
        }
    }
    let free = (b'a'..=b'z').chain(b'A'..=b'Z').filter(|l| !text.as_bytes().contains(l));
    let dots: Vec<u8> = free.take(n_dots).collect();
    if dots.len() < n_dots {
        return Err("at most 52 labels");
    }
    let inputs: Vec<Vec<u8>> = split
        .iter()
        .zip(ranks)
        .map(|((head, tail), rank)| match tail {
            None => head.clone(),
            Some(tail) => {
                let n = rank - head.len() - tail.len();
                [head, &dots[n_dots - n..], tail].concat()
            }
        })
        .collect();
    let output = match right {
        Some(term) => {
            let (head, tail) = halves(term)?;
            match tail {
                None => head,
                Some(tail) => [head, dots.clone(), tail].concat(),
            }
        }
        None => {
            let mut counts: BTreeMap<u8, usize> = BTreeMap::new();
            for label in inputs.iter().flatten().filter(|l| !dots.contains(l)) {
                *counts.entry(*label).or_insert(0) += 1;
            }
            let once = counts.into_iter().filter(|(_, n)| *n == 1).map(|(l, _)| l);
            dots.iter().copied().chain(once).collect()
        }
    };
    if repeats(&output) {
        return Err("each label once in the result");
    }
    if output.iter().any(|l| !inputs.iter().flatten().any(|i| i == l)) {
        return Err("labels of the result among those of the inputs");
    }
    Ok((inputs, output))
}
