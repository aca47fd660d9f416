//! How weights lie in the artefact.

use std::io::{self, Write};

/// Columns of a panel. One packing serves all CPU levels: two 512-bit or four 256-bit vectors of f32.
pub const PANEL: i64 = 32;

/// Order of a weight's elements.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Packing {
    /// `[ceil(n / PANEL)][k][PANEL]`: k runs over `k_axes` row-major, n over `n_axis`, missing columns are 0.
    #[expect(missing_docs, reason = "the names are the documentation")]
    Panels { k_axes: Vec<usize>, n_axis: usize },
}

impl Packing {
    /// The name in the manifest: `panels32(k=1;n=0)`.
    pub fn name(&self) -> String {
        let Packing::Panels { k_axes, n_axis } = self;
        let k: Vec<String> = k_axes.iter().map(usize::to_string).collect();
        format!("panels{PANEL}(k={};n={n_axis})", k.join(","))
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
        let Packing::Panels { k_axes, n_axis } = self;
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
        let (n, n_stride) = (dims[*n_axis], strides[*n_axis]);
        let panel = PANEL as usize;
        let mut buffer = vec![0u8; k_offsets.len() * panel * elem_size];
        for first in (0..n).step_by(panel) {
            buffer.fill(0);
            for column in 0..panel.min(n - first) {
                let base = (first + column) * n_stride;
                for (row, offset) in k_offsets.iter().enumerate() {
                    let to = (row * panel + column) * elem_size;
                    buffer[to..to + elem_size]
                        .copy_from_slice(&bytes[base + offset..base + offset + elem_size]);
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
