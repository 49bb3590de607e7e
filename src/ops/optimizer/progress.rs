//! How far an optimizer is: its updates, and the loss scale.

use crate::tensor::{DType, Tensor};

/// Updates made, and what the loss is multiplied by before it is differentiated, so that f16 does not round small
/// gradients to 0 (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2). A step whose gradients are not finite is no
/// update and halves the scale. The constants are those of `torch.amp.GradScaler`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    pub scale: f32,
    /// Updates in a row since the scale last changed.
    pub clean: u32,
    pub updates: u64,
    /// So many updates in a row double the scale; 0 for a scale that stays.
    pub interval: u32,
}

impl Progress {
    /// Of a run in `dtype`: all but f16 do without a scale.
    pub fn new(dtype: DType) -> Self {
        let (scale, interval) = match dtype {
            DType::F16 => (65536.0, 2000),
            _ => (1.0, 0),
        };
        Self { scale, clean: 0, updates: 0, interval }
    }

    /// Whether the scale changes as training goes.
    pub fn adapts(&self) -> bool {
        self.interval > 0
    }

    /// Counts a step: an update where its gradients were `finite`.
    pub(super) fn advance(&mut self, finite: bool) {
        if finite {
            self.updates += 1;
            self.clean += 1;
        }
        if self.adapts() && (!finite || self.clean >= self.interval) {
            self.scale *= if finite { 2.0 } else { 0.5 };
            self.clean = 0;
        }
    }

    /// Scale, updates in a row, and updates, as kernels and states have them.
    pub fn values(&self) -> [f32; 3] {
        [self.scale, self.clean as f32, self.updates as f32]
    }

    /// [`Progress::values`], f32 `[3]`.
    pub fn tensor(&self) -> Tensor {
        Tensor::new(self.values().to_vec(), &[3])
    }

    /// From [`Progress::tensor`], on the CPU.
    pub fn of(values: &Tensor, interval: u32) -> Self {
        let values = values.data::<f32>();
        Self { scale: values[0], clean: values[1] as u32, updates: values[2] as u64, interval }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_halves_where_gradients_overflow_and_doubles_after_2000_updates() {
        let mut progress = Progress::new(DType::F16);
        progress.advance(true);
        progress.advance(false);
        assert_eq!(progress.values(), [32768.0, 0.0, 1.0]);
        (0..1999).for_each(|_| progress.advance(true));
        assert_eq!(progress.values(), [32768.0, 1999.0, 2000.0]);
        progress.advance(true);
        assert_eq!(progress.values(), [65536.0, 0.0, 2001.0]);
    }

    #[test]
    fn other_formats_do_without() {
        let mut progress = Progress::new(DType::Bf16);
        (0..3000).for_each(|_| progress.advance(true));
        progress.advance(false);
        assert_eq!((progress.scale, progress.updates), (1.0, 3000));
    }
}
