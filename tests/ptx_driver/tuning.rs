//! Kernels that prove themselves, on the stand-in and, in builds with it, on the simulator: `SELMA_PLANTED_FAULT` makes the
//! launches of one kernel go wrong, as a kernel of its own would.

use std::path::PathBuf;

use assert_cmd::Command;
use serde_json::Value;

use crate::support::{bytes, images, parity, selma};

/// Of the three products that attention begins with.
#[cfg(feature = "simulator")]
const SHAPE: &str = "matmul_group bf16 3x256x32x32x8";

/// A program with a cache of its own.
struct Tuned {
    dir: tempfile::TempDir,
}

impl Tuned {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn table(&self) -> PathBuf {
        self.dir.path().join("selma/tuning.json")
    }

    fn with_cache(&self, mut command: Command, fault: Option<&str>) -> Command {
        command.env("XDG_CACHE_HOME", self.dir.path());
        command.envs(fault.map(|fault| ("SELMA_PLANTED_FAULT", fault)));
        command
    }

    /// The rows of `selma selfcheck --tune` for products that read the same operand, in small, and what was said.
    fn tune(&self, device: &str, only: &str, fault: Option<&str>, limit: &str) -> (Vec<Value>, String) {
        let mut command = self.with_cache(selma(), fault);
        command.args(["selfcheck", "--tune", "tiny", "--batch-size", "1", "--only", only, "--json"]);
        let output =
            command.args(["--precision", "bf16", "--time-limit", limit, "--device", device]).assert().success();
        let rows = String::from_utf8(output.get_output().stdout.clone()).unwrap();
        let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
        (rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect(), said)
    }
}

fn devices() -> &'static [&'static str] {
    if cfg!(feature = "simulator") { &["cuda", "sim"] } else { &["cuda"] }
}

/// The verdict on a choice, where it was tried: its name, and what belongs to it.
fn verdict<'a>(row: &'a Value, choice: &str) -> Option<(&'a str, &'a Value)> {
    let tried = row["tried"].as_array().unwrap().iter().find(|tried| tried["choice"] == choice)?;
    tried["verdict"].as_object().unwrap().iter().next().map(|(name, value)| (name.as_str(), value))
}

#[test]
fn kernels_that_are_right_are_timed_once() {
    for device in devices() {
        let tuned = Tuned::new();
        let (rows, said) = tuned.tune(device, "group", None, "60");
        assert!(rows.len() > 5, "{said}");
        for row in &rows {
            for choice in ["tall", "large"] {
                let (verdict, times) = verdict(row, choice).unwrap();
                assert!(verdict == "timed" && times["seconds"].as_f64() > Some(0.0), "{row}");
            }
            assert!(row["best"].is_string(), "{row}");
        }
        let table = bytes(tuned.table());
        let (again, _) = tuned.tune(device, "group", None, "60");
        assert!(rows == again && table == bytes(tuned.table()), "{device}: it is tried again");
        // Half a file is no file.
        std::fs::write(tuned.table(), &table[..table.len() / 2]).unwrap();
        let (_, said) = tuned.tune(device, "group", None, "60");
        assert!(said.contains("tuning.json cannot be read"), "{said}");
        assert!(serde_json::from_slice::<Value>(&bytes(tuned.table())).is_ok());
    }
}

/// Whatever a kernel does wrong, it is refused with the reason, and the others are not.
#[cfg(feature = "simulator")]
#[test]
fn kernels_that_are_wrong_are_refused() {
    let faults = [
        ("wrong", "60", "whole numbers: element ["),
        ("unwritten", "60", "whole numbers: element ["),
        ("outside", "60", "writes behind a buffer of"),
        ("operand", "60", "changes its operand 0"),
        ("crash", "60", "its process ended: signal 6"),
        ("hang", "8", "did not end within 8 s and was stopped"),
    ];
    for device in devices() {
        for (fault, limit, words) in faults {
            let tuned = Tuned::new();
            let (rows, said) = tuned.tune(device, SHAPE, Some(&format!("{fault}:matmul_group_large")), limit);
            assert!(said.contains("candidates were refused"), "{device} {fault}: {said}");
            assert_eq!(rows.len(), 1, "{said}");
            for row in &rows {
                let (name, why) = verdict(row, "large").unwrap();
                assert!(name == "refused" && why.as_str().unwrap().contains(words), "{device} {fault}: {row}");
                assert_eq!(verdict(row, "tall").unwrap().0, "timed", "{device} {fault}: {row}");
                assert_ne!(row["best"], "large");
            }
        }
    }
}

