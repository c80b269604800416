//! The matrix product behind linear layers, convolutions and attention.
//!
//! The right matrix is packed once into panels as wide as two vector registers. The rows of the left matrix
//! are only pointed at, one pointer a row and kernel tap: a convolution needs no copy of its input (an
//! "indirect" convolution), its padding is a pointer to zeros.

use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::Real;
use super::shared::SharedMut;
use super::simd::{Kernel, Level, Simd};

/// Registers a panel is wide.
const REGISTERS: usize = 2;
/// The widest panel of any level, in numbers.
const WIDEST_PANEL: usize = 32;
/// Numbers of a panel that are used before the next rows: 256 KiB of f32, to stay in a second-level cache.
const PANEL_BLOCK: usize = 1 << 16;
/// Rows of one piece of work.
const ROWS_PER_JOB: usize = 96;
/// Multiplications below which other threads are not worth waking.
const SERIAL_WORK: usize = 1 << 17;

/// Where the numbers of the right matrix lie in the buffer it is packed from.
#[derive(Clone, Copy, Debug)]
pub struct Strides {
    pub tap: usize,
    pub depth: usize,
    pub column: usize,
}

/// The right matrix of a product, `taps * depth` rows by `columns`, packed.
///
/// Order of the numbers: panel, tap, depth, column inside the panel; the last panel is filled with zeros.
#[derive(Clone, Debug)]
pub struct Panels<T> {
    level: Level,
    taps: usize,
    depth: usize,
    columns: usize,
    data: Vec<T>,
}

impl<T: Real> Panels<T> {
    /// No matrix yet; for [`Panels::pack`].
    pub fn empty(level: Level) -> Self {
        Self {
            level,
            taps: 0,
            depth: 0,
            columns: 0,
            data: Vec::new(),
        }
    }

    /// Packs a matrix of `(taps, depth, columns)` into `self`, reusing its memory.
    pub fn pack(
        &mut self,
        source: &[T],
        (taps, depth, columns): (usize, usize, usize),
        strides: Strides,
    ) {
        let width = REGISTERS * T::width(self.level);
        let panel = taps * depth * width;
        (self.taps, self.depth, self.columns) = (taps, depth, columns);
        self.data.clear();
        self.data.resize(columns.div_ceil(width) * panel, T::ZERO);
        if panel == 0 {
            return;
        }
        let fill = |(p, out): (usize, &mut [T])| {
            let first = p * width;
            let count = width.min(columns - first);
            let mut rows = out.chunks_exact_mut(width);
            for tap in 0..taps {
                for k in 0..depth {
                    let start = tap * strides.tap + k * strides.depth + first * strides.column;
                    let Some(row) = rows.next() else { return };
                    if strides.column == 1 {
                        row[..count].copy_from_slice(&source[start..start + count]);
                    } else {
                        for (j, v) in row[..count].iter_mut().enumerate() {
                            *v = source[start + j * strides.column];
                        }
                    }
                }
            }
        };
        if self.data.len() < SERIAL_WORK {
            self.data.chunks_exact_mut(panel).enumerate().for_each(fill);
        } else {
            self.data
                .par_chunks_exact_mut(panel)
                .enumerate()
                .for_each(fill);
        }
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    fn width(&self) -> usize {
        REGISTERS * T::width(self.level)
    }

    fn panel(&self, index: usize) -> &[T] {
        let size = self.taps * self.depth * self.width();
        &self.data[index * size..(index + 1) * size]
    }
}

/// The rows of the left matrix and of the result, as places in their buffers.
///
/// # Safety
/// The outputs of different rows do not overlap: threads write them at the same time.
#[expect(
    unsafe_code,
    reason = "the promise of disjoint rows cannot be checked row by row"
)]
pub unsafe trait Rows: Sync {
    /// How many there are.
    fn count(&self) -> usize;
    /// Where the inputs of `row` for a kernel tap begin; `None` stands for zeros.
    fn input(&self, row: usize, tap: usize) -> Option<usize>;
    /// Where the outputs of `row` begin.
    fn output(&self, row: usize) -> usize;
    /// Distance between one input of a row and the next.
    fn step(&self) -> usize {
        1
    }
}

