//! `selma bench`: ops and whole training steps on a device.

mod row;

use std::collections::BTreeSet;
use std::time::Instant;

use crate::bench::launches::launches;
use crate::bench::ops::{Work, ops};
use crate::bench::{CASES, GPU_CASE, GPU_CASE_FLOPS, SMALL_GPU_CASES, TrainStep, beside};
use crate::cli::Common;
use crate::device::Device;
use crate::device::gpu::library::{Libraries, Work as LibraryWork};
use crate::device::gpu::{Buffer, Gpu};
use crate::error::{Error, Result};
use crate::tensor::DType;
use row::{Limits, Row};

/// Bytes that are written before each op on a GPU, so that it finds nothing in the cache; also what its copies are timed
/// with.
const FLUSHED_BYTES: usize = 256 << 20;

/// Time ops and whole training steps with random numbers.
///
/// On a GPU, products and convolutions are timed by cuBLASLt and cuDNN too, each by the first choice of its heuristics, where
/// those libraries are installed. A LoRA layer is timed in every order of its products, and the one that the planner takes there
/// is marked; FLOPs are those of the factored order.
#[derive(clap::Args)]
pub struct Bench {
    /// What to time: the training step of this name, or everything whose name contains this.
    filter: Option<String>,
    /// Runs that are timed, after some that are not.
    #[arg(long, default_value_t = 9)]
    runs: usize,
    /// What the device can do, in TFLOP/s, for the share that an op bound by arithmetic reaches.
    #[arg(long)]
    peak: Option<f64>,
    /// What the device's memory can do, in GB/s [default: on a GPU what copies reach].
    #[arg(long)]
    bandwidth: Option<f64>,
    /// List what a micro-batch of the training step launches on a GPU, and its update behind it, instead of timing it: a JSON
    /// object a line. Needs neither a GPU nor memory for weights. The steps are sd15_512, sdxl_1024 and, with
    /// DoRA, sd15_512_dora.
    #[arg(long, conflicts_with_all = ["runs", "peak", "bandwidth"])]
    launches: bool,
    /// Samples of the micro-batch that is listed.
    #[arg(long, default_value_t = 16, requires = "launches", value_parser = clap::value_parser!(u16).range(1..=64))]
    batch_size: u16,
}

impl Bench {
    /// Times ops and steps, and prints a row for each.
    ///
    /// # Errors
    /// For a filter that names nothing; where the device has no room.
    pub fn run(self, common: &Common) -> Result<()> {
        if self.launches {
            return self.list(common);
        }
        let (device, dtype) = (common.device()?, common.precision()?);
        let filter = self.filter.as_deref().unwrap_or("");
        let small = SMALL_GPU_CASES.into_iter().find(|&case| case == filter);
        let named = CASES.contains(&filter) || filter == GPU_CASE || small.is_some();
        let wanted = |name: &str| if named { name == filter } else { name.contains(filter) };
        // What a GPU does in milliseconds takes others minutes.
        let real_gpu = matches!(&device, Device::Gpu(gpu) if !gpu.is_simulated());
        let (n, side) = match &device {
            _ if real_gpu => (16, 64),
            Device::Cpu => (1, 32),
            Device::Gpu(_) => (1, 8),
        };
        let ops: Vec<_> = ops(n, side).into_iter().filter(|op| wanted(&op.name)).collect();
        let steps = CASES.into_iter().chain(Some(GPU_CASE).filter(|_| real_gpu || named));
        let steps: Vec<&str> = steps.chain(small).filter(|case| wanted(case)).collect();
        if (ops.is_empty() && steps.is_empty()) || self.runs == 0 {
            let message = format!(
                "nothing to time; the training steps are {}, {GPU_CASE}, the ops have names like `conv2d` or `attention`, and \
                 --runs is at least 1",
                CASES.join(", ")
            );
            return Err(Error::Usage(message));
        }
        let libraries = match &device {
            Device::Gpu(gpu) => gpu.libraries(),
            Device::Cpu => None,
        };
        let mut table = Table {
            bench: &self,
            common,
            limits: Limits { peak: self.peak, bandwidth: self.bandwidth },
            flushed: None,
            noted: BTreeSet::new(),
        };
        if let Device::Gpu(gpu) = &device
            && real_gpu
        {
            table.measure(gpu)?;
        }
        for op in &ops {
            let loaded = op.load(&device, dtype)?;
            for (backward, pass) in [(false, "forward"), (true, "both")] {
                let times = self.times(|| table.seconds(&device, || loaded.run(backward)))?;
                let library = table.library(&device, libraries.as_deref(), &op.library(backward), dtype);
                table.print(Row {
                    case: &format!("{} {pass}", op.name),
                    times_ms: &times,
                    work: Some(op.work(backward, dtype)),
                    limits: table.limits,
                    library,
                    order: op.order(backward, &device, dtype),
                });
            }
        }
        for case in steps {
            let mut step = TrainStep::new(case, &device, dtype)?;
            let times = self.times(|| step.seconds().map_err(|e| Error::Failed(format!("{case}: {e}"))))?;
            let work = (case == GPU_CASE).then_some(Work { flops: GPU_CASE_FLOPS, bytes: 0.0 });
            table.print(Row { case, times_ms: &times, work, limits: table.limits, library: None, order: None });
        }
        Ok(())
    }

