//! Depth of a clip, frame by frame, as a ControlNet wants it.

use candle_core::{Result, Tensor};

use super::{OnStep, Sampled};
use crate::models::DepthAnything;
use crate::nn::no_grad;
use crate::video::Frame;
use crate::video::resample::{self, Filter, Region};

/// A side of what the network looks at, in pixels; that of its preprocessor's file.
const LOOKED_AT: u32 = 518;
/// Mean and standard deviation of the pictures it was trained on.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// Grey frames of the same size, near is bright, on one scale for all of them, so that nothing flickers.
///
/// # Errors
/// When the device has no room.
pub fn estimate_depth(
    model: &DepthAnything,
    frames: &[Frame],
    on_step: OnStep<'_>,
) -> Result<Sampled<Vec<Frame>>> {
    let mut all = Vec::with_capacity(frames.len());
    for (i, frame) in frames.iter().enumerate() {
        all.push(nearness(model, frame)?);
        if on_step(i + 1, frames.len()).is_break() {
            return Ok(Sampled::Cancelled);
        }
    }
    let grey = grey(&all, frames);
    Ok(Sampled::Done(grey))
}

/// How near the pixels of a frame are, rows first, in no unit.
fn nearness(model: &DepthAnything, frame: &Frame) -> Result<Vec<f32>> {
    let (w, h) = looked_at((frame.width, frame.height), model.patch());
    let seen = resample::resize(frame, Region::of(frame), w, h, Filter::Bicubic);
    let normalised = |pixel: &[u8]| {
        let channel = |c: usize| (f32::from(pixel[c]) / 255.0 - MEAN[c]) / DEVIATION[c];
        [channel(0), channel(1), channel(2)]
    };
    let numbers: Vec<f32> = seen.rgb.chunks_exact(3).flat_map(normalised).collect();
    let x = Tensor::from_vec(numbers, (1, h as usize, w as usize, 3), model.device())?;
    let size = (frame.height as usize, frame.width as usize);
    no_grad(|| model.forward_sized(&x, size))?
        .flatten_all()?
        .to_vec1()
}

/// The size at which the network looks at a picture, as transformers' `DPTImageProcessor` has it with `keep_aspect_ratio`: one
/// side is 518 pixels, that which changes the picture's size least, and both are whole patches.
fn looked_at((w, h): (u32, u32), patch: usize) -> (u32, u32) {
    let scale = |side: u32| f64::from(LOOKED_AT) / f64::from(side.max(1));
    let (by_width, by_height) = (scale(w), scale(h));
    let scale = if (1.0 - by_width).abs() < (1.0 - by_height).abs() {
        by_width
    } else {
        by_height
    };
    let patch = patch as f64;
    let side = |side: u32| ((f64::from(side) * scale / patch).round().max(1.0) * patch) as u32;
    (side(w), side(h))
}

fn grey(nearness: &[Vec<f32>], frames: &[Frame]) -> Vec<Frame> {
    let numbers = nearness.iter().flatten().copied();
    let (least, most) = numbers
        .filter(|x| x.is_finite())
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), x| {
            (a.min(x), b.max(x))
        });
    let range = if most > least { most - least } else { 1.0 };
    let shade = |x: &f32| [((x - least) / range * 255.0).round().clamp(0.0, 255.0) as u8; 3];
    let frame = |(numbers, frame): (&Vec<f32>, &Frame)| Frame {
        width: frame.width,
        height: frame.height,
        rgb: numbers.iter().flat_map(shade).collect(),
    };
    nearness.iter().zip(frames).map(frame).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// transformers 5.23.0, `DPTImageProcessor(size=518x518, keep_aspect_ratio=True, ensure_multiple_of=14)`.
    #[test]
    fn pictures_are_looked_at_in_the_size_of_the_preprocessor() {
        for (frame, seen) in [
            ((64, 64), (518, 518)),
            ((1920, 1080), (924, 518)),
            ((1080, 1920), (518, 924)),
            ((768, 512), (784, 518)),
            ((1024, 576), (924, 518)),
            ((576, 320), (518, 294)),
            ((640, 480), (686, 518)),
            ((300, 518), (294, 518)),
            ((100, 4000), (14, 518)),
            ((4000, 100), (518, 14)),
        ] {
            assert_eq!(looked_at(frame, 14), seen, "{frame:?}");
        }
    }

    #[test]
    fn one_scale_for_all_frames_and_near_is_bright() {
        let frame = Frame::filled(2, 1, [0; 3]);
        let frames = [frame.clone(), frame];
        let grey = grey(&[vec![1.0, 2.0], vec![3.0, 5.0]], &frames);
        assert_eq!(grey[0].rgb, [0, 0, 0, 64, 64, 64]);
        assert_eq!(grey[1].rgb, [128, 128, 128, 255, 255, 255]);
        let flat = super::grey(&[vec![2.0, 2.0]], &frames[..1]);
        assert_eq!(
            flat[0].rgb, [0; 6],
            "a clip without depth is black, not a division by zero"
        );
    }
}
