//! Drawing planes into textures that egui shows.

use std::f64::consts::TAU;

use super::gpu::{Gpu, GpuError};
use super::mirror::{Paint, Weighting};
use crate::motion::picture::colour::{Map, of_motion};

/// egui takes its textures in this format.
const FORMAT: wgpu::TextureFormat = wgpu::TextureFormat::Rgba8Unorm;
/// Rows and columns of the flow's table; the same numbers stand in `draw/flow.wgsl`.
const SPEEDS: usize = 64;
const DIRECTIONS: usize = 256;

/// A texture that is drawn into and shown, one pixel for each value of a plane.
#[derive(Clone, Debug)]
pub struct Canvas {
    texture: wgpu::Texture,
    /// What egui's renderer registers.
    pub view: wgpu::TextureView,
}

impl Canvas {
    /// An empty picture of `w` by `h` pixels.
    pub fn new(gpu: &Gpu, h: usize, w: usize) -> Self {
        let texture = gpu.device.create_texture(&wgpu::TextureDescriptor {
            label: Some("instrument"),
            size: wgpu::Extent3d {
                width: w.max(1) as u32,
                height: h.max(1) as u32,
                depth_or_array_layers: 1,
            },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: FORMAT,
            usage: wgpu::TextureUsages::RENDER_ATTACHMENT
                | wgpu::TextureUsages::TEXTURE_BINDING
                | wgpu::TextureUsages::COPY_SRC,
            view_formats: &[],
        });
        let view = texture.create_view(&wgpu::TextureViewDescriptor::default());
        Self { texture, view }
    }

    /// Columns and rows.
    pub fn size(&self) -> (usize, usize) {
        (
            self.texture.width() as usize,
            self.texture.height() as usize,
        )
    }

    /// The pixels, RGBA; waits for the device.
    ///
    /// # Errors
    /// `NoResult` if the device does not answer.
    pub fn read(&self, gpu: &Gpu) -> Result<Vec<u8>, GpuError> {
        let (w, h) = self.size();
        let stride = (4 * w).next_multiple_of(wgpu::COPY_BYTES_PER_ROW_ALIGNMENT as usize);
        let buffer = gpu.zeros("pixels", stride * h / 4);
        let mut encoder = gpu.encoder();
        encoder.copy_texture_to_buffer(
            self.texture.as_image_copy(),
            wgpu::TexelCopyBufferInfo {
                buffer: &buffer,
                layout: wgpu::TexelCopyBufferLayout {
                    offset: 0,
                    bytes_per_row: Some(stride as u32),
                    rows_per_image: None,
                },
            },
            self.texture.size(),
        );
        gpu.queue.submit([encoder.finish()]);
        let rows: Vec<u8> = gpu.read(&buffer)?;
        let row = |row: &[u8]| row[..4 * w].to_vec();
        Ok(rows.chunks_exact(stride).flat_map(row).collect())
    }
}

/// A colour table in the device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// One of the maps.
    Map(Map),
    /// Direction and speed.
    Flow,
}

/// The render pipelines and colour tables of the pictures.
#[derive(Debug)]
pub struct Painter {
    plane: wgpu::RenderPipeline,
    spectrum: wgpu::RenderPipeline,
    flow: wgpu::RenderPipeline,
    magnitude: wgpu::Buffer,
    diverging: wgpu::Buffer,
    cyclic: wgpu::Buffer,
    wheel: wgpu::Buffer,
}

fn packed(colour: [u8; 3]) -> u32 {
    u32::from_le_bytes([colour[0], colour[1], colour[2], 255])
}

impl Painter {
    /// Compiles the pipelines and fills the tables.
    ///
    /// # Errors
    /// `Refused` if the device does not take one of them.
    pub fn new(gpu: &Gpu) -> Result<Self, GpuError> {
        let table = |map: Map| {
            let colours: Vec<u32> = map.table().into_iter().map(packed).collect();
            gpu.upload("colours", &colours)
        };
        let wheel: Vec<u32> = (0..SPEEDS * DIRECTIONS)
            .map(|i| {
                let speed = (i / DIRECTIONS) as f64 / (SPEEDS - 1) as f64;
                let (sin, cos) = (TAU * (i % DIRECTIONS) as f64 / DIRECTIONS as f64).sin_cos();
                packed(of_motion(speed * cos, speed * sin))
            })
            .collect();
        gpu.checked(|| {
            Ok(Self {
                plane: pipeline(gpu, "draw/plane.wgsl")?,
                spectrum: pipeline(gpu, "draw/spectrum.wgsl")?,
                flow: pipeline(gpu, "draw/flow.wgsl")?,
                magnitude: table(Map::Magnitude),
                diverging: table(Map::Diverging),
                cyclic: table(Map::Cyclic),
                wheel: gpu.upload("colour wheel", &wheel),
            })
        })?
    }

