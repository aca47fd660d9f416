use super::block::{Scratch, ThreadPlace};
use super::*;
use crate::kernel::interp::{Arg, InterpError, Interpreter, RunFault};
use crate::kernel::{Access, Elem, Inst, Kernel, RegTy};

const THREADS: u32 = 96;
const ITEMS: i64 = 3;

/// h of every step of a sequence of any length, one block, tiles of `THREADS * ITEMS` steps:
/// h[i] = a[i]*h[i-1] + u[i] with h[-1] = 2; where `new[i]` is 1, h[i] = u[i].
fn scan_kernel<M: Action>(m: &M, segmented: bool) -> Kernel {
    let mut b = KernelBuilder::new("scan", [THREADS, 1, 1]);
    let b = &mut b;
    let [a, u] = ["a", "u"].map(|name| b.param(name, Elem::F32, Access::Read));
    let new = b.param("new", Elem::I32, Access::Read);
    let h = b.param("h", Elem::F32, Access::Write);
    let len = b.dim("len");
    let place = ThreadPlace::of(b, THREADS);
    let scratch = Scratch::declare(b, "scratch", m, place.n_warps);
    let start = b.const_f32(2.0);
    let carry = b.var_init(start);
    let tile = ITEMS * i64::from(THREADS);
    let tiles = b.ceil_div(len, tile);
    b.for_("tile", 0, tiles, 1, |b, t| {
        let (base, offset) = (b.mul(t, tile), b.mul(place.thread, ITEMS));
        let base = b.add(base, offset);
        let mut items = Vec::new();
        for k in 0..ITEMS {
            let at = b.add(base, k);
            let item: Vec<Reg> = m.identity(b).into_iter().map(|r| b.var_init(r)).collect();
            let exists = b.lt(at, len);
            b.if_(exists, |b| {
                for (r, mem) in item.iter().zip([a, u, new]).take(2 + usize::from(segmented)) {
                    let v = b.load(mem, at, 1);
                    b.assign(*r, v);
                }
            });
            items.push(item);
        }
        let sum = thread::reduce(b, m, &items);
        let half = b.and(t, 1);
        let scanned = block::exclusive(b, m, place, &scratch, half, &sum);
        let first = m.act(b, &scanned.before, carry);
        let states = thread::replay(b, m, first, &items);
        for (k, state) in states.into_iter().enumerate() {
            let at = b.add(base, k);
            let exists = b.lt(at, len);
            b.if_(exists, |b| b.store(h, at, state));
        }
        let next = m.act(b, &scanned.total, carry);
        b.assign(carry, next);
    });
    std::mem::replace(b, KernelBuilder::cpu("done")).finish()
}

/// Factor, input, and whether a segment begins.
type Step = (f32, f32, i32);

fn run(kernel: &Kernel, steps: &[Step]) -> Vec<f32> {
    try_run(kernel, steps).unwrap()
}

fn try_run(kernel: &Kernel, steps: &[Step]) -> Result<Vec<f32>, InterpError> {
    let bytes = |f: fn(&Step) -> [u8; 4]| steps.iter().flat_map(f).collect::<Vec<u8>>();
    let mut a = bytes(|s| s.0.to_le_bytes());
    let mut u = bytes(|s| s.1.to_le_bytes());
    let mut new = bytes(|s| s.2.to_le_bytes());
    let mut h = vec![0; 4 * steps.len()];
    let args: Vec<Arg> = (0..4).map(Arg::start).collect();
    let mut buffers: [&mut [u8]; 4] = [&mut a, &mut u, &mut new, &mut h];
    Interpreter::new(kernel)?.run(0..1, &[steps.len() as i64], &args, &mut buffers)?;
    Ok(h.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

fn expected(steps: &[Step]) -> Vec<f32> {
    let next = |h: &mut f32, (a, u, new): &Step| {
        *h = if *new == 1 { *u } else { a * *h + u };
        Some(*h)
    };
    steps.iter().scan(2.0, next).collect()
}

/// Small integers: every order of composition is exact.
fn steps(n: usize, segments: bool) -> Vec<Step> {
    let step = |i: usize| {
        let mixed = i * 37 + i / 5;
        ((mixed % 3) as f32 - 1.0, (mixed % 7) as f32 - 3.0, i32::from(segments && i % 50 == 49))
    };
    (0..n).map(step).collect()
}

#[test]
fn affine_scans_of_odd_lengths() {
    let kernel = scan_kernel(&Affine, false);
    for n in [0, 1, 2, 7, 95, 96, 97, 287, 288, 289, 579] {
        let steps = steps(n, false);
        assert_eq!(run(&kernel, &steps), expected(&steps), "{n} steps");
    }
}

#[test]
fn segmented_scans_of_odd_lengths() {
    let kernel = scan_kernel(&Segmented(Affine), true);
    for n in [1, 49, 50, 51, 289, 579] {
        let steps = steps(n, true);
        assert_eq!(run(&kernel, &steps), expected(&steps), "{n} steps");
    }
}

#[test]
fn nan_and_infinity_stay_in_their_segment() {
    let kernel = scan_kernel(&Segmented(Affine), true);
    for odd in [f32::NAN, f32::INFINITY] {
        let mut steps: Vec<_> = (0..300).map(|i| (1.0, 1.0, i32::from(i == 200))).collect();
        steps[70].1 = odd;
        let (found, expected) = (run(&kernel, &steps), expected(&steps));
        assert!(found[..70].iter().chain(&found[200..]).all(|h| h.is_finite()), "{odd}");
        assert!(found[70..200].iter().all(|h| !h.is_finite()), "{odd}");
        assert_eq!(found[..70], expected[..70]);
        assert_eq!(found[200..], expected[200..]);
    }
}

#[test]
fn infinite_factors_do_not_meet_the_identity() {
    let kernel = scan_kernel(&Affine, false);
    for at in [0, 3, 32 * 3, 290] {
        let mut steps: Vec<_> = (0..300).map(|_| (1.0, 1.0, 0)).collect();
        steps[at].0 = f32::INFINITY;
        assert_eq!(run(&kernel, &steps), expected(&steps), "infinite factor at {at}");
    }
}

#[test]
fn identity_is_neutral_on_the_right() {
    let kernel = scan_kernel(&Affine, false);
    let mut steps = steps(40, false);
    steps.extend([(1.0, 0.0, 0); 300]);
    let found = run(&kernel, &steps);
    assert!(found[40..].iter().all(|h| *h == found[39]));
}

#[test]
fn elements_have_the_declared_types() {
    fn check(m: &impl Monoid) {
        let mut b = KernelBuilder::new("types", [32, 1, 1]);
        let identity = m.identity(&mut b);
        let joined = m.compose(&mut b, &identity, &identity);
        for element in [identity, joined] {
            let types: Vec<RegTy> = element.iter().map(|r| b.ty(*r)).collect();
            assert_eq!(types, m.elems().into_iter().map(RegTy::scalar).collect::<Vec<_>>());
        }
    }
    check(&Affine);
    check(&Segmented(Affine));
}

#[test]
fn a_scan_without_its_barrier_is_a_race() {
    let kernel = faults::without(&scan_kernel(&Affine, false), 0, &|inst| *inst == Inst::Barrier);
    let fault = try_run(&kernel, &steps(300, false)).unwrap_err();
    assert!(matches!(fault, InterpError::Fault { fault: RunFault::ThreadRace { .. }, .. }), "{fault}");
}
