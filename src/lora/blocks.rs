//! Weights of blocks: a LoRA is applied stronger or weaker in parts of the UNet, which are called IN00 to IN11, MID and OUT00 to
//! OUT11 after the blocks of single-file checkpoints; BASE are the text encoders.
//!
//! Source of the lists of 12, 17, 20 and 26: sd-scripts `networks/svd_merge_lora.py` (`--lbws`).

use super::expert::Expert;
use super::sgm;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// What each block's update is multiplied by; 1 for those that are not named.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockWeights {
    /// BASE, IN00 to IN11, MID, OUT00 to OUT11.
    weights: [f64; COUNT],
    /// As it was given.
    pub text: String,
}

const COUNT: usize = 26;
const MID: usize = 13;
const OUT: usize = 14;

/// The places of a list, by its length: Linear layers of SDXL and of SD 1.x, and all layers of both.
fn places(length: usize) -> Option<Vec<usize>> {
    let all = |ranges: &[std::ops::RangeInclusive<usize>]| ranges.iter().cloned().flatten().collect();
    match length {
        12 => Some(all(&[0..=0, 5..=6, 8..=9, MID..=MID, OUT..=OUT + 5])),
        17 => Some(all(&[0..=0, 2..=3, 5..=6, 8..=9, MID..=MID, OUT + 3..=OUT + 11])),
        20 => Some(all(&[0..=0, 1..=9, MID..=MID, OUT..=OUT + 8])),
        26 => Some((0..COUNT).collect()),
        _ => None,
    }
}

impl BlockWeights {
    /// Reads kohya's list of 12, 17, 20 or 26 numbers (with or without brackets), or `NAME=WEIGHT,...` with IN04, MID, OUT11, BASE,
    /// and IN or OUT for all of a side.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the part that is not understood.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |why: String| Error::Usage(format!("--block-weights {text}: {why}"));
        let mut weights = [1.0; COUNT];
        let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
        let parts: Vec<&str> = inner.split(',').map(str::trim).collect();
        let number = |text: &str| {
            let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
            number.ok_or_else(|| refuse(format!("{text:?} is not a number")))
        };
        if !inner.contains('=') {
            let places = places(parts.len()).ok_or_else(|| {
                refuse(format!(
                    "a list of {} numbers; expected 12 or 20 (SDXL), 17 or 26 (SD 1.x), or NAME=WEIGHT",
                    parts.len()
                ))
            })?;
            for (place, part) in places.into_iter().zip(&parts) {
                weights[place] = number(part)?;
            }
            return Ok(Self { weights, text: text.into() });
        }
        for part in parts {
            let (name, weight) = part.split_once('=').ok_or_else(|| refuse(format!("{part:?} is not NAME=WEIGHT")))?;
            let (name, weight) = (name.trim().to_uppercase(), number(weight)?);
            let range = named(&name).ok_or_else(|| {
                refuse(format!("there is no block {name}; expected BASE, IN00 to IN11, MID, OUT00 to OUT11, IN or OUT"))
            })?;
            weights[range].fill(weight);
        }
        Ok(Self { weights, text: text.into() })
    }

    /// The expert with each module's update multiplied by its block's weight; those of weight 0 are left out.
    pub fn apply(&self, expert: &Expert, layout: &sgm::Layout) -> Expert {
        let mut weighted = Expert::default();
        for (component, module, factors) in expert.iter() {
            let weight = self.of(component, module, layout);
            if weight != 0.0 {
                let mut factors = factors.clone();
                factors.alpha *= weight;
                weighted.insert(component, module, factors);
            }
        }
        for (component, parameter, vector) in expert.vectors() {
            let module = parameter.rsplit_once('.').map_or(parameter, |(module, _)| module);
            let weight = self.of(component, module, layout);
            if weight != 0.0 {
                let scaled = vector.reals::<f64>().iter().map(|x| x * weight).collect();
                let scaled = Tensor::from_reals::<f64>(scaled, vector.shape(), vector.dtype());
                weighted.vectors.entry(component.into()).or_default().insert(parameter.into(), scaled);
            }
        }
        weighted
    }

    fn of(&self, component: &str, module: &str, layout: &sgm::Layout) -> f64 {
        if component != "unet" {
            return self.weights[0];
        }
        let name = layout.ldm_name(module).unwrap_or_default();
        let mut parts = name.split('.');
        let (kind, number) =
            (parts.next().unwrap_or_default(), parts.next().and_then(|part| part.parse::<usize>().ok()));
        match (kind, number) {
            ("input_blocks", Some(n @ 0..=11)) => self.weights[1 + n],
            ("middle_block", _) => self.weights[MID],
            ("output_blocks", Some(n @ 0..=11)) => self.weights[OUT + n],
            // Embeddings of time and size, and the last convolution, are in no block.
            _ => 1.0,
        }
    }
}

