//! Cases of the rules of neighbouring systems: soft_label, img2img_steps, visor, spatial_rules, association, tags,
//! selection, loop_rules, gate, long_prompts.

use serde_json::{Value, json};

use super::case::{Case, Checks};
use crate::associate::{self, Rule, replies};
use crate::chat::{simple_tags, tags};
use crate::data::tokenizer::Tokenizer;
use crate::diffusion::sampler;
use crate::error::{Error, Result};
use crate::lora::gate::{self, Gate};
use crate::mix::{labels, meta};
use crate::prompting::select::{self, best};
use crate::regenerate::progress::Progress;
use crate::spatial::visor::{Seen, Summary, summary};
use crate::spatial::{Relation, asks, detections};

const EXACT: f64 = 1e-9;

pub fn soft_label(case: &Case) -> Result<Checks> {
    let classes = case.strings("classes")?.unwrap_or_default();
    let gamma = case.f64("gamma")?;
    let mut checks = Checks::default();
    for (i, row) in meta::read(&case.dir.join(case.str("file")?))?.iter().enumerate() {
        let class = |name: &str| {
            let found = classes.iter().position(|class| class == name);
            found.ok_or_else(|| case.error(format!("`{name}` is not among the classes")))
        };
        let ours = labels::soft_label(class(&row.source)?, class(&row.target)?, row.strength, gamma, classes.len())?;
        checks.absolute(format!("label {i}"), &ours, &numbers(case, &case.json["expected"][i])?, EXACT);
        let name = row.path.rsplit('/').next().and_then(meta::parse_name);
        let parts = Some((row.target.clone(), row.number, row.strength));
        checks.equal(format!("name {i}"), &[name], &[parts]);
    }
    Ok(checks)
}

fn numbers(case: &Case, value: &Value) -> Result<Vec<f64>> {
    serde_json::from_value(value.clone()).map_err(|e| case.error(format!("expected a list of numbers: {e}")))
}

pub fn img2img_steps(case: &Case) -> Result<Checks> {
    let scheduler = &case.json["scheduler"];
    let class = scheduler["class"].as_str().ok_or_else(|| case.error("`scheduler.class`: expected a string"))?;
    let mut checks = Checks::default();
    for (i, item) in case.list("items")?.iter().enumerate() {
        let steps = item["steps"].as_u64().unwrap_or(0) as usize;
        let strength = item["strength"].as_f64().ok_or_else(|| case.error("`strength`: expected a number"))?;
        let evaluations = labels::evaluations(steps, strength)?;
        checks.equal(format!("evaluations {i}"), &[Some(evaluations as u64)], &[item["evaluations"].as_u64()]);
        let sampler = sampler::from_config(class, &scheduler["config"], steps)?;
        let timesteps = &sampler.timesteps()[steps - evaluations..];
        checks.equal(format!("timesteps {i}"), timesteps, &numbers(case, &item["timesteps"])?);
    }
    Ok(checks)
}

pub fn visor(case: &Case) -> Result<Checks> {
    let asked = asks::asked(&case.json["prompts"]).map_err(|why| case.error(why))?;
    let threshold = case.json["threshold"].as_f64().unwrap_or(detections::THRESHOLD);
    let mut checks = Checks::default();
    let mut compare = |what: &str, groups: Vec<(&_, Vec<Seen>)>| -> Result<()> {
        let ours: Option<Summary> = summary(groups.iter().map(|(_, seen)| &seen[..]));
        let ours = serde_json::to_value(ours).map_err(|e| case.error(e.to_string()))?;
        for (name, reference) in case.json["expected"].as_object().into_iter().flatten() {
            let quantity = format!("{what} {name}");
            match (ours[name].as_f64(), reference.as_f64()) {
                (Some(a), Some(b)) => checks.absolute(quantity, &[a], &[b], EXACT),
                _ => checks.equal(quantity, &[&ours[name]], &[reference]),
            }
        }
        Ok(())
    };
    let found = detections::read(&case.dir.join(case.str("detections")?))?;
    let groups = detections::by_prompt(&asked, &found, |asked, found| detections::seen(asked, found, threshold))?;
    compare("detections", groups)?;
    if case.json["results"].is_string() {
        let recorded = detections::read_recorded(&case.dir.join(case.str("results")?))?;
        let groups = detections::by_prompt(&asked, &recorded, detections::seen_recorded)?;
        compare("results", groups)?;
    }
    Ok(checks)
}

