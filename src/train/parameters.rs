//! All trainable parameters of a run in flat tensors, so that norm, clip, update and checkpoint are one pass each.

mod group;
mod values;

use crate::autograd::Gradients;
use crate::device::Device;
use crate::error::Result;
use crate::nn::Param;
use crate::ops::optimizer::{self, Optimizer, Progress, Step};
use crate::tensor::{DType, Tensor};
use group::Group;

/// Master copy (f32), gradient sums and the optimizer's state of a list of parameters, on the parameters' device; each
/// parameter of the model is a view into one copy of the master in the model's precision. Parameters of one learning rate
/// are a group, whose values lie one after the other and are updated at once.
pub struct FlatParameters {
    params: Vec<Param>,
    /// The group of each parameter, and where in it the parameter begins.
    places: Vec<(usize, usize)>,
    groups: Vec<Group>,
    /// f32 `[n]`, group after group.
    gradient: Tensor,
    /// How fast the average forgets.
    average_decay: f64,
    /// [`Progress::interval`].
    interval: u32,
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
        let factors = vec![1.0; params.len()];
        let mut optimizer = Some(optimizer);
        Self::grouped(params, &factors, dtype, |_| Ok(optimizer.take().expect("one learning rate is one group")))
    }

    /// As [`FlatParameters::new`], where the learning rate of each parameter is that of the run times one of `factors`.
    /// `optimizer` is told the shapes of a group's parameters.
    ///
    /// # Errors
    /// What `optimizer` says, and where a GPU has no room.
    pub fn grouped(
        params: Vec<Param>,
        factors: &[f64],
        dtype: DType,
        mut optimizer: impl FnMut(&[Vec<usize>]) -> Result<Box<dyn Optimizer>>,
    ) -> Result<Self> {
        let mut rates: Vec<f64> = Vec::new();
        for factor in factors {
            if !rates.contains(factor) {
                rates.push(*factor);
            }
        }
        if rates.is_empty() {
            rates.push(1.0);
        }
        let device = params.first().map_or(Device::Cpu, |param| param.get().device());
        let mut places = vec![(0, 0); params.len()];
        let (mut groups, mut start) = (Vec::new(), 0);
        for (number, rate) in rates.into_iter().enumerate() {
            let (mut values, mut shapes) = (Vec::new(), Vec::new());
            for (i, param) in params.iter().enumerate().filter(|(i, _)| factors[*i] == rate) {
                places[i] = (number, values.len());
                values.extend_from_slice(&param.get().to_cpu()?.reals::<f32>());
                shapes.push(param.get().shape().to_vec());
            }
            let len = values.len();
            let values = Tensor::new(values, &[len]).to(&device)?;
            groups.push(Group::new(start, rate, values, dtype, optimizer(&shapes)?)?);
            start += len;
        }
        Self::of(params, places, groups, dtype)
    }

    /// As [`FlatParameters::new`], from the values that the parameters are to have: f32 `[n]` on their device.
    ///
    /// # Errors
    /// Where a GPU has no room.
    pub fn over(params: Vec<Param>, values: Tensor, dtype: DType, optimizer: Box<dyn Optimizer>) -> Result<Self> {
        let mut offset = 0;
        let mut places = Vec::new();
        for param in &params {
            places.push((0, offset));
            offset += param.get().len();
        }
        Self::of(params, places, vec![Group::new(0, 1.0, values, dtype, optimizer)?], dtype)
    }

    fn of(params: Vec<Param>, places: Vec<(usize, usize)>, groups: Vec<Group>, dtype: DType) -> Result<Self> {
        let first = &groups[0];
        let len = groups.iter().map(|group| group.flat.values.len()).sum();
        let this = Self {
            gradient: first.flat.values.new_zeros(&[len], DType::F32)?,
            average_keeps: first.lr.new_zeros(&[1], first.lr.dtype())?,
            params,
            places,
            groups,
            average_decay: 0.0,
            interval: Progress::new(dtype).interval,
            step: 0,
        };
        this.publish();
        Ok(this)
    }

    /// What the learning rate of the run is multiplied by, group by group.
    pub fn factors(&self) -> Vec<f64> {
        self.groups.iter().map(|group| group.factor).collect()
    }

    /// Keeps an exponential moving average from here on. After step t it decays by `decay`, or by (1 + t) / (10 + t)
    /// where that is less, so that the start is soon forgotten (as diffusers' and TensorFlow's averages do).
    ///
    /// # Errors
    /// Where a GPU has no room.
    pub fn keep_average(&mut self, decay: f64) -> Result<()> {
        self.average_decay = decay;
        for group in &mut self.groups {
            group.average = Some(optimizer::copy(&group.flat.values, DType::F32)?);
        }
        Ok(())
    }

    /// Starts from `values` in place of what the parameters were: they may have been rounded. They are in the order of the
    /// parameters.
    ///
    /// # Errors
    /// Where a GPU has no room.
    ///
    /// # Panics
    /// If there are not [`FlatParameters::len`] of them.
    pub fn set_values(&mut self, values: Vec<f32>) -> Result<()> {
        assert_eq!(values.len(), self.len(), "a value for each that is trained");
        let device = self.device();
        let apart = self.apart(&values);
        for (group, values) in self.groups.iter_mut().zip(apart) {
            let values = values.to(&device)?;
            group.flat.copy = optimizer::copy(&values, group.flat.copy.dtype())?;
            if group.average.is_some() {
                group.average = Some(optimizer::copy(&values, DType::F32)?);
            }
            group.flat.values = values;
            group.flat.state = group.optimizer.initial(&group.flat.values)?;
        }
        self.publish();
        Ok(())
    }

    /// Numbers that are trained.
    pub fn len(&self) -> usize {
        self.gradient.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn params(&self) -> &[Param] {
        &self.params
    }

    pub fn device(&self) -> Device {
        self.gradient.device()
    }

    /// The tensors that a tape watches.
    pub fn leaves(&self) -> Vec<Tensor> {
        self.params.iter().map(Param::get).collect()
    }

    /// Makes the model see the master copy. Called after every change of it.
    pub fn publish(&self) {
        let copies: Vec<Tensor> = self.groups.iter().map(|group| group.flat.copy.clone()).collect();
        self.show(&copies);
    }

    /// Makes the model see the average, until the next [`FlatParameters::publish`]; the master copy where there is none.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn publish_average(&self) -> Result<()> {
        let copy = |group: &Group| match &group.result()? {
            Some(average) => optimizer::copy(average, group.flat.copy.dtype()),
            None => Ok(group.flat.copy.clone()),
        };
        let copies: Vec<Tensor> = self.groups.iter().map(copy).collect::<Result<_>>()?;
        self.show(&copies);
        Ok(())
    }

    /// Makes the parameters views into a copy of each group.
    fn show(&self, copies: &[Tensor]) {
        for (param, &(number, offset)) in self.params.iter().zip(&self.places) {
            let shape = param.get().shape().to_vec();
            param.set(copies[number].view(offset, &shape));
        }
    }

    /// Adds one micro-batch's gradients. A parameter that the loss did not depend on adds nothing.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn accumulate(&mut self, gradients: &Gradients) -> Result<()> {
        let parts = self.params.iter().zip(&self.places);
        let parts = parts.filter_map(|(param, &(number, offset))| {
            Some((self.groups[number].start + offset, gradients.get(&param.get())?))
        });
        let mut parts: Vec<(usize, &Tensor)> = parts.collect();
        parts.sort_by_key(|(at, _)| *at);
        for neighbours in parts.chunk_by(|(at, part), (next, _)| at + part.len() == *next) {
            let (first, neighbours) = (neighbours[0].0, neighbours.iter().map(|(_, part)| *part).collect::<Vec<_>>());
            optimizer::accumulate(&mut self.gradient, first, &neighbours)?;
        }
        Ok(())
    }

    /// What the gradient of a loss begins with, a scalar on the parameters' device: the loss scale in f16, else 1.
    pub fn loss_scale(&self) -> Tensor {
        self.groups[0].progress.view(0, &[])
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
        Ok(Progress::of(&self.groups[0].progress.to_cpu()?, self.interval))
    }

    /// [`Progress::values`] on the parameters' device, f32 `[3]`.
    pub fn progress_values(&self) -> &Tensor {
        &self.groups[0].progress
    }

    /// Global 2-norm of the accumulated gradient, without its loss scale.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn gradient_norm(&self) -> Result<f64> {
        let [norm, _] = optimizer::clip(&self.gradient, &self.groups[0].progress.view(0, &[1]), f64::INFINITY)?;
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
        for group in &mut self.groups {
            let rate = number(lr * group.factor, group.lr.dtype());
            group.lr.stage(&rate)?;
        }
        let rates: Vec<Tensor> = self.groups.iter().map(|group| group.lr.clone()).collect();
        let norm = self.queue_update(&rates, max_norm)?;
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

    /// The update of the step that was counted, at the rates `lr` ([`Step::lr`]) of each group, and the norm of the gradient
    /// before clipping, `[1]`. [`FlatParameters::publish`] comes after it.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn queue_update(&mut self, lr: &[Tensor], max_norm: f64) -> Result<Tensor> {
        let most = if max_norm > 0.0 { max_norm } else { f64::INFINITY };
        let [norm, factor] = optimizer::clip(&self.gradient, &self.groups[0].progress.view(0, &[1]), most)?;
        for (group, lr) in self.groups.iter_mut().zip(lr) {
            let gradient = self.gradient.view(group.start, group.flat.values.shape());
            let (progress, interval) = (&mut group.progress, self.interval);
            let step = Step { gradient: &gradient, factor: &factor, lr, progress, interval };
            optimizer::update(&*group.optimizer, &mut group.flat, step)?;
            if let Some(average) = &mut group.average {
                optimizer::move_average(average, &group.flat.values, &self.average_keeps)?;
            }
        }
        self.gradient.clear()?;
        Ok(norm)
    }
}

/// `[1]`, on the CPU.
fn number(value: f64, dtype: DType) -> Tensor {
    Tensor::new(vec![value], &[1]).cast(dtype)
}
