// A flow as a colour wheel: hue is the direction, lightness and strength grow with the speed. Twin: motion::picture::from_flow.

#import "common/colour.wgsl"

@group(0) @binding(0) var<uniform> paint: Paint;
// [64 speeds, 256 directions]
@group(0) @binding(1) var<storage, read> table: array<u32>;
// Rightward and downward motion of each pixel.
@group(0) @binding(2) var<storage, read> flow: array<vec2<f32>>;

const SPEEDS: u32 = 64u;
const DIRECTIONS: u32 = 256u;
const TURN: f32 = 6.28318530717959;

@vertex
fn vertex(@builtin(vertex_index) index: u32) -> @builtin(position) vec4<f32> {
    return whole_target(index);
}

@fragment
fn fragment(@builtin(position) at: vec4<f32>) -> @location(0) vec4<f32> {
    let motion = flow[u32(at.y) * paint.w + u32(at.x)] / paint.full;
    let speed = min(length(motion), 1.0);
    var direction = 0u;
    if speed > 0.0 {
        let turns = fract(atan2(motion.y, motion.x) / TURN + 1.0);
        direction = u32(floor(turns * f32(DIRECTIONS) + 0.5)) % DIRECTIONS;
    }
    let row = u32(floor(speed * f32(SPEEDS - 1u) + 0.5));
    let t = clamp((speed - 0.03) / 0.32, 0.0, 1.0);
    let alpha = mix(1.0, t * t * (3.0 - 2.0 * t), paint.fade);
    return vec4<f32>(unpacked(table[row * DIRECTIONS + direction]) * alpha, alpha);
}
