"""Kind sample: pipelines end to end."""

from reference import sampling, schedulers
from reference.files import Draw, read_json
from reference.loras import base_weights, draw_lora, sgm_names, write_lora

from .build import Build, model_path
from .networks import LONG
from .schedulers import KARRAS, SD, TRAILING, ZERO_SNR, V
from .training import ATTENTION, TRANSFORMER

DDIM = ("DDIMScheduler", dict(SD, clip_sample=False, set_alpha_to_one=False))
PNDM = ("PNDMScheduler", dict(SD, skip_prk_steps=True, set_alpha_to_one=False))
EULER = ("EulerDiscreteScheduler", SD)
EULER_A = ("EulerAncestralDiscreteScheduler", SD)
DPM = ("DPMSolverMultistepScheduler", dict(SD, algorithm_type="dpmsolver++", solver_order=2))
UNIPC = ("UniPCMultistepScheduler", dict(SD, solver_order=2))
DDPM = ("DDPMScheduler", dict(SD, clip_sample=False, variance_type="fixed_small"))
LCM = ("LCMScheduler", dict(SD, original_inference_steps=50, clip_sample=False, set_alpha_to_one=True))
EVERY = dict(ddim=DDIM, pndm=PNDM, euler=EULER, euler_a=EULER_A, dpm=DPM, unipc=UNIPC, ddpm=DDPM, lcm=LCM)

# The sizes that give odd latents: VAEs of two, three and four blocks shrink by 2, 4, 8.
SIZES = {"tiny": (24, 40), "three": (88, 56), "deep": (88, 64)}
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj"]


def changed(scheduler, **options):
    return scheduler[0], scheduler[1] | options


CASES = [
    *(
        dict(name=f"{model}_{key}", model=f"{model.replace('_', '-')}", scheduler=EVERY[key])
        for model, keys in {
            "three_sd1": ("ddim", "pndm", "euler_a", "dpm", "unipc", "lcm"),
            "three_sdxl": ("euler", "dpm", "unipc", "ddpm", "euler_a"),
            "deep_sd1": ("pndm", "euler"),
            "deep_sdxl": ("euler",),
        }.items()
        for key in keys
    ),
    *(
        dict(name=f"{model}_v_{key}", model=model.replace("_", "-"), scheduler=changed(EVERY[key], **V))
        for model in ("three_sd2",)
        for key in EVERY
    ),
    *(dict(name=f"img2img_{key}", model="three-sd1", scheduler=EVERY[key], strength=0.6, steps=6) for key in EVERY),
    *(dict(name=f"img2img_sdxl_{key}", model="three-sdxl", scheduler=EVERY[key], strength=0.75, steps=6) for key in EVERY),
    dict(name="img2img_v_full_strength", model="three-sd2", scheduler=changed(DDIM, **V), strength=1.0, steps=4),
    dict(name="img2img_one_step", model="tiny-sd1", scheduler=EULER, strength=0.2, steps=5),
    dict(
        name="img2img_pair_pndm",
        model="tiny-sd1",
        scheduler=PNDM,
        strength=0.5,
        steps=8,
        prompt=["a fox", "a hill at dawn"],
    ),
    dict(name="tiny_sdxl_img2img_euler_a", model="tiny-sdxl", scheduler=EULER_A, strength=0.7, steps=5),
    dict(name="empty_prompt", model="three-sd1", scheduler=DDIM, prompt=[""]),
    dict(name="long_prompt", model="three-sd1", scheduler=EULER, prompt=[LONG], negative=[LONG + " and " + LONG]),
    dict(
        name="odd_prompts",
        model="tiny-sd2",
        scheduler=changed(DDIM, **V),
        prompt=["wow!!! it's 100% ¿café?", "東京 🎨\t(best:1.2)"],
        negative=["!", "<|endoftext|> x"],
    ),
    dict(name="no_negative", model="three-sd1", scheduler=DDIM, negative=None),
    dict(
        name="pair",
        model="three-sd1",
        scheduler=DPM,
        prompt=["one red ball", "two blue cubes on a table"],
        negative=["blurry", ""],
    ),
    dict(
        name="pair_sdxl_no_negative",
        model="three-sdxl",
        scheduler=EULER,
        prompt=["one red ball", "two blue cubes"],
        negative=None,
    ),
    dict(name="sdxl_empty_negative", model="three-sdxl", scheduler=EULER, negative=[""]),
    dict(
        name="sdxl_prompt_2",
        model="three-sdxl",
        scheduler=EULER,
        more=dict(prompt_2=["oil on canvas!"], negative_prompt_2=["photo"]),
    ),
    dict(
        name="tiny_sdxl_prompt_2_clip_skip",
        model="tiny-sdxl",
        scheduler=changed(DPM, **KARRAS),
        negative=None,
        more=dict(prompt_2=["oil on canvas!"], clip_skip=1),
    ),
    dict(name="sdxl_no_guidance", model="three-sdxl", scheduler=EULER, guidance=1.0, negative=None),
    dict(name="no_guidance_below_one", model="three-sd1", scheduler=DDIM, guidance=0.5),
    dict(name="clip_skip_1", model="three-sd1", scheduler=DDIM, more=dict(clip_skip=1)),
    dict(name="clip_skip_2", model="three-sd2", scheduler=changed(DDIM, **V), more=dict(clip_skip=2)),
    dict(name="tiny_sd1_clip_skip", model="tiny-sd1", scheduler=UNIPC, more=dict(clip_skip=1)),
    dict(name="rescale_eps", model="three-sd1", scheduler=DDIM, prompt=["a", "b c"], more=dict(guidance_rescale=0.7)),
    dict(
        name="rescale_zero_snr",
        model="three-sd2",
        scheduler=changed(DDIM, **ZERO_SNR),
        guidance=9.0,
        more=dict(guidance_rescale=0.7),
    ),
    dict(
        name="tiny_sd2_rescale_zero_snr_eta",
        model="tiny-sd2",
        scheduler=changed(DDIM, **ZERO_SNR),
        guidance=9.0,
        more=dict(guidance_rescale=0.5, eta=0.4),
    ),
    dict(name="sdxl_rescale", model="three-sdxl", scheduler=EULER, more=dict(guidance_rescale=1.0)),
    dict(name="eta", model="three-sd1", scheduler=DDIM, more=dict(eta=1.0)),
    # The SD1/SD2 pipelines overwrite steps_offset with 1 and clip_sample with false when they are built; the SDXL one does not.
    dict(name="tiny_sd1_overwritten_config", model="tiny-sd1", scheduler=changed(DDIM, steps_offset=0, clip_sample=True)),
    dict(
        name="tiny_sdxl_clip_sample_offset_0",
        model="tiny-sdxl",
        scheduler=changed(DDIM, steps_offset=0, clip_sample=True, clip_sample_range=3.0),
    ),
    dict(name="img2img_overwritten_config", model="three-sd1", scheduler=("DDIMScheduler", {}), strength=0.5),
    dict(name="class_defaults_lcm", model="three-sd1", scheduler=("LCMScheduler", {}), guidance=1.0),
    dict(name="class_defaults_ddpm_sdxl", model="three-sdxl", scheduler=("DDPMScheduler", {})),
    dict(name="euler_karras_trailing", model="three-sdxl", scheduler=changed(EULER, **KARRAS, **TRAILING)),
    dict(name="dpm_karras", model="three-sd1", scheduler=changed(DPM, **KARRAS)),
    dict(name="dpm_sde_karras", model="three-sd1", scheduler=changed(DPM, algorithm_type="sde-dpmsolver++", **KARRAS)),
    dict(name="dpm_order3_trailing", model="three-sdxl", scheduler=changed(DPM, solver_order=3, **TRAILING), steps=8),
    dict(name="lora_sd1", model="three-sd1", scheduler=DDIM, lora=("kohya", 3, 6, TRANSFORMER, TEXT, 0.7)),
    dict(
        name="lora_sd2_negative_scale",
        model="three-sd2",
        scheduler=changed(DDIM, **V),
        lora=("diffusers", 3, 3, ATTENTION, TEXT, -0.5),
    ),
    dict(name="lora_sdxl_sgm", model="three-sdxl", scheduler=EULER, lora=("sgm", 3, 1, TRANSFORMER, TEXT, 1.0)),
    dict(
        name="lora_img2img", model="three-sd1", scheduler=EULER_A, lora=("kohya", 2, 2, ATTENTION, [], 1.0), strength=0.5, steps=6
    ),
    dict(
        name="tiny_sdxl_lora_lcm",
        model="tiny-sdxl",
        scheduler=LCM,
        guidance=1.5,
        steps=3,
        lora=("sgm", 3, 6, ["to_q", "to_v", "proj_in"], TEXT, 0.8),
    ),
]


