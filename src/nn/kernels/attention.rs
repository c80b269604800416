//! Attention that holds the scores of a few query rows only; the backward pass computes them again.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::product::{Matrix, Panels, Start, Strides, count_work, multiply_here, multiply_shared};
use super::shared::SharedMut;
use super::simd::{Level, vectorized};
use super::weight::{numbers, with_numbers};
use super::{Real, for_type, storage_dtype};
use crate::nn::attention::Mask;

/// Query rows whose scores are held at once.
const BLOCK: usize = 48;
/// Few heads and images are cut into about this many pieces of work by their queries.
const PIECES: usize = 16;
/// Partial results kept side by side in a row.
const LANES: usize = 16;

/// `softmax(q kᵀ / sqrt(d)) v` per head, `q [n, tq, heads * d]`, `k` and `v` `[n, tk, heads * d]`.
#[derive(Clone, Copy, Debug)]
pub struct AttentionOp {
    pub heads: usize,
    pub mask: Mask,
    /// Which of q, k, v need a gradient.
    pub wanted: [bool; 3],
}

/// The sizes of a problem.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    images: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    /// Width of a head.
    depth: usize,
}

impl Sizes {
    fn width(self) -> usize {
        self.heads * self.depth
    }

    /// Distance between rows of scores: padded, and never a power of two, which would send a column of scores to
    /// a few places of the cache.
    fn stride(self) -> usize {
        self.keys.next_multiple_of(LANES) + LANES
    }

    fn scale<T: Real>(self) -> T {
        T::from_f64(1.0 / (self.depth as f64).sqrt())
    }

    /// Where a row of queries of one head begins.
    fn query(self, (image, head): (usize, usize), row: usize) -> usize {
        (image * self.queries + row) * self.width() + head * self.depth
    }

    /// Where the first row of keys of one head begins.
    fn key(self, (image, head): (usize, usize)) -> usize {
        image * self.keys * self.width() + head * self.depth
    }

    /// Packing of `rows` rows of a head as a right matrix of that many rows.
    fn upright(self, rows: usize) -> ((usize, usize, usize), Strides) {
        (
            (1, rows, self.depth),
            Strides {
                tap: 0,
                depth: self.width(),
                column: 1,
            },
        )
    }

    /// Packing of all keys of a head as a right matrix of that many columns.
    fn flat(self) -> ((usize, usize, usize), Strides) {
        (
            (1, self.depth, self.keys),
            Strides {
                tap: 0,
                depth: 1,
                column: self.width(),
            },
        )
    }

    /// Rows of scores as the left matrix, rows of a head from `place` as the result.
    fn scores_times(self, rows: usize, place: usize) -> Matrix {
        Matrix::new(
            rows,
            (0, self.stride(), 1),
            (place, self.width()),
            self.depth,
        )
    }

    /// Columns of scores as the left matrix, rows of keys from `place` as the result.
    fn columns_times(self, place: usize) -> Matrix {
        Matrix::new(
            self.keys,
            (0, 1, self.stride()),
            (place, self.width()),
            self.depth,
        )
    }

    /// Rows of a head from `place` as the left matrix, rows of scores as the result.
    fn scores_of(self, rows: usize, place: usize) -> Matrix {
        Matrix::new(
            rows,
            (place, self.width(), 1),
            (0, self.stride()),
            self.keys,
        )
    }
}

/// Memory of one thread, used again from head to head.
struct Scratch<T> {
    scores: Vec<T>,
    gradients: Vec<T>,
    /// Sums of exponentials of the rows.
    sums: Vec<T>,
    keys: Panels<T>,
    values: Panels<T>,
    upright_keys: Panels<T>,
    other: Panels<T>,
}

impl<T: Real> Scratch<T> {
    fn new() -> Self {
        let panels = || Panels::empty(Level::best());
        Self {
            scores: Vec::new(),
            gradients: Vec::new(),
            sums: Vec::new(),
            keys: panels(),
            values: panels(),
            upright_keys: panels(),
            other: panels(),
        }
    }

