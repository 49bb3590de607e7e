//! The UNet's down, mid and up blocks, with attention (CrossAttn...Block2D) or without.

use crate::autograd::{Tape, checkpoint};
use crate::error::{Error, Result};
use crate::nn::resnet::{ResnetBlock2D, ResnetShape};
use crate::nn::transformer::{Transformer2D, TransformerShape};
use crate::nn::{Conv2d, Linear, Visitor, Weights};
use crate::ops::Padding;
use crate::tensor::Tensor;

/// Resnets, each followed by its transformer where the block attends.
#[derive(Clone)]
struct Layers {
    resnets: Vec<ResnetBlock2D>,
    attentions: Vec<Transformer2D>,
    /// Computed again in the backward pass instead of kept.
    recompute: bool,
}

impl Layers {
    /// `c_in`: the input width of each resnet.
    fn load(
        w: &Weights,
        c_in: &[usize],
        c_out: usize,
        resnet: ResnetShape,
        transformers: Option<(usize, TransformerShape)>,
    ) -> Result<Self> {
        let (resnets, attentions) = (w.scope("resnets"), w.scope("attentions"));
        let (count, shape) = transformers.unzip();
        Ok(Self {
            resnets: (c_in.iter().enumerate())
                .map(|(i, &c_in)| ResnetBlock2D::load(&resnets.scope(&i.to_string()), c_in, c_out, resnet))
                .collect::<Result<_>>()?,
            attentions: (0..count.unwrap_or(0))
                .zip(shape.into_iter().cycle())
                .map(|(i, shape)| Transformer2D::load(&attentions.scope(&i.to_string()), c_out, shape))
                .collect::<Result<_>>()?,
            recompute: false,
        })
    }

    /// Layers that make keys and values of the text.
    fn of_text(&self) -> impl Iterator<Item = &Linear> {
        self.attentions.iter().flat_map(Transformer2D::of_text)
    }

    /// Resnet `i` of `x`, the hidden state and the skip connection beside it where there is one, and the transformer after it, if
    /// there is one.
    fn forward(&self, tape: &Tape, i: usize, x: &[&Tensor], temb: &Tensor, text: &mut Text<'_>) -> Result<Tensor> {
        let (resnet, transformer) = (&self.resnets[i], self.attentions.get(i));
        let text = text.take(transformer.map_or(0, |transformer| transformer.of_text().count()));
        if !self.recompute {
            return layer(tape, resnet, transformer, x, temb, text);
        }
        let (resnet, transformer, tensors) = (resnet.clone(), transformer.cloned(), x.len());
        let inputs: Vec<&Tensor> = x.iter().copied().chain([temb]).chain(text).collect();
        checkpoint(tape, &inputs, move |tape, inputs| {
            let (x, conditions) = inputs.split_at(tensors);
            let x: Vec<&Tensor> = x.iter().collect();
            layer(tape, &resnet, transformer.as_ref(), &x, &conditions[0], &conditions[1..])
        })
    }

    fn visit(&mut self, f: &mut Visitor) {
        self.resnets.iter_mut().for_each(|resnet| resnet.visit(f));
        self.attentions.iter_mut().for_each(|transformer| transformer.visit(f));
    }
}

/// What all layers of a UNet's [`of_text`](DownBlock::of_text) make of the text; each resnet's transformer takes its own.
pub(super) struct Text<'a>(pub &'a [Tensor]);

impl<'a> Text<'a> {
    fn take(&mut self, count: usize) -> &'a [Tensor] {
        let (own, rest) = self.0.split_at(count);
        self.0 = rest;
        own
    }
}

/// `x` `[n, h, w, c_in]`, or two tensors with so many channels together, `temb` `[n, temb]`, and what the transformer's layers
/// make of the text -> `[n, h, w, c_out]`.
fn layer(
    tape: &Tape,
    resnet: &ResnetBlock2D,
    transformer: Option<&Transformer2D>,
    x: &[&Tensor],
    temb: &Tensor,
    text: &[Tensor],
) -> Result<Tensor> {
    let h = match *x {
        [x, skip] => resnet.forward_concat(tape, [x, skip], Some(temb))?,
        _ => resnet.forward(tape, x[0], Some(temb))?,
    };
    match transformer {
        Some(transformer) => transformer.forward(tape, &h, text),
        None => Ok(h),
    }
}

#[derive(Clone)]
pub(super) struct DownBlock {
    layers: Layers,
    downsampler: Option<Conv2d>,
}

