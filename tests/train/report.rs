//! `report.html` of a run.

use std::path::Path;

use crate::{bytes, images, train};

const PROMPTS: &str = "<script>alert(1)</script> & \"a cat\" --n <b>dark</b> --s 2 --w 32 --h 32\nplain --s 2\n";
const RUN: [&str; 10] =
    ["--steps", "6", "--save-every", "3", "--sample-every", "2", "--validation-split", "0.4", "--validate-every", "2"];

fn page(out: &Path) -> String {
    String::from_utf8(bytes(out.join("report.html"))).unwrap()
}

fn count(page: &str, part: &str) -> usize {
    page.matches(part).count()
}

#[test]
fn a_run_has_a_page_of_its_own_that_a_resume_leaves_whole() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let prompts = dir.path().join("p.txt");
    std::fs::write(&prompts, PROMPTS).unwrap();
    let run = |out: &Path, more: &[&str]| {
        let mut command = train(&data, out, &RUN);
        command.arg("--sample-prompts").arg(&prompts).args(["--output-name", "<b>name"]).args(more);
        command.assert().success();
    };
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    run(&whole, &[]);
    let page_of_whole = page(&whole);
    let shown = page_of_whole.as_str();
    assert!(shown.starts_with("<!DOCTYPE html>") && shown.trim_end().ends_with("</html>"));
    // Nothing comes from elsewhere, and nothing of a prompt is markup.
    for part in ["<script", "http:", "https:", "url(", "@import", "<link", "<b>", "<iframe"] {
        assert!(!shown.contains(part), "{part}");
    }
    assert_eq!(count(shown, "<style>"), 1);
    assert_eq!(count(shown, "</style>"), 1);
    assert_eq!(count(shown, "src=\""), count(shown, "src=\"data:image/"));
    assert!(shown.contains("&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;a cat&quot;"));
    assert!(shown.contains("negative: &lt;b&gt;dark&lt;/b&gt;, 32x32"));
    // Two prompts at three steps; five curves of which f16's scale is not here.
    assert_eq!(count(shown, "<img "), 6);
    for label in ["loss", "validation loss", "learning rate", "norm of the gradient"] {
        assert!(shown.contains(&format!("aria-label=\"{label} over 6 steps\"")), "{label}");
    }
    assert!(shown.contains("Step 6 of 6: 2 images"), "the third is held out");
    assert!(shown.contains("<td>rank</td><td>2</td>") && !shown.contains("<td>alpha</td>"));
    assert!(!shown.contains(&whole.display().to_string()));

    // Killed after step 3, or while it drew at step 4.
    run(&broken, &[]);
    std::fs::remove_file(broken.join("state/step-00000006.safetensors")).unwrap();
    std::fs::write(broken.join("report.html"), &shown[..shown.len() / 2]).unwrap();
    std::fs::remove_file(broken.join("samples/step-00000004-1.png")).unwrap();
    std::fs::write(broken.join(".report.html-cut.part"), "half").unwrap();
    run(&broken, &["--resume"]);
    assert!(page(&broken) == shown, "a resumed run has another page");
    let samples = |out: &Path| bytes(out.join("samples/metadata.jsonl"));
    assert!(samples(&broken) == samples(&whole), "a resumed run has other rows");

    // With everything done, and the page lost.
    std::fs::remove_file(whole.join("report.html")).unwrap();
    run(&whole, &["--resume"]);
    assert!(page(&whole) == shown);
}

/// The page is there, and is right, while the run goes on.
#[test]
fn the_page_is_renewed_with_each_state() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let out = dir.path().join("out");
    let of = |arguments: &[&str]| {
        train(&data, &out, arguments).assert().success();
        page(&out)
    };
    let first = of(&["--steps", "2", "--save-every", "1"]);
    assert!(first.contains("Step 2 of 2") && !first.contains("Sample images") && !first.contains("validation loss"));
    let more = of(&["--steps", "40", "--save-every", "100", "--resume"]);
    assert!(more.contains("Step 40 of 40") && count(&more, "<circle") < count(&first, "<circle"));
    // Fewer points than steps once there are many.
    let line = more.split("<polyline points=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(line.split(' ').count(), 40);
}