    fn table(&self, table: Table) -> &wgpu::Buffer {
        match table {
            Table::Map(Map::Magnitude) => &self.magnitude,
            Table::Map(Map::Diverging) => &self.diverging,
            Table::Map(Map::Cyclic) => &self.cyclic,
            Table::Flow => &self.wheel,
        }
    }

    /// Draws a plane of values (pairs for [`Table::Flow`]) over the whole canvas.
    pub fn plane(&self, gpu: &Gpu, canvas: &Canvas, values: &wgpu::Buffer, look: (Table, &Paint)) {
        let (table, paint) = look;
        let pipeline = match table {
            Table::Map(_) => &self.plane,
            Table::Flow => &self.flow,
        };
        let uniform = gpu.uniform(paint);
        draw(
            gpu,
            canvas,
            pipeline,
            &[&uniform, self.table(table), values],
        );
    }

    /// Draws a shifted spectrum with the disc of weights ghosted over it.
    pub fn spectrum(
        &self,
        gpu: &Gpu,
        canvas: &Canvas,
        values: &wgpu::Buffer,
        (map, paint): (Map, &Paint),
        weighting: &Weighting,
    ) {
        let (paint, weighting) = (gpu.uniform(paint), gpu.uniform(weighting));
        let table = self.table(Table::Map(map));
        let buffers = [&paint, table, values, &weighting];
        draw(gpu, canvas, &self.spectrum, &buffers);
    }
}

fn pipeline(gpu: &Gpu, name: &'static str) -> Result<wgpu::RenderPipeline, GpuError> {
    let module = gpu.module(name)?;
    let descriptor = wgpu::RenderPipelineDescriptor {
        label: Some(name),
        layout: None,
        vertex: wgpu::VertexState {
            module: &module,
            entry_point: Some("vertex"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            buffers: &[],
        },
        primitive: wgpu::PrimitiveState::default(),
        depth_stencil: None,
        multisample: wgpu::MultisampleState::default(),
        fragment: Some(wgpu::FragmentState {
            module: &module,
            entry_point: Some("fragment"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            targets: &[Some(FORMAT.into())],
        }),
        multiview_mask: None,
        cache: None,
    };
    Ok(gpu.device.create_render_pipeline(&descriptor))
}

/// Runs a pipeline over the whole canvas with `buffers` bound from 0 on.
fn draw(gpu: &Gpu, canvas: &Canvas, pipeline: &wgpu::RenderPipeline, buffers: &[&wgpu::Buffer]) {
    let entries: Vec<_> = (0..)
        .zip(buffers)
        .map(|(binding, buffer)| wgpu::BindGroupEntry {
            binding,
            resource: buffer.as_entire_binding(),
        })
        .collect();
    let bind_group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("picture"),
        layout: &pipeline.get_bind_group_layout(0),
        entries: &entries,
    });
    let mut encoder = gpu.encoder();
    let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
        label: Some("picture"),
        color_attachments: &[Some(wgpu::RenderPassColorAttachment {
            view: &canvas.view,
            depth_slice: None,
            resolve_target: None,
            ops: wgpu::Operations {
                load: wgpu::LoadOp::Clear(wgpu::Color::TRANSPARENT),
                store: wgpu::StoreOp::Store,
            },
        })],
        depth_stencil_attachment: None,
        timestamp_writes: None,
        occlusion_query_set: None,
        multiview_mask: None,
    });
    pass.set_pipeline(pipeline);
    pass.set_bind_group(0, &bind_group, &[]);
    pass.draw(0..3, 0..1);
    drop(pass);
    gpu.queue.submit([encoder.finish()]);
}
