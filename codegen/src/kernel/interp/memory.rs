//! Memory of a launch, with shadow state that finds races and unwritten reads.

use super::*;

/// Who touched an element last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    block: u32,
    epoch: u32,
    thread: u32,
}

/// Differs from every thread, itself included: several threads, or a warp whose lanes' shares are unknown.
pub(super) const MANY: u32 = u32::MAX;

/// Differs from every block.
const MANY_BLOCKS: u32 = u32::MAX - 1;

const NEVER: Stamp = Stamp { block: u32::MAX, epoch: 0, thread: 0 };

impl Stamp {
    fn conflict(self, other: Stamp) -> Option<Conflict> {
        if self == NEVER {
            None
        } else if self.block != other.block || self.block == MANY_BLOCKS {
            Some(Conflict::Blocks)
        } else if self.epoch == other.epoch && (self.thread != other.thread || self.thread == MANY) {
            Some(Conflict::Threads)
        } else {
            None
        }
    }
}

enum Conflict {
    Blocks,
    Threads,
}

#[derive(Clone, Copy, Debug)]
struct Shadow {
    write: Stamp,
    read: Stamp,
    /// An async copy to it has not been waited for.
    pending: bool,
    /// Products of warp groups that read it and have not been waited for.
    readers: u16,
}

const UNTOUCHED: Shadow = Shadow { write: NEVER, read: NEVER, pending: false, readers: 0 };

/// Block, epoch (number of barriers passed) and thread of an access.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who {
    pub(super) block: u32,
    pub(super) epoch: u32,
    pub(super) thread: u32,
}

impl Who {
    fn stamp(self) -> Stamp {
        Stamp { block: self.block, epoch: self.epoch, thread: self.thread }
    }
}

/// Shadow of one buffer or shared array, one cell per granule of `1 << shift` bytes.
struct ShadowMap {
    shift: u32,
    cells: Vec<Shadow>,
}

impl ShadowMap {
    fn new(bytes: usize, granule: usize) -> ShadowMap {
        ShadowMap {
            shift: granule.trailing_zeros(),
            cells: vec![UNTOUCHED; bytes >> granule.trailing_zeros()],
        }
    }

    fn cells(&mut self, byte: usize, size: usize) -> &mut [Shadow] {
        &mut self.cells[byte >> self.shift..(byte + size) >> self.shift]
    }
}

/// What one parameter, shared or local array is.
struct View {
    name: String,
    size: usize,
    len: usize,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    Buffer { buffer: usize, byte_offset: usize },
    Shared(usize),
    Local(usize),
}

struct LocalArray {
    bytes: Vec<u8>,
    written: Vec<bool>,
}

/// Memory that a launch can reach.
pub(super) struct Memory<'b, 'a> {
    buffers: &'b mut [&'a mut [u8]],
    /// Shadows of the buffers that the kernel writes.
    buffer_shadows: Vec<Option<ShadowMap>>,
    /// Memory of the shared arrays that have their own.
    shared: Vec<(Vec<u8>, ShadowMap)>,
    /// All threads one after the other.
    locals: Vec<LocalArray>,
    params: Vec<View>,
    shared_views: Vec<View>,
    local_views: Vec<View>,
}

