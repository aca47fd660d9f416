use super::*;
use crate::kernel::{
    Access, Axis, BinaryOp, CompareOp, Elem, GroupFactor, GroupLeft, KernelBuilder, Reg, RegTy, TileLayout,
    TileRole, TileTy, UnaryOp, WarpShuffleOp,
};
use crate::legalize::gpu::legalize;
use crate::target::GpuArch;

fn target() -> GpuTarget {
    GpuTarget::of_arch(GpuArch::Sm80)
}

/// The PTX of a kernel, after legalization, accepted by the assembler for every architecture.
fn ptx(b: KernelBuilder) -> String {
    let kernel = legalize(&b.finish()).unwrap();
    for arch in GpuArch::ALL {
        let target = GpuTarget::of_arch(arch);
        let text = module(std::slice::from_ref(&kernel), &target).unwrap();
        assembler::assemble(&kernel.name, &text, &target);
    }
    module(&[kernel], &target()).unwrap()
}

#[test]
fn a_loop_with_vectors_and_a_tail() {
    let mut b = KernelBuilder::new("axpy", [64, 1, 1]);
    let (x, y) = (b.param("x", Elem::F32, Access::Read), b.param("y", Elem::Bf16, Access::Write));
    let n = b.dim("n");
    let thread = b.thread_idx(Axis::X);
    let first = b.mul(thread, 4);
    b.for_("i", first, n, 256, |b, i| {
        let v = b.load(x, i, 4);
        let twice = b.fma(v, 2.0, 1.0);
        let narrow = b.cast(twice, Elem::Bf16);
        let left = b.sub(n, i);
        let mask = b.lane_mask(left, 4);
        b.store_masked(y, i, narrow, mask);
    });
    insta::assert_snapshot!(ptx(b));
}

#[test]
fn sums_of_a_block() {
    let mut b = KernelBuilder::new("sums", [64, 1, 1]);
    let (x, y) = (b.param("x", Elem::F32, Access::Read), b.param("y", Elem::F32, Access::Write));
    let thread = b.thread_idx(Axis::X);
    let block = b.block_idx();
    let v = b.load(x, thread, 1);
    let sum = crate::lower::block::block_sum(&mut b, v, 64);
    let is_first = b.eq(thread, 0);
    b.if_(is_first, |b| b.store(y, block, sum));
    insta::assert_snapshot!(ptx(b));
}

#[test]
fn a_product_of_tiles() {
    let mut b = KernelBuilder::new("tiles", [32, 1, 1]);
    let (x, y) = (b.param("x", Elem::F16, Access::Read), b.param("y", Elem::F32, Access::Write));
    let shared = b.shared("tile", Elem::F16, 16 * 24);
    let thread = b.thread_idx(Axis::X);
    let at = b.mul(thread, 8);
    let inside = b.lt(thread, 30);
    b.async_copy((shared, at), (x, at), 8, Some(inside));
    b.async_commit();
    b.async_wait(0);
    b.barrier();
    let ty = |rows, cols, elem, role| TileTy { rows, cols, elem, role };
    let acc = b.tile_fill(ty(16, 8, Elem::F32, TileRole::Acc), 0.0);
    let mut sum = acc;
    for layout in [TileLayout::RowMajor, TileLayout::ColMajor] {
        let a = b.tile_load(ty(16, 16, Elem::F16, TileRole::A), shared, 0, 24, layout);
        let w = b.tile_load(ty(16, 8, Elem::F16, TileRole::B), shared, 8, 24, layout);
        sum = b.mma(a, w, sum);
    }
    // From global memory, element by element.
    let a = b.tile_load(ty(16, 16, Elem::F16, TileRole::A), x, 0, 17, TileLayout::RowMajor);
    let w = b.tile_load(ty(16, 8, Elem::F16, TileRole::B), x, 0, 17, TileLayout::ColMajor);
    sum = b.mma(a, w, sum);
    b.tile_store(y, 0, 8, TileLayout::RowMajor, sum);
    insta::assert_snapshot!(ptx(b));
}

