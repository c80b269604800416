//! What a GPU is asked to do for each operation, as plain data: kernels, grids, arguments, buffers.
//!
//! A [`Plan`] is made from shapes alone. Where there is a GPU (feature `cuda`) it is carried out there; the tests carry out the
//! same plans with the same kernel sources on the processor and compare with [`crate::nn`]'s own kernels. So everything but
//! the compiler and the device is tested without one.

mod attention;
mod convolution;
mod elementwise;
mod layout;
mod norm;
mod optimizer;
mod source;
mod spectral;

pub use attention::{AttentionPlan, attention_backward, attention_forward};
pub use convolution::{Convolution, convolution};
pub use elementwise::{
    ActivationKind, Added, Dropping, Resizing, activation_backward, activation_forward, add_to,
    dropout, geglu_backward, geglu_forward, nearest_backward, nearest_forward,
};
pub use layout::{swap_axes, transpose, unfold};
pub use norm::{
    GroupNormPlan, group_norm_backward, group_norm_forward, layer_norm_backward, layer_norm_forward,
};
pub use optimizer::{AdamWPlan, adamw, gradient_squares, update_scale};
pub use source::Source;
pub use spectral::{
    ClipSize, CosineAlong, LocalPlanSize, cosine_backward, cosine_forward, global_backward,
    global_forward, local_backward, local_forward,
};

use candle_core::{DType, Result};

/// An argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// The start of an input; a kernel reads it, or changes it where the plan says so.
    Input(usize),
    /// The start of one of the plan's buffers.
    Buffer(usize),
    /// A C `int`.
    I32(i32),
    /// A C `unsigned int`.
    U32(u32),
    /// A C `unsigned long long`.
    U64(u64),
    /// A C `double`.
    F64(f64),
}

/// One launch of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Where the kernel is written, and what of it is compiled.
    pub source: Source,
    /// The kernel's name in the compiled source.
    pub kernel: String,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory of a block.
    pub shared: u32,
    /// In the kernel's order.
    pub args: Vec<Arg>,
}

/// Memory that a plan needs; nothing is known of its contents before a launch has written it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Type of its numbers.
    pub dtype: DType,
    /// How many numbers.
    pub len: usize,
}

/// Launches in order, and the buffers they share: results first, then scratch memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Results and scratch memory.
    pub buffers: Vec<Buffer>,
    /// In order; each may read what those before it wrote.
    pub launches: Vec<Launch>,
}

impl Plan {
    fn buffer(&mut self, dtype: DType, len: usize) -> Arg {
        self.buffers.push(Buffer { dtype, len });
        Arg::Buffer(self.buffers.len() - 1)
    }

    /// The most shared memory that a block of it asks for, in bytes.
    #[must_use]
    pub fn most_shared(&self) -> u32 {
        self.launches
            .iter()
            .map(|launch| launch.shared)
            .max()
            .unwrap_or(0)
    }

    fn launch(&mut self, source: Source, kernel: &str, shape: Shape, args: Vec<Arg>) {
        let kernel = source.kernel(kernel);
        let Shape {
            grid,
            threads,
            shared,
        } = shape;
        self.launches.push(Launch {
            source,
            kernel,
            grid,
            threads,
            shared,
            args,
        });
    }
}

/// Grid, threads and shared memory of a launch.
#[derive(Clone, Copy)]
struct Shape {
    grid: [u32; 3],
    threads: u32,
    shared: u32,
}

/// Threads of a block where nothing speaks for another number.
const THREADS: u32 = 256;
/// Blocks after which a grid goes round again: enough to fill any GPU several times.
const MOST_BLOCKS: u32 = 16_384;

impl Shape {
    /// For `count` independent pieces of work, a thread each, going round where there are more.
    fn spread(count: u32) -> Self {
        Self {
            grid: [count.div_ceil(THREADS).clamp(1, MOST_BLOCKS), 1, 1],
            threads: THREADS,
            shared: 0,
        }
    }

    /// For `count` pieces of work, a warp each, no going round.
    fn warps(count: u32) -> Self {
        Self {
            grid: [count.div_ceil(THREADS / 32).max(1), 1, 1],
            threads: THREADS,
            shared: 0,
        }
    }
}

/// What numbers of a storage type are computed in by a kernel.
#[must_use]
pub fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 {
        DType::F64
    } else {
        DType::F32
    }
}

/// Whether rows of `width` numbers can move in pieces of 16 bytes, and how many numbers a piece then has; else one.
fn pack(dtype: DType, width: usize) -> (bool, usize) {
    let size = 16 / dtype.size_in_bytes();
    if width.is_multiple_of(size) {
        (true, size)
    } else {
        (false, 1)
    }
}

fn int(n: usize) -> Result<Arg> {
    match i32::try_from(n) {
        Ok(n) => Ok(Arg::I32(n)),
        Err(_) => candle_core::bail!("a size of {n} is too large for a GPU kernel"),
    }
}

fn word(n: usize) -> Result<u32> {
    match u32::try_from(n) {
        // Half the range: a grid that goes round must not go past the end of 32 bits.
        Ok(n) if n <= u32::MAX / 2 => Ok(n),
        _ => candle_core::bail!("{n} numbers are too many for one GPU kernel"),
    }
}

/// Blocks along y or z, of which a GPU allows fewer than along x.
fn side(n: usize) -> Result<u32> {
    match u32::try_from(n) {
        Ok(n) if n < 1 << 16 => Ok(n),
        _ => candle_core::bail!("{n} images are too many for one GPU kernel; give fewer at a time"),
    }
}

fn flag(on: bool) -> Arg {
    Arg::I32(i32::from(on))
}
