//! The safetensors container: lies about lengths, offsets and types, and every truncation.

use std::path::Path;

use proptest::prelude::*;
use selma::formats::safetensors::Safetensors;
use selma::lora;

use crate::{generate, lora, model, names, refuses, selma};

/// A file with this header text and `data` zero bytes after it.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn message(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    std::fs::write(&path, bytes).unwrap();
    match lora::load(&path, None, true) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn lying_headers_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let tensor = |dtype: &str, shape: &str, from: u64, to: u64| {
        format!("{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{from},{to}]}}")
    };
    let f32s = |shape: &str, from, to| tensor("F32", shape, from, to);
    let huge = u64::MAX;
    let mut endless = u64::MAX.to_le_bytes().to_vec();
    endless.extend(b"{}");
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "0 bytes"),
        ("endless", endless, "header's length is larger than the file"),
        ("long", file("{}", 0)[..9].to_vec(), "header's length is larger than the file"),
        ("text", b"not a tensor file at all".to_vec(), "header"),
        ("json", file("{\"a\":", 0), "not a valid safetensors file"),
        ("list", file("[1, 2]", 0), "not a valid safetensors file"),
        ("utf8", [&4u64.to_le_bytes()[..], b"\xff\xfe{}"].concat(), "not a valid safetensors file"),
        ("deep", file(&deep, 0), "not a valid safetensors file"),
        ("overlap", file(&format!("{{\"a\":{},\"b\":{}}}", f32s("[2]", 0, 8), f32s("[2]", 4, 12)), 12), "overlap"),
        ("gap", file(&format!("{{\"a\":{},\"b\":{}}}", f32s("[2]", 0, 8), f32s("[2]", 12, 20)), 20), "gap"),
        ("backwards", file(&format!("{{\"a\":{}}}", f32s("[2]", 8, 0)), 8), "a"),
        ("past the end", file(&format!("{{\"a\":{}}}", f32s("[2]", 0, 8)), 7), "truncated"),
        ("trailing", file(&format!("{{\"a\":{}}}", f32s("[2]", 0, 8)), 9), "trailing"),
        ("shape", file(&format!("{{\"a\":{}}}", f32s("[3]", 0, 8)), 8), "x.safetensors"),
        ("overflow", file(&format!("{{\"a\":{}}}", f32s(&format!("[{huge},{huge}]"), 0, 8)), 8), "x.safetensors"),
        ("wrapping", file(&format!("{{\"a\":{}}}", f32s("[2]", huge - 3, 4)), 8), "x.safetensors"),
        ("negative", file(&format!("{{\"a\":{}}}", f32s("[-2]", 0, 8)), 8), "not a valid safetensors file"),
        ("dtype", file(&format!("{{\"a\":{}}}", tensor("Q4_K", "[8]", 0, 8)), 8), "Q4_K"),
        ("twice", file(&format!("{{\"a\":{0},\"a\":{0}}}", f32s("[2]", 0, 8)), 8), "two tensors are named a"),
        ("metadata", file("{\"__metadata__\":{\"a\":1}}", 0), "not a valid safetensors file"),
        ("nothing", file("{}", 0), "no tensors"),
        ("pickle", [b"PK\x03\x04".to_vec(), vec![0; 60]].concat(), "save_file"),
        ("old pickle", [b"\x80\x02}q".to_vec(), vec![b'.'; 60]].concat(), "pickle"),
        ("lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(), "git lfs pull"),
    ];
    let path = dir.path().join("x.safetensors");
    for (name, bytes, word) in &cases {
        std::fs::write(&path, bytes).unwrap();
        refuses(selma().arg("inspect").arg(&path), 1, &["x.safetensors", word]);
        assert!(message(bytes).contains(word), "{name}: {}", message(bytes));
    }
    // The same in the place of a model's weights, and as the LoRA of an image.
    for (_, bytes, word) in cases.iter().filter(|(name, ..)| ["endless", "overlap", "pickle"].contains(name)) {
        std::fs::write(&path, bytes).unwrap();
        let out = dir.path().join("out");
        refuses(generate(&model("tiny-sd1"), &out).arg("--lora").arg(&path), 1, &[word]);
        let copy = crate::copied("tiny-sd1", dir.path());
        std::fs::write(copy.join("unet/diffusion_pytorch_model.safetensors"), bytes).unwrap();
        refuses(&mut generate(&copy, &out), 1, &["diffusion_pytorch_model.safetensors", word]);
        assert!(!out.exists());
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    lora(&path, |_| ());
    let whole = std::fs::read(&path).unwrap();
    assert!(lora::load(&path, None, false).is_ok());
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = lora::load(&path, None, true).err().expect("a part is not the whole");
        assert!(error.to_string().contains("x.safetensors"), "{error}");
        // The binary, at the edges and here and there.
        if [0, 7, 8, 9, header - 1, header, header + 1, whole.len() - 1].contains(&length) || length % 257 == 0 {
            let merged = dir.path().join("merged.safetensors");
            refuses(selma().arg("inspect").arg(&path), 1, &["x.safetensors"]);
            refuses(selma().arg("merge").arg("--lora").arg(&path).arg("--out").arg(&merged), 1, &["x.safetensors"]);
        }
    }
    assert_eq!(names(dir.path()), ["x.safetensors"]);
}

/// Every bit of the header turned once: an error or a file, never a panic.
#[test]
fn a_header_with_any_bit_turned_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    lora(&path, |_| ());
    let whole = std::fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for bit in 0..8 * header {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        read_all(&path, &bytes);
    }
}

fn read_all(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    if let Ok(file) = Safetensors::open(path) {
        for name in file.names() {
            let _ = file.weight(name);
        }
    }
    let _ = lora::load(path, None, true);
}

/// A header that is JSON of about the right form, with numbers and names that may be anything.
fn header() -> impl Strategy<Value = String> {
    let dtype = prop_oneof![
        Just("F32"),
        Just("F16"),
        Just("BF16"),
        Just("F64"),
        Just("I64"),
        Just("I32"),
        Just("U8"),
        Just("BOOL"),
        Just("F8_E4M3"),
        Just("F4"),
        Just("C64"),
        Just("")
    ];
    let number = prop_oneof![0u64..40, Just(u64::MAX), Just(1 << 62), any::<u64>()];
    let shape = prop::collection::vec(number.clone(), 0..4);
    let name = prop_oneof![
        Just("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight".to_string()),
        Just("unet.mid_block.attentions.0.proj_in.lora_B.weight".to_string()),
        Just("conv_in.alpha".to_string()),
        "[a-z_.0-9]{0,12}",
    ];
    let tensor = (name, dtype, shape, number.clone(), number);
    prop::collection::vec(tensor, 0..5).prop_map(|tensors| {
        let items = tensors.iter().map(|(name, dtype, shape, from, to)| {
            format!("\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{from},{to}]}}")
        });
        format!("{{{}}}", items.collect::<Vec<_>>().join(","))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_header_makes_it_panic(header in header(), data in 0usize..200) {
        let dir = tempfile::tempdir().unwrap();
        read_all(&dir.path().join("x.safetensors"), &file(&header, data));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), small in any::<bool>()) {
        let mut bytes = bytes;
        if small && bytes.len() > 8 {
            // A believable header length, so that something is parsed.
            let length = (bytes.len() as u64 - 8) / 2;
            bytes[..8].copy_from_slice(&length.to_le_bytes());
        }
        let dir = tempfile::tempdir().unwrap();
        read_all(&dir.path().join("x.safetensors"), &bytes);
    }
}
