//! The flat buffers in a GPU's memory: accumulated, clipped and updated there.

use super::{Progress, Settings, host};
use crate::device::gpu::optimizer::{
    Codes, Parameters, accumulate, adamw, adamw_8bit, adamw_rates, clip_factor, moving_average,
};
use crate::device::gpu::{Buffer, Gpu, elementwise};
use crate::error::{Error, Result};
use crate::ops::optimizer::{self, code_values};
use crate::tensor::{DType, Tensor};

pub struct Buffers {
    pub master: Buffer,
    pub gradient: Buffer,
    moments: Moments,
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

enum Moments {
    Floats([Buffer; 2]),
    Codes(Box<BothCodes>),
}

struct BothCodes {
    both: [Codes; 2],
    /// As they were when they came here: what does not change is right.
    begun: [optimizer::Codes; 2],
    /// What codes mean, f32 `[2, 256]`.
    meaning: Buffer,
}

impl Moments {
    fn upload(gpu: &Gpu, moments: &host::Moments) -> Result<Self> {
        let floats = |values: &[f32]| gpu.upload(values);
        Ok(match moments {
            host::Moments::Floats([first, second]) => Moments::Floats([floats(first)?, floats(second)?]),
            host::Moments::Codes(begun) => {
                let upload = |moment: &optimizer::Codes| -> Result<Codes> {
                    Ok(Codes { codes: gpu.upload(&moment.words())?, scales: floats(&moment.scales)? })
                };
                Moments::Codes(Box::new(BothCodes {
                    both: [upload(&begun[0])?, upload(&begun[1])?],
                    begun: begun.clone(),
                    meaning: floats(&[*code_values(true), *code_values(false)].concat())?,
                }))
            }
        })
    }

    fn download(&self) -> Result<host::Moments> {
        Ok(match self {
            Moments::Floats([first, second]) => host::Moments::Floats([values(first)?, values(second)?]),
            Moments::Codes(codes) => {
                let mut local = codes.begun.clone();
                for (local, there) in local.iter_mut().zip(&codes.both) {
                    local.set_words(&there.codes.download::<i64>()?);
                    local.scales = values(&there.scales)?;
                }
                host::Moments::Codes(local)
            }
        })
    }
}

impl Buffers {
    pub fn new(gpu: &Gpu, master: Vec<f32>, dtype: DType) -> Result<Self> {
        Self::upload(gpu, &host::Buffers::new(master, dtype), dtype)
    }

    /// All of them as they are on the CPU.
    pub fn upload(gpu: &Gpu, buffers: &host::Buffers, dtype: DType) -> Result<Self> {
        let upload = |values: &[f32]| gpu.upload(values);
        let master = upload(&buffers.master)?;
        Ok(Self {
            mirror: elementwise::cast(&master, dtype)?,
            master,
            gradient: upload(&buffers.gradient)?,
            moments: Moments::upload(gpu, &buffers.moments)?,
            average: buffers.average.as_deref().map(upload).transpose()?,
            progress: upload(&buffers.progress.values())?,
            begun: buffers.progress,
            rates: upload(&[0.0; 2])?,
        })
    }

    /// Of `len` parameters, with unspecified values.
    pub fn unset(gpu: &Gpu, len: usize, dtype: DType) -> Result<Self> {
        let floats = |len| gpu.buffer(DType::F32, len);
        Ok(Self {
            master: floats(len)?,
            gradient: floats(len)?,
            moments: Moments::Floats([floats(len)?, floats(len)?]),
            average: None,
            mirror: gpu.buffer(dtype, len)?,
            progress: floats(3)?,
            begun: Progress::new(dtype),
            rates: floats(2)?,
        })
    }

    /// Copies of all of them.
    pub fn download(&self) -> Result<host::Buffers> {
        Ok(host::Buffers {
            master: values(&self.master)?,
            gradient: values(&self.gradient)?,
            moments: self.moments.download()?,
            average: self.average.as_ref().map(values).transpose()?,
            progress: self.progress()?,
        })
    }

    pub fn accumulate(&self, offset: usize, gradient: &Tensor) -> Result<()> {
        let part =
            gradient.memory().ok_or_else(|| Error::Failed("a gradient on the CPU of parameters on a GPU".into()))?;
        accumulate(&self.gradient.view(offset, part.len()), &part)
    }

    pub fn progress(&self) -> Result<Progress> {
        let mut progress = self.begun;
        if let [scale, clean, updates] = self.progress.download::<f32>()?[..] {
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
        let Settings { adamw: settings, max_norm, .. } = settings;
        let most = if max_norm > 0.0 { max_norm as f32 } else { f32::INFINITY };
        let [norm, clip] = clip_factor(&self.gradient, &self.scale(), most)?;
        let rates = adamw_rates(&self.progress, &clip, lr, settings, self.begun.interval as usize)?;
        let (values, copy, gradient) = (&self.master, &self.mirror, &self.gradient);
        match &self.moments {
            Moments::Floats([first, second]) => {
                let parameters = Parameters { values, first, second, copy };
                adamw(parameters, gradient, settings, &rates, &clip)?;
            }
            Moments::Codes(codes) => {
                let (both, meaning) = (&codes.both, &codes.meaning);
                adamw_8bit([values, copy], both, meaning, gradient, settings, &rates, &clip)?;
            }
        }
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
    buffer.download()
}

fn number(buffer: &Buffer) -> Result<f64> {
    Ok(f64::from(buffer.download::<f32>()?[0]))
}