impl<'b, 'a> Memory<'b, 'a> {
    pub(super) fn new(kernel: &Kernel, args: &[Arg], buffers: &'b mut [&'a mut [u8]]) -> Memory<'b, 'a> {
        let mut granules = vec![None::<usize>; buffers.len()];
        for (param, arg) in kernel.params.iter().zip(args).filter(|(p, _)| p.access.writes()) {
            granules[arg.buffer] = Some(param.elem.size());
        }
        for (param, arg) in kernel.params.iter().zip(args) {
            if let Some(g) = &mut granules[arg.buffer] {
                *g = (*g).min(param.elem.size());
            }
        }
        let buffer_shadows =
            granules.iter().zip(&*buffers).map(|(g, b)| g.map(|g| ShadowMap::new(b.len(), g))).collect();
        let params = kernel.params.iter().zip(args);
        let params = params.map(|(p, arg)| View {
            name: p.name.clone(),
            size: p.elem.size(),
            len: (buffers[arg.buffer].len() - arg.byte_offset) / p.elem.size(),
            place: Place::Buffer { buffer: arg.buffer, byte_offset: arg.byte_offset },
        });
        let params = params.collect();
        let view =
            |a: &Array, place| View { name: a.name.clone(), size: a.elem.size(), len: a.len as usize, place };
        let bytes = |a: &Array| a.len as usize * a.elem.size();
        let n_threads = kernel.n_threads() as usize;
        Memory {
            buffer_shadows,
            shared: (0..)
                .zip(&kernel.shared)
                .map(|(i, a)| {
                    let others = kernel.shared.iter().filter(|other| other.over == Some(SharedId(i)));
                    let granule = others.fold(a.elem.size(), |granule, other| granule.min(other.elem.size()));
                    (vec![0; bytes(a)], ShadowMap::new(bytes(a), granule))
                })
                .collect(),
            locals: kernel
                .locals
                .iter()
                .map(|a| LocalArray {
                    bytes: vec![0; bytes(a) * n_threads],
                    written: vec![false; a.len as usize * n_threads],
                })
                .collect(),
            params,
            shared_views: kernel
                .shared
                .iter()
                .enumerate()
                .map(|(i, a)| view(a, Place::Shared(a.over.map_or(i, |under| under.0 as usize))))
                .collect(),
            local_views: kernel.locals.iter().enumerate().map(|(i, a)| view(a, Place::Local(i))).collect(),
            buffers,
        }
    }

    /// Forgets the contents of shared and local arrays.
    pub(super) fn start_block(&mut self) {
        for (_, shadow) in &mut self.shared {
            shadow.cells.fill(UNTOUCHED);
        }
        for local in &mut self.locals {
            local.written.fill(false);
        }
    }

    fn view(&self, mem: Mem) -> &View {
        match mem {
            Mem::Param(id) => &self.params[id.0 as usize],
            Mem::Shared(id) => &self.shared_views[id.0 as usize],
            Mem::Local(id) => &self.local_views[id.0 as usize],
        }
    }

    /// Checks that `n` elements from `index` exist.
    fn locate(&self, mem: Mem, index: i64, n: usize, thread: u32) -> Result<usize, RunFault> {
        let view = self.view(mem);
        let out_of_bounds =
            |index| RunFault::OutOfBounds { name: view.name.clone(), index, len: view.len, thread };
        let start = usize::try_from(index).map_err(|_| out_of_bounds(index))?;
        match start.checked_add(n) {
            Some(end) if end <= view.len => Ok(start),
            _ => Err(out_of_bounds(index.max(view.len as i64))),
        }
    }

    /// Reads `out.len()` consecutive elements, zero-extended.
    pub(super) fn read(&mut self, mem: Mem, index: i64, who: Who, out: &mut [u64]) -> Result<(), RunFault> {
        let start = self.locate(mem, index, out.len(), who.thread)?;
        let view = self.view(mem);
        let (size, place, n) = (view.size, view.place, out.len());
        let bytes = match place {
            Place::Buffer { buffer, byte_offset } => {
                let byte = byte_offset + start * size;
                if let Some(shadow) = &mut self.buffer_shadows[buffer] {
                    for i in 0..n {
                        for cell in shadow.cells(byte + i * size, size) {
                            read_cell(cell, who).map_err(|e| e.fault(&self.params, mem, start + i, who))?;
                        }
                    }
                }
                &self.buffers[buffer][byte..byte + n * size]
            }
            Place::Shared(idx) => {
                let (bytes, shadow) = &mut self.shared[idx];
                for i in 0..n {
                    for cell in shadow.cells((start + i) * size, size) {
                        let checked = match cell {
                            c if c.pending => Err(CellFault::Pending),
                            c if c.write == NEVER => Err(CellFault::Unwritten),
                            c => read_cell(c, who),
                        };
                        checked.map_err(|e| e.fault(&self.shared_views, mem, start + i, who))?;
                    }
                }
                &bytes[start * size..(start + n) * size]
            }
            Place::Local(idx) => {
                let array = &self.locals[idx];
                let start_all = who.thread as usize * self.local_views[idx].len + start;
                if let Some(i) = array.written[start_all..start_all + n].iter().position(|w| !w) {
                    return Err(CellFault::Unwritten.fault(&self.local_views, mem, start + i, who));
                }
                &array.bytes[start_all * size..(start_all + n) * size]
            }
        };
        decode(bytes, size, out);
        Ok(())
    }

    /// Writes consecutive elements.
    pub(super) fn write(&mut self, mem: Mem, index: i64, who: Who, values: &[u64]) -> Result<(), RunFault> {
        let start = self.locate(mem, index, values.len(), who.thread)?;
        let view = self.view(mem);
        let (size, place, n) = (view.size, view.place, values.len());
        let bytes = match place {
            Place::Buffer { buffer, byte_offset } => {
                let byte = byte_offset + start * size;
                let shadow =
                    self.buffer_shadows[buffer].as_mut().expect("the buffer of a written param has a shadow");
                for i in 0..n {
                    for cell in shadow.cells(byte + i * size, size) {
                        write_cell(cell, who).map_err(|e| e.fault(&self.params, mem, start + i, who))?;
                    }
                }
                &mut self.buffers[buffer][byte..byte + n * size]
            }
            Place::Shared(idx) => {
                let (bytes, shadow) = &mut self.shared[idx];
                for i in 0..n {
                    for cell in shadow.cells((start + i) * size, size) {
                        write_cell(cell, who)
                            .map_err(|e| e.fault(&self.shared_views, mem, start + i, who))?;
                    }
                }
                &mut bytes[start * size..(start + n) * size]
            }
            Place::Local(idx) => {
                let start_all = who.thread as usize * self.local_views[idx].len + start;
                let array = &mut self.locals[idx];
                array.written[start_all..start_all + n].fill(true);
                &mut array.bytes[start_all * size..(start_all + n) * size]
            }
        };
        encode(values, size, bytes);
        Ok(())
    }

    /// Marks shared elements as the target of an async copy under way.
    pub(super) fn begin_async(&mut self, mem: Mem, index: i64, n: usize, who: Who) -> Result<(), RunFault> {
        let start = self.locate(mem, index, n, who.thread)?;
        self.aligned(mem, index, n)?;
        let size = self.view(mem).size;
        if let Place::Shared(idx) = self.view(mem).place {
            for i in 0..n {
                for cell in self.shared[idx].1.cells((start + i) * size, size) {
                    write_cell(cell, who).map_err(|e| e.fault(&self.shared_views, mem, start + i, who))?;
                    cell.pending = true;
                }
            }
        }
        Ok(())
    }

    /// Lets an async copy arrive.
    pub(super) fn end_async(
        &mut self,
        mem: Mem,
        index: i64,
        who: Who,
        values: &[u64],
    ) -> Result<(), RunFault> {
        let start = self.locate(mem, index, values.len(), who.thread)?;
        let (size, place) = (self.view(mem).size, self.view(mem).place);
        if let Place::Shared(idx) = place {
            let cells = self.shared[idx].1.cells(start * size, values.len() * size);
            cells.iter_mut().for_each(|c| c.pending = false);
        }
        self.write(mem, index, who, values)
    }

    /// Reads elements that products of a warp group use until [`Memory::end_reading`].
    pub(super) fn begin_reading(
        &mut self,
        mem: Mem,
        index: i64,
        who: Who,
        out: &mut [u64],
    ) -> Result<(), RunFault> {
        self.read(mem, index, who, out)?;
        self.readers(mem, index, out.len(), |cell| cell.readers += 1);
        Ok(())
    }

    /// Ends what [`Memory::begin_reading`] began; later writes need a barrier after this.
    pub(super) fn end_reading(&mut self, mem: Mem, index: i64, n: usize, who: Who) -> Result<(), RunFault> {
        self.readers(mem, index, n, |cell| cell.readers -= 1);
        self.read(mem, index, who, &mut vec![0; n])
    }

    /// Changes the shadows of shared elements that exist.
    fn readers(&mut self, mem: Mem, index: i64, n: usize, f: impl FnMut(&mut Shadow)) {
        let (size, place) = (self.view(mem).size, self.view(mem).place);
        if let Place::Shared(idx) = place {
            self.shared[idx].1.cells(index as usize * size, n * size).iter_mut().for_each(f);
        }
    }

    /// Checks that `n` elements at `index` are aligned to their total size, counted from the array's start.
    pub(super) fn aligned(&self, mem: Mem, index: i64, n: usize) -> Result<(), RunFault> {
        let view = self.view(mem);
        let offset = match view.place {
            Place::Buffer { byte_offset, .. } => byte_offset,
            Place::Shared(_) | Place::Local(_) => 0,
        };
        let byte = offset as i64 + index * view.size as i64;
        if byte.rem_euclid((n * view.size) as i64) != 0 {
            return Err(RunFault::Misaligned { name: view.name.clone(), index });
        }
        Ok(())
    }
}

