// A shifted spectrum in the colours of a map, with the disc of weights ghosted over it: where w(r) is small the picture
// is darker, beyond the cutoff it is nearly black. Twin: viz::twin::spectrum.

#import "common/colour.wgsl"
#import "common/frequency.wgsl"

@group(0) @binding(0) var<uniform> paint: Paint;
@group(0) @binding(1) var<storage, read> table: array<u32>;
@group(0) @binding(2) var<storage, read> values: array<f32>;
@group(0) @binding(3) var<uniform> weighting: Weighting;

// Brightness that is left where the weight is least, and beyond the cutoff.
const DIMMEST: f32 = 0.55;
const BEYOND: f32 = 0.15;

@vertex
fn vertex(@builtin(vertex_index) index: u32) -> @builtin(position) vec4<f32> {
    return whole_target(index);
}

// The weight between that of the farthest corner (0) and that one pixel from the middle (1).
fn share(weight: f32) -> f32 {
    let centre = vec2<f32>(f32(paint.w), f32(paint.h)) / 2.0;
    let most = power(dot(centre, centre), weighting.delta) - 1.0;
    return clamp((weight - weighting.base) / max(most, 1e-6), 0.0, 1.0);
}

@fragment
fn fragment(@builtin(position) at: vec4<f32>) -> @location(0) vec4<f32> {
    let r = u32(at.y);
    let c = u32(at.x);
    let value = values[r * paint.w + c];
    var light = 1.0;
    if weighting.cutoff >= 0.0 && frequency_radius(r, c, paint.h, paint.w) > weighting.cutoff {
        light = BEYOND;
    } else {
        light = mix(DIMMEST, 1.0, share(frequency_weight(r, c, weighting)));
    }
    return vec4<f32>(unpacked(table[table_place(value, paint)]) * mix(1.0, light, paint.veil), 1.0);
}
