use super::*;
use ssmc_ir::ops::{Binary, BinaryFn, Contract, Unary, UnaryFn};

/// A product, its operands' extents as text, and what surrounds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) spec: &'static str,
    pub(super) x: &'static [&'static str],
    pub(super) w: &'static [&'static str],
    pub(super) dtypes: (DType, DType),
    /// Value of the extent `rows`.
    pub(super) rows: i64,
    /// Whether x is computed by the group from two tensors.
    pub(super) prologue: bool,
    /// Whether a residual is added and an activation follows.
    pub(super) epilogue: bool,
}

/// A product with a weight matrix as checkpoints store it.
pub(super) const CASE: Case = Case {
    spec: "mk,nk->mn",
    x: &["rows", "33"],
    w: &["7", "33"],
    dtypes: (DType::F32, DType::F32),
    rows: 5,
    prologue: false,
    epilogue: false,
};

const BF16: (DType, DType) = (DType::BF16, DType::BF16);
const F16: (DType, DType) = (DType::F16, DType::F16);

impl Case {
    pub(super) fn problem(&self) -> Problem {
        let mut p = Problem::new();
        p.bind("rows", self.rows);
        let mut x = p.input("x", self.dtypes.0, self.x);
        if self.prologue {
            let factor = p.input("factor", self.dtypes.0, self.x);
            x = p.op(Binary { f: BinaryFn::Mul }, &[Some(x), Some(factor)])[0];
        }
        let w = p.input("w", self.dtypes.1, self.w);
        let mut operands = [x, w];
        if self.dtypes.0 != self.dtypes.1 {
            // A weight of another type is widened where it is read.
            operands[1] = p.builder().cast(w, self.dtypes.0).unwrap();
        }
        let contract = Contract::new(self.spec);
        let types = operands.map(|v| p.builder().ty(v).clone());
        let extents = contract.extents(&[Some(&types[0]), Some(&types[1])]).unwrap();
        let extents: Vec<String> = contract.spec.output.iter().map(|l| extents[l].to_string()).collect();
        let extents: Vec<&str> = extents.iter().map(String::as_str).collect();
        let residual = self.epilogue.then(|| p.input("residual", types[0].dtype, &extents));
        let mut y = p.op(contract, &operands.map(Some))[0];
        if let Some(residual) = residual {
            y = p.op(Binary { f: BinaryFn::Add }, &[Some(y), Some(residual)])[0];
            y = p.op(Unary { f: UnaryFn::Silu }, &[Some(y)])[0];
            p.epilogue(2);
        }
        p.output(y);
        p
    }

    pub(super) fn lower(&self, p: &Problem) -> Lowered {
        self.lower_for(p, GpuArch::Sm80)
    }

    pub(super) fn lower_for(&self, p: &Problem, arch: GpuArch) -> Lowered {
        let target = GpuTarget::of_arch(arch);
        let lowered = p.lower(|graph, group| lower_block(graph, group, &target)).unwrap();
        assert!(shared_bytes(&lowered) <= target.max_shared_bytes);
        lowered
    }

    fn check(&self) {
        self.check_for(GpuArch::Sm80);
    }

    fn check_for(&self, arch: GpuArch) {
        let p = self.problem();
        let lowered = self.lower_for(&p, arch);
        p.check(&lowered, tolerance(self.dtypes.0)).unwrap_or_else(|e| panic!("{self:?}: {e}"));
    }
}

#[test]
fn rows_columns_and_depths_of_any_number() {
    for dtypes in [CASE.dtypes, BF16, F16] {
        for rows in [0, 1, 7, 63, 64, 65, 131] {
            Case { dtypes, rows, ..CASE }.check();
        }
        for (x, w) in [
            (&["rows", "1"], &["1", "1"]),
            (&["rows", "31"], &["63", "31"]),
            (&["rows", "32"], &["64", "32"]),
            (&["rows", "33"], &["65", "33"]),
            (&["rows", "67"], &["129", "67"]),
            (&["rows", "15"], &["5", "15"]),
            (&["rows", "17"], &["5", "17"]),
            (&["rows", "0"], &["5", "0"]),
        ] {
            Case { dtypes, x, w, ..CASE }.check();
        }
    }
}