/// Every operation on every element type is accepted by the assembler, on scalars and on lanes.
#[test]
fn every_operation_assembles() {
    for lanes in [1, 4] {
        for elem in Elem::ALL.into_iter().filter(|elem| *elem != Elem::Bool) {
            let mut b = KernelBuilder::new(&format!("ops_{elem}_{lanes}"), [32, 1, 1]);
            let p = b.param("p", elem, Access::ReadWrite);
            let (x, y) = (b.load(p, 0, lanes), b.load(p, 4, lanes));
            let mut results = Vec::new();
            if elem.is_float() || elem.is_signed_int() {
                results.extend([b.neg(x), b.abs(x)]);
            }
            use BinaryOp as Bin;
            for op in [Bin::Add, Bin::Sub, Bin::Mul, Bin::Div, Bin::Min, Bin::Max] {
                results.push(b.binary(op, x, y));
            }
            if elem.is_float() {
                results.push(b.fma(x, y, x));
                for op in [UnaryOp::Sqrt, UnaryOp::Floor, UnaryOp::Ceil, UnaryOp::Trunc, UnaryOp::Round] {
                    results.push(b.unary(op, x));
                }
                let math: [fn(&mut KernelBuilder, Reg) -> Reg; 13] = [
                    KernelBuilder::exp,
                    KernelBuilder::exp2,
                    KernelBuilder::log,
                    KernelBuilder::log1p,
                    KernelBuilder::expm1,
                    KernelBuilder::sigmoid,
                    KernelBuilder::softplus,
                    KernelBuilder::silu,
                    KernelBuilder::tanh,
                    KernelBuilder::erf,
                    KernelBuilder::sin,
                    KernelBuilder::cos,
                    KernelBuilder::rsqrt,
                ];
                results.extend(math.map(|f| f(&mut b, x)));
                results.push(b.pow(x, y));
            } else {
                for op in [Bin::Rem, Bin::And, Bin::Or, Bin::Xor, Bin::Shl, Bin::Shr] {
                    results.push(b.binary(op, x, y));
                }
                results.push(b.not(x));
            }
            use CompareOp as Cmp;
            for op in [Cmp::Eq, Cmp::Ne, Cmp::Lt, Cmp::Le, Cmp::Gt, Cmp::Ge] {
                let cond = b.compare(op, x, y);
                results.push(b.select(cond, x, y));
            }
            for other in Elem::ALL {
                let there = b.cast(x, other);
                results.push(b.cast(there, elem));
            }
            for (i, r) in results.into_iter().enumerate() {
                b.store(p, 8 * i, r);
            }
            let text = ptx(b);
            assert!(text.contains(".visible .entry"));
        }
    }
}

#[test]
fn shuffles_of_every_width() {
    let mut b = KernelBuilder::new("shuffles", [32, 1, 1]);
    for elem in Elem::ALL.into_iter().filter(|elem| *elem != Elem::Bool) {
        let p = b.param(&format!("p_{elem}"), elem, Access::ReadWrite);
        let x = b.load(p, 0, 1);
        use WarpShuffleOp as Op;
        for (i, op) in [Op::Up, Op::Down, Op::Xor, Op::Idx].into_iter().enumerate() {
            let y = b.warp_shuffle(op, x, 3);
            b.store(p, i, y);
        }
    }
    ptx(b);
}

#[test]
fn what_a_block_cannot_have_is_reported() {
    let mut b = KernelBuilder::new("large", [32, 1, 1]);
    b.shared("s", Elem::F32, 42_000);
    let error = module(&[b.finish()], &target()).unwrap_err();
    assert_eq!(error.to_string(), "kernel `large`: shared arrays take 168000 bytes, at most 166912");
    let error = module(&[KernelBuilder::new("wide", [2048, 1, 1]).finish()], &target()).unwrap_err();
    assert!(matches!(error, PtxError::Invalid { .. }));
}

