//! Memory of a generation of a state: of this process, or of the device whose kernels read it.

#[cfg(feature = "cuda")]
use std::sync::Arc;

#[cfg(feature = "cuda")]
use crate::cuda::{Allocator, DeviceMemory};
use crate::error::RuntimeError;
use crate::memory::{AlignedBytes, MemoryLimit};

/// Where the states of a session lie.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Host,
    #[cfg(feature = "cuda")]
    Device(Allocator),
}

/// All tensors of a state after some call. A clone on a device shares the memory, which nobody writes as long as it is
/// shared.
#[derive(Clone, Debug)]
pub(crate) enum Store {
    Host(AlignedBytes),
    #[cfg(feature = "cuda")]
    Device(Arc<DeviceMemory>),
}

impl Place {
    /// Memory with zeros in it.
    pub(crate) fn allocate(&self, len: usize, limit: MemoryLimit) -> Result<Store, RuntimeError> {
        match self {
            Place::Host => limit.allocate("the state", len as u64).map(Store::Host),
            #[cfg(feature = "cuda")]
            Place::Device(allocator) => Ok(Store::Device(Arc::new(allocator.allocate(len)?))),
        }
    }

    /// Whether memory is allocated when it is needed first, rather than with the state.
    pub(crate) fn is_lazy(&self) -> bool {
        !matches!(self, Place::Host)
    }
}

impl Store {
    /// Whether kernels may write the memory: no clone of the state shares it.
    pub(crate) fn is_own(&self) -> bool {
        match self {
            Store::Host(_) => true,
            #[cfg(feature = "cuda")]
            Store::Device(memory) => Arc::strong_count(memory) == 1,
        }
    }

    /// Whether the memory lies where a session has its states.
    pub(crate) fn is_at(&self, place: &Place) -> bool {
        match self {
            Store::Host(_) => matches!(place, Place::Host),
            #[cfg(feature = "cuda")]
            Store::Device(_) => matches!(place, Place::Device(_)),
        }
    }

    /// A copy of all bytes.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, RuntimeError> {
        match self {
            Store::Host(memory) => Ok(memory.as_slice().to_vec()),
            #[cfg(feature = "cuda")]
            Store::Device(memory) => {
                let mut bytes = vec![0; memory.len()];
                memory.read(0, &mut bytes)?;
                Ok(bytes)
            }
        }
    }

    /// Copies `len` bytes from `offset` to byte `at` of `to`, which lies in the same place and is not shared.
    pub(crate) fn copy_to(
        &self,
        offset: usize,
        (to, at): (&mut Store, usize),
        len: usize,
    ) -> Result<(), RuntimeError> {
        match (self, to) {
            (Store::Host(from), Store::Host(to)) => {
                to.as_mut_slice()[at..at + len].copy_from_slice(&from.as_slice()[offset..offset + len]);
                Ok(())
            }
            #[cfg(feature = "cuda")]
            (Store::Device(from), Store::Device(to)) => Ok(from.copy_to(offset, (to, at), len)?),
            #[cfg(feature = "cuda")]
            _ => unreachable!("states of a session lie in one place"),
        }
    }

    /// Writes bytes from `offset` on; the memory is not shared.
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), RuntimeError> {
        match self {
            Store::Host(memory) => {
                memory.as_mut_slice()[offset..offset + bytes.len()].copy_from_slice(bytes);
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Store::Device(memory) => {
                let memory = Arc::get_mut(memory).expect("only memory that nobody shares is written");
                Ok(memory.write(offset, bytes)?)
            }
        }
    }
}