/// The rows of plain matrices.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    rows: usize,
    /// First input, distance between rows, distance between the inputs of a row.
    input: (usize, usize, usize),
    /// First output, distance between rows.
    output: (usize, usize),
}

impl Matrix {
    /// `rows` rows: of inputs, the first place and the distances between rows and inside a row; of the `columns`
    /// outputs, the first place and the distance between rows.
    pub fn new(
        rows: usize,
        input: (usize, usize, usize),
        output: (usize, usize),
        columns: usize,
    ) -> Self {
        assert!(output.1 >= columns, "rows of a product overlap");
        Self {
            rows,
            input,
            output,
        }
    }

    /// Contiguous matrices, `depth` numbers in and `columns` out.
    pub fn contiguous(rows: usize, depth: usize, columns: usize) -> Self {
        Self::new(rows, (0, depth, 1), (0, columns), columns)
    }
}

// SAFETY: `Matrix::new` checks that rows are as far apart as they are long.
#[expect(unsafe_code, reason = "checked when it is made")]
unsafe impl Rows for Matrix {
    fn count(&self) -> usize {
        self.rows
    }
    #[inline(always)]
    fn input(&self, row: usize, _tap: usize) -> Option<usize> {
        Some(self.input.0 + row * self.input.1)
    }
    #[inline(always)]
    fn output(&self, row: usize) -> usize {
        self.output.0 + row * self.output.1
    }
    fn step(&self) -> usize {
        self.input.2
    }
}

/// What the result starts from.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a, T> {
    Zero,
    /// One number a column.
    Bias(&'a [T]),
    /// What the result buffer holds.
    Result,
}

static WORK: AtomicU64 = AtomicU64::new(0);

/// Multiplications of products and attention since the program began.
pub fn work_done() -> u64 {
    WORK.load(Ordering::Relaxed)
}

/// Counts some more.
pub fn count_work(multiplications: usize) {
    WORK.fetch_add(multiplications as u64, Ordering::Relaxed);
}

/// `result = start + left · right` on all threads.
pub fn multiply<T: Real>(
    left: &[T],
    rows: &impl Rows,
    right: &Panels<T>,
    start: Start<'_, T>,
    result: &mut [T],
) {
    let count = rows.count();
    let panels = right.columns.div_ceil(right.width());
    let zeros = vec![T::ZERO; right.depth * rows.step()];
    let start = Bias::new(start, right);
    let result = SharedMut::new(result);
    let work = count * right.taps * right.depth * right.columns;
    count_work(work);
    if work < SERIAL_WORK {
        run(Job {
            left,
            rows,
            right,
            start: &start,
            result: &result,
            zeros: &zeros,
            part: (0..count, 0..panels),
        });
        return;
    }
    // Short and wide products (one token, many outputs) are cut by columns as well.
    let row_jobs = count.div_ceil(ROWS_PER_JOB);
    let column_jobs = if row_jobs >= 16 {
        1
    } else {
        panels.min(16usize.div_ceil(row_jobs))
    };
    let panels_per_job = panels.div_ceil(column_jobs);
    (0..row_jobs * column_jobs).into_par_iter().for_each(|job| {
        let (row, panel) = (
            job / column_jobs * ROWS_PER_JOB,
            job % column_jobs * panels_per_job,
        );
        let part = (
            row..count.min(row + ROWS_PER_JOB),
            panel.min(panels)..panels.min(panel + panels_per_job),
        );
        run(Job {
            left,
            rows,
            right,
            start: &start,
            result: &result,
            zeros: &zeros,
            part,
        });
    });
}

