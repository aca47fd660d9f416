use super::super::ssd::{self as lowering, Schedule, Split, Work};
use super::*;
use ssmc_ir::ops::{Mode, Ssd};

/// One mixer: extents, element type, and which of `d rows z bias softplus limits h0 halves wide slice` it has; `rows` says
/// that d has one number per row, `halves` that states are kept in the element type and computed in `f32`, `wide` that they
/// are kept in `f32` too.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) batch: i64,
    pub(super) len: i64,
    pub(super) groups: i64,
    pub(super) heads: i64,
    pub(super) width: i64,
    pub(super) states: i64,
    pub(super) dtype: DType,
    pub(super) has: &'static str,
}

pub(super) const CASE: Case = Case {
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

    pub(super) fn problem(&self) -> Problem {
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
        let is_wide = self.has("wide");
        let of_states = if is_wide { DType::F32 } else { dtype };
        let h0 = self.has("h0").then(|| p.input("h0", of_states, &["batch", g, r, e, n]));
        let wide = |p: &mut Problem, x: ValueId| p.builder().cast(x, DType::F32).unwrap();
        let halves = self.has("halves");
        let mut op =
            Ssd { dt_softplus: self.has("softplus"), mode: Mode::Chunked, chunk_size: 64, ..Ssd::default() };
        if self.has("limits") {
            (op.dt_min, op.dt_max) = (0.05.into(), 0.15.into());
        }
        let mut operands = [Some(x), Some(dt), Some(a), Some(b), Some(c), d, z, bias, h0];
        if halves || is_wide {
            operands =
                operands.map(|x| x.map(|x| if is_wide && Some(x) == h0 { x } else { wide(&mut p, x) }));
        }
        let results = p.op(op, &operands);
        let h_last = if halves { p.converted(results[1], dtype) } else { results[1] };
        [results[0], h_last].into_iter().for_each(|y| p.output(y));
        p
    }

    /// The launches with this schedule; `chunks` says how many each segment has, if time is split.
    fn lower(&self, p: &Problem, schedule: Schedule, chunks: Option<i64>) -> Vec<Lowered> {
        let len = Dim::symbol("len");
        let split = match chunks {
            None => Split::none(&len),
            Some(n) => {
                let (one, each) = (Dim::from(1), Dim::from(n));
                let segments = len.ceildiv(&Dim::from(64 * n)).at_least(&one);
                Split { segments, chunks: each }
            }
        };
        let works = if chunks.is_some() { vec![Work::Ends, Work::Whole] } else { vec![Work::Whole] };
        let lower = |work| {
            p.lower(|graph, group| {
                let Op::Ssd(op) = &graph.node(group.root).op else { panic!("a mixer") };
                in_block(graph, group, schedule.threads(), |l| {
                    lowering::lower(l, op, schedule, (work, &split))
                })
            })
        };
        works.into_iter().map(|work| lower(work).unwrap()).collect()
    }

    fn schedules(&self) -> Vec<(Schedule, GpuTarget)> {
        let fits = |(s, target): &(Schedule, GpuTarget)| {
            s.fits(Some(self.heads), (self.width, self.states, self.has("z")), target)
        };
        let [old, new] = targets();
        let of = |rows, units, is_grouped, target: &GpuTarget| {
            (Schedule { rows, units, is_grouped }, target.clone())
        };
        [2, 1]
            .map(|units| of(64, units, true, &new))
            .into_iter()
            .chain([64, 32, 16].map(|rows| of(rows, 1, false, &old)))
            .filter(fits)
            .collect()
    }

    /// The kernels of all schedules that fit are right, with and without segments.
    fn check(&self) {
        let schedules = self.schedules();
        assert!(!schedules.is_empty());
        for (schedule, target) in schedules {
            for chunks in [None, Some(1), Some(2)] {
                let p = self.problem();
                let lowered = self.lower(&p, schedule, chunks);
                assert!(lowered.iter().all(|lowered| shared_bytes(lowered) <= target.max_shared_bytes));
                // Scores and states are rounded on their way to the matrix units.
                let tolerance = 4.0 * tolerance(self.dtype);
                p.check_all(&lowered, tolerance)
                    .unwrap_or_else(|e| panic!("{self:?} {schedule:?} {chunks:?}: {e}"));
            }
        }
    }
}

#[test]
fn lengths_around_a_chunk() {
    for len in [0, 1, 2, 63, 64, 65, 128, 130, 260] {
        Case { len, ..CASE }.check();
    }
}

#[test]
fn every_operand() {
    for has in [
        "softplus",
        "",
        "d rows z limits",
        "d z bias softplus limits h0",
        "d h0 slice",
        "slice",
        "d h0 halves slice",
        "d z bias softplus h0 wide",
    ] {
        Case { has, batch: 2, len: 70, ..CASE }.check();
    }
    Case { has: "d z h0 wide slice", groups: 2, heads: 1, width: 128, len: 130, ..CASE }.check();
}

