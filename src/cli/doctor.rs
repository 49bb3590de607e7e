//! `selma doctor`: what this machine has for selma, and what would make it faster.

use crate::cli::Common;
use crate::device::gpu::table::{Image, kernels};
use crate::device::memory::{self, format_bytes};
use crate::error::{Error, Result};

/// Say what this machine has for selma: GPUs, driver, kernels, and what would make it faster.
#[derive(clap::Args)]
pub struct Doctor {}

/// All of it, as `--json` prints it.
#[derive(serde::Serialize)]
struct Report {
    version: &'static str,
    system: String,
    threads: usize,
    /// Bytes of main memory that are free.
    free_memory: Option<u64>,
    kernels: usize,
    machine_code: Compiled,
    ptx: Compiled,
    /// CUDA version that the driver knows.
    driver: Option<String>,
    devices: Vec<Found>,
    /// Why no GPU can be used.
    without_gpu: Option<String>,
    advice: Vec<String>,
}

/// Kernels of this build.
#[derive(serde::Serialize)]
struct Compiled {
    /// The version of CUDA that compiled them.
    cuda: Option<String>,
    /// What the build lacked.
    missing: Option<String>,
}

impl Compiled {
    fn new(images: std::result::Result<&[Image], &str>, (major, minor): (i32, i32)) -> Self {
        Self { cuda: images.is_ok().then(|| format!("{major}.{minor}")), missing: images.err().map(str::to_owned) }
    }

    fn name(&self) -> String {
        match (&self.cuda, &self.missing) {
            (Some(version), _) => format!("CUDA {version}"),
            (None, why) => format!("none ({})", why.as_deref().unwrap_or_default()),
        }
    }
}

#[derive(serde::Serialize)]
struct Found {
    device: String,
    name: String,
    capability: String,
    multiprocessors: i32,
    /// Bytes.
    memory: u64,
    free_memory: Option<u64>,
    /// What the driver gets as kernels.
    image: Option<String>,
    is_ptx: bool,
    /// Why it cannot be used.
    refused: Option<String>,
}

impl Doctor {
    pub fn run(self, common: &Common) -> Result<()> {
        report(common.json)
    }
}

/// Prints the report; also `selma --version --verbose`.
///
/// # Errors
/// [`Error::Failed`] where it cannot be written as JSON.
pub fn report(json: bool) -> Result<()> {
    let report = examine();
    if json {
        let text = serde_json::to_string(&report).map_err(|e| Error::Failed(e.to_string()))?;
        outln!("{text}");
        return Ok(());
    }
    outln!("selma     {}", report.version);
    let free =
        report.free_memory.map_or(String::new(), |bytes| format!(", {} of memory are free", format_bytes(bytes)));
    outln!("system    {}, {} threads{free}", report.system, report.threads);
    let (machine_code, ptx) = (report.machine_code.name(), report.ptx.name());
    outln!("kernels   {}; machine code: {machine_code}; PTX: {ptx}", report.kernels);
    match (&report.driver, &report.without_gpu) {
        (Some(driver), _) => outln!("driver    knows {driver}"),
        (None, why) => outln!("driver    {}", why.as_deref().unwrap_or("unknown")),
    }
    for device in &report.devices {
        let free = device.free_memory.map_or(String::new(), |bytes| format!(", {} of it free", format_bytes(bytes)));
        outln!(
            "{:<9} {}, compute capability {}, {} multiprocessors, {}{free}",
            device.device,
            device.name,
            device.capability,
            device.multiprocessors,
            format_bytes(device.memory)
        );
        let taken = device.refused.as_ref().map(|why| format!("not usable: {why}"));
        let taken = taken.or_else(|| device.image.as_ref().map(|image| format!("kernels: {image}")));
        outln!("          {}", taken.unwrap_or_default());
    }
    for advice in &report.advice {
        outln!("advice    {advice}");
    }
    Ok(())
}

fn examine() -> Report {
    let (driver, devices, without_gpu) = devices();
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION"),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        threads: rayon::current_num_threads(),
        free_memory: memory::available(),
        kernels: kernels::ALL.len(),
        machine_code: Compiled::new(kernels::FATBINS, kernels::TOOLKIT),
        ptx: Compiled::new(kernels::PTX, kernels::PTX_TOOLKIT),
        driver,
        devices,
        without_gpu,
        advice: Vec::new(),
    };
    report.advice = advice(&report);
    report
}

#[cfg(feature = "cuda")]
fn devices() -> (Option<String>, Vec<Found>, Option<String>) {
    use crate::device::gpu::{Gpu, cards};
    let cards = match cards() {
        Ok(cards) => cards,
        Err(why) => return (None, Vec::new(), Some(why)),
    };
    let driver = cards.first().map(|card| format!("CUDA {}.{}", card.driver.0, card.driver.1));
    let found = cards.iter().enumerate().map(|(ordinal, card)| {
        let image = card.image();
        // Opened, since only then the driver says what is free.
        let opened = Gpu::cuda(ordinal).and_then(|gpu| gpu.available());
        Found {
            device: format!("cuda:{ordinal}"),
            name: card.name.clone(),
            capability: format!("{}.{}", card.capability.0, card.capability.1),
            multiprocessors: card.multiprocessors,
            memory: card.memory,
            free_memory: opened.as_ref().ok().copied().flatten(),
            is_ptx: matches!(image, Ok((_, true))),
            refused: image.as_ref().err().cloned().or_else(|| opened.err().map(|e| e.to_string())),
            image: image.ok().map(|(name, _)| name),
        }
    });
    (driver, found.collect(), cards.is_empty().then(|| "the NVIDIA driver has no device".into()))
}

#[cfg(not(feature = "cuda"))]
fn devices() -> (Option<String>, Vec<Found>, Option<String>) {
    (None, Vec::new(), Some("this build of selma is without the feature `cuda`".into()))
}

/// What would make selma faster here.
fn advice(report: &Report) -> Vec<String> {
    let mut advice = Vec::new();
    let usable = || report.devices.iter().filter(|device| device.refused.is_none());
    if usable().next().is_none() {
        advice.push(
            "no GPU is used: training and images are computed on the CPU, at a hundredth of the speed or less. NVIDIA GPUs of \
             compute capability 8.0 (Ampere) or later with driver 525 or newer are used"
                .into(),
        );
    }
    if usable().any(|device| device.is_ptx) {
        let why = match &report.machine_code.cuda {
            Some(version) => {
                format!("it is too old for the machine code of this build (CUDA {version}), which a newer one takes")
            }
            None => "a build that finds nvcc (docs/first-contact.md) has machine code".into(),
        };
        advice.push(format!(
            "the driver compiles the kernels when they are first used, for a minute or so, and keeps them: {why}"
        ));
    }
    for device in usable() {
        if device.free_memory.is_some_and(|free| free < device.memory / 10 * 8) {
            advice.push(format!(
                "other programs hold memory of {}: ending them makes room for larger batches",
                device.device
            ));
        }
    }
    advice
}
