//! The WGSL files: they parse, their structures are those of Rust, and each stage computes what its twin computes.
//!
//! A missing adapter is a failure, so that these tests cannot vanish quietly; Mesa's lavapipe (package
//! `mesa-vulkan-drivers`) serves where there is no GPU. Bounds are written beside each comparison, with their reason.

use std::mem::offset_of;
use std::path::Path;
use std::sync::LazyLock;

use naga::valid::{Capabilities, ValidationFlags, Validator};
use spectral_motion::motion::picture::{Range, colour::Map, from_flow, from_plane};
use spectral_motion::motion::{Flow, absolute, luma, residuals};
use spectral_motion::spectral::plain::{
    Fft2, Residual, amplitude, fftshift, frequency_radius, frequency_weight, haar_forward,
    log_amplitude, phase, radial_profile, weighted_log_amplitude, wrap_phase,
};
use spectral_motion::video::Frame;
use spectral_motion::viz::{
    self, BandStages, Canvas, DftPass, Gpu, Length, LumaResidual, Paint, Painter, Plane, Rings,
    Series, SpectrumStages, Table, WeightStages, Weighting, twin,
};

/// Rows and columns: powers of two, the sizes of real clips, odd and prime ones.
const SIZES: &[(usize, usize)] = &[
    (64, 64),
    (256, 128),
    (40, 64),
    (48, 48),
    (45, 80),
    (320, 576),
    (37, 15),
    (1, 7),
];

struct Device {
    gpu: Gpu,
    spectrum: SpectrumStages,
    weight: WeightStages,
    bands: BandStages,
    painter: Painter,
}

static DEVICE: LazyLock<Device> = LazyLock::new(|| {
    let gpu = Gpu::headless().expect("install mesa-vulkan-drivers: these tests need an adapter");
    println!("adapter: {}", gpu.name());
    Device {
        spectrum: SpectrumStages::new(&gpu).expect("the spectrum's pipelines"),
        weight: WeightStages::new(&gpu).expect("the weight's pipelines"),
        bands: BandStages::new(&gpu).expect("the bands' pipelines"),
        painter: Painter::new(&gpu).expect("the painter's pipelines"),
        gpu,
    }
});

/// Numbers in -1..1 that are the same every time.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A moving blob with a little noise: spectra of real clips fall off by orders of magnitude, those of noise do not.
fn frames(h: usize, w: usize, count: usize) -> Vec<Frame> {
    let picture = |index: usize| {
        let grain = noise(h * w, index as u64 + 1);
        let pixel = |i: usize| {
            let (y, x) = ((i / w) as f32 / h as f32, (i % w) as f32 / w as f32);
            let centre = 0.3 + 0.05 * index as f32;
            let away = ((x - centre).powi(2) + (y - 0.5).powi(2)) * 30.0;
            let light = (-away).exp();
            let value = |share: f32| (255.0 * (0.1 + 0.8 * light * share) + 2.0 * grain[i]) as u8;
            [value(1.0), value(0.4), value(0.2)]
        };
        Frame {
            width: w as u32,
            height: h as u32,
            rgb: (0..h * w).flat_map(pixel).collect(),
        }
    };
    (0..count).map(picture).collect()
}

fn worst(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()));
    differences.fold(0.0, |worst, d| {
        if d.is_nan() {
            f64::INFINITY
        } else {
            worst.max(d)
        }
    })
}

fn parsed(name: &str) -> naga::Module {
    let text = viz::resolve(name).expect("imports that can be followed");
    naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{}", e.emit_to_string(&text)))
}

