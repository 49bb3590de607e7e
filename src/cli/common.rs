//! The options of every command, and what they stand for.

use std::cell::OnceCell;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use crate::device::Device;
use crate::device::gpu::Gpu;
use crate::device::memory::format_bytes;
use crate::error::{Error, Result};
use crate::prompting::llm::{self, Api, Client, EndpointOptions, Role};
use crate::tensor::DType;
use crate::tuning::child::TIME_LIMIT;
use crate::tuning::table::Table;
use crate::tuning::{Decider, Mode, Prover};

/// Options of every command.
#[derive(clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Common {
    /// auto, cpu, cuda[:N], or sim (the GPU kernels run on the host); auto is an NVIDIA GPU if one can be used, else the CPU
    #[arg(long, global = true, default_value = "auto")]
    pub(super) device: String,
    #[arg(skip)]
    opened: OnceCell<Device>,
    /// Which GPU kernels do what several can: proved (those that gave the plain ones' results on this GPU, and the fastest of them
    /// after `selfcheck --tune`), model (by sizes alone, proved or not), reference (the plain ones) [auto: proved on NVIDIA GPUs]
    #[arg(long, global = true, default_value = "auto", hide_default_value = true, hide_possible_values = true)]
    kernels: Kernels,
    /// auto, f32, bf16 or f16; on the CPU the 16-bit formats round every op's output [auto: bf16 on NVIDIA GPUs, else f32]
    #[arg(long, global = true, visible_alias = "mixed-precision", default_value = "auto")]
    pub(super) precision: String,
    /// Seed of all random numbers; -1 takes a new one and prints it [default: 42]
    #[arg(long = "seed", value_name = "SEED", global = true, allow_negative_numbers = true, value_parser = parse_seed)]
    seed: Option<Seed>,
    /// The seed of the command line, drawn where it is to be.
    #[arg(skip)]
    pub(super) given_seed: Option<u64>,
    /// CPU threads [default: all cores]; the results do not depend on it
    #[arg(long, global = true)]
    pub(super) threads: Option<usize>,
    /// No network access; models come from folders and caches
    #[arg(long, global = true)]
    pub offline: bool,
    /// One JSON document (or one object a line where results stream) on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress and no notes on stderr
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// More on stderr: for `verify`, every quantity that was compared
    #[arg(long, short, global = true)]
    pub verbose: bool,
}

/// What `--kernels` says.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kernels {
    Auto,
    Proved,
    Model,
    Reference,
}

/// What `--seed` says.
#[derive(Clone, Copy)]
enum Seed {
    Given(u64),
    /// Any will do.
    New,
}

fn parse_seed(text: &str) -> Result<Seed, String> {
    match text {
        "-1" => Ok(Seed::New),
        text => {
            text.parse().map(Seed::Given).map_err(|_| "expected a whole number from 0 on, or -1 for a new one".into())
        }
    }
}

impl Common {
    /// The device to compute on, opened when first asked for.
    ///
    /// # Errors
    /// As [`Device::parse`].
    pub fn device(&self) -> Result<Device> {
        if let Some(device) = self.opened.get() {
            return Ok(device.clone());
        }
        let device = match self.device.as_str() {
            "auto" => self.automatic(),
            name => {
                let device = Device::parse(name)?;
                match &device {
                    Device::Gpu(gpu) => self.note(format!("on {}", gpu.name())),
                    Device::Cpu => self.note("on the CPU"),
                }
                device
            }
        };
        if let Device::Gpu(gpu) = &device {
            self.decide_on(gpu);
        }
        Ok(self.opened.get_or_init(|| device).clone())
    }

    /// Lets --kernels decide between kernels.
    fn decide_on(&self, gpu: &Gpu) {
        let asked = match self.kernels {
            Kernels::Auto => None,
            Kernels::Proved => Some(Mode::Proved),
            Kernels::Model => Some(Mode::Model),
            Kernels::Reference => Some(Mode::Reference),
        };
        // The simulator's kernels need no proof: they are checked against the CPU.
        let otherwise = (!gpu.is_simulated()).then_some(Mode::Proved);
        if asked.or(otherwise).is_some() {
            let quiet = self.quiet;
            let say = move |text: &str| {
                if !quiet {
                    errln!("{text}");
                }
            };
            let prover = self.prover(TIME_LIMIT);
            let decider = Decider::new([asked, otherwise], gpu.identity(), Table::path(), prover, Box::new(say));
            gpu.set_chooser(Arc::new(decider));
        }
    }

