//! The command line: one subcommand a file. Results go to stdout, everything else to stderr. What is printed passes through
//! `terminal`, because it may quote files of others.
#![deny(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod terminal;

mod associate;
mod bench;
mod chat;
mod convert;
mod demo;
mod doctor;
mod eval;
mod existing;
mod extract;
mod gate;
mod generate;
mod input;
mod inspect;
mod interrupt;
mod kernels;
mod llm;
pub mod merge;
mod metrics;
mod mix;
mod model;
mod paragraph;
mod pretrain;
mod progress;
mod prompts;
mod questions;
mod regenerate;
mod run;
mod search;
mod select;
mod selfcheck;
mod spatial;
mod survey;
mod tokens;
mod train;
mod verify;

use std::cell::OnceCell;
use std::ffi::OsString;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{CommandFactory, Parser};

use crate::device::Device;
use crate::device::gpu::table::kernels as kernels_of_gpu;
use crate::device::memory::format_bytes;
use crate::error::{Error, Result};
use crate::prompting::llm as llm_client;
use crate::tensor::DType;

/// Trains, samples, merges and scores Stable Diffusion LoRAs
#[derive(Parser)]
#[command(name = "selma", version, long_version = VERSION.as_str(), arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  selma demo                      the whole method on the built-in model, in minutes
  selma generate --model shapes --prompt 'a red circle' --out images
  selma train --model ./sd15 --data ./photos --out ./expert --rank 16 --steps 1000
  selma generate --model ./sd15 --lora ./expert --prompts prompts.txt --out images
  selma help COMMAND              all options of a command";

/// Options of every command.
#[derive(clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Common {
    /// auto, cpu, cuda[:N], or sim (the GPU kernels run on the host); auto is an NVIDIA GPU if one can be used, else the CPU
    #[arg(long, global = true, default_value = "auto")]
    device: String,
    #[arg(skip)]
    opened: OnceCell<Device>,
    /// auto, f32, bf16 or f16; on the CPU the 16-bit formats round every op's output [auto: bf16 on NVIDIA GPUs, else f32]
    #[arg(long, global = true, visible_alias = "mixed-precision", default_value = "auto")]
    precision: String,
    /// Seed of all random numbers; -1 takes a new one and prints it [default: 42]
    #[arg(long = "seed", value_name = "SEED", global = true, allow_negative_numbers = true, value_parser = parse_seed)]
    seed: Option<Seed>,
    /// The seed of the command line, drawn where it is to be.
    #[arg(skip)]
    given_seed: Option<u64>,
    /// CPU threads [default: all cores]; the results do not depend on it
    #[arg(long, global = true)]
    threads: Option<usize>,
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

/// What `--version` says: the version, and what this binary can compute on.
static VERSION: LazyLock<String> = LazyLock::new(version);

fn version() -> String {
    let built = |missing: Option<&str>| missing.map_or("built in".to_owned(), |why| format!("not built in ({why})"));
    format!(
        "{}\nCUDA kernels, machine code: {}\nCUDA kernels, PTX: {}\nsimulator of the CUDA kernels: {}",
        env!("CARGO_PKG_VERSION"),
        built(kernels_of_gpu::FATBINS.err()),
        built(kernels_of_gpu::PTX.err()),
        built(kernels_of_gpu::SIMULATOR.err())
    )
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
        Ok(self.opened.get_or_init(|| device).clone())
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
        match self.offline && !llm_client::is_local(url) {
            true => Err(Error::Usage(format!("{option} {url}: --offline forbids it"))),
            false => Ok(()),
        }
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
    fn precision_of_gpu(&self) -> Result<DType> {
        parse_precision(if self.precision == "auto" { "bf16" } else { &self.precision }, &Device::Cpu)
    }

    /// A note for the person at the terminal.
    pub fn note(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            errln!("{text}");
        }
    }

    /// Says what a GPU's memory was taken for.
    fn note_memory(&self, device: &Device) {
        if let Device::Gpu(gpu) = device {
            let usage = gpu.usage();
            let (peak, reserved) = (format_bytes(usage.peak), format_bytes(usage.reserved));
            self.note(format!("peak memory on the device: {peak}; {reserved} were taken for it"));
        }
    }
}