def sample(
    name,
    model,
    scheduler,
    prompt=("a photo of a dog on a boat",),
    negative=("ugly, blurry",),
    guidance=6.0,
    steps=5,
    strength=None,
    lora=None,
    more=None,
):
    name = f"sample_{name}"
    height, width = SIZES[model.split("-")[0]]

    def make(root, folder):
        draw, batch = Draw(name), len(prompt)
        case = dict(
            kind="sample",
            model=model_path(model),
            vocab="clip_vocab",
            prompt=list(prompt),
            negative_prompt=None if negative is None else (list(negative) * batch)[:batch],
            guidance_scale=guidance,
            scheduler={"class": scheduler[0], "config": scheduler[1]},
            num_inference_steps=steps,
            height=height,
            width=width,
            **(more or {}),
        )
        vae = read_json(root.path(model_path(model)) / "vae" / "config.json")
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        shape = batch, 4, height // factor, width // factor
        if strength is None:
            inputs = {"in.latents": draw.normal(*shape)}
        else:
            case |= dict(image_to_image=True, strength=strength)
            inputs = {
                "in.image": draw.uniform(batch, 3, height, width),
                "in.vae_noise": draw.normal(*shape),
                "in.init_noise": draw.normal(*shape),
            }
        if lora:
            case["lora"] = add_lora(root, folder, draw, model, *lora)
        calls = schedulers.evaluations({"class": scheduler[0], "config": scheduler[1], "num_inference_steps": steps})
        inputs["in.noise"] = draw.normal(calls, *shape)
        outputs, stochastic = sampling.run(case, inputs, root, folder)
        if stochastic:
            inputs["in.noise"] = inputs["in.noise"][: len(outputs["out.step_latents"])].clone()
        else:
            del inputs["in.noise"]
        return case, inputs

    return Build(name, model_path(model), make)


def add_lora(root, folder, draw, model, style, rank, alpha, targets, text, scale):
    pipeline = sampling.load_pipeline(root, model_path(model))
    components = [c for c in ("unet", "text_encoder", "text_encoder_2") if getattr(pipeline, c, None) is not None]
    modules = {c: base_weights(getattr(pipeline, c), c) for c in components}
    lora = draw_lora(draw, modules, rank, alpha, {"unet": targets, "text_encoder": text, "text_encoder_2": text})
    names = sgm_names(pipeline.unet) if style == "sgm" else None
    style = "kohya" if style == "sgm" else style
    write_lora(folder / "lora.safetensors", lora, style, names)
    return dict(file="lora.safetensors", format=style, rank=rank, alpha=alpha, scale=scale)


def cases():
    yield from (sample(**options) for options in CASES)
