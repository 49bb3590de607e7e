//! BLIP-VQA of any published layout, with its tokenizer: answers by the greedy rule, by two pieces, and by rank.

use std::path::Path;

use super::blip::{Layout, TEXT_LENGTH, settings};
use super::files::Files;
use super::layout;
use crate::autograd::Tape;
use crate::data::word_piece::{WordPiece, prepared_question};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::BlipVqa;
use crate::nn::bert::{CrossStates, first_rows};
use crate::tensor::{DType, Tensor};

/// Answers that the original rule ranks by all their pieces.
pub const RANKED: usize = 128;
/// Of the original rule's cross-entropy.
const LABEL_SMOOTHING: f64 = 0.1;

pub struct VisualQa {
    pub model: BlipVqa,
    pub tokenizer: WordPiece,
    pub layout: Layout,
    /// SHA-256 of the weights.
    pub hash: String,
    device: Device,
}

/// What the decoder attends to of one question about one image.
pub struct Asked(CrossStates);

impl VisualQa {
    /// From a folder or file, on `device`, with matrices in `dtype`. `image`: width and height of the images, where it is
    /// not what the position table is for.
    ///
    /// # Errors
    /// [`Error::File`] naming what is missing or does not fit; what the device says.
    pub fn load(place: &Path, image: Option<usize>, device: &Device, dtype: DType) -> Result<Self> {
        let files = Files::find(place)?;
        let weights = files.open(layout::blip, dtype)?;
        let is_original = files.json("config.json")?.is_none();
        let layout = if is_original { Layout::Original } else { Layout::Transformers };
        let model = BlipVqa::load(weights.clone(), &settings(&files, &weights, layout, image)?)?;
        model.to(device)?;
        let tokenizer = files.word_pieces()?;
        Ok(Self { model, tokenizer, layout, hash: files.hash()?, device: device.clone() })
    }

    /// `[n, h, w, 3]` pixels -> `[n, l, c]`.
    ///
    /// # Errors
    /// What the device says.
    pub fn image_states(&self, pixels: &Tensor) -> Result<Tensor> {
        self.model.vision.forward(&Tape::off(), pixels)
    }

    /// What the question encoder attends to of one image's states `[1, l, c]`: for all questions about it.
    ///
    /// # Errors
    /// What the device says.
    pub fn seen(&self, states: &Tensor) -> Result<CrossStates> {
        self.model.text_encoder.cross_states(&Tape::off(), states)
    }

    /// A question's ids, prepared as the layout does.
    ///
    /// # Errors
    /// As [`WordPiece::encode`].
    pub fn question_ids(&self, question: &str) -> Result<Vec<i64>> {
        match self.layout {
            Layout::Transformers => self.tokenizer.encode(question),
            Layout::Original => {
                let padded = self.tokenizer.encode_padded(&prepared_question(question), TEXT_LENGTH)?;
                let length = padded.mask.iter().filter(|&&m| m == 1).count();
                let mut ids = padded.ids[..length].to_vec();
                ids[0] = self.tokenizer.enc;
                Ok(ids)
            }
        }
    }

    /// The states `[1, t, c]` of a question's ids, the first `visible` of which are seen by all.
    ///
    /// # Errors
    /// As [`crate::nn::bert::Bert::forward`].
    pub fn question_states(&self, ids: &[i64], visible: usize, seen: &CrossStates) -> Result<Tensor> {
        let ids = Tensor::new(ids.to_vec(), &[1, ids.len()]);
        self.model.text_encoder.forward(&Tape::off(), &ids, visible, seen, false)
    }

    /// The decoder's view of the first `visible` of a question's states.
    ///
    /// # Errors
    /// What the device says.
    pub fn asked(&self, states: &Tensor, visible: usize) -> Result<Asked> {
        let states = first_rows(&Tape::off(), states, visible)?;
        self.model.text_decoder.cross_states(&Tape::off(), &states).map(Asked)
    }

    /// One question about an image.
    ///
    /// # Errors
    /// As [`VisualQa::question_ids`] and [`VisualQa::question_states`].
    pub fn ask(&self, question: &str, seen: &CrossStates) -> Result<Asked> {
        let ids = self.question_ids(question)?;
        let states = self.question_states(&ids, ids.len(), seen)?;
        self.asked(&states, ids.len())
    }

    /// The logits that follow each id of n answers of t ids, on the CPU: `[n, t, vocabulary]`.
    ///
    /// # Errors
    /// As [`BlipVqa::logits`].
    pub fn logits(&self, ids: &Tensor, asked: &Asked) -> Result<Tensor> {
        self.model.logits(&Tape::off(), ids, &asked.0)?.to_cpu()
    }

