//! Means with their intervals.

use serde::{Deserialize, Serialize};

/// A mean and how far the true one may be from it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Values.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// Half width of the 95 % interval; none of fewer than two values.
    pub half: Option<f64>,
}

impl Interval {
    /// Mean and two-sided 95 % interval by Student's t: `mean +- t(0.975, n - 1) s / sqrt(n)`, with s the deviation over
    /// n - 1. It takes the values for independent draws of a normal distribution. None of no values.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let half = (n > 1).then(|| {
            let deviation = (squares / (n - 1) as f64).sqrt();
            student_t(0.975, (n - 1) as f64) * deviation / (n as f64).sqrt()
        });
        Some(Self { n, mean, half })
    }
}

/// The value that Student's t with `freedom` degrees of freedom stays below with probability `p` in 0.5..1.
///
/// By bisection of the distribution function; exact to about 1e-9 of its size.
#[must_use]
pub fn student_t(p: f64, freedom: f64) -> f64 {
    let below = |t: f64| {
        let x = freedom / (freedom + t * t);
        1.0 - 0.5 * incomplete_beta(x, freedom / 2.0, 0.5)
    };
    let (mut low, mut high) = (0.0, 1.0);
    while below(high) < p && high < 1e12 {
        high *= 2.0;
    }
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if below(middle) < p {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// The regularised incomplete beta function `I_x(a, b)`.
///
/// Source: the continued fraction of Abramowitz and Stegun 26.5.8, evaluated by Lentz's method.
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    // The fraction converges fast below the mean; above it the symmetry I_x(a, b) = 1 - I_{1-x}(b, a) helps.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(1.0 - x, b, a);
    }
    let beta = libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b);
    let front = (a * x.ln() + b * (1.0 - x).ln() - beta).exp() / a;
    const TINY: f64 = 1e-300;
    let away_from_zero = |v: f64| if v.abs() < TINY { TINY } else { v };
    let (mut c, mut d) = (1.0, 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0)));
    let mut fraction = d;
    for m in 1..300 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        for term in [even, odd] {
            d = 1.0 / away_from_zero(1.0 + term * d);
            c = away_from_zero(1.0 + term / c);
            fraction *= c * d;
        }
        if (c * d - 1.0).abs() < 1e-15 {
            break;
        }
    }
    front * fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_printed_tables() {
        // Table of Student's t, 0.975 column, three decimals as printed in any textbook.
        for (freedom, want) in [
            (1.0, 12.706),
            (2.0, 4.303),
            (3.0, 3.182),
            (7.0, 2.365),
            (15.0, 2.131),
            (30.0, 2.042),
            (120.0, 1.980),
        ] {
            let got = student_t(0.975, freedom);
            assert!((got - want).abs() < 5e-4, "{freedom}: {got} {want}");
        }
        // Closed form for one degree of freedom (Cauchy): tan(pi (p - 1/2)).
        let exact = (std::f64::consts::PI * 0.4).tan();
        assert!((student_t(0.9, 1.0) - exact).abs() < 1e-9);
        // Towards infinity the normal's 1.959964.
        assert!((student_t(0.975, 1e7) - 1.959_964).abs() < 1e-4);
    }

    #[test]
    fn an_interval_is_that_of_the_definition() {
        // Squares about the mean 4: 4 + 1 + 1 + 4 = 10, over n - 1 = 3; t(0.975, 3) = 3.182446; root of n is 2.
        let got = Interval::of(&[2.0, 3.0, 5.0, 6.0]).unwrap();
        let deviation = (10.0f64 / 3.0).sqrt();
        assert_eq!((got.n, got.mean), (4, 4.0));
        assert!((got.half.unwrap() - 3.182_446 * deviation / 2.0).abs() < 1e-5);
        assert_eq!(
            Interval::of(&[1.5]),
            Some(Interval {
                n: 1,
                mean: 1.5,
                half: None
            })
        );
        assert_eq!(Interval::of(&[]), None);
        assert_eq!(Interval::of(&[1.0, 1.0]).unwrap().half, Some(0.0));
    }
}
