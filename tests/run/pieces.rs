//! A run as a whole, and the same run piece by piece.

use std::path::Path;

use crate::{differences, json, pipeline, results, run, says};

#[test]
fn a_whole_run_and_its_pieces_give_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let file = pipeline(dir.path(), "");
    let (whole, pieces) = (dir.path().join("whole"), dir.path().join("pieces"));
    let outcome = json(run(&file, &whole));
    assert_eq!(outcome["done"].as_array().unwrap().len(), 10, "{outcome}");
    let arms = outcome["summary"]["arms"].as_array().unwrap();
    let names: Vec<&str> = arms.iter().map(|arm| arm["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["base", "all-in-one", "merged", "expert-counting", "expert-spatial"]);
    assert_eq!(arms[0]["overall"]["values"], 8);
    assert_eq!(arms[3]["overall"]["values"], 4);
    let bytes = results(&whole);
    for made in ["prompts/counting.json", "images/spatial/00002.png", "merge/plain/lora.safetensors"] {
        assert!(bytes.contains_key(Path::new(made)), "{made}");
    }
    // Weak to strong: one model drew, another learnt.
    let image = &bytes[Path::new("images/spatial/00002.png")];
    let drawn_by = selma::formats::png::parameters(image).unwrap();
    assert!(drawn_by.contains("Model: tiny-sd1"), "{drawn_by}");
    let evaluated = &bytes[Path::new("evaluate/expert-spatial/spatial/seed-42/00000.png")];
    let drawn_by = selma::formats::png::parameters(evaluated).unwrap();
    assert!(drawn_by.contains("Model: tiny-sd2") && drawn_by.contains("Lora hashes"), "{drawn_by}");
    let page = std::fs::read_to_string(whole.join("report.html")).unwrap();
    assert!(page.contains("drawn by tiny-sd1, learnt by tiny-sd2"));
    // The experts are all in files of one name: the merge tells them apart.
    let merged = selma::formats::safetensors::Safetensors::open(&whole.join("merge/plain/lora.safetensors")).unwrap();
    let names: Vec<&str> = merged.metadata()["modelspec.merged_from"].split(',').collect();
    assert!(names.iter().all(|name| name.starts_with("lora@")) && names[0] != names[1], "{names:?}");

    // What is finished is left alone.
    assert_eq!(json(run(&file, &whole))["done"], serde_json::json!([]));

    let only = |stage: &str, skill: Option<&str>| {
        let mut command = run(&file, &pieces);
        command.args(["--only", stage]);
        skill.iter().for_each(|skill| {
            command.args(["--skill", skill]);
        });
        command
    };
    says(only("experts", Some("counting")), 1, &["prompts of counting", "--only prompts --skill counting"]);
    only("prompts", None).assert().success();
    run(&file, &pieces).args(["--skill", "spatial"]).assert().success();
    assert!(pieces.join("experts/spatial/lora.safetensors").exists() && !pieces.join("images/counting").exists());
    for skill in ["spatial", "counting"] {
        only("images", Some(skill)).assert().success();
        only("experts", Some(skill)).assert().success();
    }
    says(only("evaluate", None), 1, &["experts of all-in-one"]);
    only("experts", Some("all-in-one")).assert().success();
    for stage in ["merge", "evaluate", "report"] {
        only(stage, None).assert().success();
    }
    assert_eq!(differences(&bytes, &results(&pieces)), Vec::<std::path::PathBuf>::new());
    says(only("experts", Some("cooking")), 2, &["cooking", "counting, spatial, all-in-one"]);
}

#[test]
fn the_report_is_one_page_that_needs_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let file = pipeline(dir.path(), "");
    let out = dir.path().join("out");
    run(&file, &out).assert().success();
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    // A caption of a stranger is text.
    assert!(page.contains("three blue &lt;script&gt;alert(1)&lt;/script&gt; stars"));
    assert!(!page.contains("<script") && !page.contains("http:") && !page.contains("https:") && !page.contains("url("));
    assert_eq!(page.matches("<img src=\"data:image/png;base64,").count(), page.matches("<img").count());
    // Two prompts of each of two skills by four models.
    assert!(page.matches("<img").count() >= 16);
    assert_eq!(page.matches("<polyline").count(), 3);
    for text in ["selma run", "95 % interval", "two red circles", "seed 42"] {
        assert!(page.contains(text), "{text}");
    }
}

