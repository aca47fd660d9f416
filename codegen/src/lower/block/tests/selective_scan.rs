use super::super::selective_scan::{self as lowering, Schedule};
use super::*;
use crate::kernel::Elem;
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

pub(super) const CHANNELS: Schedule = Schedule::Channels { threads: 64, steps: 32 };

/// Tiles of 128 steps.
pub(super) const TIME: Schedule = Schedule::Time { threads: 64, items: 2 };

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

    pub(super) fn lower(&self, p: &Problem, schedule: Schedule) -> Lowered {
        p.lower(|graph, group| {
            let Op::SelectiveScan(op) = &graph.node(group.root).op else { unreachable!("built as one") };
            in_block(graph, group, schedule.threads(), |l| lowering::lower(l, op, schedule))
        })
        .unwrap()
    }

    fn check(&self, schedule: Schedule) {
        let p = self.problem();
        let lowered = self.lower(&p, schedule);
        p.check(&lowered, tolerance(self.dtype)).unwrap_or_else(|e| panic!("{self:?} {schedule:?}: {e}"));
    }
}

#[test]
fn lengths_around_a_tile() {
    for len in [0, 1, 7, 31, 32, 33, 67] {
        Case { len, ..CASE }.check(CHANNELS);
    }
    for len in [0, 1, 7, 127, 128, 129, 259] {
        Case { len, channels: 2, ..CASE }.check(TIME);
    }
}

#[test]
fn channels_and_states() {
    for channels in [1, 5, 33, 65] {
        for n in [1, 8, 16] {
            Case { channels, n, len: 35, ..CASE }.check(CHANNELS);
        }
    }
    for channels in [1, 5, 33] {
        for n in [1, 8, 16] {
            let len = if channels == 1 { 131 } else { 9 };
            Case { channels, n, len, ..CASE }.check(TIME);
        }
    }
}

#[test]
fn every_operand_and_direction() {
    for has in ["", "d", "z", "bias", "softplus", "limits", "h0", "seq", "reverse", ALL, "slice"] {
        Case { has, ..CASE }.check(CHANNELS);
        Case { has, len: 131, channels: 1, n: 3, ..CASE }.check(TIME);
    }
    let has = "d z bias softplus limits h0 seq reverse slice";
    Case { has, batch: 2, groups: 3, ..CASE }.check(CHANNELS);
    Case { has, batch: 2, groups: 3, channels: 2, len: 131, n: 3, ..CASE }.check(TIME);
}

#[test]
fn half_types() {
    for dtype in [DType::F16, DType::BF16] {
        for n in [3, 8] {
            Case { dtype, n, ..CASE }.check(CHANNELS);
            Case { dtype, n, channels: 1, len: 131, ..CASE }.check(TIME);
        }
    }
}

#[test]
fn chosen_schedules() {
    for target in targets() {
        let of = |channels, is_short, n| Schedule::of(channels, is_short, n, Elem::F32, &target);
        assert_eq!(of(8 * 5120, false, 16), Schedule::Channels { threads: 64, steps: 32 });
        assert_eq!(of(8 * 5120, false, 64), Schedule::Channels { threads: 64, steps: 24 });
        assert_eq!(of(1536, true, 16), Schedule::Channels { threads: 64, steps: 32 });
        assert_eq!(of(1536, false, 16), Schedule::Time { threads: 128, items: 4 });
        assert_eq!(of(8 * 5120, false, 128), Schedule::Time { threads: 128, items: 4 });
    }
}

#[test]
fn the_entry_point_lowers_what_it_chooses() {
    for target in targets() {
        // 513 steps: beyond one tile of the schedule for few channels.
        let case = Case { len: 513, channels: 1, n: 2, ..CASE };
        let p = case.problem();
        let lowered = p.lower(|graph, group| lower_block(graph, group, &target)).unwrap();
        assert_eq!(lowered.kernel.block, [128, 1, 1]);
        assert_eq!(lowered.grid.to_string(), "batch");
        p.check(&lowered, tolerance(DType::F32)).unwrap();
    }
}

#[test]
fn packed_sequences_do_not_share_nan() {
    for (schedule, len) in [(CHANNELS, 67), (TIME, 131)] {
        let case = Case { has: "seq", len, channels: 2, ..CASE };
        let mut p = case.problem();
        p.refill("x", |at, noise| if at == 12 { f64::NAN } else { noise });
        let lowered = case.lower(&p, schedule);
        p.check(&lowered, tolerance(DType::F32)).unwrap_or_else(|e| panic!("{schedule:?}: {e}"));
        let y = p.run(&lowered).unwrap()[0].to_f64();
        assert!(y.iter().any(|y| y.is_nan()) && y[36..].iter().all(|y| y.is_finite()), "{schedule:?}");
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

#[test]
fn rows_are_copied_in_the_widest_words_they_allow() {
    for (n, dtype, has, expected) in [
        (16, DType::F32, "", vec![16]),
        (2, DType::F32, "", vec![8]),
        (3, DType::F32, "", vec![4]),
        (8, DType::BF16, "", vec![16]),
        (2, DType::F16, "", vec![4]),
        (3, DType::BF16, "", vec![]),
        (16, DType::F32, "slice", vec![]),
    ] {
        let case = Case { n, dtype, has, ..CASE };
        let found = copied_bytes(&case.lower(&case.problem(), CHANNELS));
        assert_eq!(found, expected, "{case:?}");
    }
}
