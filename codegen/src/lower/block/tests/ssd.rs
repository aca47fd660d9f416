use super::super::ssd::{self as lowering, Schedule};
use super::*;
use ssmc_ir::ops::{Mode, Ssd};

/// One mixer: extents, element type, and which of `d rows z bias softplus limits h0 slice` it has; `rows` says that d has
/// one number per row.
#[derive(Clone, Copy, Debug)]
struct Case {
    batch: i64,
    len: i64,
    groups: i64,
    heads: i64,
    width: i64,
    states: i64,
    dtype: DType,
    has: &'static str,
}

const CASE: Case = Case {
    batch: 1,
    len: 67,
    groups: 1,
    heads: 2,
    width: 64,
    states: 128,
    dtype: DType::BF16,
    has: "d bias softplus",
};

impl Case {
    fn has(&self, what: &str) -> bool {
        self.has.split(' ').any(|h| h == what)
    }

    fn problem(&self) -> Problem {
        let mut p = Problem::new();
        p.bind("batch", self.batch);
        p.bind("len", self.len);
        let [g, r, e, n] = [self.groups, self.heads, self.width, self.states].map(|n| n.to_string());
        let (g, r, e, n) = (g.as_str(), r.as_str(), e.as_str(), n.as_str());
        let rows = ["batch", "len", g, r, e];
        let dtype = self.dtype;
        let steps = ["batch", "len", g, r];
        let (x, b, c) = match self.has("slice") {
            // As a convolution leaves them: x, b and c side by side.
            true => {
                let inner = self.groups * self.heads * self.width;
                let pairs = self.groups * self.states;
                let all = p.input("all", dtype, &["batch", "len", &(inner + 2 * pairs).to_string()]);
                let builder = p.builder();
                let mut part = |start: i64, n: i64, shape: &[i64]| {
                    let part = builder.slice(all, 2, start, n).unwrap();
                    let shape = [Dim::symbol("batch"), Dim::symbol("len")]
                        .into_iter()
                        .chain(shape.iter().map(|n| Dim::from(*n)));
                    builder.reshape(part, shape.collect::<Vec<_>>()).unwrap()
                };
                let x = part(0, inner, &[self.groups, self.heads, self.width]);
                let b = part(inner, pairs, &[self.groups, self.states]);
                (x, b, part(inner + pairs, pairs, &[self.groups, self.states]))
            }
            false => {
                let x = p.input("x", dtype, &rows);
                let b = p.input("b", dtype, &["batch", "len", g, n]);
                (x, b, p.input("c", dtype, &["batch", "len", g, n]))
            }
        };
        let dt = match self.has("softplus") {
            true => p.input("dt", dtype, &steps),
            false => p.input_of("dt", dtype, &steps, |_, noise| 0.1 + 0.08 * noise),
        };
        let a = p.input_of("a", dtype, &[g, r], |_, noise| -1.5 - noise);
        let mut optional = |what: &str, shape: &[&str]| self.has(what).then(|| p.input(what, dtype, shape));
        let d = optional("d", &[g, r, if self.has("rows") { e } else { "1" }]);
        let (z, bias) = (optional("z", &rows), optional("bias", &[g, r]));
        let h0 = optional("h0", &["batch", g, r, e, n]);
        let mut op =
            Ssd { dt_softplus: self.has("softplus"), mode: Mode::Chunked, chunk_size: 64, ..Ssd::default() };
        if self.has("limits") {
            (op.dt_min, op.dt_max) = (0.05.into(), 0.15.into());
        }
        let operands = [Some(x), Some(dt), Some(a), Some(b), Some(c), d, z, bias, h0];
        let results = p.op(op, &operands);
        results.into_iter().for_each(|y| p.output(y));
        p
    }

    fn lower(&self, p: &Problem, schedule: Schedule) -> Lowered {
        let lowered = p.lower(|graph, group| {
            let Op::Ssd(op) = &graph.node(group.root).op else { panic!("a mixer") };
            in_block(graph, group, lowering::THREADS, |l| lowering::lower(l, op, schedule))
        });
        lowered.unwrap()
    }

    /// The kernels of all schedules that fit are right.
    fn check(&self) {
        for schedule in [64, 32, 16].map(|rows| Schedule { rows }) {
            if self.width % schedule.rows != 0 || self.states % (1024 / schedule.rows) != 0 {
                continue;
            }
            let p = self.problem();
            let lowered = self.lower(&p, schedule);
            for target in targets() {
                assert!(shared_bytes(&lowered) <= target.max_shared_bytes);
            }
            // Scores and states are rounded on their way to the matrix units.
            let tolerance = 4.0 * tolerance(self.dtype);
            p.check(&lowered, tolerance).unwrap_or_else(|e| panic!("{self:?} {schedule:?}: {e}"));
        }
    }
}

#[test]
fn lengths_around_a_chunk() {
    for len in [0, 1, 2, 63, 64, 65, 128, 130] {
        Case { len, ..CASE }.check();
    }
}

#[test]
fn every_operand() {
    for has in ["softplus", "", "d rows z limits", "d z bias softplus limits h0", "d h0 slice", "slice"] {
        Case { has, batch: 2, len: 70, ..CASE }.check();
    }
}

#[test]
fn widths_states_and_types() {
    for (groups, heads, width, states) in [(2, 1, 64, 64), (1, 3, 32, 64), (1, 1, 16, 128), (1, 1, 128, 32)] {
        for dtype in [DType::BF16, DType::F16] {
            Case { groups, heads, width, states, dtype, has: "d softplus h0", ..CASE }.check();
        }
    }
}

/// Of the alternatives for an unknown batch exactly one runs, and it is right; other scans run the loops of CPUs.
#[test]
fn one_schedule_runs() {
    let target = GpuTarget::of_arch(GpuArch::Sm80);
    let alternatives = |p: &Problem| {
        let mut all = Vec::new();
        p.lower(|graph, group| {
            all = lower_alternatives(graph, group, &target)?;
            lower_block(graph, group, &target)
        })
        .unwrap();
        all
    };
    for batch in [1, 20, 33] {
        let case = Case { batch, len: 3, ..CASE };
        let p = case.problem();
        let all = alternatives(&p);
        assert_eq!(all.len(), 3);
        let runs = |lowered: &&Lowered| p.check(lowered, 4.0 * tolerance(case.dtype)).is_ok();
        assert_eq!(all.iter().filter(runs).count(), 1, "{batch}");
    }
    for case in [Case { dtype: DType::F32, ..CASE }, Case { width: 24, ..CASE }] {
        let all = alternatives(&case.problem());
        let has_tiles = |inst: &Inst| matches!(inst, Inst::Mma { .. });
        assert!(all.iter().all(|lowered| faults::count(&lowered.kernel, &has_tiles) == 0));
    }
}

/// Without any one of its barriers the kernel is found wrong.
#[test]
fn each_barrier_is_needed() {
    let is_barrier = |inst: &Inst| *inst == Inst::Barrier;
    for schedule in [64, 16].map(|rows| Schedule { rows }) {
        let p = Case { len: 130, ..CASE }.problem();
        let lowered = CASE.lower(&p, schedule);
        let tolerance = 4.0 * tolerance(CASE.dtype);
        p.check(&lowered, tolerance).unwrap();
        // Those of the chunks; two more for each piece of the last state.
        for nth in 0..2 {
            let mut wrong = lowered.clone();
            wrong.kernel = faults::without(&wrong.kernel, nth, &is_barrier);
            let found = p.check(&wrong, tolerance).expect_err("the fault is found");
            assert!(found.contains("race of threads") || found.contains("under way"), "{nth}: {found}");
        }
    }
}
