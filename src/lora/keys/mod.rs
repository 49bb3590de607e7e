//! How files spell the tensors of a LoRA. Underscored names are never parsed backwards (`to_out_0` is ambiguous): a
//! table of every spelling is built forward from the list of a model's modules, and keys are looked up in it.

mod place;

pub use place::{KeyTable, Place, parse_dotted};

/// What a tensor is to its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Down,
    Up,
    /// The middle factor of a Tucker-decomposed convolution.
    Mid,
    Alpha,
    Scale,
    /// DoRA's lengths of rows.
    Magnitude,
    /// The same as LyCORIS stores them: of rows or columns, by their shape.
    DoraScale,
    /// Of an adapter of LyCORIS, by the name in the file: `hada_w1_a`, `lokr_w2`, `diff`.
    Lycoris(&'static str),
}

/// A key, split into the spelling of its module and its role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    Part {
        stem: &'a str,
        role: Role,
    },
    /// A kind of adapter that plain factors do not express; the name is for the message.
    Unsupported {
        stem: &'a str,
        algorithm: &'static str,
    },
    /// Of an embedding of this name, which webui bundles with a LoRA.
    Embedding(&'a str),
    Unknown,
}

const PARTS: [(&str, Role); 18] = [
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora_mid.weight", Role::Mid),
    (".lora_A", Role::Down),
    (".lora_B", Role::Up),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".alpha", Role::Alpha),
    (".scale", Role::Scale),
    (".lora_magnitude_vector", Role::Magnitude),
    (".lora_magnitude_vector.weight", Role::Magnitude),
    (".dora_scale", Role::DoraScale),
];

/// Tensors of LyCORIS's adapters that a sum of products expresses.
const LYCORIS: [&str; 17] = [
    "hada_w1_a",
    "hada_w1_b",
    "hada_w2_a",
    "hada_w2_b",
    "hada_t1",
    "hada_t2",
    "lokr_w1",
    "lokr_w1_a",
    "lokr_w1_b",
    "lokr_w2",
    "lokr_w2_a",
    "lokr_w2_b",
    "lokr_t2",
    "diff",
    "diff_b",
    "w_norm",
    "b_norm",
];

/// Of these, what is added to a parameter of one dimension, and which parameter of the module that is.
pub const VECTORS: [(&str, &str); 3] = [("diff_b", "bias"), ("w_norm", "weight"), ("b_norm", "bias")];

const OTHER_ALGORITHMS: [(&str, &str); 8] = [
    (".oft_", "OFT"),
    (".rescale", "BOFT"),
    (".a1.weight", "GLoRA"),
    (".a2.weight", "GLoRA"),
    (".b1.weight", "GLoRA"),
    (".b2.weight", "GLoRA"),
    (".bm.weight", "GLoRA"),
    (".on_input", "IA3"),
];

/// Splits a key. An adapter's name between `lora_A` and `weight` is dropped, as peft drops it when it saves.
pub fn split(key: &str) -> Key<'_> {
    if let Some(rest) = key.strip_prefix("bundle_emb.") {
        return Key::Embedding(rest.split('.').next().unwrap_or(rest));
    }
    for (suffix, role) in PARTS {
        if let Some(stem) = key.strip_suffix(suffix) {
            return Key::Part { stem, role };
        }
    }
    if let Some((stem, last)) = key.rsplit_once('.')
        && let Some(name) = LYCORIS.iter().find(|name| **name == last)
    {
        return Key::Part { stem, role: Role::Lycoris(name) };
    }
    for (infix, role) in [(".lora_A.", Role::Down), (".lora_B.", Role::Up)] {
        if let Some((stem, rest)) = key.split_once(infix) {
            return match rest.rsplit('.').next() {
                Some("weight") => Key::Part { stem, role },
                Some("bias") => Key::Unsupported { stem, algorithm: "a LoRA with biases (peft lora_bias)" },
                _ => Key::Unknown,
            };
        }
    }
    if let Some((stem, _)) = key.split_once(".lora_embedding_") {
        return Key::Unsupported { stem, algorithm: "a LoRA of an embedding" };
    }
    OTHER_ALGORITHMS
        .iter()
        .find_map(|&(infix, algorithm)| {
            let (stem, _) = key.split_once(infix)?;
            Some(Key::Unsupported { stem, algorithm })
        })
        .unwrap_or(Key::Unknown)
}
