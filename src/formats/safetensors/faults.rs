//! What is wrong with a file, in a sentence.

use std::collections::BTreeSet;

use safetensors::tensor::SafeTensorError;

/// A sentence for files that are recognisably something else.
pub(super) fn not_safetensors(bytes: &[u8]) -> Option<String> {
    if bytes.len() < 8 {
        return Some(format!("not a safetensors file: it has only {} bytes", bytes.len()));
    }
    if bytes.starts_with(b"version https://git-lfs") {
        let reason = "this is a git-lfs pointer, not the weights; fetch them with `git lfs pull`";
        return Some(reason.into());
    }
    if bytes.starts_with(b"GGUF") {
        return Some("this is a GGUF file, which holds quantised weights; expected safetensors".into());
    }
    if bytes.starts_with(b"\x89PNG") || bytes.starts_with(b"\xff\xd8\xff") {
        return Some("this is an image; expected safetensors".into());
    }
    // PyTorch's files are zip archives of pickles; older ones bare pickles of protocol 2 or later.
    let pickle = bytes[0] == 0x80 && (2..=5).contains(&bytes[1]) && bytes.get(8) != Some(&b'{');
    (bytes.starts_with(b"PK\x03\x04") || pickle).then(|| {
        "this is a pickle checkpoint, which can run code when it is loaded; open it in Python and save its tensors with \
         safetensors.torch.save_file"
            .into()
    })
}

pub(super) fn describe(error: &SafeTensorError, file: &[u8]) -> String {
    match error {
        SafeTensorError::InvalidHeaderLength | SafeTensorError::HeaderTooLarge => {
            "the header's length is larger than the file: it is truncated or not a safetensors file".into()
        }
        SafeTensorError::MetadataIncompleteBuffer => match (described_len(file), file.len()) {
            (Some(described), len) if described > len => {
                let missing = described - len;
                format!(
                    "it is truncated: the last {missing} of {described} bytes are missing; copy or download it again"
                )
            }
            (Some(described), len) => {
                let more = len - described;
                format!(
                    "it has {more} trailing bytes behind the last tensor, which ends at byte {described}: cut them off"
                )
            }
            (None, _) => "the tensors do not fill the file".into(),
        },
        SafeTensorError::InvalidOffset(name) => format!("the offsets of tensor {name} overlap another or leave a gap"),
        other => format!("not a valid safetensors file: {other}"),
    }
}

/// The length that a file has by its header.
fn described_len(file: &[u8]) -> Option<usize> {
    let header = usize::try_from(u64::from_le_bytes(file.get(..8)?.try_into().ok()?)).ok()?;
    let json: serde_json::Value = serde_json::from_slice(file.get(8..header.checked_add(8)?)?).ok()?;
    let end = |tensor: &serde_json::Value| tensor["data_offsets"][1].as_u64();
    let data = json.as_object()?.values().filter_map(end).max().unwrap_or(0);
    usize::try_from(data).ok()?.checked_add(8 + header)
}

/// JSON readers take the last of two equal keys; a weight file with two tensors of one name is refused instead.
pub(super) fn duplicate_key(header: &[u8]) -> Option<String> {
    struct Keys(Option<String>);
    struct Visitor;
    impl<'de> serde::de::Visitor<'de> for Visitor {
        type Value = Keys;
        fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
            let (mut seen, mut twice) = (BTreeSet::new(), None);
            while let Some((key, _)) = map.next_entry::<String, serde::de::IgnoredAny>()? {
                if let Some(key) = seen.replace(key) {
                    twice = Some(key);
                }
            }
            Ok(Keys(twice))
        }
    }
    impl<'de> serde::Deserialize<'de> for Keys {
        fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
            d.deserialize_map(Visitor)
        }
    }
    // The crate has parsed the header already, so it is an object.
    serde_json::from_slice::<Keys>(header).ok().and_then(|keys| keys.0)
}
