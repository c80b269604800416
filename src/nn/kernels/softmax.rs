//! Rows of a softmax whose numbers arrive in pieces.

use super::Real;

/// Partial results kept side by side in a row.
const LANES: usize = 16;

/// What is known of a row so far.
#[derive(Clone, Copy, Debug)]
pub struct Running<T> {
    /// The largest number.
    pub largest: T,
    /// `Σ exp(scale (x - largest))`.
    pub sum: T,
}

impl<T: Real> Running<T> {
    /// Before the first number.
    pub fn nothing() -> Self {
        Self {
            largest: T::from_f64(f64::NEG_INFINITY),
            sum: T::ZERO,
        }
    }
}

#[inline(always)]
fn larger<T: Real>(a: T, b: T) -> T {
    if b > a { b } else { a }
}

/// Turns more numbers of a row into `exp(scale (x - largest))`, of the largest so far, and returns what those that went
/// before have to be multiplied by to be that as well.
#[inline(always)]
pub fn exponentials<T: Real>(numbers: &mut [T], scale: T, row: &mut Running<T>) -> T {
    let mut lanes = [row.largest; LANES];
    let mut chunks = numbers.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, x);
        }
    }
    let rest = chunks.remainder().iter().chain(&lanes);
    let largest = rest.fold(row.largest, |a, &b| larger(a, b));
    // Nothing went before the first numbers.
    let before = if row.largest == largest {
        T::ONE
    } else if row.sum == T::ZERO {
        T::ZERO
    } else {
        ((row.largest - largest) * scale).exp()
    };
    let mut lanes = [T::ZERO; LANES];
    let mut chunks = numbers.chunks_exact_mut(LANES);
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
    let sum = lanes.iter().map(|lane| lane.to_f64()).sum::<f64>();
    row.sum = T::from_f64((row.sum * before).to_f64() + sum);
    row.largest = largest;
    before
}

/// Turns raw numbers of a row into probabilities `p`, and gradients `dp` of the probabilities into those of the numbers:
/// `p (dp - delta) scale`, where `delta = Σ dp p` over the whole row.
#[inline(always)]
pub fn probabilities<T: Real>(
    numbers: &mut [T],
    gradients: &mut [T],
    scale: T,
    row: &Running<T>,
    delta: T,
) {
    let rate = T::ONE / row.sum;
    for (x, dp) in numbers.iter_mut().zip(gradients) {
        *x = ((*x - row.largest) * scale).exp() * rate;
        *dp = *x * (*dp - delta) * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In pieces of any length it is the softmax of the definition, and its gradient.
    #[test]
    fn a_row_in_pieces_is_the_row() {
        let row: Vec<f64> = (0..53)
            .map(|i| f64::from(i * 37 % 41) * 0.3 - 5.0)
            .collect();
        let scale = 0.7;
        let exact: Vec<f64> = row.iter().map(|x| (scale * x).exp()).collect();
        let total: f64 = exact.iter().sum();
        for piece in [1, 7, 16, 40, 53] {
            let mut known = Running::nothing();
            let mut done: Vec<f64> = Vec::new();
            for numbers in row.chunks(piece) {
                let mut numbers = numbers.to_vec();
                let before = exponentials(&mut numbers, scale, &mut known);
                done.iter_mut().for_each(|x| *x *= before);
                done.extend(numbers);
            }
            for (x, exact) in done.iter().zip(&exact) {
                let (p, exact) = (x / known.sum, exact / total);
                assert!((p - exact).abs() < 1e-14 * exact, "{piece}: {p} {exact}");
            }
            let mut numbers = row.clone();
            let mut gradients = exact.clone();
            let delta = exact.iter().map(|e| e * e / total).sum::<f64>();
            probabilities(&mut numbers, &mut gradients, scale, &known, delta);
            for ((p, dx), exact) in numbers.iter().zip(&gradients).zip(&exact) {
                assert!((p - exact / total).abs() < 1e-14 * p);
                let expected = exact / total * (exact - delta) * scale;
                assert!((dx - expected).abs() < 1e-12 * total);
            }
        }
    }
}
