//! Products of matrices by cublasLt, a library of the vendor that is loaded if a session asks for it.
//!
//! The library takes column-major matrices, so it is told to compute the transpose: w times the rows of x as columns.
//! Algorithms are chosen when a session is opened, for powers of two of rows up to the most that it is planned for.
#![expect(unsafe_code, reason = "cublasLt is a C library")]

use std::ffi::{CString, c_void};
use std::mem::MaybeUninit;
use std::ptr::{from_ref, null_mut};
use std::sync::Arc;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use ssmc_artifact::{DType, Kernel, Product};

use super::GpuError;
use super::driver::Device;
use super::memory::DeviceMemory;
use crate::plan::Call;

/// The functions of the library that this runtime calls.
const SYMBOLS: [&str; 14] = [
    "cublasLtGetVersion",
    "cublasLtCreate",
    "cublasLtDestroy",
    "cublasLtMatmulDescCreate",
    "cublasLtMatmulDescSetAttribute",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatrixLayoutCreate",
    "cublasLtMatrixLayoutSetAttribute",
    "cublasLtMatrixLayoutDestroy",
    "cublasLtMatmulPreferenceCreate",
    "cublasLtMatmulPreferenceSetAttribute",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulAlgoGetHeuristic",
    "cublasLtMatmul",
];

/// Memory for the library, as much as the vendor recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

/// Addresses are multiples of so many bytes.
const ALIGN: u32 = 16;

/// How a matrix is taken: `CUBLAS_OP_N` and `CUBLAS_OP_T`.
const AS_IT_IS: i32 = 0;
const TURNED: i32 = 1;

/// Fewest rows that an algorithm is chosen for.
const FEWEST_ROWS: u64 = 64;

fn failed(what: impl Into<String>) -> impl FnOnce(CublasError) -> GpuError {
    let what = what.into();
    move |error| GpuError::Library { what, message: error.to_string() }
}

/// Whether a library that is there or not, with these functions, can be used.
fn check(is_present: bool, has: impl Fn(&str) -> bool) -> Result<(), GpuError> {
    if !is_present {
        return Err(GpuError::NoLibrary);
    }
    match SYMBOLS.into_iter().find(|symbol| !has(symbol)) {
        Some(symbol) => Err(GpuError::OldLibrary { symbol }),
        None => Ok(()),
    }
}

/// Loads the library.
fn find() -> Result<(), GpuError> {
    // SAFETY: asks for a library and looks names up in it; nothing is called before all are there.
    unsafe {
        let has = |symbol: &str| {
            let name = CString::new(symbol).expect("the names have no zeros");
            sys::culib().get::<*const c_void>(name.as_bytes_with_nul()).is_ok()
        };
        check(sys::is_culib_present(), has)
    }
}

/// What tells products apart, besides their rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    cols: u64,
    depth: u64,
    x_pitch: u64,
    w_is_deep: bool,
    /// Types of x and w, and of the others.
    read: DType,
    written: DType,
    has_addend: bool,
    has_bias: bool,
}

impl Kind {
    fn of(product: &Product, kernel: &Kernel) -> Kind {
        let dtype = |arg: u32| kernel.params[arg as usize].dtype();
        Kind {
            cols: product.cols,
            depth: product.depth,
            x_pitch: product.x_pitch,
            w_is_deep: product.w_is_deep,
            read: dtype(product.x),
            written: dtype(product.y),
            has_addend: product.addend.is_some(),
            has_bias: product.bias.is_some(),
        }
    }
}

/// A launch that the library does: which product, and where among the arguments its operands are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LibraryCall {
    product: usize,
    x: usize,
    /// Bytes from the start of the argument.
    x_offset: usize,
    w: usize,
    y: usize,
    addend: Option<usize>,
    bias: Option<usize>,
}

/// The library with the products of a session.
#[derive(Debug)]
pub(super) struct Library {
    products: Vec<Prepared>,
    workspace: DeviceMemory,
    version: usize,
    handle: Handle,
    device: Arc<Device>,
}

impl Library {
    pub(super) fn open(device: &Arc<Device>) -> Result<Self, GpuError> {
        find()?;
        device.enter()?;
        let handle = result::create_handle().map(Handle).map_err(failed("starting cublasLt"))?;
        // SAFETY: the function is there, as `find` says, and takes nothing.
        let version = unsafe { sys::cublasLtGetVersion() };
        let workspace = DeviceMemory::zeroed(device, "the workspace of cublasLt", WORKSPACE)?;
        Ok(Self { products: Vec::new(), workspace, version, handle, device: Arc::clone(device) })
    }

