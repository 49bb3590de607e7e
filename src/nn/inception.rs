//! Inception v3 as FID uses it: TensorFlow's network of 2015-12-05 in torchvision's layout. Unlike torchvision's its mean
//! pools leave the padding out of the count, and its last block pools by the maximum (Szegedy et al. 2016,
//! arXiv:1512.00567; Heusel et al. 2017, arXiv:1706.08500).

use crate::autograd::Tape;
use crate::device::Device;
use crate::error::Result;
use crate::nn::layout::channels_last;
use crate::nn::{Linear, Param, Weights, input, move_to};
use crate::ops::{self, Padding, Window};
use crate::tensor::Tensor;

const BATCH_NORM_EPS: f64 = 1e-3;

/// A convolution with its batch norm folded in, and ReLU.
#[derive(Clone)]
struct Unit {
    weight: Param,
    bias: Param,
    stride: usize,
    padding: Padding,
}

impl Unit {
    /// Sizes follow from the weights; with `padded` the size stays.
    fn load(w: &Weights, stride: usize, padded: bool) -> Result<Self> {
        let shape = w.shape("conv.weight")?;
        let kernel = w.value("conv.weight", &shape)?;
        let [out, _, kh, kw] = kernel.dims("conv.weight")?;
        let vector = |name| -> Result<Vec<f64>> { Ok(w.value(name, &[out])?.reals::<f64>().into_owned()) };
        let (gamma, beta) = (vector("bn.weight")?, vector("bn.bias")?);
        let (mean, variance) = (vector("bn.running_mean")?, vector("bn.running_var")?);
        let factors: Vec<f64> = gamma.iter().zip(variance).map(|(g, v)| g / (v + BATCH_NORM_EPS).sqrt()).collect();
        let bias = beta.iter().zip(mean).zip(&factors).map(|((b, m), f)| (b - m * f) as f32);
        let mut values = kernel.reals::<f32>().into_owned();
        for (row, factor) in values.chunks_exact_mut(kernel.len() / out.max(1)).zip(&factors) {
            row.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
        }
        let kernel = channels_last(&Tensor::new(values, &shape).cast(w.dtype()))?;
        let [y, x] = if padded { [kh / 2, kw / 2] } else { [0, 0] };
        Ok(Self {
            weight: w.param("conv.weight", kernel),
            bias: w.param("conv.bias", Tensor::new(bias.collect(), &[out])),
            stride,
            padding: Padding { top: y, left: x, bottom: y, right: x },
        })
    }

    fn forward(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        let y = ops::conv2d(tape, x, &self.weight.get(), Some(&self.bias.get()), self.stride, self.padding)?;
        relu(tape, &y)
    }
}

/// max(x, 0). Without gradient.
pub(super) fn relu(tape: &Tape, x: &Tensor) -> Result<Tensor> {
    tape.refuse("relu", x)?;
    ops::clamp(x, 0.0, f64::from(f32::MAX))
}

#[derive(Clone, Copy)]
enum Pool {
    Mean,
    Max,
    /// Halves the size, and no convolution follows.
    Down,
}

/// What reads a block's input: units one after the other, of which the last may be two side by side.
type Branch = (&'static [&'static str], &'static [&'static str]);

#[derive(Clone)]
struct Block {
    branches: Vec<(Vec<Unit>, Vec<Unit>)>,
    pool: Pool,
    pool_unit: Option<Unit>,
}

impl Block {
    fn load(w: &Weights, branches: &[Branch], pool: Pool) -> Result<Self> {
        let down = matches!(pool, Pool::Down);
        let unit = |name: &&str, last: bool| {
            let stride = if down && last { 2 } else { 1 };
            Unit::load(&w.scope(name), stride, stride == 1)
        };
        let load = |(chain, fork): &Branch| -> Result<(Vec<Unit>, Vec<Unit>)> {
            let last = chain.len() - 1;
            let chain = chain.iter().enumerate().map(|(i, name)| unit(name, i == last));
            Ok((chain.collect::<Result<_>>()?, fork.iter().map(|name| unit(name, false)).collect::<Result<_>>()?))
        };
        Ok(Self {
            branches: branches.iter().map(load).collect::<Result<_>>()?,
            pool,
            pool_unit: (!down).then(|| unit(&"branch_pool", false)).transpose()?,
        })
    }

    fn forward(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        let mut parts = Vec::new();
        for (chain, fork) in &self.branches {
            let h = chain.iter().try_fold(x.clone(), |h, unit| unit.forward(tape, &h))?;
            match fork.is_empty() {
                true => parts.push(h),
                false => parts.extend(fork.iter().map(|unit| unit.forward(tape, &h)).collect::<Result<Vec<_>>>()?),
            }
        }
        let pooled = match self.pool {
            Pool::Mean => ops::avg_pool2d(tape, x, Window::square(3, 1, 1))?,
            Pool::Max => ops::max_pool2d(tape, x, Window::square(3, 1, 1))?,
            Pool::Down => ops::max_pool2d(tape, x, Window::square(3, 2, 0))?,
        };
        let last = self.pool_unit.as_ref().map_or(Ok(pooled.clone()), |unit| unit.forward(tape, &pooled))?;
        let mut parts = parts.into_iter().chain([last]);
        let first = parts.next().expect("a block has branches");
        parts.try_fold(first, |sum, part| ops::concat_channels(tape, &sum, &part))
    }
}

