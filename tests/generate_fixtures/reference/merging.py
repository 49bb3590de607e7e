"""Kinds merge (peft's add_weighted_adapter) and lora_formats (one LoRA, several files)."""

import logging

import torch
from peft import LoraConfig, get_peft_model
from peft.utils.error import NoMatchingPeftModuleError

from .files import relative_error
from .loras import Factors, base_weights, pipeline_deltas, read_lora
from .networks import load_unet
from .sampling import load_pipeline


@torch.no_grad()
def merge(case, inputs, root, folder):
    unet = load_unet(root.path(case["model"]))
    weights = {"unet": base_weights(unet, "unet")}
    loras = [read_lora(folder / lora["file"], weights, unet) for lora in case["inputs"]]
    model = None
    for i, (entry, lora) in enumerate(zip(case["inputs"], loras)):
        config = LoraConfig(
            r=entry["rank"], lora_alpha=entry["alpha"], target_modules=[m for _, m in lora], init_lora_weights=False
        )
        if model is None:
            model = get_peft_model(unet, config, adapter_name=f"lora{i}")
        else:
            model.add_adapter(f"lora{i}", config)
    layers = {name.removeprefix("base_model.model."): m for name, m in model.named_modules() if hasattr(m, "lora_A")}
    for i, lora in enumerate(loras):
        for (_, module), f in lora.items():
            assert (f.rank, f.alpha) == (case["inputs"][i]["rank"], case["inputs"][i]["alpha"]), module
            layers[module].lora_A[f"lora{i}"].weight.copy_(f.down)
            layers[module].lora_B[f"lora{i}"].weight.copy_(f.up)
    model.base_model.add_weighted_adapter(
        [f"lora{i}" for i in range(len(loras))],
        case["weights"],
        "merged",
        combination_type=case["method"],
        svd_rank=case["svd_rank"],
        density=case["density"],
        majority_sign_method=case["majority_sign_method"],
    )
    outputs = {}
    for module, layer in layers.items():
        if "merged" in layer.lora_A:
            f = Factors(layer.lora_A["merged"].weight, layer.lora_B["merged"].weight, 1.0)
            outputs[f"out.delta.{module}"] = (f.delta() * f.rank * layer.scaling["merged"]).float()
    return outputs


@torch.no_grad()
def lora_formats(case, inputs, root, folder):
    """The deltas of the first file, after making sure that every file gives them, by our reader and by diffusers'."""
    pipeline = load_pipeline(root, case["model"])
    components = ("unet", "text_encoder", "text_encoder_2")
    weights = {c: base_weights(getattr(pipeline, c), c) for c in components if getattr(pipeline, c, None) is not None}
    expected = None
    for entry in case["files"]:
        lora = read_lora(folder / entry["file"], weights, pipeline.unet)
        deltas = {key: f.delta() for key, f in lora.items()}
        if expected is None:
            expected = deltas
        check_equal(deltas, expected, f"{folder.name}/{entry['file']} as read here")
        theirs = deltas_in_diffusers(root, case["model"], folder, entry)
        if theirs is None:
            logging.warning("%s/%s: diffusers does not load it", folder.name, entry["file"])
        else:
            check_equal(theirs, expected, f"{folder.name}/{entry['file']} in diffusers")
    return {f"out.delta.{component}.{module}": delta.float() for (component, module), delta in expected.items()}


def deltas_in_diffusers(root, model, folder, entry):
    """None where diffusers cannot load the file: with transformers 5, metadata that names text-encoder modules."""
    pipeline = load_pipeline(root, model)
    try:
        pipeline.load_lora_weights(str(folder), weight_name=entry["file"], adapter_name="lora")
    except NoMatchingPeftModuleError:
        return None
    return pipeline_deltas(pipeline)


def check_equal(deltas, expected, what):
    """Reports, without failing, where diffusers and the file format disagree: a fact to know, not a reason to stop."""
    missing = sorted(expected.keys() - deltas.keys())
    wrong = [key for key in expected if key in deltas and relative_error(deltas[key].squeeze(), expected[key].squeeze()) > 1e-5]
    if missing or wrong or deltas.keys() - expected.keys():
        logging.warning(
            "%s: %d of %d modules missing (%s ...), %d differ (%s ...)",
            what,
            len(missing),
            len(expected),
            missing[:2],
            len(wrong),
            wrong[:2],
        )