    /// The version as one number, such as 120403.
    pub(super) fn version(&self) -> usize {
        self.version
    }

    /// Chooses algorithms for a product of up to so many rows. `None` if the library has none.
    pub(super) fn prepare(
        &mut self,
        product: &Product,
        kernel: &Kernel,
        rows: u64,
    ) -> Result<Option<LibraryCall>, GpuError> {
        let kind = Kind::of(product, kernel);
        let at = match self.products.iter().position(|known| known.kind == kind && known.most >= rows) {
            Some(at) => at,
            None => {
                let Some(prepared) = Prepared::new(&self.handle, kind, rows)? else { return Ok(None) };
                self.products.push(prepared);
                self.products.len() - 1
            }
        };
        let place = |arg: u32| arg as usize;
        let x_offset = product.x_offset as usize * (kind.read.bits() / 8) as usize;
        Ok(Some(LibraryCall {
            product: at,
            x: place(product.x),
            x_offset,
            w: place(product.w),
            y: place(product.y),
            addend: product.addend.map(place),
            bias: product.bias.map(place),
        }))
    }

    /// What does a launch, in place of a kernel's name.
    pub(super) fn name(&self, call: LibraryCall) -> String {
        let Kind { cols, depth, read, written, has_addend, has_bias, .. } = self.products[call.product].kind;
        let more = |is: bool, what: &'static str| if is { what } else { "" };
        let (addend, bias) = (more(has_addend, "_addend"), more(has_bias, "_bias"));
        format!("cublaslt_{read}_{written}_{cols}x{depth}{addend}{bias}")
    }

    /// Starts a product.
    ///
    /// # Safety
    /// The buffers of `call` are live until it has ended.
    pub(super) unsafe fn multiply(
        &mut self,
        (place, rows): (LibraryCall, i64),
        call: &Call<'_>,
        name: impl Fn() -> String,
    ) -> Result<(), GpuError> {
        let what = |prepared: &Prepared| format!("{}: {rows} rows by cublasLt, {:?}", name(), prepared.kind);
        let prepared = &mut self.products[place.product];
        let rows = u64::try_from(rows).unwrap_or(0);
        if rows == 0 {
            return Ok(());
        }
        prepared.check(place, rows, call).map_err(|operand| GpuError::Library {
            what: what(prepared),
            message: format!("{operand} is larger than its buffer"),
        })?;
        let address = |arg: usize| call.bufs[arg].address();
        // SAFETY: the descriptors live as long as `self`; by the contract of this function and the check above, so does
        // the memory, which is as large as they say.
        let started = unsafe {
            prepared.start(
                (&self.handle, rows),
                [address(place.w), address(place.x) + place.x_offset as u64, address(place.y)],
                [place.addend.map(address), place.bias.map(address)],
                (&self.workspace, &self.device),
            )
        };
        started.map_err(|error| failed(what(&self.products[place.product]))(error))
    }
}

/// The library's own handle.
#[derive(Debug)]
struct Handle(sys::cublasLtHandle_t);

// SAFETY: the library may be called with a handle from any thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made in `open`. There is nobody to tell of a failure.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

/// Descriptions of a product and of its matrices, and the algorithms for it.
#[derive(Debug)]
struct Prepared {
    kind: Kind,
    /// Most rows.
    most: u64,
    /// Algorithms with the most rows that each is for, the fewest first.
    algorithms: Vec<(u64, sys::cublasLtMatmulAlgo_t)>,
    product: Description,
    w: Layout,
    x: Layout,
    y: Layout,
}

impl Prepared {
    fn new(handle: &Handle, kind: Kind, most: u64) -> Result<Option<Self>, GpuError> {
        let what = format!("describing {kind:?}");
        let most = most.max(1);
        let Some(mut prepared) = Self::describe(kind, most).map_err(failed(what))? else { return Ok(None) };
        let mut rows = FEWEST_ROWS.min(most);
        loop {
            let Some(algorithm) = prepared.choose(handle, rows)? else { return Ok(None) };
            prepared.algorithms.push((rows, algorithm));
            if rows == most {
                return Ok(Some(prepared));
            }
            rows = (2 * rows).min(most);
        }
    }

