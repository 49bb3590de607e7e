//! `optimizer.cu` and `adamw_8bit.cu`, and their bodies on the CPU: AdamW, clipping, the average.

use selma::autograd::Tape;
use selma::device::Device;
use selma::nn::Param;
use selma::ops;
use selma::ops::optimizer::{
    AdamW, AdamW8bit, BLOCK, Optimizer, Parameters, Progress, Step, accumulate, clip, code_values, decoded,
    move_average, update,
};
use selma::tensor::{DType, Tensor};
use selma::train::parameters::FlatParameters;

use crate::support::{close, devices, fixtures, inputs, near, near_within, values};

pub const LENGTHS: [usize; 4] = [1, 6, 1030, 40_001];
const SETTINGS: AdamW = AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.05 };
const LR: f64 = 1e-2;

/// Looks random, the same everywhere; f32.
pub fn random(n: usize, seed: u64) -> Vec<f32> {
    values(n, seed).into_iter().map(|x| 2.0 * x as f32).collect()
}

pub fn floats(values: &[f32]) -> Tensor {
    Tensor::new(values.to_vec(), &[values.len()])
}

/// Numbers as passes on `device` take them.
pub fn numbers(values: &[f64], device: &Device) -> Tensor {
    Tensor::new(values.to_vec(), &[values.len()]).cast(device.number_dtype()).to(device).unwrap()
}

pub fn everywhere() -> Vec<Device> {
    [Device::Cpu].into_iter().chain(devices()).collect()
}

/// Updates of one optimizer on one device.
pub struct Run<'a> {
    optimizer: &'a dyn Optimizer,
    device: Device,
    pub parameters: Parameters,
    progress: Tensor,
    pub lr: Tensor,
}

impl<'a> Run<'a> {
    pub fn new(optimizer: &'a dyn Optimizer, device: &Device, start: &[f32], dtype: DType) -> Self {
        let start = floats(start).to(device).unwrap();
        Self {
            optimizer,
            device: device.clone(),
            parameters: Parameters::new(start, dtype, optimizer).unwrap(),
            progress: Progress::new(DType::F32).tensor().to(device).unwrap(),
            lr: numbers(&[LR], device),
        }
    }

    pub fn step(&mut self, gradient: &[f32], factor: f64) {
        let (gradient, factor) = (floats(gradient).to(&self.device).unwrap(), numbers(&[factor], &self.device));
        let (lr, progress) = (&self.lr, &mut self.progress);
        let step = Step { gradient: &gradient, factor: &factor, lr, progress, interval: 0 };
        update(self.optimizer, &mut self.parameters, step).unwrap();
    }

    fn values(&self) -> Vec<f32> {
        self.parameters.values.to_cpu().unwrap().data().to_vec()
    }

    pub fn state(&self, i: usize) -> Tensor {
        self.parameters.state[i].1.to_cpu().unwrap()
    }
}