#[test]
fn depth_may_be_a_symbol() {
    for dtypes in [CASE.dtypes, BF16] {
        for rows in [0, 1, 33, 67] {
            let case = Case { spec: "mk,nk->mn", x: &["3", "rows"], w: &["7", "rows"], rows, dtypes, ..CASE };
            case.check();
        }
    }
}

#[test]
fn layouts_of_the_operands() {
    for dtypes in [CASE.dtypes, BF16] {
        for (spec, x, w) in [
            ("mk,kn->mn", &["rows", "33"][..], &["33", "7"][..]),
            ("mk,kn->mn", &["rows", "33"], &["33", "72"]),
            ("km,kn->mn", &["33", "66"], &["33", "6"]),
            ("dm,dgn->mgn", &["33", "6"], &["33", "3", "22"]),
            ("km,kn->mn", &["33", "rows"], &["33", "7"]),
            ("nk,mk->mn", &["7", "33"], &["rows", "33"]),
            ("bld,ed->ble", &["2", "rows", "33"], &["7", "33"]),
            ("ed,bld->ble", &["7", "33"], &["2", "rows", "33"]),
            ("blhp,ehp->ble", &["2", "rows", "3", "8"], &["7", "3", "8"]),
            ("blhp,eph->ble", &["2", "rows", "3", "8"], &["7", "8", "3"]),
            ("blhk,bmhk->bhlm", &["2", "rows", "3", "8"], &["2", "7", "3", "8"]),
            ("k,nk->n", &["33"], &["7", "33"]),
            ("mk,k->m", &["rows", "33"], &["33"]),
            ("k,k->", &["33"], &["33"]),
        ] {
            Case { spec, x, w, dtypes, ..CASE }.check();
        }
    }
}

#[test]
fn prologue_and_epilogue() {
    for dtypes in [CASE.dtypes, BF16, (DType::F32, DType::BF16)] {
        Case { dtypes, prologue: true, ..CASE }.check();
        Case { dtypes, epilogue: true, rows: 65, ..CASE }.check();
        Case { dtypes, prologue: true, epilogue: true, ..CASE }.check();
    }
}

#[test]
fn rows_are_copied_in_the_widest_words_they_allow() {
    let bytes = |x, w, spec, dtypes, prologue| {
        let case = Case { x, w, spec, dtypes, prologue, ..CASE };
        copied_bytes(&case.lower(&case.problem()))
    };
    let nk = "mk,nk->mn";
    assert_eq!(bytes(&["rows", "64"], &["7", "64"], nk, CASE.dtypes, false), [16]);
    assert_eq!(bytes(&["rows", "33"], &["7", "33"], nk, CASE.dtypes, false), [4]);
    assert_eq!(bytes(&["rows", "64"], &["64", "7"], "mk,kn->mn", CASE.dtypes, false), [4, 16]);
    assert_eq!(bytes(&["rows", "64"], &["7", "64"], nk, BF16, false), [16]);
    assert_eq!(bytes(&["rows", "33"], &["7", "33"], nk, BF16, false), Vec::<usize>::new());
    assert_eq!(bytes(&["rows", "33"], &["33", "6"], "mk,kn->mn", BF16, false), [4]);
    // x is computed: only w is copied.
    assert_eq!(bytes(&["rows", "33"], &["7", "33"], nk, CASE.dtypes, true), [4]);
    // The group widens w, whose bytes are copied as they are: 8 of 2 bytes, beside 4 of 4 bytes of x.
    assert_eq!(bytes(&["rows", "36"], &["7", "36"], nk, (DType::F32, DType::BF16), false), [8, 16]);
}