/// `auto` is bf16 on NVIDIA GPUs and f32 elsewhere; `no` and `fp16` are accelerate's words.
fn parse_precision(name: &str, device: &Device) -> Result<DType> {
    match name {
        "auto" if matches!(device, Device::Gpu(gpu) if !gpu.is_simulated()) => Ok(DType::Bf16),
        "auto" | "f32" | "no" => Ok(DType::F32),
        "bf16" => Ok(DType::Bf16),
        "f16" | "fp16" => Ok(DType::F16),
        other => Err(Error::Usage(format!("--precision {other}: expected auto, f32, bf16 or f16"))),
    }
}

/// In the order of use.
#[derive(clap::Subcommand)]
enum Command {
    Demo(demo::Demo),
    Run(run::Run),
    Prompts(Box<prompts::Prompts>),
    Generate(Box<generate::Generate>),
    Train(Box<train::Train>),
    Merge(Box<merge::Merge>),
    Eval(Box<eval::Eval>),
    Metrics(metrics::Metrics),
    Questions(Box<questions::Questions>),
    Select(select::Select),
    Search(Box<search::Search>),
    Survey(survey::Survey),
    Chat(Box<chat::Chat>),
    Regenerate(Box<regenerate::Regenerate>),
    Mix(mix::Mix),
    Spatial(spatial::Spatial),
    Paragraph(paragraph::Paragraph),
    Associate(Box<associate::Associate>),
    Inspect(inspect::Inspect),
    Convert(convert::Convert),
    Extract(extract::Extract),
    Resize(extract::Resize),
    Pretrain(pretrain::Pretrain),
    Verify(verify::Verify),
    Doctor(doctor::Doctor),
    Selfcheck(selfcheck::Selfcheck),
    Kernels(kernels::Kernels),
    Bench(bench::Bench),
    /// Print a completion script for bash, zsh, fish, elvish or powershell
    Completions {
        shell: clap_complete::Shell,
    },
    /// Print the man page of selma, or of one of its commands
    Man {
        /// Such as train.
        command: Option<String>,
    },
}

/// Parses, runs, and turns an error into its message and exit status.
pub fn main() -> ExitCode {
    end_where_nobody_reads();
    let arguments: Vec<OsString> = std::env::args_os().map(kebab_case).collect();
    // clap prints the version as soon as it is asked for.
    let asks = |names: [&str; 2]| arguments.iter().skip(1).any(|argument| names.iter().any(|name| argument == name));
    if arguments.len() == 3 && asks(["--version", "-V"]) && asks(["--verbose", "-v"]) {
        return ended(doctor::report(false));
    }
    let cli = Cli::parse_from(arguments);
    ended(run(cli))
}

fn ended(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            errln!("selma: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Nothing is overwritten unasked.
fn refuse_existing(path: &Path, overwrite: bool) -> Result<()> {
    crate::formats::atomic::check(path)?;
    if path.exists() && !overwrite {
        return Err(Error::file(path, "exists already; name another file, or add --overwrite"));
    }
    Ok(())
}

/// `println!` panics when it cannot print. Who reads along may stop reading, as `head` does: that ends the command quietly; on
/// a full disk it ends with the reason. The default action of SIGPIPE would also end it where a server closes a connection.
fn end_where_nobody_reads() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or_default();
        match message.strip_prefix("failed printing to stdout: ") {
            // What a shell reports of a command that SIGPIPE ended: 128 + 13.
            Some(why) if why.starts_with("Broken pipe") => std::process::exit(141),
            Some(why) => {
                errln!("selma: cannot print: {why}");
                std::process::exit(1);
            }
            None => others(panic),
        }
    }));
}

