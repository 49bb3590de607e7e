//! The LoRA branches that a run trains.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::lora::state::StateLayer;
use crate::lora::{Expert, Factors, Targets, attach};
use crate::nn::{Layer, LoraWeights, Param, UNet};
use crate::tensor::random::{self, Stream};
use crate::tensor::{DType, Tensor};
use crate::train::config::TrainConfig;

/// Every targeted module of the UNet with its branch, in the order of the network.
pub struct Branches(Vec<(String, LoraWeights)>);

impl Branches {
    /// Attaches LoRA layers: those of `start`, or fresh ones with A ~ N(0, 1 / rank^2) and B = 0, as peft's "gaussian".
    ///
    /// # Errors
    /// [`Error::Usage`] for targets that match nothing; [`Error::Failed`] for layers of `start` that do not fit.
    pub fn attach(config: &TrainConfig, start: Option<&Expert>, unet: &mut UNet, dtype: DType) -> Result<Self> {
        let order = config.lora_order()?;
        let mut shapes = BTreeMap::new();
        unet.visit(&mut |layer| {
            shapes.insert(layer.name().to_owned(), attach::weight_shape(&layer));
        });
        let chosen = match start {
            Some(start) => start.iter().map(|(_, module, _)| module.to_owned()).collect(),
            None => Targets::parse(&config.targets.join(","))?.select(&shapes)?,
        };
        if let Some(missing) = chosen.iter().find(|module| !shapes.contains_key(*module)) {
            return Err(Error::Failed(format!("the LoRA to start from has a layer {missing}, which this UNet lacks")));
        }
        let (mut branches, mut failure) = (Vec::new(), None);
        unet.visit(&mut |mut layer: Layer<'_>| {
            let name = layer.name().to_owned();
            let Some(index) = chosen.iter().position(|module| *module == name) else {
                return;
            };
            let shape = attach::weight_shape(&layer);
            let (down, up, scale) = match start.and_then(|start| start.get("unet", &name)) {
                Some(layer) => (layer.down.clone(), layer.up.clone(), layer.scale()),
                None => {
                    let mut down = shape.clone();
                    down[0] = config.rank;
                    let len = down.iter().product();
                    let normals = random::normals(config.seed, Stream::Init, index as u64, 0, len);
                    let values = normals.into_iter().map(|x| x / config.rank as f32).collect();
                    let up = Tensor::zeros(&[shape[0], config.rank], DType::F32);
                    (attach::in_files(&Tensor::new(values, &down)), up, config.scale())
                }
            };
            match attach::branch(&mut layer, &down, &up, scale, dtype) {
                Ok([a, b]) => branches.push((name, LoraWeights { a, b, scale, order })),
                Err(e) => failure = Some(e),
            }
            attach::set_order(&mut layer, order);
        });
        failure.map_or(Ok(Self(branches)), Err)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A and B of every module, in order.
    pub fn params(&self) -> Vec<Param> {
        self.0.iter().flat_map(|(_, b)| [b.a.clone(), b.b.clone()]).collect()
    }

    /// The f32 values of `start`, in the order of [`Branches::params`].
    pub fn values(&self, start: &Expert) -> Vec<f32> {
        let layers = self.0.iter().filter_map(|(module, _)| start.get("unet", module));
        let values = layers.flat_map(|layer| [attach::in_memory(&layer.down), layer.up.clone()]);
        values.flat_map(|tensor| tensor.data::<f32>().to_vec()).collect()
    }

    /// What a state says of its layers.
    pub fn layers(&self) -> Vec<StateLayer> {
        let shape = |param: &Param| param.get().shape().to_vec();
        let layer = |(module, b): &(String, LoraWeights)| StateLayer {
            module: module.clone(),
            scale: b.scale,
            a: shape(&b.a),
            b: shape(&b.b),
        };
        self.0.iter().map(layer).collect()
    }

    /// The expert with the f32 values of `master`, which has those of [`Branches::params`] one after the other.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] where `master` has another length.
    pub fn expert(&self, master: &[f32]) -> Result<Expert> {
        let mut expert = Expert::default();
        let mut rest = master;
        let mut next = |param: &Param| {
            let shape = param.get().shape().to_vec();
            let (values, after) = rest.split_at(shape.iter().product());
            rest = after;
            Tensor::new(values.to_vec(), &shape)
        };
        for (module, branch) in &self.0 {
            let (down, up) = (next(&branch.a), next(&branch.b));
            let alpha = branch.scale * down.shape()[0] as f64;
            expert.insert("unet", module, Factors::new(attach::in_files(&down), up, alpha)?);
        }
        Ok(expert)
    }
}
