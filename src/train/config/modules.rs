//! What each module trains with: its rank, alpha and learning rate, from the settings of the run and rules for some modules.

use std::collections::BTreeMap;

use super::{Optimizer, TrainConfig};
use crate::error::{Error, Result};
use crate::lora::{BaseModules, Expert, Targets};

/// `PATTERN=VALUE`, for modules in whose path the dotted segments of the pattern follow one another.
struct Rule<'a> {
    pattern: &'a str,
    value: &'a str,
}

/// The learning rate of a rule.
enum Rate {
    Absolute(f64),
    /// Times that of the module's network.
    Times(f64),
}

impl<'a> Rule<'a> {
    fn parse(name: &str, text: &'a str) -> Result<Self> {
        let wrong = || {
            let expected = "PATTERN=VALUE, such as mid_block=16";
            Err(Error::Usage(format!("{name} is `{text}`, expected {expected}")))
        };
        match text.split_once('=') {
            Some((pattern, value)) if !pattern.trim().split('.').any(str::is_empty) => {
                Ok(Self { pattern: pattern.trim(), value: value.trim() })
            }
            _ => wrong(),
        }
    }

    fn matches(&self, component: &str, module: &str) -> bool {
        let path: Vec<&str> = std::iter::once(component).chain(module.split('.')).collect();
        let pattern: Vec<&str> = self.pattern.split('.').collect();
        path.windows(pattern.len()).any(|part| part.iter().zip(&pattern).all(|(a, b)| *b == "*" || a == b))
    }

    fn rank(&self) -> Result<usize> {
        self.value.parse().map_err(|_| {
            let expected = "a rank; 0 trains nothing there";
            Error::Usage(format!("block-rank {}={}: expected {expected}", self.pattern, self.value))
        })
    }

    fn rate(&self) -> Result<Rate> {
        let (text, times) = match self.value.strip_prefix('x') {
            Some(rest) => (rest, true),
            None => (self.value, false),
        };
        match text.parse::<f64>().ok().filter(|rate| *rate >= 0.0 && rate.is_finite()) {
            Some(rate) => Ok(if times { Rate::Times(rate) } else { Rate::Absolute(rate) }),
            None => {
                let expected = "a learning rate, or such as x0.5 for half of it";
                Err(Error::Usage(format!("block-lr {}={}: expected {expected}", self.pattern, self.value)))
            }
        }
    }
}

pub(super) fn block_rank(name: &str, rules: &[String]) -> Result<()> {
    rules.iter().try_for_each(|rule| Rule::parse(name, rule)?.rank().map(|_| ()))
}

pub(super) fn block_lr(name: &str, rules: &[String]) -> Result<()> {
    rules.iter().try_for_each(|rule| Rule::parse(name, rule)?.rate().map(|_| ()))
}

/// A module that is trained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub component: &'static str,
    pub module: String,
    pub rank: usize,
    /// Its number in the order of names among those of its network that could be chosen: what is drawn for it depends on it.
    pub index: usize,
}

/// The modules of a text encoder's layers that something reads. SDXL takes the states before the last layer, and what comes
/// after it of the second encoder alone.
fn text_layers(component: &str, modules: &BaseModules) -> BTreeMap<String, Vec<usize>> {
    let number = |module: &str| -> Option<usize> { module.split_once(".layers.")?.1.split('.').next()?.parse().ok() };
    let last = modules[component].keys().filter_map(|module| number(module)).max();
    let unread = last.filter(|_| component == "text_encoder" && modules.contains_key("text_encoder_2"));
    let read = |module: &str| number(module).is_some_and(|number| Some(number) != unread);
    let layers = modules[component].iter().filter(|(module, _)| read(module));
    layers.map(|(name, shape)| (name.clone(), shape.clone())).collect()
}

