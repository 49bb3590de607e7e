//! All trainable parameters of a run in flat tensors, so that norm, clip, update and checkpoint are one pass each.

use crate::autograd::Gradients;
use crate::device::Device;
use crate::error::Result;
use crate::nn::Param;
use crate::ops::optimizer::{self, DISTANCE, Optimizer, Parameters, Progress, Step};
use crate::tensor::{DType, Tensor};

/// Names in training states, beside those of the optimizer.
const MASTER: &str = "master";
/// Of runs that keep an average.
const AVERAGE: &str = "average";
/// [`Progress::values`] of runs whose loss scale changes; any other run has made an update at every step.
const PROGRESS: &str = "progress";

/// Master copy (f32), gradient sums and the optimizer's state of a list of parameters, on the parameters' device; each
/// parameter of the model is a view into one copy of the master in the model's precision.
pub struct FlatParameters {
    params: Vec<Param>,
    optimizer: Box<dyn Optimizer>,
    flat: Parameters,
    /// f32 `[n]`.
    gradient: Tensor,
    /// A running mean of the master copy, where the run keeps one.
    average: Option<Tensor>,
    /// How fast it forgets.
    average_decay: f64,
    /// [`Progress::values`], which updates advance.
    progress: Tensor,
    /// [`Progress::interval`].
    interval: u32,
    /// The learning rate of the next update where the host knows it, `[1]`.
    lr: Tensor,
    /// What the average keeps of itself at the next update, `[1]`.
    average_keeps: Tensor,
    /// Steps taken, also those that were no update because gradients left the range of f16.
    pub step: u64,
}

impl FlatParameters {
    /// Takes the present values of `params`, which are all on one device, as the start; `dtype` is the precision of the
    /// model.
    ///
    /// # Errors
    /// Where a GPU has no room.
    pub fn new(params: Vec<Param>, dtype: DType, optimizer: Box<dyn Optimizer>) -> Result<Self> {
        let mut master = Vec::new();
        for param in &params {
            master.extend_from_slice(&param.get().to_cpu()?.reals::<f32>());
        }
        let len = master.len();
        let device = params.first().map_or(Device::Cpu, |param| param.get().device());
        Self::over(params, Tensor::new(master, &[len]).to(&device)?, dtype, optimizer)
    }

    /// As [`FlatParameters::new`], from the values that the parameters are to have: f32 `[n]` on their device.
    ///
    /// # Errors
    /// Where a GPU has no room.
    pub fn over(params: Vec<Param>, values: Tensor, dtype: DType, optimizer: Box<dyn Optimizer>) -> Result<Self> {
        let (device, progress) = (values.device(), Progress::new(dtype));
        let zero = Tensor::zeros(&[1], device.number_dtype()).to(&device)?;
        let this = Self {
            params,
            gradient: values.new_zeros(values.shape(), DType::F32)?,
            flat: Parameters::new(values, dtype, &*optimizer)?,
            optimizer,
            average: None,
            average_decay: 0.0,
            progress: progress.tensor().to(&device)?,
            interval: progress.interval,
            lr: zero.clone(),
            average_keeps: zero.new_zeros(&[1], zero.dtype())?,
            step: 0,
        };
        this.publish();
        Ok(this)
    }

    /// Keeps an exponential moving average from here on. After step t it decays by `decay`, or by (1 + t) / (10 + t)
    /// where that is less, so that the start is soon forgotten (as diffusers' and TensorFlow's averages do).
    ///
    /// # Errors
    /// Where a GPU has no room.
    pub fn keep_average(&mut self, decay: f64) -> Result<()> {
        self.average_decay = decay;
        self.average = Some(optimizer::copy(&self.flat.values, DType::F32)?);
        Ok(())
    }

