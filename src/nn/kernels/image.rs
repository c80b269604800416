//! Which input row each output pixel of a convolution reads for each kernel tap.

use super::product::Rows;

/// A convolution of channels-last images, or the gradient of one with respect to its input.
#[derive(Clone, Debug)]
pub struct Geometry {
    pub images: usize,
    /// `(h, w)` of what is read.
    pub input: (usize, usize),
    /// `(h, w)` of what is written.
    pub output: (usize, usize),
    pub kernel: (usize, usize),
    pub stride: usize,
    /// Zeros above and left of the forward input.
    pub before: (usize, usize),
    /// Whether this is the gradient: what is read is the gradient of the output.
    pub transposed: bool,
}

impl Geometry {
    /// The gradient with respect to the input of this convolution.
    pub fn gradient(&self) -> Self {
        Self {
            input: self.output,
            output: self.input,
            transposed: !self.transposed,
            ..self.clone()
        }
    }

    /// The rows of the product for `depth` channels in and `columns` out.
    pub fn rows(&self, depth: usize, columns: usize) -> Image {
        let axis = |from, to, kernel, before| Axis::new(self, (from, to), kernel, before);
        Image {
            images: self.images,
            input: self.input,
            output: self.output,
            kernel_width: self.kernel.1,
            y: axis(self.input.0, self.output.0, self.kernel.0, self.before.0),
            x: axis(self.input.1, self.output.1, self.kernel.1, self.before.1),
            depth,
            columns,
        }
    }
}

/// One axis of an image: what each output place reads for each kernel place.
#[derive(Clone, Debug)]
struct Axis {
    /// Output places in the order they are computed: those that read the same taps stand together, so that the
    /// many taps a strided gradient does not touch are skipped.
    order: Vec<usize>,
    /// For each output place, for each kernel place.
    source: Vec<Option<usize>>,
    kernel: usize,
}

impl Axis {
    fn new(geometry: &Geometry, (from, to): (usize, usize), kernel: usize, before: usize) -> Self {
        let stride = geometry.stride;
        let source = |o: usize, k: usize| {
            let place = if geometry.transposed {
                let shifted = (o + before).checked_sub(k)?;
                shifted.is_multiple_of(stride).then_some(shifted / stride)?
            } else {
                (o * stride + k).checked_sub(before)?
            };
            (place < from).then_some(place)
        };
        let classes = if geometry.transposed { stride } else { 1 };
        let order = (0..classes)
            .flat_map(|class| (class..to).step_by(classes))
            .collect();
        Self {
            order,
            source: (0..to)
                .flat_map(|o| (0..kernel).map(move |k| source(o, k)))
                .collect(),
            kernel,
        }
    }
}

/// The rows of the product of a [`Geometry`].
#[derive(Clone, Debug)]
pub struct Image {
    images: usize,
    input: (usize, usize),
    output: (usize, usize),
    kernel_width: usize,
    y: Axis,
    x: Axis,
    depth: usize,
    columns: usize,
}

impl Image {
    /// Image, y and x of the `row`th row.
    #[inline(always)]
    fn place(&self, row: usize) -> (usize, usize, usize) {
        let (line, x) = (row / self.output.1, row % self.output.1);
        (
            line / self.output.0,
            self.y.order[line % self.output.0],
            self.x.order[x],
        )
    }
}

// SAFETY: each axis visits every place once, so each row has an output pixel of its own.
#[expect(unsafe_code, reason = "pixels are disjoint")]
unsafe impl Rows for Image {
    fn count(&self) -> usize {
        self.images * self.output.0 * self.output.1
    }

    #[inline(always)]
    fn input(&self, row: usize, tap: usize) -> Option<usize> {
        let (image, y, x) = self.place(row);
        let y = self.y.source[y * self.y.kernel + tap / self.kernel_width]?;
        let x = self.x.source[x * self.x.kernel + tap % self.kernel_width]?;
        Some(((image * self.input.0 + y) * self.input.1 + x) * self.depth)
    }

    #[inline(always)]
    fn output(&self, row: usize) -> usize {
        let (image, y, x) = self.place(row);
        ((image * self.output.0 + y) * self.output.1 + x) * self.columns
    }
}
