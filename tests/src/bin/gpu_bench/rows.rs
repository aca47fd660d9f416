//! The kernels that are timed, with what they must reach and what others reach.
//!
//! The figures of others are those of `mamba_ssm` 2.3.2 on an H100 80GB HBM3 (torch 2.11, CUDA 13.0, Triton 3.6), and of
//! cuBLAS through torch on the same card.

use ssmc_ir::DType;
use std::collections::BTreeMap;

/// Extents by the name of the axis.
pub(crate) type Sizes = BTreeMap<&'static str, usize>;

/// One input tensor.
pub(crate) struct Input {
    pub(crate) name: &'static str,
    /// Names of axes, or numbers.
    pub(crate) axes: Vec<&'static str>,
    /// Of the row's type rather than `f32`.
    is_half: bool,
    /// Elements are drawn from here.
    pub(crate) range: (f64, f64),
}

/// Work that one number of a row counts.
type Count = fn(&Sizes) -> f64;

/// One line of the table.
pub(crate) struct Row {
    pub(crate) name: String,
    /// The graph for these extents, in `bf16`.
    graph: fn(&Sizes) -> String,
    /// What stands in the place of `bf16`.
    dtype: DType,
    pub(crate) inputs: Vec<Input>,
    /// Axes of the output `y`.
    pub(crate) output: Vec<&'static str>,
    pub(crate) sizes: Sizes,
    /// Which indices are recomputed, along which axes.
    pub(crate) window: Vec<(&'static str, Vec<usize>)>,
    /// Largest error of the window.
    pub(crate) tolerance: f64,
    exponentials: Count,
    flops: Count,
    /// Bytes of what is written besides the output.
    also_written: Count,
    /// Microseconds; 0 if there is no figure.
    pub(crate) must: f64,
    pub(crate) aim: f64,
    pub(crate) peer: f64,
}

impl Row {
    /// The extent of an axis.
    pub(crate) fn extent(&self, axis: &str) -> usize {
        axis.parse().unwrap_or_else(|_| self.sizes[axis])
    }

    fn elements(&self, axes: &[&str]) -> f64 {
        axes.iter().map(|axis| self.extent(axis) as f64).product()
    }

    /// The graph.
    pub(crate) fn graph(&self) -> String {
        self.graph_of(&self.sizes)
    }

    /// The graph for other extents.
    pub(crate) fn graph_of(&self, sizes: &Sizes) -> String {
        (self.graph)(sizes).replace("bf16", self.dtype.name())
    }

    /// The type of an input's elements.
    pub(crate) fn dtype(&self, input: &Input) -> DType {
        if input.is_half { self.dtype } else { DType::F32 }
    }

    /// The row with elements of another type, within `tolerance`, without the figures of others.
    fn of_type(self, dtype: DType, tolerance: f64) -> Self {
        let name = self.name.replace("bf16", dtype.name());
        Self { name, dtype, tolerance, must: 0.0, aim: 0.0, peer: 0.0, ..self }
    }

    /// Bytes of inputs and output, each once.
    pub(crate) fn bytes(&self) -> f64 {
        let bytes = |dtype: DType| (dtype.bits() / 8) as f64;
        let input = |input: &Input| self.elements(&input.axes) * bytes(self.dtype(input));
        self.inputs.iter().map(input).sum::<f64>()
            + self.elements(&self.output) * bytes(self.dtype)
            + (self.also_written)(&self.sizes)
    }

    pub(crate) fn exponentials(&self) -> f64 {
        (self.exponentials)(&self.sizes)
    }

    pub(crate) fn flops(&self) -> f64 {
        (self.flops)(&self.sizes)
    }
}

fn input(name: &'static str, axes: &[&'static str], is_half: bool, range: (f64, f64)) -> Input {
    Input { name, axes: axes.to_vec(), is_half, range }
}

const UNIT: (f64, f64) = (-1.0, 1.0);

fn none(_: &Sizes) -> f64 {
    0.0
}

/// First, middle and last index.
fn some(n: usize) -> Vec<usize> {
    let mut all = vec![0, n / 2, n - 1];
    all.dedup();
    all
}