    /// Has kernels prove themselves on this device, in processes of this program.
    pub(super) fn prover(&self, limit: Duration) -> Prover {
        let device = if self.device == "auto" { "cuda:0" } else { &self.device };
        // Where the system does not tell the program's name, a process cannot begin, which is told then.
        Prover::new(std::env::current_exe().unwrap_or_default(), device, limit)
    }

    /// [`Device::auto`], and says which it is.
    fn automatic(&self) -> Device {
        let (device, why) = Device::auto();
        match (&device, why) {
            (Device::Gpu(gpu), _) => self.note(format!("on {}; --device cpu is the CPU", gpu.name())),
            (Device::Cpu, Some(why)) => self.note(format!("on the CPU, since no GPU can be used: {why}")),
            (Device::Cpu, None) => self.note("on the CPU"),
        }
        device
    }

    /// Refuses an endpoint on another machine with --offline. `option` is the one that gave `url`.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check_offline(&self, option: &str, url: &str) -> Result<()> {
        match self.offline && !llm::is_local(url) {
            true => Err(Error::Usage(format!("{option} {url}: --offline forbids it"))),
            false => Ok(()),
        }
    }

    /// The client of a model at `endpoint`, an option and the URL that it gives.
    ///
    /// # Errors
    /// As [`Self::check_offline`] and [`EndpointOptions::client`].
    pub(super) fn client(
        &self,
        options: &EndpointOptions,
        role: Role,
        (option, url): (&'static str, &str),
        model: &str,
        api: Option<Api>,
    ) -> Result<Client> {
        self.check_offline(option, url)?;
        let client = options.client(role, option, url, model, api)?;
        client.warn_of_key(|text| self.note(text));
        Ok(client)
    }

    /// Draws the seed where `--seed -1` asks for a new one, and says which it is.
    pub(super) fn draw_seed(&mut self) {
        self.given_seed = match self.seed {
            Some(Seed::New) => {
                let seed = new_seed();
                self.note(format!("--seed {seed}"));
                Some(seed)
            }
            Some(Seed::Given(seed)) => Some(seed),
            None => None,
        };
    }

    /// The seed of all random numbers.
    pub fn seed(&self) -> u64 {
        self.given_seed.unwrap_or(42)
    }

    /// The storage type of activations and weights.
    ///
    /// # Errors
    /// As [`Common::device`]; [`Error::Usage`] for an unknown type.
    pub fn precision(&self) -> Result<DType> {
        parse_precision(&self.precision, &self.device()?)
    }

    /// [`Common::precision`] of a GPU, whichever device this machine has.
    pub(super) fn precision_of_gpu(&self) -> Result<DType> {
        parse_precision(if self.precision == "auto" { "bf16" } else { &self.precision }, &Device::Cpu)
    }

    /// A note for the person at the terminal.
    pub fn note(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            errln!("{text}");
        }
    }

    /// Says what a GPU's memory was taken for.
    pub(super) fn note_memory(&self, device: &Device) {
        if let Device::Gpu(gpu) = device {
            let usage = gpu.usage();
            let (peak, reserved) = (format_bytes(usage.peak), format_bytes(usage.reserved));
            self.note(format!("peak memory on the device: {peak}; {reserved} were taken for it"));
        }
    }
}

/// `auto` is bf16 on NVIDIA GPUs and f32 elsewhere; `no` and `fp16` are accelerate's words.
pub(super) fn parse_precision(name: &str, device: &Device) -> Result<DType> {
    match name {
        "auto" if matches!(device, Device::Gpu(gpu) if !gpu.is_simulated()) => Ok(DType::Bf16),
        "auto" | "f32" | "no" => Ok(DType::F32),
        "bf16" => Ok(DType::Bf16),
        "f16" | "fp16" => Ok(DType::F16),
        other => Err(Error::Usage(format!("--precision {other}: expected auto, f32, bf16 or f16"))),
    }
}

/// A number that nobody can foretell, of 32 bits, as other tools take them.
fn new_seed() -> u64 {
    RandomState::new().hash_one(std::process::id()) >> 32
}