#[test]
fn half_products_use_matrix_tiles() {
    for (dtypes, expected) in [(CASE.dtypes, false), (BF16, true), (F16, true)] {
        let case = Case { dtypes, ..CASE };
        let lowered = case.lower(&case.problem());
        assert_eq!(faults::count(&lowered.kernel, &|i| matches!(i, Inst::Mma { .. })) > 0, expected);
    }
}

/// Large tiles on both architectures, those of warp groups on the later one.
#[test]
fn large_tiles_of_halves() {
    let is_group = |inst: &Inst| matches!(inst, Inst::GroupMma { .. });
    for (spec, x, w, rows, by_groups) in [
        ("mk,nk->mn", &["rows", "200"][..], &["260", "200"][..], 129, true),
        ("mk,nk->mn", &["rows", "8"], &["257", "8"], 3, true),
        ("mk,nk->mn", &["rows", "0"], &["256", "0"], 2, true),
        ("mk,nk->mn", &["rows", "264"], &["256", "264"], 0, true),
        ("bmk,bnk->bmn", &["2", "rows", "72"], &["2", "256", "72"], 5, true),
        ("mk,ghk->mgh", &["rows", "24"], &["13", "20", "24"], 1030, true),
        ("mk,nk->mn", &["rows", "33"], &["260", "33"], 70, false),
        ("mk,kn->mn", &["rows", "40"], &["40", "264"], 130, false),
    ] {
        for dtypes in [BF16, F16] {
            for arch in GpuArch::ALL {
                let case = Case { spec, x, w, rows, dtypes, epilogue: dtypes == F16, ..CASE };
                let lowered = case.lower_for(&case.problem(), arch);
                let expected = by_groups && arch == GpuArch::Sm90a;
                assert_eq!(faults::count(&lowered.kernel, &is_group) > 0, expected);
                case.check_for(arch);
            }
        }
    }
}

/// Every shape of the tiles of warp groups, whichever is chosen for these sizes.
#[test]
fn shapes_of_group_products() {
    use crate::lower::block::in_block;
    use crate::lower::block::matmul::{Schedule, group::SHAPES, lower};
    let target = GpuTarget::of_arch(GpuArch::Sm90a);
    for shape in SHAPES {
        for (w, rows) in [(&["300", "72"][..], 140), (&["255", "200"], 9)] {
            let x: &'static [&'static str] = if w[1] == "72" { &["rows", "72"] } else { &["rows", "200"] };
            let case = Case { x, w, dtypes: BF16, rows, epilogue: true, ..CASE };
            let p = case.problem();
            let lowered = p.lower(|graph, group| {
                let Op::Contract(op) = &graph.node(group.root).op else { panic!("a product") };
                let schedule = Schedule::Group(shape);
                in_block(graph, group, schedule.threads(), |l| lower(l, op, group, schedule))
            });
            let lowered = lowered.unwrap();
            assert!(shared_bytes(&lowered) <= target.max_shared_bytes);
            p.check(&lowered, tolerance(DType::BF16)).unwrap_or_else(|e| panic!("{shape:?} {case:?}: {e}"));
        }
    }
}

