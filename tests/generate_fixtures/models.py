"""Small random models in the diffusers layout, of shapes that the recorded models do not have.

three-sd1   three blocks, channels 24/40/56 with 4 heads (head sizes 6, 10, 14), two layers a block, 1x1-conv projections
three-sd2   three blocks, heads per block, linear projections, gelu encoder, pad token "!", v-prediction
three-sdxl  (Down, CrossAttnDown, CrossAttnDown), transformer depths 1, 2, 3, two encoders of different widths
deep-sd1    the module tree of SD 1.5 (four blocks), with 16 and 32 channels, a VAE of four blocks
deep-sdxl   the module tree of SDXL (depths 1, 2, 10), with 16 and 32 channels, and a VAE of four blocks
small3, small3-sdxl   UNets alone, three blocks: what the repository can afford to keep
"""

import zlib

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from reference.files import save_tensors, write_json
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

CROSS, PLAIN = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")


def unet_config(blocks, channels, layers, heads, groups, context, **more):
    return dict(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        center_input_sample=False,
        flip_sin_to_cos=True,
        freq_shift=0,
        down_block_types=tuple(down for down, _ in blocks),
        up_block_types=tuple(up for _, up in reversed(blocks)),
        block_out_channels=channels,
        layers_per_block=layers,
        attention_head_dim=heads,
        norm_num_groups=groups,
        norm_eps=1e-5,
        act_fn="silu",
        cross_attention_dim=context,
        **more,
    )


def xl_config(pooled, time_dim, depths):
    return dict(
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=time_dim,
        projection_class_embeddings_input_dim=pooled + 6 * time_dim,
        transformer_layers_per_block=depths,
    )


def encoder_config(hidden, layers, heads, intermediate, activation, projection=None):
    return dict(
        vocab_size=49408,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        hidden_act=activation,
        projection_dim=projection or hidden,
        max_position_embeddings=77,
        layer_norm_eps=1e-5,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )


def vae_config(channels, layers, groups, scaling_factor):
    n = len(channels)
    return dict(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        sample_size=32,
        block_out_channels=channels,
        layers_per_block=layers,
        norm_num_groups=groups,
        scaling_factor=scaling_factor,
        down_block_types=("DownEncoderBlock2D",) * n,
        up_block_types=("UpDecoderBlock2D",) * n,
    )


SCHEDULE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
PNDM = dict(
    _class_name="PNDMScheduler",
    **SCHEDULE,
    skip_prk_steps=True,
    steps_offset=1,
    set_alpha_to_one=False,
    timestep_spacing="leading",
    prediction_type="epsilon",
)
DDIM_V = dict(
    _class_name="DDIMScheduler",
    **SCHEDULE,
    steps_offset=1,
    clip_sample=False,
    set_alpha_to_one=False,
    timestep_spacing="leading",
    prediction_type="v_prediction",
)
EULER = dict(
    _class_name="EulerDiscreteScheduler", **SCHEDULE, steps_offset=1, timestep_spacing="leading", prediction_type="epsilon"
)
END, BANG = "<|endoftext|>", "!"

MODELS = {
    "three-sd1": dict(
        unet=unet_config([CROSS, CROSS, PLAIN], (24, 40, 56), 2, 4, 8, 20),
        vae=vae_config((8, 12, 16), 2, 4, 0.18215),
        scheduler=PNDM,
        pads=[END],
        encoders=[encoder_config(20, 2, 5, 36, "quick_gelu")],
    ),
    "three-sd2": dict(
        unet=unet_config([CROSS, CROSS, PLAIN], (16, 32, 48), 1, (2, 4, 3), 4, 12, use_linear_projection=True),
        vae=vae_config((8, 8, 16), 1, 8, 0.18215),
        scheduler=DDIM_V,
        pads=[BANG],
        encoders=[encoder_config(12, 4, 3, 28, "gelu")],
    ),
    "three-sdxl": dict(
        unet=unet_config([PLAIN, CROSS, CROSS], (16, 32, 48), 1, (2, 4, 6), 8, 20, **xl_config(14, 6, (1, 2, 3))),
        vae=vae_config((8, 12, 16), 1, 4, 0.13025),
        scheduler=EULER,
        pads=[END, BANG],
        encoders=[encoder_config(8, 2, 2, 20, "quick_gelu"), encoder_config(12, 3, 3, 24, "gelu", projection=14)],
    ),
    "deep-sd1": dict(
        unet=unet_config([CROSS] * 3 + [PLAIN], (16, 16, 32, 32), 2, 8, 8, 16),
        vae=vae_config((8, 8, 16, 16), 2, 4, 0.18215),
        scheduler=PNDM,
        pads=[END],
        encoders=[encoder_config(16, 3, 2, 32, "quick_gelu")],
    ),
    "deep-sdxl": dict(
        unet=unet_config([PLAIN, CROSS, CROSS], (16, 16, 32), 2, (2, 2, 4), 8, 16, **xl_config(10, 4, (1, 2, 10))),
        vae=vae_config((8, 8, 16, 16), 1, 4, 0.13025),
        scheduler=EULER,
        pads=[END, BANG],
        encoders=[encoder_config(6, 2, 2, 12, "quick_gelu"), encoder_config(10, 2, 2, 20, "gelu", projection=10)],
    ),
    "small3": dict(unet=unet_config([CROSS, CROSS, PLAIN], (8, 12, 16), 1, 2, 4, 10), scheduler=PNDM),
    "small3-sdxl": dict(
        unet=unet_config([PLAIN, CROSS, CROSS], (8, 8, 12), 1, (2, 4, 3), 4, 10, **xl_config(6, 4, (1, 2, 3))), scheduler=EULER
    ),
}


