"""LoRA files in the styles that occur in practice: module names, writing, reading, and what a pipeline makes of them.

A LoRA here is a dictionary from (component, module) to Factors; components are unet, text_encoder and text_encoder_2,
modules have their checkpoint names (`text_model.` included for the text encoders).
"""

import json
from dataclasses import dataclass

import torch
from safetensors import safe_open

from .files import save_tensors

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")


@dataclass
class Factors:
    down: torch.Tensor
    up: torch.Tensor
    alpha: float

    @property
    def rank(self):
        return self.down.shape[0]

    def delta(self):
        """alpha / rank * up @ down in float64, in the shape of the base weight."""
        product = self.up.double().flatten(1) @ self.down.double().flatten(1)
        return self.alpha / self.rank * product.reshape(self.up.shape[0], *self.down.shape[1:])


def base_weights(model, component):
    """Checkpoint names and weights of the component's Linear and Conv2d modules."""
    prefix = "text_model." if component != "unet" and not hasattr(model, "text_model") else ""
    return {
        prefix + name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))
    }


def matches(module, targets):
    """peft's rule: a target names a module that is it, or ends in it after a dot."""
    return any(module == target or module.endswith("." + target) for target in targets)


def draw_lora(draw, weights, rank, alpha, targets):
    """Random factors for every module of `weights` ({component: {module: weight}}) that `targets[component]` names.

    `rank` and `alpha` are numbers or functions of (component, module)."""
    lora = {}
    for component, modules in weights.items():
        for module, weight in modules.items():
            if not matches(module, targets.get(component, ())):
                continue
            r = rank(component, module) if callable(rank) else rank
            a = alpha(component, module) if callable(alpha) else alpha
            shape = (r, *weight.shape[1:])
            fan_in = weight[0].numel()
            up = draw.normal(weight.shape[0], r, scale=0.6 * r**-0.5)
            lora[component, module] = Factors(
                draw.normal(*shape, scale=fan_in**-0.5), up[:, :, None, None] if weight.ndim == 4 else up, float(a)
            )
    return lora


# ---- names


