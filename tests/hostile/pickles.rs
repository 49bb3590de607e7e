//! PyTorch's weight files: what the restricted reader builds, and what it refuses by name.

use std::path::Path;

use proptest::prelude::*;
use selma::formats::pickle::{Pickle, machine, tensors};
use selma::tensor::Tensor;

use crate::fixture;

/// A zip archive of stored entries.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let (offset, length, name_length) = (bytes.len() as u32, data.len() as u32, name.len() as u16);
        bytes.extend(b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0\0\0\0\0");
        bytes.extend([length.to_le_bytes(), length.to_le_bytes()].concat());
        bytes.extend([name_length.to_le_bytes(), [0, 0]].concat());
        bytes.extend(name.as_bytes());
        bytes.extend(*data);
        directory.extend(b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0\0\0\0\0");
        directory.extend([length.to_le_bytes(), length.to_le_bytes()].concat());
        directory.extend(name_length.to_le_bytes());
        directory.extend([0; 12]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (start, length, count) = (bytes.len() as u32, directory.len() as u32, entries.len() as u16);
    bytes.extend(directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    bytes.extend([length.to_le_bytes(), start.to_le_bytes()].concat());
    bytes.extend([0, 0]);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

fn int(value: i32) -> Vec<u8> {
    [b"J".as_slice(), &value.to_le_bytes()].concat()
}

fn tuple(values: &[i32]) -> Vec<u8> {
    [b"(".to_vec(), values.iter().flat_map(|&v| int(v)).collect(), b"t".to_vec()].concat()
}

/// A tensor of storage `key`.
fn tensor(storage: &str, key: &str, len: i32, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let persistent = [
        b"(".to_vec(),
        text("storage"),
        format!("ctorch\n{storage}\n").into_bytes(),
        text(key),
        text("cpu"),
        int(len),
        b"tQ".to_vec(),
    ];
    let hooks = b"\x89ccollections\nOrderedDict\n)RtR".to_vec();
    let call = b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec();
    [call, persistent.concat(), int(offset), tuple(shape), tuple(strides), hooks].concat()
}

/// A dictionary of these.
fn dict(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items = items.iter().flat_map(|(name, value)| [text(name), value.clone()].concat());
    [b"}(".to_vec(), items.collect(), b"u".to_vec()].concat()
}

fn archive(pickle: &[u8], data: &[(&str, &[u8])]) -> Vec<u8> {
    let pickle = [b"\x80\x02", pickle, b"."].concat();
    let mut entries = vec![("top/data.pkl", pickle.as_slice())];
    entries.extend(data);
    zip(&entries)
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn read(bytes: &[u8], name: &str) -> Tensor {
    tensors(bytes).unwrap()[name].read(bytes)
}

fn refusal(bytes: &[u8]) -> String {
    tensors(bytes).map(|_| ()).unwrap_err()
}

#[test]
fn a_published_layout_has_the_tensors_of_its_safetensors_twin() {
    let file = Pickle::open(&fixture("models/judge-clip-openclip/HPS_without_token_embedding.pt")).unwrap();
    assert_eq!(file.names().count(), 61);
    assert_eq!(file.shape("visual.conv1.weight"), Some([40, 3, 14, 14].as_slice()));
    assert_eq!(file.shape("logit_scale"), Some([].as_slice()));
    let twin = std::env::var_os("SELMA_PARITY");
    let twin = twin.map(|root| Path::new(&root).join("models/judge-clip-openclip/open_clip_model.safetensors"));
    if let Some(twin) = twin {
        let twin = selma::formats::safetensors::Safetensors::open(&twin).unwrap();
        for name in file.names().filter(|name| *name != "logit_scale") {
            assert_eq!(file.tensor(name).unwrap().bytes(), twin.tensor(name).unwrap().bytes(), "{name}");
        }
    }
    // From the safetensors file beside it.
    let bias = file.tensor("visual.ln_post.bias").unwrap();
    assert_eq!(bias.shape(), [40]);
    assert!(bias.is_finite() && bias.reals::<f32>().iter().any(|&x| x != 0.0));
}

#[test]
fn views_share_a_storage() {
    let pickle = dict(&[
        ("whole", tensor("FloatStorage", "0", 6, 0, &[2, 3], &[3, 1])),
        ("transposed", tensor("FloatStorage", "0", 6, 0, &[3, 2], &[1, 3])),
        ("part", tensor("FloatStorage", "0", 6, 4, &[2], &[1])),
        ("number", tensor("LongStorage", "1", 1, 0, &[], &[])),
        ("none", tensor("FloatStorage", "0", 6, 0, &[0, 7], &[7, 1])),
    ]);
    let pickle = dict(&[("epoch", int(3)), ("state_dict", pickle)]);
    let data = floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let bytes = archive(&pickle, &[("top/data/0", &data), ("top/data/1", &[7, 0, 0, 0, 0, 0, 0, 0])]);
    assert_eq!(read(&bytes, "whole").data::<f32>(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(read(&bytes, "transposed").data::<f32>(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    assert_eq!(read(&bytes, "part").data::<f32>(), [5.0, 6.0]);
    assert_eq!(read(&bytes, "number").data::<i64>(), [7]);
    assert!(read(&bytes, "none").is_empty());
}

#[test]
fn whatever_is_no_tensor_is_refused_by_name() {
    for (pickle, words) in [
        (b"cos\nsystem\n(X\x04\0\0\0ls -tR".to_vec(), "os.system"),
        (b"c__builtin__\neval\n(X\x01\0\0\x001tR".to_vec(), "__builtin__.eval"),
        (b"ctorch\nload\n(X\x01\0\0\x001tR".to_vec(), "torch.load"),
        (b"ctorch._utils\n_rebuild_parameter\n(X\x01\0\0\x001tR".to_vec(), "torch._utils._rebuild_parameter"),
        (b"\x8c\x02os\x8c\x06system\x93".to_vec(), "os.system"),
        (b"(X\x02\0\0\0lsios\nsystem\n".to_vec(), "INST"),
        (b"cos\nsystem\n)\x81".to_vec(), "os.system"),
        (b"P0\n".to_vec(), "PERSID"),
        (b"N)\x81".to_vec(), "NEWOBJ"),
        (b"(X\x07\0\0\0storageNX\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ".to_vec(), "persistent object"),
    ] {
        let message = refusal(&archive(&pickle, &[]));
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn tensors_outside_of_their_data_are_refused() {
    let data = floats(&[1.0, 2.0, 3.0, 4.0]);
    for (what, tensor) in [
        ("a storage longer than its entry", tensor("FloatStorage", "0", 5, 0, &[1], &[1])),
        ("an offset", tensor("FloatStorage", "0", 4, 4, &[1], &[1])),
        ("a stride", tensor("FloatStorage", "0", 4, 0, &[2, 2], &[3, 1])),
        ("a repeated element", tensor("FloatStorage", "0", 4, 0, &[1 << 30, 1 << 30], &[0, 0])),
        ("more than there is", tensor("DoubleStorage", "0", 4, 0, &[4], &[1])),
        ("other data", tensor("FloatStorage", "7", 4, 0, &[4], &[1])),
    ] {
        let message = refusal(&archive(&dict(&[("layer.weight", tensor)]), &[("top/data/0", &data)]));
        assert!(message.contains("layer.weight"), "{what}: {message}");
    }
    let negative = dict(&[("x", tensor("FloatStorage", "0", 4, 0, &[-1], &[1]))]);
    assert!(refusal(&archive(&negative, &[("top/data/0", &data)])).contains("size or stride"));
}

#[test]
fn other_archives_say_what_they_are() {
    let state = dict(&[("x", tensor("FloatStorage", "0", 1, 0, &[1], &[1]))]);
    let data = floats(&[1.0]);
    let with = |name: &str, content: &[u8]| archive(&state, &[("top/data/0", &data), (name, content)]);
    assert!(refusal(&with("top/byteorder", b"big")).contains("big endian"));
    assert!(refusal(&with("top/constants.pkl", b"")).contains("TorchScript"));
    assert!(refusal(&with("other/data.pkl", b"")).contains("one entry data.pkl"));
    assert!(refusal(&with("top/data/0", &data)).contains("two entries"));
    assert!(refusal(b"\x80\x02\x8a\x0a\x6c\xfc").contains("PyTorch 1.6"));
    assert!(refusal(&archive(b"K\x01", &[])).contains("no dictionary"));
    assert!(refusal(&archive(b"}", &[])).contains("no tensors"));
    let whole = archive(&state, &[("top/data/0", &data)]);
    assert!(refusal(&whole[..whole.len() - 30]).contains("truncated"));
    // A bomb: an entry of any size is little while it is compressed.
    let mut packed = whole;
    let entry = packed.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    packed[entry + 10] = 8;
    assert!(refusal(&packed).contains("compressed"));
}

/// Containers within containers, a hundred thousand deep, and a list that holds itself.
#[test]
fn depth_and_cycles_are_harmless() {
    let deep = [vec![b']'; 100_000], vec![b'a'; 99_999]].concat();
    assert!(refusal(&archive(&deep, &[])).contains("no dictionary"));
    let tuples = [b"N".to_vec(), vec![0x85; 100_000]].concat();
    assert!(refusal(&archive(&tuples, &[])).contains("no dictionary"));
    assert!(refusal(&archive(b"]q\0h\0a", &[])).contains("no dictionary"));
}

fn fuzz_cases() -> ProptestConfig {
    let cases = std::env::var("SELMA_FUZZ_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig { cases: cases.unwrap_or(4096), failure_persistence: None, ..ProptestConfig::default() }
}

/// The bytes that mean something to the machine, more often than chance has them.
fn opcodes() -> impl Strategy<Value = Vec<u8>> {
    let known = b"\x80\x95.(012NJKMGXTU)]tlae}dsuqrhjcQRb\x85\x86\x87\x88\x89\x8a\x8c\x8d\x93\x94\0\x01\x02\n".to_vec();
    let words: Vec<Vec<u8>> = vec![
        b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec(),
        b"ccollections\nOrderedDict\n".to_vec(),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("storage"),
        tensor("FloatStorage", "0", 4, 0, &[2, 2], &[2, 1]),
    ];
    let piece = prop_oneof![
        6 => prop::sample::select(known).prop_map(|byte| vec![byte]),
        2 => prop::sample::select(words),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
    ];
    prop::collection::vec(piece, 0..64).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(fuzz_cases())]

    #[test]
    fn no_pickle_makes_the_machine_panic(bytes in opcodes()) {
        let _ = machine::run(&bytes);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = tensors(&bytes);
    }

    /// A sound archive with a few bytes changed: what is still read can be read.
    #[test]
    fn no_damage_makes_the_reader_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        body in opcodes(),
    ) {
        let state = dict(&[
            ("a", tensor("FloatStorage", "0", 4, 0, &[2, 2], &[2, 1])),
            ("b", tensor("HalfStorage", "0", 4, 1, &[3], &[1])),
        ]);
        let pickle = if body.len() % 3 == 0 { [state, body].concat() } else { state };
        let mut bytes = archive(&pickle, &[("top/data/0", &[0; 16]), ("top/byteorder", b"little")]);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(tensors) = tensors(&bytes) {
            tensors.values().for_each(|place| drop(place.read(&bytes)));
        }
    }
}
