//! Attention that holds the scores of a few queries and keys only (an "online" softmax: arXiv 2205.14135); the backward
//! pass computes them again.

use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::product::{Matrix, Panels, Start, Strides, count_work, multiply_here, multiply_shared};
use super::shared::SharedMut;
use super::simd::{Level, vectorized};
use super::softmax::{Running, exponentials, probabilities};
use super::weight::{numbers, with_numbers};
use super::{Real, for_type, storage_dtype, zeros};
use crate::nn::attention::Mask;

/// Query rows whose scores are held at once.
const QUERIES: usize = 48;
/// Keys whose scores are held at once: few enough for a second-level cache; with fewer, the work that each row costs however
/// short it is would outweigh what a first-level cache gains (128 were a fifth slower).
const KEYS: usize = 1024;
/// Few heads and images are cut into about this many pieces of work by their queries.
const PIECES: usize = 16;

/// `softmax(q kᵀ / sqrt(d)) v` per head, `q [n, tq, heads * d]`, `k` and `v` `[n, tk, heads * d]`.
#[derive(Clone, Debug)]
pub struct AttentionOp {
    heads: usize,
    mask: Mask,
    /// Which of q, k, v need a gradient.
    wanted: [bool; 3],
    /// Keys whose scores are held at once.
    block: usize,
    /// What the forward pass leaves for the backward pass: [`Running`] of every image, head and query.
    rows: Arc<OnceLock<Box<dyn Any + Send + Sync>>>,
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
    /// Keys whose scores are held at once.
    block: usize,
}

impl Sizes {
    fn width(self) -> usize {
        self.heads * self.depth
    }

    /// Distance between rows of scores: padded, and never a power of two, which would send a column of scores to a few
    /// places of the cache.
    fn stride(self) -> usize {
        self.block.min(self.keys).next_multiple_of(16) + 16
    }

    fn scale<T: Real>(self) -> T {
        T::from_f64(1.0 / (self.depth as f64).sqrt())
    }

    /// Where a row of queries of one head begins.
    fn query(self, (image, head): (usize, usize), row: usize) -> usize {
        (image * self.queries + row) * self.width() + head * self.depth
    }

    /// Where a row of keys of one head begins.
    fn key(self, (image, head): (usize, usize), row: usize) -> usize {
        (image * self.keys + row) * self.width() + head * self.depth
    }

    /// Which of all rows of queries this is, for each image and head.
    fn row(self, (image, head): (usize, usize), row: usize) -> usize {
        (image * self.heads + head) * self.queries + row
    }

    /// The keys in blocks.
    fn blocks(self) -> impl Iterator<Item = Range<usize>> {
        let keys = self.keys;
        (0..keys)
            .step_by(self.block)
            .map(move |first| first..keys.min(first + self.block))
    }

    /// Packing of `rows` rows of a head as a right matrix of that many rows.
    fn upright(self, rows: usize) -> ((usize, usize, usize), Strides) {
        let strides = Strides {
            tap: 0,
            depth: self.width(),
            column: 1,
        };
        ((1, rows, self.depth), strides)
    }

    /// Packing of `rows` rows of a head as a right matrix of that many columns.
    fn flat(self, rows: usize) -> ((usize, usize, usize), Strides) {
        let strides = Strides {
            tap: 0,
            depth: 1,
            column: self.width(),
        };
        ((1, self.depth, rows), strides)
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
    fn columns_times(self, columns: usize, place: usize) -> Matrix {
        Matrix::new(
            columns,
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
            self.block.min(self.keys),
        )
    }
}

/// Memory of one thread, used again from head to head.
struct Scratch<T> {
    scores: Vec<T>,
    gradients: Vec<T>,
    /// Blocks of keys.
    keys: Vec<Panels<T>>,
    values: Vec<Panels<T>>,
    upright_keys: Vec<Panels<T>>,
    other: Panels<T>,
}

impl<T: Real> Scratch<T> {
    fn new(sizes: &Sizes) -> Self {
        Self {
            scores: vec![T::ZERO; QUERIES * sizes.stride()],
            gradients: vec![T::ZERO; QUERIES * sizes.stride()],
            keys: Vec::new(),
            values: Vec::new(),
            upright_keys: Vec::new(),
            other: Panels::empty(Level::best()),
        }
    }
}

/// Packs the keys or values of a head, block by block.
fn pack<T: Real>(
    blocks: &mut Vec<Panels<T>>,
    sizes: &Sizes,
    at: (usize, usize),
    source: &[T],
    shape: impl Fn(usize) -> ((usize, usize, usize), Strides),
) {
    let count = sizes.keys.div_ceil(sizes.block);
    blocks.resize_with(count, || Panels::empty(Level::best()));
    for (panels, keys) in blocks.iter_mut().zip(sizes.blocks()) {
        let (shape, strides) = shape(keys.len());
        panels.pack(&source[sizes.key(at, keys.start)..], shape, strides);
    }
}

impl AttentionOp {
    /// Of `heads` heads; `wanted` says which of q, k and v get a gradient.
    pub fn new(heads: usize, mask: Mask, wanted: [bool; 3]) -> Self {
        Self {
            heads,
            mask,
            wanted,
            block: KEYS,
            rows: Arc::default(),
        }
    }