#[test]
fn adamw_with_clipping_is_that_of_pytorch() {
    let fixtures = fixtures();
    let mut count = 0;
    for (case, settings) in fixtures.of("adamw") {
        let setting = |key: &str| settings[key].as_f64().unwrap();
        // Both tensors in one flat tensor, as training holds them.
        let flat = |kind: &str| -> Vec<f32> {
            let part = |i| fixtures.tensor(&format!("{case}.{kind}.{i}")).unwrap();
            [part(0).data::<f32>(), part(1).data::<f32>()].concat()
        };
        let adamw = AdamW {
            betas: (setting("beta1"), setting("beta2")),
            eps: setting("eps"),
            weight_decay: setting("weight_decay"),
        };
        let norms = fixtures.tensor(&format!("{case}.norm")).unwrap();
        for device in everywhere() {
            let mut run = Run::new(&adamw, &device, &flat("p"), DType::F32);
            run.lr = numbers(&[setting("lr")], &device);
            for (step, &expected) in norms.data::<f32>().iter().enumerate() {
                let gradient = flat(&format!("g.{step}"));
                let one = floats(&[1.0]).to(&device).unwrap();
                let there = floats(&gradient).to(&device).unwrap();
                let [norm, factor] =
                    clip(&there, &one, setting("max_norm")).unwrap().map(|x| x.to_cpu().unwrap().item());
                assert!((norm - f64::from(expected)).abs() < 1e-6 * norm, "{case}: norm at step {step}");
                run.step(&gradient, factor);
            }
            close(case, &floats(&run.values()), &floats(&flat("y")), 1e-6);
        }
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn the_norm_survives_extreme_values() {
    let clip = |gradient: &[f32], most| clip(&floats(gradient), &floats(&[1.0]), most).unwrap().map(|x| x.item());
    let norm = |gradient: &[f32]| clip(gradient, f64::INFINITY)[0];
    let x = random(50_001, 3);
    let expected: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    assert!((norm(&x) / expected - 1.0).abs() < 1e-6);
    assert_eq!(norm(&[1e30, 0.0]), f64::from(1e30_f32));
    assert_eq!(norm(&[1e-30, 0.0]), f64::from(1e-30_f32));
    assert_eq!(norm(&[]), 0.0);
    assert_eq!(clip(&[0.5], 1.0), [0.5, 1.0]);
    assert_eq!(clip(&[4.0], f64::INFINITY), [4.0, 1.0]);
    for broken in [f32::NAN, f32::INFINITY] {
        let [norm, factor] = clip(&[broken, 1.0], 1.0);
        assert!(!norm.is_finite() && factor == 0.0);
    }
}

/// One step as sections 1 and 2 of the paper (Dettmers et al. 2022, arXiv:2110.02861) have it, value by value: of each
/// block of moments the codes are read, the step is made in f32, and each value gets the nearest of all codes.
fn written_out(p: &mut [f32], g: &[f32], codes: &mut [Vec<usize>; 2], scales: &mut [Vec<f32>; 2], step: i32) {
    let tables = [code_values(true), code_values(false)];
    let (beta1, beta2) = SETTINGS.betas;
    let rate = (LR / (1.0 - beta1.powi(step))) as f32;
    let root = (1.0 - beta2.powi(step)).sqrt() as f32;
    let blocks: Vec<Vec<usize>> = (0..p.len()).collect::<Vec<_>>().chunks(BLOCK).map(Vec::from).collect();
    for (block, members) in blocks.iter().enumerate() {
        let read = |moment: usize, i: usize| tables[moment][codes[moment][i]] * scales[moment][block];
        let first = |&i: &usize| beta1 as f32 * read(0, i) + (1.0 - beta1) as f32 * g[i];
        let second = |&i: &usize| beta2 as f32 * read(1, i) + (1.0 - beta2) as f32 * (g[i] * g[i]);
        let new: [Vec<f32>; 2] = [members.iter().map(first).collect(), members.iter().map(second).collect()];
        for (&i, (m, v)) in members.iter().zip(new[0].iter().zip(&new[1])) {
            let decay = (1.0 - LR * SETTINGS.weight_decay) as f32;
            p[i] = p[i] * decay - rate * (m / (v.sqrt() / root + SETTINGS.eps as f32));
        }
        for moment in [0, 1] {
            let scale = new[moment].iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            scales[moment][block] = scale;
            for (&i, &x) in members.iter().zip(&new[moment]) {
                let distance = |code: &usize| (tables[moment][*code] - if scale > 0.0 { x / scale } else { 0.0 }).abs();
                let nearest = (0..256).min_by(|a, b| distance(a).total_cmp(&distance(b)));
                // The one addition: what is above 0 does not become 0 where it is divided by.
                let least = usize::from(moment == 1 && x > 0.0);
                codes[moment][i] = nearest.unwrap().max(least);
            }
        }
    }
}

/// The codes of a tensor of words, the first in the lowest byte.
fn bytes(words: &Tensor) -> Vec<usize> {
    words.data::<i64>().iter().flat_map(|word| word.to_le_bytes()).map(usize::from).collect()
}

#[test]
fn moments_in_8_bits_are_those_of_the_paper() {
    // Less than a block, and blocks and a part.
    for n in [1, 255, 700] {
        let mut expected = random(n, 1);
        let optimizer = AdamW8bit(SETTINGS);
        let mut run = Run::new(&optimizer, &Device::Cpu, &expected, DType::F32);
        let zero = |signed| code_values(signed).iter().position(|&x| x == 0.0).unwrap();
        let (mut codes, mut scales) = ([vec![zero(true); n], vec![zero(false); n]], [vec![0.0; 3], vec![0.0; 3]]);
        for step in 1..=5 {
            // Gradients of very different sizes, and one that is 0 from a step on.
            let mut gradient: Vec<f32> = random(n, 1 + step).into_iter().map(|x| x.powi(7)).collect();
            gradient[0] *= f32::from(u8::from(step < 3));
            run.step(&gradient, 1.0);
            written_out(&mut expected, &gradient, &mut codes, &mut scales, step as i32);
            for moment in [0, 1] {
                let (got, got_scales) = (run.state(2 * moment), run.state(2 * moment + 1));
                assert_eq!(bytes(&got)[..n], codes[moment], "step {step}: codes of moment {moment}");
                assert_eq!(got_scales.data::<f32>(), &scales[moment][..got_scales.len()], "step {step}");
                let meaning = |i: usize| code_values(moment == 0)[codes[moment][i]] * scales[moment][i / BLOCK];
                let meaning: Vec<f32> = (0..n).map(meaning).collect();
                assert_eq!(decoded(&got, &got_scales, n, moment == 0), meaning, "step {step}");
            }
            assert_eq!(run.values(), expected, "step {step}");
        }
    }
}

/// Both optimizers bring noisy parameters as near to their target.
#[test]
fn moments_in_8_bits_are_enough() {
    const N: usize = 1000;
    let target = random(N, 1);
    let distance = |params: &[f32]| -> f64 {
        let squares = params.iter().zip(&target).map(|(p, t)| f64::from(p - t).powi(2));
        (squares.sum::<f64>() / N as f64).sqrt()
    };
    let settings = AdamW { weight_decay: 0.0, ..SETTINGS };
    let end = |optimizer: &dyn Optimizer| {
        let mut run = Run::new(optimizer, &Device::Cpu, &[0.0; N], DType::F32);
        for step in 1..=400 {
            let noise = random(N, 1 + step);
            let gradient = run
                .values()
                .iter()
                .zip(&target)
                .zip(&noise)
                .map(|((p, t), noise)| p - t + 0.1 * noise)
                .collect::<Vec<_>>();
            run.step(&gradient, 1.0);
        }
        distance(&run.values())
    };
    let (whole, small) = (end(&settings), end(&AdamW8bit(settings)));
    assert!(small < 1.2 * whole && whole < 0.05 * distance(&[0.0; N]), "{small}, with moments in f32 {whole}");
}

#[test]
fn gradients_are_added_up() {
    for device in everywhere() {
        for n in LENGTHS {
            let (sum, part) = (random(n + 3, 1), random(n, 2));
            let mut got = floats(&sum).to(&device).unwrap();
            accumulate(&mut got, 2, &[&floats(&part).to(&device).unwrap()]).unwrap();
            let mut expected = sum;
            expected[2..].iter_mut().zip(&part).for_each(|(sum, part)| *sum += part);
            near("sum", &got, &floats(&expected), 1);
            assert!(accumulate(&mut got, 4, &[&floats(&part).to(&device).unwrap()]).is_err());
        }
        // Neighbours, more than one launch takes.
        let parts: Vec<Vec<f32>> = (0..11).map(|i| random(1 + 37 * i, i as u64)).collect();
        let sum = random(3 + parts.concat().len(), 12);
        let mut got = floats(&sum).to(&device).unwrap();
        let there: Vec<Tensor> = parts.iter().map(|part| floats(part).to(&device).unwrap()).collect();
        accumulate(&mut got, 3, &there.iter().collect::<Vec<_>>()).unwrap();
        let mut expected = sum;
        expected[3..].iter_mut().zip(parts.concat()).for_each(|(sum, part)| *sum += part);
        near("sum of neighbours", &got, &floats(&expected), 1);
        assert!(accumulate(&mut got, 4, &there.iter().collect::<Vec<_>>()).is_err());
    }
}

#[test]
fn every_device_clips_alike() {
    for device in devices() {
        for n in LENGTHS {
            let gradient = floats(&random(n, 1));
            for (scale, most) in [(1.0, 1e9), (1024.0, 0.01), (1024.0, f64::INFINITY)] {
                let scale = floats(&[scale]);
                let expected = clip(&gradient, &scale, most).unwrap();
                let got = clip(&gradient.to(&device).unwrap(), &scale.to(&device).unwrap(), most).unwrap();
                for (what, got, expected) in [("norm", &got[0], &expected[0]), ("factor", &got[1], &expected[1])] {
                    near(what, got, &expected.cast(DType::F32), n);
                }
            }
        }
    }
}

#[test]
fn every_device_updates_alike() {
    const FACTOR: f64 = 0.25;
    for device in devices() {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            for n in LENGTHS {
                let (start, gradient) = (random(n, 1), random(n, 2));
                let mut runs = [&Device::Cpu, &device].map(|device| Run::new(&SETTINGS, device, &start, dtype));
                for _ in 1..=3 {
                    runs.iter_mut().for_each(|run| run.step(&gradient, FACTOR));
                }
                let [here, there] = &runs;
                near("values", &there.parameters.values, &here.parameters.values, 1);
                near("copy", &there.parameters.copy, &here.parameters.copy, 1);
                for ((name, got), (_, expected)) in there.parameters.state.iter().zip(&here.parameters.state) {
                    near(name, got, expected, 1);
                }
                near("progress", &there.progress, &here.progress, 0);
            }
        }
    }
}

/// Moments in 8 bits: the CPU's codes, but for a few values that lie between two of them but for rounding.
#[test]
fn every_device_updates_moments_in_8_bits_alike() {
    const FACTOR: f64 = 0.25;
    let optimizer = AdamW8bit(SETTINGS);
    for device in devices() {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            for n in LENGTHS {
                let start = random(n, 1);
                let mut runs = [&Device::Cpu, &device].map(|device| Run::new(&optimizer, device, &start, dtype));
                for step in 1..=3 {
                    let gradient = random(n, 1 + step);
                    runs.iter_mut().for_each(|run| run.step(&gradient, FACTOR));
                }
                let [here, there] = &mut runs;
                for moment in [0, 2] {
                    near("scales", &there.parameters.state[moment + 1].1, &here.state(moment + 1), 1);
                    let pairs = bytes(&there.state(moment)).into_iter().zip(bytes(&here.state(moment)));
                    let off: Vec<usize> = pairs.map(|(a, b)| a.abs_diff(b)).filter(|&by| by > 0).collect();
                    assert!(off.len() <= n / 1000 && off.iter().all(|&by| by == 1), "{n}: {off:?}");
                }
                // What a code is off by, and what a step makes of it.
                near_within("values", &there.parameters.values, &here.parameters.values, 1e-3);
                near_within("copy", &there.parameters.copy, &here.parameters.copy, 1e-3);

                // Where the gradient was not finite, nothing changes.
                let before: Vec<Tensor> = (0..4).map(|i| there.state(i)).collect();
                there.step(&start, 0.0);
                assert!(before.iter().enumerate().all(|(i, x)| there.state(i).bytes() == x.bytes()));
                near_within("values", &there.parameters.values, &here.parameters.values, 1e-3);
            }
        }
    }
}