fn scan_graph(s: &Sizes) -> String {
    let (e, n) = (s["e"], s["n"]);
    let steps = format!("bf16[batch, len, 1, {e}]");
    let pairs = format!("bf16[batch, len, 1, {n}]");
    format!(
        "func @scan(%x: {steps}, %dt: {steps}, %a: bf16[1, {e}, {n}], %b: {pairs}, %c: {pairs}, %d: bf16[1, {e}], \
         %z: {steps}, %bias: bf16[1, {e}]) {{\n  %y, %h = ssm.selective_scan %x, %dt, %a, %b, %c, %d, %z, %bias \
         {{dt_softplus=true}} : {steps}, bf16[batch, 1, {e}, {n}]\n  return %y \"y\"\n}}"
    )
}

fn scan(batch: usize, len: usize, e: usize, [peer, must, aim]: [f64; 3]) -> Row {
    let steps = &["batch", "len", "1", "e"];
    let pairs = &["batch", "len", "1", "n"];
    Row {
        name: format!("selective scan B{batch} L{len} D{e} N16 bf16"),
        graph: scan_graph,
        inputs: vec![
            input("x", steps, true, UNIT),
            input("dt", steps, true, UNIT),
            input("a", &["1", "e", "n"], true, (-4.0, -0.1)),
            input("b", pairs, true, UNIT),
            input("c", pairs, true, UNIT),
            input("d", &["1", "e"], true, UNIT),
            input("z", steps, true, UNIT),
            input("bias", &["1", "e"], true, (-5.0, -1.0)),
        ],
        output: steps.to_vec(),
        dtype: DType::BF16,
        sizes: Sizes::from([("batch", batch), ("len", len), ("e", e), ("n", 16)]),
        window: vec![("batch", some(batch)), ("e", vec![0, e / 2, e - 1])],
        tolerance: 8e-3,
        exponentials: |s| (s["batch"] * s["len"] * s["e"] * s["n"]) as f64,
        flops: |s| (s["batch"] * s["len"] * s["e"] * (6 * s["n"] + 8)) as f64,
        also_written: none,
        must,
        aim,
        peer,
    }
}

fn ssd_graph(s: &Sizes) -> String {
    let (r, p, n) = (s["r"], s["p"], s["n"]);
    let rows = format!("bf16[batch, len, 1, {r}, {p}]");
    let pairs = format!("bf16[batch, len, 1, {n}]");
    format!(
        "func @ssd(%x: {rows}, %dt: bf16[batch, len, 1, {r}], %a: bf16[1, {r}], %b: {pairs}, %c: {pairs}, \
         %d: bf16[1, {r}, 1], %bias: bf16[1, {r}]) {{\n  %y, %h = ssm.ssd %x, %dt, %a, %b, %c, %d, _, %bias \
         {{chunk_size=256, dt_softplus=true, mode=chunked}} : {rows}, bf16[batch, 1, {r}, {p}, {n}]\n  return %y \"y\"\n}}"
    )
}

/// As [`ssd_graph`], with a gate.
fn gated_ssd_graph(s: &Sizes) -> String {
    let rows = format!("bf16[batch, len, 1, {}, {}]", s["r"], s["p"]);
    let plain = ssd_graph(s);
    let plain = plain.replace("func @ssd(", &format!("func @ssd(%z: {rows}, "));
    plain.replace("%d, _, %bias", "%d, %z, %bias")
}

/// As [`ssd`], with a gate.
fn gated_ssd(batch: usize, len: usize, r: usize) -> Row {
    let mut row = ssd(batch, len, r, [0.0; 3]);
    row.name = row.name.replace("SSD", "gated SSD");
    row.graph = gated_ssd_graph;
    row.inputs.insert(0, input("z", &["batch", "len", "1", "r", "p"], true, UNIT));
    row
}

/// As [`gated_ssd_graph`], as models have it: with states in `f32`.
fn stateful_ssd_graph(s: &Sizes) -> String {
    let steps = update_graph(s).replace("[batch, 1, 1, ", "[batch, len, 1, ");
    steps.replace("{dt_softplus=true}", "{chunk_size=256, dt_softplus=true, mode=chunked}")
}