/// [`multiply`] on the calling thread, for work that is already spread over threads.
pub fn multiply_here<T: Real>(
    left: &[T],
    rows: &Matrix,
    right: &Panels<T>,
    start: Start<'_, T>,
    result: &mut [T],
) {
    // SAFETY: the result is borrowed exclusively.
    #[expect(unsafe_code, reason = "no other thread can see the result")]
    unsafe {
        multiply_shared(left, rows, right, start, &SharedMut::new(result));
    }
}

/// [`multiply_here`] into a result that other threads write as well.
///
/// # Safety
/// No other thread touches the rows of the result that `rows` names.
#[expect(unsafe_code, reason = "disjointness is the caller's duty")]
pub unsafe fn multiply_shared<T: Real>(
    left: &[T],
    rows: &Matrix,
    right: &Panels<T>,
    start: Start<'_, T>,
    result: &SharedMut<'_, T>,
) {
    let panels = right.columns.div_ceil(right.width());
    let start = Bias::new(start, right);
    run(Job {
        left,
        rows,
        right,
        start: &start,
        result,
        // A matrix has no padding.
        zeros: &[],
        part: (0..rows.count(), 0..panels),
    });
}

/// The start with a bias filled up to whole panels.
enum Bias<T> {
    Result,
    Columns(Option<Vec<T>>),
}

impl<T: Real> Bias<T> {
    fn new(start: Start<'_, T>, right: &Panels<T>) -> Self {
        match start {
            Start::Zero => Self::Columns(None),
            Start::Result => Self::Result,
            Start::Bias(bias) => {
                let mut columns = bias.to_vec();
                columns.resize(right.columns.next_multiple_of(right.width()), T::ZERO);
                Self::Columns(Some(columns))
            }
        }
    }
}

struct Job<'a, T, R> {
    left: &'a [T],
    rows: &'a R,
    right: &'a Panels<T>,
    start: &'a Bias<T>,
    result: &'a SharedMut<'a, T>,
    /// As many zeros as a row of one tap spans.
    zeros: &'a [T],
    /// Rows and panels to do.
    part: (std::ops::Range<usize>, std::ops::Range<usize>),
}

fn run<T: Real, R: Rows>(job: Job<'_, T, R>) {
    T::dispatch(job.right.level, job);
}

/// A kernel tap and where the rows of a group read for it.
type Tap<T, const ROWS: usize> = (usize, [*const T; ROWS]);

/// Some rows that go through the registers together, and the taps that are not all padding for them.
struct Group {
    first: usize,
    count: usize,
    /// Into the list of taps.
    taps: std::ops::Range<usize>,
}

