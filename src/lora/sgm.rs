//! The names of UNet modules in the LDM (SGM) layout of single-file checkpoints, which kohya's SDXL LoRAs use. One
//! formula serves all families: with n resnets a down block, blocks advance by n + 1.

use std::collections::BTreeSet;

/// The two facts of a UNet that LDM names depend on.
#[derive(Clone, Debug)]
pub struct Layout {
    resnets_per_down_block: usize,
    up_blocks_with_attention: BTreeSet<usize>,
}

impl Layout {
    /// Reads them off the names of a UNet's modules.
    pub fn of<'a>(modules: impl Iterator<Item = &'a str>) -> Self {
        let mut layout = Self { resnets_per_down_block: 0, up_blocks_with_attention: BTreeSet::new() };
        for module in modules {
            let parts: Vec<&str> = module.splitn(5, '.').collect();
            let numbers = (number(&parts, 1), number(&parts, 3));
            match (parts[0], parts.get(2).copied(), numbers) {
                ("down_blocks", Some("resnets"), (Some(_), Some(j))) => {
                    layout.resnets_per_down_block = layout.resnets_per_down_block.max(j + 1);
                }
                ("up_blocks", Some("attentions"), (Some(b), _)) => {
                    layout.up_blocks_with_attention.insert(b);
                }
                _ => {}
            }
        }
        if layout.resnets_per_down_block == 0 {
            // Names of a partial list: every published family has two.
            layout.resnets_per_down_block = 2;
        }
        layout
    }

    /// `down_blocks.1.attentions.0.proj_in` -> `input_blocks.4.1.proj_in`; none for a name outside of the scheme.
    pub fn ldm_name(&self, module: &str) -> Option<String> {
        let whole = match module {
            "conv_in" => "input_blocks.0.0",
            "time_embedding.linear_1" => "time_embed.0",
            "time_embedding.linear_2" => "time_embed.2",
            "add_embedding.linear_1" => "label_emb.0.0",
            "add_embedding.linear_2" => "label_emb.0.2",
            "conv_norm_out" => "out.0",
            "conv_out" => "out.2",
            _ => "",
        };
        if !whole.is_empty() {
            return Some(whole.to_string());
        }
        let stride = self.resnets_per_down_block + 1;
        let parts: Vec<&str> = module.split('.').collect();
        if parts[0] == "mid_block" {
            let (kind, j, rest) = (*parts.get(1)?, number(&parts, 2)?, parts[3..].join("."));
            return match kind {
                "attentions" => Some(format!("middle_block.{}.{rest}", 2 * j + 1)),
                "resnets" => Some(format!("middle_block.{}.{}", 2 * j, resnet_part(&rest)?)),
                _ => None,
            };
        }
        let (b, kind, j) = (number(&parts, 1)?, *parts.get(2)?, number(&parts, 3)?);
        let rest = parts[4..].join(".");
        match (parts[0], kind) {
            ("down_blocks", "attentions") => Some(format!("input_blocks.{}.1.{rest}", stride * b + j + 1)),
            ("down_blocks", "resnets") => {
                Some(format!("input_blocks.{}.0.{}", stride * b + j + 1, resnet_part(&rest)?))
            }
            ("down_blocks", "downsamplers") => Some(format!("input_blocks.{}.0.op", stride * (b + 1))),
            ("up_blocks", "attentions") => Some(format!("output_blocks.{}.1.{rest}", stride * b + j)),
            ("up_blocks", "resnets") => Some(format!("output_blocks.{}.0.{}", stride * b + j, resnet_part(&rest)?)),
            ("up_blocks", "upsamplers") => {
                let k = 1 + usize::from(self.up_blocks_with_attention.contains(&b));
                Some(format!("output_blocks.{}.{k}.conv", stride * (b + 1) - 1))
            }
            _ => None,
        }
    }
}

/// A block's number. Names come from files: one that no model has would overflow what is computed with it.
fn number(parts: &[&str], at: usize) -> Option<usize> {
    parts.get(at)?.parse::<u8>().ok().map(usize::from)
}

fn resnet_part(part: &str) -> Option<&'static str> {
    Some(match part {
        "norm1" => "in_layers.0",
        "conv1" => "in_layers.2",
        "time_emb_proj" => "emb_layers.1",
        "norm2" => "out_layers.0",
        "conv2" => "out_layers.3",
        "conv_shortcut" => "skip_connection",
        _ => return None,
    })
}
