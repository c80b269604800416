// Where the bins of a shifted spectrum lie, and the weight of SMA's local loss. Twin: src/spectral/plain/weight.rs.

// Stands for "no cutoff"; any negative number does.
const NO_CUTOFF: f32 = -1.0;

// Mirror: src/viz/mirror.rs, Weighting.
struct Weighting {
    h: u32,
    w: u32,
    // The low-frequency bias, an exponent.
    delta: f32,
    // Weight of the farthest corner.
    base: f32,
    // Cycles per pixel; negative for none.
    cutoff: f32,
    // 1: row 0 and column 0 weigh nothing.
    zero_border: u32,
    // Two words of padding, so that the size is a multiple of 16.
    spare: vec2<u32>,
}

// Index after the zero frequency has moved from the corner to row h / 2, column w / 2.
fn shifted_index(index: u32, h: u32, w: u32) -> u32 {
    let row = (index / w + h / 2u) % h;
    let column = (index % w + w / 2u) % w;
    return row * w + column;
}

// Distance from the zero frequency in cycles per pixel.
fn frequency_radius(r: u32, c: u32, h: u32, w: u32) -> f32 {
    let y = (f32(r) - f32(h / 2u)) / f32(h);
    let x = (f32(c) - f32(w / 2u)) / f32(w);
    return sqrt(y * y + x * x);
}

// x^delta with the limits that WGSL's pow leaves open.
fn power(x: f32, delta: f32) -> f32 {
    if delta == 0.0 {
        return 1.0;
    }
    if x <= 0.0 {
        return 0.0;
    }
    return pow(x, delta);
}

fn frequency_weight(r: u32, c: u32, p: Weighting) -> f32 {
    if p.zero_border == 1u && (r == 0u || c == 0u) {
        return 0.0;
    }
    if p.cutoff >= 0.0 && frequency_radius(r, c, p.h, p.w) > p.cutoff {
        return 0.0;
    }
    let centre = vec2<f32>(f32(p.w), f32(p.h)) / 2.0;
    let away = vec2<f32>(f32(c), f32(r)) - centre;
    return power(dot(centre, centre), p.delta) - power(dot(away, away), p.delta) + p.base;
}

// ln(1 + x): a series near zero, where 1 + x would round x away.
fn ln_1p(x: f32) -> f32 {
    if x < 0.01 {
        return x * (1.0 - x * (0.5 - x * (1.0 / 3.0 - x * 0.25)));
    }
    return log(1.0 + x);
}
