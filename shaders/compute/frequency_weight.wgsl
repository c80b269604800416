// The weight of SMA's local loss on every bin of a shifted spectrum. Twin: spectral::plain::frequency_weight.

#import "common/frequency.wgsl"

@group(0) @binding(0) var<uniform> params: Weighting;
@group(0) @binding(1) var<storage, read_write> weight: array<f32>;

// One thread for each bin.
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.h * params.w {
        return;
    }
    weight[id.x] = frequency_weight(id.x / params.w, id.x % params.w, params);
}
