// One level of a Haar transform along time. Twin: one turn of the loop in spectral::plain::haar_forward.

#import "common/series.wgsl"

@group(0) @binding(0) var<uniform> params: Series;
// [steps, positions]; an odd number of steps is padded with one zero.
@group(0) @binding(1) var<storage, read> source: array<f32>;
// [ceil(steps / 2), positions]
@group(0) @binding(2) var<storage, read_write> low: array<f32>;
@group(0) @binding(3) var<storage, read_write> high: array<f32>;

const HALF_ROOT: f32 = 0.70710678118654752;

// One thread for each value of a band.
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let step = id.x / params.positions;
    if step >= (params.steps + 1u) / 2u {
        return;
    }
    let place = id.x % params.positions;
    let even = source[2u * step * params.positions + place];
    var odd = 0.0;
    if 2u * step + 1u < params.steps {
        odd = source[(2u * step + 1u) * params.positions + place];
    }
    low[id.x] = (even + odd) * HALF_ROOT;
    high[id.x] = (even - odd) * HALF_ROOT;
}
