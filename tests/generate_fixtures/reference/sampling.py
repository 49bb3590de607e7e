"""Kind sample: whole pipelines, with every random draw given; and kind bake: LoRAs fused into a pipeline's weights."""

import contextlib

import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.models.autoencoders import vae as vae_module
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img as sd_img2img
from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl_img2img as xl_img2img

from . import schedulers
from .files import read_json, relative_error, replace_noise
from .loras import base_weights, read_lora
from .networks import load_text_encoder, load_tokenizer, load_unet, load_vae, text_model_level


def is_xl(folder):
    return read_json(folder / "model_index.json")["_class_name"] == "StableDiffusionXLPipeline"


def load_pipeline(root, model, vocab="clip_vocab", scheduler=None, image_to_image=False):
    """The pipeline of a model folder in float32; `scheduler` = {class, config} replaces the model's own."""
    folder, vocab = root.path(model), root.path(vocab)
    if scheduler is None:
        config = read_json(folder / "scheduler" / "scheduler_config.json")
        scheduler = {"class": config["_class_name"], "config": {k: v for k, v in config.items() if not k.startswith("_")}}
    parts = dict(unet=load_unet(folder), vae=load_vae(folder), scheduler=schedulers.make(scheduler["class"], scheduler["config"]))
    for suffix in ("", "_2") if is_xl(folder) else ("",):
        parts["text_encoder" + suffix] = load_text_encoder(folder, "text_encoder" + suffix)
        parts["tokenizer" + suffix] = load_tokenizer(vocab, read_json(folder / ("tokenizer" + suffix) / "tokenizer_config.json"))
    if is_xl(folder):
        cls = StableDiffusionXLImg2ImgPipeline if image_to_image else StableDiffusionXLPipeline
        parts |= dict(
            force_zeros_for_empty_prompt=read_json(folder / "model_index.json").get("force_zeros_for_empty_prompt", True)
        )
        if not image_to_image:
            parts |= dict(add_watermarker=False)
    else:
        cls = StableDiffusionImg2ImgPipeline if image_to_image else StableDiffusionPipeline
        parts |= dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipeline = cls(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_loras(pipeline, inputs, folder):
    """Loads LoRA files ({file, scale}) as diffusers does and activates them all at their scales."""
    names = []
    for i, lora in enumerate(inputs):
        pipeline.load_lora_weights(str(folder), weight_name=lora["file"], adapter_name=f"lora{i}")
        names.append(f"lora{i}")
    pipeline.set_adapters(names, [lora.get("scale", 1.0) for lora in inputs])


def encode(pipeline, case):
    prompts = dict(
        prompt=case["prompt"],
        negative_prompt=case["negative_prompt"],
        device="cpu",
        num_images_per_prompt=1,
        do_classifier_free_guidance=case["guidance_scale"] > 1,
        clip_skip=case.get("clip_skip"),
    )
    if hasattr(pipeline, "text_encoder_2"):
        embeds = pipeline.encode_prompt(prompt_2=case.get("prompt_2"), negative_prompt_2=case.get("negative_prompt_2"), **prompts)
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    else:
        embeds, names = pipeline.encode_prompt(**prompts), ("prompt_embeds", "negative_prompt_embeds")
    return {f"out.{name}": x for name, x in zip(names, embeds) if x is not None}


@contextlib.contextmanager
def given_noise(pipeline, inputs):
    """Hands the pipeline's draws out of the case: the sampler's per network call, the posterior's, the initial noise.

    Yields a dictionary whose "stochastic" says afterwards whether the sampler drew any."""
    state, calls = {"stochastic": False}, 0
    step = pipeline.scheduler.step

    def counted_step(*args, **kwargs):
        nonlocal calls
        result = step(*args, **kwargs)
        calls += 1
        return result

    def sampler_noise(shape):
        state["stochastic"] = True
        return inputs["in.noise"][calls]

    pipeline.scheduler.step = counted_step
    # diffusers looks at step's signature to see whether it takes eta
    counted_step.__wrapped__ = step
    with contextlib.ExitStack() as stack:
        stack.enter_context(replace_noise(schedulers.noise_source(pipeline.scheduler), sampler_noise))
        stack.enter_context(replace_noise(vae_module, lambda shape: inputs["in.vae_noise"]))
        for module in (sd_img2img, xl_img2img):
            stack.enter_context(replace_noise(module, lambda shape: inputs["in.init_noise"]))
        yield state


@torch.no_grad()
def run(case, inputs, root, folder):
    """Returns the outputs, and whether the sampler drew noise."""
    image_to_image = case.get("image_to_image", False)
    pipeline = load_pipeline(root, case["model"], case["vocab"], case["scheduler"], image_to_image)
    if "lora" in case:
        load_loras(pipeline, [case["lora"]], folder)
    options = {
        key: case[key]
        for key in (
            "prompt",
            "negative_prompt",
            "prompt_2",
            "negative_prompt_2",
            "guidance_scale",
            "guidance_rescale",
            "clip_skip",
            "eta",
            "num_inference_steps",
            "strength",
        )
        if key in case
    }
    if image_to_image:
        options["image"] = inputs["in.image"]
    else:
        options |= dict(latents=inputs["in.latents"].clone(), height=case["height"], width=case["width"])
    steps = []

    def keep(pipeline, i, t, tensors):
        steps.append(tensors["latents"].clone())
        return tensors

    with text_model_level(), given_noise(pipeline, inputs) as state:
        outputs = encode(pipeline, case)
        latents = pipeline(**options, output_type="latent", callback_on_step_end=keep).images
    decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    outputs |= {
        "out.timesteps": pipeline.scheduler.timesteps.float(),
        "out.step_latents": torch.stack(steps),
        "out.latents": latents,
        "out.decoded": decoded,
        "out.image": (decoded / 2 + 0.5).clamp(0, 1),
    }
    return outputs, state["stochastic"]


def sample(case, inputs, root, folder):
    return run(case, inputs, root, folder)[0]


@torch.no_grad()
def bake(case, inputs, root, folder):
    pipeline = load_pipeline(root, case["model"])
    components = [name for name in ("unet", "text_encoder", "text_encoder_2") if getattr(pipeline, name, None) is not None]
    before = {name: {m: w.clone() for m, w in base_weights(getattr(pipeline, name), name).items()} for name in components}
    load_loras(pipeline, case["inputs"], folder)
    pipeline.fuse_lora(components=components)
    outputs = {}
    for name in components:
        after = {m.replace(".base_layer", ""): w for m, w in base_weights(getattr(pipeline, name), name).items()}
        outputs |= {f"out.{name}.{m}.weight": after[m] for m, w in before[name].items() if not torch.equal(w, after[m])}
    check_bake(case, outputs, before, load_unet(root.path(case["model"])), folder)
    return outputs


def check_bake(case, outputs, before, unet, folder):
    """What diffusers fused must be the sum that the files say: a second opinion on its loader and on our reading."""
    expected = {}
    for entry in case["inputs"]:
        for (component, module), f in read_lora(folder / entry["file"], before, unet).items():
            name = f"out.{component}.{module}.weight"
            base = expected.setdefault(name, before[component][module].double())
            expected[name] = base + entry["scale"] * f.delta().reshape(base.shape)
    assert expected.keys() == outputs.keys()
    for name, x in expected.items():
        assert relative_error(outputs[name], x) < 1e-6, name
