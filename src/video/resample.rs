//! Anti-aliased resizing of 8-bit frames, bit for bit as Pillow does it.
//!
//! Two passes, rows first, each a weighted sum whose kernel is widened by the factor of reduction. The weights are
//! fixed-point numbers with 22 fractional bits and the picture between the passes is rounded to 8 bits, as in Pillow's
//! `Image.resize` (its `Resample.c`); `torch.nn.functional.interpolate(antialias=True)` uses the same kernel in floats.

use super::{FitMode, Frame};

/// Interpolation kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Linear interpolation; Pillow's `BILINEAR`.
    Triangle,
    /// Keys' cubic with a = -0.5; Pillow's `BICUBIC`.
    Bicubic,
}

impl Filter {
    /// Half width of the kernel at scale one, in pixels.
    fn support(self) -> f64 {
        match self {
            Self::Triangle => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Self::Triangle => (1.0 - x).max(0.0),
            Self::Bicubic => {
                const A: f64 = -0.5;
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
        }
    }
}

/// Part of a picture in pixels: left, top, right, bottom; edges may lie between pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Region {
    /// Left edge.
    pub left: f64,
    /// Top edge.
    pub top: f64,
    /// Right edge.
    pub right: f64,
    /// Bottom edge.
    pub bottom: f64,
}

impl Region {
    /// The whole of a frame.
    pub fn of(frame: &Frame) -> Self {
        Self {
            left: 0.0,
            top: 0.0,
            right: f64::from(frame.width),
            bottom: f64::from(frame.height),
        }
    }
}

/// Fractional bits of a weight: 32, less 8 for the pixel and 2 for overshoot (Pillow's `PRECISION_BITS`).
const BITS: u32 = 32 - 8 - 2;

/// The input pixels of one output pixel and their fixed-point weights.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// Weights of every output pixel along one axis, for the input span `from..to` of `len` pixels.
fn taps(len: u32, from: f64, to: f64, out_len: u32, filter: Filter) -> Vec<Taps> {
    let scale = (to - from) / f64::from(out_len);
    let widen = scale.max(1.0);
    let support = filter.support() * widen;
    // Multiplied, not divided by, as in Pillow: the last bit of a weight depends on it.
    let narrow = 1.0 / widen;
    (0..out_len)
        .map(|i| {
            let centre = from + (f64::from(i) + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5).max(0.0) as usize).min(len as usize);
            let raw: Vec<f64> = (first..end)
                .map(|x| filter.weight((x as f64 - centre + 0.5) * narrow))
                .collect();
            let sum: f64 = raw.iter().sum();
            let fixed = |w: &f64| (w / sum * f64::from(1u32 << BITS)).round() as i32;
            Taps {
                first,
                weights: raw.iter().map(fixed).collect(),
            }
        })
        .collect()
}

/// Rounds a fixed-point sum back to a byte.
fn to_byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (BITS - 1);

/// First pass: every row to the new width.
fn resize_rows(rgb: &[u8], width: u32, taps: &[Taps]) -> Vec<u8> {
    let mut out = Vec::with_capacity(rgb.len() / width as usize * taps.len());
    for row in rgb.chunks_exact(width as usize * 3) {
        for tap in taps {
            let mut sum = [HALF; 3];
            for (pixel, &weight) in row[tap.first * 3..].chunks_exact(3).zip(&tap.weights) {
                for (acc, &value) in sum.iter_mut().zip(pixel) {
                    *acc += i32::from(value) * weight;
                }
            }
            out.extend(sum.map(to_byte));
        }
    }
    out
}

/// Second pass: every column to the new height.
fn resize_columns(rgb: &[u8], width: u32, taps: &[Taps]) -> Vec<u8> {
    let stride = width as usize * 3;
    let mut out = Vec::with_capacity(stride * taps.len());
    let mut sums = vec![HALF; stride];
    for tap in taps {
        sums.fill(HALF);
        for (row, &weight) in rgb[tap.first * stride..]
            .chunks_exact(stride)
            .zip(&tap.weights)
        {
            for (acc, &value) in sums.iter_mut().zip(row) {
                *acc += i32::from(value) * weight;
            }
        }
        out.extend(sums.iter().map(|&sum| to_byte(sum)));
    }
    out
}

