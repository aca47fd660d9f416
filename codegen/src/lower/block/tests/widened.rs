//! Operands that lie in memory as halves and are widened by the group, parts of larger tensors among them.

use super::super::ssd::Schedule as Duality;
use super::*;
use crate::lower::block::matmul::{self, Schedule, group};
use ssmc_ir::ops::{Activation, Cast, CausalConv1d, Contract, Mode, SelectiveScan, Ssd};

const HALF: DType = DType::BF16;

/// A part of the last axis of a tensor of halves, in another shape behind the first two axes, widened.
fn part(p: &mut Problem, all: ValueId, (start, len): (i64, i64), shape: &[i64]) -> ValueId {
    let builder = p.builder();
    let part = builder.slice(all, 2, start, len).unwrap();
    let first = [Dim::symbol("batch"), Dim::symbol("len")];
    let shape: Vec<Dim> = first.into_iter().chain(shape.iter().map(|n| Dim::from(*n))).collect();
    let part = builder.reshape(part, shape).unwrap();
    builder.cast(part, DType::F32).unwrap()
}

fn problem(batch: i64, len: i64) -> Problem {
    let mut p = Problem::new();
    p.bind("batch", batch);
    p.bind("len", len);
    p
}

/// Rounds the result on its way to memory.
fn round(p: &mut Problem, y: ValueId) {
    let y = p.op(Cast { to: HALF }, &[Some(y)])[0];
    p.epilogue(1);
    p.output(y);
}

fn product(len: i64, columns: &str) -> Problem {
    let mut p = problem(2, len);
    let all = p.input("all", HALF, &["batch", "len", "80"]);
    let w = p.input("w", HALF, &[columns, "48"]);
    let w = p.builder().cast(w, DType::F32).unwrap();
    let x = part(&mut p, all, (16, 48), &[48]);
    let y = p.op(Contract::new("bld,ed->ble"), &[Some(x), Some(w)])[0];
    p.output(y);
    p
}

#[test]
fn parts_are_copied_sixteen_bytes_at_a_time() {
    for columns in ["300", "64", "20"] {
        for target in targets() {
            for len in [1, 65, 150] {
                let p = product(len, columns);
                let lowered = p.lower(|graph, group| lower_block(graph, group, &target)).unwrap();
                assert_eq!(copied_bytes(&lowered), [16]);
                p.check(&lowered, 1e-4).unwrap_or_else(|e| panic!("{columns} x {len}: {e}"));
            }
        }
    }
}

/// Tiles of all columns, which are taken where there are many rows.
#[test]
fn products_of_few_columns_by_warp_groups() {
    for columns in ["50", "80", "100", "192"] {
        let p = product(131, columns);
        let shape = group::Shape::of_few(columns.parse().unwrap());
        let schedule = Schedule::Group(shape);
        let lowered = p.lower(|graph, group| {
            let Op::Contract(op) = &graph.node(group.root).op else { panic!("a product") };
            in_block(graph, group, schedule.threads(), |l| matmul::lower(l, op, group, schedule))
        });
        let lowered = lowered.unwrap();
        assert!(shared_bytes(&lowered) <= GpuTarget::of_arch(GpuArch::Sm90a).max_shared_bytes);
        p.check(&lowered, 1e-4).unwrap_or_else(|e| panic!("{columns}: {e}"));
    }
}

#[test]
fn few_columns_have_a_schedule_for_many_rows() {
    let target = GpuTarget::of_arch(GpuArch::Sm90a);
    for (len, expected) in [(1, 1), (4, 1), (5, 2), (32, 2), (33, 4), (4 * 64, 4), (48 * 64, 3)] {
        let p = product(len, "80");
        let mut grids = Vec::new();
        p.lower(|graph, group| {
            let bindings = ssmc_ir::Bindings::from([
                (ssmc_ir::Symbol::new("batch"), 2),
                (ssmc_ir::Symbol::new("len"), len),
            ]);
            let all = lower_alternatives(graph, group, &target)?;
            grids = all.iter().map(|lowered| lowered.grid.eval(&bindings).unwrap()).collect();
            lower_block(graph, group, &target)
        })
        .unwrap();
        let running: Vec<usize> = (0..grids.len()).filter(|i| grids[*i] > 0).collect();
        assert_eq!((grids.len(), running), (5, vec![expected]), "{len}: {grids:?}");
    }
}

