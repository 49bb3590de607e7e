//! `selma bench`: ops and whole training steps on a device.

use std::time::Instant;

use crate::bench::ops::{Loaded, Work, ops};
use crate::bench::{CASES, GPU_CASE, GPU_CASE_FLOPS, TrainStep};
use crate::cli::Common;
use crate::device::Device;
use crate::device::gpu::{Buffer, Gpu};
use crate::error::{Error, Result};
use crate::tensor::DType;

/// Bytes that are written before each op on a GPU, so that it finds nothing in the cache; also what its copies are timed
/// with.
const FLUSHED_BYTES: usize = 256 << 20;

/// Time ops and whole training steps with random numbers.
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
    /// What the device's memory can do, in GB/s (default on a GPU: what copies reach).
    #[arg(long)]
    bandwidth: Option<f64>,
}

impl Bench {
    pub fn run(self, common: &Common) -> Result<()> {
        let (device, dtype) = (common.device()?, common.precision()?);
        let filter = self.filter.as_deref().unwrap_or("");
        let named = CASES.contains(&filter) || filter == GPU_CASE;
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
        let steps: Vec<&str> = steps.filter(|case| wanted(case)).collect();
        if (ops.is_empty() && steps.is_empty()) || self.runs == 0 {
            let message = format!(
                "nothing to time; the training steps are {}, {GPU_CASE}, the ops have names like `conv2d` or `attention`, and \
                 --runs is at least 1",
                CASES.join(", ")
            );
            return Err(Error::Usage(message));
        }
        let mut table = Table {
            bench: &self,
            json: common.json,
            bandwidth: self.bandwidth,
            flushed: None,
        };
        if let Device::Gpu(gpu) = &device
            && real_gpu
        {
            table.measure(gpu, common)?;
        }
        for op in &ops {
            let loaded = op.load(&device, dtype)?;
            for (backward, pass) in [(false, "forward"), (true, "both")] {
                let times = self.times(|| table.seconds(&device, &loaded, backward))?;
                table.row(&format!("{} {pass}", op.name), &times, Some(op.work(backward, dtype)));
            }
        }
        for case in steps {
            let mut step = TrainStep::new(case, &device, dtype)?;
            let times = self.times(|| step.seconds().map_err(|e| Error::Failed(format!("{case}: {e}"))))?;
            let work = (case == GPU_CASE).then_some(Work {
                flops: GPU_CASE_FLOPS,
                bytes: 0.0,
            });
            table.row(case, &times, work);
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

/// What rows are printed with.
struct Table<'a> {
    bench: &'a Bench,
    json: bool,
    /// GB/s.
    bandwidth: Option<f64>,
    /// Memory that is written between runs.
    flushed: Option<Buffer>,
}

impl Table<'_> {
    /// Finds out what copies on the device reach.
    fn measure(&mut self, gpu: &Gpu, common: &Common) -> Result<()> {
        let buffers = [gpu, gpu].map(|gpu| gpu.buffer(DType::F32, FLUSHED_BYTES / DType::F32.size()));
        let [from, to] = buffers;
        let (from, to) = (from?, to?);
        let copies = self.bench.times(|| gpu.seconds(|| to.copy_from(&from)))?;
        let reached = 2.0 * FLUSHED_BYTES as f64 / copies[copies.len() / 2] / 1e6;
        common.note(format!("{}: copies reach {reached:.0} GB/s", gpu.name()));
        self.bandwidth.get_or_insert(reached);
        self.flushed = Some(to);
        Ok(())
    }

    /// Seconds of one run of an op.
    fn seconds(&self, device: &Device, loaded: &Loaded, backward: bool) -> Result<f64> {
        let Device::Gpu(gpu) = device else {
            let begin = Instant::now();
            loaded.run(backward)?;
            return Ok(begin.elapsed().as_secs_f64());
        };
        self.flushed.as_ref().map_or(Ok(()), Buffer::clear)?;
        gpu.seconds(|| loaded.run(backward))
    }

    fn row(&self, case: &str, times_ms: &[f64], work: Option<Work>) {
        let (median, min, runs) = (times_ms[times_ms.len() / 2], times_ms[0], times_ms.len());
        let rates = work.map(|work| (work.flops / median / 1e9, work.bytes / median / 1e6));
        let (peak, bandwidth) = (self.bench.peak, self.bandwidth);
        let share = rates.and_then(|(tflops, gbs)| {
            // An op takes at least as long as its arithmetic and as its bytes, whichever is longer.
            let of_peak = if tflops > 0.0 { tflops / peak? } else { 0.0 };
            Some(100.0 * of_peak.max(gbs / bandwidth?))
        });
        if self.json {
            let mut row = serde_json::json!({ "case": case, "median_ms": median, "min_ms": min, "runs": runs });
            if let Some((tflops, gbs)) = rates {
                row["tflops"] = tflops.into();
                row["gbs"] = gbs.into();
                row["percent_of_floor"] = share.into();
            }
            println!("{row}");
            return;
        }
        let mut line = format!("{case:<44} median {median:>9.3} ms  min {min:>9.3} ms  {runs} runs");
        if let Some((tflops, gbs)) = rates {
            line += &format!("  {tflops:>8.3} TFLOP/s  {gbs:>7.1} GB/s");
        }
        if let Some(share) = share {
            line += &format!("  {share:>5.1} % of the floor");
        }
        println!("{line}");
    }
}
