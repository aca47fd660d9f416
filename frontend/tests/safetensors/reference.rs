//! Mamba-2 written out in loops over plain numbers, for one sequence from a zero state.

use ssmc_ir::Model;
use ssmc_ir::tensor::Tensor;

/// The properties of a model that its tensors do not show.
#[derive(Clone, Copy)]
pub(super) struct Mamba2 {
    pub(super) n_groups: usize,
    pub(super) d_state: usize,
    pub(super) rms_norm: bool,
    pub(super) norm_before_gate: bool,
}

type Row = Vec<f64>;

struct Weights<'a>(&'a Model);

impl Weights<'_> {
    fn get(&self, name: &str) -> Option<Row> {
        let weight = self.0.weights.get(name)?;
        let shape: Vec<usize> = weight.ty.shape.as_const().unwrap().iter().map(|d| *d as usize).collect();
        Some(Tensor::from_bytes(weight.ty.dtype, shape, weight.bytes.as_slice()).unwrap().to_f64())
    }

    fn at(&self, name: &str) -> Row {
        self.get(name).unwrap_or_else(|| panic!("weight {name}"))
    }

    /// A linear module, with its bias if it has one.
    fn linear(&self, module: &str, x: &[f64]) -> Row {
        let w = self.at(&format!("{module}.weight"));
        let mut y: Row = w.chunks(x.len()).map(|row| dot(row, x)).collect();
        if let Some(bias) = self.get(&format!("{module}.bias")) {
            y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
        y
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn rms(x: &[f64]) -> Row {
    let scale = 1.0 / (dot(x, x) / x.len() as f64 + f64::from(1e-5f32)).sqrt();
    x.iter().map(|x| x * scale).collect()
}

fn times(x: &[f64], y: &[f64]) -> Row {
    x.iter().zip(y).map(|(x, y)| x * y).collect()
}

impl Mamba2 {
    /// The logits of every position.
    pub(super) fn logits(
        &self,
        model: &Model,
        embedding: &str,
        head: &str,
        n_layers: usize,
        ids: &[i64],
    ) -> Row {
        let w = Weights(model);
        let table = w.at(embedding);
        let d_model = w.at("backbone.norm_f.weight").len();
        let mut u: Vec<Row> =
            ids.iter().map(|id| table[*id as usize * d_model..][..d_model].to_vec()).collect();
        for layer in 0..n_layers {
            let path = format!("backbone.layers.{layer}");
            let norm = w.at(&format!("{path}.norm.weight"));
            let normed: Vec<Row> = u.iter().map(|u| times(&rms(u), &norm)).collect();
            for (u, y) in u.iter_mut().zip(self.mixer(&w, &format!("{path}.mixer"), &normed)) {
                u.iter_mut().zip(y).for_each(|(u, y)| *u += y);
            }
        }
        let (norm, head) = (w.at("backbone.norm_f.weight"), w.at(head));
        u.iter()
            .flat_map(|u| {
                let normed = times(&rms(u), &norm);
                head.chunks(d_model).map(|row| dot(row, &normed)).collect::<Row>()
            })
            .collect()
    }

    fn mixer(&self, w: &Weights<'_>, path: &str, inputs: &[Row]) -> Vec<Row> {
        let (a_log, dt_bias, d) =
            (w.at(&format!("{path}.A_log")), w.at(&format!("{path}.dt_bias")), w.at(&format!("{path}.D")));
        let (n_heads, n_groups, d_state) = (a_log.len(), self.n_groups, self.d_state);
        let conv_w = w.at(&format!("{path}.conv1d.weight"));
        let conv_bias = w.get(&format!("{path}.conv1d.bias"));
        let projected: Vec<Row> = inputs.iter().map(|u| w.linear(&format!("{path}.in_proj"), u)).collect();
        // in_proj has d_inner + n_channels + n_heads rows, and n_channels = d_inner + 2 * n_groups * d_state.
        let d_inner = (projected[0].len() - n_heads - 2 * n_groups * d_state) / 2;
        let n_channels = d_inner + 2 * n_groups * d_state;
        let (head_dim, d_conv) = (d_inner / n_heads, conv_w.len() / n_channels);
        let mut state = vec![0.0; n_heads * head_dim * d_state];
        let mut outputs = Vec::new();
        for (t, row) in projected.iter().enumerate() {
            let xbc: Row = (0..n_channels)
                .map(|c| {
                    let taps = (0..d_conv).filter(|j| t + j + 1 >= d_conv);
                    let sum: f64 = taps
                        .map(|j| conv_w[c * d_conv + j] * projected[t + j + 1 - d_conv][d_inner + c])
                        .sum();
                    silu(sum + conv_bias.as_ref().map_or(0.0, |bias| bias[c]))
                })
                .collect();
            let (x, bc) = xbc.split_at(d_inner);
            let (b, c) = bc.split_at(n_groups * d_state);
            let mut y = vec![0.0; d_inner];
            for head in 0..n_heads {
                let dt = (row[d_inner + n_channels + head] + dt_bias[head]).exp().ln_1p();
                let decay = (-dt * a_log[head].exp()).exp();
                let group = head / (n_heads / n_groups) * d_state;
                for p in head * head_dim..(head + 1) * head_dim {
                    let h = &mut state[p * d_state..(p + 1) * d_state];
                    for n in 0..d_state {
                        h[n] = decay * h[n] + dt * x[p] * b[group + n];
                    }
                    let skip = if d.len() == n_heads { d[head] } else { d[p] };
                    y[p] = dot(h, &c[group..group + d_state]) + skip * x[p];
                }
            }
            let gate: Row = row[..d_inner].iter().map(|z| silu(*z)).collect();
            let y = if self.rms_norm { self.gated_norm(w, path, &y, &gate) } else { times(&y, &gate) };
            outputs.push(w.linear(&format!("{path}.out_proj"), &y));
        }
        outputs
    }

    fn gated_norm(&self, w: &Weights<'_>, path: &str, y: &[f64], gate: &[f64]) -> Row {
        let norm = w.at(&format!("{path}.norm.weight"));
        let grouped =
            |y: &[f64]| times(&y.chunks(y.len() / self.n_groups).flat_map(rms).collect::<Row>(), &norm);
        if self.norm_before_gate { times(&grouped(y), gate) } else { grouped(&times(y, gate)) }
    }
}