impl<T: Real, R: Rows> Job<'_, T, R> {
    /// Pointers for every group of rows and tap. Every pointer is checked against its buffer here, once.
    #[inline(always)]
    fn gather<const ROWS: usize>(&self) -> (Vec<Group>, Vec<Tap<T, ROWS>>) {
        let span = (self.right.depth.max(1) - 1) * self.rows.step() + 1;
        let rows = &self.part.0;
        let mut groups = Vec::with_capacity(rows.len().div_ceil(ROWS));
        let mut pointers = Vec::with_capacity(rows.len().div_ceil(ROWS) * self.right.taps);
        for first in rows.clone().step_by(ROWS) {
            let count = ROWS.min(rows.end - first);
            let begin = pointers.len();
            for tap in 0..self.right.taps {
                let mut all_zero = true;
                let mut at = [std::ptr::null(); ROWS];
                for (r, pointer) in at.iter_mut().enumerate() {
                    // Rows past the end repeat the last one; their results are dropped.
                    *pointer = match self.rows.input(first + r.min(count - 1), tap) {
                        Some(offset) => {
                            all_zero = false;
                            self.left[offset..offset + span].as_ptr()
                        }
                        None => self.zeros[..span].as_ptr(),
                    };
                }
                if !all_zero {
                    pointers.push((tap, at));
                }
            }
            groups.push(Group {
                first,
                count,
                taps: begin..pointers.len(),
            });
        }
        (groups, pointers)
    }

    /// The accumulators before the first tap.
    #[inline(always)]
    #[expect(unsafe_code, reason = "vector loads from places that are checked")]
    fn load<S: Simd<T>, const ROWS: usize, const REGS: usize>(
        &self,
        group: &Group,
        first: usize,
        resume: bool,
    ) -> [[S; REGS]; ROWS] {
        // SAFETY: dispatched for S; the bias is filled up to whole panels; rows of the result are read only
        // where `SharedMut::pointer` says that they exist.
        unsafe {
            let mut all = [[S::splat(T::ZERO); REGS]; ROWS];
            if resume || matches!(self.start, Bias::Result) {
                let columns = (REGS * S::WIDTH).min(self.right.columns - first);
                for (r, row) in all.iter_mut().take(group.count).enumerate() {
                    let from = self
                        .result
                        .pointer(self.rows.output(group.first + r) + first, columns);
                    let mut whole = [T::ZERO; WIDEST_PANEL];
                    let from = if columns == REGS * S::WIDTH {
                        from.cast_const()
                    } else {
                        std::ptr::copy_nonoverlapping(from, whole.as_mut_ptr(), columns);
                        whole.as_ptr()
                    };
                    for (j, register) in row.iter_mut().enumerate() {
                        *register = S::load(from.wrapping_add(j * S::WIDTH));
                    }
                }
            } else if let Bias::Columns(Some(bias)) = self.start {
                let bias = bias[first..first + REGS * S::WIDTH].as_ptr();
                for j in 0..REGS {
                    let register = S::load(bias.wrapping_add(j * S::WIDTH));
                    for row in &mut all {
                        row[j] = register;
                    }
                }
            }
            all
        }
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "vector stores to places that are checked")]
    fn store<S: Simd<T>, const ROWS: usize, const REGS: usize>(
        &self,
        group: &Group,
        first: usize,
        sums: &[[S; REGS]; ROWS],
    ) {
        let columns = (REGS * S::WIDTH).min(self.right.columns - first);
        for (r, row) in sums.iter().take(group.count).enumerate() {
            let to = self
                .result
                .pointer(self.rows.output(group.first + r) + first, columns);
            let mut whole = [T::ZERO; WIDEST_PANEL];
            let partial = columns < REGS * S::WIDTH;
            let place = if partial { whole.as_mut_ptr() } else { to };
            // SAFETY: dispatched for S; `to` is good for `columns` numbers and no other job writes this row
            // and panel.
            unsafe {
                for (j, register) in row.iter().enumerate() {
                    register.store(place.wrapping_add(j * S::WIDTH));
                }
                if partial {
                    std::ptr::copy_nonoverlapping(whole.as_ptr(), to, columns);
                }
            }
        }
    }

    /// All taps of a block for some rows and a panel, of which the first `REGS` registers are used.
    #[inline(always)]
    fn panel<S: Simd<T>, const ROWS: usize, const REGS: usize>(
        &self,
        (groups, taps): (&[Group], &[Tap<T, ROWS>]),
        panel: usize,
        block: &std::ops::Range<usize>,
    ) {
        let first = panel * REGISTERS * S::WIDTH;
        let tap_size = self.right.depth * REGISTERS * S::WIDTH;
        let step = self.rows.step();
        let weights = self.right.panel(panel);
        for group in groups {
            let mut sums = self.load::<S, ROWS, REGS>(group, first, block.start > 0);
            for (tap, at) in &taps[group.taps.clone()] {
                if block.contains(tap) {
                    accumulate(
                        &mut sums,
                        at,
                        step,
                        &weights[tap * tap_size..(tap + 1) * tap_size],
                    );
                }
            }
            self.store(group, first, &sums);
        }
    }
}

