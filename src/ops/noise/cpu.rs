//! Noise on the CPU: tasks are samples.

use rayon::prelude::*;

use super::{Draw, Target};
use crate::dispatch;
use crate::error::Result;
use crate::random;
use crate::tensor::{Real, Tensor, buffer};

pub fn add_noise(x: &Tensor, signal: &Tensor, sigma: &Tensor, draw: Draw<'_>, target: Target) -> Result<[Tensor; 2]> {
    let size = x.len() / draw.index.len();
    let noise = normals(draw, size)?.with_shape(x.shape()).cast(x.dtype());
    dispatch!(x.dtype(), T => {
        let mix = |of_x: fn(f32, f32) -> f32, of_noise: fn(f32, f32) -> f32| {
            let rates: Vec<[T; 2]> = signal.data::<f32>().iter().zip(sigma.data::<f32>())
                .map(|(&a, &s)| [of_x(a, s), of_noise(a, s)].map(|rate| T::from_f64(rate.into())))
                .collect();
            mixed::<T>(x, &noise, &rates)
        };
        let noisy = mix(|signal, _| signal, |_, sigma| sigma);
        let target = match target {
            Target::Noise => noise.clone(),
            Target::Velocity => mix(|_, sigma| -sigma, |signal, _| signal),
            Target::Sample => x.clone(),
        };
        Ok([noisy, target])
    })
}

pub fn normals(draw: Draw<'_>, size: usize) -> Result<Tensor> {
    let (index, step) = (draw.index.data::<i64>(), draw.step.data::<i64>()[0].cast_unsigned());
    let sample = |&index: &i64| random::normals(draw.seed, draw.stream, index.cast_unsigned(), step, size);
    let values: Vec<f32> = index.par_iter().flat_map_iter(sample).collect();
    Ok(Tensor::new(values, &[index.len(), size]))
}

/// `p x + q noise`, with two `rates` a sample.
fn mixed<T: Real>(x: &Tensor, noise: &Tensor, rates: &[[T; 2]]) -> Tensor {
    let (xs, es) = (x.reals::<T>(), noise.reals::<T>());
    let size = (xs.len() / rates.len()).max(1);
    let mut out = buffer::<T>(xs.len());
    let samples = out.par_chunks_mut(size).zip(xs.par_chunks(size)).zip(es.par_chunks(size));
    samples.zip(rates).for_each(|(((out, x), e), &[p, q])| {
        for ((y, &x), &e) in out.iter_mut().zip(x).zip(e) {
            *y = p * x + q * e;
        }
    });
    Tensor::from_reals(out, x.shape(), x.dtype())
}
