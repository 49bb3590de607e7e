//! `scheduler_config.json`: what diffusers stores about a scheduler, with the defaults of each of its classes.

use serde_json::Value;

use super::prediction::Prediction;
use crate::error::{Error, Result};

/// The scheduler classes of diffusers that selma knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Ddpm,
    Ddim,
    Pndm,
    Euler,
    EulerAncestral,
    DpmSolver,
    UniPc,
    Lcm,
    Heun,
    Kdpm2,
    Kdpm2Ancestral,
    DpmSde,
    DpmSinglestep,
    Lms,
    Deis,
    Tcd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    Leading,
    Trailing,
    Linspace,
}

/// The parameters of one scheduler, those of its class's siblings at their defaults.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    pub class: Class,
    pub num_train_timesteps: usize,
    pub beta_start: f64,
    pub beta_end: f64,
    pub beta_schedule: String,
    pub trained_betas: Option<Vec<f64>>,
    pub prediction: Prediction,
    pub spacing: Spacing,
    pub steps_offset: i64,
    pub rescale_betas_zero_snr: bool,
    pub clip_sample: bool,
    pub clip_sample_range: f64,
    pub thresholding: bool,
    pub dynamic_thresholding_ratio: f64,
    pub sample_max_value: f64,
    pub set_alpha_to_one: bool,
    pub skip_prk_steps: bool,
    pub variance_type: String,
    pub interpolation_type: String,
    pub use_karras_sigmas: bool,
    pub use_exponential_sigmas: bool,
    pub use_lu_lambdas: bool,
    pub final_sigma_is_min: bool,
    pub solver_order: usize,
    pub solver_type: String,
    pub algorithm_type: String,
    pub lower_order_final: bool,
    pub euler_at_final: bool,
    pub lambda_min_clipped: f64,
    pub predict_x0: bool,
    pub disable_corrector: Vec<usize>,
    pub original_inference_steps: usize,
    pub timestep_scaling: f64,
}

/// Keys that change nothing here: bookkeeping, and parameters that only matter where a refused option is on.
const IGNORED: [&str; 6] = [
    "flow_shift",
    "time_shift_type",
    "clip_sample_range",
    "sample_max_value",
    "num_inference_steps",
    // Images have seeds of their own.
    "noise_sampler_seed",
];
/// Options that selma does not have, with the values at which they are off.
const UNSUPPORTED: [&str; 8] = [
    "use_beta_sigmas",
    "use_flow_sigmas",
    "use_dynamic_shifting",
    "sigma_min",
    "sigma_max",
    "shift_terminal",
    "solver_p",
    "skip_sample",
];
const KNOWN: [&str; 30] = [
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "timestep_spacing",
    "timestep_type",
    "steps_offset",
    "rescale_betas_zero_snr",
    "clip_sample",
    "thresholding",
    "dynamic_thresholding_ratio",
    "set_alpha_to_one",
    "skip_prk_steps",
    "variance_type",
    "interpolation_type",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_lu_lambdas",
    "final_sigmas_type",
    "solver_order",
    "solver_type",
    "algorithm_type",
    "lower_order_final",
    "euler_at_final",
    "lambda_min_clipped",
    "predict_x0",
    "disable_corrector",
    "original_inference_steps",
];

impl Class {
    /// The class of a diffusers class name.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the samplers that there are, for another name.
    pub fn from_diffusers(name: &str) -> Result<Self> {
        Ok(match name {
            "DDPMScheduler" => Class::Ddpm,
            "DDIMScheduler" => Class::Ddim,
            "PNDMScheduler" => Class::Pndm,
            "EulerDiscreteScheduler" => Class::Euler,
            "EulerAncestralDiscreteScheduler" => Class::EulerAncestral,
            "DPMSolverMultistepScheduler" => Class::DpmSolver,
            "UniPCMultistepScheduler" => Class::UniPc,
            "LCMScheduler" => Class::Lcm,
            "HeunDiscreteScheduler" => Class::Heun,
            "KDPM2DiscreteScheduler" => Class::Kdpm2,
            "KDPM2AncestralDiscreteScheduler" => Class::Kdpm2Ancestral,
            "DPMSolverSDEScheduler" => Class::DpmSde,
            "DPMSolverSinglestepScheduler" => Class::DpmSinglestep,
            "LMSDiscreteScheduler" => Class::Lms,
            "DEISMultistepScheduler" => Class::Deis,
            "TCDScheduler" => Class::Tcd,
            _ => {
                return Err(Error::Usage(format!(
                    "unknown scheduler {name:?}: use {} (most of them also with -karras or -exponential), or the name of \
                     such a class in diffusers",
                    super::names::NAMES.map(|(name, _)| name).join(", ")
                )));
            }
        })
    }

