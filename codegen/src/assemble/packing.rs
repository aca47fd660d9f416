//! How weights lie in the artefact.

use std::io::{self, Write};

/// Columns of a panel. One packing serves all CPU levels: two 512-bit or four 256-bit vectors of f32.
pub const PANEL: i64 = 32;

/// Order of a weight's elements.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Packing {
    /// `[ceil(n / PANEL)][k][PANEL]`: k runs over `k_axes` row-major, n over `n_axis`, missing columns are 0.
    Panels { k_axes: Vec<usize>, n_axis: usize },
    /// `[ceil(n / PANEL)][k / 2][PANEL][2]`: what 16-bit dot products take. The number of k is even.
    Pairs { k_axes: Vec<usize>, n_axis: usize },
    /// Integers of one byte as unsigned ones: for 8 bits `[ceil(n / PANEL)][ceil(k / 4)][PANEL][4]` with 128 added, for
    /// 4 bits `[ceil(n / PANEL)][ceil(k / 8)][PANEL][4]` with 8 added, the first four of eight k in the low half bytes.
    /// Missing elements are zeros before that.
    Quads { k_axes: Vec<usize>, n_axis: usize, bits: u32 },
}

impl Packing {
    /// The axes that are summed, and the other one.
    fn axes(&self) -> (&[usize], usize) {
        match self {
            Packing::Panels { k_axes, n_axis }
            | Packing::Pairs { k_axes, n_axis }
            | Packing::Quads { k_axes, n_axis, .. } => (k_axes, *n_axis),
        }
    }

    /// How many elements along the sum lie beside each other.
    pub fn beside(&self) -> i64 {
        match self {
            Packing::Panels { .. } => 1,
            Packing::Pairs { .. } => 2,
            Packing::Quads { .. } => 4,
        }
    }

    /// The name in the manifest: `panels32(k=1;n=0)`.
    pub fn name(&self) -> String {
        let (k_axes, n_axis) = self.axes();
        let kind = match self {
            Packing::Panels { .. } => "panels".to_owned(),
            Packing::Pairs { .. } => "pairs".to_owned(),
            Packing::Quads { bits, .. } => format!("u{bits}quads"),
        };
        let k: Vec<String> = k_axes.iter().map(usize::to_string).collect();
        format!("{kind}{PANEL}(k={};n={n_axis})", k.join(","))
    }

    /// Bits that an element of so many bits takes.
    pub fn bits(&self, unpacked: usize) -> usize {
        match self {
            Packing::Panels { .. } | Packing::Pairs { .. } => unpacked,
            Packing::Quads { bits, .. } => *bits as usize,
        }
    }

