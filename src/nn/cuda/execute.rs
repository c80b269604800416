//! Carrying out plans: compiling kernels when they are first needed, and launching them on candle's stream.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublas::{result::gemm_ex, sys as blas};
use candle_core::cuda_backend::cudarc::driver::sys::{
    CUdevice_attribute, CUfunction_attribute, CUmemPool_attribute, CUmemoryPool, CUresult,
    cuDeviceGetDefaultMemPool, cuMemPoolGetAttribute, cuMemPoolSetAttribute,
};
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, LaunchConfig,
    PushKernelArg,
};
use candle_core::cuda_backend::cudarc::nvrtc::{
    CompileError, CompileOptions, Ptx, compile_ptx_with_opts,
};
use candle_core::cuda_backend::{CudaDType, CudaStorageSlice};
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Result, Shape, Tensor};
use half::{bf16, f16};

use super::planned::{cuda, tensor};
use crate::nn::plan::{Arg, Buffer, Launch, Plan, Source};

/// What the kernels are compiled for; the driver makes it fit every later GPU.
const ARCHITECTURE: &str = "compute_80";
const LEAST_CAPABILITY: (i32, i32) = (8, 0);
/// Shared memory that a block may have without being asked, in bytes.
const USUAL_SHARED: u32 = 48 << 10;

/// Whether the kernels run on this GPU; asked once a device.
pub fn is_capable(device: &CudaDevice) -> bool {
    static KNOWN: LazyLock<Mutex<HashMap<usize, bool>>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let stream = device.cuda_stream();
    *known.entry(stream.context().ordinal()).or_insert_with(|| {
        let capability = stream.context().compute_capability();
        let capable = capability.is_ok_and(|capability| capability >= LEAST_CAPABILITY);
        if capable {
            keep_freed_memory(stream.context());
        }
        capable
    })
}

/// Shared memory that a block can ask for on this GPU, in bytes; asked once a device.
pub fn most_shared(device: &CudaDevice) -> u32 {
    static KNOWN: LazyLock<Mutex<HashMap<usize, u32>>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let stream = device.cuda_stream();
    *known.entry(stream.context().ordinal()).or_insert_with(|| {
        let most = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let most = stream.context().attribute(most);
        most.ok()
            .and_then(|bytes| u32::try_from(bytes).ok())
            .unwrap_or(USUAL_SHARED)
    })
}

/// Lets the driver keep freed memory for the next step instead of unmapping it whenever the host waits. Where a driver cannot,
/// it is only slower.
fn keep_freed_memory(context: &CudaContext) {
    if let Some(pool) = pool(context) {
        set(
            pool,
            CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            u64::MAX,
        );
    }
}

/// Where a device's memory comes from, where its driver has pools.
#[expect(
    unsafe_code,
    reason = "the driver's memory pool, which cudarc does not wrap"
)]
fn pool(context: &CudaContext) -> Option<CUmemoryPool> {
    let mut pool = std::ptr::null_mut();
    // SAFETY: the call writes the variable above only; the pool is the device's own and lives as long as it.
    let found = unsafe { cuDeviceGetDefaultMemPool(&raw mut pool, context.cu_device()) };
    (found == CUresult::CUDA_SUCCESS).then_some(pool)
}

#[expect(
    unsafe_code,
    reason = "a setting of the driver's memory pool, which cudarc does not wrap"
)]
fn set(pool: CUmemoryPool, what: CUmemPool_attribute, mut value: u64) {
    // SAFETY: the attributes used here are 64-bit words, and the call reads this one only.
    let _ = unsafe { cuMemPoolSetAttribute(pool, what, (&raw mut value).cast()) };
}