    /// The most likely piece after each, from `[DEC]` until `[SEP]` or `max_length` ids, both included.
    ///
    /// # Errors
    /// As [`BlipVqa::logits`].
    pub fn greedy(&self, asked: &Asked, max_length: usize) -> Result<Vec<i64>> {
        let mut ids = vec![self.tokenizer.dec];
        while ids.len() < max_length && (ids.len() == 1 || ids.last() != Some(&self.tokenizer.sep)) {
            let last = self.last_logits(&ids, asked)?;
            ids.push(argmax(&last) as i64);
        }
        Ok(ids)
    }

    /// The logits of the piece that follows `ids`.
    fn last_logits(&self, ids: &[i64], asked: &Asked) -> Result<Vec<f64>> {
        let logits = self.logits(&Tensor::new(ids.to_vec(), &[1, ids.len()]), asked)?;
        let [_, t, vocabulary] = logits.dims("BLIP")?;
        Ok(logits.reals::<f64>()[(t - 1) * vocabulary..].to_vec())
    }

    /// The logits of two pieces at the first step, such as those of "yes" and "no".
    ///
    /// # Errors
    /// As [`BlipVqa::logits`]; [`Error::Failed`] for an id outside of the vocabulary.
    pub fn first_logits(&self, pieces: [i64; 2], asked: &Asked) -> Result<[f64; 2]> {
        let logits = self.last_logits(&[self.tokenizer.dec], asked)?;
        let [a, b] = pieces.map(|id| usize::try_from(id).ok().and_then(|id| logits.get(id)).copied());
        a.zip(b).map(|(a, b)| [a, b]).ok_or_else(|| Error::Failed("a piece is outside of the vocabulary".into()))
    }

    /// Text of answer ids.
    ///
    /// # Errors
    /// As [`WordPiece::decode`].
    pub fn text(&self, ids: &[i64]) -> Result<String> {
        self.tokenizer.decode(ids)
    }

    /// An answer's ids for [`VisualQa::rank`]: the first is `[DEC]`.
    ///
    /// # Errors
    /// As [`WordPiece::encode`].
    pub fn answer_ids(&self, answer: &str) -> Result<Vec<i64>> {
        let mut ids = self.tokenizer.encode(answer)?;
        ids[0] = self.tokenizer.dec;
        Ok(ids)
    }

    /// The original rule: of `answers`, the `k` whose first piece is most likely, and of these the score of each.
    ///
    /// # Errors
    /// As [`BlipVqa::logits`].
    pub fn rank(&self, answers: &[Vec<i64>], k: usize, asked: &Asked) -> Result<Ranking> {
        let first = log_softmax(&self.last_logits(&[self.tokenizer.dec], asked)?);
        let probabilities: Vec<f64> = answers.iter().map(|ids| first[ids[1] as usize].exp()).collect();
        let mut order: Vec<usize> = (0..answers.len()).collect();
        order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        order.truncate(k);
        let mut scores = vec![0.0; order.len()];
        // Answers of one length in one pass.
        let mut lengths: Vec<usize> = order.iter().map(|&i| answers[i].len()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        for length in lengths {
            let places: Vec<usize> = (0..order.len()).filter(|&p| answers[order[p]].len() == length).collect();
            let ids = places.iter().flat_map(|&p| answers[order[p]].iter().copied()).collect();
            let logits = self.logits(&Tensor::new(ids, &[places.len(), length]), asked)?;
            let vocabulary = logits.shape()[2];
            let logits = logits.reals::<f64>();
            for (&place, logits) in places.iter().zip(logits.chunks_exact(length * vocabulary)) {
                let targets = &answers[order[place]][1..];
                let loss = |(row, &target): (&[f64], &i64)| {
                    let log = log_softmax(row);
                    let mean = log.iter().sum::<f64>() / vocabulary as f64;
                    (1.0 - LABEL_SMOOTHING) * -log[target as usize] - LABEL_SMOOTHING * mean
                };
                scores[place] = -logits.chunks_exact(vocabulary).zip(targets).map(loss).sum::<f64>();
            }
        }
        let best = (0..order.len()).rev().max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        Ok(Ranking { best: best.map(|place| order[place]), first: probabilities, candidates: order, scores })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }
}

/// What [`VisualQa::rank`] found.
pub struct Ranking {
    /// The place of the best answer; none without answers.
    pub best: Option<usize>,
    /// The probability of each answer's first piece.
    pub first: Vec<f64>,
    /// The places of the most likely ones, and their scores.
    pub candidates: Vec<usize>,
    pub scores: Vec<f64>,
}

fn argmax(values: &[f64]) -> usize {
    (0..values.len()).rev().max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(0)
}

fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|x| (x - largest).exp()).sum();
    logits.iter().map(|x| x - largest - sum.ln()).collect()
}