    /// Writes the elements of a row-major tensor in this order.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(
        &self,
        bytes: &[u8],
        dims: &[usize],
        elem_size: usize,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let (k_axes, n_axis) = self.axes();
        let mut strides = vec![elem_size; dims.len()];
        for i in (1..dims.len()).rev() {
            strides[i - 1] = strides[i] * dims[i];
        }
        // Byte offsets of every k, the last axis fastest.
        let mut k_offsets = vec![0];
        for axis in k_axes {
            let (extent, stride) = (dims[*axis], strides[*axis]);
            k_offsets = k_offsets
                .iter()
                .flat_map(|base: &usize| (0..extent).map(|i| *base + i * stride).collect::<Vec<_>>())
                .collect();
        }
        let (n, n_stride) = (dims[n_axis], strides[n_axis]);
        let (panel, k) = (PANEL as usize, k_offsets.len());
        // How many k lie beside each other, and how many bytes a panel has.
        let (beside, len) = match self {
            Packing::Panels { .. } => (1, k * panel * elem_size),
            Packing::Pairs { .. } => (2, k * panel * elem_size),
            Packing::Quads { bits: 4, .. } => (4, k.div_ceil(8) * panel * 4),
            Packing::Quads { .. } => (4, k.div_ceil(4) * panel * 4),
        };
        let zero = match self {
            Packing::Panels { .. } | Packing::Pairs { .. } => 0,
            Packing::Quads { bits: 4, .. } => 0x88,
            Packing::Quads { .. } => 0x80,
        };
        let mut buffer = vec![zero; len];
        for first in (0..n).step_by(panel) {
            buffer.fill(zero);
            for column in 0..panel.min(n - first) {
                let base = (first + column) * n_stride;
                for (row, offset) in k_offsets.iter().enumerate() {
                    let from = &bytes[base + offset..base + offset + elem_size];
                    match self {
                        Packing::Quads { bits: 4, .. } => {
                            let byte = &mut buffer[(row / 8 * panel + column) * 4 + row % 4];
                            // 8 is added by turning the highest of the four bits over.
                            let half = (from[0] ^ 0x8) & 0xf;
                            *byte = if row % 8 < 4 { *byte & 0xf0 | half } else { *byte & 0x0f | half << 4 };
                        }
                        Packing::Quads { .. } => {
                            buffer[(row / 4 * panel + column) * 4 + row % 4] = from[0] ^ 0x80;
                        }
                        Packing::Panels { .. } | Packing::Pairs { .. } => {
                            let at = (row / beside * panel + column) * beside + row % beside;
                            buffer[at * elem_size..][..elem_size].copy_from_slice(from);
                        }
                    }
                }
            }
            out.write_all(&buffer)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{PANEL, Packing};

    fn pack(dims: &[usize], k_axes: &[usize], n_axis: usize) -> Vec<u8> {
        let bytes: Vec<u8> = (0..dims.iter().product::<usize>() as u8).collect();
        let mut out = Vec::new();
        Packing::Panels { k_axes: k_axes.to_vec(), n_axis }.write(&bytes, dims, 1, &mut out).unwrap();
        out
    }

    #[test]
    fn columns_are_padded_to_whole_panels() {
        // Rows are n, columns k: w[n][k] with 3 columns and 2 rows of k.
        let packed = pack(&[3, 2], &[1], 0);
        let p = PANEL as usize;
        assert_eq!(packed.len(), 2 * p);
        assert_eq!(&packed[..4], &[0, 2, 4, 0]);
        assert_eq!(&packed[p..p + 4], &[1, 3, 5, 0]);
    }

    fn packed(packing: &Packing, bytes: &[u8], dims: &[usize]) -> Vec<u8> {
        let mut out = Vec::new();
        packing.write(bytes, dims, 1, &mut out).unwrap();
        out
    }

    #[test]
    fn neighbors_lie_beside_each_other() {
        let p = PANEL as usize;
        // One row of n with six k.
        let bytes = [1, 2, 3, 0xff, 0xfe, 6];
        let pairs = packed(&Packing::Pairs { k_axes: vec![1], n_axis: 0 }, &bytes, &[1, 6]);
        assert_eq!(
            (pairs.len(), &pairs[..2], &pairs[2 * p..2 * p + 2]),
            (6 * p, &[1, 2][..], &[3, 0xff][..])
        );
        let quads = |bits| packed(&Packing::Quads { k_axes: vec![1], n_axis: 0, bits }, &bytes, &[1, 6]);
        let bytes = quads(8);
        assert_eq!((bytes.len(), &bytes[..4]), (8 * p, &[0x81, 0x82, 0x83, 0x7f][..]));
        assert_eq!(bytes[4 * p..4 * p + 5], [0x7e, 0x86, 0x80, 0x80, 0x80]);
        let halves = quads(4);
        assert_eq!((halves.len(), &halves[..5]), (4 * p, &[0x69, 0xea, 0x8b, 0x87, 0x88][..]));
    }

    #[test]
    fn a_second_panel_starts_where_the_first_ends() {
        let packed = pack(&[1, 33], &[0], 1);
        let p = PANEL as usize;
        assert_eq!(packed.len(), 2 * p);
        assert_eq!((packed[p - 1], packed[p], packed[p + 1]), (31, 32, 0));
    }

    #[test]
    fn several_axes_are_summed_row_major() {
        let packed = pack(&[2, 2, 2], &[0, 2], 1);
        let column = |n: usize| -> Vec<u8> { packed.chunks(PANEL as usize).map(|row| row[n]).collect() };
        assert_eq!((column(0), column(1)), (vec![0, 1, 4, 5], vec![2, 3, 6, 7]));
    }
}
