// A plane of values in the colours of a map, one pixel a value. Twin: motion::picture::from_plane, viz::twin::plane.

#import "common/colour.wgsl"

@group(0) @binding(0) var<uniform> paint: Paint;
@group(0) @binding(1) var<storage, read> table: array<u32>;
@group(0) @binding(2) var<storage, read> values: array<f32>;

@vertex
fn vertex(@builtin(vertex_index) index: u32) -> @builtin(position) vec4<f32> {
    return whole_target(index);
}

// Premultiplied alpha, as egui's textures.
@fragment
fn fragment(@builtin(position) at: vec4<f32>) -> @location(0) vec4<f32> {
    let value = values[u32(at.y) * paint.w + u32(at.x)];
    let alpha = cover(value, paint);
    return vec4<f32>(unpacked(table[table_place(value, paint)]) * alpha, alpha);
}