pub fn spatial_rules(case: &Case) -> Result<Checks> {
    let mut checks = Checks::default();
    for (i, item) in case.list("items")?.iter().enumerate() {
        let relation = Relation::parse(item["relation"].as_str().unwrap_or_default())?;
        let at = |key: &str| -> Option<[f64; 4]> { serde_json::from_value(item[key].clone()).ok() };
        let (Some(a), Some(b)) = (at("a"), at("b")) else {
            return Err(case.error(format!("`items[{i}]`: expected boxes a and b")));
        };
        let holds = relation.holds(&a, &b, at("c").as_ref());
        checks.equal(format!("{} {i}", relation.name()), &[holds], &[item["holds"].as_bool()]);
    }
    Ok(checks)
}

pub fn association(case: &Case) -> Result<Checks> {
    let matrices: Vec<Vec<Vec<f64>>> = serde_json::from_value(case.json["matrices"].clone())
        .map_err(|e| case.error(format!("`matrices`: expected matrices of numbers: {e}")))?;
    let mut checks = Checks::default();
    for (name, rule) in [("hungarian", Rule::Assignment), ("row_argmax", Rule::Argmax)] {
        for (key, expected) in case.json["expected"].as_object().into_iter().flatten() {
            let Some(k) = key.strip_prefix(name).and_then(|rest| rest.strip_prefix('_')?.parse::<usize>().ok()) else {
                continue;
            };
            let groups = matrices.iter().filter(|matrix| matrix.len() == k);
            let ours: Vec<Vec<usize>> = groups.map(|matrix| rule.texts(matrix)).collect::<Result<_>>()?;
            checks.equal(format!("{key} assignments"), &[json!(ours)], &[expected["assignments"].clone()]);
            let score = associate::score(&ours).ok_or_else(|| case.error(format!("no groups of {k}")))?;
            for (share, ours) in [("exact", score.exact), ("per_picture", score.per_image)] {
                let reference = expected[share].as_f64().unwrap_or(f64::NAN);
                checks.absolute(format!("{key} {share}"), &[ours], &[reference], EXACT);
            }
        }
    }
    for (k, expected) in case.json["chance"].as_object().into_iter().flatten() {
        let (exact, per_image) = Rule::Assignment.chance(k.parse().unwrap_or(0));
        checks.absolute(format!("chance {k}"), &[exact, per_image], &numbers(case, expected)?, EXACT);
    }
    for (i, reply) in case.json["ita"].as_array().into_iter().flatten().enumerate() {
        let text = |key: &str| reply[key].as_str().unwrap_or_default();
        let right = replies::association_is_right(text("answer"), text("response"));
        checks.equal(format!("ita {i}"), &[Some(right)], &[reply["right"].as_bool()]);
    }
    for (i, reply) in case.json["iitc"].as_array().into_iter().flatten().enumerate() {
        let response = reply["response"].as_str().unwrap_or_default();
        let truth = reply["truth_fig_idx"].as_u64().unwrap_or(u64::MAX - 1);
        let right = replies::comprehension_is_right(response, truth);
        checks.equal(format!("iitc {i}"), &[Some(right)], &[reply["right"].as_bool()]);
        checks.equal(
            format!("iitc {i} numbers"),
            &[json!(replies::named_images(response))],
            &[reply["numbers"].clone()],
        );
    }
    Ok(checks)
}

pub fn tags(case: &Case) -> Result<Checks> {
    let mut checks = Checks::default();
    for (i, item) in case.json["v2"].as_array().into_iter().flatten().enumerate() {
        let reply = item["reply"].as_str().unwrap_or_default();
        let ours = simple_tags::parse(reply, item["earlier_images"].as_u64().unwrap_or(0) > 0);
        let tool = ours.call.as_ref().map(|(tool, _)| match tool {
            simple_tags::Tool::TextToImage => "text_to_image",
            simple_tags::Tool::Edit => "edit",
        });
        let prompt = ours.call.as_ref().map(|(_, prompt)| prompt);
        let shown = json!([tool, prompt, ours.shown]);
        checks.equal(format!("v2 {i}"), &[shown], &[json!([item["tool"], item["prompt"], item["shown"]])]);
    }
    for (i, item) in case.json["v3"].as_array().into_iter().flatten().enumerate() {
        let known: Vec<String> = serde_json::from_value(item["known"].clone())
            .map_err(|e| case.error(format!("`v3[{i}].known`: expected ids: {e}")))?;
        let ours = tags::parse(item["reply"].as_str().unwrap_or_default(), &known);
        let call =
            |call: &tags::Call| json!({"tool": call.tool, "id": call.id, "prompt": call.prompt, "parent": call.parent});
        let calls: Vec<Value> = ours.calls.iter().map(call).collect();
        checks.equal(format!("v3 {i} calls"), &calls, item["calls"].as_array().map_or(&[], Vec::as_slice));
        let rest = json!([ours.shown, ours.errors]);
        checks.equal(format!("v3 {i} shown"), &[rest], &[json!([item["shown"], item["errors"]])]);
    }
    Ok(checks)
}

