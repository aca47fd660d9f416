//! What libraries are told about products, against the truth.

use super::*;
use crate::lower::Arg;
use ssmc_ir::ops::{Binary, BinaryFn, Cast, Contract, Unary, UnaryFn};

const HALF: DType = DType::BF16;

/// A product of halves, widened by the group, and the steps behind it.
struct Case {
    spec: &'static str,
    x: &'static [&'static str],
    w: &'static [&'static str],
    /// Columns of x that count, and the first of them.
    part: Option<(i64, i64)>,
    epilogue: &'static [Step],
}

#[derive(Clone, Copy)]
enum Step {
    Addend(DType),
    Bias(DType),
    Round,
    Silu,
}

const CASE: Case =
    Case { spec: "abk,nk->abn", x: &["batch", "len", "24"], w: &["10", "24"], part: None, epilogue: &[] };

impl Case {
    fn problem(&self, batch: i64, len: i64) -> Problem {
        let mut p = Problem::new();
        p.bind("batch", batch);
        p.bind("len", len);
        let x = p.input("x", HALF, self.x);
        let x = match self.part {
            Some((start, len)) => p.builder().slice(x, self.x.len() - 1, start, len).unwrap(),
            None => x,
        };
        let w = p.input("w", HALF, self.w);
        let (x, w) = (p.builder().cast(x, DType::F32).unwrap(), p.builder().cast(w, DType::F32).unwrap());
        let names = |shape: &[Dim]| shape.iter().map(Dim::to_string).collect::<Vec<_>>();
        let contract = Contract::new(self.spec);
        let types = [x, w].map(|v| p.builder().ty(v).clone());
        let extents = contract.extents(&[Some(&types[0]), Some(&types[1])]).unwrap();
        let shape: Vec<Dim> = contract.spec.output.iter().map(|l| extents[l].clone()).collect();
        let names = names(&shape);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        // All that the epilogue reads is built before the root.
        let others: Vec<_> = self
            .epilogue
            .iter()
            .map(|step| match step {
                Step::Addend(dtype) => {
                    let value = p.input("addend", *dtype, &names);
                    Some(if *dtype == HALF { p.builder().cast(value, DType::F32).unwrap() } else { value })
                }
                Step::Bias(dtype) => {
                    let value = p.input("bias", *dtype, &names[names.len() - 1..]);
                    let value =
                        if *dtype == HALF { p.builder().cast(value, DType::F32).unwrap() } else { value };
                    Some(p.builder().broadcast(value, &[shape.len() - 1], shape.clone()).unwrap())
                }
                Step::Round | Step::Silu => None,
            })
            .collect();
        let mut y = p.op(contract, &[Some(x), Some(w)])[0];
        for (step, other) in self.epilogue.iter().zip(others) {
            y = match step {
                Step::Addend(_) | Step::Bias(_) => p.op(Binary { f: BinaryFn::Add }, &[Some(y), other])[0],
                Step::Round => p.op(Cast { to: HALF }, &[Some(y)])[0],
                Step::Silu => p.op(Unary { f: UnaryFn::Silu }, &[Some(y)])[0],
            };
        }
        p.epilogue(self.epilogue.len());
        p.output(y);
        p
    }

    /// The launches for each architecture; those that a library may do have what it needs among their arguments.
    fn described(&self, p: &Problem) -> Option<LibraryProduct> {
        let mut found = None;
        for target in targets() {
            let mut all = Vec::new();
            p.lower(|graph, group| {
                all = lower_alternatives(graph, group, &target)?;
                Ok(all[0].clone())
            })
            .unwrap();
            for lowered in &all {
                let Some(product) = &lowered.product else { continue };
                let LibraryProduct { x, w, y, addend, bias, .. } = product;
                for value in [Some(x), Some(w), Some(y), addend.as_ref(), bias.as_ref()].into_iter().flatten()
                {
                    assert!(lowered.args.contains(&Arg::Value(*value)), "{value} in {:?}", lowered.args);
                }
                found = Some(product.clone());
            }
        }
        found
    }
}

#[test]
fn descriptions_compute_what_the_graph_means() {
    use Step::{Addend, Bias, Round};
    let wide = CASE.x;
    for case in [
        CASE,
        Case { epilogue: &[Round], ..CASE },
        Case { epilogue: &[Addend(DType::F32)], ..CASE },
        Case { epilogue: &[Addend(HALF), Round], ..CASE },
        Case { epilogue: &[Bias(DType::F32)], ..CASE },
        Case { epilogue: &[Bias(HALF), Addend(HALF), Round], ..CASE },
        Case { w: &["24", "10"], spec: "abk,kn->abn", epilogue: &[Round], ..CASE },
        Case { w: &["10", "16"], part: Some((8, 16)), x: wide, ..CASE },
        Case { w: &["2", "5", "24"], spec: "abk,nmk->abnm", ..CASE },
    ] {
        for (batch, len) in [(1, 1), (2, 7), (0, 3)] {
            let p = case.problem(batch, len);
            let product = case.described(&p).unwrap();
            let found = p.by_library(&product);
            let truth = p.truth().remove(0);
            assert_eq!(found.shape(), truth.shape());
            for (x, y) in found.to_f64().into_iter().zip(truth.to_f64()) {
                assert!((x - y).abs() <= tolerance(found.dtype()) * (1.0 + y.abs()), "{x} is not {y}");
            }
        }
    }
}

#[test]
fn what_a_library_lacks_is_not_described() {
    use Step::{Addend, Bias, Round, Silu};
    for case in [
        Case { epilogue: &[Silu], ..CASE },
        Case { epilogue: &[Silu, Addend(DType::F32)], ..CASE },
        // An addend of another type than the result.
        Case { epilogue: &[Addend(DType::F32), Round], ..CASE },
        Case { epilogue: &[Bias(HALF)], ..CASE },
        // Not at a multiple of 16 bytes.
        Case { w: &["10", "16"], part: Some((4, 16)), ..CASE },
        Case { w: &["2", "10", "24"], spec: "abk,ank->abn", x: &["2", "len", "24"], ..CASE },
        Case { x: &["batch", "24", "len"], spec: "akb,nk->abn", ..CASE },
    ] {
        assert_eq!(case.described(&case.problem(2, 70)), None);
    }
}
