//! Line plots without text: curves over a shared horizontal axis, each scaled to its own range.

use super::sheet::GROUND;
use crate::video::Frame;

const MARGIN: f64 = 12.0;
const GRID: [u8; 3] = [58, 58, 64];
const AXIS: [u8; 3] = [130, 130, 138];
/// Half the width of a curve, in pixels.
const PEN: f64 = 1.1;

/// One line of a plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// Points in rising order of x.
    pub points: Vec<(f64, f64)>,
    /// Vertical range drawn over the full height.
    pub range: (f64, f64),
    /// Colour of the line.
    pub colour: [u8; 3],
}

/// Draw `curves` on `width` by `height` pixels over `x` from `x_range.0` to `x_range.1`.
///
/// The grid has lines at tenths of the height and at multiples of `x_step`; `marks` are vertical lines of their own
/// colour, such as a cutoff.
pub fn plot(
    (width, height): (u32, u32),
    x_range: (f64, f64),
    x_step: f64,
    curves: &[Curve],
    marks: &[(f64, [u8; 3])],
) -> Frame {
    let mut canvas = Canvas {
        frame: Frame::filled(width, height, GROUND),
    };
    let (right, bottom) = (f64::from(width) - MARGIN, f64::from(height) - MARGIN);
    let at_x = |x: f64| MARGIN + (x - x_range.0) / (x_range.1 - x_range.0) * (right - MARGIN);
    let at_y = |y: f64, range: (f64, f64)| {
        bottom - (y - range.0) / (range.1 - range.0) * (bottom - MARGIN)
    };
    for tenth in 0..=10 {
        let y = at_y(f64::from(tenth), (0.0, 10.0));
        canvas.line((MARGIN, y), (right, y), GRID, 0.5);
    }
    let steps = if x_step > 0.0 {
        ((x_range.1 - x_range.0) / x_step).floor().min(1000.0) as u32
    } else {
        0
    };
    for step in 0..=steps {
        let x = at_x(x_range.0 + f64::from(step) * x_step);
        canvas.line((x, MARGIN), (x, bottom), GRID, 0.5);
    }
    canvas.line((MARGIN, bottom), (right, bottom), AXIS, 0.8);
    canvas.line((MARGIN, MARGIN), (MARGIN, bottom), AXIS, 0.8);
    for &(x, colour) in marks {
        canvas.line((at_x(x), MARGIN), (at_x(x), bottom), colour, 1.0);
    }
    for curve in curves {
        let place = |&(x, y): &(f64, f64)| (at_x(x), at_y(y, curve.range));
        for pair in curve.points.windows(2) {
            canvas.line(place(&pair[0]), place(&pair[1]), curve.colour, PEN);
        }
    }
    canvas.frame
}

struct Canvas {
    frame: Frame,
}

impl Canvas {
    /// A line with soft edges: each pixel is covered by how near its centre lies.
    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: [u8; 3], pen: f64) {
        if ![from.0, from.1, to.0, to.1].iter().all(|v| v.is_finite()) {
            return;
        }
        let reach = pen + 1.0;
        let (width, height) = (f64::from(self.frame.width), f64::from(self.frame.height));
        let left = (from.0.min(to.0) - reach).clamp(0.0, width) as usize;
        let right = (from.0.max(to.0) + reach).clamp(0.0, width) as usize;
        let top = (from.1.min(to.1) - reach).clamp(0.0, height) as usize;
        let bottom = (from.1.max(to.1) + reach).clamp(0.0, height) as usize;
        for y in top..bottom {
            for x in left..right {
                let away = distance((x as f64 + 0.5, y as f64 + 0.5), from, to);
                let cover = (pen + 0.5 - away).clamp(0.0, 1.0);
                let at = (y * self.frame.width as usize + x) * 3;
                for (pixel, &ink) in self.frame.rgb[at..at + 3].iter_mut().zip(&colour) {
                    let mixed = f64::from(*pixel) * (1.0 - cover) + f64::from(ink) * cover;
                    *pixel = mixed.round() as u8;
                }
            }
        }
    }
}

/// Distance of a point from a line segment.
fn distance(point: (f64, f64), from: (f64, f64), to: (f64, f64)) -> f64 {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let squared = dx * dx + dy * dy;
    let along = (point.0 - from.0) * dx + (point.1 - from.1) * dy;
    let t = if squared > 0.0 {
        (along / squared).clamp(0.0, 1.0)
    } else {
        0.0
    };
    (point.0 - from.0 - t * dx).hypot(point.1 - from.1 - t * dy)
}
