use super::super::selective_scan::{self as lowering, Schedule, Shape};
use super::*;
use ssmc_ir::ops::SelectiveScan;

/// One mixer: extents, element type and which of `d z bias softplus limits h0 seq reverse slice` it has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) batch: i64,
    pub(super) len: i64,
    pub(super) groups: i64,
    pub(super) channels: i64,
    pub(super) n: i64,
    pub(super) dtype: DType,
    pub(super) has: &'static str,
}

pub(super) const CASE: Case =
    Case { batch: 1, len: 67, groups: 1, channels: 5, n: 8, dtype: DType::F32, has: "d z bias softplus h0" };

pub(super) const ALL: &str = "d z bias softplus limits h0 seq";

/// Those of many, some and few channels, and others.
pub(super) const MANY: Shape = [2, 1, 32, 16, 8, 0];
pub(super) const SOME: Shape = [4, 1, 40, 32, 32, 1];
pub(super) const FEW: Shape = [8, 1, 16, 64, 32, 1];
const SHAPES: [Shape; 13] = [
    [2, 1, 64, 32, 8, 0],
    [16, 1, 8, 64, 16, 1],
    MANY,
    SOME,
    FEW,
    [8, 1, 16, 32, 16, 0],
    [8, 1, 12, 32, 32, 2],
    [8, 1, 12, 64, 16, 4],
    [1, 1, 64, 16, 4, 0],
    [2, 2, 64, 16, 4, 0],
    [4, 2, 16, 32, 4, 0],
    [32, 1, 4, 128, 32, 0],
    [2, 1, 32, 32, 16, 1],
];

impl Case {
    fn has(&self, what: &str) -> bool {
        self.has.split(' ').any(|h| h == what)
    }

    pub(super) fn problem(&self) -> Problem {
        let mut p = Problem::new();
        p.bind("batch", self.batch);
        p.bind("len", self.len);
        let [g, e, n] = [self.groups, self.channels, self.n].map(|n| n.to_string());
        let (g, e, n) = (g.as_str(), e.as_str(), n.as_str());
        let steps = ["batch", "len", g, e];
        let x = p.input("x", self.dtype, &steps);
        let dt = match self.has("softplus") {
            true => p.input("dt", self.dtype, &steps),
            false => p.input_of("dt", self.dtype, &steps, |_, noise| 0.4 + 0.3 * noise),
        };
        let a = p.input_of("a", self.dtype, &[g, e, n], |_, noise| -1.5 - noise);
        let (b, c) = match self.has("slice") {
            // As a projection leaves them: b and c side by side, neither a tensor of its own.
            true => {
                let both = p.input("both", self.dtype, &["batch", "len", g, &(2 * self.n).to_string()]);
                let builder = p.builder();
                let part = |builder: &mut ssmc_ir::GraphBuilder, start: i64| {
                    builder.slice(both, 3, start, self.n).unwrap()
                };
                (part(builder, 0), part(builder, self.n))
            }
            false => {
                let b = p.input("b", self.dtype, &["batch", "len", g, n]);
                (b, p.input("c", self.dtype, &["batch", "len", g, n]))
            }
        };
        let mut optional =
            |what: &str, shape: &[&str]| self.has(what).then(|| p.input(what, self.dtype, shape));
        let (d, z) = (optional("d", &[g, e]), optional("z", &steps));
        let (bias, h0) = (optional("bias", &[g, e]), optional("h0", &["batch", g, e, n]));
        let seq = self
            .has("seq")
            .then(|| p.input_of("seq", DType::I32, &["batch", "len"], |at, _| (at / 9 + at / 31) as f64));
        let mut op = SelectiveScan {
            dt_softplus: self.has("softplus"),
            reverse: self.has("reverse"),
            ..SelectiveScan::default()
        };
        if self.has("limits") {
            (op.dt_min, op.dt_max) = (0.4.into(), 0.9.into());
        }
        let operands = [Some(x), Some(dt), Some(a), Some(b), Some(c), d, z, bias, h0, seq];
        let results = p.op(op, &operands);
        results.into_iter().for_each(|y| p.output(y));
        p
    }

    fn schedule(&self, shape: Shape) -> Option<Schedule> {
        Schedule::of(shape, self.n, &GpuTarget::of_arch(GpuArch::Sm80))
    }

