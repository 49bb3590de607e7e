//! What `--dry-run` says of the run that is meant: its time, and that of tokens that are learned.

use crate::{images, said, train};

#[test]
fn a_dry_run_times_a_sample() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (images(dir.path()), dir.path().join("out"));
    for more in [&[][..], &["--dora"], &["--train-text-encoder", "--checkpointing"]] {
        let notes = said({
            let mut command = train(&data, &out, &["--dry-run", "--steps", "7"]);
            command.args(more);
            command
        });
        let line = notes.lines().find(|line| line.contains("estimated time")).unwrap_or_else(|| panic!("{notes}"));
        assert!(line.contains("for 7 samples at") && line.contains("one micro-batch of 1"), "{line}");
        assert!(!out.exists(), "a dry run wrote something");
    }
}

#[test]
fn a_dry_run_plans_tokens_that_are_learned() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (images(dir.path()), dir.path().join("out"));
    for i in 0..3 {
        std::fs::write(data.join(format!("{i}.txt")), format!("a <robin> {i}")).unwrap();
    }
    let plan = |more: &[&str]| {
        let mut command =
            train(&data, &out, &["--dry-run", "--class-token", "<robin>", "--vectors", "64", "--steps", "4"]);
        command.args(more);
        let notes = said(command);
        assert!(!out.exists(), "a dry run wrote something");
        notes
    };
    // Vectors of 32 numbers in f32, with AdamW's moments and its master copy.
    let alone = plan(&[]);
    assert!(alone.contains("1 state of 24 KiB and embeddings of 8 KiB"), "{alone}");
    assert!(alone.contains("kept for the text encoders"), "{alone}");
    let both = plan(&["--with-lora"]);
    assert!(both.contains("1 LoRA of") && both.contains("embeddings of 8 KiB"), "{both}");

    let refused = |command: &mut assert_cmd::Command, message: &str| {
        let output = command.assert().failure();
        let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
        assert!(said.contains(message), "{said}");
    };
    let dry = |more: &[&str]| {
        let mut command = train(&data, &out, &["--dry-run"]);
        command.args(more);
        command
    };
    refused(&mut dry(&["--class-token", "<wren>"]), "has none of the tokens that are learned (<wren>)");
    refused(&mut dry(&["--class-token", "<robin>", "--class-token", "<wren>"]), "no caption has the token <wren>");
    refused(&mut dry(&["--class-token", "<robin>", "--ema", "0.9"]), "--ema: not together with tokens");
}
