//! Experts on a UNet whose shares change from text to text: the two factors of every layer are replaced, the layer's
//! branch stays.

use std::collections::BTreeMap;

use super::Gates;
use crate::error::{Error, Result};
use crate::lora::merge::{Term, weighted_sum};
use crate::lora::{Expert, LoraFactors, attach};
use crate::nn::{Layer, Param, UNet};
use crate::tensor::{DType, Tensor};

/// A layer and the experts that change it.
pub struct MixedLayer {
    pub name: String,
    /// A of all its experts, one under the other: `[r, in]`, or `[r, kh, kw, in]`.
    pub a: Param,
    /// B of all its experts side by side: `[out, r]`.
    pub b: Param,
    /// The number of each expert, and its factors.
    pub experts: Vec<(usize, LoraFactors)>,
}

/// Every layer of a UNet that some expert changes, in the order of the network.
pub struct Mixture {
    layers: Vec<MixedLayer>,
    dtype: DType,
}

/// The factors of every layer for the rows of a batch: some rows in a row share one set.
pub struct Rows {
    sets: Vec<Vec<[Tensor; 2]>>,
    /// A set, and how many rows it is for.
    pub runs: Vec<(usize, usize)>,
}

impl Mixture {
    /// Attaches the UNet's modules of all experts, each at its full strength until shares are set.
    ///
    /// # Errors
    /// [`Error::Failed`] for a module that the UNet lacks, or factors that do not fit it.
    pub fn attach(experts: &[&Expert], unet: &mut UNet, dtype: DType) -> Result<Self> {
        let mut modules: BTreeMap<String, Vec<(usize, &LoraFactors)>> = BTreeMap::new();
        for (number, expert) in experts.iter().enumerate() {
            for (_, module, factors) in expert.iter().filter(|(component, ..)| *component == "unet") {
                modules.entry(module.into()).or_default().push((number, factors));
            }
        }
        if modules.is_empty() {
            return Err(Error::Failed("none of the LoRAs changes the UNet, so there is nothing for a gate".into()));
        }
        let plain = modules.iter().map(|(name, terms)| (name.clone(), terms.iter().map(|(_, f)| *f).collect()));
        attach::attach_all(&plain.collect(), dtype, |f| unet.visit(f))?;
        let mut layers = Vec::new();
        unet.visit(&mut |layer| {
            let (name, branch) = match layer {
                Layer::Linear(linear) => (&linear.name, &linear.lora),
                Layer::Conv(conv) => (&conv.name, &conv.lora),
            };
            if let (Some(branch), Some(terms)) = (branch, modules.get(name)) {
                let experts = terms.iter().map(|(number, factors)| (*number, (*factors).clone())).collect();
                layers.push(MixedLayer { name: name.clone(), a: branch.a.clone(), b: branch.b.clone(), experts });
            }
        });
        Ok(Self { layers, dtype })
    }

    pub fn layers(&self) -> &[MixedLayer] {
        &self.layers
    }

    /// Finds out whether `gates` has one for every layer, of `width` each.
    ///
    /// # Errors
    /// [`Error::Failed`] naming the layer without a gate; [`Error::Shape`] for another width.
    pub fn check(&self, gates: &Gates, width: usize) -> Result<()> {
        for layer in &self.layers {
            let gate =
                gates.of(&layer.name).ok_or_else(|| Error::Failed(format!("no gate for layer {}", layer.name)))?;
            if gate.width() != width {
                let message = format!("for text states of width {}; this model has {width}", gate.width());
                return Err(Error::shape("gate", message));
            }
        }
        Ok(())
    }

    /// The factors that the rows of a batch get, each by its pooled text state. Equal shares give the bytes of the merge with
    /// these weights.
    ///
    /// # Errors
    /// [`Error::Failed`] where a layer has no gate; where the device has no room.
    pub fn rows(&self, gates: &Gates, states: &[&[f64]]) -> Result<Rows> {
        let mut known: Vec<Vec<Vec<f64>>> = Vec::new();
        let mut rows = Rows { sets: Vec::new(), runs: Vec::new() };
        for state in states {
            let mut shares = Vec::new();
            for layer in &self.layers {
                let gate = gates.of(&layer.name);
                let gate = gate.ok_or_else(|| Error::Failed(format!("no gate for layer {}", layer.name)))?;
                shares.push(gate.shares(state));
            }
            let set = match known.iter().position(|other| *other == shares) {
                Some(set) => set,
                None => {
                    rows.sets.push(self.factors(&shares)?);
                    known.push(shares);
                    known.len() - 1
                }
            };
            match rows.runs.last_mut() {
                Some((last, count)) if *last == set => *count += 1,
                _ => rows.runs.push((set, 1)),
            }
        }
        Ok(rows)
    }

    /// A and B of each layer, for the shares of its experts.
    fn factors(&self, shares: &[Vec<f64>]) -> Result<Vec<[Tensor; 2]>> {
        let mixed = |(layer, shares): (&MixedLayer, &Vec<f64>)| {
            let terms = layer.experts.iter();
            let terms = terms.map(|(input, factors)| Term { weight: shares[*input], input: *input, factors });
            let terms: Vec<Term> = terms.collect();
            let factors = weighted_sum(&terms)?;
            let device = layer.b.get().device();
            let place = |tensor: &Tensor| tensor.cast(self.dtype).to(&device);
            Ok([place(&attach::in_memory(&factors.a))?, place(&factors.b)?])
        };
        self.layers.iter().zip(shares).map(mixed).collect()
    }

    /// Gives every layer the factors of one set of `rows`.
    pub fn set(&self, rows: &Rows, set: usize) {
        for (layer, [down, up]) in self.layers.iter().zip(&rows.sets[set]) {
            layer.a.set(down.clone());
            layer.b.set(up.clone());
        }
    }
}