#[test]
fn widths_states_and_types() {
    for (groups, heads, width, states) in [(2, 1, 64, 64), (1, 3, 32, 64), (1, 1, 16, 128), (1, 1, 128, 32)] {
        for dtype in [DType::BF16, DType::F16] {
            Case { groups, heads, width, states, dtype, has: "d softplus h0", ..CASE }.check();
        }
    }
}

fn launches(p: &Problem, target: &GpuTarget) -> Vec<Lowered> {
    let mut all = Vec::new();
    p.lower(|graph, group| {
        all = lower_alternatives(graph, group, target)?;
        lower_block(graph, group, target)
    })
    .unwrap();
    all
}

/// The launches that are chosen are right, whether or not time is split; other scans run the loops of CPUs.
#[test]
fn what_is_chosen_runs() {
    for target in targets() {
        for (batch, len) in [(1, 3), (1, 330), (3, 200)] {
            let case = Case { batch, len, ..CASE };
            let p = case.problem();
            let all = launches(&p, &target);
            assert_eq!(all.len(), 2);
            p.check_all(&all, 4.0 * tolerance(case.dtype)).unwrap();
        }
        for case in [Case { dtype: DType::F32, ..CASE }, Case { width: 24, ..CASE }] {
            let all = launches(&case.problem(), &target);
            let has_tiles = |inst: &Inst| matches!(inst, Inst::Mma { .. } | Inst::GroupMma { .. });
            assert!(all.iter().all(|lowered| faults::count(&lowered.kernel, &has_tiles) == 0));
        }
    }
}

/// Warp groups multiply where the machine has them.
#[test]
fn warp_groups_multiply() {
    let count = |target: &GpuTarget| {
        let all = launches(&CASE.problem(), target);
        let is_group = |inst: &Inst| matches!(inst, Inst::GroupMma { .. });
        all.iter().map(|lowered| faults::count(&lowered.kernel, &is_group)).sum::<usize>()
    };
    assert_eq!(targets().map(|target| count(&target)), [0, 9]);
}

/// Segments fill the multiprocessors, are at least two chunks long and make up all of time.
#[test]
fn segments_make_up_time() {
    for blocks in [0, 1, 12, 40, 66, 67, 132, 640] {
        for len in [0, 1, 64, 127, 128, 256, 257, 2048, 65536, 70_001] {
            let Split { segments, chunks } = Split::of(&Dim::from(len), &Dim::from(blocks));
            let [segments, chunks] = [segments, chunks].map(|d| d.as_const().unwrap());
            let all = (len + 63) / 64;
            assert!(segments >= 1 && segments * chunks >= all, "{blocks} {len}");
            assert!((segments - 1) * chunks < all.max(1), "a segment of {blocks} {len} is empty");
            assert!(segments == 1 || chunks >= 2, "{blocks} {len}");
            assert!(segments * blocks <= (4 * 132).max(blocks), "{blocks} {len}");
        }
    }
}

/// Rates that forget at once, keep all or let states grow, and steps of no size.
#[test]
fn extreme_rates_and_steps() {
    let fills: [(&str, fn(usize, f64) -> f64); 4] =
        [("a", |_, _| -1e4), ("a", |_, _| 0.0), ("a", |_, noise| 0.04 + 0.02 * noise), ("dt", |_, _| 0.0)];
    let case = Case { len: 200, has: "d h0", ..CASE };
    for (name, fill) in fills {
        for (schedule, _) in case.schedules() {
            for chunks in [None, Some(1)] {
                let mut p = case.problem();
                p.refill(name, fill);
                let lowered = case.lower(&p, schedule, chunks);
                p.check_all(&lowered, 4.0 * tolerance(case.dtype))
                    .unwrap_or_else(|e| panic!("{name} {schedule:?} {chunks:?}: {e}"));
            }
        }
    }
}

/// Without any one of its barriers the kernel is found wrong.
#[test]
fn each_barrier_is_needed() {
    let is_barrier = |inst: &Inst| *inst == Inst::Barrier;
    for (schedule, _) in CASE.schedules() {
        let p = Case { len: 130, ..CASE }.problem();
        let lowered = CASE.lower(&p, schedule, Some(2));
        let tolerance = 4.0 * tolerance(CASE.dtype);
        p.check_all(&lowered, tolerance).unwrap();
        // Those of the chunks; two more for each piece of the last state.
        for (launch, nth) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let mut wrong = lowered.clone();
            wrong[launch].kernel = faults::without(&wrong[launch].kernel, nth, &is_barrier);
            let found = p.check_all(&wrong, tolerance).expect_err("the fault is found");
            let is_known =
                ["race of threads", "under way", "reads it"].iter().any(|known| found.contains(known));
            assert!(is_known, "{schedule:?} {launch} {nth}: {found}");
        }
    }
}