    fn resize(&mut self, sizes: &Sizes) {
        self.scores.resize(BLOCK * sizes.stride(), T::ZERO);
        self.gradients.resize(BLOCK * sizes.stride(), T::ZERO);
        self.sums.resize(BLOCK, T::ZERO);
    }
}

impl AttentionOp {
    /// How many keys the query of a row sees.
    fn visible(self, row: usize, keys: usize) -> usize {
        match self.mask {
            Mask::None => keys,
            Mask::Causal => keys.min(row + 1),
        }
    }

    /// `exp(scale (score - max))` in place for rows `first..first + rows`, zero where masked, and their sums.
    fn exponentials<T: Real>(
        self,
        sizes: &Sizes,
        (first, rows): (usize, usize),
        scores: &mut [T],
        sums: &mut [T],
    ) {
        let scale = sizes.scale::<T>();
        vectorized(
            #[inline(always)]
            || {
                for (r, row) in scores
                    .chunks_exact_mut(sizes.stride())
                    .take(rows)
                    .enumerate()
                {
                    let (seen, hidden) =
                        row[..sizes.keys].split_at_mut(self.visible(first + r, sizes.keys));
                    sums[r] = exponentials_of_row(seen, scale);
                    hidden.fill(T::ZERO);
                }
            },
        );
    }

    #[expect(unsafe_code, reason = "pieces of the result are disjoint")]
    fn forward<T: Real>(self, sizes: &Sizes, (q, k, v): (&[T], &[T], &[T]), y: &mut [T]) {
        let problems = sizes.images * sizes.heads;
        count_work(2 * problems * sizes.queries * sizes.keys * sizes.depth);
        let blocks = sizes.queries.div_ceil(BLOCK);
        let pieces = PIECES.div_ceil(problems.max(1)).min(blocks);
        let blocks_per_piece = blocks.div_ceil(pieces.max(1));
        let y = SharedMut::new(y);
        (0..problems * pieces)
            .into_par_iter()
            .for_each_init(Scratch::new, |scratch, job| {
                let (problem, piece) = (job / pieces, job % pieces);
                let at = (problem / sizes.heads, problem % sizes.heads);
                scratch.resize(sizes);
                let (shape, strides) = sizes.flat();
                scratch.keys.pack(&k[sizes.key(at)..], shape, strides);
                let (shape, strides) = sizes.upright(sizes.keys);
                scratch.values.pack(&v[sizes.key(at)..], shape, strides);
                for block in (piece * blocks_per_piece..blocks).take(blocks_per_piece) {
                    let first = block * BLOCK;
                    let rows = BLOCK.min(sizes.queries - first);
                    let place = sizes.query(at, first);
                    let score_rows = sizes.scores_of(rows, place);
                    multiply_here(
                        q,
                        &score_rows,
                        &scratch.keys,
                        Start::Zero,
                        &mut scratch.scores,
                    );
                    self.exponentials(sizes, (first, rows), &mut scratch.scores, &mut scratch.sums);
                    // SAFETY: each head of each image, and each block of its queries, is done by one job.
                    unsafe {
                        multiply_shared(
                            &scratch.scores,
                            &sizes.scores_times(rows, place),
                            &scratch.values,
                            Start::Zero,
                            &y,
                        );
                    }
                    for (r, &sum) in scratch.sums[..rows].iter().enumerate() {
                        // SAFETY: rows of this block and head are this job's alone.
                        let row = unsafe { y.part(place + r * sizes.width(), sizes.depth) };
                        let rate = T::ONE / sum;
                        row.iter_mut().for_each(|y| *y *= rate);
                    }
                }
            });
    }

