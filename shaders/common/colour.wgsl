// Colours from tables made by src/motion/picture/colour.rs: 8-bit sRGB, red in the lowest byte.

// How a value becomes a colour. Mirror: src/viz/mirror.rs, Paint.
struct Paint {
    w: u32,
    h: u32,
    // Values at the two ends of the table.
    low: f32,
    high: f32,
    // 0: every pixel is opaque; 1: small values let the picture below show.
    fade: f32,
    // 0: none; 1: the frequency weight darkens what it holds back (draw/spectrum.wgsl).
    veil: f32,
    // Value of full colour of a flow, pixels per frame (draw/flow.wgsl).
    full: f32,
    spare: u32,
}

// Place in a table of 256 colours. Twin: motion::picture::from_plane.
fn table_place(value: f32, p: Paint) -> u32 {
    let t = clamp((value - p.low) / (p.high - p.low), 0.0, 1.0);
    return u32(floor(t * 255.0 + 0.5));
}

fn unpacked(colour: u32) -> vec3<f32> {
    return unpack4x8unorm(colour).rgb;
}

// How much of the picture below a value hides, 0..=1. Twin: viz::twin::cover.
fn cover(value: f32, p: Paint) -> f32 {
    let strongest = max(abs(p.low), abs(p.high));
    let t = clamp((abs(value) / strongest - 0.03) / 0.32, 0.0, 1.0);
    return mix(1.0, t * t * (3.0 - 2.0 * t), p.fade);
}

// A triangle that covers the whole target.
fn whole_target(index: u32) -> vec4<f32> {
    let x = f32((index << 1u) & 2u);
    let y = f32(index & 2u);
    return vec4<f32>(x * 2.0 - 1.0, 1.0 - y * 2.0, 0.0, 1.0);
}
