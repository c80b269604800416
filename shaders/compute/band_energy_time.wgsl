// Mean square over all positions of one wavelet band at each of its time steps.
// Twin: spectral::plain::HaarBands::energy_over_time.

#import "common/series.wgsl"

@group(0) @binding(0) var<uniform> params: Series;
// [steps, positions]
@group(0) @binding(1) var<storage, read> band: array<f32>;
@group(0) @binding(2) var<storage, read_write> energy: array<f32>;

const THREADS: u32 = 64u;
var<workgroup> parts: array<f32, THREADS>;

// One workgroup for each time step; its threads take every 64th position, and their sums are added in a tree.
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    var sum = 0.0;
    for (var place = thread; place < params.positions; place += THREADS) {
        let value = band[group.x * params.positions + place];
        sum += value * value;
    }
    parts[thread] = sum;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if thread < half {
            parts[thread] += parts[thread + half];
        }
        workgroupBarrier();
    }
    if thread == 0u {
        energy[group.x] = parts[0] / f32(max(params.positions, 1u));
    }
}