#[test]
fn selected_images_teach_experts_beside_the_plain_ones() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    let file = pipeline(dir.path(), "");
    // The replies are captions of the world that its judge understands.
    for (skill, captions) in [
        ("counting", "4. two red circles\n5. three blue stars\n6. four green squares"),
        ("spatial", "4. a red circle left of a blue star\n5. a green square above a pink heart\n6. a blue star"),
    ] {
        let record = serde_json::json!({ "reply": captions });
        let path = dir.path().join(format!("replies/{skill}.replies.jsonl"));
        std::fs::write(path, format!("{record}\n")).unwrap();
    }
    run(&file, &plain).assert().success();
    let before = results(&plain);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n[select]\nrule = \"best-of:3\"\n")).unwrap();
    let outcome = json(run(&file, &plain));
    let done: Vec<&str> = outcome["done"].as_array().unwrap().iter().map(|d| d.as_str().unwrap()).collect();
    assert_eq!(
        done,
        [
            "select of counting",
            "select of spatial",
            "experts of counting-selected",
            "experts of spatial-selected",
            "experts of all-in-one-selected",
            "merge of selected",
            "evaluate",
            "report"
        ]
    );
    let after = results(&plain);
    for kept in ["experts/counting/lora.safetensors", "merge/plain/lora.safetensors"] {
        assert!(before[Path::new(kept)] == after[Path::new(kept)], "{kept}");
    }
    let summary = &outcome["summary"];
    assert!(summary["arms"].as_array().unwrap().iter().any(|arm| arm["name"] == "merged-selected"));
    // Three images, each with its latents, and their list.
    assert_eq!(std::fs::read_dir(plain.join("select/counting/draw-2")).unwrap().count(), 7);
}

#[test]
fn what_the_judge_cannot_select_is_refused_before_it_is_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let file = pipeline(dir.path(), "[select]\nrule = \"best-of:2\"\n");
    let record = serde_json::json!({ "reply": "4. two red circles\n5. a \u{1b}[31mfox in the snow\n6. a hen" });
    std::fs::write(dir.path().join("replies/counting.replies.jsonl"), format!("{record}\n")).unwrap();
    let out = dir.path().join("out");
    let words = ["[select]", "\"a [31mfox in the snow\"", "counting", "\"dsg\" and a [judge]"];
    says(run(&file, &out), 1, &words);
    assert!(out.join("prompts/counting.json").exists() && !out.join("images").exists());
}

/// What trains an expert alone trains it in a run: text encoders too, whose layers are merged with the rest.
#[test]
fn experts_have_layers_of_text_encoders_where_they_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = pipeline(dir.path(), "train-text-encoder = true\nlora-plus-ratio = 4\nblock-rank = [\"mid_block=1\"]\n");
    let out = dir.path().join("out");
    run(&file, &out).assert().success();
    let base = selma::lora::base::modules(&crate::parity("models/tiny-sd2")).unwrap();
    let merged = selma::lora::load(&out.join("merge/plain/lora.safetensors"), Some(&base), false).unwrap().expert;
    for component in ["text_encoder", "unet"] {
        let layers = merged.components.get(component).unwrap_or_else(|| panic!("{component}"));
        let moved = layers.values().any(|layer| layer.delta().data::<f32>().iter().any(|x| *x != 0.0));
        assert!(moved, "{component}");
    }
    // Two experts of rank 1 there, and of rank 2 elsewhere.
    for (module, layer) in &merged.components["unet"] {
        assert_eq!(layer.rank(), if module.starts_with("mid_block") { 2 } else { 4 }, "{module}");
    }
}
