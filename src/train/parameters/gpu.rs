//! The flat buffers in a GPU's memory: accumulated, clipped and updated there.

use super::{Progress, Settings, host};
use crate::device::gpu::optimizer::{Parameters, accumulate, adamw, adamw_rates, clip_factor, moving_average};
use crate::device::gpu::{Buffer, Gpu, elementwise};
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

pub struct Buffers {
    pub master: Buffer,
    pub gradient: Buffer,
    pub first_moment: Buffer,
    pub second_moment: Buffer,
    pub average: Option<Buffer>,
    /// The master copy in the precision of the model, which reads it here.
    pub mirror: Buffer,
    /// [`Progress::values`], f32 `[3]`, which the kernels advance.
    progress: Buffer,
    /// As it was when it came here: what does not change is right.
    begun: Progress,
    /// The learning rate, and what the average keeps of itself; f32 `[2]`.
    rates: Buffer,
}

impl Buffers {
    pub fn new(gpu: &Gpu, master: Vec<f32>, dtype: DType) -> Result<Self> {
        Self::upload(gpu, &host::Buffers::new(master, dtype), dtype)
    }

    /// All of them as they are on the CPU.
    pub fn upload(gpu: &Gpu, buffers: &host::Buffers, dtype: DType) -> Result<Self> {
        let upload = |values: &[f32]| gpu.upload(&Tensor::new(values.to_vec(), &[values.len()]));
        let master = upload(&buffers.master)?;
        Ok(Self {
            mirror: elementwise::cast(&master, dtype)?,
            master,
            gradient: upload(&buffers.gradient)?,
            first_moment: upload(&buffers.first_moment)?,
            second_moment: upload(&buffers.second_moment)?,
            average: buffers.average.as_deref().map(upload).transpose()?,
            progress: upload(&buffers.progress.values())?,
            begun: buffers.progress,
            rates: upload(&[0.0; 2])?,
        })
    }

    /// Copies of all of them.
    pub fn download(&self) -> Result<host::Buffers> {
        Ok(host::Buffers {
            master: values(&self.master)?,
            gradient: values(&self.gradient)?,
            first_moment: values(&self.first_moment)?,
            second_moment: values(&self.second_moment)?,
            average: self.average.as_ref().map(values).transpose()?,
            progress: self.progress()?,
        })
    }

    pub fn accumulate(&self, offset: usize, gradient: &Tensor) -> Result<()> {
        let part = gradient
            .memory()
            .ok_or_else(|| Error::Failed("a gradient on the CPU of parameters on a GPU".into()))?;
        accumulate(&self.gradient.view(offset, part.len()), &part)
    }

    pub fn progress(&self) -> Result<Progress> {
        let mut progress = self.begun;
        if let &[scale, clean, updates] = self.progress.download(&[3])?.data::<f32>() {
            progress.set([scale, clean, updates]);
        }
        Ok(progress)
    }

    /// The loss scale, f32 `[1]`.
    pub fn scale(&self) -> Buffer {
        self.progress.view(0, 1)
    }

    /// [`Progress::values`], f32 `[3]`.
    pub fn progress_values(&self) -> &Buffer {
        &self.progress
    }

    /// Whether updates change it.
    pub fn adapts(&self) -> bool {
        self.begun.adapts()
    }

    pub fn gradient_norm(&self) -> Result<f64> {
        let [norm, _] = clip_factor(&self.gradient, &self.scale(), f32::INFINITY)?;
        number(&norm)
    }

    pub(super) fn update(&self, settings: Settings) -> Result<f64> {
        self.tell(settings)?;
        number(&self.launch_update(settings, &self.rates.view(0, 1))?)
    }

    /// Puts into the GPU's memory what differs from one update to the next.
    pub fn tell(&self, settings: Settings) -> Result<()> {
        let rates = [settings.adamw.lr as f32, settings.average_keeps as f32];
        self.rates.stage(bytemuck::cast_slice(&rates))
    }

    /// The update that [`Buffers::tell`] was told, at the rates of [`adamw_rates`]; and the norm of the gradient before
    /// clipping, f32 `[1]`.
    pub fn launch_update(&self, settings: Settings, lr: &Buffer) -> Result<Buffer> {
        let Settings {
            adamw: settings,
            max_norm,
            ..
        } = settings;
        let most = if max_norm > 0.0 { max_norm as f32 } else { f32::INFINITY };
        let [norm, clip] = clip_factor(&self.gradient, &self.scale(), most)?;
        let rates = adamw_rates(&self.progress, &clip, lr, settings, self.begun.interval as usize)?;
        let parameters = Parameters {
            values: &self.master,
            first: &self.first_moment,
            second: &self.second_moment,
            copy: &self.mirror,
        };
        adamw(parameters, &self.gradient, settings, &rates, &clip)?;
        self.gradient.clear()?;
        if let Some(average) = &self.average {
            moving_average(average, &self.master, &self.rates.view(1, 1))?;
        }
        Ok(norm)
    }
}

/// Values in the precision of the model.
pub fn mirror(values: &Buffer, dtype: DType) -> Result<Tensor> {
    Ok(Tensor::on_gpu(elementwise::cast(values, dtype)?, &[values.len()]))
}

fn values(buffer: &Buffer) -> Result<Vec<f32>> {
    Ok(buffer.download(&[buffer.len()])?.data().to_vec())
}

fn number(buffer: &Buffer) -> Result<f64> {
    Ok(buffer.download(&[1])?.item())
}