fn run(mut cli: Cli) -> Result<()> {
    cli.common.given_seed = match cli.common.seed {
        Some(Seed::New) => {
            let seed = new_seed();
            cli.common.note(format!("--seed {seed}"));
            Some(seed)
        }
        Some(Seed::Given(seed)) => Some(seed),
        None => None,
    };
    if cli.common.threads == Some(0) {
        return Err(Error::Usage("--threads 0: expected at least 1".into()));
    }
    use_threads(cli.common.threads)?;
    // A device that is named has to be there, whatever the command; one to be found is looked for by those that compute.
    if cli.common.device != "auto" {
        cli.common.device()?;
    }
    match cli.command {
        Command::Associate(associate) => associate.run(&cli.common),
        Command::Bench(bench) => bench.run(&cli.common),
        Command::Chat(chat) => chat.run(&cli.common),
        Command::Convert(convert) => convert.run(&cli.common),
        Command::Demo(demo) => demo.run(&cli.common),
        Command::Doctor(doctor) => doctor.run(&cli.common),
        Command::Extract(extract) => extract.run(&cli.common),
        Command::Resize(resize) => resize.run(&cli.common),
        Command::Eval(eval) => eval.run(&cli.common),
        Command::Train(train) => train.run(&cli.common),
        Command::Generate(generate) => generate.run(&cli.common),
        Command::Inspect(inspect) => inspect.run(&cli.common),
        Command::Kernels(kernels) => kernels.run(&cli.common),
        Command::Merge(merge) => merge.run(&cli.common),
        Command::Metrics(metrics) => metrics.run(&cli.common),
        Command::Mix(mix) => mix.run(&cli.common),
        Command::Paragraph(paragraph) => paragraph.run(&cli.common),
        Command::Pretrain(pretrain) => pretrain.run(&cli.common),
        Command::Prompts(prompts) => prompts.run(&cli.common),
        Command::Questions(questions) => questions.run(&cli.common),
        Command::Regenerate(regenerate) => regenerate.run(&cli.common),
        Command::Run(run) => run.run(&cli.common),
        Command::Search(search) => search.run(&cli.common),
        Command::Survey(survey) => survey.run(&cli.common),
        Command::Select(select) => select.run(&cli.common),
        Command::Selfcheck(selfcheck) => selfcheck.run(&cli.common),
        Command::Spatial(spatial) => spatial.run(&cli.common),
        Command::Verify(verify) => verify.run(&cli.common),
        Command::Man { command } => man(command.as_deref()),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "selma", &mut std::io::stdout());
            Ok(())
        }
    }
}

/// Prints the man page of the program, or of the command `name`.
fn man(name: Option<&str>) -> Result<()> {
    let mut program = Cli::command();
    program.build();
    let page = match name {
        None => program,
        Some(name) => {
            let unknown = || Error::Usage(format!("man {name}: there is no such command; `selma --help` lists them"));
            program.find_subcommand(name).cloned().ok_or_else(unknown)?
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text).map_err(|e| Error::Failed(e.to_string()))?;
    outln!("{}", String::from_utf8_lossy(&text).trim_end());
    Ok(())
}

/// A number that nobody can foretell, of 32 bits, as other tools take them.
fn new_seed() -> u64 {
    RandomState::new().hash_one(std::process::id()) >> 32
}

/// Makes this thread one of the pool's (all cores, or `threads` of them): from outside, every parallel loop would put it
/// to sleep and wake it again. A thread that is not of the pool must not run parallel loops while this one waits for it.
///
/// # Errors
/// [`Error::Failed`] where the system gives no more threads, or the pool exists already.
pub fn use_threads(threads: Option<usize>) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)); // 0: all cores
    let pool = pool.use_current_thread().build_global();
    pool.map_err(|e| Error::Failed(format!("cannot start threads: {e}")))
}

/// `--max_train_steps` is `--max-train-steps`: both spellings are typed out of habit. Values are left alone.
fn kebab_case(argument: OsString) -> OsString {
    match argument.to_str() {
        Some(text) if text.starts_with("--") => {
            let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
            format!("{}{value}", name.replace('_', "-")).into()
        }
        _ => argument,
    }
}
