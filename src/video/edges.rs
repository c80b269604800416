//! Edges of a picture as OpenCV's `Canny` draws them: the pictures that ControlNets for edges were trained on.

use super::Frame;

/// Binary digits behind the point in the slopes below.
const SHIFT: u32 = 15;
/// The tangent of 22.5 degrees, rounded as OpenCV rounds it.
const TAN_22: i64 = 13573;

/// White edges on black.
///
/// Gradients are those of 3x3 Sobel filters without blurring before, their size is `|dx| + |dy|` of the colour in which it
/// is largest. An edge begins above `high` and goes on above `low`; both count from 0 to 2040. They are cut to whole numbers.
/// A picture whose bytes do not match its size is black.
///
/// Source: J. Canny, "A computational approach to edge detection" (1986), as in OpenCV 4 with aperture 3 and L1 norm
/// (`modules/imgproc/src/canny.cpp`), to the pixel.
#[must_use]
pub fn canny(frame: &Frame, low: f32, high: f32) -> Frame {
    let mut edges = Frame::filled(frame.width, frame.height, [0; 3]);
    if !frame.is_valid() {
        return edges;
    }
    let gradients = Gradients::of(frame);
    // The casts cut, as OpenCV does.
    let (low, high) = (low.min(high).floor() as i64, low.max(high).floor() as i64);
    let (width, height) = (frame.width as usize, frame.height as usize);
    let mut begun = Vec::new();
    let mut state = vec![Pixel::None; width * height];
    for y in 0..height {
        for x in 0..width {
            let at = y * width + x;
            if gradients.size[at] <= low || !gradients.is_ridge(x, y) {
                continue;
            }
            if gradients.size[at] > high {
                state[at] = Pixel::Edge;
                begun.push((x, y));
            } else {
                state[at] = Pixel::Weak;
            }
        }
    }
    // Weak pixels become edges where they touch one.
    while let Some((x, y)) = begun.pop() {
        for ny in y.saturating_sub(1)..(y + 2).min(height) {
            for nx in x.saturating_sub(1)..(x + 2).min(width) {
                let state = &mut state[ny * width + nx];
                if *state == Pixel::Weak {
                    *state = Pixel::Edge;
                    begun.push((nx, ny));
                }
            }
        }
    }
    for (pixel, state) in edges.rgb.chunks_exact_mut(3).zip(state) {
        if state == Pixel::Edge {
            pixel.fill(255);
        }
    }
    edges
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pixel {
    None,
    Weak,
    Edge,
}

/// Of each pixel the strongest colour's gradient and its size.
struct Gradients {
    dx: Vec<i64>,
    dy: Vec<i64>,
    size: Vec<i64>,
    width: usize,
    height: usize,
}

impl Gradients {
    fn of(frame: &Frame) -> Self {
        let (width, height) = (frame.width as usize, frame.height as usize);
        let mut all = Self {
            dx: vec![0; width * height],
            dy: vec![0; width * height],
            size: vec![-1; width * height],
            width,
            height,
        };
        // Outside the picture its outermost pixels go on.
        let before = |at: usize| at.saturating_sub(1);
        for y in 0..height {
            let (above, below) = (before(y), (y + 1).min(height - 1));
            for x in 0..width {
                let (left, right) = (before(x), (x + 1).min(width - 1));
                for colour in 0..3 {
                    let value =
                        |x: usize, y: usize| i64::from(frame.rgb[(y * width + x) * 3 + colour]);
                    let column = |x| value(x, above) + 2 * value(x, y) + value(x, below);
                    let row = |y| value(left, y) + 2 * value(x, y) + value(right, y);
                    let (dx, dy) = (column(right) - column(left), row(below) - row(above));
                    let (at, size) = (y * width + x, dx.abs() + dy.abs());
                    if size > all.size[at] {
                        (all.dx[at], all.dy[at], all.size[at]) = (dx, dy, size);
                    }
                }
            }
        }
        all
    }

    /// The size of a gradient; 0 outside the picture.
    fn size_at(&self, x: usize, y: usize, (right, down): (isize, isize)) -> i64 {
        let place = x.checked_add_signed(right).zip(y.checked_add_signed(down));
        match place {
            Some((x, y)) if x < self.width && y < self.height => self.size[y * self.width + x],
            _ => 0,
        }
    }

    /// Whether no neighbour along the gradient is steeper, in four directions. Of two equal ones the first is taken.
    fn is_ridge(&self, x: usize, y: usize) -> bool {
        let at = y * self.width + x;
        let (dx, dy, size) = (self.dx[at], self.dy[at], self.size[at]);
        let steep = dy.abs() << SHIFT;
        let flat = dx.abs() * TAN_22;
        let near = |offset| self.size_at(x, y, offset);
        if steep < flat {
            size > near((-1, 0)) && size >= near((1, 0))
        } else if steep > flat + (dx.abs() << (SHIFT + 1)) {
            size > near((0, -1)) && size >= near((0, 1))
        } else {
            let side = if (dx ^ dy) < 0 { -1 } else { 1 };
            size > near((-side, -1)) && size > near((side, 1))
        }
    }
}
