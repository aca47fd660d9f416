use super::*;

const CPU: [u32; 3] = [1, 1, 1];
const WARP: [u32; 3] = [32, 1, 1];

/// The faults of the kernel that `f` builds and `g` then spoils.
fn faults(block: [u32; 3], f: impl FnOnce(&mut KernelBuilder), g: impl FnOnce(&mut Kernel)) -> Vec<String> {
    let mut b = KernelBuilder::new("k", block);
    f(&mut b);
    let mut kernel = b.finish();
    g(&mut kernel);
    match verify(&kernel) {
        Ok(()) => Vec::new(),
        Err(faults) => faults.iter().map(Fault::to_string).collect(),
    }
}

/// Faults of a kernel that the builder would build.
fn built(block: [u32; 3], f: impl FnOnce(&mut KernelBuilder)) -> Vec<String> {
    faults(block, f, |_| {})
}

/// Faults of a kernel spoilt in its declarations.
fn spoilt(g: impl FnOnce(&mut Kernel)) -> Vec<String> {
    faults(CPU, |_| {}, g)
}

/// Faults of single instructions on these registers and arrays, all registers assigned.
fn inst(make: impl FnOnce(&[Reg]) -> Inst) -> Vec<String> {
    inst_of(CPU, make)
}

fn inst_of(block: [u32; 3], make: impl FnOnce(&[Reg]) -> Inst) -> Vec<String> {
    let decls = |b: &mut KernelBuilder| {
        b.param("x", Elem::F32, Access::Read);
        b.param("y", Elem::F32, Access::Write);
        b.shared("s", Elem::F32, 4);
        b.local("l", Elem::F32, 4);
        let f = b.const_f32(1.0);
        let i = b.const_i64(3);
        let v = b.splat_f32(1.0, 4);
        let t = b.constant(Const::bool(true), 1);
        let odd = b.splat_f32(1.0, 3);
        let shape = |rows, cols, role| TileTy { rows, cols, elem: Elem::F32, role };
        let a = b.tile_fill(shape(16, 8, TileRole::A), 0.0);
        let w = b.tile_fill(shape(16, 8, TileRole::B), 0.0);
        let acc = b.tile_fill(shape(16, 8, TileRole::Acc), 0.0);
        b.push(make(&[f, i, v, t, odd, a, w, acc]));
    };
    built(block, decls).into_iter().map(|s| s.split_once(": ").unwrap().1.to_owned()).collect()
}

const X: Mem = Mem::Param(ParamId(0));
const Y: Mem = Mem::Param(ParamId(1));
const S: Mem = Mem::Shared(SharedId(0));
const L: Mem = Mem::Local(LocalId(0));

#[test]
fn declarations() {
    let array = |name: &str| Array::new(name, Elem::F32, 1);
    assert_eq!(spoilt(|k| k.name = "a b".into()), ["kernel: `a b` is not an identifier"]);
    assert_eq!(
        spoilt(|k| (k.shared, k.locals) = (vec![array("a")], vec![array("a")])),
        ["kernel: name `a` is used twice"]
    );
    assert_eq!(
        spoilt(|k| k.block = [64, 32, 1]),
        ["kernel: block of [64, 32, 1] threads, expected 1 to 1024 in all"]
    );
    assert_eq!(spoilt(|k| k.block = [u32::MAX, 2, 1]).len(), 1);
    assert_eq!(
        spoilt(|k| k.regs.push(RegInfo { ty: Elem::F32.x(0), name: None })),
        ["kernel: f32x0 is no valid register type"]
    );
}