def randomise(model, generator):
    """Weights of unit gain (0.6 for what a residual adds), norms and biases that differ from 1 and 0, embeddings of 0.5."""
    residual = ("conv2", "proj_out", "to_out.0", "ff.net.2", "out_proj", "fc2")
    for name, p in model.named_parameters():
        layer = name.rsplit(".", 1)[0]
        noise = torch.randn(p.shape, generator=generator)
        if p.ndim == 1:
            p.data = 1 + 0.15 * noise if "norm" in layer.rsplit(".", 1)[-1] and name.endswith("weight") else 0.12 * noise
        elif "embedding.weight" in name:
            p.data = 0.5 * noise
        else:
            p.data = noise * p[0].numel() ** -0.5 * (0.6 if layer.endswith(residual) else 1.0)
    return model.eval()


def save(model, path, dtype, prefix=""):
    save_tensors({prefix + name: x.to(dtype) for name, x in model.state_dict().items()}, path, metadata={"format": "pt"})


def write_encoder(folder, suffix, config, pad, with_projection, generator):
    cls = CLIPTextModelWithProjection if with_projection else CLIPTextModel
    model = randomise(cls(CLIPTextConfig(**config)), generator)
    prefix = "" if hasattr(model, "text_model") else "text_model."  # files keep the level that transformers 5 dropped
    save(model, folder / f"text_encoder{suffix}" / "model.safetensors", torch.float16, prefix)
    write_json(
        folder / f"text_encoder{suffix}" / "config.json",
        dict(architectures=[cls.__name__], model_type="clip_text_model", torch_dtype="float16", **config),
    )
    tokens = dict(bos_token="<|startoftext|>", eos_token=END, unk_token=END, pad_token=pad)
    write_json(folder / f"tokenizer{suffix}" / "special_tokens_map.json", tokens)
    write_json(
        folder / f"tokenizer{suffix}" / "tokenizer_config.json",
        dict(
            tokenizer_class="CLIPTokenizer",
            **tokens,
            model_max_length=77,
            do_lower_case=True,
            add_prefix_space=False,
            errors="replace",
        ),
    )


def write(name, folder):
    """Writes model `name` to `folder`: UNet and encoders in float16, the VAE in float32."""
    spec = MODELS[name]
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    for part, cls, dtype in [("unet", UNet2DConditionModel, torch.float16), ("vae", AutoencoderKL, torch.float32)]:
        if part in spec:
            model = cls(**spec[part])
            save(randomise(model, generator), folder / part / "diffusion_pytorch_model.safetensors", dtype)
            (folder / part / "config.json").write_text(model.to_json_string())
    for i, (config, pad) in enumerate(zip(spec.get("encoders", []), spec.get("pads", []))):
        write_encoder(folder, "_2" if i else "", config, pad, i == 1, generator)
    write_json(folder / "scheduler" / "scheduler_config.json", dict(_diffusers_version="0.42.1", **spec["scheduler"]))
    xl = spec["unet"].get("addition_embed_type") == "text_time"
    index = dict(
        _class_name="StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline",
        _diffusers_version="0.42.1",
        unet=["diffusers", "UNet2DConditionModel"],
        scheduler=["diffusers", spec["scheduler"]["_class_name"]],
    )
    if "vae" in spec:
        index |= dict(
            vae=["diffusers", "AutoencoderKL"],
            text_encoder=["transformers", "CLIPTextModel"],
            tokenizer=["transformers", "CLIPTokenizer"],
        )
        if xl:
            index |= dict(
                text_encoder_2=["transformers", "CLIPTextModelWithProjection"], tokenizer_2=["transformers", "CLIPTokenizer"]
            )
    if xl:
        index |= dict(force_zeros_for_empty_prompt=True)
    else:
        index |= dict(safety_checker=[None, None], feature_extractor=[None, None], requires_safety_checker=False)
    write_json(folder / "model_index.json", index)
