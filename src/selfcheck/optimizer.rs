//! What is no op: passes over the flat buffers, and noise.

use super::{LEAST_BOUND, Row, normals, relative_error, worst};
use crate::autograd::Tape;
use crate::device::Device;
use crate::device::gpu::Gpu;
use crate::device::gpu::recorder::Launched;
use crate::error::Result;
use crate::nn::Param;
use crate::ops;
use crate::ops::noise::{self, Draw, Target};
use crate::ops::optimizer::{Adafactor, AdamW, AdamW8bit, Lion, Optimizer, Prodigy, ScheduleFree, Sgd, decoded};
use crate::tensor::random::{self, Stream};
use crate::tensor::{DType, Tensor};
use crate::train::parameters::FlatParameters;

/// The weight that is trained: its values are no multiple of what a block or a thread takes.
const SHAPE: [usize; 2] = [331, 303];
const TRAINED: usize = SHAPE[0] * SHAPE[1];
const STEPS: u64 = 3;
/// A few of the values lie so near the middle between two codes that rounding in f32 decides: 1 in 100,000 is off by a
/// hundredth of its block's largest.
const CODE_BOUND: f64 = 1e-3;

/// Gradients of two micro-batches added up, clipped, and applied by AdamW, with a running average of the weights; with
/// moments in f32 or in 8 bits.
pub fn steps(device: &Device, launched: &Launched, dtype: DType, in_8_bits: bool) -> Result<Row> {
    let run = |device: &Device| -> Result<[(&'static str, Tensor); 4]> {
        let optimizer: Box<dyn Optimizer> = if in_8_bits { Box::new(AdamW8bit(ADAMW)) } else { Box::new(ADAMW) };
        let flat = trained(device, dtype, optimizer)?;
        let state = flat.state()?;
        let [first, second] = match &state[..] {
            [(_, m), (_, m_scales), (_, v), (_, v_scales)] => [(m, m_scales, true), (v, v_scales, false)]
                .map(|(codes, scales, signed)| Tensor::new(decoded(codes, scales, TRAINED, signed), &[TRAINED])),
            _ => [state[0].1.clone(), state[1].1.clone()],
        };
        let average = flat.average()?.expect("kept");
        Ok([("weights", flat.master()?), ("first moment", first), ("second moment", second), ("average", average)])
    };
    let reference = run(&Device::Cpu)?;
    launched.take();
    let there = run(device)?;
    let (bound, moments) = match in_8_bits {
        true => (CODE_BOUND, ", moments in 8 bits"),
        false => (LEAST_BOUND, ""),
    };
    let quantities = there
        .into_iter()
        .zip(reference)
        .map(|((name, there), (_, reference))| (name.to_owned(), relative_error(&there, &reference), bound));
    let quantities: Vec<_> = quantities.collect();
    let name = format!("{STEPS} steps of AdamW, {TRAINED} values{moments}");
    Ok(worst(name, dtype, quantities.into_iter(), launched.take()))
}

/// The same by the other optimizers.
pub fn others(device: &Device, launched: &Launched, dtype: DType) -> Result<Vec<Row>> {
    let betas = (0.9, 0.999);
    type Made = fn((f64, f64)) -> Box<dyn Optimizer>;
    let all: [(&str, Made); 5] = [
        ("Prodigy", |betas| {
            Box::new(Prodigy {
                betas,
                beta3: betas.1.sqrt(),
                eps: 1e-8,
                weight_decay: 0.05,
                d0: 1e-2,
                d_coef: 1.0,
                growth_rate: f64::INFINITY,
                use_bias_correction: true,
                safeguard_warmup: false,
            })
        }),
        ("Lion", |betas| Box::new(Lion { betas, weight_decay: 0.05 })),
        ("SGD", |_| Box::new(Sgd { momentum: 0.9, nesterov: true, weight_decay: 0.05 })),
        ("schedule-free AdamW", |betas| Box::new(ScheduleFree { betas, eps: 1e-8, weight_decay: 0.05 })),
        ("Adafactor", |betas| {
            Box::new(Adafactor {
                matrices: vec![SHAPE],
                eps: (1e-30, 1e-3),
                clip_threshold: 1.0,
                decay_rate: -0.8,
                beta1: Some(betas.0),
                weight_decay: 0.05,
                scale_parameter: true,
                relative_step: false,
                warmup_init: false,
            })
        }),
    ];
    let mut rows = Vec::new();
    for (what, made) in all {
        let reference = trained(&Device::Cpu, dtype, made(betas))?;
        launched.take();
        let there = trained(device, dtype, made(betas))?;
        // Lion's step turns with the sign of a number near 0, and Prodigy's is a ratio of sums of rounded differences.
        let quantities = [
            ("weights", there.master()?, reference.master()?),
            ("average", there.average()?.expect("kept"), reference.average()?.expect("kept")),
        ];
        let quantities =
            quantities.map(|(name, there, here)| (name.to_owned(), relative_error(&there, &here), CODE_BOUND));
        let name = format!("{STEPS} steps of {what}, {TRAINED} values");
        rows.push(worst(name, dtype, quantities.into_iter(), launched.take()));
        if what == "schedule-free AdamW" {
            // Without an average of the run, the result is the optimizer's own.
            let result = |device: &Device| -> Result<Tensor> {
                let params = vec![Param::new("trained", normals(0, &SHAPE).cast(dtype).to(device)?)];
                let flat = FlatParameters::new(params, dtype, made(betas))?;
                Ok(flat.average()?.expect("of the optimizer"))
            };
            let (there, here) = (result(device)?, result(&Device::Cpu)?);
            let quantity = ("result".to_owned(), relative_error(&there, &here), LEAST_BOUND);
            rows.push(worst(format!("result of {what}"), dtype, [quantity].into_iter(), launched.take()));
        }
    }
    Ok(rows)
}

const ADAMW: AdamW = AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.05 };