    /// How many of some keys the query of a row sees.
    fn visible(&self, row: usize, keys: &Range<usize>) -> usize {
        match self.mask {
            Mask::None => keys.len(),
            Mask::Causal => keys.end.min(row + 1).saturating_sub(keys.start),
        }
    }

    /// The result, and what is known of each row of scores.
    #[expect(unsafe_code, reason = "pieces of the results are disjoint")]
    fn forward<T: Real>(
        &self,
        sizes: &Sizes,
        (q, k, v): (&[T], &[T], &[T]),
        y: &mut [T],
        rows: &mut [Running<T>],
    ) {
        let problems = sizes.images * sizes.heads;
        count_work(2 * problems * sizes.queries * sizes.keys * sizes.depth);
        let blocks = sizes.queries.div_ceil(QUERIES);
        let pieces = PIECES.div_ceil(problems.max(1)).min(blocks);
        let blocks_per_piece = blocks.div_ceil(pieces.max(1));
        let (y, known) = (SharedMut::new(y), SharedMut::new(rows));
        (0..problems * pieces).into_par_iter().for_each_init(
            || Scratch::new(sizes),
            |scratch, job| {
                let (problem, piece) = (job / pieces, job % pieces);
                let at = (problem / sizes.heads, problem % sizes.heads);
                pack(&mut scratch.keys, sizes, at, k, |rows| sizes.flat(rows));
                pack(&mut scratch.values, sizes, at, v, |rows| {
                    sizes.upright(rows)
                });
                for block in (piece * blocks_per_piece..blocks).take(blocks_per_piece) {
                    let first = block * QUERIES;
                    let queries = first..sizes.queries.min(first + QUERIES);
                    // SAFETY: each head of each image, and each block of its queries, is done by one job.
                    unsafe { self.block(sizes, q, scratch, (at, &queries), (&y, &known)) };
                }
            },
        );
    }

    /// Some queries of a head, over all keys.
    ///
    /// # Safety
    /// No other thread touches the results of these queries.
    #[expect(unsafe_code, reason = "disjointness is the caller's duty")]
    unsafe fn block<T: Real>(
        &self,
        sizes: &Sizes,
        q: &[T],
        scratch: &mut Scratch<T>,
        (at, queries): ((usize, usize), &Range<usize>),
        (y, known): (&SharedMut<'_, T>, &SharedMut<'_, Running<T>>),
    ) {
        let place = sizes.query(at, queries.start);
        let score_rows = sizes.scores_of(queries.len(), place);
        // SAFETY: rows of these queries are this job's alone.
        let rows = unsafe { known.part(sizes.row(at, queries.start), queries.len()) };
        let stride = sizes.stride();
        rows.fill(Running::nothing());
        for (block, keys) in sizes.blocks().enumerate() {
            if self.visible(queries.end - 1, &keys) == 0 {
                break;
            }
            let scores = scratch.scores.as_mut_slice();
            multiply_here(q, &score_rows, &scratch.keys[block], Start::Zero, scores);
            let results = |r: usize| {
                // SAFETY: as above.
                unsafe { y.part(place + r * sizes.width(), sizes.depth) }
            };
            vectorized(
                #[inline(always)]
                || {
                    for (r, row) in rows.iter_mut().enumerate() {
                        let scores = &mut scores[r * stride..r * stride + keys.len()];
                        let visible = self.visible(queries.start + r, &keys);
                        let (seen, hidden) = scores.split_at_mut(visible);
                        let before = exponentials(seen, sizes.scale(), row);
                        hidden.fill(T::ZERO);
                        if block > 0 && before != T::ONE {
                            results(r).iter_mut().for_each(|y| *y *= before);
                        }
                    }
                },
            );
            let start = if block == 0 {
                Start::Zero
            } else {
                Start::Result
            };
            let matrix = sizes.scores_times(queries.len(), place);
            // SAFETY: as above.
            unsafe { multiply_shared(scores, &matrix, &scratch.values[block], start, y) };
        }
        for (r, row) in rows.iter().enumerate() {
            let rate = T::ONE / row.sum;
            // SAFETY: as above.
            let row = unsafe { y.part(place + r * sizes.width(), sizes.depth) };
            row.iter_mut().for_each(|y| *y *= rate);
        }
    }