    /// The commands of a step that is not done.
    fn list(&self, common: &Common) -> Result<()> {
        let case = self.filter.as_deref().unwrap_or(GPU_CASE);
        let dtype = common.precision_of_gpu()?;
        for (part, commands) in ["micro_batch", "update"].iter().zip(launches(case, self.batch_size.into(), dtype)?) {
            for command in commands {
                outjson!(serde_json::json!({ "part": part, "command": command }));
            }
        }
        Ok(())
    }

    /// Milliseconds of each run, the least first. A step on a GPU is done, recorded and replayed before.
    fn times(&self, mut run: impl FnMut() -> Result<f64>) -> Result<Vec<f64>> {
        for _ in 0..3 {
            run()?;
        }
        let mut times: Vec<f64> = (0..self.runs).map(|_| Ok(run()? * 1e3)).collect::<Result<_>>()?;
        times.sort_by(f64::total_cmp);
        Ok(times)
    }
}

/// What rows are made and printed with.
struct Table<'a> {
    bench: &'a Bench,
    common: &'a Common,
    limits: Limits,
    /// Memory that is written between runs.
    flushed: Option<Buffer>,
    /// What was said about libraries already.
    noted: BTreeSet<String>,
}

impl Table<'_> {
    /// Finds out what copies on the device reach.
    fn measure(&mut self, gpu: &Gpu) -> Result<()> {
        let buffers = [gpu, gpu].map(|gpu| gpu.buffer(DType::F32, FLUSHED_BYTES / DType::F32.size()));
        let [from, to] = buffers;
        let (from, to) = (from?, to?);
        let copies = self.bench.times(|| gpu.seconds(|| to.copy_from(&from)))?;
        let reached = 2.0 * FLUSHED_BYTES as f64 / copies[copies.len() / 2] / 1e6;
        self.common.note(format!("{}: copies reach {reached:.0} GB/s", gpu.name()));
        self.limits.bandwidth.get_or_insert(reached);
        self.flushed = Some(to);
        Ok(())
    }

    /// Seconds of one run of an op.
    fn seconds(&self, device: &Device, run: impl Fn() -> Result<()>) -> Result<f64> {
        let Device::Gpu(gpu) = device else {
            let begin = Instant::now();
            run()?;
            return Ok(begin.elapsed().as_secs_f64());
        };
        self.flushed.as_ref().map_or(Ok(()), Buffer::clear)?;
        gpu.seconds(run)
    }

    /// The library that does this work too, and its median milliseconds. Where it cannot, a note says why, once.
    fn library(
        &mut self,
        device: &Device,
        libraries: Option<&dyn Libraries>,
        work: &[LibraryWork],
        dtype: DType,
    ) -> Option<(&'static str, Option<f64>)> {
        let (Device::Gpu(gpu), Some(libraries), Some(first)) = (device, libraries, work.first()) else {
            return None;
        };
        let timed = beside::ready(libraries, gpu, work, dtype).and_then(|calls| {
            let all = || calls.iter().try_for_each(|call| call.queue());
            self.bench.times(|| self.seconds(device, all))
        });
        let median = timed.map(|times| times[times.len() / 2]);
        let median = median.inspect_err(|e| {
            let why = e.to_string();
            if !self.noted.contains(&why) {
                self.common.note(&why);
                self.noted.insert(why);
            }
        });
        Some((first.library(), median.ok()))
    }

    fn print(&self, row: Row) {
        match self.common.json {
            true => outjson!(row.json()),
            false => outln!("{}", row.text()),
        }
    }
}