    fn describe(kind: Kind, most: u64) -> Result<Option<Self>, CublasError> {
        let (Some(read), Some(written)) = (data_type(kind.read), data_type(kind.written)) else {
            return Ok(None);
        };
        let product = Description::new()?;
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        product
            .set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &if kind.w_is_deep { AS_IT_IS } else { TURNED })?;
        product.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &AS_IT_IS)?;
        if kind.has_bias {
            let bias = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            product.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &bias)?;
        }
        let Kind { cols, depth, x_pitch, .. } = kind;
        let w = if kind.w_is_deep { [cols, depth] } else { [depth, cols] };
        Ok(Some(Self {
            kind,
            most,
            algorithms: Vec::new(),
            product,
            w: Layout::new(read, w, w[0])?,
            x: Layout::new(read, [depth, most], x_pitch)?,
            y: Layout::new(written, [cols, most], cols)?,
        }))
    }

    /// The library's choice for so many rows; `None` if it has none.
    fn choose(&mut self, handle: &Handle, rows: u64) -> Result<Option<sys::cublasLtMatmulAlgo_t>, GpuError> {
        let what = || format!("choosing an algorithm of {rows} rows for {:?}", self.kind);
        let preference = Preference::new().map_err(failed(what()))?;
        self.x.set_cols(rows).and_then(|()| self.y.set_cols(rows)).map_err(failed(what()))?;
        let mut found = MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::zeroed();
        let mut n = 0;
        // SAFETY: all descriptors live during the call; there is room for the one result that is asked for.
        let status = unsafe {
            let (product, y) = (self.product.0, self.y.0);
            let found = found.as_mut_ptr();
            sys::cublasLtMatmulAlgoGetHeuristic(
                handle.0,
                product,
                self.w.0,
                self.x.0,
                y,
                y,
                preference.0,
                1,
                found,
                &raw mut n,
            )
        };
        match status {
            sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED => return Ok(None),
            status => status.result().map_err(failed(what()))?,
        }
        if n == 0 {
            return Ok(None);
        }
        // SAFETY: a zeroed result is one, and the library filled it in.
        let found = unsafe { found.assume_init() };
        Ok((found.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS).then_some(found.algo))
    }

    /// The name of an operand that is larger than its buffer.
    fn check(&self, place: LibraryCall, rows: u64, call: &Call<'_>) -> Result<(), &'static str> {
        let Kind { cols, depth, x_pitch, read, written, .. } = self.kind;
        let fits = |arg: usize, offset: usize, n: Option<u64>, dtype: DType| {
            let len = n.and_then(|n| dtype.byte_len(n)).and_then(|len| len.checked_add(offset as u64));
            len.is_some_and(|len| len <= call.lengths[arg] as u64)
        };
        let x = (rows - 1).checked_mul(x_pitch).and_then(|n| n.checked_add(depth));
        let (w, y) = (cols.checked_mul(depth), cols.checked_mul(rows));
        let operands = [
            ("x", Some(place.x), place.x_offset, x, read),
            ("w", Some(place.w), 0, w, read),
            ("y", Some(place.y), 0, y, written),
            ("the addend", place.addend, 0, y, written),
            ("the bias", place.bias, 0, Some(cols), written),
        ];
        let large = operands
            .into_iter()
            .find(|(_, arg, offset, n, dtype)| arg.is_some_and(|arg| !fits(arg, *offset, *n, *dtype)));
        large.map_or(Ok(()), |(name, ..)| Err(name))
    }

    /// # Safety
    /// The addresses are of live device memory until the product has ended: w, x and y, addend and bias.
    unsafe fn start(
        &mut self,
        (handle, rows): (&Handle, u64),
        [w, x, y]: [u64; 3],
        [addend, bias]: [Option<u64>; 2],
        (workspace, device): (&DeviceMemory, &Device),
    ) -> Result<(), CublasError> {
        self.x.set_cols(rows)?;
        self.y.set_cols(rows)?;
        if let Some(bias) = bias {
            let pointer = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
            self.product.set(pointer, &bias)?;
        }
        let algorithm = self.algorithms.iter().find(|(most, _)| rows <= *most).or(self.algorithms.last());
        let (_, algorithm) = algorithm.expect("products without algorithms are not prepared");
        let (alpha, beta) = (1.0f32, if addend.is_some() { 1.0f32 } else { 0.0 });
        // SAFETY: by the contract of this function; descriptors, factors and workspace live during the call, and the
        // workspace until the device is given back.
        unsafe {
            result::matmul(
                handle.0,
                self.product.0,
                from_ref(&alpha).cast(),
                from_ref(&beta).cast(),
                w as *const c_void,
                self.w.0,
                x as *const c_void,
                self.x.0,
                addend.unwrap_or(y) as *const c_void,
                self.y.0,
                y as *mut c_void,
                self.y.0,
                algorithm,
                workspace.address(0) as *mut c_void,
                workspace.len(),
                device.stream().cast(),
            )
        }
    }
}

