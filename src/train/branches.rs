//! The LoRA branches that a run trains.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::generate::TextEncoders;
use crate::lora::expert::Along;
use crate::lora::state::StateLayer;
use crate::lora::{BaseModules, Expert, LoraFactors, attach};
use crate::nn::{ClipText, Layer, LoraWeights, Param, UNet, Visitor};
use crate::tensor::random::{self, Stream};
use crate::tensor::{DType, Tensor};
use crate::train::config::{Chosen, TrainConfig};

/// Every targeted module with its branch, in the order of the networks.
pub struct Branches(Vec<Branch>);

struct Branch {
    component: &'static str,
    module: String,
    lora: LoraWeights,
    /// What the learning rate of the run is multiplied by for A and for B.
    lr: [f64; 2],
}

/// The networks whose layers can have branches.
const NETWORKS: [&str; 3] = ["unet", "text_encoder", "text_encoder_2"];

impl Branches {
    /// Attaches LoRA layers: those of `start`, or fresh ones with A ~ N(0, 1 / rank^2) and B = 0, as peft's "gaussian". Those
    /// of text encoders go to `texts`, which are there where the settings ask for such layers.
    ///
    /// # Errors
    /// [`Error::Usage`] for targets that match nothing; [`Error::Failed`] for layers of `start` that do not fit.
    pub fn attach(
        config: &TrainConfig,
        start: Option<&Expert>,
        unet: &mut UNet,
        texts: Option<&mut TextEncoders>,
        dtype: DType,
    ) -> Result<Self> {
        let mut encoders = texts.map(|texts| texts.encoders.iter_mut()).into_iter().flatten();
        let mut networks = [Some(Network::Unet(unet)), None, None];
        for place in &mut networks[1..] {
            *place = encoders.next().map(|encoder| Network::Text(&mut encoder.model));
        }
        let mut modules = BaseModules::new();
        for (component, network) in NETWORKS.into_iter().zip(&mut networks) {
            if let Some(network) = network {
                let shapes = modules.entry(component.to_owned()).or_default();
                network.visit(&mut |layer| drop(shapes.insert(layer.name().to_owned(), attach::weight_shape(&layer))));
            }
        }
        let chosen = config.chosen(start, &modules)?;
        if let Some(missing) = chosen.iter().find(|chosen| !modules[chosen.component].contains_key(&chosen.module)) {
            let Chosen { component, module, .. } = missing;
            let message = format!("the LoRA to start from has a layer {module}, which this model's {component} lacks");
            return Err(Error::Failed(message));
        }
        let mut branches = Vec::new();
        for (component, network) in NETWORKS.into_iter().zip(&mut networks) {
            let Some(network) = network else { continue };
            let own: BTreeMap<&str, &Chosen> = (chosen.iter().filter(|chosen| chosen.component == component))
                .map(|chosen| (chosen.module.as_str(), chosen))
                .collect();
            let mut failure = None;
            network.visit(&mut |mut layer| {
                if let Some(chosen) = own.get(layer.name()) {
                    match attach_one(config, start, chosen, &mut layer, dtype) {
                        Ok(branch) => branches.push(branch),
                        Err(e) => failure = Some(e),
                    }
                }
            });
            failure.map_or(Ok(()), Err)?;
        }
        Ok(Self(branches))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A and B of every module, with DoRA its lengths too, in order.
    pub fn params(&self) -> Vec<Param> {
        let of = |lora: &LoraWeights| [Some(lora.a.clone()), Some(lora.b.clone()), lora.magnitude.clone()];
        self.0.iter().flat_map(|branch| of(&branch.lora)).flatten().collect()
    }

    /// What the learning rate of the run is multiplied by for each of [`Branches::params`].
    pub fn lr_factors(&self) -> Vec<f64> {
        let of =
            |Branch { lora, lr: [a, b], .. }: &Branch| [Some(*a), Some(*b), lora.magnitude.is_some().then_some(*a)];
        self.0.iter().flat_map(of).flatten().collect()
    }

    /// The f32 values of `start`, and the present ones of layers that it lacks, in the order of [`Branches::params`].
    ///
    /// # Errors
    /// What a GPU says.
    pub fn values(&self, start: &Expert) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        for Branch { component, module, lora, .. } in &self.0 {
            let tensors = match start.get(component, module) {
                Some(layer) => [attach::in_memory(&layer.a), layer.b.clone()],
                None => [lora.a.get().to_cpu()?, lora.b.get().to_cpu()?],
            };
            tensors.iter().for_each(|tensor| values.extend_from_slice(&tensor.reals::<f32>()));
            let lengths = start.get(component, module).and_then(|layer| layer.magnitude.as_ref());
            match (lengths, &lora.magnitude) {
                (Some(lengths), _) => values.extend_from_slice(&lengths.values.reals::<f32>()),
                (None, Some(own)) => values.extend_from_slice(&own.get().to_cpu()?.reals::<f32>()),
                (None, None) => {}
            }
        }
        Ok(values)
    }

