//! Parameters of one learning rate, one after the other, and what their optimizer keeps.

use crate::error::Result;
use crate::ops::optimizer::{Optimizer, Parameters, Progress};
use crate::tensor::{DType, Tensor};

/// Parameters of one learning rate.
pub(super) struct Group {
    /// Where its values begin among all.
    pub start: usize,
    /// What the learning rate of the run is multiplied by.
    pub factor: f64,
    pub optimizer: Box<dyn Optimizer>,
    pub flat: Parameters,
    /// A running mean of the master copy, where the run keeps one.
    pub average: Option<Tensor>,
    /// [`Progress::values`], which updates advance: the same in all groups.
    pub progress: Tensor,
    /// The learning rate of the next update where the host knows it, `[1]`.
    pub lr: Tensor,
}

impl Group {
    pub fn new(start: usize, factor: f64, values: Tensor, dtype: DType, optimizer: Box<dyn Optimizer>) -> Result<Self> {
        let device = values.device();
        Ok(Self {
            start,
            factor,
            flat: Parameters::new(values, dtype, &*optimizer)?,
            optimizer,
            average: None,
            progress: Progress::new(dtype).tensor().to(&device)?,
            lr: Tensor::zeros(&[1], device.number_dtype()).to(&device)?,
        })
    }

    /// The average, on the parameters' device.
    pub fn result(&self) -> Result<Option<Tensor>> {
        match &self.average {
            Some(average) => Ok(Some(average.clone())),
            None => self.optimizer.result(&self.flat),
        }
    }
}