/// A weight after the steps of `optimizer`, with the run's average.
fn trained(device: &Device, dtype: DType, optimizer: Box<dyn Optimizer>) -> Result<FlatParameters> {
    let params = vec![Param::new("trained", normals(0, &SHAPE).cast(dtype).to(device)?)];
    let mut flat = FlatParameters::new(params, dtype, optimizer)?;
    flat.keep_average(0.9)?;
    for i in 0..2 * STEPS {
        let leaves = flat.leaves();
        let tape = Tape::watching(&leaves);
        let row = |index, len| normals(index, &[1, len]).cast(dtype).to(device);
        let y = ops::linear(&tape, &row(2 * i + 1, SHAPE[1])?, &leaves[0], None)?;
        flat.accumulate(&tape.backward_from(&y, row(2 * i + 2, SHAPE[0])?)?)?;
        if i % 2 == 1 {
            flat.update(1e-2, 0.5)?;
        }
    }
    Ok(flat)
}

/// Noise, which must be the CPU's to the bit, and latents mixed with it.
pub fn noise(gpu: &Gpu, launched: &Launched) -> Result<Row> {
    const SEED: u64 = 0xfedc_ba98_7654_3210;
    const INDEX: [u64; 2] = [3, 6_000_000_001];
    const SIZE: usize = 64 * 64 * 4;
    let (signal, sigma) = ([0.9_f32, 0.1], [0.43_f32, 0.99]);
    launched.take();
    let device = Device::Gpu(gpu.clone());
    let there = |x: Tensor| x.to(&device);
    let (index, step) =
        (there(Tensor::new(INDEX.map(u64::cast_signed).to_vec(), &[2]))?, there(Tensor::new(vec![0_i64], &[1]))?);
    let [signal_there, sigma_there] = [signal, sigma].map(|rates| there(Tensor::new(rates.to_vec(), &[2])));
    let draw = Draw { seed: SEED, stream: Stream::Noise, index: &index, step: &step };
    let x = normals(1, &[2, SIZE]);
    let drawn = noise::normals(draw, SIZE)?.to_cpu()?;
    let mixed = noise::add_noise(&there(x.clone())?, &signal_there?, &sigma_there?, draw, Target::Velocity)?;
    let [noisy, velocity] = mixed.map(|mixed| mixed.to_cpu());

    let e = INDEX.iter().flat_map(|&i| random::normals(SEED, Stream::Noise, i, 0, SIZE));
    let e = Tensor::new(e.collect::<Vec<f32>>(), &[2, SIZE]);
    let mix = |f: fn(f32, f32, f32, f32) -> f32| {
        let pairs = x.data::<f32>().iter().zip(e.data::<f32>()).enumerate();
        let values = pairs.map(|(i, (&x, &e))| f(signal[i / SIZE], sigma[i / SIZE], x, e));
        Tensor::new(values.collect(), &[2, SIZE])
    };
    let quantities = [
        ("noise", drawn, e.clone(), 0.0),
        ("noisy", noisy?, mix(|signal, sigma, x, e| signal * x + sigma * e), LEAST_BOUND),
        ("velocity", velocity?, mix(|signal, sigma, x, e| signal * e - sigma * x), LEAST_BOUND),
    ];
    let quantities =
        quantities.map(|(name, there, here, bound)| (name.to_owned(), relative_error(&there, &here), bound));
    Ok(worst("noise of two latents".into(), DType::F32, quantities.into_iter(), launched.take()))
}
