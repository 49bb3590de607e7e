//! Every spelling gives the same update; what is written reads back; what does not fit is refused with its name.

use std::collections::BTreeMap;

use selma::lora::families::Family;
use selma::lora::keys::KeyTable;
use selma::lora::{self, Targets, base, save};
use selma::tensor::{DType, Tensor};

use crate::support::{assert_same, cases, parity, relative_error, sample_expert};

const TOLERANCE: f64 = 1e-6;

#[test]
fn every_spelling_gives_the_recorded_deltas() {
    for case in cases("lora_formats") {
        let base = base::modules(&case.model()).unwrap();
        let expected = case.outputs("out.delta.");
        for file in case.json["files"].as_array().unwrap() {
            let name = file["file"].as_str().unwrap();
            let loaded = lora::load(&case.dir.join(name), Some(&base), false).unwrap();
            assert_eq!(loaded.expert.len(), expected.len(), "{} {name}", case.name);
            for (path, delta) in &expected {
                let (component, module) = path.split_once('.').unwrap();
                let factors = loaded.expert.get(component, module).expect("every recorded module is loaded");
                let error = relative_error(&factors.delta(), delta);
                assert!(error <= TOLERANCE, "{} {name} {path}: {error:e}", case.name);
            }
        }
    }
}

#[test]
fn what_is_written_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    for model in ["tiny-sd1", "tiny-sd2", "tiny-sdxl"] {
        let (base, expert) = sample_expert(model, 0, 1);
        let (diffusers, kohya) = (dir.path().join("d.safetensors"), dir.path().join("k.safetensors"));
        save::diffusers(&diffusers, &expert, &BTreeMap::new()).unwrap();
        save::kohya(&kohya, &expert, Some(&base), &BTreeMap::new()).unwrap();
        for file in [&diffusers, &kohya] {
            assert_same(&expert, &lora::load(file, Some(&base), false).unwrap().expert, TOLERANCE);
        }
        // Dotted names need no model.
        assert_same(&expert, &lora::load(&diffusers, None, false).unwrap().expert, TOLERANCE);
        let first = std::fs::read(&kohya).unwrap();
        save::kohya(&kohya, &expert, Some(&base), &BTreeMap::new()).unwrap();
        assert_eq!(first, std::fs::read(&kohya).unwrap());
    }
}

#[test]
fn sdxl_is_written_with_ldm_block_names() {
    let dir = tempfile::tempdir().unwrap();
    let (base, expert) = sample_expert("tiny-sdxl", 0, 1);
    let path = dir.path().join("lora.safetensors");
    save::kohya(&path, &expert, Some(&base), &BTreeMap::new()).unwrap();
    let loaded = lora::load(&path, Some(&base), false).unwrap();
    let unet: Vec<&String> = loaded.applied.keys().filter(|k| k.starts_with("lora_unet_")).collect();
    assert!(!unet.is_empty());
    let ldm = ["input_blocks_", "middle_block_", "output_blocks_"];
    assert!(unet.iter().all(|k| ldm.iter().any(|l| k.contains(l))), "{unet:?}");
    assert!(loaded.applied.keys().any(|k| k.starts_with("lora_te2_text_model_")));
}

#[test]
fn another_family_is_refused_by_name_and_shape() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lora.safetensors");
    let (_, expert) = sample_expert("tiny-sdxl", 0, 1);
    save::diffusers(&path, &expert, &BTreeMap::new()).unwrap();
    let sd2 = base::modules(&parity().join("models/tiny-sd2")).unwrap();
    let message = lora::load(&path, Some(&sd2), false).err().expect("it does not fit").to_string();
    assert!(message.contains("lora.safetensors") && message.contains("family"), "{message}");
}

#[test]
fn a_tensor_that_fits_nothing_is_an_error_unless_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lora.safetensors");
    let (base, expert) = sample_expert("tiny-sd1", 0, 1);
    let (component, module, factors) = expert.iter().next().unwrap();
    let at = format!("{component}.{module}");
    let write = |extra: &str| {
        let tensors = [
            (format!("{at}.lora_A.default.weight"), factors.a.clone()),
            (format!("{at}.lora_B.default.weight"), factors.b.clone()),
            (extra.to_string(), Tensor::zeros(&[1], DType::F32)),
        ];
        selma::formats::safetensors::write(&path, &tensors, &BTreeMap::new()).unwrap();
    };

    write("emb_params");
    let message = lora::load(&path, Some(&base), false).err().unwrap().to_string();
    assert!(message.contains("emb_params") && message.contains("--allow-unused"), "{message}");
    let loaded = lora::load(&path, Some(&base), true).unwrap();
    assert_eq!((loaded.expert.len(), loaded.unused.len()), (1, 1));

    // DoRA changes what the factors mean: no flag makes it right to leave it out.
    write("unet.mid_block.attentions.0.proj_in.lora_magnitude_vector");
    let message = lora::load(&path, Some(&base), true).err().unwrap().to_string();
    assert!(message.contains("DoRA"), "{message}");
}

#[test]
fn family_tables_have_the_counted_modules() {
    let attention = Targets::default();
    for (family, modules, values) in
        [(Family::Sd1, (128, 278), 797_184), (Family::Sd2, (128, 278), 829_952), (Family::Sdxl, (560, 788), 5_806_080)]
    {
        let unet = &family.modules()["unet"];
        let chosen = attention.select(unet).unwrap();
        let rank_4: usize = chosen.iter().map(|m| 4 * unet[m].iter().sum::<usize>()).sum();
        let trained = unet.keys().filter(|m| !m.starts_with("conv_") && !m.contains("_embedding"));
        assert_eq!(((chosen.len(), trained.count()), rank_4), (modules, values));
    }
}

#[test]
fn the_names_of_other_tools_lead_to_their_modules() {
    let sdxl = KeyTable::new(&Family::Sdxl.modules());
    for (stem, module) in [
        ("lora_unet_input_blocks_4_1_proj_in", "down_blocks.1.attentions.0.proj_in"),
        ("lora_unet_input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv"),
        ("lora_unet_middle_block_2_emb_layers_1", "mid_block.resnets.1.time_emb_proj"),
        ("lora_unet_output_blocks_8_0_skip_connection", "up_blocks.2.resnets.2.conv_shortcut"),
        ("lora_unet_output_blocks_5_2_conv", "up_blocks.1.upsamplers.0.conv"),
        ("lora_unet_down_blocks_1_attentions_0_proj_in", "down_blocks.1.attentions.0.proj_in"),
        ("unet.output_blocks.5.1.proj_in", "up_blocks.1.attentions.2.proj_in"),
        ("diffusion_model.label_emb.0.2", "add_embedding.linear_2"),
        ("lycoris_unet_middle_block_1_proj_out", "mid_block.attentions.0.proj_out"),
        ("lora_te_wrapped_transformer_text_model_encoder_layers_3_mlp_fc1", "text_model.encoder.layers.3.mlp.fc1"),
    ] {
        assert_eq!(sdxl.find(stem, None).expect(stem).module, module);
    }
}
