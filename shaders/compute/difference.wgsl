// a - b of two planes. Twin: the subtraction itself.

// Mirror: src/viz/mirror.rs, Length.
struct Length {
    values: u32,
    spare: u32,
    more: vec2<u32>,
}

@group(0) @binding(0) var<uniform> params: Length;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> difference: array<f32>;

// One thread for each value.
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.values {
        return;
    }
    difference[id.x] = a[id.x] - b[id.x];
}
