use super::*;
use ssmc_ir::ops::{Activation, CausalConv1d, LayerNorm, RmsNorm};

/// One convolution: which of `bias state seq silu` it has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) len: i64,
    pub(super) channels: i64,
    pub(super) width: i64,
    pub(super) dtype: DType,
    pub(super) has: &'static str,
}

pub(super) const CASE: Case =
    Case { len: 19, channels: 6, width: 4, dtype: DType::F32, has: "bias state silu" };

impl Case {
    pub(super) fn problem(&self) -> Problem {
        self.problem_of("len")
    }

    fn problem_of(&self, len: &str) -> Problem {
        let mut p = Problem::new();
        p.bind("batch", 2);
        p.bind("len", self.len);
        let (c, k, before) =
            (self.channels.to_string(), self.width.to_string(), (self.width - 1).to_string());
        let x = p.input("x", self.dtype, &["batch", len, &c]);
        let w = p.input("w", self.dtype, &[&c, &k]);
        let has = |what: &str| self.has.split(' ').any(|h| h == what);
        let bias = has("bias").then(|| p.input("bias", self.dtype, &[&c]));
        let state = has("state").then(|| p.input("state", self.dtype, &["batch", &before, &c]));
        let seq = has("seq")
            .then(|| p.input_of("seq", DType::I32, &["batch", len], |at, _| (at / 5 + at / 7) as f64));
        let activation = if has("silu") { Activation::Silu } else { Activation::None };
        let op = CausalConv1d { activation };
        p.op(op, &[Some(x), Some(w), bias, state, seq]).into_iter().for_each(|y| p.output(y));
        p
    }

    fn check(&self) {
        self.check_problem(&self.problem());
    }

    fn check_problem(&self, p: &Problem) {
        for target in targets() {
            let lowered = p.lower(|graph, group| lower_block(graph, group, &target)).unwrap();
            p.check(&lowered, tolerance(self.dtype)).unwrap_or_else(|e| panic!("{self:?}: {e}"));
        }
    }
}

#[test]
fn lengths_around_a_run() {
    for len in [0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 33] {
        for has in ["", "bias state silu", "seq bias"] {
            Case { len, has, ..CASE }.check();
        }
    }
}

#[test]
fn single_steps() {
    for channels in [3, 8, 24] {
        for dtype in [DType::F32, DType::BF16] {
            let case = Case { len: 1, channels, dtype, ..CASE };
            case.check_problem(&case.problem_of("1"));
        }
    }
}

#[test]
fn channels_and_widths() {
    for channels in [1, 3, 8, 258, 516, 1028] {
        Case { len: 9, channels, ..CASE }.check();
    }
    for channels in [8, 768, 1536] {
        Case { len: 21, channels, dtype: DType::BF16, ..CASE }.check();
    }
    for width in [2, 3, 5] {
        Case { width, has: "seq state", ..CASE }.check();
    }
    for dtype in [DType::F16, DType::BF16] {
        Case { dtype, ..CASE }.check();
    }
}

#[test]
fn norms_of_whole_vectors_and_others() {
    for extent in ["1", "3", "4", "130", "132", "768", "2052"] {
        for dtype in [DType::F32, DType::BF16] {
            for op in [Op::from(RmsNorm { eps: 1e-5.into() }), Op::from(LayerNorm { eps: 1e-5.into() })] {
                let mut p = Problem::new();
                p.bind("rows", 3);
                let x = p.input("x", dtype, &["rows", extent]);
                let w = p.input("w", dtype, &[extent]);
                let y = p.op(op, &[Some(x), Some(w)])[0];
                p.output(y);
                for target in targets() {
                    let lowered = p.lower(|graph, group| lower_block(graph, group, &target)).unwrap();
                    p.check(&lowered, tolerance(dtype))
                        .unwrap_or_else(|e| panic!("{extent}, {dtype:?}: {e}"));
                }
            }
        }
    }
}
