// First half of a radial profile: every row of a shifted plane adds its bins to rings of its own, so that no two threads
// write the same place and the order of every sum is fixed. compute/radial_rings.wgsl adds up the rows.
// Twin of both: spectral::plain::radial_profile.

#import "common/rings.wgsl"

@group(0) @binding(0) var<uniform> params: Rings;
@group(0) @binding(1) var<storage, read> plane: array<f32>;
// [h, rings]: sum, largest value, number of bins.
@group(0) @binding(2) var<storage, read_write> rows: array<vec4<f32>>;

// One thread for each row.
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.h {
        return;
    }
    let own = id.x * params.rings;
    for (var ring = 0u; ring < params.rings; ring += 1u) {
        rows[own + ring] = vec4<f32>(0.0);
    }
    // In units of a ring; whole numbers along the longer side, so that rounding to a ring is safe in f32.
    let longer = f32(max(params.h, params.w));
    let y = (f32(id.x) - f32(params.h / 2u)) * longer / f32(params.h);
    for (var column = 0u; column < params.w; column += 1u) {
        let x = (f32(column) - f32(params.w / 2u)) * longer / f32(params.w);
        let ring = min(u32(floor(sqrt(y * y + x * x) + 0.5)), params.rings - 1u);
        let value = plane[id.x * params.w + column];
        let held = rows[own + ring];
        rows[own + ring] = vec4<f32>(held.x + value, max(held.y, value), held.z + 1.0, 0.0);
    }
}