#[test]
fn scans_of_parts() {
    for (len, channels) in [(0, 8), (1, 8), (67, 8), (33, 20)] {
        let mut p = problem(2, len);
        let inner = p.input("inner", HALF, &["batch", "len", &(2 * channels).to_string()]);
        let pairs = p.input("pairs", HALF, &["batch", "len", "40"]);
        let x = part(&mut p, inner, (0, channels), &[1, channels]);
        let z = part(&mut p, inner, (channels, channels), &[1, channels]);
        let b = part(&mut p, pairs, (8, 16), &[1, 16]);
        let c = part(&mut p, pairs, (24, 16), &[1, 16]);
        let channels = channels.to_string();
        let dt = p.input("dt", DType::F32, &["batch", "len", "1", &channels]);
        let a = p.input_of("a", DType::F32, &["1", &channels, "16"], |_, noise| -1.5 - noise);
        let d = p.input("d", DType::F32, &["1", &channels]);
        let h0 = p.input("h0", DType::F32, &["batch", "1", &channels, "16"]);
        let op = SelectiveScan { dt_softplus: true, ..SelectiveScan::default() };
        let operands = [x, dt, a, b, c, d, z].map(Some);
        let results = p.op(op, &[operands.as_slice(), &[None, Some(h0)]].concat());
        round(&mut p, results[0]);
        p.output(results[1]);
        for target in targets() {
            let lowered = p.lower(|graph, group| lower_block(graph, group, &target)).unwrap();
            p.check(&lowered, tolerance(HALF)).unwrap_or_else(|e| panic!("{len} x {channels}: {e}"));
        }
    }
}

#[test]
fn convolutions_of_parts() {
    for (len, channels) in [(0, 16), (1, 16), (5, 16), (33, 24), (18, 6)] {
        let mut p = problem(2, len);
        let all = p.input("all", HALF, &["batch", "len", &(3 * channels).to_string()]);
        let x = part(&mut p, all, (channels, channels), &[channels]);
        let (c, n) = (channels, channels.to_string());
        let w = p.input("w", HALF, &[&n, "1", "4"]);
        let w = p.builder().cast(w, DType::F32).unwrap();
        let w = p.builder().reshape(w, vec![Dim::from(c), Dim::from(4)]).unwrap();
        let bias = p.input("bias", DType::F32, &[&n]);
        let state = p.input("state", DType::F32, &["batch", "3", &n]);
        let op = CausalConv1d { activation: Activation::Silu };
        let results = p.op(op, &[x, w, bias, state].map(Some));
        round(&mut p, results[0]);
        p.output(results[1]);
        for target in targets() {
            let lowered = p.lower(|graph, group| lower_block(graph, group, &target)).unwrap();
            p.check(&lowered, tolerance(HALF)).unwrap_or_else(|e| panic!("{len} x {channels}: {e}"));
        }
    }
}

#[test]
fn dual_scans_of_parts() {
    let target = GpuTarget::of_arch(GpuArch::Sm80);
    for len in [0, 1, 65, 130] {
        let mut p = problem(1, len);
        let all = p.input("all", HALF, &["batch", "len", "384"]);
        let x = part(&mut p, all, (0, 128), &[1, 2, 64]);
        let b = part(&mut p, all, (128, 128), &[1, 128]);
        let c = part(&mut p, all, (256, 128), &[1, 128]);
        let dt = p.input("dt", DType::F32, &["batch", "len", "1", "2"]);
        let a = p.input_of("a", DType::F32, &["1", "2"], |_, noise| -1.5 - noise);
        let d = p.input("d", DType::F32, &["1", "2", "1"]);
        let op = Ssd { dt_softplus: true, mode: Mode::Chunked, chunk_size: 64, ..Ssd::default() };
        let results = p.op(op, &[x, dt, a, b, c, d].map(Some));
        round(&mut p, results[0]);
        p.output(results[1]);
        let mut found = None;
        let lowered = p.lower(|graph, group| {
            let Op::Ssd(op) = &graph.node(group.root).op else { panic!("a scan") };
            found = Duality::choose(graph, group, op, &target);
            lower_block(graph, group, &target)
        });
        assert!(found.is_some(), "halves behind conversions have schedules on matrix tiles");
        let lowered = lowered.unwrap();
        assert_eq!(copied_bytes(&lowered), [16]);
        p.check(&lowered, 4.0 * tolerance(HALF)).unwrap_or_else(|e| panic!("{len}: {e}"));
    }
}