    /// Whether sampling runs in sigmas, where a table that ends in an infinite one is cut to 4096.
    pub fn has_sigmas(self) -> bool {
        matches!(self, Class::Euler | Class::EulerAncestral | Class::DpmSolver | Class::UniPc)
    }
}

impl SchedulerConfig {
    /// Reads a configuration as the given class does. Keys that only another class has are passed over, as diffusers
    /// does when one scheduler is made from the configuration of another.
    ///
    /// # Errors
    /// [`Error::Usage`] naming an unknown key, an option that is not supported, or a value of the wrong kind.
    pub fn parse(class: Class, config: &Value) -> Result<Self> {
        check_keys(config)?;
        let read = Reader(config);
        let distilled = matches!(class, Class::Lcm | Class::Tcd);
        let leading = distilled || matches!(class, Class::Ddpm | Class::Ddim | Class::Pndm);
        let spacing = if leading { "leading" } else { "linspace" };
        let two_calls = matches!(class, Class::Heun | Class::Kdpm2 | Class::Kdpm2Ancestral | Class::DpmSde);
        let betas = if distilled || two_calls { (0.00085, 0.012) } else { (0.0001, 0.02) };
        let rescaled = !two_calls && !matches!(class, Class::Pndm | Class::Lms | Class::Deis | Class::DpmSinglestep);
        if class == Class::Euler && read.text("timestep_type", "discrete")? != "discrete" {
            return Err(Error::Unavailable("scheduler config: timestep_type other than \"discrete\"".into()));
        }
        let solver_type = solver_type(class, &read)?;
        let parsed = Self {
            class,
            num_train_timesteps: read.count("num_train_timesteps", 1000)?,
            beta_start: read.number("beta_start", betas.0)?,
            beta_end: read.number("beta_end", betas.1)?,
            beta_schedule: read.text("beta_schedule", if distilled { "scaled_linear" } else { "linear" })?,
            trained_betas: read.list("trained_betas")?,
            prediction: Prediction::parse(&read.text("prediction_type", "epsilon")?)?,
            spacing: match read.text("timestep_spacing", spacing)?.as_str() {
                "leading" => Spacing::Leading,
                "trailing" => Spacing::Trailing,
                "linspace" => Spacing::Linspace,
                other => return Err(unsupported("timestep_spacing", other)),
            },
            steps_offset: read.count("steps_offset", 0)? as i64,
            rescale_betas_zero_snr: rescaled && read.flag("rescale_betas_zero_snr", false)?,
            clip_sample: read.flag("clip_sample", matches!(class, Class::Ddpm | Class::Ddim))?,
            clip_sample_range: read.number("clip_sample_range", 1.0)?,
            thresholding: read.flag("thresholding", false)?,
            dynamic_thresholding_ratio: read.number("dynamic_thresholding_ratio", 0.995)?,
            sample_max_value: read.number("sample_max_value", 1.0)?,
            set_alpha_to_one: read.flag("set_alpha_to_one", class != Class::Pndm)?,
            skip_prk_steps: read.flag("skip_prk_steps", false)?,
            variance_type: read.text("variance_type", "fixed_small")?,
            interpolation_type: read.text("interpolation_type", "linear")?,
            use_karras_sigmas: read.flag("use_karras_sigmas", false)?,
            use_exponential_sigmas: read.flag("use_exponential_sigmas", false)?,
            use_lu_lambdas: class == Class::DpmSolver && read.flag("use_lu_lambdas", false)?,
            final_sigma_is_min: match read.text("final_sigmas_type", "zero")?.as_str() {
                "zero" => false,
                "sigma_min" => true,
                other => return Err(unsupported("final_sigmas_type", other)),
            },
            solver_order: read.count("solver_order", 2)?,
            solver_type,
            // Another class's configuration may name its own.
            algorithm_type: match read.text("algorithm_type", "dpmsolver++")?.as_str() {
                "dpmsolver" | "dpmsolver++" if class == Class::Deis => "deis".into(),
                "deis" if class != Class::Deis => "dpmsolver++".into(),
                other => other.into(),
            },
            lower_order_final: read.flag("lower_order_final", class != Class::DpmSinglestep)?,
            euler_at_final: read.flag("euler_at_final", false)?,
            lambda_min_clipped: match config.get("lambda_min_clipped") {
                Some(Value::String(s)) if s == "-Infinity" || s == "-inf" => f64::NEG_INFINITY,
                _ => read.number("lambda_min_clipped", f64::NEG_INFINITY)?,
            },
            predict_x0: read.flag("predict_x0", true)?,
            disable_corrector: read
                .list("disable_corrector")?
                .unwrap_or_default()
                .into_iter()
                .map(|x| x as usize)
                .collect(),
            original_inference_steps: read.count("original_inference_steps", 50)?,
            timestep_scaling: read.number("timestep_scaling", 10.0)?,
        };
        parsed.check()?;
        Ok(parsed)
    }

