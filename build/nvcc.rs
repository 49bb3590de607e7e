//! Finds nvcc and compiles each kernel file into one fat binary a storage type.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::scan::Source;
use crate::targets;
use crate::work::{self, Job};

/// The only target of kernels that are for compute capability 9.0 alone.
const HOPPER: &str = "compute_90a";

/// What nvcc's assembler said of one kernel.
pub struct Resources {
    pub kernel: String,
    pub scalar: &'static str,
    pub target: String,
    pub registers: u32,
    pub spill_stores: u32,
    pub spill_loads: u32,
    pub static_shared: u32,
    pub stack: u32,
}

/// What nvcc made.
pub struct Compiled {
    /// nvcc's version.
    pub toolkit: (i32, i32),
    pub resources: Vec<Resources>,
    /// The fat binaries of each file, in the order of `SCALARS`.
    pub images: Vec<(String, Vec<Option<PathBuf>>)>,
}

/// Why a build is to be without kernels for GPUs, where `SELMA_CUDA_ARCH` says so.
pub fn unwanted() -> Option<String> {
    println!("cargo:rerun-if-env-changed=SELMA_CUDA_ARCH");
    env::var("SELMA_CUDA_ARCH").is_ok_and(|targets| targets == "none").then(|| "SELMA_CUDA_ARCH was `none`".into())
}

/// # Errors
/// Why nothing was compiled: a part of a sentence.
///
/// # Panics
/// Where a kernel does not compile, or a variable that was set is wrong.
pub fn compile(kernels: &Path, out: &Path, files: &[Source]) -> Result<Compiled, String> {
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let targets = env::var("SELMA_CUDA_ARCH").unwrap_or_else(|_| targets::ALL.into());
    if targets == "ptx" {
        return Err("SELMA_CUDA_ARCH asks for the shipped PTX alone".into());
    }
    let nvcc = find()?;
    let said = version(&nvcc);
    let toolkit = release(&said);
    let gencodes = targets::known(&nvcc, &targets);
    let mut jobs = Vec::new();
    let mut scalars = Vec::new();
    let mut images = Vec::new();
    for file in files {
        let mut fatbins = Vec::new();
        let gencodes: Vec<&String> =
            gencodes.iter().filter(|code| !file.is_hopper() || code.contains(HOPPER)).collect();
        for scalar in file.scalars() {
            let Some((scalar, scalar_t)) = scalar.filter(|_| !gencodes.is_empty()) else {
                fatbins.push(None);
                continue;
            };
            let output = out.join(format!("{scalar}_{}.fatbin", file.stem));
            let mut command = Command::new(&nvcc);
            command.args(["-std=c++17", "-O3", "--fatbin", "-Xptxas", "-v"]);
            // What that mode writes needs driver 550.54; CUDA 13 asks for a newer one anyway.
            command.args((toolkit.0 >= 13).then_some("--compress-mode=size"));
            command.args(gencodes.iter());
            command.arg(format!("-Dscalar_t={scalar_t}")).arg("-I").arg(kernels);
            fatbins.push(Some(output.clone()));
            jobs.push(Job { command, compiler: said.clone(), sources: vec![file.path.clone()], output });
            scalars.push(scalar);
        }
        images.push((file.stem.clone(), fatbins));
    }
    let headers = work::files_below(kernels, &["h"]);
    let said = work::run(jobs, &headers, &work::cache(out)).unwrap_or_else(|e| panic!("nvcc: {e}"));
    // C7510 and its neighbours: products that wait for each other. The kernel would be right, and slow.
    let serialized = said.iter().flat_map(|said| said.lines()).find(|line| line.contains("(C751"));
    assert!(serialized.is_none(), "nvcc: {}", serialized.unwrap_or_default());
    let resources = scalars.into_iter().zip(&said).flat_map(|(scalar, said)| resources(scalar, said));
    Ok(Compiled { toolkit, resources: resources.collect(), images })
}

/// What nvcc says of its version.
fn version(nvcc: &Path) -> String {
    let said = Command::new(nvcc).arg("--version").output();
    let said = said.unwrap_or_else(|e| panic!("{}: {e}", nvcc.display())).stdout;
    String::from_utf8_lossy(&said).into_owned()
}

/// From "release 13.0, V13.0.88".
fn release(said: &str) -> (i32, i32) {
    let release = said.split("release ").nth(1).and_then(|rest| rest.split(',').next());
    let numbers = release.and_then(|release| release.split_once('.'));
    let version = numbers.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    version.unwrap_or_else(|| panic!("nvcc --version: no release in {said:?}"))
}

/// The first nvcc of: `NVCC`, the toolkit that `CUDA_HOME` or `CUDA_PATH` name, `PATH`, the active Python environment
/// (package nvidia-cuda-nvcc), the usual folder.
fn find() -> Result<PathBuf, String> {
    if let Some(nvcc) = env::var_os("NVCC") {
        assert!(Path::new(&nvcc).is_file(), "NVCC is {nvcc:?}, which is no file");
        return Ok(nvcc.into());
    }
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(env::var_os);
    let mut places: Vec<PathBuf> = toolkits.map(|toolkit| Path::new(&toolkit).join("bin")).collect();
    places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    if let Some(environment) = env::var_os("VIRTUAL_ENV") {
        let pythons = subfolders(&Path::new(&environment).join("lib"), "python");
        let packages = pythons.iter().map(|python| python.join("site-packages/nvidia"));
        let toolkits = packages.flat_map(|nvidia| subfolders(&nvidia, "cu"));
        places.extend(toolkits.map(|toolkit| toolkit.join("bin")));
    }
    places.push("/usr/local/cuda/bin".into());
    let nvcc = places.into_iter().map(|place| place.join("nvcc")).find(|nvcc| nvcc.is_file());
    nvcc.ok_or_else(|| {
        "nvcc was found neither through NVCC, CUDA_HOME or CUDA_PATH nor in PATH or the active Python environment"
            .into()
    })
}

/// Folders in `folder` whose name begins with `prefix`, by name.
fn subfolders(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let matching = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    let mut folders: Vec<PathBuf> = matching.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// Reads `ptxas -v`: for each kernel and target, its name, its frame and spills, and its registers and shared memory.
fn resources(scalar: &'static str, said: &str) -> Vec<Resources> {
    let mut all: Vec<Resources> = Vec::new();
    let mut of_kernel = false;
    for line in said.lines() {
        let quoted: Vec<&str> = line.split('\'').collect();
        if line.contains("Compiling entry function")
            && let [_, kernel, _, target, _] = quoted[..]
        {
            all.push(Resources {
                kernel: kernel.into(),
                scalar,
                target: target.into(),
                registers: 0,
                spill_stores: 0,
                spill_loads: 0,
                static_shared: 0,
                stack: 0,
            });
        } else if let Some(function) = line.split("Function properties for ").nth(1) {
            // Functions that were not inlined have properties of their own.
            of_kernel = all.last().is_some_and(|last| last.kernel == function.trim());
        } else if let Some(last) = all.last_mut() {
            if line.contains("bytes stack frame") && of_kernel {
                last.stack = before(line, " bytes stack frame");
                last.spill_stores = before(line, " bytes spill stores");
                last.spill_loads = before(line, " bytes spill loads");
            } else if line.contains("Used ") {
                last.registers = before(line, " registers");
                last.static_shared = before(line, " bytes smem");
            }
        }
    }
    all
}

/// The number that stands before `words`; 0 where they do not occur.
fn before(line: &str, words: &str) -> u32 {
    let number = line.split(words).next().filter(|_| line.contains(words));
    number.and_then(|text| text.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}