impl TrainConfig {
    /// The networks that are trained, of those in `modules`.
    fn components(&self, modules: &BaseModules) -> Vec<&'static str> {
        let text = self.train_text_encoder.then_some(["text_encoder", "text_encoder_2"]);
        let all = std::iter::once("unet").chain(text.into_iter().flatten());
        all.filter(|component| modules.contains_key(*component)).collect()
    }

    /// The modules that are trained, in the order of names: those of `start` where it has some of a network, else those
    /// that the settings ask for. Embeddings and projections of text encoders are none.
    ///
    /// # Errors
    /// [`Error::Usage`] for targets and rules that match no module.
    pub fn chosen(&self, start: Option<&Expert>, modules: &BaseModules) -> Result<Vec<Chosen>> {
        let mut chosen = Vec::new();
        for component in self.components(modules) {
            if let Some(layers) = start.and_then(|start| start.components.get(component)) {
                let layers = layers.iter().enumerate();
                chosen.extend(layers.map(|(index, (module, layer))| Chosen {
                    component,
                    module: module.clone(),
                    rank: layer.rank(),
                    index,
                }));
                continue;
            }
            let (targets, own) = match component {
                "unet" => (&self.targets, modules[component].clone()),
                _ => (&self.text_encoder_targets, text_layers(component, modules)),
            };
            let named = Targets::parse(&targets.join(","))?.select(&own)?;
            for (index, module) in named.into_iter().enumerate() {
                let rank = self.rank_of(component, &module)?;
                chosen.push(Chosen { component, module, rank, index });
            }
        }
        for (name, rules) in [("block-rank", &self.block_rank), ("block-lr", &self.block_lr)] {
            for rule in rules {
                let rule = Rule::parse(name, rule)?;
                if !chosen.iter().any(|chosen| rule.matches(chosen.component, &chosen.module)) {
                    let message = format!("{name} {}={}: no module that is trained has", rule.pattern, rule.value);
                    let some = chosen.first().map_or(String::new(), |one| format!("{}.{}", one.component, one.module));
                    return Err(Error::Usage(format!("{message} `{}` in its path, such as {some}", rule.pattern)));
                }
            }
        }
        chosen.retain(|chosen| chosen.rank > 0);
        match chosen.is_empty() {
            false => Ok(chosen),
            true => Err(Error::Usage("block-rank leaves nothing to train: every module has rank 0".into())),
        }
    }

    /// The rank that a module gets: that of the last rule that matches, or of the run.
    fn rank_of(&self, component: &str, module: &str) -> Result<usize> {
        let mut rank = self.rank;
        for rule in &self.block_rank {
            let rule = Rule::parse("block-rank", rule)?;
            if rule.matches(component, module) {
                rank = rule.rank()?;
            }
        }
        Ok(rank)
    }

    /// What the learning rate of the run is multiplied by for A and B of a module.
    ///
    /// # Errors
    /// [`Error::Usage`] for a rule that is none.
    pub fn lr_factors(&self, component: &str, module: &str) -> Result<[f64; 2]> {
        let network = match component {
            "unet" => self.lr,
            _ => self.text_encoder_lr.unwrap_or(self.lr),
        };
        let mut lr = network;
        for rule in &self.block_lr {
            let rule = Rule::parse("block-lr", rule)?;
            if rule.matches(component, module) {
                lr = match rule.rate()? {
                    Rate::Absolute(rate) => rate,
                    Rate::Times(times) => network * times,
                };
            }
        }
        let factor = lr / self.lr;
        Ok([factor, factor * self.lora_plus_ratio])
    }

    /// What an optimizer that estimates one learning rate for all cannot do.
    pub(super) fn check_rates(&self) -> Result<()> {
        let other = [
            ("lora-plus-ratio", self.lora_plus_ratio != 1.0),
            ("block-lr", !self.block_lr.is_empty()),
            ("text-encoder-lr", self.text_encoder_lr.is_some_and(|lr| lr != self.lr)),
        ];
        match other.iter().find(|(_, given)| *given) {
            Some((name, _)) if self.optimizer == Optimizer::Prodigy => Err(Error::Usage(format!(
                "{name}: Prodigy estimates one learning rate for all parameters; leave {name} out, or take another \
                 --optimizer"
            ))),
            _ => Ok(()),
        }
    }

    /// What is said of the text encoders without training them.
    pub(super) fn check_texts(&self) -> Result<()> {
        match self.text_encoder_lr {
            Some(lr) if !self.train_text_encoder => {
                Err(Error::Usage(format!("text-encoder-lr {lr}: give --train-text-encoder too")))
            }
            _ => Ok(()),
        }
    }
}