    fn check(&self) -> Result<()> {
        if !(1..=100_000).contains(&self.num_train_timesteps) {
            return Err(unsupported("num_train_timesteps", &self.num_train_timesteps.to_string()));
        }
        match self.class {
            Class::Ddpm
                if !["fixed_small", "fixed_large", "fixed_small_log"].contains(&self.variance_type.as_str()) =>
            {
                return Err(unsupported("variance_type", &self.variance_type));
            }
            Class::Pndm if self.prediction == Prediction::Sample => {
                return Err(unsupported("prediction_type", "sample"));
            }
            Class::Euler if !["linear", "log_linear"].contains(&self.interpolation_type.as_str()) => {
                return Err(unsupported("interpolation_type", &self.interpolation_type));
            }
            Class::Kdpm2 | Class::Kdpm2Ancestral | Class::DpmSde if self.prediction == Prediction::Sample => {
                return Err(unsupported("prediction_type", "sample"));
            }
            Class::Deis if self.algorithm_type != "deis" => {
                return Err(unsupported("algorithm_type", &self.algorithm_type));
            }
            Class::DpmSolver | Class::DpmSinglestep => {
                let known = ["dpmsolver++", "sde-dpmsolver++", "dpmsolver"];
                if !known.contains(&self.algorithm_type.as_str()) {
                    return Err(unsupported("algorithm_type", &self.algorithm_type));
                }
                if self.algorithm_type == "dpmsolver" && !self.final_sigma_is_min {
                    return Err(Error::Usage(
                        "scheduler config: algorithm_type \"dpmsolver\" needs final_sigmas_type \"sigma_min\"".into(),
                    ));
                }
            }
            _ => {}
        }
        let solver = matches!(self.class, Class::DpmSolver | Class::DpmSinglestep | Class::Deis | Class::UniPc);
        if solver && !(1..=3).contains(&self.solver_order) {
            return Err(unsupported("solver_order", &self.solver_order.to_string()));
        }
        Ok(())
    }
}

fn unsupported(key: &str, value: &str) -> Error {
    Error::Unavailable(format!("scheduler config: {key} = {value:?}"))
}

/// Refuses unknown keys, and what is not supported.
fn check_keys(config: &Value) -> Result<()> {
    let map = config.as_object().ok_or_else(|| Error::Usage("scheduler config: expected a JSON object".into()))?;
    for (key, value) in map {
        let off = value.is_null() || value == false;
        let key = key.as_str();
        if UNSUPPORTED.contains(&key) && !off {
            return Err(Error::Unavailable(format!("scheduler config: {key} = {value}")));
        }
        let known = KNOWN.contains(&key) || IGNORED.contains(&key) || UNSUPPORTED.contains(&key);
        if !known && key != "timestep_scaling" && !key.starts_with('_') {
            return Err(Error::Usage(format!("scheduler config: unknown key {key:?}; remove it if it has no effect")));
        }
    }
    Ok(())
}

fn solver_type(class: Class, read: &Reader<'_>) -> Result<String> {
    // A solver made from the other one's configuration falls back to its own default type.
    let solver_types: [&str; 2] = if class == Class::UniPc { ["bh2", "bh1"] } else { ["midpoint", "heun"] };
    match read.text("solver_type", solver_types[0])? {
        t if solver_types.contains(&t.as_str()) => Ok(t),
        t if ["midpoint", "heun", "logrho", "bh1", "bh2"].contains(&t.as_str()) => Ok(solver_types[0].into()),
        t => Err(unsupported("solver_type", &t)),
    }
}

/// Typed access to the keys; an absent or null key has the default.
struct Reader<'a>(&'a Value);

impl Reader<'_> {
    fn get<T>(&self, key: &str, default: T, kind: &str, as_kind: impl Fn(&Value) -> Option<T>) -> Result<T> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => as_kind(value)
                .ok_or_else(|| Error::Usage(format!("scheduler config: {key} = {value}: expected {kind}"))),
        }
    }

    fn number(&self, key: &str, default: f64) -> Result<f64> {
        self.get(key, default, "a number", Value::as_f64)
    }

    fn count(&self, key: &str, default: usize) -> Result<usize> {
        self.get(key, default, "a whole number", |v| v.as_u64().map(|x| x as usize))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        self.get(key, default, "true or false", Value::as_bool)
    }

    fn text(&self, key: &str, default: &str) -> Result<String> {
        self.get(key, default.into(), "a string", |v| v.as_str().map(Into::into))
    }

    fn list(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.get(key, None, "a list of numbers", |v| {
            v.as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<_>>>().map(Some)
        })
    }
}
