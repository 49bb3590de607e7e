//! The modules of the published families, for reading kohya files where no model is at hand: their underscored names
//! cannot be parsed, only looked up.

use std::collections::BTreeMap;

use super::base::BaseModules;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Sd1,
    Sd2,
    Sdxl,
}

impl Family {
    pub const ALL: [Family; 3] = [Family::Sd1, Family::Sd2, Family::Sdxl];

    pub fn name(self) -> &'static str {
        match self {
            Family::Sd1 => "SD 1.x",
            Family::Sd2 => "SD 2.x",
            Family::Sdxl => "SDXL",
        }
    }

    /// kohya's `ss_base_model_version`.
    pub fn kohya_version(self) -> &'static str {
        match self {
            Family::Sd1 => "sd_v1",
            Family::Sd2 => "sd_v2",
            Family::Sdxl => "sdxl_base_v1-0",
        }
    }

    /// The width of the text condition, by which `attn2.to_k` tells families apart.
    pub fn context_width(self) -> usize {
        match self {
            Family::Sd1 => 768,
            Family::Sd2 => 1024,
            Family::Sdxl => 2048,
        }
    }

    /// Every module with a 2- or 4-dimensional weight that trainers put a LoRA on, with the weight's shape.
    pub fn modules(self) -> BaseModules {
        let mut all = BaseModules::from([("unet".to_string(), unet(self))]);
        let encoders: &[(usize, usize)] = match self {
            Family::Sd1 => &[(12, 768)],
            Family::Sd2 => &[(23, 1024)],
            Family::Sdxl => &[(12, 768), (32, 1280)],
        };
        for (name, &(layers, width)) in ["text_encoder", "text_encoder_2"].iter().zip(encoders) {
            all.insert(name.to_string(), text_encoder(layers, width));
        }
        if let Some(second) = all.get_mut("text_encoder_2") {
            second.insert("text_projection".into(), vec![1280, 1280]);
        }
        all
    }
}

type Modules = BTreeMap<String, Vec<usize>>;

fn text_encoder(layers: usize, width: usize) -> Modules {
    let mut modules = Modules::new();
    for layer in 0..layers {
        let at = format!("text_model.encoder.layers.{layer}");
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            modules.insert(format!("{at}.self_attn.{name}"), vec![width, width]);
        }
        modules.insert(format!("{at}.mlp.fc1"), vec![4 * width, width]);
        modules.insert(format!("{at}.mlp.fc2"), vec![width, 4 * width]);
    }
    modules
}

fn unet(family: Family) -> Modules {
    let (channels, depths): (&[usize], &[usize]) = match family {
        Family::Sdxl => (&[320, 640, 1280], &[0, 2, 10]),
        _ => (&[320, 640, 1280, 1280], &[1, 1, 1, 0]),
    };
    let last = channels.len() - 1;
    let mid_depth = if family == Family::Sdxl { 10 } else { 1 };
    let mut to = Modules::new();
    to.insert("conv_in".into(), vec![320, 4, 3, 3]);
    to.insert("conv_out".into(), vec![4, 320, 3, 3]);
    linear(&mut to, "time_embedding.linear_1", 1280, 320);
    linear(&mut to, "time_embedding.linear_2", 1280, 1280);
    if family == Family::Sdxl {
        linear(&mut to, "add_embedding.linear_1", 1280, 2816);
        linear(&mut to, "add_embedding.linear_2", 1280, 1280);
    }
    let mut skips = vec![320];
    for (b, &c) in channels.iter().enumerate() {
        let at = format!("down_blocks.{b}");
        for j in 0..2 {
            let c_in = if j == 0 && b > 0 { channels[b - 1] } else { c };
            resnet(&mut to, &format!("{at}.resnets.{j}"), c_in, c);
            transformer(&mut to, family, &format!("{at}.attentions.{j}"), c, depths[b]);
            skips.push(c);
        }
        if b < last {
            to.insert(format!("{at}.downsamplers.0.conv"), vec![c, c, 3, 3]);
            skips.push(c);
        }
    }
    let widest = channels[last];
    resnet(&mut to, "mid_block.resnets.0", widest, widest);
    transformer(&mut to, family, "mid_block.attentions.0", widest, mid_depth);
    resnet(&mut to, "mid_block.resnets.1", widest, widest);
    let mut before = widest;
    for b in 0..channels.len() {
        let (c, at) = (channels[last - b], format!("up_blocks.{b}"));
        for j in 0..3 {
            let skip = skips.pop().expect("as many skips as up resnets");
            resnet(&mut to, &format!("{at}.resnets.{j}"), before + skip, c);
            transformer(&mut to, family, &format!("{at}.attentions.{j}"), c, depths[last - b]);
            before = c;
        }
        if b < last {
            to.insert(format!("{at}.upsamplers.0.conv"), vec![c, c, 3, 3]);
        }
    }
    to
}

fn linear(to: &mut Modules, name: &str, outputs: usize, inputs: usize) {
    to.insert(name.into(), vec![outputs, inputs]);
}

fn resnet(to: &mut Modules, at: &str, c_in: usize, c: usize) {
    to.insert(format!("{at}.conv1"), vec![c, c_in, 3, 3]);
    to.insert(format!("{at}.conv2"), vec![c, c, 3, 3]);
    to.insert(format!("{at}.time_emb_proj"), vec![c, 1280]);
    if c_in != c {
        to.insert(format!("{at}.conv_shortcut"), vec![c, c_in, 1, 1]);
    }
}

fn transformer(to: &mut Modules, family: Family, at: &str, c: usize, depth: usize) {
    for k in 0..depth {
        let block = format!("{at}.transformer_blocks.{k}");
        for (attention, context) in [("attn1", c), ("attn2", family.context_width())] {
            linear(to, &format!("{block}.{attention}.to_q"), c, c);
            linear(to, &format!("{block}.{attention}.to_k"), c, context);
            linear(to, &format!("{block}.{attention}.to_v"), c, context);
            linear(to, &format!("{block}.{attention}.to_out.0"), c, c);
        }
        linear(to, &format!("{block}.ff.net.0.proj"), 8 * c, c);
        linear(to, &format!("{block}.ff.net.2"), c, 4 * c);
    }
    if depth > 0 {
        for name in ["proj_in", "proj_out"] {
            let shape = if family == Family::Sd1 { vec![c, c, 1, 1] } else { vec![c, c] };
            to.insert(format!("{at}.{name}"), shape);
        }
    }
}
