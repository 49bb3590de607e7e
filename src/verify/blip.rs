//! Cases of BLIP: blip_vqa and image_reward.

use serde_json::Value;

use super::case::{Case, Checks};
use super::networks::{images, matrices, ordered, pixels, root_mean_square, slope};
use crate::device::Device;
use crate::error::Result;
use crate::judges::blip::Layout;
use crate::judges::image_reward::Reward;
use crate::judges::preprocess::Recipe;
use crate::judges::visual_qa::{Asked, VisualQa};
use crate::nn::bert::CrossStates;
use crate::tensor::{DType, Tensor};

/// One row of a batch.
fn row(x: &Tensor, i: usize) -> Tensor {
    let shape = x.shape();
    let len = shape[1..].iter().product::<usize>();
    x.view(i * len, &[&[1], &shape[1..]].concat())
}

fn floats(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.to_cpu()?.reals::<f32>().into_owned())
}

/// What the original code and transformers both do with questions.
struct Questions {
    /// Of each image.
    seen: Vec<CrossStates>,
    /// Of each question, over as many ids as the longest has.
    states: Vec<Tensor>,
    /// How many of the ids are the question's.
    lengths: Vec<usize>,
}

pub fn blip_vqa(case: &Case, device: &Device, precision: DType) -> Result<Checks> {
    let image_size = case.json["image_size"].as_u64().map(|size| size as usize);
    let judge = VisualQa::load(&case.path("model")?, image_size, device, precision)?;
    let (ids, mask) = (case.tensor("in.input_ids")?, case.tensor("in.attention_mask")?);
    let [n, t] = ids.dims("verify")?;
    let mut checks = Checks::default();

    let pixels_ = case.feature_map("in.pixel_values", DType::F32)?;
    let states = judge.image_states(&pixels_)?;
    checks.relative("image_states", &floats(&states)?, &case.tensor("out.image_states")?, 1e-5);
    let matrices = matrices(judge.model.parameters());
    checks.of_network(matrices, 1.0);

    let recorded = case.tensor("out.question_states")?;
    let lengths: Vec<usize> =
        mask.data::<i64>().chunks_exact(t).map(|row| row.iter().filter(|&&m| m == 1).count()).collect();
    let mut asked = Questions { seen: Vec::new(), states: Vec::new(), lengths };
    let states = states.to_cpu()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for i in 0..n {
        let seen = judge.seen(&row(&states, i).to(device)?)?;
        let ids = &ids.data::<i64>()[i * t..][..t];
        let question = judge.question_states(ids, asked.lengths[i], &seen)?;
        let values = asked.lengths[i] * recorded.shape()[2];
        ours.extend(&floats(&question)?[..values]);
        theirs.extend_from_slice(&row(&recorded, i).reals::<f32>()[..values]);
        asked.seen.push(seen);
        asked.states.push(question);
    }
    let count = theirs.len();
    checks.relative("question_states", &ours, &Tensor::new(theirs, &[count]), 1e-5);
    checks.of_network(matrices, 1.0);

    let prepared = case.strings("questions")?.unwrap_or_default();
    let own_ids = prepared.iter().map(|question| judge.question_ids(question)).collect::<Result<Vec<_>>>()?;
    let recorded_ids: Vec<Vec<i64>> = (0..n).map(|i| ids.data::<i64>()[i * t..][..asked.lengths[i]].to_vec()).collect();
    checks.equal("input_ids", &own_ids, &recorded_ids);

    let decoder_ids = case.tensor("in.decoder_input_ids")?;
    let all = judge.layout == Layout::Transformers;
    let views: Vec<Asked> =
        (0..n).map(|i| judge.asked(&asked.states[i], if all { t } else { asked.lengths[i] })).collect::<Result<_>>()?;
    let mut logits = Vec::new();
    for (i, view) in views.iter().enumerate() {
        logits.extend(floats(&judge.logits(&row(&decoder_ids, i), view)?)?);
    }
    let recorded = case.tensor("out.decoder_logits")?;
    checks.relative("decoder_logits", &logits, &recorded, 1e-5);
    checks.of_network(matrices, 1.0);
    let logits: Vec<f64> = logits.into_iter().map(f64::from).collect();
    let spread = root_mean_square(&logits, &recorded.reals::<f64>());
    match judge.layout {
        Layout::Transformers => answers(case, &mut checks, &judge, &asked, &views, precision, spread)?,
        Layout::Original => ranks(case, &mut checks, &judge, &views, precision, spread)?,
    }
    Ok(checks)
}