/// Scales `region` of a frame to `width` x `height` pixels.
///
/// The frame must be valid ([`Frame::is_valid`]) and the size at least 1x1; anything else gives a black frame. The
/// region is cut to the picture.
pub fn resize(frame: &Frame, region: Region, width: u32, height: u32, filter: Filter) -> Frame {
    let whole = Region::of(frame);
    let left = region.left.clamp(0.0, whole.right);
    let right = region.right.clamp(left, whole.right);
    let top = region.top.clamp(0.0, whole.bottom);
    let bottom = region.bottom.clamp(top, whole.bottom);
    if !frame.is_valid() || width == 0 || height == 0 || left >= right || top >= bottom {
        return Frame::filled(width, height, [0; 3]);
    }
    let same_width = width == frame.width && left == 0.0 && right == whole.right;
    let same_height = height == frame.height && top == 0.0 && bottom == whole.bottom;
    let mut rgb = if same_width {
        frame.rgb.clone()
    } else {
        let taps = taps(frame.width, left, right, width, filter);
        resize_rows(&frame.rgb, frame.width, &taps)
    };
    if !same_height {
        let taps = taps(frame.height, top, bottom, height, filter);
        rgb = resize_columns(&rgb, width, &taps);
    }
    Frame { width, height, rgb }
}

/// Brings a frame to `width` x `height` by cropping, framing or stretching it (triangle filter).
pub fn place(frame: &Frame, width: u32, height: u32, mode: FitMode) -> Frame {
    let whole = Region::of(frame);
    match mode {
        FitMode::Stretch => resize(frame, whole, width, height, Filter::Triangle),
        FitMode::Crop => {
            let region = centre_crop(frame, width, height);
            resize(frame, region, width, height, Filter::Triangle)
        }
        FitMode::Contain => {
            let (inner_w, inner_h) = contained_size(frame, width, height);
            let inner = resize(frame, whole, inner_w, inner_h, Filter::Triangle);
            paste_centred(&inner, width, height)
        }
    }
}

/// The largest centred part of a frame that has the shape `width` : `height`.
pub fn centre_crop(frame: &Frame, width: u32, height: u32) -> Region {
    let (w, h) = (f64::from(frame.width), f64::from(frame.height));
    let wanted = f64::from(width) / f64::from(height);
    let (crop_w, crop_h) = if w > h * wanted {
        (h * wanted, h)
    } else {
        (w, w / wanted)
    };
    let (left, top) = ((w - crop_w) / 2.0, (h - crop_h) / 2.0);
    Region {
        left,
        top,
        // Written as differences so that an uncropped axis keeps its exact edges.
        right: w - left,
        bottom: h - top,
    }
}

/// The largest size of the frame's shape inside `width` x `height`, at least 1x1.
pub fn contained_size(frame: &Frame, width: u32, height: u32) -> (u32, u32) {
    let (w, h) = (f64::from(frame.width), f64::from(frame.height));
    let scale = (f64::from(width) / w).min(f64::from(height) / h);
    (
        ((w * scale).round() as u32).clamp(1, width.max(1)),
        ((h * scale).round() as u32).clamp(1, height.max(1)),
    )
}

/// Puts a frame in the middle of a black one that is at least as large.
fn paste_centred(inner: &Frame, width: u32, height: u32) -> Frame {
    let mut outer = Frame::filled(width, height, [0; 3]);
    let left = (width - inner.width) as usize / 2;
    let top = (height - inner.height) as usize / 2;
    let inner_stride = inner.width as usize * 3;
    let stride = width as usize * 3;
    for (y, row) in inner.rgb.chunks_exact(inner_stride).enumerate() {
        let at = (top + y) * stride + left * 3;
        outer.rgb[at..at + inner_stride].copy_from_slice(row);
    }
    outer
}

/// Scales a frame down until its longer side is at most `max_side`; smaller frames stay as they are.
pub fn shrink_to(frame: Frame, max_side: u32) -> Frame {
    if frame.width.max(frame.height) <= max_side {
        return frame;
    }
    let (width, height) = contained_size(&frame, max_side, max_side);
    resize(&frame, Region::of(&frame), width, height, Filter::Triangle)
}

/// Repeats every pixel `factor` times in both directions.
pub fn enlarge_nearest(frame: &Frame, factor: u32) -> Frame {
    let factor_usize = factor as usize;
    let stride = frame.width as usize * 3;
    let mut rgb = Vec::with_capacity(frame.rgb.len() * factor_usize * factor_usize);
    for row in frame.rgb.chunks_exact(stride.max(1)) {
        let start = rgb.len();
        for pixel in row.chunks_exact(3) {
            for _ in 0..factor_usize {
                rgb.extend_from_slice(pixel);
            }
        }
        let wide = rgb.len() - start;
        for _ in 1..factor_usize {
            rgb.extend_from_within(start..start + wide);
        }
    }
    Frame {
        width: frame.width * factor,
        height: frame.height * factor,
        rgb,
    }
}
