"""Kinds unet_forward, text_encoder, vae, tokenizer."""

import torch
from reference.files import Draw, read_json
from reference.networks import load_tokenizer, tokenize

from .build import Build, model_path

# (name, model, batch, height, width, tokens, timesteps)
UNETS = [
    ("unet_small3_odd", "small3", 2, 22, 11, 77, [981, 3]),
    ("unet_small3_sdxl_odd", "small3-sdxl", 1, 11, 22, 77, [500]),
    ("unet_three_sd1_batch3", "three-sd1", 3, 12, 20, 77, [0, 500, 999]),
    ("unet_three_sd1_odd", "three-sd1", 1, 22, 11, 77, [981]),
    ("unet_three_sd1_smallest", "three-sd1", 1, 1, 1, 77, [41]),
    ("unet_three_sd1_one_row", "three-sd1", 1, 1, 13, 77, [41]),
    ("unet_three_sd2_odd", "three-sd2", 2, 11, 22, 77, [17, 731]),
    ("unet_three_sd2_long_prompt", "three-sd2", 1, 16, 16, 154, [261]),
    ("unet_three_sdxl_batch3", "three-sdxl", 3, 12, 20, 77, [999, 1, 250]),
    ("unet_three_sdxl_odd", "three-sdxl", 1, 22, 11, 13, [301]),
    ("unet_deep_sd1", "deep-sd1", 2, 16, 24, 77, [901, 121]),
    ("unet_deep_sd1_odd", "deep-sd1", 1, 11, 19, 77, [333]),
    ("unet_deep_sdxl", "deep-sdxl", 2, 16, 12, 77, [601, 0]),
    ("unet_tiny_sd1_batch3", "tiny-sd1", 3, 12, 20, 77, [2, 502, 998]),
    ("unet_tiny_sd2_odd", "tiny-sd2", 1, 9, 15, 77, [77]),
    ("unet_tiny_sdxl_odd", "tiny-sdxl", 1, 7, 5, 77, [640]),
]

LONG = ", ".join(
    f"a crumbling tower number {i} under the {word} moon"
    for i, word in enumerate("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split())
)
TEXTS = [
    "",
    "!",
    "a cat",
    "A CAT!!!",
    "two red circles, left of a blue square",
    LONG,
    "café 東京 🎨 naïve",
    "x" * 200,
    "1 2 3 4 5",
    "<|endoftext|> in the middle <|startoftext|>",
]

EXOTIC_TEXTS = [
    "\u00a0no-break\u00a0spaces\u3000and ideographic ones",
    "e\u0301 decomposed, é composed",
    "Ⅷ ² ½ ① 五 ٣",
    "a\u200bzero\u200dwidth",
    "'S 'LL 'Re 'VE 'd'M'T",
    "'''",
    "''s's'",
    "it''s",
    "https://example.org/a?b=c&d=%20#e",
    "C++ & C# <b>bold</b> &amp; \\n",
    "____ -- __a__",
    "a.b.c...d",
    "!a!b !!",
    "wow!!! !",
    "< |endoftext| >",
    "<|endoftext|><|endoftext|>",
    "<|STARTOFTEXT|>",
    "ÀÉÎÕÜ Ñ ß ẞ",
    "İstanbul ı",
    "РАЗНЫЕ слова",
    "हिन्दी ไทย العربية עברית",
    "👩\u200d👩\u200d👧\u200d👦 🇨🇭",
    "\t\r\n\x0b\x0c",
    "\x00\x01 control \x7f",
    " lead and trail ",
    "3.14159e-10 1,000,000",
    "photo " * 74 + "end",
    "photo " * 75,
    "photo " * 76,
    "é" * 100,
    "!" * 100,
    "'" * 90,
]

ENCODERS = [
    ("three-sd1", "text_encoder"),
    ("three-sd2", "text_encoder"),
    ("three-sdxl", "text_encoder"),
    ("three-sdxl", "text_encoder_2"),
    ("deep-sd1", "text_encoder"),
    ("deep-sdxl", "text_encoder_2"),
]

# (name, model, batch, image height, width)
VAES = [
    ("vae_three_sd1", "three-sd1", 2, 24, 40),
    ("vae_three_sd2", "three-sd2", 1, 32, 8),
    ("vae_three_sdxl", "three-sdxl", 1, 28, 36),
    ("vae_deep_sd1", "deep-sd1", 1, 64, 40),
    ("vae_deep_sdxl", "deep-sdxl", 2, 24, 48),
]


def conditioning(draw, config, batch, tokens, prefix="in."):
    """Text states, and for SDXL pooled text and time ids."""
    inputs = {f"{prefix}encoder_hidden_states": draw.normal(batch, tokens, config["cross_attention_dim"])}
    if config.get("addition_embed_type") == "text_time":
        pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        inputs[f"{prefix}add_text_embeds"] = draw.normal(batch, pooled)
        sizes = torch.tensor([[1024, 768, 0, 32, 1024, 1024], [256, 320, 8, 0, 512, 512], [77, 1, 3, 5, 64, 96]])
        inputs[f"{prefix}add_time_ids"] = sizes[torch.arange(batch) % 3].float()
    return inputs


def unet(name, model, batch, height, width, tokens, timesteps):
    def make(root, folder):
        draw, config = Draw(name), read_json(root.path(model_path(model)) / "unet" / "config.json")
        inputs = {"in.sample": draw.normal(batch, 4, height, width), "in.timestep": torch.tensor(timesteps)}
        return dict(kind="unet_forward", model=model_path(model)), inputs | conditioning(draw, config, batch, tokens)

    return Build(name, model_path(model), make)


def encoder(model, subfolder):
    name = f"{subfolder}_{model}".replace("-", "_")

    def make(root, folder):
        configuration = read_json(
            root.path(model_path(model)) / subfolder.replace("text_encoder", "tokenizer") / "tokenizer_config.json"
        )
        ids = tokenize(load_tokenizer(root.path("clip_vocab"), configuration), TEXTS)
        return dict(kind="text_encoder", model=model_path(model), subfolder=subfolder, texts=TEXTS), {"in.input_ids": ids}

    return Build(name, model_path(model), make)


def vae(name, model, batch, height, width):
    def make(root, folder):
        draw, config = Draw(name), read_json(root.path(model_path(model)) / "vae" / "config.json")
        factor = 2 ** (len(config["block_out_channels"]) - 1)
        inputs = {
            "in.image": draw.uniform(batch, 3, height, width) * 2 - 1,
            "in.latents": draw.normal(batch, 4, height // factor, width // factor),
        }
        return dict(kind="vae", model=model_path(model), scaling_factor=config["scaling_factor"]), inputs

    return Build(name, model_path(model), make)


def tokenizer(name, pad, texts):
    def make(root, folder):
        return dict(kind="tokenizer", vocab="clip_vocab", pad_token=pad, max_length=77, texts=texts), {}

    return Build(name, None, make)


def cases():
    yield from (unet(*arguments) for arguments in UNETS)
    yield from (encoder(*arguments) for arguments in ENCODERS)
    yield from (vae(*arguments) for arguments in VAES)
    for word, pad in [("end", "<|endoftext|>"), ("bang", "!")]:
        yield tokenizer(f"tokenizer_{word}_pad", pad, TEXTS)
        yield tokenizer(f"tokenizer_{word}_pad_exotic", pad, EXOTIC_TEXTS)