def sgm_name(module, layers_per_block, upsampler_index):
    """The module's name in the original Stable Diffusion code, which SDXL kohya files use."""
    inner = {"conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
    outer = {
        "conv_in": "input_blocks.0.0",
        "conv_out": "out.2",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
    }
    if module in outer:
        return outer[module]
    parts = module.split(".")
    if parts[0] == "mid_block":
        kind, index, rest = parts[1], int(parts[2]), parts[3:]
        place = f"middle_block.{1 if kind == 'attentions' else 2 * index}"
    else:
        block, kind, index, rest = int(parts[1]), parts[2], int(parts[3]), parts[4:]
        first = block * (layers_per_block + 1)
        if kind == "downsamplers":
            return f"input_blocks.{1 + first + layers_per_block}.0.op"
        if kind == "upsamplers":
            return f"output_blocks.{first + layers_per_block}.{upsampler_index[block]}.conv"
        side = f"input_blocks.{1 + first + index}" if parts[0] == "down_blocks" else f"output_blocks.{first + index}"
        place = f"{side}.{1 if kind == 'attentions' else 0}"
    if kind == "resnets":
        rest = [inner.get(rest[0], rest[0])]
    return ".".join([place, *rest])


def sgm_names(unet):
    """{module: original name} for every Linear and Conv2d of a UNet."""
    index = {i: 2 if "CrossAttn" in kind else 1 for i, kind in enumerate(unet.config.up_block_types)}
    return {module: sgm_name(module, unet.config.layers_per_block, index) for module in base_weights(unet, "unet")}


def kohya_stem(component, module, two_encoders, names=None):
    prefix = {"unet": "lora_unet", "text_encoder": "lora_te1" if two_encoders else "lora_te", "text_encoder_2": "lora_te2"}[
        component
    ]
    if component == "unet" and names:
        module = names[module]
    return f"{prefix}_{module.replace('.', '_')}"


# ---- writing


def metadata_of(lora):
    """diffusers' `lora_adapter_metadata`: one LoraConfig a component: its commonest rank and alpha, and patterns."""
    entries = {}
    for component in COMPONENTS:
        modules = {module: f for (c, module), f in lora.items() if c == component}
        if not modules:
            continue
        ranks, alphas = [f.rank for f in modules.values()], [f.alpha for f in modules.values()]
        rank, alpha = max(set(ranks), key=ranks.count), max(set(alphas), key=alphas.count)
        config = dict(
            r=rank,
            lora_alpha=alpha,
            bias="none",
            lora_bias=False,
            lora_dropout=0.0,
            use_dora=False,
            use_rslora=False,
            target_modules=sorted(modules),
            rank_pattern={m: f.rank for m, f in modules.items() if f.rank != rank},
            alpha_pattern={m: f.alpha for m, f in modules.items() if f.alpha != alpha},
        )
        entries |= {f"{component}.{key}": value for key, value in config.items()}
    return {"lora_adapter_metadata": json.dumps(entries, indent=2, sort_keys=True)}


def tensors_of(lora, style, names=None):
    """{key: tensor} of a LoRA in a style: peft, diffusers, diffusers_old or kohya (with `names`: original block names)."""
    two_encoders = any(component == "text_encoder_2" for component, _ in lora)
    tensors = {}
    for (component, module), f in lora.items():
        if style == "kohya":
            stem = kohya_stem(component, module, two_encoders, names)
            down, up = f"{stem}.lora_down.weight", f"{stem}.lora_up.weight"
            tensors[f"{stem}.alpha"] = torch.tensor(f.alpha, dtype=f.down.dtype)
        elif style == "peft":
            down, up = f"{component}.{module}.lora_A.weight", f"{component}.{module}.lora_B.weight"
        elif style == "diffusers":
            name = "lora" if component == "unet" else "lora_linear_layer"
            down, up = f"{component}.{module}.{name}.down.weight", f"{component}.{module}.{name}.up.weight"
        elif style == "diffusers_old":
            head, projection = module.removesuffix(".0").rsplit(".", 1)
            if component == "unet":
                stem = f"unet.{head}.processor.{projection}_lora"
            else:
                stem = f"{component}.{head}.to_{projection.removesuffix('_proj')}_lora"
            down, up = f"{stem}.down.weight", f"{stem}.up.weight"
        else:
            raise ValueError(style)
        tensors[down], tensors[up] = f.down, f.up
    return tensors


def write_lora(path, lora, style, names=None, metadata=None):
    save_tensors(tensors_of(lora, style, names), path, metadata={"format": "pt", **(metadata or {})})


# ---- reading (peft, diffusers and kohya styles; enough for the cases, not a loader for the world)

DOWN = (".lora_A.weight", ".lora_linear_layer.down.weight", ".lora.down.weight", ".lora_down.weight", "_lora.down.weight")
UP = (".lora_B.weight", ".lora_linear_layer.up.weight", ".lora.up.weight", ".lora_up.weight", "_lora.up.weight")


def stems(weights, unet):
    """{every spelling of a module's stem: (component, module)}."""
    table, original = {}, sgm_names(unet)
    for component, modules in weights.items():
        for module in modules:
            table[f"{component}.{module}"] = component, module
            for two in (False, True):
                table[kohya_stem(component, module, two)] = component, module
                if component == "unet":
                    table[kohya_stem(component, module, two, original)] = component, module
            head, _, tail = module.removesuffix(".0").rpartition(".")
            if component == "unet" and ".attn" in module:
                table[f"unet.{head}.processor.{tail}"] = component, module
            elif ".self_attn." in module:
                table[f"{component}.{head}.to_{tail.removesuffix('_proj')}"] = component, module
    return table


def read_lora(path, weights, unet):
    table = stems(weights, unet)
    with safe_open(path, "pt") as file:
        metadata = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}
    parts, lora = {}, {}
    for key, x in tensors.items():
        for kind, suffixes in (("down", DOWN), ("up", UP), ("alpha", (".alpha",))):
            suffix = next((s for s in suffixes if key.endswith(s)), None)
            if suffix and key.removesuffix(suffix) in table:
                parts.setdefault(table[key.removesuffix(suffix)], {})[kind] = x
                break
        else:
            raise ValueError(f"{path}: {key} fits no module of the model")
    for (component, module), part in parts.items():
        alpha = metadata.get(f"{component}.lora_alpha", part["down"].shape[0])
        alpha = metadata.get(f"{component}.alpha_pattern", {}).get(module, alpha)
        lora[component, module] = Factors(part["down"], part["up"], float(part.get("alpha", alpha)))
    return lora


# ---- what a diffusers pipeline makes of it


def pipeline_deltas(pipeline):
    """{(component, module): dense delta} of everything that is adapted in a pipeline, as its layers would apply it."""
    deltas = {}
    for component in COMPONENTS:
        model = getattr(pipeline, component, None)
        if model is None:
            continue
        prefix = "text_model." if component != "unet" and not hasattr(model, "text_model") else ""
        for name, module in model.named_modules():
            for adapter in getattr(module, "lora_A", {}):
                f = Factors(module.lora_A[adapter].weight.detach(), module.lora_B[adapter].weight.detach(), 1.0)
                delta = f.delta() * f.rank * module.scaling[adapter]
                deltas[component, prefix + name] = deltas.get((component, prefix + name), 0) + delta
    return deltas