    /// Gradients of q, k and v; those not wanted stay as they are.
    fn backward<T: Real>(
        &self,
        sizes: &Sizes,
        operands: &Operands<'_, T>,
        into: &Gradients<'_, T>,
    ) {
        // Scores and their gradients, and a product for each gradient that is wanted.
        let products = 2 + self.wanted.iter().filter(|wanted| **wanted).count();
        count_work(
            products * sizes.images * sizes.heads * sizes.queries * sizes.keys * sizes.depth,
        );
        (0..sizes.images * sizes.heads)
            .into_par_iter()
            .for_each_init(
                || Scratch::new(sizes),
                |scratch, problem| {
                    let at = (problem / sizes.heads, problem % sizes.heads);
                    let Operands { k, v, .. } = *operands;
                    pack(&mut scratch.keys, sizes, at, k, |rows| sizes.flat(rows));
                    pack(&mut scratch.values, sizes, at, v, |rows| sizes.flat(rows));
                    if self.wanted[0] {
                        let keys = &mut scratch.upright_keys;
                        pack(keys, sizes, at, k, |rows| sizes.upright(rows));
                    }
                    for first in (0..sizes.queries).step_by(QUERIES) {
                        let queries = first..sizes.queries.min(first + QUERIES);
                        self.block_backward(sizes, operands, into, scratch, (at, &queries));
                    }
                },
            );
    }

    /// The part of [`AttentionOp::backward`] that comes from some queries of a head.
    fn block_backward<T: Real>(
        &self,
        sizes: &Sizes,
        operands: &Operands<'_, T>,
        into: &Gradients<'_, T>,
        scratch: &mut Scratch<T>,
        (at, queries): ((usize, usize), &Range<usize>),
    ) {
        let place = sizes.query(at, queries.start);
        let score_rows = sizes.scores_of(queries.len(), place);
        let Operands { q, grad, y, .. } = *operands;
        let stride = sizes.stride();
        let rows = &operands.rows[sizes.row(at, queries.start)..][..queries.len()];
        // `Σ dp p = grad · y` of each row.
        let mut deltas = [T::ZERO; QUERIES];
        for (r, delta) in deltas.iter_mut().take(queries.len()).enumerate() {
            let row = place + r * sizes.width()..place + r * sizes.width() + sizes.depth;
            let pairs = grad[row.clone()].iter().zip(&y[row]);
            *delta = T::from_f64(pairs.map(|(&g, &y)| (g * y).to_f64()).sum());
        }
        for (block, keys) in sizes.blocks().enumerate() {
            if self.visible(queries.end - 1, &keys) == 0 {
                break;
            }
            let (scores, gradients) = (&mut scratch.scores, &mut scratch.gradients);
            multiply_here(q, &score_rows, &scratch.keys[block], Start::Zero, scores);
            let values = &scratch.values[block];
            multiply_here(grad, &score_rows, values, Start::Zero, gradients);
            vectorized(
                #[inline(always)]
                || {
                    for (r, (row, delta)) in rows.iter().zip(deltas).enumerate() {
                        let all = r * stride..r * stride + keys.len();
                        let visible = self.visible(queries.start + r, &keys);
                        let (seen, hidden) = scores[all.clone()].split_at_mut(visible);
                        hidden.fill(T::ZERO);
                        let (of_seen, of_hidden) = gradients[all].split_at_mut(visible);
                        of_hidden.fill(T::ZERO);
                        probabilities(seen, of_seen, sizes.scale(), row, delta);
                    }
                },
            );
            self.products(sizes, operands, into, scratch, (at, queries, &keys));
        }
    }