enum CellFault {
    Unwritten,
    Pending,
    Reading,
    Conflict(Conflict),
}

impl CellFault {
    fn fault(self, views: &[View], mem: Mem, index: usize, who: Who) -> RunFault {
        let (Mem::Param(ParamId(i)) | Mem::Shared(SharedId(i)) | Mem::Local(LocalId(i))) = mem;
        let name = views[i as usize].name.clone();
        match self {
            CellFault::Unwritten => RunFault::Unwritten { name, index, thread: who.thread },
            CellFault::Pending => RunFault::AsyncPending { name, index, thread: who.thread },
            CellFault::Reading => RunFault::GroupReading { name, index },
            CellFault::Conflict(Conflict::Blocks) => RunFault::BlockRace { name, index },
            CellFault::Conflict(Conflict::Threads) => RunFault::ThreadRace { name, index },
        }
    }
}

fn read_cell(cell: &mut Shadow, who: Who) -> Result<(), CellFault> {
    let stamp = who.stamp();
    if let Some(c) = cell.write.conflict(stamp) {
        return Err(CellFault::Conflict(c));
    }
    cell.read = match cell.read {
        NEVER => stamp,
        r if r.block != stamp.block => Stamp { block: MANY_BLOCKS, ..stamp },
        r if r.epoch == stamp.epoch && r.thread != stamp.thread => Stamp { thread: MANY, ..stamp },
        _ => stamp,
    };
    Ok(())
}

