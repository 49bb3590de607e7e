//! What a LoRA in kohya's layout says of its training, in the keys that sd-scripts writes and that managers of LoRAs show. Only
//! base names of paths, for privacy; no clock, so that the same run writes the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::config::TrainConfig;
use crate::data::dataset::Dataset;
use crate::data::preprocess::Crop;

/// The keys that do not depend on the step.
pub fn of_training(config: &TrainConfig, dataset: &Dataset, side: u32) -> BTreeMap<String, String> {
    let base_name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let flag = |on: bool| if on { "True" } else { "False" }.to_owned();
    let or_none = |value: Option<f64>| value.map_or("None".into(), |value| value.to_string());
    let unless_0 = |value: f64| if value == 0.0 { "None".into() } else { value.to_string() };
    let count = |is_reg: bool| -> usize {
        let of = dataset.samples().iter().map(|sample| dataset.subset(sample)).filter(|subset| subset.is_reg == is_reg);
        of.map(|subset| subset.repeats as usize).sum()
    };
    let (mut tags, mut folders) = (BTreeMap::new(), BTreeMap::new());
    for sample in dataset.samples().iter().filter(|sample| !dataset.subset(sample).is_reg) {
        let subset = dataset.subset(sample);
        let folder = base_name(sample.image.parent().unwrap_or(Path::new("")));
        let of_folder: &mut BTreeMap<String, usize> = tags.entry(folder.clone()).or_default();
        for tag in sample.captions.iter().flat_map(|caption| caption.split(subset.variation.separator.as_str())) {
            let tag = tag.trim().to_lowercase();
            if !tag.is_empty() {
                *of_folder.entry(tag).or_default() += 1;
            }
        }
        let known = folders.entry(folder).or_insert((subset.repeats, 0_usize));
        known.1 += 1;
    }
    let folders: serde_json::Map<String, serde_json::Value> = folders
        .into_iter()
        .map(|(name, (repeats, images))| (name, serde_json::json!({ "n_repeats": repeats, "img_count": images })))
        .collect();
    let optimizer = match config.optimizer_args.is_empty() {
        true => config.optimizer.name(),
        false => format!("{}({})", config.optimizer.name(), config.optimizer_args.join(",")),
    };
    let keys = [
        ("output_name", config.output_name.clone()),
        ("sd_model_name", base_name(Path::new(&config.model))),
        ("learning_rate", config.lr.to_string()),
        ("unet_lr", config.lr.to_string()),
        ("text_encoder_lr", or_none(config.train_text_encoder.then(|| config.text_encoder_lr.unwrap_or(config.lr)))),
        ("optimizer", optimizer),
        ("lr_scheduler", config.lr_schedule.name().to_string()),
        ("lr_warmup_steps", config.warmup.to_string()),
        ("max_grad_norm", config.max_grad_norm.to_string()),
        ("max_train_steps", config.steps.to_string()),
        ("gradient_accumulation_steps", config.grad_accum.to_string()),
        ("gradient_checkpointing", flag(config.checkpointing)),
        ("batch_size_per_device", config.batch_size.to_string()),
        ("total_batch_size", config.batch_size.to_string()),
        ("num_train_images", count(false).to_string()),
        ("num_reg_images", count(true).to_string()),
        ("prior_loss_weight", config.prior_loss_weight.to_string()),
        ("resolution", format!("({side}, {side})")),
        ("flip_aug", flag(config.flip)),
        ("random_crop", flag(config.crop == Crop::Random)),
        ("shuffle_caption", flag(config.shuffle_caption)),
        ("keep_tokens", config.keep_tokens.to_string()),
        ("caption_dropout_rate", config.caption_dropout.to_string()),
        ("caption_tag_dropout_rate", config.tag_dropout.to_string()),
        ("min_snr_gamma", or_none(config.snr_gamma)),
        ("noise_offset", unless_0(config.noise_offset)),
        ("multires_noise_iterations", unless_0(config.multires_noise_iterations as f64)),
        ("multires_noise_discount", config.multires_noise_discount.to_string()),
        ("ip_noise_gamma", unless_0(config.ip_noise_gamma)),
        ("zero_terminal_snr", flag(config.zero_snr)),
        ("loss_type", config.loss_type.name().replace('-', "_")),
        ("huber_schedule", config.huber_schedule.name()),
        ("huber_c", config.huber_c.to_string()),
        ("seed", config.seed.to_string()),
        ("mixed_precision", config.precision.clone()),
        ("tag_frequency", serde_json::json!(tags).to_string()),
        ("dataset_dirs", serde_json::Value::from(folders).to_string()),
    ];
    let mut metadata: BTreeMap<String, String> =
        keys.into_iter().map(|(key, value)| (format!("ss_{key}"), value)).collect();
    // What images were called that had no caption of their own.
    let called = dataset.samples().iter().filter_map(|sample| {
        let subset = dataset.subset(sample);
        let words = subset.class_tokens.as_deref().filter(|_| !subset.is_reg)?;
        (sample.captions.len() == 1 && sample.captions[0] == words).then_some(words)
    });
    let called: BTreeSet<&str> = called.collect();
    if !called.is_empty() {
        let words: Vec<&str> = called.into_iter().collect();
        metadata.insert("modelspec.trigger_phrase".into(), words.join(", "));
    }
    metadata
}
