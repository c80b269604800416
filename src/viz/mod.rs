//! Pictures of numbers on the GPU: wgpu pipelines and the Rust mirrors of their structures. Sees plain data only.
