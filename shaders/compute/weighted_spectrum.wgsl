// ln(1 + w |F|) of a shifted amplitude: what the local loss sees. Twin: spectral::plain::weighted_log_amplitude.

#import "common/frequency.wgsl"

@group(0) @binding(0) var<uniform> params: Weighting;
@group(0) @binding(1) var<storage, read> amplitude: array<f32>;
@group(0) @binding(2) var<storage, read_write> weighted: array<f32>;

// One thread for each bin.
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.h * params.w {
        return;
    }
    let weight = frequency_weight(id.x / params.w, id.x % params.w, params);
    weighted[id.x] = ln_1p(weight * amplitude[id.x]);
}