impl<T: Real, R: Rows> Kernel<T> for Job<'_, T, R> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd<T>, const ROWS: usize>(self) {
        let (groups, taps) = self.gather::<ROWS>();
        let tap_size = self.right.depth * REGISTERS * S::WIDTH;
        let taps_per_block = (PANEL_BLOCK / tap_size.max(1)).max(1);
        for start in (0..self.right.taps).step_by(taps_per_block) {
            let block = start..start + taps_per_block;
            for panel in self.part.1.clone() {
                let left = (groups.as_slice(), taps.as_slice());
                if self.right.columns - panel * REGISTERS * S::WIDTH <= S::WIDTH {
                    self.panel::<S, ROWS, 1>(left, panel, &block);
                } else {
                    self.panel::<S, ROWS, 2>(left, panel, &block);
                }
            }
        }
    }
}

/// The innermost loop: `sums[r] += left[r][k] * right[k]` over the numbers of one tap.
#[inline(always)]
#[expect(
    unsafe_code,
    reason = "vector instructions on pointers that `gather` has checked"
)]
fn accumulate<T: Real, S: Simd<T>, const ROWS: usize, const REGS: usize>(
    sums: &mut [[S; REGS]; ROWS],
    left: &[*const T; ROWS],
    step: usize,
    right: &[T],
) {
    let mut local = *sums;
    let mut offset = 0usize;
    for weights in right.chunks_exact(REGISTERS * S::WIDTH) {
        // SAFETY: dispatched for S; a chunk holds two registers; `gather` checked that each pointer is good
        // for every step of the depth.
        unsafe {
            let mut w = [S::splat(T::ZERO); REGS];
            for (j, w) in w.iter_mut().enumerate() {
                *w = S::load(weights.as_ptr().wrapping_add(j * S::WIDTH));
            }
            for r in 0..ROWS {
                let v = S::splat(*left[r].wrapping_add(offset));
                for j in 0..REGS {
                    local[r][j] = v.mul_add(w[j], local[r][j]);
                }
            }
        }
        offset = offset.wrapping_add(step);
    }
    *sums = local;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small whole numbers: every sum is exact in any order and with or without fused multiply-add.
    fn whole<T: Real>(count: usize, seed: usize) -> Vec<T> {
        (0..count)
            .map(|i| T::from_f64(((i * 7 + seed * 13) % 11) as f64 - 5.0))
            .collect()
    }

    /// Every instruction set of this machine against the definition, exactly.
    fn every_level_is_exact<T: Real>() {
        for level in Level::available() {
            for (rows, depth, columns) in [
                (1, 1, 1),
                (5, 3, 7),
                (13, 16, 33),
                (50, 40, 64),
                (100, 31, 130),
            ] {
                let (left, right) = (whole::<T>(rows * depth, 1), whole::<T>(depth * columns, 2));
                let bias = whole::<T>(columns, 3);
                let mut panels = Panels::empty(level);
                panels.pack(
                    &right,
                    (1, depth, columns),
                    Strides {
                        tap: 0,
                        depth: columns,
                        column: 1,
                    },
                );
                let mut result = vec![T::ZERO; rows * columns];
                let matrix = Matrix::contiguous(rows, depth, columns);
                multiply(&left, &matrix, &panels, Start::Bias(&bias), &mut result);
                multiply_here(&left, &matrix, &panels, Start::Result, &mut result);
                for (i, value) in result.iter().enumerate() {
                    let (r, c) = (i / columns, i % columns);
                    let dot =
                        |k: usize| left[r * depth + k].to_f64() * right[k * columns + c].to_f64();
                    let expected = 2.0 * (0..depth).map(dot).sum::<f64>() + bias[c].to_f64();
                    assert_eq!(
                        value.to_f64(),
                        expected,
                        "{level:?} {rows} {depth} {columns}"
                    );
                }
            }
        }
    }

    #[test]
    fn f32_is_exact_on_whole_numbers() {
        every_level_is_exact::<f32>();
    }

    #[test]
    fn f64_is_exact_on_whole_numbers() {
        every_level_is_exact::<f64>();
    }
}