    /// Gradients of q, k and v; those not wanted stay as they are.
    fn backward<T: Real>(self, sizes: &Sizes, operands: &Operands<'_, T>, into: &Gradients<'_, T>) {
        // Scores and their gradients, and a product for each gradient that is wanted.
        let products = 2 + self.wanted.iter().filter(|wanted| **wanted).count();
        count_work(
            products * sizes.images * sizes.heads * sizes.queries * sizes.keys * sizes.depth,
        );
        (0..sizes.images * sizes.heads)
            .into_par_iter()
            .for_each_init(Scratch::new, |scratch, problem| {
                let at = (problem / sizes.heads, problem % sizes.heads);
                scratch.resize(sizes);
                let (shape, strides) = sizes.flat();
                scratch
                    .keys
                    .pack(&operands.k[sizes.key(at)..], shape, strides);
                scratch
                    .values
                    .pack(&operands.v[sizes.key(at)..], shape, strides);
                if self.wanted[0] {
                    let (shape, strides) = sizes.upright(sizes.keys);
                    let keys = &operands.k[sizes.key(at)..];
                    scratch.upright_keys.pack(keys, shape, strides);
                }
                for first in (0..sizes.queries).step_by(BLOCK) {
                    let rows = BLOCK.min(sizes.queries - first);
                    self.block_backward(sizes, operands, into, scratch, (at, first, rows));
                }
            });
    }

    /// The part of [`AttentionOp::backward`] that comes from some query rows of a head.
    #[expect(unsafe_code, reason = "heads of the gradients are disjoint")]
    fn block_backward<T: Real>(
        self,
        sizes: &Sizes,
        operands: &Operands<'_, T>,
        into: &Gradients<'_, T>,
        scratch: &mut Scratch<T>,
        (at, first, rows): ((usize, usize), usize, usize),
    ) {
        let place = sizes.query(at, first);
        let score_rows = sizes.scores_of(rows, place);
        let Operands { q, grad, .. } = *operands;
        multiply_here(
            q,
            &score_rows,
            &scratch.keys,
            Start::Zero,
            &mut scratch.scores,
        );
        self.exponentials(sizes, (first, rows), &mut scratch.scores, &mut scratch.sums);
        multiply_here(
            grad,
            &score_rows,
            &scratch.values,
            Start::Zero,
            &mut scratch.gradients,
        );
        scratch.score_gradients(sizes, rows, |r| {
            let row = place + r * sizes.width();
            (
                &grad[row..row + sizes.depth],
                &operands.y[row..row + sizes.depth],
            )
        });
        let [want_q, want_k, want_v] = self.wanted;
        let ((shape, strides), columns) = (sizes.upright(rows), sizes.columns_times(sizes.key(at)));
        let Scratch {
            scores,
            gradients,
            upright_keys,
            other,
            ..
        } = scratch;
        // SAFETY: each head of each image is done by one job, block after block.
        unsafe {
            if want_v {
                other.pack(&grad[place..], shape, strides);
                multiply_shared(scores, &columns, other, Start::Result, &into.v);
            }
            if want_k {
                other.pack(&q[place..], shape, strides);
                multiply_shared(gradients, &columns, other, Start::Result, &into.k);
            }
            if want_q {
                let matrix = sizes.scores_times(rows, place);
                multiply_shared(gradients, &matrix, upright_keys, Start::Zero, &into.q);
            }
        }
    }
}

/// What the backward pass reads.
struct Operands<'a, T> {
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    y: &'a [T],
    grad: &'a [T],
}

/// What it writes, zeros at first; those not wanted are empty.
struct Gradients<'a, T> {
    q: SharedMut<'a, T>,
    k: SharedMut<'a, T>,
    v: SharedMut<'a, T>,
}

impl<T: Real> Scratch<T> {
    /// Turns exponentials into probabilities `p`, and gradients of the probabilities into those of the raw scores:
    /// `p (dp - Σ dp p) scale`, where `Σ dp p = grad · y` of the row.
    fn score_gradients<'a>(
        &mut self,
        sizes: &Sizes,
        rows: usize,
        row: impl Fn(usize) -> (&'a [T], &'a [T]),
    ) {
        let scale = sizes.scale::<T>();
        let (scores, gradients) = (&mut self.scores, &mut self.gradients);
        let sums = &self.sums;
        vectorized(
            #[inline(always)]
            || {
                let pairs = scores
                    .chunks_exact_mut(sizes.stride())
                    .zip(gradients.chunks_exact_mut(sizes.stride()));
                for (r, (p, dp)) in pairs.take(rows).enumerate() {
                    let (grad, y) = row(r);
                    let delta: T =
                        T::from_f64(grad.iter().zip(y).map(|(&g, &y)| (g * y).to_f64()).sum());
                    let rate = T::ONE / sums[r];
                    for (p, dp) in p[..sizes.keys].iter_mut().zip(&mut dp[..sizes.keys]) {
                        *p *= rate;
                        *dp = *p * (*dp - delta) * scale;
                    }
                }
            },
        );
    }
}

