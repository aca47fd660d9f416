//! Seeded faults: each must be reported by the interpreter or give other numbers.

use super::selective_scan::{ALL, CASE as SCAN, Case as ScanCase, FEW, MANY};
use super::*;
use crate::kernel::{BinaryOp, Reg, Stmt};

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

fn scan(case: ScanCase, shape: super::super::selective_scan::Shape) -> Sound {
    let p = case.problem();
    let lowered = case.lower(&p, shape);
    Sound { p, lowered, tolerance: tolerance(case.dtype) }
}

/// Tiles of 16 steps.
fn scan_of_many() -> Sound {
    scan(ScanCase { channels: 33, n: 16, has: "d z bias softplus", ..SCAN }, MANY)
}

/// Tiles of 64 steps.
fn scan_of_few() -> Sound {
    scan(ScanCase { len: 131, channels: 3, n: 16, has: ALL, ..SCAN }, FEW)
}

fn product(dtype: DType) -> Sound {
    let case = matmul::Case { dtypes: (dtype, dtype), x: &["rows", "96"], w: &["7", "96"], ..matmul::CASE };
    let p = case.problem();
    let lowered = case.lower(&p);
    Sound { p, lowered, tolerance: tolerance(dtype) }
}

#[test]
fn missing_barrier_in_a_scan() {
    scan_of_many().needs_each_barrier(2);
    scan_of_few().needs_each_barrier(2);
}

#[test]
fn missing_barrier_in_a_product() {
    product(DType::F32).needs_each_barrier(1);
}

#[test]
fn missing_barrier_in_a_product_of_matrix_tiles() {
    product(DType::BF16).needs_each_barrier(3);
}

#[test]
fn missing_waits_for_copies() {
    let is_wait = |inst: &Inst| matches!(inst, Inst::AsyncWait { .. });
    for sound in [product(DType::F32), product(DType::BF16)] {
        // The wait after the last tile would do for the first.
        let found = sound.caught(|l| {
            while faults::count(&l.kernel, &is_wait) > 0 {
                l.kernel = faults::without(&l.kernel, 0, &is_wait);
            }
        });
        assert!(found.contains("async copy to it is under way"), "{found}");
    }
}

fn product_of_groups() -> Sound {
    let case = matmul::Case {
        dtypes: (DType::BF16, DType::BF16),
        x: &["rows", "328"],
        w: &["256", "328"],
        ..matmul::CASE
    };
    let p = case.problem();
    let lowered = case.lower_for(&p, GpuArch::Sm90a);
    Sound { p, lowered, tolerance: tolerance(DType::BF16) }
}

#[test]
fn missing_barrier_in_a_product_of_groups() {
    product_of_groups().needs_each_barrier(3);
}

#[test]
fn missing_wait_for_a_product_of_groups() {
    let is_wait = |inst: &Inst| matches!(inst, Inst::GroupWait { .. });
    let found = product_of_groups().caught(|l| l.kernel = faults::without(&l.kernel, 0, &is_wait));
    assert!(found.contains("while a product of a warp group"), "{found}");
}

#[test]
fn swapped_b_and_c() {
    for sound in [scan_of_many(), scan_of_few()] {
        let found = sound.caught(|l| {
            let [b, c] = ["b", "c"].map(|name| sound.p.arg(l, name));
            l.args.swap(b, c);
        });
        assert!(found.contains("is not"), "{found}");
    }
}

/// r = r - r
fn zeroed(r: Reg) -> Stmt {
    Stmt::Inst(Inst::Binary { dst: r, op: BinaryOp::Sub, lhs: r, rhs: r })
}

#[test]
fn states_lost_between_tiles() {
    let few = scan(ScanCase { len: 131, channels: 3, n: 16, has: "d z bias softplus", ..SCAN }, FEW);
    for (sound, element) in [(scan_of_many(), 16 * 33), (few, 64 * 3)] {
        let found = sound.caught(|l| {
            let named =
                |r: &crate::kernel::RegInfo| r.name.as_ref().is_some_and(|name| name.starts_with('h'));
            let states: Vec<u32> =
                (0..).zip(&l.kernel.regs).filter(|(_, r)| named(r)).map(|(i, _)| i).collect();
            let tiles = l.kernel.body.iter_mut().rev().find_map(|s| match s {
                Stmt::For(l) => Some(&mut l.body),
                Stmt::Inst(_) | Stmt::If(_) => None,
            });
            tiles.unwrap().splice(0..0, states.into_iter().map(|h| zeroed(Reg(h))));
        });
        // The first step of the second tile, or later where every sequence begins anew.
        let at: usize = found.split(&[' ', ':']).nth(3).and_then(|n| n.parse().ok()).unwrap_or(0);
        assert!(found.starts_with("output 0, element ") && at >= element, "{found}");
    }
}
