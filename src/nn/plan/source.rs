//! The CUDA sources, and what of them is compiled for a launch.

use candle_core::DType;

/// A file of kernels and the types and sizes it is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    /// Name of the file, without its ending.
    pub file: &'static str,
    /// Storage type; the files of `f64` alone have none.
    pub dtype: Option<Stored>,
    /// Head width of attention kernels: a multiple of 16.
    pub head: Option<usize>,
    /// Most tokens of short attention kernels: 16, 32 or 64.
    pub tokens: Option<usize>,
}

/// A storage type of the kernels; unlike [`DType`] it has an order and a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stored {
    /// `double`
    F64,
    /// `float`
    F32,
    /// Half precision
    F16,
    /// The upper half of `float`
    Bf16,
}

impl Stored {
    /// The C++ type and the suffix of kernel names.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::F64 => ("double", "f64"),
            Self::F32 => ("float", "f32"),
            Self::F16 => ("f16", "f16"),
            Self::Bf16 => ("bf16", "bf16"),
        }
    }
}

macro_rules! files {
    ($($name:literal),*) => {
        /// Every file of kernels, and its text.
        const FILES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../cuda/kernels/", $name, ".cu")))),*];
    };
}
files!(
    "attention",
    "attention_short",
    "conv",
    "elementwise",
    "group_norm",
    "layer_norm",
    "layout",
    "optimizer",
    "random",
    "resize",
    "spectral_cosine",
    "spectral_global",
    "spectral_local"
);

/// What the files include, in the order in which each needs those before it.
const HEADERS: [(&str, &str); 5] = [
    ("hardware", include_str!("../cuda/kernels/hardware.cuh")),
    ("common", include_str!("../cuda/kernels/common.cuh")),
    ("image", include_str!("../cuda/kernels/image.cuh")),
    ("mma", include_str!("../cuda/kernels/mma.cuh")),
    ("attention", include_str!("../cuda/kernels/attention.cuh")),
];

impl Source {
    /// A file compiled for a storage type.
    pub(super) fn of(file: &'static str, dtype: DType) -> candle_core::Result<Self> {
        let stored = match dtype {
            DType::F64 => Stored::F64,
            DType::F32 => Stored::F32,
            DType::F16 => Stored::F16,
            DType::BF16 => Stored::Bf16,
            other => candle_core::bail!("{file}: no GPU kernel for {other:?}"),
        };
        Ok(Self {
            file,
            dtype: Some(stored),
            head: None,
            tokens: None,
        })
    }

    /// A file whose kernels are what they are.
    pub(super) fn plain(file: &'static str) -> Self {
        Self {
            file,
            dtype: None,
            head: None,
            tokens: None,
        }
    }

    /// The full name of a kernel as this source is compiled.
    pub(super) fn kernel(&self, name: &str) -> String {
        let mut full = name.to_owned();
        let sizes = [self.head, self.tokens];
        let suffix = self.dtype.map(|dtype| dtype.names().1.to_owned());
        for part in sizes.iter().flatten().map(usize::to_string).chain(suffix) {
            full.push('_');
            full.push_str(&part);
        }
        full
    }

    /// The names of all files of kernels.
    pub fn files() -> impl Iterator<Item = &'static str> {
        FILES.iter().map(|(name, _)| *name)
    }

    /// The whole program for a run-time compiler, which knows no folder of headers: headers first, compiled for this type and
    /// these sizes only.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Some(dtype) = self.dtype {
            let (name, suffix) = dtype.names();
            text += &format!("#define FOR_TYPES(X) X({name}, {suffix})\n");
        }
        if let Some(head) = self.head {
            text += &format!("#define FOR_HEADS(X, T, S) X(T, S, {head})\n");
        }
        if let Some(tokens) = self.tokens {
            text += &format!("#define FOR_LENGTHS(X, T, S, W) X(T, S, W, {tokens})\n");
        }
        let body = FILES.iter().find(|(name, _)| *name == self.file);
        let parts = HEADERS
            .iter()
            .chain(body)
            // Headers guard themselves; a file's own includes are already there.
            .flat_map(|(_, part)| part.lines());
        for line in parts.filter(|line| !line.starts_with("#include \"")) {
            text += line;
            text.push('\n');
        }
        text
    }
}