/// `exp(scale (x - max x))` in place; returns the sum.
#[inline(always)]
fn exponentials_of_row<T: Real>(row: &mut [T], scale: T) -> T {
    let mut lanes = [T::from_f64(f64::NEG_INFINITY); LANES];
    let larger = |a: T, b: T| if b > a { b } else { a };
    let mut chunks = row.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, x);
        }
    }
    let largest = chunks
        .remainder()
        .iter()
        .chain(&lanes)
        .fold(lanes[0], |a, &b| larger(a, b));
    let mut lanes = [T::ZERO; LANES];
    let mut chunks = row.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *x = ((*x - largest) * scale).exp();
            *lane += *x;
        }
    }
    for (lane, x) in lanes.iter_mut().zip(chunks.into_remainder()) {
        *x = ((*x - largest) * scale).exp();
        *lane += *x;
    }
    T::from_f64(lanes.iter().map(|lane| lane.to_f64()).sum())
}

impl AttentionOp {
    fn sizes(self, q: &[usize], k: &[usize]) -> Result<Sizes> {
        let (&[images, queries, width], &[_, keys, _]) = (q, k) else {
            candle_core::bail!("attention: q {q:?}, k {k:?}");
        };
        Ok(Sizes {
            images,
            heads: self.heads,
            queries,
            keys,
            depth: width / self.heads,
        })
    }
}

impl CustomOp3 for AttentionOp {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        ql: &Layout,
        k: &CpuStorage,
        kl: &Layout,
        v: &CpuStorage,
        vl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = self.sizes(ql.dims(), kl.dims())?;
        for_type!(storage_dtype(q), T, {
            let q = numbers::<T>(self.name(), q, ql)?;
            let operands = (
                q,
                numbers(self.name(), k, kl)?,
                numbers(self.name(), v, vl)?,
            );
            let mut y = vec![T::ZERO; q.len()];
            self.forward(&sizes, operands, &mut y);
            Ok((T::to_cpu_storage_owned(y), ql.shape().clone()))
        })
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let sizes = self.sizes(q.dims(), k.dims())?;
        let grad = grad.contiguous()?;
        let wanted = |i: usize, x: &Tensor| if self.wanted[i] { x.elem_count() } else { 0 };
        for_type!(q.dtype(), T, {
            let mut dq = vec![T::ZERO; wanted(0, q)];
            let mut dk = vec![T::ZERO; wanted(1, k)];
            let mut dv = vec![T::ZERO; wanted(2, v)];
            let into = Gradients {
                q: SharedMut::new(&mut dq),
                k: SharedMut::new(&mut dk),
                v: SharedMut::new(&mut dv),
            };
            with_numbers::<T, _>(q, |q| {
                with_numbers(k, |k| {
                    with_numbers(v, |v| {
                        with_numbers(y, |y| {
                            with_numbers(&grad, |grad| {
                                let operands = Operands { q, k, v, y, grad };
                                self.backward(&sizes, &operands, &into);
                            })
                        })
                    })
                })
            })?????;
            let tensor = |i: usize, x: &Tensor, values: Vec<T>| {
                self.wanted[i]
                    .then(|| Tensor::from_vec(values, x.shape(), x.device()))
                    .transpose()
            };
            Ok((tensor(0, q, dq)?, tensor(1, k, dk)?, tensor(2, v, dv)?))
        })
    }
}