/// As [`ssd`], with a gate, an initial state and the last one.
fn stateful_ssd(batch: usize, len: usize, r: usize) -> Row {
    let mut row = ssd(batch, len, r, [0.0; 3]);
    let step = update(batch, 0.0);
    let at_length = |axes: &[&'static str]| match axes {
        ["batch", "1", "1", rest @ ..] => [&["batch", "len", "1"], rest].concat(),
        axes => axes.to_vec(),
    };
    row.name = row.name.replace("SSD", "gated SSD with states");
    row.graph = stateful_ssd_graph;
    row.inputs = step.inputs;
    for input in &mut row.inputs {
        input.axes = at_length(&input.axes);
    }
    row.also_written = step.also_written;
    row
}

fn ssd(batch: usize, len: usize, r: usize, [peer, must, aim]: [f64; 3]) -> Row {
    let rows = &["batch", "len", "1", "r", "p"];
    let pairs = &["batch", "len", "1", "n"];
    Row {
        name: format!("SSD B{batch} L{len} H{r} P64 N128 bf16"),
        graph: ssd_graph,
        inputs: vec![
            input("x", rows, true, UNIT),
            input("dt", &["batch", "len", "1", "r"], true, UNIT),
            input("a", &["1", "r"], true, (-4.0, -0.1)),
            input("b", pairs, true, UNIT),
            input("c", pairs, true, UNIT),
            input("d", &["1", "r", "1"], true, UNIT),
            input("bias", &["1", "r"], true, (-5.0, -1.0)),
        ],
        output: rows.to_vec(),
        dtype: DType::BF16,
        also_written: none,
        sizes: Sizes::from([("batch", batch), ("len", len), ("r", r), ("p", 64), ("n", 128)]),
        window: vec![("batch", some(batch)), ("r", vec![0, r - 1]), ("p", vec![0, 31, 63])],
        tolerance: 1.6e-2,
        exponentials: none,
        // Chunks of 64 steps: scores and what they weigh, the state read and written.
        flops: |s| {
            (s["batch"] * s["len"] * s["r"] * 2 * (64 * (s["n"] + s["p"]) + 2 * s["p"] * s["n"])) as f64
        },
        must,
        aim,
        peer,
    }
}

fn conv_graph(s: &Sizes) -> String {
    let e = s["e"];
    let steps = format!("bf16[batch, len, {e}]");
    format!(
        "func @conv(%x: {steps}, %w: bf16[{e}, 4], %bias: bf16[{e}]) {{\n  %y, %tail = ssm.causal_conv1d %x, %w, %bias \
         {{activation=silu}} : {steps}, bf16[batch, 3, {e}]\n  return %y \"y\"\n}}"
    )
}

fn conv(batch: usize, len: usize, e: usize, [peer, must, aim]: [f64; 3]) -> Row {
    let steps = &["batch", "len", "e"];
    Row {
        name: format!("causal conv1d B{batch} D{e} L{len} bf16"),
        graph: conv_graph,
        inputs: vec![
            input("x", steps, true, UNIT),
            input("w", &["e", "4"], true, UNIT),
            input("bias", &["e"], true, UNIT),
        ],
        output: steps.to_vec(),
        dtype: DType::BF16,
        sizes: Sizes::from([("batch", batch), ("len", len), ("e", e)]),
        window: vec![("batch", some(batch)), ("e", vec![0, e / 2, e - 1])],
        tolerance: 8e-3,
        exponentials: none,
        flops: |s| (s["batch"] * s["len"] * s["e"] * 8) as f64,
        also_written: none,
        must,
        aim,
        peer,
    }
}

fn product_graph(s: &Sizes) -> String {
    let (n, k) = (s["n"], s["k"]);
    format!(
        "func @product(%x: bf16[rows, {k}], %w: bf16[{n}, {k}]) {{\n  %y = contract[mk,nk->mn] %x, %w : bf16[rows, {n}]\n  \
         return %y \"y\"\n}}"
    )
}

fn product(m: usize, k: usize, n: usize, peer: f64) -> Row {
    Row {
        name: format!("matmul M{m} K{k} N{n} bf16"),
        graph: product_graph,
        inputs: vec![input("x", &["rows", "k"], true, UNIT), input("w", &["n", "k"], true, UNIT)],
        output: vec!["rows", "n"],
        dtype: DType::BF16,
        sizes: Sizes::from([("rows", m), ("k", k), ("n", n)]),
        window: vec![("rows", some(m)), ("n", some(n))],
        tolerance: 8e-3,
        exponentials: none,
        flops: |s| 2.0 * (s["rows"] * s["k"] * s["n"]) as f64,
        also_written: none,
        must: peer / 0.7,
        aim: peer / 0.95,
        peer,
    }
}

