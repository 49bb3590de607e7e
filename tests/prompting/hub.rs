//! Models by their id, from a hub on 127.0.0.1.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use selma::formats::hub::{Hub, JudgeId, is_id};
use selma::formats::model_dir::ModelDir;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::server::{Answer, Server};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The recorded model, with what other repositories have besides.
fn files() -> BTreeMap<String, Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/models/tiny-sd1");
    let mut files = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_string();
                files.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    for more in
        ["README.md", "v1-5-pruned.safetensors", "unet/diffusion_pytorch_model.bin", "safety_checker/model.safetensors"]
    {
        files.insert(more.into(), b"not to be downloaded".to_vec());
    }
    files
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Gives out `files`; of `unet` weights at first only `first` bytes.
fn serve(files: BTreeMap<String, Vec<u8>>, first: usize) -> Server {
    let files = Arc::new(files);
    Server::start(move |_, request| {
        let revision = request.path.strip_prefix("/api/models/org/tiny/revision/");
        if matches!(revision, Some("main?blobs=true" | "refs%2Fpr%2F7?blobs=true")) {
            let sibling = |(name, bytes): (&String, &Vec<u8>)| match name.ends_with(".safetensors") {
                true => json!({"rfilename": name, "blobId": "ab", "size": bytes.len(),
                               "lfs": {"sha256": hash(bytes), "size": bytes.len()}}),
                false => json!({"rfilename": name, "blobId": &hash(bytes)[..40], "size": bytes.len()}),
            };
            let siblings: Vec<_> = files.iter().map(sibling).collect();
            return Answer::Json(200, json!({"sha": COMMIT, "siblings": siblings}));
        }
        let name = request.path.strip_prefix(&format!("/org/tiny/resolve/{COMMIT}/"));
        let Some(bytes) = name.and_then(|name| files.get(name)) else {
            return Answer::Json(404, json!({"error": "Repository not found"}));
        };
        let range =
            request.headers.iter().find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(String::from));
        let from: Option<usize> = range.map(|range| range.trim_end_matches('-').parse().unwrap());
        let (status, rest) = match from {
            Some(from) => ("206 Partial Content", &bytes[from..]),
            None => ("200 OK", &bytes[..]),
        };
        let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", rest.len());
        let cut = if from.is_none() && request.path.contains("unet/diffusion") { first } else { rest.len() };
        Answer::Raw([head.as_bytes(), &rest[..cut.min(rest.len())]].concat())
    })
}

fn hub(server: &Server, cache: &Path) -> Hub {
    Hub { endpoint: server.url.clone(), cache: cache.into(), token: Some("hf_secret".into()), offline: false }
}

fn snapshot(hub: &Hub) -> Result<PathBuf, String> {
    hub.snapshot("org/tiny", &mut |_| {}).map_err(|e| e.to_string())
}

#[test]
fn a_model_is_downloaded_once_and_goes_on_where_the_connection_broke() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(files(), 1000);
    let mut hub = hub(&server, dir.path());
    let mut last = (0, 1);
    let folder = hub.snapshot("org/tiny", &mut |p| last = (p.done, p.total)).unwrap();
    assert_eq!(last.0, last.1, "the progress ends at the whole");
    ModelDir::open(&folder).unwrap();
    let expected = files();
    let weights = "unet/diffusion_pytorch_model.safetensors";
    assert_eq!(std::fs::read(folder.join(weights)).unwrap(), expected[weights]);
    let asked = server.seen();
    let ranges = asked.iter().filter(|r| r.headers.iter().any(|h| h.to_lowercase() == "range: bytes=1000-"));
    assert_eq!(ranges.count(), 1, "the rest of the weights is asked for, not the whole again");
    assert!(asked.iter().all(|r| r.headers.iter().any(|h| h.ends_with("Bearer hf_secret"))));
    for unwanted in ["README", "pruned", ".bin", "safety"] {
        assert!(asked.iter().all(|r| !r.path.contains(unwanted)), "{unwanted} was downloaded");
    }
    // The layout that huggingface_hub reads.
    let root = dir.path().join("models--org--tiny");
    assert_eq!(std::fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    let link = std::fs::read_link(folder.join(weights)).unwrap();
    assert_eq!(link, Path::new("../../../blobs").join(hash(&expected[weights])));

    hub.offline = true;
    assert_eq!(snapshot(&hub).unwrap(), folder);
    assert_eq!(server.seen().len(), asked.len(), "a whole model asks the network for nothing");
}

#[test]
fn what_another_program_downloaded_in_part_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(files(), usize::MAX);
    let mut hub = hub(&server, dir.path());
    let folder = snapshot(&hub).unwrap();
    let vae = folder.join("vae/diffusion_pytorch_model.safetensors");
    std::fs::remove_file(&vae).unwrap();
    hub.offline = true;
    let error = snapshot(&hub).unwrap_err();
    assert!(error.contains("org/tiny") && error.contains("--offline"), "{error}");
    hub.offline = false;
    snapshot(&hub).unwrap();
    assert!(vae.is_file());
}