    pub(super) fn lower(&self, p: &Problem, shape: Shape) -> Lowered {
        let schedule = self.schedule(shape).unwrap();
        p.lower(|graph, group| {
            let Op::SelectiveScan(op) = &graph.node(group.root).op else { unreachable!("built as one") };
            in_block(graph, group, schedule.threads(), |l| lowering::lower(l, op, schedule))
        })
        .unwrap()
    }

    fn check(&self, shape: Shape) {
        let p = self.problem();
        let lowered = self.lower(&p, shape);
        p.check(&lowered, tolerance(self.dtype)).unwrap_or_else(|e| panic!("{self:?} {shape:?}: {e}"));
    }

    /// For all shapes that fit the states.
    fn check_all(&self) {
        SHAPES
            .into_iter()
            .filter(|shape| self.schedule(*shape).is_some())
            .for_each(|shape| self.check(shape));
        let s = Schedule::fallback(self.n, &GpuTarget::of_arch(GpuArch::Sm80)).unwrap();
        self.check([s.lanes, s.columns, s.channels, s.steps, s.turn, s.helpers]);
    }
}

#[test]
fn lengths_around_a_tile() {
    for len in [0, 1, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 67, 131] {
        for shape in [MANY, SOME, FEW] {
            Case { len, channels: 3, n: 16, ..CASE }.check(shape);
        }
    }
}

#[test]
fn channels_and_states() {
    for channels in [1, 5, 33, 65] {
        for n in [1, 3, 8, 16, 17] {
            Case { channels, n, len: 35, ..CASE }.check_all();
        }
    }
    for n in [64, 128] {
        Case { channels: 2, n, len: 9, ..CASE }.check_all();
    }
}

#[test]
fn every_operand_and_direction() {
    for has in ["", "d", "z", "bias", "softplus", "limits", "h0", "seq", "reverse", ALL, "slice"] {
        Case { has, ..CASE }.check_all();
    }
    let has = "d z bias softplus limits h0 seq reverse slice";
    Case { has, batch: 2, groups: 3, ..CASE }.check_all();
}

#[test]
fn half_types() {
    for dtype in [DType::F16, DType::BF16] {
        for n in [3, 8] {
            Case { dtype, n, ..CASE }.check_all();
        }
    }
}

#[test]
fn every_size_has_one_schedule() {
    for target in targets() {
        for n in [1, 3, 16, 64, 128] {
            let p = Case { channels: 512, n, ..CASE }.problem();
            p.lower(|graph, group| {
                let all = lower_alternatives(graph, group, &target)?;
                for batch in [1, 7, 8, 31, 32, 1000] {
                    let bindings = ssmc_ir::Bindings::from([(ssmc_ir::Symbol::new("batch"), batch)]);
                    let grids = all.iter().map(|l| l.grid.eval(&bindings).unwrap());
                    assert_eq!(grids.filter(|grid| *grid > 0).count(), 1, "{n} states, batch {batch}");
                }
                lower_block(graph, group, &target)
            })
            .unwrap();
        }
    }
}

#[test]
fn the_entry_point_lowers_what_it_chooses() {
    for target in targets() {
        let case = Case { len: 67, channels: 9, n: 16, ..CASE };
        let p = case.problem();
        let lowered = p.lower(|graph, group| lower_block(graph, group, &target)).unwrap();
        assert!(lowered.kernel.block[0] > 32);
        p.check(&lowered, tolerance(DType::F32)).unwrap();
    }
}

#[test]
fn packed_sequences_do_not_share_nan() {
    for shape in [MANY, SOME, FEW] {
        let case = Case { has: "seq", len: 67, channels: 2, n: 16, ..CASE };
        let mut p = case.problem();
        p.refill("x", |at, noise| if at == 12 { f64::NAN } else { noise });
        let lowered = case.lower(&p, shape);
        p.check(&lowered, tolerance(DType::F32)).unwrap_or_else(|e| panic!("{shape:?}: {e}"));
        let y = p.run(&lowered).unwrap()[0].to_f64();
        assert!(y.iter().any(|y| y.is_nan()) && y[36..].iter().all(|y| y.is_finite()), "{shape:?}");
    }
}

#[test]
fn shared_memory_fits_what_a_block_gets() {
    for target in targets() {
        for n in [1, 16, 64, 128, 256] {
            for channels in [1, 100_000] {
                let case = Case { n, channels, ..CASE };
                let p = case.problem();
                let lowered = p.lower(|graph, group| lower_block(graph, group, &target)).unwrap();
                assert!(
                    shared_bytes(&lowered) <= target.static_shared_bytes,
                    "{n} states, {channels} channels"
                );
            }
        }
    }
}