pub fn selection(case: &Case) -> Result<Checks> {
    let scores: Vec<Vec<Option<f64>>> = serde_json::from_value(case.json["scores"].clone())
        .map_err(|e| case.error(format!("`scores`: expected lists of numbers, or null: {e}")))?;
    let mut checks = Checks::default();
    for (i, rule) in case.list("rules")?.iter().enumerate() {
        let (above, top) = (rule["threshold"].as_f64(), rule["top_share"].as_f64());
        let ours = best(&scores, select::Rule { above, top, ..Default::default() });
        checks.equal(format!("rule {i}"), &[json!(ours)], &[case.json["expected"][i].clone()]);
    }
    Ok(checks)
}

pub fn loop_rules(case: &Case) -> Result<Checks> {
    let mut checks = Checks::default();
    for (i, run) in case.list("runs")?.iter().enumerate() {
        let mut progress = Progress::new(run["patience"].as_u64().unwrap_or(0) as usize);
        let mut bests = Vec::new();
        for scores in run["scores"].as_array().into_iter().flatten() {
            let goes_on = progress.add(&numbers(case, scores)?)?;
            bests.extend(progress.best().map(|best| best.score));
            let limit = run["rounds"].as_u64();
            if !goes_on || limit.is_some_and(|limit| progress.rounds() as u64 >= limit) {
                break;
            }
        }
        let best = progress.best().map(|best| (best.round, best.candidate));
        checks.equal(format!("bests {i}"), &[json!(bests)], &[run["best_after_round"].clone()]);
        checks.equal(format!("best {i}"), &[json!(best)], &[run["best"].clone()]);
        checks.equal(format!("rounds {i}"), &[json!(progress.rounds())], &[run["rounds_run"].clone()]);
    }
    Ok(checks)
}

pub fn gate(case: &Case) -> Result<Checks> {
    let gate = Gate::new(&case.tensor("in.weight")?, &case.tensor("in.bias")?)?;
    let states = case.tensor("in.states")?;
    let [_, width] = states.dims("verify")?;
    let shares: Vec<Vec<f64>> = states.reals::<f64>().chunks(width).map(|h| gate.shares(h)).collect();
    let mut checks = Checks::default();
    checks.absolute("gates", &shares.concat(), &case.tensor("out.gates")?.reals::<f64>(), 1e-6);
    let balance = case.tensor("out.balance")?;
    checks.absolute("balance", &[gate::balance(&shares)], &balance.reals::<f64>(), 1e-6);
    if case.tensors.contains("in.x") {
        let x = case.tensor("in.x")?;
        let [_, inputs] = x.dims("verify")?;
        let mut y = Vec::new();
        let deltas: Vec<_> =
            (0..gate.experts()).map(|t| case.tensor(&format!("in.delta.{t}"))).collect::<Result<_>>()?;
        for (x, shares) in x.reals::<f64>().chunks(inputs).zip(&shares) {
            let outputs = deltas.first().map_or(0, |delta| delta.shape()[0]);
            let mut row = vec![0.0; outputs];
            for (share, delta) in shares.iter().zip(&deltas) {
                if delta.shape() != [outputs, inputs] {
                    return Err(Error::shape("gate", "updates of different shapes"));
                }
                for (sum, weights) in row.iter_mut().zip(delta.reals::<f64>().chunks(inputs)) {
                    *sum += share * weights.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
                }
            }
            y.extend(row);
        }
        checks.absolute("y", &y, &case.tensor("out.y")?.reals::<f64>(), 1e-6);
    }
    Ok(checks)
}

pub fn long_prompts(case: &Case) -> Result<Checks> {
    let vocab = case.path("vocab")?;
    let text = |name: &str| {
        let path = vocab.join(name);
        std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))
    };
    let pad = case.json["pad_id"].as_i64().unwrap_or(49_407);
    let tokenizer = Tokenizer::from_texts(&text("vocab.json")?, &text("merges.txt")?, &json!({}), &vocab)?;
    let mut checks = Checks::default();
    for (i, text) in case.strings("texts")?.unwrap_or_default().iter().enumerate() {
        let windows = tokenizer.windows(text)?;
        // The pad id is the encoder's own: that of SD 2 is 0.
        let row = |window| -> Result<Vec<i64>> {
            let mut ids = tokenizer.encode_window(text, window)?.ids;
            let end = ids.iter().position(|&id| id == 49_407).map_or(ids.len(), |end| end + 1);
            ids[end..].fill(pad);
            Ok(ids)
        };
        let rows: Vec<Vec<i64>> = (0..windows).map(row).collect::<Result<_>>()?;
        checks.equal(format!("windows {i}"), &[json!(rows)], &[case.json["windows"][i].clone()]);
        checks.equal(format!("count {i}"), &[json!(rows.len())], &[case.json["counts"][i].clone()]);
    }
    Ok(checks)
}