    /// What a state says of its layers.
    pub fn layers(&self) -> Vec<StateLayer> {
        let shape = |param: &Param| param.get().shape().to_vec();
        let layer = |Branch { component, module, lora, .. }: &Branch| StateLayer {
            component: (*component).into(),
            module: module.clone(),
            scale: lora.scale,
            a: shape(&lora.a),
            b: shape(&lora.b),
            magnitude: lora.magnitude.is_some(),
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
        for Branch { component, module, lora, .. } in &self.0 {
            let (down, up) = (next(&lora.a), next(&lora.b));
            let alpha = lora.scale * down.shape()[0] as f64;
            let mut factors = LoraFactors::new(attach::in_files(&down), up, alpha)?;
            if let Some(magnitude) = &lora.magnitude {
                factors = factors.with_magnitude(next(magnitude), Along::Outputs)?;
            }
            expert.insert(component, module, factors);
        }
        Ok(expert)
    }
}

/// A network whose layers can have branches.
enum Network<'a> {
    Unet(&'a mut UNet),
    Text(&'a mut ClipText),
}

impl Network<'_> {
    fn visit(&mut self, f: &mut Visitor) {
        match self {
            Self::Unet(unet) => unet.visit(f),
            Self::Text(text) => text.visit(f),
        }
    }
}

fn attach_one(
    config: &TrainConfig,
    start: Option<&Expert>,
    chosen: &Chosen,
    layer: &mut Layer<'_>,
    dtype: DType,
) -> Result<Branch> {
    let Chosen { component, module, rank, index } = chosen;
    let (order, shape) = (config.lora_order()?, attach::weight_shape(layer));
    let (down, up, scale) = match start.and_then(|start| start.get(component, module)) {
        Some(layer) => (layer.a.clone(), layer.b.clone(), layer.scale()),
        None => {
            let mut down = shape.clone();
            down[0] = *rank;
            let len = down.iter().product();
            let network = NETWORKS.iter().position(|name| name == component).unwrap_or(0);
            let number = ((network as u64) << 32) + *index as u64;
            let normals = random::normals(config.seed, Stream::Init, number, 0, len);
            let values = normals.into_iter().map(|x| x / *rank as f32).collect();
            let up = Tensor::zeros(&[shape[0], *rank], DType::F32);
            (attach::in_files(&Tensor::new(values, &down)), up, config.scale_of(*rank))
        }
    };
    let [a, b] = attach::branch(layer, &down, &up, scale, dtype)?;
    attach::set_order(layer, order);
    let given = start.and_then(|start| start.get(component, module)?.magnitude.as_ref());
    if given.is_some_and(|given| given.along == Along::Inputs) {
        let message = format!("{component}.{module} has DoRA lengths of columns, and only those of rows are trained");
        return Err(Error::Failed(message));
    }
    let magnitude = match (given, config.dora) {
        (None, false) => None,
        (given, _) => Some(attach::decompose(layer, given.map(|given| &given.values), dtype)?),
    };
    let lora = LoraWeights { a, b, scale, order, magnitude };
    Ok(Branch { component, module: module.clone(), lora, lr: config.lr_factors(component, module)? })
}
