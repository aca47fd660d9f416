use super::super::update::Update;
use super::*;
use crate::kernel::{Mem, ParamId};
use ssmc_ir::ops::{Discretization, ReadOut, SelectiveScan, Ssd};

/// One step: extents, element type and which of `d row z bias softplus` it has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) groups: i64,
    /// Heads of a group; 0 for channels with decays of their own.
    pub(super) heads: i64,
    /// Rows of a head, or channels.
    pub(super) rows: i64,
    pub(super) n: i64,
    pub(super) dtype: DType,
    /// The type of the states in memory, if it is another one.
    pub(super) kept: Option<DType>,
    pub(super) rule: Discretization,
    pub(super) read_out: ReadOut,
    pub(super) has: &'static str,
}

pub(super) const CASE: Case = Case {
    groups: 1,
    heads: 3,
    rows: 64,
    n: 128,
    dtype: DType::F32,
    kept: None,
    rule: Discretization::ExpEuler,
    read_out: ReadOut::After,
    has: "d z bias softplus",
};

impl Case {
    pub(super) fn problem(&self) -> Problem {
        let mut p = Problem::new();
        p.bind("batch", 2);
        let has = |what: &str| self.has.split(' ').any(|h| h == what);
        let [g, r, rows, n] = [self.groups, self.heads, self.rows, self.n].map(|n| n.to_string());
        let (g, r, rows, n) = (g.as_str(), r.as_str(), rows.as_str(), n.as_str());
        let heads = self.heads > 0;
        let pick = |of_heads: &[&'static str], of_rows: &[&'static str]| -> Vec<&str> {
            let names = if heads { of_heads } else { of_rows };
            let extent = |name: &&'static str| match *name {
                "g" => g,
                "r" => r,
                "rows" => rows,
                "n" => n,
                other => other,
            };
            names.iter().map(extent).collect()
        };
        let dtype = self.dtype;
        let steps = pick(&["batch", "1", "g", "r", "rows"], &["batch", "1", "g", "rows"]);
        let of_dt = pick(&["batch", "1", "g", "r"], &["batch", "1", "g", "rows"]);
        let own = pick(&["g", "r"], &["g", "rows"]);
        let skip = if has("row") { "rows" } else { "1" };
        let x = p.input("x", dtype, &steps);
        let dt = p.input_of("dt", dtype, &of_dt, |_, noise| 0.4 + 0.3 * noise);
        let a = p.input_of("a", dtype, &pick(&["g", "r"], &["g", "rows", "n"]), |_, noise| -1.5 - noise);
        let [b, c] = ["b", "c"].map(|name| p.input(name, dtype, &["batch", "1", g, n]));
        let d = has("d").then(|| {
            let shape = if heads { vec![g, r, if skip == "1" { "1" } else { rows }] } else { own.clone() };
            p.input("d", dtype, &shape)
        });
        let z = has("z").then(|| p.input("z", dtype, &steps));
        let bias = has("bias").then(|| p.input("bias", dtype, &own));
        let states = pick(&["batch", "g", "r", "rows", "n"], &["batch", "g", "rows", "n"]);
        let mut h0 = p.input("h0", self.kept.unwrap_or(dtype), &states);
        if self.kept.is_some() {
            h0 = p.builder().cast(h0, dtype).unwrap();
        }
        let operands = [Some(x), Some(dt), Some(a), Some(b), Some(c), d, z, bias, Some(h0)];
        let (dt_softplus, discretization, read_out) = (has("softplus"), self.rule, self.read_out);
        let results = match heads {
            true => p.op(Ssd { dt_softplus, discretization, read_out, ..Ssd::default() }, &operands),
            false => p.op(
                SelectiveScan { dt_softplus, discretization, read_out, ..SelectiveScan::default() },
                &operands,
            ),
        };
        let h_last = self.kept.map_or(results[1], |kept| p.converted(results[1], kept));
        [results[0], h_last].into_iter().for_each(|y| p.output(y));
        p
    }

    fn check(&self) {
        let p = self.problem();
        for target in targets() {
            let lowered = p.lower(|graph, group| {
                assert!(Update::of(graph, graph.node(group.root)).is_some(), "{self:?}");
                lower_block(graph, group, &target)
            });
            let tolerance = tolerance(self.kept.unwrap_or(self.dtype));
            p.check(&lowered.unwrap(), tolerance).unwrap_or_else(|e| panic!("{self:?}: {e}"));
        }
    }
}

#[test]
fn heads_of_any_shape() {
    for (groups, heads, rows, n) in
        [(1, 2, 64, 128), (2, 2, 5, 16), (2, 1, 17, 64), (1, 3, 1, 4), (1, 1, 33, 32)]
    {
        Case { groups, heads, rows, n, ..CASE }.check();
    }
    for has in ["", "d row", "z softplus", "bias"] {
        Case { rows: 8, n: 32, has, ..CASE }.check();
    }
}

#[test]
fn channels_of_any_shape() {
    let channels = Case { heads: 0, n: 16, ..CASE };
    for (groups, rows, n) in [(1, 32, 16), (1, 33, 16), (2, 7, 8), (1, 1, 4), (3, 40, 128)] {
        Case { groups, rows, n, ..channels }.check();
    }
    for has in ["", "d", "z softplus", "bias"] {
        Case { rows: 9, has, ..channels }.check();
    }
}

#[test]
fn element_types_and_rules() {
    for heads in [0, 2] {
        let case = Case { heads, rows: 9, n: 32, ..CASE };
        for dtype in [DType::BF16, DType::F16] {
            Case { dtype, has: "d z", ..case }.check();
        }
        for rule in [Discretization::Zoh, Discretization::Bilinear] {
            Case { rule, ..case }.check();
        }
        Case { read_out: ReadOut::Before, ..case }.check();
    }
}

/// States in halves are widened as they are loaded, and rounded as they are stored: 16 bytes a lane for rows of heads.
#[test]
fn states_in_halves() {
    for kept in [DType::BF16, DType::F16].map(Some) {
        for (heads, rows, n) in [(3, 64, 128), (2, 5, 16), (1, 17, 64), (0, 33, 16), (0, 40, 128)] {
            Case { heads, rows, n, kept, ..CASE }.check();
        }
    }
    let p = Case { kept: Some(DType::BF16), ..CASE }.problem();
    let lowered = p.lower(|graph, group| lower_block(graph, group, &targets()[0])).unwrap();
    let (kernel, h0) = (&lowered.kernel, p.arg(&lowered, "h0"));
    let is_wide = |inst: &Inst| match inst {
        Inst::Load { dst, mem, .. } => {
            *mem == Mem::Param(ParamId(h0 as u32)) && kernel.ty(*dst).lanes() == Some(8)
        }
        _ => false,
    };
    assert_eq!(faults::count(kernel, &is_wide), 4);
}

#[test]
fn other_numbers_of_states_have_no_such_schedule() {
    for n in [3, 12, 256] {
        let p = Case { n, ..CASE }.problem();
        p.lower(|graph, group| {
            assert!(Update::of(graph, graph.node(group.root)).is_none(), "{n}");
            lower_block(graph, group, &targets()[0])
        })
        .unwrap();
    }
}