fn norm_graph(s: &Sizes) -> String {
    let e = s["e"];
    format!(
        "func @norm(%x: bf16[rows, {e}], %w: bf16[{e}]) {{\n  %y = rms_norm %x, %w {{eps=1e-5}} : bf16[rows, {e}]\n  \
         return %y \"y\"\n}}"
    )
}

fn norm(rows: usize, e: usize) -> Row {
    Row {
        name: format!("RMS norm {rows} x {e} bf16"),
        graph: norm_graph,
        inputs: vec![input("x", &["rows", "e"], true, UNIT), input("w", &["e"], true, UNIT)],
        output: vec!["rows", "e"],
        dtype: DType::BF16,
        sizes: Sizes::from([("rows", rows), ("e", e)]),
        window: vec![("rows", some(rows))],
        tolerance: 8e-3,
        exponentials: none,
        flops: |s| (s["rows"] * s["e"] * 4) as f64,
        also_written: none,
        must: 0.0,
        aim: 0.0,
        peer: 0.0,
    }
}

fn update_graph(s: &Sizes) -> String {
    let (r, p, n) = (s["r"], s["p"], s["n"]);
    let rows = format!("bf16[batch, 1, 1, {r}, {p}]");
    let pairs = format!("bf16[batch, 1, 1, {n}]");
    let states = format!("f32[batch, 1, {r}, {p}, {n}]");
    let widened = [("x", &rows), ("b", &pairs), ("c", &pairs), ("z", &rows)].map(|(name, ty)| {
        let ty = ty.replace("bf16", "f32");
        format!("  %{name}32 = cast %{name} {{to=f32}} : {ty}\n")
    });
    let wide = rows.replace("bf16", "f32");
    format!(
        "func @update(%x: {rows}, %dt: f32[batch, 1, 1, {r}], %a: f32[1, {r}], %b: {pairs}, %c: {pairs}, \
         %d: f32[1, {r}, 1], %z: {rows}, %bias: f32[1, {r}], %h0: {states}) {{\n{}  \
         %y32, %h = ssm.ssd %x32, %dt, %a, %b32, %c32, %d, %z32, %bias, %h0 {{dt_softplus=true}} : {wide}, {states}\n  \
         %y = cast %y32 {{to=bf16}} : {rows}\n  return %y \"y\", %h \"h\"\n}}",
        widened.concat()
    )
}

/// `must` and `aim` are shares of the copy bandwidth, of 3.0 TB/s.
fn update(batch: usize, peer: f64) -> Row {
    let (r, p, n) = (80, 64, 128);
    let moved = |share: f64| 8.0 * (batch * r * p * n) as f64 / 3.0e12 / share * 1e6;
    let row = &["batch", "1", "1", "r", "p"];
    let pairs = &["batch", "1", "1", "n"];
    Row {
        name: format!("state update B{batch} H{r} P{p} N{n} f32 state"),
        graph: update_graph,
        inputs: vec![
            input("x", row, true, UNIT),
            input("dt", &["batch", "1", "1", "r"], false, UNIT),
            input("a", &["1", "r"], false, (-4.0, -0.1)),
            input("b", pairs, true, UNIT),
            input("c", pairs, true, UNIT),
            input("d", &["1", "r", "1"], false, UNIT),
            input("z", row, true, UNIT),
            input("bias", &["1", "r"], false, (-5.0, -1.0)),
            input("h0", &["batch", "1", "r", "p", "n"], false, UNIT),
        ],
        output: row.to_vec(),
        dtype: DType::BF16,
        sizes: Sizes::from([("batch", batch), ("r", r), ("p", p), ("n", n)]),
        window: vec![("batch", some(batch))],
        tolerance: 8e-3,
        exponentials: none,
        flops: |s| (s["batch"] * s["r"] * s["p"] * 5 * s["n"]) as f64,
        also_written: |s| 4.0 * (s["batch"] * s["r"] * s["p"] * s["n"]) as f64,
        must: if batch >= 256 { moved(0.9) } else { 0.0 },
        aim: if batch >= 256 { moved(0.95) } else { 0.0 },
        peer,
    }
}