fn write_cell(cell: &mut Shadow, who: Who) -> Result<(), CellFault> {
    let stamp = who.stamp();
    if cell.pending {
        return Err(CellFault::Pending);
    }
    if cell.readers > 0 {
        return Err(CellFault::Reading);
    }
    if let Some(c) = cell.write.conflict(stamp).or_else(|| cell.read.conflict(stamp)) {
        return Err(CellFault::Conflict(c));
    }
    cell.write = stamp;
    Ok(())
}

fn decode(bytes: &[u8], size: usize, out: &mut [u64]) {
    match size {
        1 => out.iter_mut().zip(bytes).for_each(|(o, &b)| *o = b.into()),
        2 => decode_as(bytes, out, |b: [u8; 2]| u16::from_le_bytes(b).into()),
        4 => decode_as(bytes, out, |b: [u8; 4]| u32::from_le_bytes(b).into()),
        _ => decode_as(bytes, out, u64::from_le_bytes),
    }
}

fn decode_as<const N: usize>(bytes: &[u8], out: &mut [u64], f: impl Fn([u8; N]) -> u64) {
    for (o, b) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *o = f(*b);
    }
}

fn encode(values: &[u64], size: usize, bytes: &mut [u8]) {
    match size {
        1 => bytes.iter_mut().zip(values).for_each(|(b, &v)| *b = v as u8),
        2 => encode_as(values, bytes, |v| (v as u16).to_le_bytes()),
        4 => encode_as(values, bytes, |v| (v as u32).to_le_bytes()),
        _ => encode_as(values, bytes, u64::to_le_bytes),
    }
}

fn encode_as<const N: usize>(values: &[u64], bytes: &mut [u8], f: impl Fn(u64) -> [u8; N]) {
    for (b, &v) in bytes.as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *b = f(v);
    }
}
