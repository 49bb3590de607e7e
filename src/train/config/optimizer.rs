//! The optimizer of a run and its own settings, `--optimizer-args KEY=VALUE`, which have the names of the packages that they come
//! from, as in kohya's scripts.

use super::TrainConfig;
use crate::error::{Error, Result};
use crate::ops::optimizer::{self, Adafactor, AdamW, AdamW8bit, Lion, Prodigy, ScheduleFree, Sgd};
use crate::settings::{check, named};

/// How parameters are updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Optimizer {
    #[value(name = "adamw")]
    AdamW,
    /// AdamW with moments in 8 bits a value: a quarter of their memory
    #[value(name = "adamw8bit")]
    AdamW8bit,
    /// AdamW that estimates its own learning rate; --lr is a factor of it, mostly 1
    Prodigy,
    /// Steps of one size in the direction of the running mean: half of AdamW's memory
    Lion,
    /// Keeps means of rows and columns of squared gradients alone: next to no memory
    #[value(name = "adafactor")]
    Adafactor,
    /// Stochastic gradient descent with momentum
    Sgd,
    /// The same with Nesterov's momentum
    #[value(name = "sgd-nesterov", alias = "sgdnesterov")]
    SgdNesterov,
    /// AdamW without a schedule: the result is an average, whenever the run ends
    #[value(name = "schedule-free", aliases = ["schedulefree", "adamwschedulefree", "adamw-schedule-free"])]
    ScheduleFree,
}

named!(Optimizer, "optimizer");

impl Optimizer {
    /// Bytes of what it keeps of each value; means of rows and columns, and scales of blocks, add a hundredth.
    pub fn state_bytes(self) -> usize {
        match self {
            Optimizer::AdamW | Optimizer::ScheduleFree => 2 * size_of::<f32>(),
            Optimizer::AdamW8bit => 2,
            Optimizer::Prodigy => 4 * size_of::<f32>(),
            Optimizer::Lion | Optimizer::Sgd | Optimizer::SgdNesterov | Optimizer::Adafactor => size_of::<f32>(),
        }
    }

    /// Whether its result is another than the values that it trains.
    pub fn averages(self) -> bool {
        self == Optimizer::ScheduleFree
    }

    /// The settings that have another default with another optimizer: learning rate, betas, and weight decay.
    pub fn defaults(self) -> (f64, [f64; 2], f64) {
        let lr = if self == Optimizer::Prodigy { 1.0 } else { 3e-4 };
        let betas = if self == Optimizer::Lion { [0.9, 0.99] } else { [0.9, 0.999] };
        let decay = if matches!(self, Optimizer::AdamW | Optimizer::AdamW8bit) { 1e-2 } else { 0.0 };
        (lr, betas, decay)
    }
}

impl TrainConfig {
    /// Takes another optimizer, and its defaults in place of those of the one before.
    pub(super) fn change_optimizer(&mut self, to: Optimizer) {
        let ((lr, betas, decay), new) = (self.optimizer.defaults(), to.defaults());
        if self.lr == lr {
            self.lr = new.0;
        }
        if self.betas == betas {
            self.betas = new.1;
        }
        if self.weight_decay == decay {
            self.weight_decay = new.2;
        }
        self.optimizer = to;
    }

    /// The optimizer with its settings, for parameters of these shapes.
    ///
    /// # Errors
    /// [`Error::Usage`] for an argument that it does not have, or a value out of its range.
    pub fn optimizer(&self, shapes: &[Vec<usize>]) -> Result<Box<dyn optimizer::Optimizer>> {
        let mut args = Args::new(&self.optimizer_args, self.optimizer)?;
        let betas = args.pair("betas", self.betas)?;
        let weight_decay = args.number("weight_decay", self.weight_decay, check::not_negative)?;
        let eps = |args: &mut Args| args.number("eps", self.eps, check::positive);
        let made: Box<dyn optimizer::Optimizer> = match self.optimizer {
            Optimizer::AdamW => Box::new(AdamW { betas, eps: eps(&mut args)?, weight_decay }),
            Optimizer::AdamW8bit => Box::new(AdamW8bit(AdamW { betas, eps: eps(&mut args)?, weight_decay })),
            Optimizer::Prodigy => Box::new(Prodigy {
                betas,
                beta3: args.number("beta3", betas.1.sqrt(), check::below_1)?,
                eps: eps(&mut args)?,
                weight_decay,
                d0: args.number("d0", 1e-6, check::positive)?,
                d_coef: args.number("d_coef", 1.0, check::positive)?,
                growth_rate: args.number("growth_rate", f64::INFINITY, at_least_one)?,
                use_bias_correction: args.flag("use_bias_correction", false)?,
                safeguard_warmup: args.flag("safeguard_warmup", false)?,
            }),
            Optimizer::Lion => Box::new(Lion { betas, weight_decay }),
            Optimizer::Sgd | Optimizer::SgdNesterov => Box::new(Sgd {
                momentum: args.number("momentum", 0.9, check::below_1)?,
                nesterov: args.flag("nesterov", self.optimizer == Optimizer::SgdNesterov)?,
                weight_decay,
            }),
            Optimizer::ScheduleFree => {
                check::require(betas.0 > 0.0, "betas", &betas.0, "a first one above 0")?;
                Box::new(ScheduleFree { betas, eps: eps(&mut args)?, weight_decay })
            }
            Optimizer::Adafactor => Box::new(Adafactor {
                matrices: shapes.iter().map(|shape| Adafactor::matrix(shape)).collect(),
                eps: args.pair_in("eps", [1e-30, 1e-3], check::positive)?,
                clip_threshold: args.number("clip_threshold", 1.0, check::positive)?,
                decay_rate: args.number("decay_rate", -0.8, negative)?,
                beta1: args.optional("beta1", check::below_1)?,
                weight_decay,
                scale_parameter: args.flag("scale_parameter", false)?,
                relative_step: args.flag("relative_step", false)?,
                warmup_init: args.flag("warmup_init", false)?,
            }),
        };
        // prodigyopt's other kind of weight decay is not there.
        if self.optimizer == Optimizer::Prodigy && !args.flag("decouple", true)? {
            return Err(Error::Unavailable("optimizer-args decouple=False".into()));
        }
        args.finish()?;
        Ok(made)
    }
}

