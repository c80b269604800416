// One motion vector: the difference of brightness between a frame and the next. Twin: motion::{luma, residuals, absolute}.

// Mirror: src/viz/mirror.rs, LumaResidual.
struct LumaResidual {
    pixels: u32,
    // 1: without its sign.
    absolute: u32,
    spare: vec2<u32>,
}

@group(0) @binding(0) var<uniform> params: LumaResidual;
// 8-bit pixels, red in the lowest byte.
@group(0) @binding(1) var<storage, read> now: array<u32>;
@group(0) @binding(2) var<storage, read> next: array<u32>;
@group(0) @binding(3) var<storage, read_write> residual: array<f32>;

fn luma(pixel: u32) -> f32 {
    let rgb = vec3<f32>(f32(pixel & 255u), f32((pixel >> 8u) & 255u), f32((pixel >> 16u) & 255u));
    return (0.2126 * rgb.r + 0.7152 * rgb.g + 0.0722 * rgb.b) / 255.0;
}

// One thread for each pixel.
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.pixels {
        return;
    }
    let difference = luma(next[id.x]) - luma(now[id.x]);
    residual[id.x] = select(difference, abs(difference), params.absolute == 1u);
}
