//! Learned embeddings of new tokens (textual inversion, Gal et al. 2022, arXiv:2208.01618).
//!
//! Files: `TOKEN` `[n, width]` or `[width]` for each token, as diffusers' `load_textual_inversion` reads a file of one; for two
//! text encoders `clip_l` and `clip_g`, the token being the file's name or the header's `token`, or `clip_l.TOKEN` and
//! `clip_g.TOKEN`; `emb_params` as webui's. The header's `name2placeholder` gives the token of a class.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use super::safetensors::{self, Safetensors};
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

/// The encoders' names in files for SDXL.
const ENCODERS: [&str; 2] = ["clip_l", "clip_g"];

/// A token and its vectors.
#[derive(Clone, Debug)]
pub struct Embedding {
    pub token: String,
    /// f32 `[n, width]` for each text encoder.
    pub rows: Vec<Tensor>,
}

/// All tokens of a file, in the order of their ids.
#[derive(Clone, Debug, Default)]
pub struct Embeddings {
    pub all: Vec<Embedding>,
    /// A class's name and its token.
    pub classes: Vec<(String, String)>,
}

impl Embeddings {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::File`] naming the tensor that is no token's.
    pub fn read(path: &Path) -> Result<Self> {
        let file = Safetensors::open(path)?;
        let header = file.metadata();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let own = header.get("token").cloned().unwrap_or(stem);
        let mut rows: BTreeMap<String, [Option<Tensor>; 2]> = BTreeMap::new();
        let mut paired = false;
        for name in file.names() {
            let (token, encoder) = place(name, &own);
            paired |= encoder.is_some();
            let tensor = file.weight(name)?.cast(DType::F32);
            let shape = match *tensor.shape() {
                [width] if width > 0 => [1, width],
                [n, width] if n > 0 && width > 0 => [n, width],
                _ => {
                    let message = format!("`{name}` is {:?}; expected a token's vectors, [n, width]", tensor.shape());
                    return Err(Error::file(path, message));
                }
            };
            if !tensor.is_finite() {
                return Err(Error::file(path, format!("`{name}` holds NaN or infinity")));
            }
            rows.entry(token).or_default()[encoder.unwrap_or(0)] = Some(tensor.with_shape(&shape));
        }
        let mut all = Vec::new();
        for (token, pair) in rows {
            let rows: Vec<Tensor> = pair.into_iter().flatten().collect();
            let counts = rows.iter().map(|rows| rows.shape()[0]);
            if rows.len() != 1 + usize::from(paired) || counts.clone().min() != counts.max() {
                let message = format!("`{token}`: expected as many vectors for clip_l as for clip_g");
                return Err(Error::file(path, message));
            }
            all.push(Embedding { token, rows });
        }
        if all.is_empty() {
            return Err(Error::file(path, "no embedding in it"));
        }
        // Ids follow the header's order where it has one.
        let order: Vec<String> =
            header.get("tokens").and_then(|list| serde_json::from_str(list).ok()).unwrap_or_default();
        let position = |token: &str| order.iter().position(|other| other == token).unwrap_or(order.len());
        all.sort_by_key(|embedding| position(&embedding.token));
        let names = header.get("name2placeholder").map(|text| serde_json::from_str::<serde_json::Value>(text));
        let names =
            names.transpose().map_err(|e| Error::file(path, format!("`name2placeholder` of its header: {e}")))?;
        let mut classes = Vec::new();
        for (class, token) in names.as_ref().and_then(|names| names.as_object()).into_iter().flatten() {
            let token = token.as_str().unwrap_or_default();
            if !all.iter().any(|embedding| embedding.token == token) {
                let message = format!("the class `{class}` has the token `{token}`, which has no embedding");
                return Err(Error::file(path, message));
            }
            classes.push((class.clone(), token.to_owned()));
        }
        Ok(Self { all, classes })
    }

    /// Writes the file, and beside the tokens what `more` says.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path, more: &BTreeMap<String, String>) -> Result<()> {
        let mut tensors = Vec::new();
        for embedding in &self.all {
            let token = &embedding.token;
            match &embedding.rows[..] {
                [rows] => tensors.push((token.clone(), rows.clone())),
                both => {
                    let key =
                        |encoder: &str| if self.all.len() == 1 { encoder.into() } else { format!("{encoder}.{token}") };
                    tensors.extend(ENCODERS.iter().zip(both).map(|(encoder, rows)| (key(encoder), rows.clone())));
                }
            }
        }
        let mut metadata = more.clone();
        let tokens: Vec<&String> = self.all.iter().map(|embedding| &embedding.token).collect();
        metadata.insert("tokens".into(), json!(tokens).to_string());
        if let [token] = tokens[..] {
            metadata.insert("token".into(), token.clone());
        }
        if !self.classes.is_empty() {
            let names: serde_json::Map<_, _> = self.classes.iter().map(|(c, t)| (c.clone(), json!(t))).collect();
            metadata.insert("name2placeholder".into(), json!(names).to_string());
        }
        safetensors::write(path, &tensors, &metadata)
    }

    /// The token of a class, if it has one.
    pub fn of_class(&self, class: &str) -> Option<&str> {
        self.classes.iter().find(|(name, _)| name == class).map(|(_, token)| token.as_str())
    }
}

/// The token and, in files for two, the text encoder that a tensor is for.
fn place(name: &str, own: &str) -> (String, Option<usize>) {
    for (number, encoder) in ENCODERS.iter().enumerate() {
        if name == *encoder {
            return (own.into(), Some(number));
        }
        if let Some(token) = name.strip_prefix(encoder).and_then(|rest| rest.strip_prefix('.')) {
            return (token.into(), Some(number));
        }
    }
    if name == "emb_params" { (own.into(), None) } else { (name.into(), None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedding(token: &str, widths: &[usize]) -> Embedding {
        let rows = widths.iter().map(|&w| Tensor::new(vec![0.5f32; 2 * w], &[2, w])).collect();
        Embedding { token: token.into(), rows }
    }

    #[test]
    fn files_come_back_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("e.safetensors");
        for widths in [&[3][..], &[3, 4]] {
            let all = vec![embedding("<z>", widths), embedding("<a>", widths)];
            let classes = vec![("black/bird_1".to_owned(), "<a>".to_owned())];
            let written = Embeddings { all, classes };
            written.write(&path, &BTreeMap::new()).unwrap();
            let read = Embeddings::read(&path).unwrap();
            let tokens: Vec<&str> = read.all.iter().map(|e| e.token.as_str()).collect();
            assert_eq!(tokens, ["<z>", "<a>"]);
            assert_eq!(read.of_class("black/bird_1"), Some("<a>"));
            let shapes: Vec<usize> = read.all[0].rows.iter().map(|rows| rows.shape()[1]).collect();
            assert_eq!(shapes, widths);
        }
    }

    #[test]
    fn one_token_for_two_encoders_is_named_by_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("robin.safetensors");
        let rows = |w: usize| Tensor::new(vec![1.0f32; w], &[w]);
        let both = vec![("clip_l".to_owned(), rows(3)), ("clip_g".to_owned(), rows(4))];
        safetensors::write(&path, &both, &BTreeMap::new()).unwrap();
        let read = Embeddings::read(&path).unwrap();
        assert_eq!((read.all[0].token.as_str(), read.all[0].rows[1].shape()), ("robin", &[1, 4][..]));
        safetensors::write(&path, &both[..1], &BTreeMap::new()).unwrap();
        assert!(Embeddings::read(&path).unwrap_err().to_string().contains("clip_g"));
    }
}