fn at_least_one(name: &str, value: &f64) -> Result<()> {
    check::require(*value >= 1.0, name, value, "1 or more")
}

fn negative(name: &str, value: &f64) -> Result<()> {
    check::require(*value < 0.0 && value.is_finite(), name, value, "a number below 0")
}

/// What `--optimizer-args` says, each taken once.
struct Args {
    optimizer: Optimizer,
    given: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl Args {
    fn new(args: &[String], optimizer: Optimizer) -> Result<Self> {
        let pair = |arg: &String| {
            let (key, value) = arg.split_once('=').ok_or_else(|| {
                Error::Usage(format!("optimizer-args is `{arg}`, expected KEY=VALUE, such as weight_decay=0.01"))
            })?;
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        };
        let given: Vec<(String, String)> = args.iter().map(pair).collect::<Result<_>>()?;
        for (i, (key, _)) in given.iter().enumerate() {
            if given[..i].iter().any(|(other, _)| other == key) {
                return Err(Error::Usage(format!("optimizer-args names {key} twice")));
            }
        }
        Ok(Self { optimizer, given, known: Vec::new() })
    }

    fn take(&mut self, key: &'static str) -> Option<String> {
        self.known.push(key);
        let at = self.given.iter().position(|(given, _)| given == key)?;
        Some(self.given.remove(at).1)
    }

    fn number(&mut self, key: &'static str, default: f64, range: fn(&str, &f64) -> Result<()>) -> Result<f64> {
        let Some(text) = self.take(key) else { return Ok(default) };
        let number = number(key, &text)?;
        range(&format!("optimizer-args {key}"), &number)?;
        Ok(number)
    }

    fn optional(&mut self, key: &'static str, range: fn(&str, &f64) -> Result<()>) -> Result<Option<f64>> {
        match self.take(key) {
            None => Ok(None),
            Some(text) if text == "None" => Ok(None),
            Some(text) => {
                let number = number(key, &text)?;
                range(&format!("optimizer-args {key}"), &number)?;
                Ok(Some(number))
            }
        }
    }

    fn pair(&mut self, key: &'static str, default: [f64; 2]) -> Result<(f64, f64)> {
        self.pair_in(key, default, check::below_1)
    }

    fn pair_in(
        &mut self,
        key: &'static str,
        default: [f64; 2],
        range: fn(&str, &f64) -> Result<()>,
    ) -> Result<(f64, f64)> {
        let Some(text) = self.take(key) else { return Ok((default[0], default[1])) };
        let numbers: Vec<f64> =
            text.trim_matches(['(', ')']).split(',').map(|part| number(key, part.trim())).collect::<Result<_>>()?;
        let name = format!("optimizer-args {key}");
        let &[a, b] = numbers.as_slice() else {
            return Err(Error::Usage(format!("{name} is {text}, expected two numbers, such as 0.9,0.99")));
        };
        range(&name, &a)?;
        range(&name, &b)?;
        Ok((a, b))
    }

    fn flag(&mut self, key: &'static str, default: bool) -> Result<bool> {
        match self.take(key).as_deref() {
            None => Ok(default),
            Some("True" | "true") => Ok(true),
            Some("False" | "false") => Ok(false),
            Some(other) => Err(Error::Usage(format!("optimizer-args {key} is {other}, expected True or False"))),
        }
    }

    fn finish(self) -> Result<()> {
        match self.given.first() {
            None => Ok(()),
            Some((key, _)) => {
                let (name, known) = (self.optimizer.name(), self.known.join(", "));
                Err(Error::Usage(format!("optimizer-args: {name} has no `{key}`; it has {known}")))
            }
        }
    }
}

fn number(key: &str, text: &str) -> Result<f64> {
    let number: Option<f64> = text.parse().ok().filter(|number: &f64| !number.is_nan());
    number.ok_or_else(|| Error::Usage(format!("optimizer-args {key} is {text}, expected a number")))
}
