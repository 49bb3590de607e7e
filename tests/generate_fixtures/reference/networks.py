"""Kinds unet_forward, text_encoder, vae and tokenizer: the networks alone."""

import contextlib
import json
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from .files import read_json


@contextlib.contextmanager
def text_model_level():
    """Within the block CLIPTextModel has a `text_model`: transformers 5.6 dropped that level, diffusers' clip_skip goes
    through it. Not for good, since diffusers' LoRA loader tells the two layouts apart by this attribute."""
    added = not hasattr(CLIPTextModel, "text_model")
    if added:
        CLIPTextModel.text_model = property(lambda self: self)
    try:
        yield
    finally:
        if added:
            del CLIPTextModel.text_model


def load_unet(folder):
    return UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32).eval()


def load_vae(folder):
    return AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval()


def load_text_encoder(folder, subfolder="text_encoder"):
    architecture = read_json(folder / subfolder / "config.json")["architectures"][0]
    cls = {"CLIPTextModel": CLIPTextModel, "CLIPTextModelWithProjection": CLIPTextModelWithProjection}[architecture]
    return cls.from_pretrained(folder / subfolder, dtype=torch.float32).eval()


def load_tokenizer(vocab, configuration):
    """A CLIP tokenizer from the shared vocabulary folder and a model's own tokenizer configuration."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name in ("vocab.json", "merges.txt"):
            (folder / name).symlink_to((vocab / name).resolve())
        (folder / "tokenizer_config.json").write_text(json.dumps(configuration))
        return CLIPTokenizer.from_pretrained(folder)


def tokenize(tokenizer, texts):
    return tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


@torch.no_grad()
def unet_forward(case, inputs, root, folder):
    added = None
    if "in.add_text_embeds" in inputs:
        added = {"text_embeds": inputs["in.add_text_embeds"], "time_ids": inputs["in.add_time_ids"]}
    sample = load_unet(root.path(case["model"]))(
        inputs["in.sample"], inputs["in.timestep"], inputs["in.encoder_hidden_states"], added_cond_kwargs=added, return_dict=False
    )[0]
    return {"out.sample": sample}


@torch.no_grad()
def text_encoder(case, inputs, root, folder):
    encoder = load_text_encoder(root.path(case["model"]), case["subfolder"])
    result = encoder(inputs["in.input_ids"], output_hidden_states=True)
    outputs = {"out.last_hidden_state": result.last_hidden_state, "out.hidden_states.-2": result.hidden_states[-2]}
    if hasattr(encoder, "text_projection"):
        outputs["out.text_embeds"] = result.text_embeds
        outputs["out.pooler_output"] = encoder.text_model(inputs["in.input_ids"]).pooler_output
    else:
        outputs["out.pooler_output"] = result.pooler_output
    return outputs


@torch.no_grad()
def vae(case, inputs, root, folder):
    model = load_vae(root.path(case["model"]))
    posterior = model.encode(inputs["in.image"]).latent_dist
    return {"out.mean": posterior.mean, "out.logvar": posterior.logvar, "out.image": model.decode(inputs["in.latents"]).sample}


def tokenizer(case, inputs, root, folder):
    configuration = dict(
        tokenizer_class="CLIPTokenizer",
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        pad_token=case["pad_token"],
        model_max_length=case["max_length"],
    )
    return {"out.ids": tokenize(load_tokenizer(root.path(case["vocab"]), configuration), case["texts"])}