    /// Starts from `values` in place of what the parameters were: they may have been rounded.
    ///
    /// # Errors
    /// Where a GPU has no room.
    ///
    /// # Panics
    /// If there are not [`FlatParameters::len`] of them.
    pub fn set_values(&mut self, values: Vec<f32>) -> Result<()> {
        let shape = [self.len()];
        let values = Tensor::new(values, &shape).to(&self.device())?;
        self.flat.copy = optimizer::copy(&values, self.flat.copy.dtype())?;
        if self.average.is_some() {
            self.average = Some(optimizer::copy(&values, DType::F32)?);
        }
        self.flat.values = values;
        self.flat.state = self.optimizer.initial(&self.flat.values)?;
        self.publish();
        Ok(())
    }

    /// Numbers that are trained.
    pub fn len(&self) -> usize {
        self.flat.values.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn params(&self) -> &[Param] {
        &self.params
    }

    pub fn device(&self) -> Device {
        self.flat.values.device()
    }

    /// The master copy, f32 `[n]` on the CPU.
    ///
    /// # Errors
    /// What a GPU says, here and below.
    pub fn master(&self) -> Result<Tensor> {
        self.flat.values.to_cpu()
    }

    /// The gradient that has been added up since the last update, times the loss scale; f32 `[n]` on the CPU.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn gradient(&self) -> Result<Tensor> {
        self.gradient.to_cpu()
    }