/// Three updates in a row double the scale; gradients that are not finite change nothing but the scale, which halves. Each
/// update has its own rate, and those past the last have the last.
#[test]
fn loss_scale() {
    for device in everywhere() {
        let there = |values: &[f32]| floats(values).to(&device).unwrap();
        let mut run = Run::new(&SETTINGS, &device, &[1.0, -2.0], DType::F16);
        run.parameters.state[0].1 = there(&[0.5, 0.5]);
        run.parameters.state[1].1 = there(&[0.25, 0.25]);
        run.progress = there(&[1024.0, 1.0, 7.0]);
        run.lr = numbers(&[[f64::NAN; 7].as_slice(), &[1e-2, 3e-2]].concat(), &device);
        let mut step = |gradient: &[f32]| {
            let gradient = there(gradient);
            let [norm, factor] = clip(&gradient, &run.progress.view(0, &[1]), 1.0).unwrap();
            let (lr, progress) = (&run.lr, &mut run.progress);
            let step = Step { gradient: &gradient, factor: &factor, lr, progress, interval: 3 };
            update(&SETTINGS, &mut run.parameters, step).unwrap();
            let progress = run.progress.to_cpu().unwrap().data::<f32>().to_vec();
            let moments = [0, 1].map(|i| run.state(i).data::<f32>().to_vec());
            ([vec![run.values()], moments.to_vec()].concat(), progress, norm.to_cpu().unwrap().item())
        };
        let mut before = vec![vec![1.0_f32, -2.0], vec![0.5, 0.5], vec![0.25, 0.25]];
        for (broken, scale) in [(f32::INFINITY, 512.0), (f32::NAN, 256.0)] {
            let (after, progress, norm) = step(&[broken, 3.0]);
            assert_eq!(after, before);
            assert_eq!(progress, [scale, 0.0, 7.0]);
            assert!(!norm.is_finite());
        }
        let steps = [(8, [256.0, 1.0], 1e-2), (9, [256.0, 2.0], 3e-2), (10, [512.0, 0.0], 3e-2)];
        for (updates, [scale, clean], lr) in steps {
            let (after, progress, norm) = step(&[0.0, 128.0]);
            assert_eq!(progress, [scale, clean, updates as f32]);
            assert!((norm - 0.5).abs() < 1e-6);
            // As `torch.optim.AdamW` documents it.
            let (beta1, beta2) = SETTINGS.betas;
            for (i, g) in [0.0, 0.5].into_iter().enumerate() {
                let [p, m, v] = [0, 1, 2].map(|of| f64::from(before[of][i]));
                let (m, v) = (beta1 * m + (1.0 - beta1) * g, beta2 * v + (1.0 - beta2) * g * g);
                let hat = [m / (1.0 - beta1.powi(updates)), v / (1.0 - beta2.powi(updates))];
                let p = p * (1.0 - lr * SETTINGS.weight_decay) - lr * hat[0] / (hat[1].sqrt() + SETTINGS.eps);
                for (of, value) in [p, m, v].into_iter().enumerate() {
                    assert!((f64::from(after[of][i]) - value).abs() <= 1e-6 * value.abs(), "{after:?}: {value}");
                }
            }
            before = after;
        }
    }
}