#[test]
fn instructions() {
    for (found, expected) in [
        (inst(|r| Inst::Copy { dst: r[0], src: Reg(99) }), "register %99 is not declared"),
        (inst(|r| Inst::Dim { dst: r[1], dim: DimId(0) }), "dim 0 is not declared"),
        (
            inst(|r| Inst::Load { dst: r[0], mem: Mem::Param(ParamId(7)), index: r[1], mask: None }),
            "Param(ParamId(7)) is not declared",
        ),
        (inst(|r| Inst::Copy { dst: r[0], src: r[1] }), "result of copy has type f32, expected i64"),
        (
            inst(|r| Inst::Binary { dst: r[0], op: BinaryOp::Add, lhs: r[0], rhs: r[2] }),
            "right operand of binary has type f32x4, expected f32",
        ),
        (
            inst(|r| Inst::Binary { dst: r[0], op: BinaryOp::Shl, lhs: r[0], rhs: r[0] }),
            "binary is not defined on f32, expected integers",
        ),
        (
            inst(|r| Inst::Fma { dst: r[1], a: r[1], b: r[1], c: r[1] }),
            "fma is not defined on i64, expected floats",
        ),
        (
            inst(|r| Inst::Dot { dst: r[0], a: r[2], b: r[2], acc: r[0] }),
            "dot is not defined on f32x4, expected u8 and i8, i8 and i8, i16 and i16, or bf16 and bf16",
        ),
        (
            inst(|r| Inst::Unary { dst: r[3], op: UnaryOp::Neg, src: r[3] }),
            "unary is not defined on bool, expected numbers",
        ),
        (
            inst(|r| Inst::Compare { dst: r[3], op: CompareOp::Lt, lhs: r[3], rhs: r[3] }),
            "ordered compare is not defined on bool, expected numbers",
        ),
        (
            inst(|r| Inst::Select { dst: r[2], cond: r[0], on_true: r[2], on_false: r[2] }),
            "condition of select has type f32, expected boolx4",
        ),
        (inst(|r| Inst::Cast { dst: r[2], src: r[1] }), "cast has 4 lanes, expected 1"),
        (
            inst(|r| Inst::Bitcast { dst: r[0], src: r[1] }),
            "bitcast is not defined on f32, expected a type with as many bits, not bool",
        ),
        (inst(|r| Inst::Splat { dst: r[2], src: r[1] }), "operand of splat has type i64, expected f32"),
        (inst(|r| Inst::Iota { dst: r[2] }), "iota is not defined on f32x4, expected integers"),
        (
            inst(|r| Inst::Extract { dst: r[0], src: r[2], lane: 4 }),
            "lane 4 of extract, expected less than 4",
        ),
        (
            inst(|r| Inst::Reduce { dst: r[0], op: ReduceOp::Add, src: r[4] }),
            "reduce is not defined on f32x3, expected a power of two of lanes",
        ),
        (
            inst(|r| Inst::Shuffle { dst: r[2], a: r[2], b: r[2], pattern: vec![0, 1, 8, 3] }),
            "lane 8 of shuffle, expected less than 8",
        ),
        (
            inst(|r| Inst::Shuffle { dst: r[2], a: r[2], b: r[2], pattern: vec![0] }),
            "shuffle has 1 lanes, expected 4",
        ),
        (
            inst(|r| Inst::Load { dst: r[0], mem: Y, index: r[1], mask: None }),
            "parameter `y` is Write, but the kernel reads it",
        ),
        (
            inst(|r| Inst::Store { mem: X, index: r[1], src: r[0], mask: None }),
            "parameter `x` is Read, but the kernel writes it",
        ),
        (
            inst(|r| Inst::Store { mem: Y, index: r[0], src: r[0], mask: None }),
            "index of store has type f32, expected i64",
        ),
        (
            inst(|r| Inst::Store { mem: Y, index: r[1], src: r[2], mask: Some(r[3]) }),
            "mask of store has type bool, expected boolx4",
        ),
        (
            inst(|r| Inst::Gather { dst: r[2], mem: X, index: r[1], mask: None }),
            "index of gather has type i64, expected i64x4",
        ),
        (
            inst(|r| Inst::Store { mem: L, index: r[1], src: r[2], mask: None }),
            "elements 3..7 of `l`, which has 4",
        ),
        (
            inst_of([32, 1, 1], |r| Inst::TileLoad {
                dst: r[5],
                mem: L,
                index: r[1],
                stride: r[1],
                layout: TileLayout::RowMajor,
            }),
            "tile load with a tile in Local(LocalId(0)), expected global or shared memory",
        ),
        (
            inst(|r| Inst::AsyncCopy {
                dst: L,
                dst_index: r[1],
                src: X,
                src_index: r[1],
                elems: 1,
                pred: None,
            }),
            "async copy with destination in Local(LocalId(0)), expected shared memory",
        ),
        (
            inst(|r| Inst::AsyncCopy {
                dst: S,
                dst_index: r[1],
                src: X,
                src_index: r[1],
                elems: 8,
                pred: None,
            }),
            "async copy of 32 bytes, expected 4, 8 or 16",
        ),
        (
            inst(|r| Inst::Mma { dst: r[7], a: r[5], b: r[6], acc: r[7] }),
            "mma of tile<a, 16x8, f32>, tile<b, 16x8, f32> and tile<acc, 16x8, f32> does not fit together",
        ),
        (
            inst_of([1, 1, 1], |r| Inst::TileLoad {
                dst: r[5],
                mem: X,
                index: r[1],
                stride: r[0],
                layout: TileLayout::Interleaved,
            }),
            "stride of tile load has type f32, expected i64",
        ),
        (
            inst(|r| Inst::Math { dst: r[5], op: MathOp::Exp, src: r[5] }),
            "math is not defined on tile<a, 16x8, f32>, expected a vector or scalar",
        ),
    ] {
        assert_eq!(found.first().map(String::as_str), Some(expected), "all: {found:?}");
    }
}

