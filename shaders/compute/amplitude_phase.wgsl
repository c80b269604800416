// |F|, ln(1 + |F|) and the angle of each bin, with the zero frequency moved to the middle.
// Twins: spectral::plain::{amplitude, log_amplitude, phase, fftshift}.

#import "common/frequency.wgsl"

// Mirror: src/viz/mirror.rs, Plane.
struct Plane {
    h: u32,
    w: u32,
    spare: vec2<u32>,
}

@group(0) @binding(0) var<uniform> params: Plane;
@group(0) @binding(1) var<storage, read> spectrum: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> amplitude: array<f32>;
@group(0) @binding(3) var<storage, read_write> log_amplitude: array<f32>;
@group(0) @binding(4) var<storage, read_write> phase: array<f32>;

const PI: f32 = 3.14159265358979;

fn angle(f: vec2<f32>, k: u32, l: u32) -> f32 {
    // Bins that are their own mirror image are real: their imaginary part is only rounding.
    let is_real = (2u * k) % params.h == 0u && (2u * l) % params.w == 0u;
    let im = select(f.y, 0.0, is_real);
    if im == 0.0 {
        return select(0.0, PI, f.x < 0.0);
    }
    return atan2(im, f.x);
}

// One thread for each bin.
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.h * params.w {
        return;
    }
    let f = spectrum[id.x];
    let to = shifted_index(id.x, params.h, params.w);
    let size = length(f);
    amplitude[to] = size;
    log_amplitude[to] = ln_1p(size);
    phase[to] = angle(f, id.x / params.w, id.x % params.w);
}