/// yes_no_logits as the logits are recorded; greedy answers to each question alone, from the images on. `spread`: how far a
/// logit is off.
fn answers(
    case: &Case,
    checks: &mut Checks,
    judge: &VisualQa,
    asked: &Questions,
    views: &[Asked],
    precision: DType,
    spread: f64,
) -> Result<()> {
    let pieces = [case.json["yes_id"].as_i64().unwrap_or(-1), case.json["no_id"].as_i64().unwrap_or(-1)];
    let first = views.iter().map(|view| judge.first_logits(pieces, view)).collect::<Result<Vec<_>>>()?;
    checks.absolute("yes_no_logits", &first.concat(), &case.tensor("out.yes_no_logits")?.reals::<f64>(), 5e-5);
    checks.derived(spread);
    let questions = case.strings("questions")?.unwrap_or_default();
    let alone = questions.iter().zip(&asked.seen).map(|(question, seen)| judge.ask(question, seen));
    let alone: Vec<Asked> = alone.collect::<Result<_>>()?;
    let recorded = case.list("greedy_ids")?;
    // After the recorded ids the recorded next one is the most likely, wherever it is not nearly as likely as another.
    let mut pairs = Vec::new();
    for (view, recorded) in alone.iter().zip(recorded) {
        let ids: Vec<i64> =
            serde_json::from_value(recorded.clone()).map_err(|e| case.error(format!("greedy_ids: {e}")))?;
        let logits = judge.logits(&Tensor::new(ids.clone(), &[1, ids.len()]), view)?;
        let vocabulary = logits.shape()[2];
        let logits = logits.reals::<f64>();
        for (logits, &next) in logits.chunks_exact(vocabulary).zip(&ids[1..]) {
            let ours = *logits.get(next as usize).ok_or_else(|| case.error(format!("greedy_ids: no piece {next}")))?;
            let others = logits.iter().enumerate().filter(|(id, _)| *id as i64 != next).map(|(_, &logit)| logit);
            let margin = ours - others.fold(f64::NEG_INFINITY, f64::max);
            pairs.push((margin.abs(), margin >= 0.0));
        }
    }
    checks.order("greedy_ids_after_recorded", &pairs, 5e-5, spread);
    if precision != DType::F32 {
        return Ok(());
    }
    let ids = alone.iter().map(|view| judge.greedy(view, case.usize("max_length")?)).collect::<Result<Vec<_>>>()?;
    let texts = ids.iter().map(|ids| judge.text(ids).map(Value::from)).collect::<Result<Vec<_>>>()?;
    checks.equal("greedy_ids", &ids.into_iter().map(Value::from).collect::<Vec<_>>(), recorded);
    checks.equal("answers", &texts, case.list("answers")?);
    Ok(())
}

/// The ranking of answers: of their first pieces, and of the candidates by their scores.
fn ranks(
    case: &Case,
    checks: &mut Checks,
    judge: &VisualQa,
    views: &[Asked],
    precision: DType,
    spread: f64,
) -> Result<()> {
    let answers = case.strings("answers")?.unwrap_or_default();
    let ids = answers.iter().map(|answer| judge.answer_ids(answer)).collect::<Result<Vec<_>>>()?;
    let (recorded, mask) = (case.tensor("in.answer_ids")?, case.tensor("in.answer_mask")?);
    let t = recorded.shape()[1];
    let rows = recorded.data::<i64>().chunks_exact(t).zip(mask.data::<i64>().chunks_exact(t));
    let recorded: Vec<Vec<i64>> =
        rows.map(|(ids, mask)| ids.iter().zip(mask).filter(|(_, m)| **m == 1).map(|(id, _)| *id).collect()).collect();
    checks.equal("answer_ids", &ids, &recorded);
    let longest = recorded.iter().map(|ids| ids.len().saturating_sub(1)).max().unwrap_or(0) as f64;
    let (mut first, mut candidates, mut scores, mut best) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let recorded = case.tensor("out.rank_candidates")?;
    let recorded = recorded.data::<i64>();
    let k = case.usize("k_test")?;
    for (view, recorded) in views.iter().zip(recorded.chunks_exact(k.max(1))) {
        let ranking = judge.rank(&ids, k, view)?;
        first.extend(ranking.first);
        candidates.extend(ranking.candidates.iter().map(|&place| place as i64));
        // An answer's score does not depend on which others are ranked.
        let all = judge.rank(&ids, ids.len(), view)?;
        let score = |place: &i64| {
            let at = all.candidates.iter().position(|&candidate| candidate as i64 == *place);
            at.map_or(f64::INFINITY, |at| all.scores[at])
        };
        scores.extend(recorded.iter().map(score));
        best.push(ranking.best.map_or(-1, |place| place as i64));
    }
    let of_first = case.tensor("out.first_token_probability")?.reals::<f64>().into_owned();
    let of_scores = case.tensor("out.rank_scores")?.reals::<f64>().into_owned();
    checks.absolute("first_token_probability", &first, &of_first, 5e-5);
    checks.derived(of_first.iter().copied().fold(0.0, f64::max) * spread);
    checks.absolute("rank_scores", &scores, &of_scores, 1e-4);
    checks.derived(longest.sqrt() * spread);
    let pairs = |theirs: &[f64], ours: &[f64], row: usize, f: fn(f64) -> f64| -> Vec<(f64, bool)> {
        let rows = theirs.chunks_exact(row.max(1)).zip(ours.chunks_exact(row.max(1)));
        rows.flat_map(|(a, b)| ordered(&a.iter().zip(b).map(|(&a, &b)| (f(a), f(b))).collect::<Vec<_>>())).collect()
    };
    // Candidates are ranked by what is proportional to a logit's exponential.
    checks.order("order_of_candidates", &pairs(&of_first, &first, answers.len(), f64::ln), 1e-4, spread);
    checks.order("order_of_scores", &pairs(&of_scores, &scores, k, |x| x), 1e-4, longest.sqrt() * spread);
    if precision == DType::F32 {
        checks.equal("rank_candidates", &candidates, recorded);
        checks.equal("ranked", &best, case.tensor("out.ranked")?.data::<i64>());
    }
    Ok(())
}

