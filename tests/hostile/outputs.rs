//! Places that cannot be written to. The tests may run as root, so a file stands in the way of a folder.

use selma::formats::safetensors::{Safetensors, write};
use selma::tensor::{DType, Tensor};

use crate::{generate, lora, model, names, refuses, selma, train};

#[test]
fn results_that_cannot_be_written_are_refused_before_the_work() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    lora(&at("x.safetensors"), |_| ());
    std::fs::write(at("file"), "in the way").unwrap();
    std::fs::create_dir(at("folder")).unwrap();
    let merge = |out: &str| {
        let mut command = selma();
        command.arg("merge").arg("--lora").arg(at("x.safetensors")).arg("--out").arg(at(out));
        command
    };
    refuses(&mut merge("file/m.safetensors"), 1, &["m.safetensors", "is not a folder"]);
    refuses(&mut merge("none/m.safetensors"), 1, &["m.safetensors", "none is not a folder"]);
    refuses(&mut merge("folder"), 1, &["is a folder"]);
    refuses(merge("folder").arg("--into").arg(model("tiny-sd1")), 1, &["exists already"]);
    refuses(merge("file/baked").arg("--into").arg(model("tiny-sd1")), 1, &["file"]);
    refuses(&mut generate(&model("tiny-sd1"), &at("file/images")), 1, &["file/images"]);
    refuses(&mut generate(&model("tiny-sd1"), &at("file")), 1, &["file"]);
    refuses(&mut train(&model("tiny-sd1"), dir.path(), &at("file/run")), 1, &["file"]);
    assert_eq!(std::fs::read(at("file")).unwrap(), b"in the way");
    assert_eq!(names(dir.path()), ["file", "folder", "x.safetensors"]);
    assert!(names(&at("folder")).is_empty());
}

#[test]
fn a_refused_merge_leaves_an_older_result_alone() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.safetensors");
    std::fs::write(&out, "older").unwrap();
    let mut merge = selma();
    merge.args(["merge", "--overwrite"]).arg("--lora").arg(dir.path().join("gone.safetensors"));
    refuses(merge.arg("--out").arg(&out), 1, &["gone.safetensors"]);
    assert_eq!(std::fs::read(&out).unwrap(), b"older");
    assert_eq!(names(dir.path()), ["out.safetensors"]);
}

/// Names and texts of a file may hold what a terminal obeys: here to clear it, and to write from right to left.
#[test]
fn no_stream_carries_what_a_terminal_obeys() {
    const EVIL: &str = "\u{1b}[2Jkey\u{202e}\u{9b}31m";
    let dir = tempfile::tempdir().unwrap();
    let (path, case) = (dir.path().join("x.safetensors"), dir.path().join("case"));
    lora(&path, |tensors| drop(tensors.insert(format!("{EVIL}.weight"), Tensor::zeros(&[1], DType::F32))));
    let file = Safetensors::open(&path).unwrap();
    let tensors: Vec<_> = file.names().map(|name| (name.to_owned(), file.tensor(name).unwrap())).collect();
    let metadata = [(EVIL.to_owned(), EVIL.to_owned()), ("b".into(), "x\n  sha256   forged".into())].into();
    write(&path, &tensors, &metadata).unwrap();
    std::fs::create_dir(&case).unwrap();
    std::fs::write(case.join("case.json"), serde_json::json!({ "kind": EVIL }).to_string()).unwrap();
    let mut inspect_json = selma();
    inspect_json.arg("inspect").arg(&path).arg("--json");
    let mut inspect = selma();
    inspect.arg("inspect").arg(&path);
    let mut merge = selma();
    merge.arg("merge").arg("--lora").arg(&path).arg("--out").arg(dir.path().join("m.safetensors"));
    let mut verify = selma();
    verify.arg("verify").arg(&case);
    for (command, word) in [(inspect_json, "\\u202e"), (inspect, "key"), (merge, "key"), (verify, "key")] {
        let mut command = command;
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains(word), "{command:?}: {text}");
        assert!(!text.contains(['\u{1b}', '\u{202e}', '\u{9b}']), "{command:?}: {text:?}");
        assert!(!text.contains("\n  sha256   forged"), "{text}");
    }
}