#[test]
fn every_fault_is_collected() {
    let found = built(CPU, |b| {
        let v = b.var(Elem::F32.x(1));
        let w = b.var(Elem::F32.x(1));
        b.push(Inst::Unary { dst: v, op: UnaryOp::Not, src: w });
        b.push(Inst::Copy { dst: v, src: Reg(7) });
    });
    assert_eq!(
        found,
        [
            "body[0]: %1 is read before it is assigned on some path",
            "body[0]: unary is not defined on f32, expected integers or bool",
            "body[1]: register %7 is not declared",
        ]
    );
}

#[test]
fn definite_assignment() {
    let one_branch = built(CPU, |b| {
        let y = b.param("y", Elem::F32, Access::Write);
        let c = b.constant(Const::bool(true), 1);
        let v = b.var(Elem::F32.x(1));
        b.if_(c, |b| b.assign(v, 1.0));
        b.store(y, 0, v);
    });
    assert_eq!(one_branch, ["body[4]: %1 is read before it is assigned on some path"]);
    let loop_body = |hi: i64| {
        built(CPU, |b| {
            let y = b.param("y", Elem::F32, Access::Write);
            let v = b.var(Elem::F32.x(1));
            b.for_("i", 0, hi, 1, |b, _| b.assign(v, 1.0));
            b.store(y, 0, v);
        })
    };
    assert!(loop_body(0)[0].contains("is read before it is assigned"));
    assert!(loop_body(1).is_empty());
}

#[test]
fn loops() {
    let assigned = built(CPU, |b| {
        b.for_("i", 0, 4, 1, |b, i| {
            let zero = b.const_i64(0);
            b.push(Inst::Copy { dst: i, src: zero });
        });
    });
    assert_eq!(assigned, ["body[2].for[0]: loop variable %2 is assigned in the loop's body"]);
    let step = |k: &mut Kernel| {
        if let Some(Stmt::For(l)) = k.body.last_mut() {
            l.step = 0;
        }
    };
    let found = faults(CPU, |b| b.for_("i", 0, 4, 1, |_, _| {}), step);
    assert_eq!(found, ["body[2]: loop step 0, expected a positive number"]);
    let after = built(CPU, |b| {
        let y = b.param("y", Elem::I64, Access::Write);
        let mut var = None;
        b.for_("i", 0, 4, 1, |_, i| var = Some(i));
        b.store(y, 0, var.unwrap());
    });
    assert_eq!(after, ["body[3]: %2 is read before it is assigned on some path"]);
}

#[test]
fn uniformity() {
    let divergent = |b: &mut KernelBuilder, op: fn(&mut KernelBuilder, Reg)| {
        let tid = b.thread_idx(Axis::X);
        let some = b.lt(tid, 7);
        b.if_(some, |b| op(b, tid));
    };
    let shuffle = |b: &mut KernelBuilder, tid: Reg| {
        b.warp_shuffle(WarpShuffleOp::Xor, tid, 1);
    };
    let found = built(WARP, |b| divergent(b, |b, _| b.barrier()));
    assert_eq!(found, ["body[3].then[0]: barrier under control flow that depends on the thread"]);
    let found = built(WARP, |b| divergent(b, shuffle));
    assert_eq!(found, ["body[4].then[0]: warp shuffle under control flow that differs within a warp"]);
    let found = built(WARP, |b| {
        let tid = b.thread_idx(Axis::X);
        let amount = b.cast(tid, Elem::I32);
        b.warp_shuffle(WarpShuffleOp::Idx, tid, amount);
        b.warp_shuffle(WarpShuffleOp::Up, tid, amount);
    });
    assert_eq!(found, ["body[3]: amount of warp shuffle differs within a warp"]);
}

#[test]
fn warp_index_is_uniform_in_the_warp_only() {
    let in_first_warp = |op: fn(&mut KernelBuilder)| {
        built([64, 1, 1], |b| {
            let tid = b.thread_idx(Axis::X);
            let warp = b.div(tid, 32);
            let first = b.eq(warp, 0);
            b.if_(first, op);
        })
    };
    assert!(
        in_first_warp(|b| {
            let x = b.const_f32(1.0);
            b.warp_shuffle(WarpShuffleOp::Down, x, 1);
        })
        .is_empty()
    );
    assert_eq!(in_first_warp(|b| b.barrier()).len(), 1);
}

#[test]
fn divergence_reaches_variables_through_loops() {
    let found = built(WARP, |b| {
        let tid = b.thread_idx(Axis::X);
        let zero = b.const_i64(0);
        let v = b.var_init(zero);
        b.for_("i", 0, 4, 1, |b, _| {
            let some = b.lt(v, 2);
            b.if_(some, |b| b.barrier());
            b.assign(v, tid);
        });
    });
    assert_eq!(found, ["body[5].for[1].then[0]: barrier under control flow that depends on the thread"]);
}