    /// The running average of the master copy, where the run or its optimizer keeps one; f32 `[n]` on the CPU.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn average(&self) -> Result<Option<Tensor>> {
        self.result()?.as_ref().map(Tensor::to_cpu).transpose()
    }

    /// The average, on the parameters' device.
    fn result(&self) -> Result<Option<Tensor>> {
        match &self.average {
            Some(average) => Ok(Some(average.clone())),
            None => self.optimizer.result(&self.flat),
        }
    }

    /// How far Prodigy believes the values to be from where they end: its learning rate is this times the given one.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn distance(&self) -> Result<Option<f64>> {
        match self.flat.state.iter().find(|(name, _)| *name == DISTANCE) {
            Some((_, distance)) => Ok(Some(distance.view(0, &[1]).to_cpu()?.item())),
            None => Ok(None),
        }
    }

    /// What the optimizer keeps, by name, on the CPU.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn state(&self) -> Result<Vec<(&'static str, Tensor)>> {
        self.flat.state.iter().map(|(name, x)| Ok((*name, x.to_cpu()?))).collect()
    }

    /// All that a training state holds, by name, on the CPU.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn saved(&self) -> Result<Vec<(String, Tensor)>> {
        let mut all = vec![(MASTER, self.master()?)];
        all.extend(self.state()?);
        all.extend(self.average()?.map(|average| (AVERAGE, average)));
        if self.adapts() {
            all.push((PROGRESS, self.progress.to_cpu()?));
        }
        Ok(all.into_iter().map(|(name, x)| (name.to_owned(), x)).collect())
    }

    /// Takes what [`FlatParameters::saved`] gave after `step` steps, from `read`, which is told name, dtype and length.
    ///
    /// # Errors
    /// What `read` or a GPU says.
    pub fn restore(&mut self, step: u64, read: impl Fn(&str, DType, usize) -> Result<Tensor>) -> Result<()> {
        let device = self.device();
        let load = |name: &str, x: &mut Tensor| -> Result<()> {
            let saved = read(name, x.dtype(), x.len())?;
            *x = saved.with_shape(x.shape()).to(&device)?;
            Ok(())
        };
        load(MASTER, &mut self.flat.values)?;
        for (name, x) in &mut self.flat.state {
            load(name, x)?;
        }
        if let Some(average) = &mut self.average {
            load(AVERAGE, average)?;
        }
        let progress = Progress { updates: step, ..self.progress()? };
        self.progress = progress.tensor().to(&device)?;
        if self.adapts() {
            load(PROGRESS, &mut self.progress)?;
        }
        self.flat.copy = optimizer::copy(&self.flat.values, self.flat.copy.dtype())?;
        self.step = step;
        self.publish();
        Ok(())
    }

    /// The tensors that a tape watches.
    pub fn leaves(&self) -> Vec<Tensor> {
        self.params.iter().map(Param::get).collect()
    }

    /// Makes the model see the master copy. Called after every change of it.
    pub fn publish(&self) {
        self.show(&self.flat.copy);
    }

    /// Makes the model see the average, until the next [`FlatParameters::publish`]; the master copy where there is none.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn publish_average(&self) -> Result<()> {
        match &self.result()? {
            Some(average) => self.show(&optimizer::copy(average, self.flat.copy.dtype())?),
            None => self.publish(),
        }
        Ok(())
    }

    fn show(&self, copy: &Tensor) {
        let mut offset = 0;
        for param in &self.params {
            let shape = param.get().shape().to_vec();
            param.set(copy.view(offset, &shape));
            offset += shape.iter().product::<usize>();
        }
    }

    /// Adds one micro-batch's gradients. A parameter that the loss did not depend on adds nothing.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn accumulate(&mut self, gradients: &Gradients) -> Result<()> {
        let mut offset = 0;
        for param in &self.params {
            let value = param.get();
            if let Some(part) = gradients.get(&value) {
                optimizer::accumulate(&mut self.gradient, offset, part)?;
            }
            offset += value.len();
        }
        Ok(())
    }

    /// What the gradient of a loss begins with, a scalar on the parameters' device: the loss scale in f16, else 1.
    pub fn loss_scale(&self) -> Tensor {
        self.progress.view(0, &[])
    }

    /// Whether the loss scale changes as training goes.
    pub fn adapts(&self) -> bool {
        self.interval > 0
    }

    /// Updates made, and the loss scale.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn progress(&self) -> Result<Progress> {
        Ok(Progress::of(&self.progress.to_cpu()?, self.interval))
    }

    /// [`Progress::values`] on the parameters' device, f32 `[3]`.
    pub fn progress_values(&self) -> &Tensor {
        &self.progress
    }

    /// Global 2-norm of the accumulated gradient, without its loss scale.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn gradient_norm(&self) -> Result<f64> {
        let [norm, _] = optimizer::clip(&self.gradient, &self.progress.view(0, &[1]), f64::INFINITY)?;
        Ok(norm.to_cpu()?.item())
    }

    /// One update at the rate `lr`, with the gradient clipped to a global norm of `max_norm` (0: not clipped); clears the
    /// gradient and returns its norm before clipping. Where the norm is not finite, the parameters stay as they are, and
    /// a loss scale halves.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn update(&mut self, lr: f64, max_norm: f64) -> Result<f64> {
        self.count_step()?;
        self.lr.stage(&number(lr, self.lr.dtype()))?;
        let norm = self.queue_update(&self.lr.clone(), max_norm)?;
        self.publish();
        Ok(norm.to_cpu()?.item())
    }

    /// Counts a step, and puts into the device's memory what differs from one update to the next.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn count_step(&mut self) -> Result<()> {
        self.step += 1;
        let t = self.step as f64;
        let keeps = self.average_decay.min((1.0 + t) / (10.0 + t));
        self.average_keeps.stage(&number(keeps, self.average_keeps.dtype()))
    }

    /// The update of the step that was counted, at the rates `lr` ([`Step::lr`]), and the norm of the gradient before
    /// clipping, `[1]`. [`FlatParameters::publish`] comes after it.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn queue_update(&mut self, lr: &Tensor, max_norm: f64) -> Result<Tensor> {
        let most = if max_norm > 0.0 { max_norm } else { f64::INFINITY };
        let [norm, factor] = optimizer::clip(&self.gradient, &self.progress.view(0, &[1]), most)?;
        let (progress, interval) = (&mut self.progress, self.interval);
        let step = Step { gradient: &self.gradient, factor: &factor, lr, progress, interval };
        optimizer::update(&*self.optimizer, &mut self.flat, step)?;
        self.gradient.clear()?;
        if let Some(average) = &mut self.average {
            optimizer::move_average(average, &self.flat.values, &self.average_keeps)?;
        }
        Ok(norm)
    }
}

/// `[1]`, on the CPU.
fn number(value: f64, dtype: DType) -> Tensor {
    Tensor::new(vec![value], &[1]).cast(dtype)
}