/// Bytes in use on the device, and the most since the last call.
#[expect(
    unsafe_code,
    reason = "a number of the driver's memory pool, which cudarc does not wrap"
)]
pub fn memory(device: &CudaDevice) -> Option<(u64, u64)> {
    let pool = pool(device.cuda_stream().context())?;
    let read = |what| {
        let mut value = 0u64;
        // SAFETY: both attributes are 64-bit words, and the call writes this one only.
        let read = unsafe { cuMemPoolGetAttribute(pool, what, (&raw mut value).cast()) };
        (read == CUresult::CUDA_SUCCESS).then_some(value)
    };
    let used = read(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
    let most = read(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)?;
    set(pool, CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, 0);
    Some((used, most))
}

/// The buffers of a plan that is given these inputs, contiguous and each beginning at a multiple of 16 bytes.
pub fn execute(plan: &Plan, inputs: &[(&CudaStorage, &Layout)]) -> Result<Vec<CudaStorage>> {
    let Some((first, _)) = inputs.first() else {
        candle_core::bail!("a plan without inputs has no device");
    };
    let device = first.device().clone();
    let buffers: Vec<CudaStorage> = plan
        .buffers
        .iter()
        .map(|buffer| allocate(&device, *buffer))
        .collect::<Result<_>>()?;
    for one in &plan.launches {
        launch(&device, one, inputs, &buffers)?;
    }
    Ok(buffers)
}

#[expect(
    unsafe_code,
    reason = "memory that the plan's launches fill before anything reads it"
)]
pub fn allocate(device: &CudaDevice, buffer: Buffer) -> Result<CudaStorage> {
    fn typed<T: CudaDType + candle_core::cuda_backend::cudarc::driver::DeviceRepr>(
        device: &CudaDevice,
        len: usize,
    ) -> Result<CudaStorage> {
        // SAFETY: the emulator's tests run every plan on memory full of NaN.
        let slice = unsafe { device.alloc::<T>(len)? };
        Ok(CudaStorage::wrap_cuda_slice(slice, device.clone()))
    }
    match buffer.dtype {
        DType::F64 => typed::<f64>(device, buffer.len),
        DType::F32 => typed::<f32>(device, buffer.len),
        DType::F16 => typed::<f16>(device, buffer.len),
        DType::BF16 => typed::<bf16>(device, buffer.len),
        other => candle_core::bail!("no GPU kernel takes {other:?}"),
    }
}

/// An argument where the driver can read it.
enum Value {
    Pointer(u64),
    I32(i32),
    U32(u32),
    U64(u64),
    F64(f64),
}

