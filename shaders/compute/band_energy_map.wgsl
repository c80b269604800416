// Mean square over time of one wavelet band at each position. Twin: spectral::plain::HaarBands::energy_map.

#import "common/series.wgsl"

@group(0) @binding(0) var<uniform> params: Series;
// [steps, positions]
@group(0) @binding(1) var<storage, read> band: array<f32>;
@group(0) @binding(2) var<storage, read_write> energy: array<f32>;

// One thread for each position.
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.positions {
        return;
    }
    var sum = 0.0;
    for (var step = 0u; step < params.steps; step += 1u) {
        let value = band[step * params.positions + id.x];
        sum += value * value;
    }
    energy[id.x] = sum / f32(max(params.steps, 1u));
}
