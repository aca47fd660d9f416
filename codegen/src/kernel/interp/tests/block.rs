//! Thread blocks: shared memory, barriers, warps, async copies, tiles.

use super::*;

const THREADS: u32 = 128;

/// y[block] = sum of 128 elements of x, by halving in shared memory.
fn block_sum(with_barrier: bool) -> Kernel {
    let mut b = KernelBuilder::new("block_sum", [THREADS, 1, 1]);
    let x = b.param("x", Elem::F32, Access::Read);
    let y = b.param("y", Elem::F32, Access::Write);
    let partial = b.shared("partial", Elem::F32, THREADS);
    let tid = b.thread_idx(Axis::X);
    let block = b.block_idx();
    let first = b.mul(block, THREADS);
    let at = b.add(first, tid);
    let v = b.load(x, at, 1);
    b.store(partial, tid, v);
    let mut half = THREADS / 2;
    while half > 0 {
        if with_barrier {
            b.barrier();
        }
        let lower = b.lt(tid, half);
        b.if_(lower, |b| {
            let upper = b.add(tid, half);
            let u = b.load(partial, upper, 1);
            let l = b.load(partial, tid, 1);
            let sum = b.add(l, u);
            b.store(partial, tid, sum);
        });
        half /= 2;
    }
    let leader = b.eq(tid, 0);
    b.if_(leader, |b| {
        let sum = b.load(partial, 0, 1);
        b.store(y, block, sum);
    });
    b.finish()
}

#[test]
fn block_reduction() {
    let x: Vec<f32> = (0..256).map(|i| i as f32).collect();
    let mut buffers = [bytes_f32(&x), vec![0; 8]];
    run(&block_sum(true), 2, &[], &mut buffers).unwrap();
    assert_eq!(f32s(&buffers[1]), [8128.0, 24512.0]);
}

#[test]
fn missing_barrier_is_a_race() {
    let mut buffers = [bytes_f32(&[1.0; 256]), vec![0; 8]];
    let (path, found) = fault(&block_sum(false), 2, &mut buffers);
    assert!(matches!(&found, RunFault::ThreadRace { name, .. } if name == "partial"), "{found}");
    assert!(path.contains("then[1]"), "{path}");
}

#[test]
fn warp_shuffles_sum_a_warp() {
    let mut b = KernelBuilder::new("warp_sum", [64, 1, 1]);
    let y = b.param("y", Elem::F32, Access::Write);
    let tid = b.thread_idx(Axis::X);
    let v = b.cast(tid, Elem::F32);
    let sum = b.var_init(v);
    for amount in [16, 8, 4, 2, 1] {
        let other = b.warp_shuffle(WarpShuffleOp::Xor, sum, amount);
        let new = b.add(sum, other);
        b.assign(sum, new);
    }
    let up = b.warp_shuffle(WarpShuffleOp::Up, v, 1);
    let down = b.warp_shuffle(WarpShuffleOp::Down, v, 1);
    let lane_5 = b.warp_shuffle(WarpShuffleOp::Idx, v, 5);
    let at = b.mul(tid, 4);
    for (i, v) in [sum, up, down, lane_5].into_iter().enumerate() {
        let at = b.add(at, i);
        b.store(y, at, v);
    }
    let mut buffers = [vec![0; 64 * 16]];
    run(&b.finish(), 1, &[], &mut buffers).unwrap();
    let y = f32s(&buffers[0]);
    assert_eq!(y[..8], [496.0, 0.0, 1.0, 5.0, 496.0, 0.0, 2.0, 5.0]);
    assert_eq!(y[31 * 4..33 * 4], [496.0, 30.0, 31.0, 5.0, 1520.0, 32.0, 33.0, 37.0]);
}

/// y[tid] = x[tid ^ 1] through shared memory filled by an async copy.
fn async_swap(wait: bool, barrier: bool) -> Kernel {
    let mut b = KernelBuilder::new("async_swap", [32, 1, 1]);
    let x = b.param("x", Elem::F32, Access::Read);
    let y = b.param("y", Elem::F32, Access::Write);
    let stage = b.shared("stage", Elem::F32, 32);
    let tid = b.thread_idx(Axis::X);
    let inside = b.lt(tid, 30);
    b.async_copy((stage, tid), (x, tid), 1, Some(inside));
    b.async_commit();
    if wait {
        b.async_wait(0);
    }
    if barrier {
        b.barrier();
    }
    let other = b.xor(tid, 1);
    let v = b.load(stage, other, 1);
    b.store(y, tid, v);
    b.finish()
}

