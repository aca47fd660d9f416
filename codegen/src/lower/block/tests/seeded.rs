//! Seeded faults: each must be reported by the interpreter or give other numbers.

use super::selective_scan::{ALL, CASE as SCAN, CHANNELS, Case as ScanCase, TIME};
use super::*;
use crate::kernel::{BinaryOp, Mem, Reg, SharedId, Stmt};

/// A problem, its kernel, and the error that results may have.
struct Sound {
    p: Problem,
    lowered: Lowered,
    tolerance: f64,
}

impl Sound {
    /// The kernel is right as it is and found wrong as `change` makes it; returns what was found.
    fn caught(&self, change: impl FnOnce(&mut Lowered)) -> String {
        self.p.check(&self.lowered, self.tolerance).unwrap();
        let mut wrong = self.lowered.clone();
        change(&mut wrong);
        self.p.check(&wrong, self.tolerance).expect_err("the fault is found")
    }

    /// Every barrier of the kernel is needed: without any one of them threads race.
    fn needs_each_barrier(&self, barriers: usize) {
        assert_eq!(faults::count(&self.lowered.kernel, &is_barrier), barriers);
        for nth in 0..barriers {
            let found = self.caught(|l| l.kernel = faults::without(&l.kernel, nth, &is_barrier));
            assert!(
                found.contains("race of threads") || found.contains("under way"),
                "barrier {nth}: {found}"
            );
        }
    }
}

fn is_barrier(inst: &Inst) -> bool {
    *inst == Inst::Barrier
}

fn scan(case: ScanCase, schedule: super::super::selective_scan::Schedule) -> Sound {
    let p = case.problem();
    let lowered = case.lower(&p, schedule);
    Sound { p, lowered, tolerance: tolerance(case.dtype) }
}

fn channels_scan() -> Sound {
    scan(ScanCase { channels: 33, has: "d z bias softplus", ..SCAN }, CHANNELS)
}

/// Two tiles and three steps.
fn time_scan() -> Sound {
    scan(ScanCase { len: 259, channels: 1, n: 3, has: ALL, ..SCAN }, TIME)
}

fn product(dtype: DType) -> Sound {
    let case = matmul::Case { dtypes: (dtype, dtype), x: &["rows", "96"], w: &["7", "96"], ..matmul::CASE };
    let p = case.problem();
    let lowered = case.lower(&p);
    Sound { p, lowered, tolerance: tolerance(dtype) }
}

#[test]
fn missing_barrier_in_the_scan_of_channels() {
    channels_scan().needs_each_barrier(1);
}

#[test]
fn missing_barrier_in_the_scan_of_time() {
    time_scan().needs_each_barrier(2);
}

#[test]
fn missing_barrier_in_a_product() {
    product(DType::F32).needs_each_barrier(1);
}

#[test]
fn missing_barrier_in_a_product_of_matrix_tiles() {
    product(DType::BF16).needs_each_barrier(2);
}

#[test]
fn missing_waits_for_copies() {
    let is_wait = |inst: &Inst| matches!(inst, Inst::AsyncWait { .. });
    for sound in [channels_scan(), product(DType::F32), product(DType::BF16)] {
        // The waits of the two tiles stand side by side; either alone would do.
        let found = sound.caught(|l| {
            while faults::count(&l.kernel, &is_wait) > 0 {
                l.kernel = faults::without(&l.kernel, 0, &is_wait);
            }
        });
        assert!(found.contains("async copy to it is under way"), "{found}");
    }
}

#[test]
fn swapped_b_and_c() {
    for sound in [channels_scan(), time_scan()] {
        let found = sound.caught(|l| {
            let [b, c] = ["b", "c"].map(|name| sound.p.arg(l, name));
            l.args.swap(b, c);
        });
        assert!(found.contains("is not"), "{found}");
    }
}

#[test]
fn dropped_carry_in_the_scan_of_time() {
    let sound = time_scan();
    let carry = shared(&sound.lowered, "carry");
    let stores_carry = |inst: &Inst| matches!(inst, Inst::Store { mem, .. } if *mem == carry);
    // The first store is that of the initial state, the second that of a tile's end.
    assert_eq!(faults::count(&sound.lowered.kernel, &stores_carry), 2);
    for nth in 0..2 {
        let found = sound.caught(|l| l.kernel = faults::without(&l.kernel, nth, &stores_carry));
        assert!(found.contains("which was not written"), "{found}");
    }
}

#[test]
fn carry_of_zero_in_the_scan_of_time() {
    // Without an initial state only what tiles leave to each other is lost.
    let sound = scan(ScanCase { len: 259, channels: 1, n: 3, has: "", ..SCAN }, TIME);
    let carry = shared(&sound.lowered, "carry");
    let found = sound.caught(|l| {
        edit_lists(&mut l.kernel.body, &mut |list| {
            let load = list.iter().position(|s| loads(s, carry))?;
            let Stmt::Inst(Inst::Load { dst, .. }) = list[load] else { return None };
            list.insert(load + 1, zeroed(dst));
            Some(())
        });
    });
    assert!(found.starts_with("output 0, element 128:"), "{found}");
}

fn shared(lowered: &Lowered, name: &str) -> Mem {
    let at = lowered.kernel.shared.iter().position(|a| a.name == name).unwrap();
    Mem::Shared(SharedId(at as u32))
}

fn loads(stmt: &Stmt, from: Mem) -> bool {
    matches!(stmt, Stmt::Inst(Inst::Load { mem, .. }) if *mem == from)
}

/// r = r - r
fn zeroed(r: Reg) -> Stmt {
    Stmt::Inst(Inst::Binary { dst: r, op: BinaryOp::Sub, lhs: r, rhs: r })
}

/// Calls `f` on statement lists, outer ones first, until it has changed one.
fn edit_lists(list: &mut Vec<Stmt>, f: &mut dyn FnMut(&mut Vec<Stmt>) -> Option<()>) -> Option<()> {
    if f(list).is_some() {
        return Some(());
    }
    list.iter_mut().find_map(|stmt| match stmt {
        Stmt::For(l) => edit_lists(&mut l.body, f),
        Stmt::If(i) => edit_lists(&mut i.on_true, f).or_else(|| edit_lists(&mut i.on_false, f)),
        Stmt::Inst(_) => None,
    })
}

#[test]
fn dropped_carry_in_the_scan_of_channels() {
    let sound = channels_scan();
    let found = sound.caught(|l| {
        let h = l.kernel.regs.iter().position(|r| r.name.as_deref() == Some("h0")).unwrap();
        let tiles = l.kernel.body.iter_mut().find_map(|s| match s {
            Stmt::For(l) => Some(&mut l.body),
            Stmt::Inst(_) | Stmt::If(_) => None,
        });
        tiles.unwrap().insert(0, zeroed(Reg(h as u32)));
    });
    // The first element of step 32, where the second tile begins.
    assert!(found.starts_with("output 0, element 1056:"), "{found}");
}