#[test]
fn every_shader_file_is_known_and_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut on_disk = Vec::new();
    for folder in ["common", "compute", "draw"] {
        for entry in std::fs::read_dir(root.join(folder)).expect("a shader folder") {
            let name = entry.expect("an entry").file_name();
            on_disk.push(format!("{folder}/{}", name.to_string_lossy()));
        }
    }
    on_disk.sort();
    let mut known: Vec<&str> = viz::FILES.iter().map(|(name, _)| *name).collect();
    known.sort_unstable();
    assert_eq!(
        on_disk, known,
        "src/viz/shader.rs lists other files than shaders/ holds"
    );

    let mut failures = Vec::new();
    for name in known {
        let text = match viz::resolve(name) {
            Ok(text) => text,
            Err(error) => {
                failures.push(format!("{name}: {error}"));
                continue;
            }
        };
        match naga::front::wgsl::parse_str(&text) {
            Err(error) => failures.push(format!("{name}: {}", error.emit_to_string(&text))),
            Ok(module) => {
                let mut validator = Validator::new(ValidationFlags::all(), Capabilities::empty());
                if let Err(error) = validator.validate(&module) {
                    failures.push(format!("{name}: {}", error.emit_to_string(&text)));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn imports_come_once_and_unknown_ones_are_refused() {
    let text = viz::resolve("draw/spectrum.wgsl").expect("a shader");
    assert_eq!(text.matches("fn frequency_weight(").count(), 1);
    assert!(!text.contains("#import"));
    assert_eq!(
        viz::resolve("common/nothing.wgsl"),
        Err(viz::ShaderError::Missing("common/nothing.wgsl".into()))
    );
}

/// Fields of a Rust mirror, each with its offset, and the size of the whole.
macro_rules! mirror {
    ($kind:ty { $($field:ident),* }) => {
        (stringify!($kind), size_of::<$kind>(), vec![$((stringify!($field), offset_of!($kind, $field))),*])
    };
}

#[test]
fn mirrors_have_the_layout_of_their_structures() {
    let weighting = mirror!(Weighting {
        h,
        w,
        delta,
        base,
        cutoff,
        zero_border,
        spare
    });
    let paint = mirror!(Paint {
        w,
        h,
        low,
        high,
        fade,
        veil,
        full,
        spare
    });
    let rings = mirror!(Rings { h, w, rings, spare });
    let series = mirror!(Series {
        steps,
        positions,
        spare
    });
    let pairs = [
        ("common/frequency.wgsl", weighting),
        ("common/colour.wgsl", paint),
        (
            "compute/luma_residual.wgsl",
            mirror!(LumaResidual {
                pixels,
                absolute,
                spare
            }),
        ),
        (
            "compute/dft_pass.wgsl",
            mirror!(DftPass {
                n,
                radix,
                done,
                lines,
                line_stride,
                element_stride,
                real_source,
                spare
            }),
        ),
        (
            "compute/amplitude_phase.wgsl",
            mirror!(Plane { h, w, spare }),
        ),
        (
            "compute/difference.wgsl",
            mirror!(Length {
                values,
                spare,
                more
            }),
        ),
        ("compute/radial_rows.wgsl", rings.clone()),
        ("compute/radial_rings.wgsl", rings),
        ("compute/haar_level.wgsl", series.clone()),
        ("compute/band_energy_map.wgsl", series.clone()),
        ("compute/band_energy_time.wgsl", series),
    ];
    for (file, (name, size, fields)) in pairs {
        let module = parsed(file);
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).expect("a layout");
        let (handle, found) = module
            .types
            .iter()
            .find(|(_, kind)| kind.name.as_deref() == Some(name))
            .unwrap_or_else(|| panic!("{file} has no structure {name}"));
        let naga::TypeInner::Struct { members, span } = &found.inner else {
            panic!("{name} in {file} is no structure");
        };
        let there: Vec<_> = members
            .iter()
            .map(|m| (m.name.as_deref().unwrap_or_default(), m.offset as usize))
            .collect();
        assert_eq!(there, fields, "{name} in {file}");
        assert_eq!(*span as usize, size, "size of {name} in {file}");
        assert_eq!(
            layouter[handle].size as usize, size,
            "size of {name} in {file}"
        );
    }
}

#[test]
fn the_residual_is_the_twins() {
    let device = &*DEVICE;
    for &(h, w) in SIZES {
        let frames = frames(h, w, 2);
        let planes: Vec<_> = frames.iter().map(|f| luma(&f.rgb)).collect();
        let signed = residuals(&planes);
        for (kind, twin) in [
            (Residual::Signed, signed[0].clone()),
            (Residual::Abs, absolute(&signed)[0].clone()),
        ] {
            let plane = device
                .spectrum
                .residual(&device.gpu, &frames[0], &frames[1], kind);
            let found: Vec<f32> = device.gpu.read(&plane).expect("a residual");
            // Two weighted sums of three terms below 255, divided by 255: a few roundings of numbers below 1.
            let error = worst(&found, &twin);
            assert!(error <= 5e-7, "{h}x{w} {kind}: {error:e}");
        }
    }
}

/// Relative bound of a transform: every pass adds roundings of about 6e-8 of the running size, which grows as the root of
/// the number of terms; a prime length adds all its terms in one sum. Measured errors lie ten times lower.
const TRANSFORM_BOUND: f64 = 3e-6;

#[test]
fn the_spectrum_is_the_twins() {
    let device = &*DEVICE;
    let sizes = SIZES.iter().chain(&[(1024, 1024)]);
    for &(h, w) in sizes {
        let plane = noise(h * w, (h * w) as u64);
        let wide: Vec<f64> = plane.iter().map(|&v| f64::from(v)).collect();
        let twin = Fft2::<f64>::new(h, w).forward(&wide);
        let largest = amplitude(&twin).into_iter().fold(0.0, f64::max);

        let buffer = device.gpu.upload("plane", &plane);
        let found = device
            .spectrum
            .transform(&device.gpu, buffer, (h, w))
            .expect("a spectrum");
        let spectrum: Vec<[f32; 2]> = device.gpu.read(&found.spectrum).expect("a spectrum");
        let error = twin
            .iter()
            .zip(&spectrum)
            .map(|(t, [re, im])| (t.re - f64::from(*re)).hypot(t.im - f64::from(*im)))
            .fold(0.0, f64::max);
        assert!(
            error <= TRANSFORM_BOUND * largest,
            "{h}x{w}: {:e}",
            error / largest
        );

        let logs: Vec<f32> = device.gpu.read(&found.log_amplitude).expect("amplitudes");
        let twin_logs: Vec<f32> = fftshift(&log_amplitude(&twin), h, w)
            .iter()
            .map(|&v| v as f32)
            .collect();
        // d ln(1 + x) is at most dx; the logarithm itself is good to 3 units in the last place of numbers below 10.
        let error = worst(&logs, &twin_logs);
        assert!(
            error <= TRANSFORM_BOUND * largest + 4e-6,
            "{h}x{w}: log amplitude {error:e}"
        );

        let angles: Vec<f32> = device.gpu.read(&found.phase).expect("phases");
        let shifted = fftshift(&twin, h, w);
        let twin_angles = fftshift(&phase(&twin, h, w), h, w);
        for (i, angle) in angles.iter().enumerate() {
            let size = shifted[i].norm();
            // An error of e in a bin of size s turns it by e / s; atan2 is allowed 4096 units in the last place (5e-4).
            let bound = 5e-4 + TRANSFORM_BOUND * largest / size;
            let error = wrap_phase(twin_angles[i] - f64::from(*angle)).abs();
            assert!(
                bound > 3.0 || error <= bound,
                "{h}x{w} bin {i}: phase off by {error:e}, bound {bound:e}"
            );
        }

        let amplitudes: Vec<f32> = device.gpu.read(&found.amplitude).expect("amplitudes");
        let profile = device
            .spectrum
            .profile(&device.gpu, &found)
            .expect("a profile");
        let twin_profile = radial_profile(&amplitudes, h, w);
        assert_eq!(
            profile.cycles_per_pixel, twin_profile.cycles_per_pixel,
            "{h}x{w}"
        );
        // Bins so near to the edge of a ring that f32 may count them on either side.
        let mut on_edge = vec![0; twin_profile.bins.len() + 1];
        for i in 0..h * w {
            let rings = frequency_radius(i / w, i % w, h, w) * h.max(w) as f64;
            if (rings - rings.floor() - 0.5).abs() < 1e-4 {
                on_edge[rings.floor() as usize] += 1;
                on_edge[rings.floor() as usize + 1] += 1;
            }
        }
        for (ring, &may_move) in on_edge.iter().enumerate().take(profile.bins.len()) {
            let moved = profile.bins[ring].abs_diff(twin_profile.bins[ring]);
            assert!(
                moved <= may_move,
                "{h}x{w}, ring {ring}: {moved} bins too many or few"
            );
            if may_move == 0 {
                // A mean of up to a few thousand positive numbers in f32, row by row.
                let (a, b) = (profile.mean[ring], twin_profile.mean[ring]);
                assert!(
                    (a - b).abs() <= 1e-5 * b,
                    "{h}x{w}, ring {ring}: {a} and {b}"
                );
                assert_eq!(
                    profile.largest[ring], twin_profile.largest[ring],
                    "{h}x{w}, ring {ring}"
                );
            }
        }
    }
}

#[test]
fn the_weight_is_the_twins() {
    let device = &*DEVICE;
    let settings = [
        (0.05, 1.0, None, 0),
        (0.05, 1.0, Some(0.26), 1),
        (0.5, 2.0, Some(0.1), 0),
        (1.0, 1.0, None, 0),
        (0.0, 1.0, None, 0),
    ];
    for &(h, w) in SIZES {
        let amplitudes: Vec<f32> = noise(h * w, 5).iter().map(|v| 90.0 * v.abs()).collect();
        for (delta, base, cutoff, zero_border) in settings {
            let mut weighting = Weighting::new(h, w, delta, cutoff);
            weighting.base = base as f32;
            weighting.zero_border = zero_border;
            let twin = frequency_weight(h, w, delta, base, cutoff, zero_border == 1);
            let found: Vec<f32> = device
                .gpu
                .read(&device.weight.weights(&device.gpu, &weighting))
                .expect("weights");
            let largest = twin.iter().copied().fold(1.0, f64::max);
            let on_edge = |i: usize| {
                // In f32 the edge of the cutoff may fall on either side of a bin that lies on it.
                cutoff.is_some_and(|c| (frequency_radius(i / w, i % w, h, w) - c).abs() < 1e-6)
            };
            for (i, (&found, &twin)) in found.iter().zip(&twin).enumerate() {
                // pow is exp2(δ log2 x): about 16 roundings of an exponent below 20, then a difference of two powers.
                let error = (f64::from(found) - twin).abs();
                assert!(
                    on_edge(i) || error <= 1e-5 * largest,
                    "{h}x{w} δ {delta} bin {i}: {found} and {twin}"
                );
            }

            let amplitude = device.gpu.upload("amplitude", &amplitudes);
            let weighted = device.weight.plane(&device.gpu, h * w);
            let buffers = (&amplitude, &weighted);
            device.weight.weigh(&device.gpu, buffers, &weighting);
            let found: Vec<f32> = device.gpu.read(&weighted).expect("a weighted spectrum");
            let twin = weighted_log_amplitude(&amplitudes, &twin);
            for (i, (&found, &twin)) in found.iter().zip(&twin).enumerate() {
                // The weight's error, relative, plus that of a logarithm below 15.
                assert!(
                    on_edge(i) || (found - twin).abs() <= 2e-5 * twin.max(1.0),
                    "{h}x{w} bin {i}: {found} and {twin}"
                );
            }
        }
    }
}

#[test]
fn even_weights_leave_the_amplitude_as_it_is() {
    let device = &*DEVICE;
    for &(h, w) in SIZES {
        let weights = device.weight.weights(&device.gpu, &Weighting::even(h, w));
        let weights: Vec<f32> = device.gpu.read(&weights).expect("weights");
        assert!(weights.iter().all(|w| *w == 1.0), "{h}x{w}");
    }
}

#[test]
fn a_difference_is_exact() {
    let device = &*DEVICE;
    let (a, b) = (noise(1000, 3), noise(1000, 4));
    let buffers = (device.gpu.upload("a", &a), device.gpu.upload("b", &b));
    let found = device
        .weight
        .difference(&device.gpu, &buffers.0, &buffers.1, 1000);
    let found: Vec<f32> = device.gpu.read(&found).expect("a difference");
    let twin: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
    assert_eq!(found, twin);
}

#[test]
fn the_bands_are_the_twins() {
    let device = &*DEVICE;
    for &(h, w) in SIZES {
        for (count, levels) in [(8, 3), (4, 2), (3, 0)] {
            let positions = h * w;
            let series = noise((count - 1) * positions, 11);
            let twin = haar_forward(&series, positions, levels);
            let found = device
                .bands
                .tile(&device.gpu, &series, positions, levels)
                .expect("bands");
            assert_eq!(found.len(), levels + 1);
            for (band, (over_time, map)) in found.iter().enumerate() {
                // Sums of squares of numbers near 1: the map adds a few, the time series a tree of at most 184320.
                let over_time: Vec<f32> = device.gpu.read(over_time).expect("energies");
                let twin_time: Vec<f32> = twin
                    .energy_over_time(band)
                    .expect("a band")
                    .iter()
                    .map(|&e| e as f32)
                    .collect();
                let error = worst(&over_time, &twin_time);
                assert!(error <= 2e-4, "{h}x{w}, band {band}: over time {error:e}");
                let map: Vec<f32> = device.gpu.read(map).expect("energies");
                let twin_map: Vec<f32> = twin
                    .energy_map(band)
                    .expect("a band")
                    .iter()
                    .map(|&e| e as f32)
                    .collect();
                let error = worst(&map, &twin_map);
                assert!(error <= 4e-6, "{h}x{w}, band {band}: map {error:e}");
            }
        }
    }
}

#[test]
fn a_second_device_computes_as_well() {
    let gpu = DEVICE.gpu.second().expect("a second device");
    let buffer = gpu.upload("values", &[1.0_f32, 2.0]);
    assert_eq!(gpu.read::<f32>(&buffer).expect("values"), [1.0, 2.0]);
}

#[test]
fn a_clip_in_tiles_has_the_bands_of_the_whole() {
    let device = &*DEVICE;
    // 31 motion vectors of 320 by 576 pixels are 23 MiB: three tiles.
    let frames = frames(320, 576, 32);
    let never = || false;
    let kind = Residual::Signed;
    let found = device
        .bands
        .energies(&device.gpu, &frames, (kind, 5), &never)
        .expect("energies")
        .expect("nobody stopped it");
    let twin = viz::bands_on_cpu(&frames, kind, 5, &never).expect("nobody stopped it");
    for band in 0..=5 {
        let scale = twin.maps[band].iter().copied().fold(0.0, f32::max);
        // Squares of f32 numbers; the same terms in another order.
        assert!(worst(&found.maps[band], &twin.maps[band]) <= 1e-5 * f64::from(scale));
        let (a, b) = (found.energy(band), twin.energy(band));
        assert!((a - b).abs() <= 1e-4 * b, "band {band}: {a} and {b}");
    }
    let rows = viz::residual_rows(&frames[..2], &(0..320 * 576), kind);
    let planes: Vec<_> = frames[..2].iter().map(|f| luma(&f.rgb)).collect();
    assert_eq!(rows, residuals(&planes)[0]);
    assert!(
        device
            .bands
            .energies(&device.gpu, &frames, (kind, 5), &|| true)
            .expect("no failure")
            .is_none()
    );
}

/// Pixels of two RGBA pictures that differ by more than `steps` of 8 bits in a channel.
fn differing(a: &[u8], b: &[u8], steps: u8) -> usize {
    assert_eq!(a.len(), b.len());
    a.chunks_exact(4)
        .zip(b.chunks_exact(4))
        .filter(|(a, b)| a.iter().zip(*b).any(|(a, b)| a.abs_diff(*b) > steps))
        .count()
}

fn opaque(frame: &Frame) -> Vec<u8> {
    frame
        .rgb
        .chunks_exact(3)
        .flat_map(|p| [p[0], p[1], p[2], 255])
        .collect()
}

#[test]
fn pictures_are_the_twins() {
    let device = &*DEVICE;
    let gpu = &device.gpu;
    for &(h, w) in &[(40, 64), (45, 80), (37, 15)] {
        let canvas = Canvas::new(gpu, h, w);
        let values = noise(h * w, 21);
        let buffer = gpu.upload("values", &values);
        for map in [Map::Magnitude, Map::Diverging, Map::Cyclic] {
            let mut paint = Paint::new(h, w, -0.8, 0.8);
            device
                .painter
                .plane(gpu, &canvas, &buffer, (Table::Map(map), &paint));
            let found = canvas.read(gpu).expect("a picture");
            let frame = from_plane(
                &values,
                w,
                map,
                Range {
                    low: -0.8,
                    high: 0.8,
                },
            );
            // A value on the edge between two colours of the table may take either: a few pixels, one colour away.
            assert!(
                differing(&found, &opaque(&frame), 0) <= h * w / 200,
                "{map:?}"
            );
            assert_eq!(differing(&found, &opaque(&frame), 8), 0, "{map:?}");
            paint.fade = 1.0;
            device
                .painter
                .plane(gpu, &canvas, &buffer, (Table::Map(map), &paint));
            let found = canvas.read(gpu).expect("a picture");
            // One step of rounding more, where colour and cover are multiplied.
            assert_eq!(
                differing(&found, &twin::plane(&values, map, &paint), 8),
                0,
                "{map:?}"
            );

            paint.fade = 0.0;
            paint.veil = 1.0;
            let weighting = Weighting::new(h, w, 0.3, Some(0.31));
            device
                .painter
                .spectrum(gpu, &canvas, &buffer, (map, &paint), &weighting);
            let found = canvas.read(gpu).expect("a picture");
            let twin = twin::spectrum(&values, map, &paint, &weighting);
            assert_eq!(differing(&found, &twin, 8), 0, "{map:?} with a veil");
        }
        let flow = Flow {
            width: w,
            height: h,
            dx: noise(h * w, 31),
            dy: noise(h * w, 32),
        };
        let pairs: Vec<[f32; 2]> = flow
            .dx
            .iter()
            .zip(&flow.dy)
            .map(|(&x, &y)| [x, y])
            .collect();
        let paint = Paint::new(h, w, 0.0, 0.9);
        let buffer = gpu.upload("flow", &pairs);
        device
            .painter
            .plane(gpu, &canvas, &buffer, (Table::Flow, &paint));
        let found = canvas.read(gpu).expect("a picture");
        // The table has 64 speeds and 256 directions: half a step of each is up to 4 of 255.
        assert_eq!(differing(&found, &opaque(&from_flow(&flow, 0.9)), 6), 0);
        assert_eq!(differing(&found, &twin::flow(&pairs, &paint), 6), 0);
    }
}

#[test]
fn any_length_splits_into_small_radices() {
    for n in 1..=1024 {
        let radices = viz::radices(n);
        assert_eq!(radices.iter().product::<usize>(), n);
        let is_prime = |r: usize| (2..r).all(|d| !r.is_multiple_of(d));
        assert!(
            radices.iter().all(|&r| r <= 16 || is_prime(r)),
            "{n}: {radices:?}"
        );
    }
}

#[test]
fn the_largest_clip_goes_through_in_tiles() {
    let device = &*DEVICE;
    // 63 motion vectors of 1024 by 1024 pixels are 252 MiB, twice what every device binds at once.
    let (h, w, count) = (1024, 1024, 64);
    let parts = frames(h, w, 4);
    let frames: Vec<Frame> = (0..count).map(|i| parts[(i / 3) % 4].clone()).collect();
    let kind = Residual::Signed;
    let found = device
        .bands
        .energies(&device.gpu, &frames, (kind, 6), &|| false)
        .expect("energies")
        .expect("nobody stopped it");
    // The twin of some rows here and there: a map is made pixel by pixel.
    for row in [0, 511, 1023] {
        let pixels = row * w..(row + 1) * w;
        let twin = haar_forward(&viz::residual_rows(&frames, &pixels, kind), w, 6);
        for band in 0..=6 {
            let map: Vec<f32> = twin
                .energy_map(band)
                .expect("a band")
                .iter()
                .map(|&e| e as f32)
                .collect();
            let scale = map.iter().copied().fold(1e-6, f32::max);
            // Squares of f32 numbers; the same terms in another order.
            let error = worst(&found.maps[band][pixels.clone()], &map);
            assert!(error <= 1e-5 * f64::from(scale), "band {band}: {error:e}");
        }
    }
    // Energy over time and at each pixel are the same sum, taken in two orders.
    for band in 0..=6 {
        let map = &found.maps[band];
        let by_pixel = map.iter().map(|&e| f64::from(e)).sum::<f64>() / map.len() as f64;
        let by_time = found.energy(band);
        assert!(
            (by_pixel - by_time).abs() <= 1e-4 * by_time.max(1e-9),
            "band {band}"
        );
    }
}