#[cfg(feature = "simulator")]
#[test]
fn a_slow_kernel_is_not_the_best() {
    for device in devices() {
        let (rows, _) = Tuned::new().tune(device, SHAPE, Some("slow:matmul_group_large"), "60");
        for row in &rows {
            let (name, times) = verdict(row, "large").unwrap();
            assert!(name == "timed" && times["seconds"].as_f64() > times["reference"].as_f64(), "{row}");
            assert_ne!(row["best"], "large");
        }
    }
}

/// Training of a recorded model, in which the cost model has one kernel make convolutions in slices, with `arguments`. What was
/// said.
fn train(tuned: &Tuned, out: &str, device: &str, fault: Option<&str>, arguments: &[&str], code: i32) -> String {
    let data = tuned.dir.path().join("images");
    if !data.is_dir() {
        images(tuned.dir.path());
    }
    let mut command = tuned.with_cache(selma(), fault);
    command.args(["train", "--rank", "4", "--train_batch_size", "2", "--grad-accum", "2", "--resolution", "32"]);
    command.args(["--crop", "center", "--steps", "2", "--save-every", "1", "--precision", "bf16", "--device", device]);
    command.arg("--model").arg(parity("models/tiny-sd1")).arg("--vocab").arg(parity("clip_vocab"));
    command.arg("--data").arg(data).arg("--out").arg(tuned.dir.path().join(out)).args(arguments);
    let output = command.assert().code(code);
    String::from_utf8_lossy(&output.get_output().stderr).into_owned()
}

impl Tuned {
    fn lora(&self, out: &str) -> Vec<u8> {
        bytes(self.dir.path().join(out).join("lora.safetensors"))
    }

    /// The kernels that a run wrote down.
    fn chosen(&self, out: &str) -> String {
        String::from_utf8(bytes(self.dir.path().join(out).join("state/kernels.jsonl"))).unwrap()
    }
}

#[cfg(feature = "simulator")]
#[test]
fn a_run_does_without_a_kernel_that_is_refused() {
    for device in devices() {
        let tuned = Tuned::new();
        for kernels in ["reference", "model"] {
            train(&tuned, kernels, device, None, &["--kernels", kernels], 0);
        }
        let plain = tuned.lora("reference");
        assert!(plain != tuned.lora("model"), "{device}: the kernels add up in the same order, so nothing is shown");
        let fault = Some("wrong:conv2d_forward_split_small");
        let said = train(&tuned, "refused", device, fault, &["--kernels", "proved"], 0);
        let words = ["proving the kernel `small x ", "is not used, the plain one is: whole numbers: element ["];
        assert!(words.iter().all(|words| said.contains(words)), "{device}: {said}");
        assert!(plain == tuned.lora("refused"), "{device}");
        // It stays refused at this shape.
        let again = train(&tuned, "again", device, fault, &["--kernels", "proved"], 0);
        assert!(again.contains("whole numbers: element [") && !again.contains("proving the kernel"), "{again}");
        assert!(plain == tuned.lora("again"), "{device}");
    }
}

/// On a card `proved` is the default; what was found after a run began is for other runs.
#[test]
fn a_run_goes_on_with_the_kernels_that_it_began_with() {
    for device in devices() {
        let tuned = Tuned::new();
        let proved: &[&str] = if *device == "sim" { &["--kernels", "proved"] } else { &[] };
        let run = |out: &str, arguments: &[&str], code| train(&tuned, out, device, None, arguments, code);
        let said = run("whole", proved, 0);
        assert!(said.contains("proving the kernel `small x "), "{said}");
        run("model", &["--kernels", "model"], 0);
        assert!(tuned.lora("whole") == tuned.lora("model"), "{device}: a kernel that proved itself was not taken");
        let said = run("broken", proved, 0);
        assert!(!said.contains("proving the kernel"), "{said}");
        let broken = tuned.dir.path().join("broken");
        for file in ["lora.safetensors", "state/step-00000002.safetensors"] {
            std::fs::remove_file(broken.join(file)).unwrap();
        }
        // As if the plain kernel had been found to be the fastest.
        let table = String::from_utf8(bytes(tuned.table())).unwrap();
        assert!(table.contains("\"best\": null"), "{table}");
        std::fs::write(tuned.table(), table.replace("\"best\": null", "\"best\": \"small\"")).unwrap();
        let resumed = [proved, &["--resume"]].concat();
        run("broken", &resumed, 0);
        assert!(tuned.lora("broken") == tuned.lora("whole"), "{device}: the resumed run differs");
        assert!(tuned.chosen("broken") == tuned.chosen("whole") && tuned.chosen("whole").contains("small x "));
        run("later", proved, 0);
        // Whether another order of one sum shows in the weights is chance; what was taken is written down.
        assert!(tuned.chosen("later") != tuned.chosen("whole"), "{device}: the table is not obeyed");
        let said = run("broken", &["--resume", "--kernels", "reference"], 2);
        assert!(said.contains("--kernels reference: this run began with --kernels proved"), "{said}");
    }
}