fn data_type(dtype: DType) -> Option<sys::cudaDataType> {
    match dtype {
        DType::F32 => Some(sys::cudaDataType::CUDA_R_32F),
        DType::F16 => Some(sys::cudaDataType::CUDA_R_16F),
        DType::Bf16 => Some(sys::cudaDataType::CUDA_R_16BF),
        _ => None,
    }
}

/// What is multiplied, and how.
#[derive(Debug)]
struct Description(sys::cublasLtMatmulDesc_t);

impl Description {
    fn new() -> Result<Self, CublasError> {
        let sums = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        result::create_matmul_desc(sums, sys::cudaDataType::CUDA_R_32F).map(Self)
    }

    fn set<T>(&self, attribute: sys::cublasLtMatmulDescAttributes_t, value: &T) -> Result<(), CublasError> {
        // SAFETY: the description lives as long as `self`; the library copies the value.
        unsafe {
            result::set_matmul_desc_attribute(self.0, attribute, from_ref(value).cast(), size_of::<T>())
        }
    }
}

/// A column-major matrix.
#[derive(Debug)]
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(elem: sys::cudaDataType, [rows, cols]: [u64; 2], pitch: u64) -> Result<Self, CublasError> {
        result::create_matrix_layout(elem, rows, cols, pitch as i64).map(Self)
    }

    fn set_cols(&mut self, cols: u64) -> Result<(), CublasError> {
        let attribute = sys::cublasLtMatrixLayoutAttribute_t::CUBLASLT_MATRIX_LAYOUT_COLS;
        // SAFETY: as for descriptions.
        unsafe {
            result::set_matrix_layout_attribute(self.0, attribute, from_ref(&cols).cast(), size_of::<u64>())
        }
    }
}

/// What algorithms may need.
#[derive(Debug)]
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new() -> Result<Self, CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let preference = result::create_matmul_pref().map(Self)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE)?;
        for operand in [
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            preference.set(operand, &ALIGN)?;
        }
        Ok(preference)
    }

    fn set<T>(
        &self,
        attribute: sys::cublasLtMatmulPreferenceAttributes_t,
        value: &T,
    ) -> Result<(), CublasError> {
        // SAFETY: as for descriptions.
        unsafe {
            result::set_matmul_pref_attribute(self.0, attribute, from_ref(value).cast(), size_of::<T>())
        }
    }
}

/// Values that are destroyed once, and may be used by one thread after another.
macro_rules! owned {
    ($($name:ident by $destroy:path;)*) => {$(
        // SAFETY: the library keeps nothing for the thread that made it.
        unsafe impl Send for $name {}
        // SAFETY: shared references only read.
        unsafe impl Sync for $name {}

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: made in `new` and destroyed nowhere else. There is nobody to tell of a failure.
                let _ = unsafe { $destroy(std::mem::replace(&mut self.0, null_mut())) };
            }
        }
    )*};
}

owned! {
    Description by result::destroy_matmul_desc;
    Layout by result::destroy_matrix_layout;
    Preference by result::destroy_matmul_pref;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let message = |present: bool, without: &str| {
            check(present, |symbol| symbol != without).err().map(|error| error.to_string())
        };
        assert_eq!(message(true, ""), None);
        let absent = message(false, "").unwrap();
        assert!(absent.contains("libcublasLt") && absent.contains("own"), "{absent}");
        let old = message(true, "cublasLtMatmul").unwrap();
        assert!(old.ends_with("it lacks cublasLtMatmul"), "{old}");
    }

    /// Asking for the library where it is not installed, as on most machines that test this, is no panic.
    #[test]
    fn asking_is_safe_without_the_library() {
        match find() {
            Ok(()) | Err(GpuError::NoLibrary | GpuError::OldLibrary { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}
