//! Places that cannot be written to. The tests may run as root, so a file stands in the way of a folder.

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
    refuses(&mut generate(&model("tiny-sd1"), &at("file/pictures")), 1, &["file/pictures"]);
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