/// Few rows of warp groups, with k whole and in parts that a second launch adds up.
#[test]
fn few_rows_of_group_products() {
    let target = GpuTarget::of_arch(GpuArch::Sm90a);
    for (w, x, parts) in [
        (&["100", "72"][..], &["rows", "72"][..], 1),
        (&["132", "1032"], &["rows", "1032"], 2),
        (&["64", "1600"], &["rows", "1600"], 3),
        (&["97", "1032"], &["rows", "1032"], 1),
    ] {
        for rows in [1, 8, 9, 63, 64, 65] {
            for dtypes in [BF16, F16] {
                let case = Case { x, w, dtypes, rows, epilogue: rows % 2 == 1, ..CASE };
                let p = case.problem();
                let mut all = Vec::new();
                p.lower(|graph, group| {
                    all = lower_alternatives(graph, group, &target)?;
                    lower_block(graph, group, &target)
                })
                .unwrap();
                let bindings = ssmc_ir::Bindings::from([(ssmc_ir::Symbol::new("rows"), rows)]);
                let runs = |lowered: &&Lowered| lowered.grid.eval(&bindings).unwrap() > 0;
                let running: Vec<Lowered> = all.iter().filter(runs).cloned().collect();
                assert!(running.iter().all(|lowered| shared_bytes(lowered) <= target.max_shared_bytes));
                let is_few = (9..=64).contains(&rows);
                let expected = if is_few { 1 + usize::from(parts > 1) } else { 1 };
                assert_eq!(running.len(), expected, "{case:?}");
                if is_few {
                    let blocks = (w[0].parse::<i64>().unwrap() + 63) / 64;
                    assert_eq!(running[0].grid.eval(&bindings), Ok(parts * blocks), "{case:?}");
                }
                p.check_all(&running, tolerance(dtypes.0)).unwrap_or_else(|e| panic!("{case:?}: {e}"));
            }
        }
    }
}

/// A prologue is computed in registers, by large tiles too.
#[test]
fn large_tiles_of_computed_halves() {
    let case =
        Case { x: &["rows", "40"], w: &["256", "40"], dtypes: BF16, prologue: true, rows: 130, ..CASE };
    GpuArch::ALL.into_iter().for_each(|arch| case.check_for(arch));
}

#[test]
fn sums_over_one_operand_are_no_product() {
    let case = Case { spec: "mj,nk->mn", ..CASE };
    let p = case.problem();
    let target = GpuTarget::of_arch(GpuArch::Sm90a);
    let lowered = p.lower(|graph, group| {
        assert!(crate::lower::block::matmul::Schedule::choose(graph, group, &target).is_err());
        lower_block(graph, group, &target)
    });
    p.check(&lowered.unwrap(), tolerance(DType::F32)).unwrap();
}

/// Of the alternatives for unknown rows exactly one runs, and it is right.
#[test]
fn few_rows_and_many() {
    let target = GpuTarget::of_arch(GpuArch::Sm80);
    let cases = [
        CASE,
        Case { x: &["rows", "260"], w: &["7", "260"], ..CASE },
        Case {
            x: &["rows", "260"],
            w: &["7", "260"],
            dtypes: (DType::F32, DType::BF16),
            epilogue: true,
            ..CASE
        },
        Case { x: &["rows", "12"], w: &["9", "12"], dtypes: BF16, prologue: true, ..CASE },
        Case { x: &["rows", "48"], w: &["37", "48"], dtypes: BF16, ..CASE },
        Case { x: &["rows", "768"], w: &["5", "768"], dtypes: BF16, ..CASE },
        Case { x: &["rows", "1304"], w: &["3", "1304"], dtypes: (DType::F32, DType::BF16), ..CASE },
        Case { spec: "mk,kn->mn", x: &["rows", "12"], w: &["12", "9"], ..CASE },
        Case { spec: "bmk,bnk->bmn", x: &["2", "rows", "12"], w: &["2", "9", "12"], ..CASE },
    ];
    for case in cases {
        for rows in [1, 4, 5, 8, 9] {
            let case = Case { rows, ..case };
            let p = case.problem();
            let mut alternatives = Vec::new();
            p.lower(|graph, group| {
                alternatives = lower_alternatives(graph, group, &target)?;
                lower_block(graph, group, &target)
            })
            .unwrap();
            assert_eq!(alternatives.len(), 3);
            let chosen = usize::from(rows > 1) + usize::from(rows > 8);
            p.check(&alternatives[chosen], tolerance(case.dtypes.0))
                .unwrap_or_else(|e| panic!("{case:?}: {e}"));
            let others = alternatives.iter().enumerate().filter(|(i, _)| *i != chosen);
            for (_, other) in others {
                let outputs = p.run(other).unwrap();
                assert!(outputs.iter().all(|y| y.to_f64().iter().all(|y| y.is_nan())));
            }
        }
    }
}