#[test]
fn a_step_that_overflows_changes_the_scale_only() {
    for device in everywhere() {
        let dtype = DType::F16;
        let there = |x: Tensor| x.cast(dtype).to(&device).unwrap();
        let [weight, x]: [Tensor; 2] = inputs(&[&[2, 3], &[1, 3]], dtype).try_into().unwrap();
        let param = Param::new("weight", there(weight));
        let mut flat = FlatParameters::new(vec![param], dtype, Box::new(SETTINGS)).unwrap();
        let start = flat.master().unwrap().data::<f32>().to_vec();
        let mut step = |dy: f32| {
            let leaves = flat.leaves();
            let tape = Tape::watching(&leaves);
            let y = ops::linear(&tape, &there(x.clone()), &leaves[0], None).unwrap();
            let dy = there(floats(&[dy, dy]).with_shape(&[1, 2]));
            flat.accumulate(&tape.backward_from(&y, dy).unwrap()).unwrap();
            let norm = flat.update(LR, 1.0).unwrap();
            assert!(flat.gradient().unwrap().data::<f32>().iter().all(|&x| x == 0.0));
            (norm.is_finite(), flat.progress().unwrap().values(), flat.master().unwrap().data::<f32>().to_vec())
        };
        assert_eq!(step(f32::INFINITY), (false, [32768.0, 0.0, 0.0], start.clone()));
        let (finite, progress, master) = step(1.0);
        assert!(finite && progress == [32768.0, 1.0, 1.0] && master != start, "{progress:?}");
    }
}

#[test]
fn moving_averages() {
    for device in everywhere() {
        for n in LENGTHS {
            let (average, values) = (random(n, 1), random(n, 2));
            let mut got = floats(&average).to(&device).unwrap();
            let there = floats(&values).to(&device).unwrap();
            move_average(&mut got, &there, &numbers(&[0.9], &device)).unwrap();
            let mixed: Vec<f32> = average.iter().zip(&values).map(|(a, v)| 0.9 * a + 0.1 * v).collect();
            near("average", &got, &floats(&mixed), 4);
        }
    }
}