impl DownBlock {
    pub fn load(
        w: &Weights,
        [c_in, c_out]: [usize; 2],
        count: usize,
        resnet: ResnetShape,
        transformer: Option<TransformerShape>,
        downsample: bool,
    ) -> Result<Self> {
        let mut inputs = vec![c_out; count];
        inputs[0] = c_in;
        let conv = w.scope("downsamplers.0.conv");
        Ok(Self {
            layers: Layers::load(w, &inputs, c_out, resnet, transformer.map(|shape| (count, shape)))?,
            downsampler: downsample.then(|| Conv2d::strided(&conv, c_out, c_out, 3, 2, Padding::all(1))).transpose()?,
        })
    }

    /// Pushes every layer's output onto `skips`; the last of them is the block's.
    pub fn forward(
        &self,
        tape: &Tape,
        x: &Tensor,
        temb: &Tensor,
        text: &mut Text<'_>,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        let mut h = x.clone();
        for i in 0..self.layers.resnets.len() {
            h = self.layers.forward(tape, i, &[&h], temb, text)?;
            skips.push(h.clone());
        }
        if let Some(conv) = &self.downsampler {
            h = conv.forward(tape, &h)?;
            skips.push(h.clone());
        }
        Ok(h)
    }

    /// Layers that make keys and values of the text, in the order of the transformers.
    pub fn of_text(&self) -> impl Iterator<Item = &Linear> {
        self.layers.of_text()
    }

    pub fn set_checkpointing(&mut self, on: bool) {
        self.layers.recompute = on;
    }

    pub fn visit(&mut self, f: &mut Visitor) {
        self.layers.visit(f);
        self.downsampler.iter_mut().for_each(|conv| conv.visit(f));
    }
}

/// Resnet, transformer, resnet.
#[derive(Clone)]
pub(super) struct MidBlock(Layers);

impl MidBlock {
    pub fn load(w: &Weights, channels: usize, resnet: ResnetShape, transformer: TransformerShape) -> Result<Self> {
        Layers::load(w, &[channels; 2], channels, resnet, Some((1, transformer))).map(Self)
    }

    pub fn forward(&self, tape: &Tape, x: &Tensor, temb: &Tensor, text: &mut Text<'_>) -> Result<Tensor> {
        let h = self.0.forward(tape, 0, &[x], temb, text)?;
        self.0.forward(tape, 1, &[&h], temb, text)
    }

    /// Layers that make keys and values of the text, in the order of the transformers.
    pub fn of_text(&self) -> impl Iterator<Item = &Linear> {
        self.0.of_text()
    }

    pub fn set_checkpointing(&mut self, on: bool) {
        self.0.recompute = on;
    }

    pub fn visit(&mut self, f: &mut Visitor) {
        self.0.visit(f);
    }
}

#[derive(Clone)]
pub(super) struct UpBlock {
    layers: Layers,
    upsampler: Option<Conv2d>,
}

impl UpBlock {
    /// `inputs`: the width of hidden state and skip together, for each resnet.
    pub fn load(
        w: &Weights,
        inputs: &[usize],
        c_out: usize,
        resnet: ResnetShape,
        transformer: Option<TransformerShape>,
        upsample: bool,
    ) -> Result<Self> {
        let conv = w.scope("upsamplers.0.conv");
        Ok(Self {
            layers: Layers::load(w, inputs, c_out, resnet, transformer.map(|shape| (inputs.len(), shape)))?,
            upsampler: upsample.then(|| Conv2d::load(&conv, c_out, c_out, 3)).transpose()?,
        })
    }

    /// Pops one of `skips` for each resnet.
    pub fn forward(
        &self,
        tape: &Tape,
        x: &Tensor,
        temb: &Tensor,
        text: &mut Text<'_>,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        let exhausted = || Error::shape("UNet2DConditionModel", "an up block has no skip left");
        let mut h = x.clone();
        for i in 0..self.layers.resnets.len() {
            let skip = skips.pop().ok_or_else(exhausted)?;
            h = self.layers.forward(tape, i, &[&h, &skip], temb, text)?;
        }
        match &self.upsampler {
            Some(conv) => {
                // The next skip's size is twice this one, or one less where the way down rounded up.
                let [_, height, width, _] = skips.last().ok_or_else(exhausted)?.dims("UNet2DConditionModel")?;
                conv.forward_upsampled(tape, &h, [height, width])
            }
            None => Ok(h),
        }
    }

    /// Layers that make keys and values of the text, in the order of the transformers.
    pub fn of_text(&self) -> impl Iterator<Item = &Linear> {
        self.layers.of_text()
    }

    pub fn set_checkpointing(&mut self, on: bool) {
        self.layers.recompute = on;
    }

    pub fn visit(&mut self, f: &mut Visitor) {
        self.layers.visit(f);
        self.upsampler.iter_mut().for_each(|conv| conv.visit(f));
    }
}
