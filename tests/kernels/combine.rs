//! `combine.cu`, and the sampler steps that it makes.

use selma::device::Device;
use selma::device::gpu::combine::{INPUTS, LINES, Line, combine};
use selma::device::gpu::{Buffer, Checks, Gpu, Order};
use selma::diffusion::guidance::guide;
use selma::diffusion::sampler;
use selma::ops;
use selma::tensor::{DType, Tensor};
use serde_json::json;

use crate::support::{close, close_within, download, everywhere, relative_error, tensor, upload};

/// Each line from the inputs and the lines before it, limited before the next one sees it.
#[test]
fn lines_build_on_each_other() {
    everywhere(|gpu, dtype| {
        for (n, inputs, lines) in [(1, 1, 1), (7, 3, 2), (255, 5, 3), (2048, INPUTS, LINES), (4099, INPUTS, LINES)] {
            let xs: Vec<Tensor> = (0..inputs as u64).map(|i| tensor(i + 1, &[n], dtype)).collect();
            let numbers: Vec<Line> = (0..lines).map(|l| line(l, inputs)).collect();
            let there: Vec<Buffer> = xs.iter().map(|x| upload(gpu, x)).collect();
            let y = combine(&there.iter().collect::<Vec<_>>(), &numbers).unwrap();
            // In f32 to the end, as the kernel.
            let xs: Vec<Tensor> = xs.iter().map(|x| x.cast(DType::F32)).collect();
            let mut made: Vec<Tensor> = Vec::new();
            for (l, numbers) in numbers.iter().enumerate() {
                let of_inputs = numbers.of_inputs.iter().zip(&xs);
                let terms = of_inputs.chain(numbers.of_lines.iter().zip(&made));
                let terms: Vec<(f64, &Tensor)> = terms.map(|(&c, x)| (c.into(), x)).collect();
                let sum = ops::combine(&terms).unwrap();
                made.push(ops::clamp(&sum, (-numbers.limit).into(), numbers.limit.into()).unwrap());
                close(&format!("line {l}"), &y.view(l * n, n), &made[l].cast(dtype), INPUTS + LINES);
            }
        }
    });
}

/// Line `l` of inputs and lines with coefficients of both signs; every second one is limited.
fn line(l: usize, inputs: usize) -> Line {
    let mut line = Line::EMPTY;
    for (i, c) in line.of_inputs.iter_mut().take(inputs).enumerate() {
        *c = 0.7 - 0.3 * (i + 2 * l) as f32;
    }
    for (k, c) in line.of_lines.iter_mut().take(l).enumerate() {
        *c = 0.5 - 0.4 * k as f32;
    }
    if l % 2 == 1 {
        line.limit = 0.8;
    }
    line
}

/// A coefficient of zero keeps even infinity out.
#[test]
fn what_a_line_does_not_take_does_not_reach_it() {
    everywhere(|gpu, dtype| {
        let [finite, infinite] = [1.5_f32, f32::INFINITY].map(|x| Tensor::new(vec![x; 20], &[20]).cast(dtype));
        let there = [&finite, &infinite].map(|x| upload(gpu, x));
        let mut line = Line::EMPTY;
        line.of_inputs[0] = 2.0;
        let y = download(&combine(&[&there[0], &there[1]], &[line]).unwrap(), &[20]);
        assert_eq!(y.bytes(), Tensor::full(&[20], 3.0, dtype).bytes());
    });
}

#[test]
fn combinations_of_more_than_a_launch_takes() {
    everywhere(|gpu, dtype| {
        let xs: Vec<Tensor> = (1..=19).map(|i| tensor(i, &[300], dtype)).collect();
        let coefficients = (0..).map(|i| 0.7 - 0.1 * f64::from(i));
        let device = Device::Gpu(gpu.clone());
        let there: Vec<Tensor> = xs.iter().map(|x| x.to(&device).unwrap()).collect();
        let terms: Vec<(f64, &Tensor)> = coefficients.clone().zip(&there).collect();
        let sum = ops::combine(&terms).unwrap();
        let expected = ops::combine(&coefficients.zip(&xs).collect::<Vec<_>>()).unwrap();
        // Two more roundings to the storage type on the way.
        let share = match dtype {
            DType::Bf16 => 2f64.powi(-7),
            DType::F16 => 2f64.powi(-10),
            _ => 2f64.powi(-20),
        };
        close_within("combine", &sum.memory().unwrap(), &expected, share);
    });
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    everywhere(|gpu, dtype| {
        let (a, b) = (gpu.buffer(dtype, 3).unwrap(), gpu.buffer(dtype, 4).unwrap());
        let message = combine(&[&a, &b], &[Line::EMPTY]).unwrap_err().to_string();
        assert!(message.contains("expected 3"), "{message}");
        let message = combine(&[&a], &[Line::EMPTY; LINES + 1]).unwrap_err().to_string();
        assert!(message.contains("5 lines; expected 1 to 8 and 1 to 4"), "{message}");
    });
}

/// Every scheduler that has a name, guided: the CPU's samples from launches of one kernel, one a step.
#[test]
fn guided_steps_of_every_scheduler_are_one_launch() {
    const NAMES: [&str; 9] =
        ["ddim", "pndm", "euler", "euler-a", "dpmpp-2m", "dpmpp-2m-karras", "unipc", "lcm", "ddpm"];
    const SHAPE: [usize; 4] = [2, 3, 5, 4];
    let config = json!({
        "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    });
    let predictions = ["epsilon", "v_prediction", "sample"];
    for name in NAMES {
        for (prediction, clip) in predictions.into_iter().flat_map(|p| [(p, false), (p, true)]) {
            if (name, prediction) == ("pndm", "sample") {
                continue; // There is no such sampler.
            }
            let mut config = config.clone();
            config["prediction_type"] = prediction.into();
            config["clip_sample"] = clip.into();
            let what = format!("{name}, {prediction}, clip {clip}");
            let (gpu, launched) = Gpu::simulator(Checks::On, Order::Forwards).unwrap().recorded();
            let device = Device::Gpu(gpu);
            let mut samplers = [(); 2].map(|()| sampler::from_config(name, &config, 6).unwrap());
            let [mut x, mut x_there] =
                [tensor(1, &SHAPE, DType::F32), tensor(1, &SHAPE, DType::F32).to(&device).unwrap()];
            for i in 0..samplers[0].timesteps().len() {
                let drawn = [2, 3, 4].map(|seed| tensor(10 * i as u64 + seed, &SHAPE, DType::F32));
                let there = drawn.clone().map(|x| x.to(&device).unwrap());
                launched.take();
                for (sampler, x, [u, c, noise]) in [(0, &mut x, &drawn), (1, &mut x_there, &there)] {
                    let guided = guide(u, c, 7.5, 0.0).unwrap();
                    *x = samplers[sampler].step(i, &guided, x, Some(noise)).unwrap();
                }
                let launches = launched.take();
                assert_eq!(launches.into_iter().collect::<Vec<_>>(), [("combine", 1)], "{what}, step {i}");
                let error = relative_error(&x_there.to_cpu().unwrap(), &x);
                assert!(error < 2e-6, "{what}, step {i}: {error:e}");
            }
        }
    }
}
