//! Where shared arrays lie.

use crate::kernel::{Array, Kernel};
use crate::target::GpuTarget;

/// Alignment of arrays.
pub(super) const ALIGN: u32 = 16;

/// Alignment of swizzled arrays: the order of their words repeats after so many bytes.
pub(super) const SWIZZLED_ALIGN: u32 = 1024;

pub(super) fn align(array: &Array) -> u32 {
    if array.swizzled { SWIZZLED_ALIGN } else { ALIGN }
}

/// Bytes that an array takes with the padding after it.
pub(super) fn bytes(array: &Array) -> u64 {
    array.bytes().next_multiple_of(ALIGN.into())
}

/// Where each shared array begins, and the end of all.
pub(super) fn places(kernel: &Kernel) -> (Vec<u64>, u64) {
    let mut places: Vec<u64> = Vec::with_capacity(kernel.shared.len());
    let mut end = 0u64;
    for array in &kernel.shared {
        if let Some(under) = array.over {
            places.push(places[under.0 as usize]);
            continue;
        }
        let start = end.next_multiple_of(align(array).into());
        places.push(start);
        end = start + bytes(array);
    }
    (places, end)
}

/// Shared memory that a launch of the kernel must ask for; 0 if it declares its own.
pub fn dynamic_shared_bytes(kernel: &Kernel, target: &GpuTarget) -> u64 {
    let (_, bytes) = places(kernel);
    if bytes > target.static_shared_bytes { bytes } else { 0 }
}