#[test]
fn a_revision_and_a_variant_are_those_that_were_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = files();
    for name in files().keys().filter(|name| !name.starts_with("safety") && name.contains('/')) {
        if let Some(stem) = name.strip_suffix(".safetensors") {
            all.insert(format!("{stem}.fp16.safetensors"), format!("half of {name}").into_bytes());
        }
    }
    let server = serve(all, usize::MAX);
    let mut hub = hub(&server, dir.path());
    let half = hub.snapshot("org/tiny:fp16", &mut |_| {}).unwrap();
    let weights = |folder: &Path, end: &str| folder.join(format!("unet/diffusion_pytorch_model{end}.safetensors"));
    assert_eq!(std::fs::read(weights(&half, ".fp16")).unwrap(), b"half of unet/diffusion_pytorch_model.safetensors");
    assert!(!weights(&half, "").exists());
    ModelDir::open(&half).unwrap();
    // The full weights come later, and do not change what the variant is.
    let whole = hub.snapshot("org/tiny@refs/pr/7", &mut |_| {}).unwrap();
    assert!(weights(&whole, "").is_file() && !weights(&half, "").exists());
    assert!(dir.path().join("models--org--tiny/refs/refs/pr/7").is_file());
    let asked = server.seen().len();
    hub.offline = true;
    assert_eq!(hub.snapshot("org/tiny:fp16", &mut |_| {}).unwrap(), half);
    assert_eq!(hub.snapshot("org/tiny@refs/pr/7", &mut |_| {}).unwrap(), whole);
    assert_eq!(server.seen().len(), asked);
    hub.offline = false;
    let error = hub.snapshot("org/tiny:int8", &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("int8"), "{error}");
}

#[test]
fn a_lora_is_the_only_one_or_the_one_that_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let of = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), name.as_bytes().to_vec())).collect();
    let server = serve(of(&["README.md", "style.safetensors", "images/a.png"]), usize::MAX);
    let mut one = hub(&server, dir.path());
    let id = |text| JudgeId::parse(text).unwrap();
    let place = one.lora(id("org/tiny"), &mut |_| {}).unwrap();
    assert_eq!(std::fs::read(&place).unwrap(), b"style.safetensors");
    one.offline = true;
    assert_eq!(one.lora(id("org/tiny"), &mut |_| {}).unwrap(), place);

    let dir = tempfile::tempdir().unwrap();
    let server = serve(of(&["a.safetensors", "more/b.safetensors"]), usize::MAX);
    let several = hub(&server, dir.path());
    let error = several.lora(id("org/tiny"), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("more/b.safetensors") && error.contains("org/tiny:FILE"), "{error}");
    let named = several.lora(id("org/tiny:more/b.safetensors"), &mut |_| {}).unwrap();
    assert_eq!(std::fs::read(named).unwrap(), b"more/b.safetensors");
}

#[test]
fn what_cannot_be_had_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(files(), usize::MAX);
    let hub = hub(&server, dir.path());
    let error = hub.snapshot("org/absent", &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("org/absent") && error.contains("no such model"), "{error}");
    assert!(!error.contains("hf_secret"));

    let mut pickles = files();
    pickles.retain(|name, _| !(name.starts_with("unet/") && name.ends_with(".safetensors")));
    let server = serve(pickles, usize::MAX);
    let hub = self::hub(&server, &dir.path().join("second"));
    let error = snapshot(&hub).unwrap_err();
    assert!(error.contains("unet") && error.contains("safetensors"), "{error}");
}

#[test]
fn a_file_with_another_hash_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(files(), usize::MAX);
    let hub = hub(&server, dir.path());
    let weights = &files()["unet/diffusion_pytorch_model.safetensors"];
    // What an earlier, broken download left: of the right length, and wrong.
    let blobs = dir.path().join("models--org--tiny/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join(format!("{}.incomplete", hash(weights))), vec![0; weights.len()]).unwrap();
    let error = snapshot(&hub).unwrap_err();
    assert!(error.contains("unet/diffusion_pytorch_model.safetensors") && error.contains("hash"), "{error}");
    snapshot(&hub).unwrap();
}

#[test]
fn ids_are_told_from_paths() {
    for id in ["runwayml/stable-diffusion-v1-5", "a/b", "stabilityai/sd-turbo_1.0"] {
        assert!(is_id(id), "{id}");
    }
    for path in ["model", "./a/b", "../b", "a/b/c", "/a", "a/..", "src/formats", "a b/c", "a/"] {
        assert!(!is_id(path), "{path}");
    }
}

#[test]
fn of_a_judge_its_configuration_and_one_file_of_weights_are_downloaded() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["README.md", "config.json", "vocab.txt", "pytorch_model.bin", "model.safetensors", "HPS_v2.pt"];
    let server = serve(names.map(|name| (name.to_string(), name.as_bytes().to_vec())).into(), usize::MAX);
    let mut hub = hub(&server, dir.path());
    let judge = |hub: &Hub, id: &str| hub.judge(JudgeId::parse(id).unwrap(), &mut |_| {}).map_err(|e| e.to_string());
    let folder = judge(&hub, "org/tiny@refs/pr/7").unwrap();
    let mut there: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    there.sort();
    assert_eq!(there, ["config.json", "model.safetensors", "vocab.txt"]);
    assert!(dir.path().join("models--org--tiny/refs/refs/pr/7").is_file(), "as huggingface_hub names it");
    let file = judge(&hub, "org/tiny:HPS_v2.pt").unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"HPS_v2.pt");
    let error = judge(&hub, "org/tiny:HPS_v3.pt").unwrap_err();
    assert!(error.contains("no file HPS_v3.pt") && error.contains("HPS_v2.pt"), "{error}");

    let asked = server.seen().len();
    hub.offline = true;
    assert_eq!(judge(&hub, "org/tiny@refs/pr/7").unwrap(), folder);
    assert_eq!(server.seen().len(), asked);
    let error = judge(&hub, "org/absent").unwrap_err();
    assert!(error.contains("--offline"), "{error}");

    for path in ["model", "./a/b", "a/b@../c", "a/b:../c", "a/b:", "a/b@"] {
        assert_eq!(JudgeId::parse(path), None, "{path}");
    }
}
