//! Exponential and normal distribution, in a form that compilers turn into vector instructions.

/// Functions a kernel applies to every number. All must be inlined into the loop that calls them.
pub trait Functions: Copy {
    fn exp(self) -> Self;
    /// `1 / (1 + exp(-x))`, without overflow.
    fn sigmoid(self) -> Self;
    /// The standard normal distribution function Φ and its density φ.
    fn normal(self) -> (Self, Self);
}

impl Functions for f32 {
    /// Within 2e-7 relative. 0 below -87.3, where results would be denormal; about 1.6e38 from 88 on.
    #[inline(always)]
    fn exp(self) -> Self {
        // exp(x) = 2^n exp(r) with |r| <= ln 2 / 2; ln 2 in two parts so that n ln 2 is exact enough.
        const LN2_HIGH: f32 = 0.693_359_4;
        const LN2_LOW: f32 = -2.121_944_4e-4;
        // Adding 1.5 * 2^23 leaves the nearest whole number in the low bits.
        const ROUND: f32 = 12_582_912.0;
        const LOWEST: f32 = -87.3;
        const HIGHEST: f32 = 88.0;
        // Comparisons instead of min and max, so that NaN stays NaN.
        let x = if self < LOWEST { LOWEST } else { self };
        let x = if x > HIGHEST { HIGHEST } else { x };
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = (x - n * LN2_HIGH) - n * LN2_LOW;
        // Taylor: the first term left out is r^8 / 8! < 6e-9.
        let mut p = 1.0 / 5040.0;
        p = p * r + 1.0 / 720.0;
        p = p * r + 1.0 / 120.0;
        p = p * r + 1.0 / 24.0;
        p = p * r + 1.0 / 6.0;
        p = p * r + 0.5;
        p = p * r + 1.0;
        p = p * r + 1.0;
        let exponent = shifted
            .to_bits()
            .wrapping_sub(ROUND.to_bits())
            .wrapping_add(127);
        let y = p * Self::from_bits(exponent << 23);
        if self < LOWEST { 0.0 } else { y }
    }

    #[inline(always)]
    fn sigmoid(self) -> Self {
        let e = Functions::exp(-self.abs());
        let small = e / (1.0 + e);
        if self < 0.0 { small } else { 1.0 - small }
    }

    /// Φ within 2e-7 absolute and 6e-7 relative.
    #[inline(always)]
    fn normal(self) -> (Self, Self) {
        // The upper tail is exp(-x²/2) t N(t), t = 1 / (1 + 0.32 |x|), with N a least-squares fit of degree 9
        // on Chebyshev points reweighted towards the smallest largest relative error (3.2e-8).
        const SLOPE: f32 = 0.32;
        const N: [f32; 10] = [
            0.127_661_53,
            0.127_660_95,
            0.114_622_36,
            0.087_829_06,
            0.058_654_204,
            -0.009_378_331,
            0.065_329_37,
            -0.146_708_82,
            0.095_407_99,
            -0.021_078_333,
        ];
        const DENSITY_AT_0: f32 = 0.398_942_3;
        let t = 1.0 / (1.0 + SLOPE * self.abs());
        let e = Functions::exp(-0.5 * self * self);
        let mut p = N[9];
        p = p * t + N[8];
        p = p * t + N[7];
        p = p * t + N[6];
        p = p * t + N[5];
        p = p * t + N[4];
        p = p * t + N[3];
        p = p * t + N[2];
        p = p * t + N[1];
        p = p * t + N[0];
        let tail = e * (p * t);
        (if self < 0.0 { tail } else { 1.0 - tail }, DENSITY_AT_0 * e)
    }
}

impl Functions for f64 {
    #[inline(always)]
    fn exp(self) -> Self {
        libm::exp(self)
    }

    #[inline(always)]
    fn sigmoid(self) -> Self {
        let e = libm::exp(-self.abs());
        if self < 0.0 {
            e / (1.0 + e)
        } else {
            1.0 / (1.0 + e)
        }
    }

    #[inline(always)]
    fn normal(self) -> (Self, Self) {
        let density = libm::exp(-0.5 * self * self) / (2.0 * std::f64::consts::PI).sqrt();
        (
            0.5 * libm::erfc(-self * std::f64::consts::FRAC_1_SQRT_2),
            density,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(low: f32, high: f32) -> impl Iterator<Item = f32> {
        (0..=20_000).map(move |i| low + (high - low) * i as f32 / 20_000.0)
    }

    #[test]
    fn exp_agrees_with_libm() {
        for x in grid(-87.0, 88.0) {
            let expected = libm::exp(f64::from(x));
            // Two units in the last place of f32.
            assert!(
                (f64::from(Functions::exp(x)) / expected - 1.0).abs() < 2.4e-7,
                "exp({x})"
            );
        }
        assert_eq!(Functions::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(Functions::exp(0f32), 1.0);
        assert!(Functions::exp(f32::NAN).is_nan());
    }

    #[test]
    fn sigmoid_and_normal_agree_with_f64() {
        for x in grid(-12.0, 12.0) {
            let wide = f64::from(x);
            // Rounding of a number near 1, and of the exponent of the tail.
            assert!(
                (f64::from(x.sigmoid()) - wide.sigmoid()).abs() < 1.2e-7,
                "sigmoid({x})"
            );
            assert!(
                (f64::from(x.normal().0) - wide.normal().0).abs() < 2.5e-7,
                "Φ({x})"
            );
            assert!(
                (f64::from(x.normal().1) - wide.normal().1).abs() < 1.2e-7,
                "φ({x})"
            );
        }
        assert!(f32::NAN.sigmoid().is_nan() && f32::NAN.normal().0.is_nan());
    }
}
