// Second half of a radial profile: the mean, the largest value and the number of bins of each ring.
// Twin of both: spectral::plain::radial_profile.

#import "common/rings.wgsl"

@group(0) @binding(0) var<uniform> params: Rings;
@group(0) @binding(1) var<storage, read> rows: array<vec4<f32>>;
// Mean, largest value, number of bins.
@group(0) @binding(2) var<storage, read_write> profile: array<vec4<f32>>;

// One thread for each ring.
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.rings {
        return;
    }
    var sum = 0.0;
    var largest = 0.0;
    var bins = 0.0;
    for (var row = 0u; row < params.h; row += 1u) {
        let part = rows[row * params.rings + id.x];
        sum += part.x;
        largest = max(largest, part.y);
        bins += part.z;
    }
    profile[id.x] = vec4<f32>(sum / max(bins, 1.0), largest, bins, 0.0);
}
