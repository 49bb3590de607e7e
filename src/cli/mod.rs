//! The command line: one subcommand a file. Results go to stdout, everything else to stderr. What is printed passes through
//! `terminal`, because it may quote files of others.
#![deny(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod terminal;

mod associate;
mod bench;
mod chat;
mod common;
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
mod tune;
mod verify;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{CommandFactory, Parser};

pub use self::common::Common;
use self::common::parse_precision;
use crate::device::gpu::table::kernels as kernels_of_gpu;
use crate::error::{Error, Result};

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
    cli.common.draw_seed();
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