/// As [`update_graph`], with states in bf16.
fn half_update_graph(s: &Sizes) -> String {
    let wide = format!("f32[batch, 1, {}, {}, {}]", s["r"], s["p"], s["n"]);
    let half = wide.replace("f32", "bf16");
    let plain = update_graph(s);
    let plain = plain.replace(&format!("%h0: {wide}"), &format!("%h0: {half}"));
    let plain = plain.replace("%bias, %h0 {", "%bias, %h32 {");
    let plain = plain.replace("  %x32 = ", &format!("  %h32 = cast %h0 {{to=f32}} : {wide}\n  %x32 = "));
    plain
        .replace("  return ", &format!("  %kept = cast %h {{to=bf16}} : {half}\n  return "))
        .replace("%h \"h\"", "%kept \"h\"")
}

/// As [`update`], with states in bf16.
fn half_update(batch: usize) -> Row {
    let mut row = update(batch, 0.0);
    row.name = row.name.replace("f32 state", "bf16 state");
    row.graph = half_update_graph;
    row.inputs.iter_mut().filter(|input| input.name == "h0").for_each(|input| input.is_half = true);
    row.also_written = |s| 2.0 * (s["batch"] * s["r"] * s["p"] * s["n"]) as f64;
    (row.must, row.aim) = (row.must / 2.0, row.aim / 2.0);
    row
}

/// Rows whose tensors have more than 2^31 elements, for checking rather than timing.
pub(crate) fn large_rows() -> Vec<Row> {
    vec![norm(850_003, 2560), conv(2, 210_001, 5120, [0.0; 3])]
}

/// Recurrences over 70,001 steps in every type.
pub(crate) fn long_rows() -> Vec<Row> {
    let mut all = Vec::new();
    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 2e-3), (DType::BF16, 8e-3)] {
        let len = 70_001;
        let rows = [
            scan(1, len, 96, [0.0; 3]),
            scan(3, len, 33, [0.0; 3]),
            ssd(1, len, 2, [0.0; 3]),
            conv(1, len, 96, [0.0; 3]),
        ];
        all.extend(rows.map(|row| row.of_type(dtype, tolerance)));
    }
    all
}

/// Every row, in the order of the table.
pub(crate) fn rows() -> Vec<Row> {
    vec![
        scan(8, 2048, 5120, [1445.0, 600.0, 400.0]),
        scan(1, 2048, 1536, [69.6, 40.0, 25.0]),
        scan(1, 16384, 5120, [1937.0, 900.0, 600.0]),
        conv(1, 2048, 1536, [10.1, 6.0, 4.0]),
        conv(8, 2048, 5120, [122.5, 0.0, 0.0]),
        ssd(8, 2048, 80, [790.0, 400.0, 220.0]),
        ssd(1, 2048, 24, [533.0, 60.0, 30.0]),
        ssd(1, 65536, 80, [3681.0, 1600.0, 900.0]),
        gated_ssd(8, 2048, 80),
        stateful_ssd(8, 2048, 80),
        norm(16384, 2560),
        norm(16384, 5120),
        half_update(64),
        update(1, 89.0),
        update(64, 134.0),
        update(256, 575.0),
        product(1, 768, 3072, 0.0),
        product(1, 1536, 768, 0.0),
        product(1, 1536, 80, 0.0),
        product(1, 48, 1536, 0.0),
        product(1, 2560, 10240, 0.0),
        product(1, 5120, 2560, 0.0),
        product(1, 768, 50280, 0.0),
        product(4, 2560, 10240, 0.0),
        product(2048, 768, 3072, 20.2),
        product(2048, 1536, 768, 13.6),
        product(64, 2560, 10576, 0.0),
        product(64, 5120, 2560, 0.0),
        product(2048, 2560, 10240, 152.5),
        product(2048, 5120, 2560, 71.7),
        product(16384, 2560, 10240, 1209.0),
        product(16384, 5120, 2560, 620.0),
        product(16384, 768, 3072, 120.9),
    ]
}