/// Products of warp groups are instructions of one architecture, and large arrays belong to the launch.
#[test]
fn products_of_warp_groups() {
    let mut b = KernelBuilder::new("groups", [128, 1, 1]);
    let y = b.param("y", Elem::F32, Access::Write);
    let tiles = b.shared_swizzled("tiles", Elem::Bf16, 2 * 128 * 64);
    let over = b.shared_over("sums", Elem::F32, 64 * 64, tiles);
    b.shared("rest", Elem::F32, 8192);
    let thread = b.thread_idx(Axis::X);
    let one = b.const_like(Elem::Bf16.x(8), 1.0);
    b.for_("i", thread, 2 * 128 * 64 / 8, 128, |b, i| {
        let at = b.mul(i, 8);
        b.store(tiles, at, one);
    });
    b.barrier();
    let ty = TileTy { rows: 16, cols: 64, elem: Elem::F32, role: TileRole::Acc };
    let zero = b.tile_fill(ty, 0.0);
    let acc = b.var_init(zero);
    let [first, second] = [0, 128 * 64].map(|at| {
        let index = b.const_i64(at);
        GroupFactor { mem: tiles.into(), index, is_turned: false }
    });
    b.group_mma(acc, GroupLeft::Shared(first), second, 4);
    b.group_wait(0);
    b.barrier();
    let warp = b.div(thread, 32);
    let at = b.mul(warp, 16 * 64);
    b.tile_store(over, at, 64, TileLayout::RowMajor, acc);
    b.barrier();
    b.for_("i", thread, 64 * 64, 128, |b, i| {
        let sum = b.load(over, i, 1);
        b.store(y, i, sum);
    });
    let kernel = b.finish();
    let mut bytes = vec![0; 4 * 64 * 64];
    let interpreter = crate::kernel::interp::Interpreter::new(&kernel).unwrap();
    interpreter.run(0..1, &[], &[crate::kernel::interp::Arg::start(0)], &mut [&mut bytes]).unwrap();
    assert!(bytes.chunks(4).all(|x| x == 64f32.to_le_bytes()));
    assert!(matches!(module(std::slice::from_ref(&kernel), &target()), Err(PtxError::Unsupported { .. })));
    let target = GpuTarget::of_arch(GpuArch::Sm90a);
    assert_eq!(dynamic_shared_bytes(&kernel, &target), 65536);
    let text = module(&[kernel], &target).unwrap();
    let lines = ["fence.proxy.async", "m64n64k16.f32.bf16.bf16", "wgmma.wait_group", "dynamic_shared+32768"];
    assert!(lines.iter().all(|line| text.contains(line)), "{text}");
    assembler::assemble("groups", &text, &target);
}

/// What legalization leaves out must not come through.
#[test]
fn functions_must_be_expanded() {
    let mut b = KernelBuilder::new("k", [1, 1, 1]);
    let p = b.param("p", Elem::F32, Access::ReadWrite);
    let x = b.load(p, 0, 1);
    let y = b.tanh(x);
    b.store(p, 0, y);
    assert!(matches!(module(&[b.finish()], &target()), Err(PtxError::Unsupported { .. })));
}

#[test]
fn alignment_follows_the_arithmetic() {
    let mut b = KernelBuilder::new("k", [32, 1, 1]);
    let n = b.dim("n");
    let thread = b.thread_idx(Axis::X);
    let four = b.mul(thread, 4);
    let sum = b.add(four, 8);
    let odd = b.add(four, 3);
    let var = b.var(RegTy::scalar(Elem::I64));
    b.assign(var, four);
    let mut turn = None;
    b.for_("i", sum, n, 6, |b, i| {
        turn = Some(i);
        b.assign(var, i);
    });
    let kernel = b.finish();
    let alignment = align::Alignment::of(&kernel);
    let exponents = [n, thread, four, sum, odd, var, turn.unwrap()].map(|r| alignment.exponent(r));
    assert_eq!(exponents, [0, 0, 2, 2, 0, 1, 1]);
}