/// The places of a name.
fn named(name: &str) -> Option<std::ops::Range<usize>> {
    let numbered = |rest: &str, first: usize| {
        let number = rest.parse::<usize>().ok().filter(|number| *number < 12)?;
        Some(first + number..first + number + 1)
    };
    match name {
        "BASE" => Some(0..1),
        "IN" => Some(1..MID),
        "MID" => Some(MID..OUT),
        "OUT" => Some(OUT..COUNT),
        _ => match (name.strip_prefix("IN"), name.strip_prefix("OUT")) {
            (Some(rest), _) => numbered(rest, 1),
            (_, Some(rest)) => numbered(rest, OUT),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(text: &str, component: &str, module: &str) -> f64 {
        let modules = ["down_blocks.0.resnets.1.conv1", "up_blocks.1.attentions.0.proj_in"];
        BlockWeights::parse(text).unwrap().of(component, module, &sgm::Layout::of(modules.into_iter()))
    }

    #[test]
    fn modules_are_in_the_blocks_of_sd_scripts() {
        // get_lbw_block_index of lora_unet_down_blocks_1_attentions_0_..., and so on, less 1 for IN and 14 for OUT.
        let seventeen = "0.5,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16";
        for (module, expected) in [
            ("down_blocks.0.attentions.0.proj_in", 1.0),
            ("down_blocks.1.attentions.1.transformer_blocks.0.attn1.to_q", 4.0),
            ("down_blocks.2.attentions.0.proj_in", 5.0),
            ("mid_block.attentions.0.proj_in", 7.0),
            ("up_blocks.1.attentions.0.proj_in", 8.0),
            ("up_blocks.3.attentions.2.proj_out", 16.0),
            // No part of a list for linear layers.
            ("down_blocks.0.downsamplers.0.conv", 1.0),
            ("time_embedding.linear_1", 1.0),
        ] {
            assert_eq!(weight(seventeen, "unet", module), expected, "{module}");
        }
        assert_eq!(weight(seventeen, "text_encoder", "text_model.encoder.layers.0.mlp.fc1"), 0.5);
        let twelve = "[0,1,2,3,4,5,6,7,8,9,10,11]";
        for (module, expected) in [
            ("down_blocks.1.attentions.0.proj_in", 1.0),
            ("down_blocks.2.attentions.1.proj_in", 4.0),
            ("mid_block.attentions.0.proj_in", 5.0),
            ("up_blocks.0.attentions.0.proj_in", 6.0),
            ("up_blocks.1.attentions.2.proj_in", 11.0),
        ] {
            assert_eq!(weight(twelve, "unet", module), expected, "{module}");
        }
        assert_eq!(weight("IN=0.25,IN04=2, out11=3,mid=0", "unet", "down_blocks.1.attentions.0.proj_in"), 2.0);
        assert_eq!(weight("IN=0.25,IN04=2", "unet", "down_blocks.0.attentions.0.proj_in"), 0.25);
        assert_eq!(weight("base=0.1", "text_encoder_2", "x"), 0.1);
    }

    #[test]
    fn other_lists_are_refused() {
        for text in ["1,2,3", "IN12=1", "IN=x", "MID", "1,1,1,1,1,1,1,1,1,1,1,inf"] {
            assert!(BlockWeights::parse(text).is_err(), "{text}");
        }
    }
}
