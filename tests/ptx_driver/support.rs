//! The driver, compiled once by the host's C++ compiler, and commands that load it.

use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::OnceLock;

use assert_cmd::Command;
use selma::formats::safetensors::Safetensors;

/// The folder that has the driver as `libcuda.so.1`.
pub fn driver() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ptx_driver/driver");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ptx_driver");
        std::fs::create_dir_all(&folder).unwrap();
        let mut files: Vec<PathBuf> = std::fs::read_dir(&sources).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        // What it was made of lies beside it.
        let texts: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
        let (library, made_of) = (folder.join("libcuda.so.1"), folder.join("made_of"));
        if library.is_file() && std::fs::read_to_string(&made_of).is_ok_and(|old| old == texts) {
            return folder;
        }
        let compiler = std::env::var_os("CXX").unwrap_or("g++".into());
        let run = |command: &mut Process| {
            let output = command.output().unwrap_or_else(|e| panic!("{compiler:?}: {e}"));
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        let units: Vec<&PathBuf> = files.iter().filter(|file| file.extension().is_some_and(|e| e == "cpp")).collect();
        let object = |unit: &Path| folder.join(unit.file_stem().unwrap()).with_extension("o");
        std::thread::scope(|scope| {
            for unit in &units {
                let (compiler, run) = (&compiler, &run);
                scope.spawn(move || {
                    let mut command = Process::new(compiler);
                    command.args(["-std=gnu++20", "-O3", "-march=native", "-fno-strict-aliasing", "-ffp-contract=off"]);
                    run(command
                        .args(["-Wall", "-Wextra", "-Werror", "-fPIC", "-c"])
                        .arg(unit)
                        .arg("-o")
                        .arg(object(unit)));
                });
            }
        });
        let mut link = Process::new(&compiler);
        link.arg("-shared").arg("-o").arg(&library).args(units.iter().map(|unit| object(unit)));
        run(link.args(["-lpthread", "-ldl"]));
        std::fs::write(made_of, texts).unwrap();
        folder
    })
}

/// The program, with the driver where it looks for libraries.
pub fn selma() -> Command {
    let mut command = Command::cargo_bin("selma").unwrap();
    command.env("LD_LIBRARY_PATH", driver()).env("PTX_DRIVER_THREADS", "2");
    // What proves itself does so once for all tests; not in the user's cache.
    command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("ptx_driver_cache"));
    command
}

pub fn parity(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(path)
}

pub fn bytes(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

/// Three images with captions beside them.
pub fn images(dir: &Path) -> PathBuf {
    let data = dir.join("images");
    std::fs::create_dir(&data).unwrap();
    for i in 0..3_u32 {
        let shade = |x: u32, y: u32| image::Rgb([(x * 5 + i * 40) as u8, (y * 4) as u8, (i * 50) as u8]);
        image::RgbImage::from_fn(40 + i * 7, 50 - i * 3, shade).save(data.join(format!("{i}.png"))).unwrap();
        std::fs::write(data.join(format!("{i}.txt")), format!("image number {i}")).unwrap();
    }
    data
}

/// Training of a recorded model at 32 pixels: steps of two micro-batches.
pub fn train(model: &str, data: &Path, out: &Path, device: &str) -> Command {
    let mut command = selma();
    command.args(["train", "--rank", "4", "--train_batch_size", "2", "--grad-accum", "2", "--quiet"]);
    command.args(["--resolution", "32", "--crop", "center", "--device", device]);
    command.arg("--model").arg(parity(&format!("models/{model}"))).arg("--vocab").arg(parity("clip_vocab"));
    command.arg("--data").arg(data).arg("--out").arg(out);
    command
}

/// The largest difference of two files' tensors, relative to the largest value.
pub fn distance(a: &Path, b: &Path) -> f64 {
    let (a, b) = (Safetensors::open(a).unwrap(), Safetensors::open(b).unwrap());
    let (mut difference, mut largest) = (0.0_f64, 0.0_f64);
    for name in a.names() {
        let (a, b) = (a.tensor(name).unwrap(), b.tensor(name).unwrap());
        for (a, b) in a.reals::<f64>().iter().zip(&*b.reals::<f64>()) {
            // Written so that NaN is kept.
            difference = if (a - b).abs() <= difference { difference } else { (a - b).abs() };
            largest = largest.max(b.abs());
        }
    }
    assert!(largest > 0.0);
    difference / largest
}

/// What the driver counted: lines of `call`, `launch` or `instruction`, a name, and how often.
pub fn count(counts: &Path, what: &str, name: &str) -> u64 {
    let text = String::from_utf8(bytes(counts)).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{what} {name} ")));
    line.and_then(|line| line.split(' ').nth(2)).map_or(0, |number| number.parse().unwrap())
}

/// Kernels that ran.
pub fn all_launches(counts: &Path) -> u64 {
    let text = String::from_utf8(bytes(counts)).unwrap();
    let launches = text.lines().filter_map(|line| line.strip_prefix("launch "));
    launches.map(|line| line.split(' ').nth(1).unwrap().parse::<u64>().unwrap()).sum()
}
