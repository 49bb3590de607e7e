#!/usr/bin/env python3
"""Runs diffusers pipelines on latents drawn here and has `selma verify` hold selma against every step of them.

    python tests/interop/check_generate.py --selma target/release/selma
    python tests/interop/check_generate.py --selma target/release/selma --model FOLDER [--lora FILE:SCALE] --prompt "a cat" \\
        --scheduler DPMSolverMultistepScheduler --steps 20 --guidance 7.5 --height 512 --width 512

Each run becomes a case in the format of tests/fixtures/parity (kept with --keep DIR) of kind `sample`: prompt embeddings, the
latents after every step, the decoded image. Without --model: the small models, each with its own sampler and two others.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from common import PARITY, Report, complete_model
from reference import sampling, schedulers
from reference.files import Draw, Root, read_json, save_tensors, write_json

# Options that a scheduler cannot take over from the model's own configuration.
OPTIONS = {
    "DDIMScheduler": dict(clip_sample=False, set_alpha_to_one=False),
    "PNDMScheduler": dict(skip_prk_steps=True, set_alpha_to_one=False),
    "DDPMScheduler": dict(clip_sample=False),
    "LCMScheduler": dict(original_inference_steps=50),
}
SHARED = (
    "beta_start",
    "beta_end",
    "beta_schedule",
    "num_train_timesteps",
    "steps_offset",
    "timestep_spacing",
    "prediction_type",
    "rescale_betas_zero_snr",
)


def scheduler_config(model, name):
    """{class, config} of the model's own scheduler, or of class `name` on the model's noise schedule."""
    own = read_json(model / "scheduler" / "scheduler_config.json")
    if name in (None, own["_class_name"]):
        return {"class": own["_class_name"], "config": {k: v for k, v in own.items() if not k.startswith("_")}}
    return {"class": name, "config": {k: own[k] for k in SHARED if k in own} | OPTIONS.get(name, {})}


def write_case(root, model, name, prompt, negative, scheduler, steps, guidance, height, width, lora):
    """Runs diffusers and writes the case; `model` is a complete folder inside the root's `models`."""
    draw, folder = Draw(name), root.case(name)
    case = dict(
        kind="sample",
        model=f"models/{model.name}",
        vocab=f"models/{model.name}/tokenizer",
        prompt=[prompt],
        negative_prompt=[negative],
        guidance_scale=guidance,
        scheduler=scheduler_config(model, scheduler),
        num_inference_steps=steps,
        height=height,
        width=width,
    )
    if lora:
        file, _, scale = lora.rpartition(":") if ":" in lora else (lora, "", "1")
        folder.mkdir(parents=True)
        shutil.copy(file, folder / "lora.safetensors")
        case["lora"] = dict(
            file="lora.safetensors", format="kohya" if ".lora_down." in json_header(file) else "diffusers", scale=float(scale)
        )
    factor = 2 ** (len(read_json(model / "vae" / "config.json")["block_out_channels"]) - 1)
    shape = 1, 4, height // factor, width // factor
    inputs = {"in.latents": draw.normal(*shape)}
    calls = schedulers.evaluations(case["scheduler"] | dict(num_inference_steps=steps))
    inputs["in.noise"] = draw.normal(calls, *shape)
    outputs, stochastic = sampling.run(case, inputs, root, folder)
    if not stochastic:
        del inputs["in.noise"]
    write_json(folder / "case.json", case)
    save_tensors(inputs | outputs, folder / "tensors.safetensors")
    return folder


def json_header(file):
    with open(file, "rb") as stream:
        return json.dumps(json.loads(stream.read(int.from_bytes(stream.read(8), "little"))))


def small_runs(parity, models):
    """(model folder, scheduler class, guidance, LoRA) for the small models; LoRAs come from the recorded cases."""
    loras = {"tiny-sd1": parity / "cases" / "sample_sd1_lora" / "lora.safetensors"}
    for name, others in [
        ("tiny-sd1", ["DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler"]),
        ("tiny-sd2", ["PNDMScheduler", "UniPCMultistepScheduler"]),
        ("tiny-sdxl", ["DDIMScheduler", "LCMScheduler"]),
    ]:
        model = complete_model(parity, name, models)
        for scheduler in [None, *others]:
            yield model, scheduler, 5.0, None
        if name in loras:
            yield model, None, 7.5, f"{loras[name]}:0.6"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--selma", type=Path, required=True)
    parser.add_argument("--parity", type=Path, default=PARITY, help="where the small models are")
    parser.add_argument("--model", type=Path, help="a complete diffusers folder")
    parser.add_argument("--lora", metavar="FILE[:SCALE]")
    parser.add_argument("--prompt", default="a lighthouse in a storm, oil painting")
    parser.add_argument("--negative", default="blurry")
    parser.add_argument("--scheduler", help="a diffusers scheduler class; left out: the model's own")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--height", type=int, default=40)
    parser.add_argument("--width", type=int, default=24)
    parser.add_argument("--keep", type=Path, help="write the cases here and keep them")
    arguments = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as temporary:
        root = Root(arguments.keep or temporary)
        models = root.folder / "models"
        models.mkdir(parents=True, exist_ok=True)
        if arguments.model:
            model = models / arguments.model.name
            model.symlink_to(arguments.model.resolve())
            runs = [(model, arguments.scheduler, arguments.guidance, arguments.lora)]
        else:
            runs = small_runs(arguments.parity, models)
        for i, (model, scheduler, guidance, lora) in enumerate(runs):
            name = f"{i}_{model.name}_{scheduler or 'own'}{'_lora' if lora else ''}"
            folder = write_case(
                root,
                model,
                name,
                arguments.prompt,
                arguments.negative,
                scheduler,
                arguments.steps,
                guidance,
                arguments.height,
                arguments.width,
                lora,
            )
            result = subprocess.run(
                [arguments.selma.resolve(), "verify", folder, "--root", root.folder], capture_output=True, text=True
            )
            report.check(result.returncode == 0, name, (result.stdout + result.stderr).strip())
    report.exit()


if __name__ == "__main__":
    main()
