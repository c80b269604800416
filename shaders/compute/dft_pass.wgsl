// One pass of a discrete Fourier transform along the lines of a plane: Stockham's self-sorting form with any radix, so
// that a length of any factors is transformed without a reordering pass. Twin of all passes together:
// spectral::plain::Fft2::forward.
//
// With n = radix * m * done, a pass takes element q + done (j + m r) to q + done (radix j + k), where q < done, j < m and
// r, k < radix, as the sum over r of W^(j k done + r k n / radix); W = exp(-2 pi i / n). Powers of W come from a table made
// in f64: the only rounding is that of the sums.

// Mirror: src/viz/mirror.rs, DftPass.
struct DftPass {
    // Length of a line.
    n: u32,
    radix: u32,
    // Product of the radices of earlier passes.
    done: u32,
    lines: u32,
    line_stride: u32,
    element_stride: u32,
    // 1: the source holds real numbers, not pairs.
    real_source: u32,
    spare: u32,
}

@group(0) @binding(0) var<uniform> params: DftPass;
@group(0) @binding(1) var<storage, read> twiddles: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> source: array<f32>;
@group(0) @binding(3) var<storage, read_write> result: array<vec2<f32>>;

fn element(index: u32) -> vec2<f32> {
    if params.real_source == 1u {
        return vec2<f32>(source[index], 0.0);
    }
    return vec2<f32>(source[2u * index], source[2u * index + 1u]);
}

// One thread for each element of the result.
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let n = params.n;
    if id.x >= n * params.lines {
        return;
    }
    // Neighbouring threads touch neighbouring memory in both directions.
    var line = id.x / n;
    var place = id.x % n;
    if params.element_stride != 1u {
        line = id.x % params.lines;
        place = id.x / params.lines;
    }
    let q = place % params.done;
    let k = (place / params.done) % params.radix;
    let j = place / (params.done * params.radix);
    let m = n / (params.done * params.radix);
    let base = line * params.line_stride;

    var turn = (j * k * params.done) % n;
    let step = (k * (n / params.radix)) % n;
    var sum = vec2<f32>(0.0);
    for (var r = 0u; r < params.radix; r += 1u) {
        let x = element(base + (q + params.done * (j + m * r)) * params.element_stride);
        let t = twiddles[turn];
        sum += vec2<f32>(x.x * t.x - x.y * t.y, x.x * t.y + x.y * t.x);
        turn += step;
        if turn >= n {
            turn -= n;
        }
    }
    result[base + place * params.element_stride] = sum;
}
