//! The loss scale of half precision.

use candle_core::DType;

/// f16 rounds gradients below 6e-8 to zero; a loss multiplied by this keeps them. Source: PyTorch's `GradScaler`.
const START: f64 = 65_536.0;

/// What the loss of a network with f16 activations is multiplied with before the backward pass. A power of two, so that
/// dividing the gradients by it again costs no rounding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LossScale(Option<f64>);

impl LossScale {
    /// f16 needs one; f32 and bf16, which has the exponents of f32, do not.
    pub(super) fn for_network(dtype: DType) -> Self {
        Self((dtype == DType::F16).then_some(START))
    }

    pub(super) fn factor(self) -> f64 {
        self.0.unwrap_or(1.0)
    }

    /// Halves it after an overflow; false when there is none or it cannot be less.
    pub(super) fn halve(&mut self) -> bool {
        match &mut self.0 {
            Some(factor) if *factor > 1.0 => {
                *factor /= 2.0;
                true
            }
            _ => false,
        }
    }

    /// What a checkpoint keeps.
    pub(super) fn kept(self) -> Option<f64> {
        self.0
    }

    /// Goes to what a checkpoint kept.
    pub(super) fn restore(&mut self, kept: Option<f64>) {
        self.0 = self.0.map(|factor| kept.unwrap_or(factor));
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::LossScale;

    #[test]
    fn only_half_precision_has_a_scale_and_it_halves_down_to_one() {
        for dtype in [DType::F32, DType::BF16, DType::F64] {
            let mut scale = LossScale::for_network(dtype);
            assert!(!scale.halve() && scale.kept().is_none());
            assert_eq!(scale.factor(), 1.0);
        }
        let mut scale = LossScale::for_network(DType::F16);
        for halvings in 0..16 {
            assert_eq!(scale.factor(), f64::from(1u32 << (16 - halvings)));
            assert!(scale.halve());
        }
        assert_eq!((scale.factor(), scale.halve()), (1.0, false));
        let mut again = LossScale::for_network(DType::F16);
        again.restore(scale.kept());
        assert_eq!(again, scale);
    }
}
