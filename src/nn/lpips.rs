//! LPIPS v0.1 on AlexNet: how different two images look (Zhang et al. 2018, arXiv:1801.03924).

use crate::autograd::Tape;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::inception::relu;
use crate::nn::layout::channels_last;
use crate::nn::{Param, Weights, input, move_to};
use crate::ops::{self, Padding, Window};
use crate::tensor::Tensor;

/// The layer's name, kernel, stride and padding, and whether a maximum comes before it.
const LAYERS: [(&str, usize, usize, usize, bool); 5] = [
    ("net.slice1.0", 11, 4, 2, false),
    ("net.slice2.3", 5, 1, 2, true),
    ("net.slice3.6", 3, 1, 1, true),
    ("net.slice4.8", 3, 1, 1, false),
    ("net.slice5.10", 3, 1, 1, false),
];
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];
const EPS: f64 = 1e-10;

#[derive(Clone)]
struct Layer {
    weight: Param,
    bias: Param,
    stride: usize,
    padding: Padding,
    pooled: bool,
    /// The weight of each channel's difference.
    lin: Vec<f64>,
}

#[derive(Clone)]
pub struct Lpips {
    layers: Vec<Layer>,
    shift: Vec<f32>,
    scale: Vec<f32>,
    parameters: Vec<Param>,
    /// Tensors of the file that the model does not have.
    pub unread: Vec<String>,
}

impl Lpips {
    /// Smallest width and height of the images that it takes.
    pub const LEAST_SIZE: usize = 31;

    /// Under the names of the package lpips. Widths follow from the weights.
    ///
    /// # Errors
    /// [`Error::File`] naming the tensor that is missing or does not fit.
    pub fn load(root: Weights) -> Result<Self> {
        let mut c_in = 3;
        let mut layers = Vec::new();
        for (k, (name, kernel, stride, padding, pooled)) in LAYERS.into_iter().enumerate() {
            let w = root.scope(name);
            let out = w.shape("weight")?[0];
            let weight = w.value("weight", &[out, c_in, kernel, kernel])?;
            let lin = root.value(&format!("lin{k}.model.1.weight"), &[1, out, 1, 1])?;
            layers.push(Layer {
                weight: w.param("weight", channels_last(&weight.cast(w.dtype()))?),
                bias: w.vector("bias", out)?,
                stride,
                padding: Padding::all(padding),
                pooled,
                lin: lin.reals::<f64>().into_owned(),
            });
            c_in = out;
        }
        let constant = |name: &str, default: [f32; 3]| -> Result<Vec<f32>> {
            match root.contains(name) {
                true => Ok(root.value(name, &[1, 3, 1, 1])?.reals::<f32>().into_owned()),
                false => Ok(default.to_vec()),
            }
        };
        let (shift, scale) = (constant("scaling_layer.shift", SHIFT)?, constant("scaling_layer.scale", SCALE)?);
        let (parameters, unread) = root.finish_with_unread();
        Ok(Self { layers, shift, scale, parameters, unread })
    }

    /// Brings every weight to `device`, where the network then computes.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn to(&self, device: &Device) -> Result<()> {
        move_to(&self.parameters, device)
    }

    pub fn parameters(&self) -> &[Param] {
        &self.parameters
    }

    /// The distance of each image of `a` from the one of `b` at its place, both `[n, h, w, 3]` in [-1, 1] on the CPU.
    ///
    /// # Errors
    /// [`Error::Shape`] where the shapes differ, or images are smaller than [`Lpips::LEAST_SIZE`].
    pub fn distance(&self, tape: &Tape, a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
        const OP: &str = "LPIPS";
        let [n, h, w, _] = a.dims(OP)?;
        if a.shape() != b.shape() || h.min(w) < Self::LEAST_SIZE {
            let message =
                format!("expected two images of one size, from {} pixels on, got {a:?} and {b:?}", Self::LEAST_SIZE);
            return Err(Error::shape(OP, message));
        }
        let (a, b) = (self.features(tape, a)?, self.features(tape, b)?);
        let mut distances = vec![0.0; n];
        for ((a, b), layer) in a.iter().zip(&b).zip(&self.layers) {
            let c = layer.lin.len();
            let (a, b) = (a.reals::<f64>(), b.reals::<f64>());
            let image = a.len() / n;
            let unit = |x: &[f64]| -> Vec<f64> {
                let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt() + EPS;
                x.iter().map(|x| x / norm).collect()
            };
            for (i, distance) in distances.iter_mut().enumerate() {
                let of = |x: &'_ [f64]| x[i * image..][..image].chunks_exact(c).map(unit).collect::<Vec<_>>();
                let pixel = |(a, b): (Vec<f64>, Vec<f64>)| -> f64 {
                    a.iter().zip(&b).zip(&layer.lin).map(|((a, b), lin)| (a - b).powi(2) * lin).sum()
                };
                let sum: f64 = of(&a).into_iter().zip(of(&b)).map(pixel).sum();
                *distance += sum / (image / c) as f64;
            }
        }
        Ok(distances)
    }

    /// What each layer makes of `x`, on the CPU.
    fn features(&self, tape: &Tape, x: &Tensor) -> Result<Vec<Tensor>> {
        let scaled = x.reals::<f32>();
        let scaled = scaled.iter().enumerate().map(|(i, x)| (x - self.shift[i % 3]) / self.scale[i % 3]);
        let first = self.layers[0].weight.get();
        let scaled = Tensor::new(scaled.collect(), x.shape());
        let mut h = input(tape, &scaled, &first.device(), first.dtype())?;
        let mut features = Vec::new();
        for layer in &self.layers {
            if layer.pooled {
                h = ops::max_pool2d(tape, &h, Window::square(3, 2, 0))?;
            }
            let (weight, bias) = (layer.weight.get(), layer.bias.get());
            h = relu(tape, &ops::conv2d(tape, &h, &weight, Some(&bias), layer.stride, layer.padding)?)?;
            features.push(h.to_cpu()?);
        }
        Ok(features)
    }
}
