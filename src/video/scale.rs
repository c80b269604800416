//! Between FFmpeg's pixel formats and 8-bit RGB, with the right matrix and range.

use ffmpeg_next::Error;
use ffmpeg_next::color::{Range, Space};
use ffmpeg_next::format::Pixel;
use ffmpeg_next::frame::Video;
use ffmpeg_next::software::scaling::{Context, Flags};

use super::Frame;
use super::ffi::{Matrix, set_colours};

/// What a scaler was made for.
#[derive(Clone, Copy, PartialEq)]
struct Key {
    format: Pixel,
    width: u32,
    height: u32,
    matrix: Matrix,
    full_range: Option<bool>,
}

/// The matrix of a decoded frame: as declared, else by size, as players guess (HD is BT.709, smaller is BT.601).
fn matrix_of(frame: &Video) -> Matrix {
    match frame.color_space() {
        Space::BT709 => Matrix::Bt709,
        Space::BT470BG | Space::SMPTE170M => Matrix::Bt601,
        Space::SMPTE240M => Matrix::Smpte240,
        Space::FCC => Matrix::Fcc,
        Space::BT2020NCL | Space::BT2020CL => Matrix::Bt2020,
        _ if frame.width() >= 1280 || frame.height() >= 720 => Matrix::Bt709,
        _ => Matrix::Bt601,
    }
}

/// Converts decoded frames of any format to RGB of one size.
pub(super) struct ToRgb {
    width: u32,
    height: u32,
    scaler: Option<(Key, Context)>,
    rgb: Video,
}

impl ToRgb {
    /// `width` x `height` is the size of the result, in pixels.
    pub(super) fn new(width: u32, height: u32) -> Self {
        Self {
            width,
            height,
            scaler: None,
            rgb: Video::empty(),
        }
    }

    /// Converts one frame; its format and size may differ from the last one's.
    pub(super) fn convert(&mut self, frame: &Video) -> Result<Frame, Error> {
        let key = Key {
            format: frame.format(),
            width: frame.width(),
            height: frame.height(),
            matrix: matrix_of(frame),
            full_range: match frame.color_range() {
                Range::JPEG => Some(true),
                Range::MPEG => Some(false),
                Range::Unspecified => None,
            },
        };
        let scaler = match &mut self.scaler {
            Some((made_for, scaler)) if *made_for == key => scaler,
            slot => {
                &mut slot
                    .insert((key, open_scaler(&key, self.width, self.height)?))
                    .1
            }
        };
        scaler.run(frame, &mut self.rgb)?;
        let (stride, row) = (self.rgb.stride(0), self.width as usize * 3);
        let mut rgb = Vec::with_capacity(row * self.height as usize);
        for line in self.rgb.data(0).chunks(stride).take(self.height as usize) {
            rgb.extend_from_slice(&line[..row]);
        }
        Ok(Frame {
            width: self.width,
            height: self.height,
            rgb,
        })
    }
}

fn open_scaler(key: &Key, width: u32, height: u32) -> Result<Context, Error> {
    // Bilinear in swscale widens with the reduction, so that it is free of aliasing like our own triangle filter.
    let flags =
        Flags::BILINEAR | Flags::ACCURATE_RND | Flags::FULL_CHR_H_INT | Flags::FULL_CHR_H_INP;
    let mut scaler = Context::get(
        key.format,
        key.width,
        key.height,
        Pixel::RGB24,
        width,
        height,
        flags,
    )?;
    set_colours(&mut scaler, key.matrix, key.full_range, true);
    Ok(scaler)
}

/// Converts RGB frames of one size to `YUV420P`, BT.709, limited range.
pub(super) struct ToYuv {
    scaler: Context,
    rgb: Video,
}

impl ToYuv {
    /// Width and height must be even, since each colour sample covers 2x2 pixels.
    pub(super) fn new(width: u32, height: u32) -> Result<Self, Error> {
        let flags =
            Flags::BICUBIC | Flags::ACCURATE_RND | Flags::FULL_CHR_H_INT | Flags::FULL_CHR_H_INP;
        let mut scaler = Context::get(
            Pixel::RGB24,
            width,
            height,
            Pixel::YUV420P,
            width,
            height,
            flags,
        )?;
        set_colours(&mut scaler, Matrix::Bt709, Some(false), false);
        Ok(Self {
            scaler,
            rgb: Video::new(Pixel::RGB24, width, height),
        })
    }

    /// Converts one frame of the size given to `new`, padding by repeating its last row and column where it is smaller.
    pub(super) fn convert(&mut self, frame: &Frame, yuv: &mut Video) -> Result<(), Error> {
        let (width, height) = (self.rgb.width() as usize, self.rgb.height() as usize);
        let (stride, row) = (self.rgb.stride(0), frame.width as usize * 3);
        let rows = frame.rgb.chunks_exact(row);
        let last = rows.clone().next_back().ok_or(Error::InvalidData)?;
        let padded = rows.chain(std::iter::repeat(last)).take(height);
        for (line, source) in self.rgb.data_mut(0).chunks_mut(stride).zip(padded) {
            line[..row].copy_from_slice(source);
            for x in frame.width as usize..width {
                line.copy_within(row - 3..row, x * 3);
            }
        }
        self.scaler.run(&self.rgb, yuv)
    }
}
