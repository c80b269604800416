//! Turning and mirroring by quarter turns, as a film's metadata asks.

use super::Frame;

/// One of the eight ways a rectangle can lie: transposed or not, then mirrored along either axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Orientation {
    transpose: bool,
    flip_x: bool,
    flip_y: bool,
}

impl Orientation {
    /// As stored.
    pub(super) const UPRIGHT: Self = Self {
        transpose: false,
        flip_x: false,
        flip_y: false,
    };

    /// From the nine 16.16 fixed-point numbers of a display matrix, in the machine's byte order.
    ///
    /// A stored point `(x, y)` is shown at `(a x + c y, b x + d y)` with the matrix read as `a b u, c d v, ...`
    /// (FFmpeg's `libavutil/display.h`). Angles between quarter turns go to the nearest one.
    pub(super) fn from_display_matrix(bytes: &[u8]) -> Self {
        let number = |i: usize| {
            bytes
                .get(i * 4..i * 4 + 4)
                .and_then(|b| b.try_into().ok())
                .map_or(0, i32::from_ne_bytes)
        };
        let (a, b, c, d) = (number(0), number(1), number(3), number(4));
        let transpose = c.unsigned_abs() > a.unsigned_abs();
        Self {
            transpose,
            flip_x: if transpose { c < 0 } else { a < 0 },
            flip_y: if transpose { b < 0 } else { d < 0 },
        }
    }

    /// From the angle of the older `rotate` tag: clockwise, in degrees.
    pub(super) fn from_clockwise_degrees(degrees: f64) -> Self {
        let (transpose, flip_x, flip_y) = match (degrees / 90.0).round().rem_euclid(4.0) as u8 {
            1 => (true, true, false),
            2 => (false, true, true),
            3 => (true, false, true),
            _ => (false, false, false),
        };
        Self {
            transpose,
            flip_x,
            flip_y,
        }
    }

    /// Size after turning.
    pub(super) fn turned_size(self, width: u32, height: u32) -> (u32, u32) {
        if self.transpose {
            (height, width)
        } else {
            (width, height)
        }
    }

    /// Turns a frame.
    pub(super) fn apply(self, frame: Frame) -> Frame {
        if self == Self::UPRIGHT {
            return frame;
        }
        let (width, height) = self.turned_size(frame.width, frame.height);
        let mut rgb = Vec::with_capacity(frame.rgb.len());
        for y in 0..height {
            for x in 0..width {
                let x = if self.flip_x { width - 1 - x } else { x };
                let y = if self.flip_y { height - 1 - y } else { y };
                let (from_x, from_y) = if self.transpose { (y, x) } else { (x, y) };
                rgb.extend(frame.pixel(from_x, from_y));
            }
        }
        Frame { width, height, rgb }
    }
}
