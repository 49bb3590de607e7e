//! The meaning of words for the text encoder: from a caption's states after its end, what the caption says must be
//! legible. A UNet that learns from images alone takes much longer to listen.

use super::Pretraining;
use super::latents::example;
use super::stage::{Recipe, Stage, StepOutput};
use crate::autograd::Tape;
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;
use crate::formats::content_hash;
use crate::nn::{ClipText, Linear, Param, Weights, move_to};
use crate::ops;
use crate::shapes::description::{Colour, Description, Place, Relation, Shape, Size};
use crate::shapes::model::{text_config, vocabulary_size};
use crate::shapes::vocabulary::tokenizer;
use crate::shapes::{Prompt, Split};
use crate::tensor::{DType, Tensor};
use crate::train::checkpoint::RunIdentity;
use crate::train::watcher::Watcher;

const STAGE: &str = "words";
const BATCH: usize = 64;

/// What is read off: which shapes of which colours there are, small and large shapes, the background's colour, and on which
/// side of the image or of another thing a shape is. How many there are is left to the UNet, and to experts.
const PAIRS: usize = Shape::ALL.len() * Colour::HUES.len();
const SIZES: usize = Shape::ALL.len() * 2;
const GROUNDS: usize = Colour::ALL.len();
/// Left, right, above, below.
const SIDES: usize = Shape::ALL.len() * 4;
const FACTS: usize = PAIRS + SIZES + GROUNDS + SIDES;

/// Trains `text` in place, on its device, with a linear layer that reads the facts off and is dropped afterwards.
pub(super) fn train(run: &Pretraining, text: &ClipText, watcher: &mut dyn Watcher) -> Result<()> {
    let identity = RunIdentity {
        settings: format!("seed = {}\ntext-steps = {}\n", run.seed, run.text_steps),
        model: content_hash::of_bytes(text_config(vocabulary_size()).to_string().as_bytes()),
        data: String::new(),
    };
    let (reader, weights) = Reader::new(run.seed, text)?;
    let recipe = Recipe {
        stage: STAGE.into(),
        what: "steps of the text encoder",
        steps: run.text_steps,
        lr: 2e-3,
        warmup: 20,
        weight_decay: 1e-2,
        average: 0.99,
    };
    let params = [text.parameters(), &weights].concat();
    let mut stage = Stage::open(run, recipe, params, identity)?;
    let step = |leaves: &[Tensor], step| reader.compute(run.seed, BATCH, text, leaves, step);
    stage.run(watcher, step, || Ok(()))
}

/// Reads the facts off a text encoder's states.
pub(super) struct Reader {
    layer: Linear,
    tokenizer: Tokenizer,
}

impl Reader {
    /// A fresh one for `text`, on its device, and its weights.
    pub fn new(seed: u64, text: &ClipText) -> Result<(Self, Vec<Param>)> {
        let weights = Weights::initial(seed + 2, DType::F32);
        let layer = Linear::load(&weights.scope("reader"), text.config.hidden_size, FACTS, true)?;
        let weights = weights.finish()?;
        move_to(&weights, &text.device())?;
        let tokenizer = tokenizer()?;
        Ok((Self { layer, tokenizer }, weights))
    }

    /// Step `step` on the next `batch` captions.
    pub fn compute(
        &self,
        seed: u64,
        batch: usize,
        text: &ClipText,
        leaves: &[Tensor],
        step: u64,
    ) -> Result<StepOutput> {
        let (tokenizer, length) = (&self.tokenizer, self.tokenizer.max_length());
        let (mut ids, mut facts) = (Vec::new(), Vec::with_capacity(batch * length * FACTS));
        let mut weights = Vec::with_capacity(batch * length);
        for i in 0..batch as u64 {
            let (skill, index) = example((step * batch as u64 + i) as usize);
            let Prompt { caption, description } = skill.prompt(Split::Train, seed, index);
            // Start of text and the words know less than the whole; what follows them can know all.
            let before = (1 + tokenizer.tokens(&caption)?.len()).min(length - 1);
            let after = length - before;
            ids.extend(tokenizer.encode(&caption)?.ids);
            weights.extend(std::iter::repeat_n(0.0, before));
            weights.extend(std::iter::repeat_n(length as f32 / after as f32, after));
            facts.extend(facts_of(&description).repeat(length));
        }
        let (rows, device) = (batch * length, text.device());
        let ids = Tensor::new(ids, &[batch, length]);
        let facts = Tensor::new(facts, &[rows, FACTS]).to(&device)?;
        let weights = Tensor::new(weights, &[rows]).to(&device)?;

        let tape = Tape::watching(leaves);
        let states = text.forward(&tape, &ids)?.last_hidden_state; // [n, 77, d]
        let states = ops::reshape(&tape, &states, &[rows, text.config.hidden_size])?;
        let read = self.layer.forward(&tape, &states)?;
        let loss = ops::weighted_mse(&tape, &read, &facts, &weights)?;
        let losses = vec![("loss", loss.to_cpu()?.item())];
        // Most facts are 0: the mean over all of them is small beside the gradient norm that is clipped to.
        let scaled = ops::scale(&tape, &loss, FACTS as f64)?;
        let gradients = tape.backward(&scaled)?;
        Ok(StepOutput { gradients, losses })
    }
}

/// 1 for what a description claims, 0 for the rest: `FACTS` values.
fn facts_of(description: &Description) -> Vec<f32> {
    let mut facts = vec![0.0; FACTS];
    for thing in &description.things {
        if let Some(hue) = Colour::HUES.iter().position(|&hue| Some(hue) == thing.colour) {
            facts[thing.shape as usize * Colour::HUES.len() + hue] = 1.0;
        }
        if let Some(size) = thing.size {
            facts[PAIRS + thing.shape as usize * 2 + usize::from(size == Size::Large)] = 1.0;
        }
    }
    if let Some(backdrop) = description.backdrop {
        facts[PAIRS + SIZES + backdrop.colour as usize] = 1.0;
    }
    let mut lies = |thing: usize, side: usize| {
        facts[PAIRS + SIZES + GROUNDS + 4 * description.things[thing].shape as usize + side] = 1.0;
    };
    for (i, thing) in description.things.iter().enumerate() {
        match thing.place {
            Some(Place::Left) => lies(i, 0),
            Some(Place::Right) => lies(i, 1),
            Some(Place::Top) => lies(i, 2),
            Some(Place::Bottom) => lies(i, 3),
            Some(Place::Middle) | None => {}
        }
    }
    for claim in &description.claims {
        let side = match claim.relation {
            Relation::LeftOf => 0,
            Relation::RightOf => 1,
            Relation::Above => 2,
            Relation::Below => 3,
            Relation::Inside => continue,
        };
        lies(claim.subject, side);
        lies(claim.object, side ^ 1);
    }
    facts
}