#[test]
fn async_copies() {
    let x: Vec<f32> = (0..30).map(|i| i as f32).collect();
    let mut buffers = [bytes_f32(&x), vec![0; 128]];
    run(&async_swap(true, true), 1, &[], &mut buffers).unwrap();
    let expected = (0..32).map(|i| if i < 30 { (i ^ 1) as f32 } else { 0.0 }).collect::<Vec<_>>();
    assert_eq!(f32s(&buffers[1]), expected);
    let (_, found) = fault(&async_swap(false, true), 1, &mut buffers);
    assert!(matches!(found, RunFault::AsyncPending { .. }), "{found}");
    let (_, found) = fault(&async_swap(true, false), 1, &mut buffers);
    assert!(matches!(found, RunFault::ThreadRace { .. }), "{found}");
}

#[test]
fn divergent_loops() {
    // y[tid] = 0 + 1 + ... + tid
    let mut b = KernelBuilder::new("triangle", [8, 1, 1]);
    let y = b.param("y", Elem::I64, Access::Write);
    let tid = b.thread_idx(Axis::X);
    let zero = b.const_i64(0);
    let sum = b.var_init(zero);
    let end = b.add(tid, 1);
    b.for_("i", 0, end, 1, |b, i| {
        let new = b.add(sum, i);
        b.assign(sum, new);
    });
    b.store(y, tid, sum);
    let mut buffers = [vec![0; 64]];
    run(&b.finish(), 1, &[], &mut buffers).unwrap();
    let y: Vec<i64> = buffers[0].as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
    assert_eq!(y, [0, 1, 3, 6, 10, 15, 21, 28]);
}

const M: usize = 16;
const N: usize = 8;
const K: usize = 32;

/// y = a * b with a [M, K] row major and b [K, N] stored column major, two warps each doing the whole product
/// into its own copy of y.
fn mma_kernel() -> Kernel {
    let tile = |rows, cols, elem, role| TileTy { rows, cols, elem, role };
    let (a_ty, b_ty) = (tile(16, 16, Elem::Bf16, TileRole::A), tile(16, 8, Elem::Bf16, TileRole::B));
    let acc_ty = tile(16, 8, Elem::F32, TileRole::Acc);
    let mut b = KernelBuilder::new("mma", [64, 1, 1]);
    let a = b.param("a", Elem::Bf16, Access::Read);
    let w = b.param("w", Elem::Bf16, Access::Read);
    let y = b.param("y", Elem::F32, Access::Write);
    let tid = b.thread_idx(Axis::X);
    let warp = b.div(tid, 32);
    let zero = b.tile_fill(acc_ty, 0.0);
    let acc = b.var_init(zero);
    b.for_("k", 0, K, 16, |b, k| {
        let a = b.tile_load(a_ty, a, k, K, TileLayout::RowMajor);
        let w = b.tile_load(b_ty, w, k, K, TileLayout::ColMajor);
        let new = b.mma(a, w, acc);
        b.assign(acc, new);
    });
    let at = b.mul(warp, M * N);
    b.tile_store(y, at, N, TileLayout::RowMajor, acc);
    b.finish()
}

#[test]
fn mma_is_a_matrix_product() {
    let value = |i: usize| bf16::from_f32(((i * 37) % 19) as f32 / 8.0 - 1.0);
    let a: Vec<bf16> = (0..M * K).map(value).collect();
    let w: Vec<bf16> = (0..N * K).map(|i| value(i + 5)).collect();
    let bytes = |v: &[bf16]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let mut buffers = [bytes(&a), bytes(&w), vec![0; 2 * M * N * 4]];
    run(&mma_kernel(), 1, &[], &mut buffers).unwrap();
    // All products and sums are multiples of 1/64 below 2^17: exact in any order.
    let naive = |i: usize| -> f32 {
        let (r, c) = (i / N % M, i % N);
        (0..K).map(|k| a[r * K + k].to_f32() * w[c * K + k].to_f32()).sum()
    };
    assert_eq!(f32s(&buffers[2]), (0..2 * M * N).map(naive).collect::<Vec<_>>());
}