#[expect(unsafe_code, reason = "kernels are launched with what their plans say")]
fn launch(
    device: &CudaDevice,
    launch: &Launch,
    inputs: &[(&CudaStorage, &Layout)],
    buffers: &[CudaStorage],
) -> Result<()> {
    let function = function(device, launch)?;
    let stream = device.cuda_stream();
    let mut values = Vec::with_capacity(launch.args.len());
    for arg in &launch.args {
        values.push(match *arg {
            Arg::Input(i) => match inputs.get(i) {
                Some((storage, layout)) => Value::Pointer(address(storage, layout, &stream)?),
                None => candle_core::bail!("{}: there is no input {i}", launch.kernel),
            },
            Arg::Buffer(i) => {
                let whole = Layout::contiguous(0);
                Value::Pointer(address(&buffers[i], &whole, &stream)?)
            }
            Arg::I32(n) => Value::I32(n),
            Arg::U32(n) => Value::U32(n),
            Arg::U64(n) => Value::U64(n),
            Arg::F64(n) => Value::F64(n),
        });
    }
    let mut builder = stream.launch_builder(&function);
    for value in &values {
        match value {
            Value::Pointer(n) | Value::U64(n) => builder.arg(n),
            Value::I32(n) => builder.arg(n),
            Value::U32(n) => builder.arg(n),
            Value::F64(n) => builder.arg(n),
        };
    }
    let [x, y, z] = launch.grid;
    let config = LaunchConfig {
        grid_dim: (x, y, z),
        block_dim: (launch.threads, 1, 1),
        shared_mem_bytes: launch.shared,
    };
    // SAFETY: types and number of the arguments are the kernel's and no kernel leaves its buffers: the emulator checks both
    // for every plan. All memory was allocated on this stream or is waited for by `address`.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

/// The kernel of a launch on this device, loaded once.
fn function(device: &CudaDevice, launch: &Launch) -> Result<CudaFunction> {
    struct Loaded {
        module: Arc<CudaModule>,
        functions: HashMap<String, CudaFunction>,
    }
    static KNOWN: LazyLock<Mutex<HashMap<(usize, Source), Loaded>>> = LazyLock::new(Mutex::default);
    // Not by the device's id, which every opening of the same card gets anew.
    let key = (device.cuda_stream().context().ordinal(), launch.source);
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known()
        .get(&key)
        .and_then(|loaded| loaded.functions.get(&launch.kernel))
    {
        return Ok(found.clone());
    }
    let text = compiled(launch.source)?;
    let mut known = known();
    let loaded = match known.entry(key) {
        Entry::Occupied(there) => there.into_mut(),
        Entry::Vacant(place) => {
            let ptx = Ptx::from_src(text.as_str());
            let module = device.cuda_stream().context().load_module(ptx).w()?;
            let functions = HashMap::new();
            place.insert(Loaded { module, functions })
        }
    };
    let function = loaded.module.load_function(&launch.kernel).w()?;
    if launch.shared > USUAL_SHARED {
        // A kernel of one source always asks for the same amount.
        let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(most, launch.shared as i32).w()?;
    }
    loaded
        .functions
        .insert(launch.kernel.clone(), function.clone());
    Ok(function)
}

/// Where a tensor begins on the device. The stream waits for whoever writes it.
fn address(storage: &CudaStorage, layout: &Layout, stream: &CudaStream) -> Result<u64> {
    fn of<T>(slice: &CudaSlice<T>, stream: &CudaStream, offset: usize) -> u64 {
        slice.device_ptr(stream).0 + (offset * size_of::<T>()) as u64
    }
    let offset = layout.start_offset();
    let address = match &storage.slice {
        CudaStorageSlice::F64(slice) => of(slice, stream, offset),
        CudaStorageSlice::F32(slice) => of(slice, stream, offset),
        CudaStorageSlice::F16(slice) => of(slice, stream, offset),
        CudaStorageSlice::BF16(slice) => of(slice, stream, offset),
        _ => candle_core::bail!("no GPU kernel takes {:?}", storage.dtype()),
    };
    if !address.is_multiple_of(16) || !layout.is_contiguous() {
        candle_core::bail!("a GPU kernel needs contiguous memory from a multiple of 16 bytes on");
    }
    Ok(address)
}

/// A source as the driver takes it, compiled once a process.
fn compiled(source: Source) -> Result<Arc<String>> {
    type Slot = Arc<OnceLock<std::result::Result<Arc<String>, String>>>;
    static KNOWN: LazyLock<Mutex<BTreeMap<Source, Slot>>> = LazyLock::new(Mutex::default);
    let slot = {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(source).or_default().clone()
    };
    let made = slot.get_or_init(|| {
        let options = CompileOptions {
            arch: Some(ARCHITECTURE),
            name: Some(format!("{}.cu", source.file)),
            options: vec!["--std=c++17".to_owned()],
            ..CompileOptions::default()
        };
        match compile_ptx_with_opts(source.text(), options) {
            Ok(ptx) => Ok(Arc::new(ptx.to_src())),
            Err(CompileError::CompileError { log, .. }) => Err(log.to_string_lossy().into_owned()),
            Err(other) => Err(format!("{other:?}")),
        }
    });
    match made {
        Ok(text) => Ok(text.clone()),
        Err(said) => candle_core::bail!(
            "the GPU kernels of {} could not be compiled: {said}",
            source.file
        ),
    }
}

/// A product `c [m, n] = a [m, k] b [k, n]` of 16-bit numbers, contiguous, with sums in f32.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// The first row of `c` that is written: `c` may have more rows than `m`.
    pub first_row: usize,
}