pub fn image_reward(case: &Case, device: &Device, precision: DType) -> Result<Checks> {
    let judge = Reward::load(&case.path("model")?, device, precision)?;
    let pixels_ = case.feature_map("in.pixel_values", DType::F32)?;
    let states = judge.model.vision.forward(&crate::autograd::Tape::off(), &pixels_)?.to_cpu()?;
    let mut checks = Checks::default();
    checks.relative("image_states", &floats(&states)?, &case.tensor("out.image_states")?, 1e-5);
    let matrices = matrices(judge.model.parameters());
    checks.of_network(matrices, 1.0);
    let prompts = case.strings("prompts")?.unwrap_or_default();
    let (ids, mask) = (case.tensor("in.input_ids")?, case.tensor("in.attention_mask")?);
    let t = ids.shape()[1];
    let (mut own, mut recorded, mut cls, mut heads) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (i, prompt) in prompts.iter().enumerate() {
        let length = mask.data::<i64>()[i * t..][..t].iter().filter(|&&m| m == 1).count();
        recorded.push(ids.data::<i64>()[i * t..][..length].to_vec());
        own.push(judge.ids(prompt)?.0);
        let text = judge.text_cls(&recorded[i], &judge.seen(&row(&states, i).to(device)?)?)?;
        cls.extend(floats(&text)?);
        heads.extend(judge.heads(&text)?);
    }
    checks.equal("input_ids", &own, &recorded);
    let recorded = case.tensor("out.text_cls")?;
    checks.relative("text_cls", &cls, &recorded, 1e-5);
    checks.of_network(matrices, 1.0);
    let cls: Vec<f64> = cls.into_iter().map(f64::from).collect();
    let width = recorded.shape()[1];
    let slope = slope(width, &|x| judge.heads(x))?;
    // An error of a state that points anywhere has this component along the gradient.
    let spread = slope * root_mean_square(&cls, &recorded.reals::<f64>());
    checks.absolute("head", &heads, &case.tensor("out.head")?.reals::<f64>(), 5e-5);
    checks.derived(spread);
    let rewards: Vec<f64> = heads.iter().map(|&head| Reward::standardised(head)).collect();
    checks.absolute("reward", &rewards, &case.tensor("out.reward")?.reals::<f64>(), 5e-5);
    let spread = (Reward::standardised(spread) - Reward::standardised(0.0)).abs();
    checks.derived(spread);

    // From the images on: all of them with the first prompt.
    let recipe = Recipe::parse(case.str("recipe")?)?;
    let size = judge.model.vision.image_size();
    let first = prompts.first().map(String::as_str).unwrap_or_default();
    let mut all = Vec::new();
    for image in images(case)?.chunks(1) {
        all.extend(judge.rewards(&pixels(image, recipe, size)?, &[first])?);
    }
    let recorded = case.tensor("out.rewards_first_prompt")?.reals::<f64>().into_owned();
    checks.absolute("rewards_first_prompt", &all, &recorded, 5e-5);
    checks.derived(spread);
    let both: Vec<(f64, f64)> = recorded.iter().copied().zip(all.iter().copied()).collect();
    checks.order("order_of_images_for_first_prompt", &ordered(&both), 5e-5, spread);
    if precision != DType::F32 {
        return Ok(checks);
    }
    let rank = |reward: &f64| Value::from(1 + all.iter().filter(|other| *other > reward).count());
    let ranks: Vec<Value> = all.iter().map(rank).collect();
    checks.equal("rank_of_images_for_first_prompt", &ranks, case.list("rank_of_images_for_first_prompt")?);
    Ok(checks)
}
