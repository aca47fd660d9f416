//! Seeded faults: each must be reported by the interpreter or give other numbers.

use super::selective_scan::{ALL, CASE as SCAN, CHANNELS, Case as ScanCase, TIME};
use super::*;
use crate::kernel::{Kernel, Mem, Reg, Stmt};

/// The kernel is right as it is and found wrong as `change` makes it; returns what was found.
fn caught(p: &Problem, lowered: &Lowered, change: impl FnOnce(&mut Lowered)) -> String {
    p.check(lowered, tolerance(DType::F32)).unwrap();
    let mut wrong = lowered.clone();
    change(&mut wrong);
    p.check(&wrong, tolerance(DType::F32)).expect_err("the fault is found")
}

fn is_barrier(inst: &Inst) -> bool {
    *inst == Inst::Barrier
}

/// Every barrier of a kernel is needed: without any one of them threads race.
fn each_barrier_is_needed(p: &Problem, lowered: &Lowered, barriers: usize) {
    assert_eq!(faults::count(&lowered.kernel, &is_barrier), barriers);
    for nth in 0..barriers {
        let found = caught(p, lowered, |l| l.kernel = faults::without(&l.kernel, nth, &is_barrier));
        assert!(found.contains("race of threads") || found.contains("under way"), "barrier {nth}: {found}");
    }
}

fn scan(case: ScanCase, schedule: super::super::selective_scan::Schedule) -> (Problem, Lowered) {
    let p = case.problem();
    let lowered = case.lower(&p, schedule);
    (p, lowered)
}

fn channels_scan() -> (Problem, Lowered) {
    scan(ScanCase { channels: 33, ..SCAN }, CHANNELS)
}

/// Two tiles and three steps.
fn time_scan() -> (Problem, Lowered) {
    scan(ScanCase { len: 259, channels: 1, n: 3, has: ALL, ..SCAN }, TIME)
}

fn product(dtype: DType) -> (Problem, Lowered) {
    let case = matmul::Case {
        dtypes: (dtype, dtype),
        x: &["rows", "96"],
        w: &["7", "96"],
        ..matmul::CASE
    };
    let p = case.problem();
    let lowered = case.lower(&p);
    (p, lowered)
}

#[test]
fn missing_barrier_in_the_scan_of_channels() {
    let (p, lowered) = channels_scan();
    each_barrier_is_needed(&p, &lowered, 1);
}

#[test]
fn missing_barrier_in_the_scan_of_time() {
    let (p, lowered) = time_scan();
    each_barrier_is_needed(&p, &lowered, 2);
}

#[test]
fn missing_barrier_in_a_product() {
    let (p, lowered) = product(DType::F32);
    each_barrier_is_needed(&p, &lowered, 1);
}

#[test]
fn missing_barrier_in_a_product_of_matrix_tiles() {
    let case = matmul::Case {
        dtypes: (DType::BF16, DType::BF16),
        x: &["rows", "96"],
        w: &["7", "96"],
        ..matmul::CASE
    };
    let p = case.problem();
    let lowered = case.lower(&p);
    for nth in 0..2 {
        let kernel = faults::without(&lowered.kernel, nth, &is_barrier);
        let found = p.check(&Lowered { kernel, ..lowered.clone() }, tolerance(DType::BF16)).unwrap_err();
        assert!(found.contains("race of threads") || found.contains("under way"), "barrier {nth}: {found}");
    }
    assert_eq!(faults::count(&lowered.kernel, &is_barrier), 2);
}

#[test]
fn missing_waits_for_copies() {
    let is_wait = |inst: &Inst| matches!(inst, Inst::AsyncWait { .. });
    for (p, lowered) in [channels_scan(), product(DType::F32)] {
        // The waits of the two tiles stand side by side; either alone would do.
        let found = caught(&p, &lowered, |l| {
            while faults::count(&l.kernel, &is_wait) > 0 {
                l.kernel = faults::without(&l.kernel, 0, &is_wait);
            }
        });
        assert!(found.contains("async copy to it is under way"), "{found}");
    }
}

#[test]
fn swapped_b_and_c() {
    for (p, lowered) in [channels_scan(), time_scan()] {
        let found = caught(&p, &lowered, |l| {
            let [b, c] = ["b", "c"].map(|name| p.arg(l, name));
            l.args.swap(b, c);
        });
        assert!(found.contains("is not"), "{found}");
    }
}

#[test]
fn dropped_carry_in_the_scan_of_time() {
    let (p, lowered) = time_scan();
    let carry = lowered.kernel.shared.iter().position(|a| a.name == "carry").unwrap() as u32;
    let stores_carry = |inst: &Inst| matches!(inst, Inst::Store { mem: Mem::Shared(id), .. } if id.0 == carry);
    // The first store is that of the initial state, the second that of a tile's end.
    assert_eq!(faults::count(&lowered.kernel, &stores_carry), 2);
    for nth in 0..2 {
        let found = caught(&p, &lowered, |l| l.kernel = faults::without(&l.kernel, nth, &stores_carry));
        assert!(found.contains("which was not written"), "{found}");
    }
}

#[test]
fn stale_carry_in_the_scan_of_time() {
    let (p, lowered) = time_scan();
    let found = caught(&p, &lowered, |l| read_carry_at_zero(&mut l.kernel));
    assert!(found.contains("is not"), "{found}");
}

/// Every tile reads the carry of the even tiles.
fn read_carry_at_zero(kernel: &mut Kernel) {
    let carry = kernel.shared.iter().position(|a| a.name == "carry").unwrap() as u32;
    fn visit(body: &mut [Stmt], carry: u32, last: &mut Option<Reg>) {
        for stmt in body {
            match stmt {
                Stmt::For(l) => {
                    if kernel_loop(l.body.as_slice(), carry) {
                        *last = Some(l.var);
                    }
                    visit(&mut l.body, carry, last);
                }
                Stmt::If(i) => visit(&mut i.on_true, carry, last),
                Stmt::Inst(Inst::Load { mem: Mem::Shared(id), index, .. }) if id.0 == carry => {
                    if let Some(n) = last {
                        *index = *n;
                    }
                }
                Stmt::Inst(_) => {}
            }
        }
    }
    fn kernel_loop(body: &[Stmt], carry: u32) -> bool {
        let is_load = |s: &Stmt| matches!(s, Stmt::Inst(Inst::Load { mem: Mem::Shared(id), .. }) if id.0 == carry);
        body.iter().any(is_load)
    }
    visit(&mut kernel.body, carry, &mut None);
}

#[test]
fn dropped_carry_in_the_scan_of_channels() {
    let (p, lowered) = channels_scan();
    let found = caught(&p, &lowered, |l| {
        let n = l.kernel.regs.iter().position(|r| r.name.as_deref() == Some("h0")).unwrap();
        let h = Reg(n as u32);
        // Each tile begins with a difference of the state and itself.
        let reset = Stmt::Inst(Inst::Binary { dst: h, op: crate::kernel::BinaryOp::Sub, lhs: h, rhs: h });
        let tiles = l.kernel.body.iter_mut().find_map(|s| match s {
            Stmt::For(l) => Some(&mut l.body),
            Stmt::Inst(_) | Stmt::If(_) => None,
        });
        tiles.unwrap().insert(0, reset);
    });
    assert!(found.contains("is not"), "{found}");
}