    /// What the scores of some queries and keys, and their gradients, add to the gradients of q, k and v.
    #[expect(unsafe_code, reason = "heads of the gradients are disjoint")]
    fn products<T: Real>(
        &self,
        sizes: &Sizes,
        operands: &Operands<'_, T>,
        into: &Gradients<'_, T>,
        scratch: &mut Scratch<T>,
        (at, queries, keys): ((usize, usize), &Range<usize>, &Range<usize>),
    ) {
        let place = sizes.query(at, queries.start);
        let (shape, strides) = sizes.upright(queries.len());
        let columns = sizes.columns_times(keys.len(), sizes.key(at, keys.start));
        let Scratch {
            scores,
            gradients,
            upright_keys,
            other,
            ..
        } = scratch;
        let [want_q, want_k, want_v] = self.wanted;
        // SAFETY: each head of each image is done by one job, block after block.
        unsafe {
            if want_v {
                other.pack(&operands.grad[place..], shape, strides);
                multiply_shared(scores, &columns, other, Start::Result, &into.v);
            }
            if want_k {
                other.pack(&operands.q[place..], shape, strides);
                multiply_shared(gradients, &columns, other, Start::Result, &into.k);
            }
            if want_q {
                let matrix = sizes.scores_times(queries.len(), place);
                let start = if keys.start == 0 {
                    Start::Zero
                } else {
                    Start::Result
                };
                let keys = &upright_keys[keys.start / sizes.block];
                multiply_shared(gradients, &matrix, keys, start, &into.q);
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
    rows: &'a [Running<T>],
}

/// What it writes, zeros at first; those not wanted are empty.
struct Gradients<'a, T> {
    q: SharedMut<'a, T>,
    k: SharedMut<'a, T>,
    v: SharedMut<'a, T>,
}

impl AttentionOp {
    fn sizes(&self, q: &[usize], k: &[usize]) -> Result<Sizes> {
        let (&[images, queries, width], &[_, keys, _]) = (q, k) else {
            candle_core::bail!("attention: q {q:?}, k {k:?}");
        };
        Ok(Sizes {
            images,
            heads: self.heads,
            queries,
            keys,
            depth: width / self.heads,
            block: self.block,
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
            let mut y = zeros::<T>(q.len());
            let mut rows =
                vec![Running::<T>::nothing(); sizes.images * sizes.heads * sizes.queries];
            self.forward(&sizes, operands, &mut y, &mut rows);
            if self.wanted.contains(&true) {
                // A second forward pass of the same operation finds the same.
                self.rows.set(Box::new(rows)).ok();
            }
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
            let mut dq = zeros::<T>(wanted(0, q));
            let mut dk = zeros::<T>(wanted(1, k));
            let mut dv = zeros::<T>(wanted(2, v));
            let into = Gradients {
                q: SharedMut::new(&mut dq),
                k: SharedMut::new(&mut dk),
                v: SharedMut::new(&mut dv),
            };
            let rows = self
                .rows
                .get()
                .and_then(|rows| rows.downcast_ref::<Vec<Running<T>>>());
            let Some(rows) = rows else {
                candle_core::bail!("attention: backward before forward");
            };
            with_numbers::<T, _>(q, |q| {
                with_numbers(k, |k| {
                    with_numbers(v, |v| {
                        with_numbers(y, |y| {
                            with_numbers(&grad, |grad| {
                                let operands = Operands {
                                    q,
                                    k,
                                    v,
                                    y,
                                    grad,
                                    rows,
                                };
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

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::nn::{NoiseStream, Purpose};

    /// However many keys are looked at together, results and gradients are the same.
    #[test]
    fn blocks_of_keys_are_all_keys() -> Result<()> {
        let mut stream = NoiseStream::new(5, Purpose::Noise);
        let (queries, keys, heads, depth) = (70, 70, 2, 5);
        let mut random = |rows: usize| {
            let drawn = stream.normal(&[2, rows, heads * depth], DType::F64, &Device::Cpu);
            Var::from_tensor(&(drawn? * 2.0)?)
        };
        let (q, k, v) = (random(queries)?, random(keys)?, random(keys)?);
        let weight = random(queries)?;
        let outcome = |mask, block| -> Result<Vec<Vec<f64>>> {
            let mut op = AttentionOp::new(heads, mask, [true; 3]);
            op.block = block;
            let y = q.apply_op3(&k, &v, op)?;
            let grads = (&y * weight.as_tensor())?.sum_all()?.backward()?;
            let mut all = vec![y.flatten_all()?.to_vec1::<f64>()?];
            for x in [&q, &k, &v] {
                let Some(grad) = grads.get(x) else {
                    candle_core::bail!("no gradient");
                };
                all.push(grad.flatten_all()?.to_vec1::<f64>()?);
            }
            Ok(all)
        };
        for mask in [Mask::None, Mask::Causal] {
            let whole = outcome(mask, KEYS)?;
            for block in [1, 16, 33, 69] {
                for (part, whole) in outcome(mask, block)?.iter().zip(&whole) {
                    for (a, b) in part.iter().zip(whole) {
                        // Sums of 70 numbers near 1 in another order, in f64.
                        assert!((a - b).abs() < 1e-12, "{mask:?} {block}: {a} {b}");
                    }
                }
            }
        }
        Ok(())
    }
}