const A: [Branch; 3] = [
    (&["branch1x1"], &[]),
    (&["branch5x5_1", "branch5x5_2"], &[]),
    (&["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], &[]),
];
const B: [Branch; 2] = [(&["branch3x3"], &[]), (&["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], &[])];
const C: [Branch; 3] = [
    (&["branch1x1"], &[]),
    (&["branch7x7_1", "branch7x7_2", "branch7x7_3"], &[]),
    (&["branch7x7dbl_1", "branch7x7dbl_2", "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5"], &[]),
];
const D: [Branch; 2] = [
    (&["branch3x3_1", "branch3x3_2"], &[]),
    (&["branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4"], &[]),
];
const E: [Branch; 3] = [
    (&["branch1x1"], &[]),
    (&["branch3x3_1"], &["branch3x3_2a", "branch3x3_2b"]),
    (&["branch3x3dbl_1", "branch3x3dbl_2"], &["branch3x3dbl_3a", "branch3x3dbl_3b"]),
];

/// Feature maps `[n, h, w, c]`, named by the full network's channels.
pub struct InceptionOutput {
    /// After the first pooling, after the second, and after Mixed_6e: 64, 192 and 768 channels.
    pub maps: [Tensor; 3],
    /// The mean over the last map, 2048 channels: `[n, c]`.
    pub features: Tensor,
}

#[derive(Clone)]
pub struct Inception {
    stem: Vec<Unit>,
    blocks: Vec<Block>,
    /// Without its bias.
    fc: Option<Linear>,
    parameters: Vec<Param>,
    /// Tensors of the file that the model does not have.
    pub unread: Vec<String>,
}

impl Inception {
    /// Width and height of the images that it takes.
    pub const SIZE: usize = 299;

    /// Under pytorch-fid's names. Widths follow from the weights.
    ///
    /// # Errors
    /// [`crate::Error::File`] naming the tensor that is missing or does not fit.
    pub fn load(root: Weights) -> Result<Self> {
        let stem = [
            ("Conv2d_1a_3x3", 2, false),
            ("Conv2d_2a_3x3", 1, false),
            ("Conv2d_2b_3x3", 1, true),
            ("Conv2d_3b_1x1", 1, true),
            ("Conv2d_4a_3x3", 1, false),
        ];
        let unit = |(name, stride, padded)| Unit::load(&root.scope(name), stride, padded);
        let stem = stem.into_iter().map(unit).collect::<Result<_>>()?;
        let blocks: [(&str, &[Branch], Pool); 11] = [
            ("Mixed_5b", &A, Pool::Mean),
            ("Mixed_5c", &A, Pool::Mean),
            ("Mixed_5d", &A, Pool::Mean),
            ("Mixed_6a", &B, Pool::Down),
            ("Mixed_6b", &C, Pool::Mean),
            ("Mixed_6c", &C, Pool::Mean),
            ("Mixed_6d", &C, Pool::Mean),
            ("Mixed_6e", &C, Pool::Mean),
            ("Mixed_7a", &D, Pool::Down),
            ("Mixed_7b", &E, Pool::Mean),
            ("Mixed_7c", &E, Pool::Max),
        ];
        let block = |(name, branches, pool)| Block::load(&root.scope(name), branches, pool);
        let blocks = blocks.into_iter().map(block).collect::<Result<_>>()?;
        let fc = match root.contains("fc.weight") {
            true => {
                let shape = root.shape("fc.weight")?;
                let width = shape.last().copied().unwrap_or(0);
                Some(Linear::load(&root.scope("fc"), width, shape[0], false)?)
            }
            false => None,
        };
        let (parameters, unread) = root.finish_with_unread();
        let unread = unread.into_iter().filter(|name| !name.ends_with("num_batches_tracked") && name != "fc.bias");
        Ok(Self { stem, blocks, fc, parameters, unread: unread.collect() })
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

    /// `x` `[n, 299, 299, 3]` in about [-1, 1].
    ///
    /// # Errors
    /// [`crate::Error::Shape`] for images that are too small.
    pub fn forward(&self, tape: &Tape, x: &Tensor) -> Result<InceptionOutput> {
        let first = self.stem[0].weight.get();
        let mut h = input(tape, x, &first.device(), first.dtype())?;
        let mut maps = Vec::new();
        for (i, unit) in self.stem.iter().enumerate() {
            h = unit.forward(tape, &h)?;
            if i == 2 || i == 4 {
                h = ops::max_pool2d(tape, &h, Window::square(3, 2, 0))?;
                maps.push(h.clone());
            }
        }
        for (i, block) in self.blocks.iter().enumerate() {
            h = block.forward(tape, &h)?;
            if i == 7 {
                maps.push(h.clone());
            }
        }
        let [n, height, width, c] = h.dims("Inception")?;
        let window = Window { kernel: [height, width], stride: 1, padding: [0, 0] };
        let features = ops::reshape(tape, &ops::avg_pool2d(tape, &h, window)?, &[n, c])?;
        let maps = maps.try_into().unwrap_or_else(|_| unreachable!("two of the stem, one of the blocks"));
        Ok(InceptionOutput { maps, features })
    }

    /// The class logits without their bias, `[n, classes]`, of features `[n, c]`; none for a file without `fc`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] for another width.
    pub fn logits_unbiased(&self, tape: &Tape, features: &Tensor) -> Result<Option<Tensor>> {
        self.fc.as_ref().map(|fc| fc.forward(tape, features)).transpose()
    }
}
