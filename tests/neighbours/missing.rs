//! A path that is not there is named with the option that gave it, before a model is loaded or anything is written.

use crate::says;

#[test]
fn missing_paths_are_named_with_their_option() {
    let dir = tempfile::tempdir().unwrap();
    let shapes = ["--model", "shapes"];
    let lora = ["--lora", "gone.safetensors"];
    let replay = ["--replay", "gone.jsonl"];
    std::fs::write(dir.path().join("here.txt"), "a red circle\n").unwrap();
    std::fs::write(dir.path().join("here.png"), "").unwrap();
    std::fs::create_dir(dir.path().join("here")).unwrap();
    let cases: [(&str, &str, Vec<&str>); 19] = [
        ("--prompts", "gone.txt", vec!["search", "--prompts", "gone.txt", "--lora", "x", "--benchmark", "shapes"]),
        (
            "--lora",
            "gone.safetensors",
            vec!["search", "--prompts", "here.txt", lora[0], lora[1], "--benchmark", "shapes"],
        ),
        ("--reference", "gone", vec!["regenerate", "--reference", "gone", replay[0], replay[1]]),
        ("--replay", "gone.jsonl", vec!["regenerate", "--reference", "here.png", replay[0], replay[1]]),
        (
            "--lora",
            "gone.safetensors",
            vec!["regenerate", "--reference", "here.png", lora[0], lora[1], "--replay", "here.txt"],
        ),
        ("--replay", "gone.jsonl", vec!["chat", replay[0], replay[1]]),
        ("--lora", "gone.safetensors", vec!["chat", "--replay", "here.txt", lora[0], lora[1]]),
        ("--data", "gone", vec!["mix", "generate", "--data", "gone"]),
        ("--lora", "gone.safetensors", vec!["mix", "generate", "--data", "here", lora[0], lora[1]]),
        ("--embedding", "gone.bin", vec!["mix", "generate", "--data", "here", "--embedding", "gone.bin"]),
        ("--data", "gone", vec!["mix", "train", "--data", "gone"]),
        ("--images", "gone", vec!["mix", "filter", "--images", "gone"]),
        ("--images", "gone", vec!["metrics", "--images", "gone"]),
        ("--reference", "gone", vec!["metrics", "--images", "here", "--reference", "gone"]),
        ("--table", "gone.csv", vec!["paragraph", "make", "--table", "gone.csv"]),
        ("--prompts", "gone.jsonl", vec!["spatial", "score", "--prompts", "gone.jsonl", "--results", "here.txt"]),
        ("--prompts", "gone.jsonl", vec!["spatial", "layout", "--prompts", "gone.jsonl", "--replay", "here.txt"]),
        ("--similarities", "gone.json", vec!["associate", "--similarities", "gone.json"]),
        ("--images", "gone", vec!["associate", "--images", "gone"]),
    ];
    for (option, path, mut arguments) in cases {
        if ["search", "regenerate", "chat"].contains(&arguments[0])
            || arguments[1] == "generate"
            || arguments[1] == "train"
        {
            arguments.extend(shapes);
        }
        if arguments[0] != "mix" || arguments[1] != "filter" {
            arguments.extend(["--out", "out"]);
        }
        says(dir.path(), &arguments, 1, &[path, option]);
        assert!(!dir.path().join("out").exists(), "{arguments:?} wrote something");
    }
}