/// Writes a product's rows into `c`.
#[expect(
    unsafe_code,
    reason = "a product that candle does not offer: its result goes into a part of a buffer"
)]
pub fn multiply_into(
    c: &CudaStorage,
    (a, a_layout): (&CudaStorage, &Layout),
    (b, b_layout): (&CudaStorage, &Layout),
    product: Product,
) -> Result<()> {
    let Product { m, n, k, first_row } = product;
    let kind = match c.dtype() {
        DType::F16 => blas::cudaDataType::CUDA_R_16F,
        DType::BF16 => blas::cudaDataType::CUDA_R_16BF,
        other => candle_core::bail!("no product of parts of {other:?}"),
    };
    let device = c.device();
    let stream = device.cuda_stream();
    let (one, zero) = (1f32, 0f32);
    let a = address(a, a_layout, &stream)?;
    let b = address(b, b_layout, &stream)?;
    let part = Layout::contiguous_with_offset((m, n), first_row * n);
    let c = address(c, &part, &stream)?;
    let int = |n: usize| i32::try_from(n).map_err(candle_core::Error::wrap);
    // SAFETY: cuBLAS counts by columns: a matrix by rows is its transpose there. All three lie on this stream's device and are as
    // long as the sizes say.
    unsafe {
        gemm_ex(
            *device.cublas_handle().handle(),
            blas::cublasOperation_t::CUBLAS_OP_N,
            blas::cublasOperation_t::CUBLAS_OP_N,
            int(n)?,
            int(m)?,
            int(k)?,
            (&raw const one).cast(),
            b as *const _,
            kind,
            int(n)?,
            a as *const _,
            kind,
            int(k)?,
            (&raw const zero).cast(),
            c as *mut _,
            kind,
            int(n)?,
            blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .map_err(candle_core::Error::wrap)
}

/// `gradᵀ x` for `grad [rows, o]` and `x [rows, i]`, summed and kept in f32 (f64 for f64): `[o, i]`.
#[expect(
    unsafe_code,
    reason = "a product that candle does not offer: 16-bit factors, a 32-bit result"
)]
pub fn weight_gradient(grad: &Tensor, x: &Tensor) -> Result<Tensor> {
    let ((rows, out), inp) = (grad.dims2()?, x.dim(1)?);
    let shape = Shape::from((out, inp));
    let (grad, grad_layout) = grad.storage_and_layout();
    let (x, x_layout) = x.storage_and_layout();
    let (grad, x) = (cuda(&grad)?, cuda(&x)?);
    let (kind, wide) = match x.dtype() {
        DType::F64 => (blas::cudaDataType::CUDA_R_64F, DType::F64),
        DType::F32 => (blas::cudaDataType::CUDA_R_32F, DType::F32),
        DType::F16 => (blas::cudaDataType::CUDA_R_16F, DType::F32),
        DType::BF16 => (blas::cudaDataType::CUDA_R_16BF, DType::F32),
        other => candle_core::bail!("linear: no product of {other:?}"),
    };
    let (wide_kind, compute) = match wide {
        DType::F64 => (
            blas::cudaDataType::CUDA_R_64F,
            blas::cublasComputeType_t::CUBLAS_COMPUTE_64F,
        ),
        _ => (
            blas::cudaDataType::CUDA_R_32F,
            blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        ),
    };
    let device = x.device();
    let result = allocate(
        device,
        Buffer {
            dtype: wide,
            len: out * inp,
        },
    )?;
    let stream = device.cuda_stream();
    let (one, zero) = ((1f32, 1f64), (0f32, 0f64));
    let (alpha, beta) = if wide == DType::F64 {
        ((&raw const one.1).cast(), (&raw const zero.1).cast())
    } else {
        ((&raw const one.0).cast(), (&raw const zero.0).cast())
    };
    let pointer = |storage: &CudaStorage, layout: &Layout| address(storage, layout, &stream);
    let (a, b) = (pointer(x, x_layout)?, pointer(grad, grad_layout)?);
    let c = pointer(&result, &Layout::contiguous(0))?;
    let int = |n: usize| i32::try_from(n).map_err(candle_core::Error::wrap);
    // SAFETY: cuBLAS counts by columns: [rows, i] by rows is i by rows there. All three lie on this stream's device and are as
    // long as the sizes say.
    unsafe {
        gemm_ex(
            *device.cublas_handle().handle(),
            blas::cublasOperation_t::CUBLAS_OP_N,
            blas::cublasOperation_t::CUBLAS_OP_T,
            int(inp)?,
            int(out)?,
            int(rows)?,
            alpha,
            a as *const _,
            kind,
            int(inp)?,
            b as *const _,
            kind,
            int(out)?,
            beta,
            c as *mut _,
            wide_kind,
            int(inp)?,
            compute,
            blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .map_err(candle_core::Error::wrap)?;
    Ok(tensor(result, shape))
}
