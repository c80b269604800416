//! A device, and the few things every stage does with it: make a pipeline, fill a buffer, run, read back.

use std::sync::Arc;
use std::time::Duration;

use bytemuck::Pod;
use wgpu::util::DeviceExt as _;

use super::shader::{ShaderError, resolve};

/// Longest wait for a result. A healthy device answers in milliseconds; a lost one might never.
const PATIENCE: Duration = Duration::from_secs(20);
/// Storage buffers that the largest stage binds.
const STORAGE_BUFFERS: u32 = 4;

/// Why numbers do not come back from a device.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// No adapter that runs compute shaders.
    #[error("no graphics adapter that runs compute shaders was found")]
    NoAdapter,
    /// The device was not given.
    #[error("the graphics device could not be opened")]
    NoDevice(#[from] wgpu::RequestDeviceError),
    /// A shader names a file that is not there.
    #[error("a shader could not be put together")]
    Shader(#[from] ShaderError),
    /// The device refused to make what was asked: out of memory, or a limit.
    #[error("the graphics device refused: {0}")]
    Refused(String),
    /// The result could not be read.
    #[error("the graphics device gave no result: {0}")]
    NoResult(String),
}

/// A device that runs compute shaders. Clones share it.
#[derive(Clone, Debug)]
pub struct Gpu {
    adapter: wgpu::Adapter,
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    info: Arc<wgpu::AdapterInfo>,
}

impl Gpu {
    /// The device of a window, if its adapter and its limits allow the stages of this module.
    pub fn of(adapter: &wgpu::Adapter, device: &wgpu::Device, queue: &wgpu::Queue) -> Option<Self> {
        let flags = adapter.get_downlevel_capabilities().flags;
        let limits = device.limits();
        let can = flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS)
            && flags.contains(wgpu::DownlevelFlags::FRAGMENT_STORAGE)
            && limits.max_storage_buffers_per_shader_stage >= STORAGE_BUFFERS
            && limits.max_compute_invocations_per_workgroup >= 256;
        can.then(|| Self {
            adapter: adapter.clone(),
            device: device.clone(),
            queue: queue.clone(),
            info: Arc::new(adapter.get_info()),
        })
    }

    /// Another device of the same adapter. What runs on a thread of its own must have one: a window that is resized
    /// waits until its device is idle, and fails if somebody else keeps it busy.
    ///
    /// # Errors
    /// `NoDevice` if the adapter gives no second one.
    pub fn second(&self) -> Result<Self, GpuError> {
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("instruments"),
            required_limits: self.device.limits(),
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = pollster::block_on(self.adapter.request_device(&descriptor))?;
        Ok(Self {
            adapter: self.adapter.clone(),
            device,
            queue,
            info: self.info.clone(),
        })
    }

    /// A device without a window, a software one if there is one: it is the same everywhere, which tests need.
    ///
    /// # Errors
    /// `NoAdapter` and `NoDevice`.
    pub fn headless() -> Result<Self, GpuError> {
        let instance =
            wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
        let mut adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
        adapters.sort_by_key(|a| a.get_info().device_type != wgpu::DeviceType::Cpu);
        for adapter in adapters {
            let descriptor = wgpu::DeviceDescriptor::default();
            let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))?;
            if let Some(gpu) = Self::of(&adapter, &device, &queue) {
                return Ok(gpu);
            }
        }
        Err(GpuError::NoAdapter)
    }

    /// The adapter's name and the interface it is reached by.
    pub fn name(&self) -> String {
        format!("{} ({})", self.info.name, self.info.backend)
    }

    /// Whether the adapter is the processor in disguise.
    pub fn is_software(&self) -> bool {
        self.info.device_type == wgpu::DeviceType::Cpu
    }

    /// Most bytes that one storage buffer may hold.
    pub fn max_storage_bytes(&self) -> u64 {
        let limits = self.device.limits();
        limits
            .max_storage_buffer_binding_size
            .min(limits.max_buffer_size)
    }

    /// What `make` makes, or why the device refused it.
    pub(super) fn checked<T>(&self, make: impl FnOnce() -> T) -> Result<T, GpuError> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let rules = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let made = make();
        let problems = [
            pollster::block_on(rules.pop()),
            pollster::block_on(memory.pop()),
        ];
        match problems.into_iter().flatten().next() {
            None => Ok(made),
            Some(problem) => Err(GpuError::Refused(problem.to_string())),
        }
    }

    /// A buffer of `values` numbers of 4 bytes, all zero.
    pub(super) fn zeros(&self, label: &str, values: usize) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: (values.max(1) * 4) as u64,
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }

    /// A storage buffer with these contents.
    pub fn upload<T: Pod>(&self, label: &str, values: &[T]) -> wgpu::Buffer {
        self.device
            .create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: Some(label),
                contents: bytemuck::cast_slice(values),
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::COPY_SRC
                    | wgpu::BufferUsages::COPY_DST,
            })
    }

    /// A uniform buffer with these contents.
    pub(super) fn uniform<T: Pod>(&self, value: &T) -> wgpu::Buffer {
        self.device
            .create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: Some("parameters"),
                contents: bytemuck::bytes_of(value),
                usage: wgpu::BufferUsages::UNIFORM,
            })
    }

    pub(super) fn module(&self, name: &str) -> Result<wgpu::ShaderModule, GpuError> {
        let source = wgpu::ShaderSource::Wgsl(resolve(name)?.into());
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(name),
            source,
        };
        Ok(self.device.create_shader_module(descriptor))
    }

    /// The pipeline of one compute file.
    pub(super) fn stage(&self, name: &'static str) -> Result<Stage, GpuError> {
        let module = self.module(name)?;
        let pipeline = self
            .device
            .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(name),
                layout: None,
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                cache: None,
            });
        Ok(Stage { pipeline, name })
    }

    pub(super) fn encoder(&self) -> wgpu::CommandEncoder {
        self.device
            .create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    /// Waits for a buffer's contents. Never call it on the thread that draws the window.
    ///
    /// # Errors
    /// `NoResult` if the device is lost or does not answer in time.
    pub fn read<T: Pod>(&self, buffer: &wgpu::Buffer) -> Result<Vec<T>, GpuError> {
        let no_result = |what: &dyn std::fmt::Display| GpuError::NoResult(what.to_string());
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read back"),
            size: buffer.size(),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.encoder();
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
        let submission = self.queue.submit([encoder.finish()]);
        let (sender, receiver) = crossbeam::channel::bounded(1);
        staging.map_async(wgpu::MapMode::Read, .., move |mapped| {
            // The receiver is gone only where the wait below has failed and told why.
            sender.send(mapped).ok();
        });
        self.device
            .poll(wgpu::PollType::Wait {
                submission_index: Some(submission),
                timeout: Some(PATIENCE),
            })
            .map_err(|e| no_result(&e))?;
        match receiver.recv_timeout(PATIENCE) {
            Ok(mapped) => mapped.map_err(|e| no_result(&e))?,
            Err(late) => return Err(no_result(&late)),
        }
        let view = staging.get_mapped_range(..).map_err(|e| no_result(&e))?;
        Ok(bytemuck::pod_collect_to_vec(&view))
    }
}

/// One compute shader.
#[derive(Debug)]
pub(super) struct Stage {
    pipeline: wgpu::ComputePipeline,
    name: &'static str,
}

impl Stage {
    /// Records a run over `threads` threads in groups of `group`; `buffers` are bound from 1 on, `params` at 0.
    pub(super) fn record<T: Pod>(
        &self,
        gpu: &Gpu,
        encoder: &mut wgpu::CommandEncoder,
        params: &T,
        buffers: &[&wgpu::Buffer],
        (threads, group): (usize, usize),
    ) {
        let uniform = gpu.uniform(params);
        let bound = std::iter::once(&uniform).chain(buffers.iter().copied());
        let entries: Vec<_> = (0..)
            .zip(bound)
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        let bind_group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(self.name),
            layout: &self.pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some(self.name),
            timestamp_writes: None,
        });
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &bind_group, &[]);
        pass.dispatch_workgroups(threads.div_ceil(group) as u32, 1, 1);
    }
}
