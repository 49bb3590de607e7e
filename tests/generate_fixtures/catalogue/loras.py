"""Kinds merge, bake and lora_formats."""

from reference.files import Draw
from reference.loras import base_weights, draw_lora, metadata_of, sgm_names, write_lora
from reference.networks import load_unet
from reference.sampling import load_pipeline

from .build import Build, model_path
from .training import ATTENTION, CONVOLUTIONS, FEED_FORWARD, TRANSFORMER

SOME = ["attn1.to_q", "proj_in", "down_blocks.0.resnets.0.conv1"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj"]

# (suffix, method, [(rank, alpha, targets)], weights, options)
MERGES = [
    ("cat_one", "cat", [(3, 6, SOME)], [0.7], {}),
    ("cat_disjoint", "cat", [(3, 1, ["attn1.to_q"]), (5, 5, ["attn2.to_v", "conv1"])], [1.0, -2.0], {}),
    ("cat_conv", "cat", [(3, 1, CONVOLUTIONS), (1, 4, CONVOLUTIONS + ["to_q"])], [0.5, 0.5], {}),
    ("cat_seven", "cat", [(1, 1, ["to_v"])] * 7, [1 / 7] * 7, {}),
    ("linear_conv", "linear", [(3, 6, SOME), (3, 1, SOME)], [0.5, -0.8], {}),
    ("linear_three", "linear", [(2, 2, ["to_q"]), (2, 4, ["to_q", "to_k"]), (2, 1, ["to_k"])], [1.0, 0.3, -0.3], {}),
    ("linear_zero_weight", "linear", [(2, 2, ["to_q"]), (2, 4, ["to_q"])], [0.0, 1.0], {}),
    ("svd_default_rank", "svd", [(4, 4, ["to_q", "proj_in"]), (2, 2, ["to_q"])], [0.6, 0.4], {}),
    ("svd_conv_alpha", "svd", [(3, 6, SOME), (2, 1, SOME)], [0.9, -0.5], dict(svd_rank=4)),
    ("svd_rank1", "svd", [(3, 3, ["to_v"]), (3, 3, ["to_v"])], [0.5, 0.5], dict(svd_rank=1)),
    (
        "ties_frequency",
        "ties",
        [(3, 6, SOME), (3, 1, SOME), (3, 3, SOME)],
        [1.0, 0.7, -0.4],
        dict(density=0.6, majority_sign_method="frequency"),
    ),
    ("ties_full_density", "ties", [(2, 2, ["to_q"]), (2, 2, ["to_q"])], [1.0, 1.0], dict(density=1.0)),
    ("ties_low_density", "ties", [(4, 4, SOME), (4, 4, SOME)], [1.0, 1.0], dict(density=0.05)),
    ("ties_partial_overlap", "ties", [(3, 3, ["to_q"]), (3, 3, ["to_q", "to_v"])], [1.0, 0.5], dict(density=0.5)),
    (
        "magnitude_prune_three",
        "magnitude_prune",
        [(3, 6, SOME), (3, 1, SOME), (3, 3, ["to_q"])],
        [1.0, -0.7, 0.4],
        dict(density=0.45),
    ),
    (
        "magnitude_prune_svd",
        "magnitude_prune_svd",
        [(3, 6, SOME), (2, 2, SOME)],
        [1.0, -0.7],
        dict(density=0.35, svd_rank=5),
    ),
    (
        "magnitude_prune_svd_default_rank",
        "magnitude_prune_svd",
        [(3, 3, ["to_q"]), (2, 2, ["to_q"])],
        [1.0, 0.7],
        dict(density=0.8),
    ),
    (
        "ties_svd_frequency",
        "ties_svd",
        [(3, 6, SOME), (2, 2, SOME), (4, 4, SOME)],
        [1.0, 0.7, 0.2],
        dict(density=0.5, svd_rank=6, majority_sign_method="frequency"),
    ),
    ("ties_svd_full_density", "ties_svd", [(2, 2, ["to_v"]), (2, 2, ["to_v"])], [0.5, 0.5], dict(density=1.0, svd_rank=4)),
]


def modules_of(root, model):
    return {"unet": base_weights(load_unet(root.path(model_path(model))), "unet")}


def merge(suffix, method, adapters, weights, options, model="small3", style="peft"):
    name = f"merge_{suffix}"

    def make(root, folder):
        draw, modules = Draw(name), modules_of(root, model)
        inputs = []
        for i, (rank, alpha, targets) in enumerate(adapters):
            lora = draw_lora(draw, modules, rank, alpha, {"unet": targets})
            write_lora(folder / f"lora.{i}.safetensors", lora, style, metadata=metadata_of(lora) if style == "peft" else None)
            inputs.append(dict(file=f"lora.{i}.safetensors", format=style, rank=rank, alpha=alpha))
        case = (
            dict(
                kind="merge",
                op="merge",
                model=model_path(model),
                method=method,
                weights=weights,
                density=None,
                svd_rank=None,
                majority_sign_method="total",
                inputs=inputs,
            )
            | options
        )
        return case, {}

    return Build(name, model_path(model), make)


# (suffix, model, [(style, rank, alpha, targets, text targets, scale)]); style sgm = kohya with original block names
BAKES = [
    ("three_sd1_conv", "three-sd1", [("kohya", 3, 6, TRANSFORMER + CONVOLUTIONS + ["time_emb_proj"], [], 0.6)]),
    ("three_sd1_diffusers", "three-sd1", [("diffusers", 3, 3, ATTENTION, TEXT, -1.2)]),
    (
        "three_sd2_three",
        "three-sd2",
        [("peft", 1, 1, ATTENTION, TEXT, 0.5), ("kohya", 7, 2, TRANSFORMER, TEXT, 1.0), ("kohya", 2, 2, ["to_q"], [], -0.7)],
    ),
    ("three_sdxl_sgm", "three-sdxl", [("sgm", 3, 1, TRANSFORMER, TEXT + ["fc1", "fc2"], 0.9)]),
    ("deep_sd1_mixed", "deep-sd1", [("kohya", 4, 2, TRANSFORMER, TEXT, 0.7), ("diffusers", 2, 2, ATTENTION, [], 0.7)]),
    (
        "deep_sdxl_sgm_conv",
        "deep-sdxl",
        [("sgm", 2, 4, ["attn2.to_k", "proj_out"] + CONVOLUTIONS + ["time_emb_proj"], TEXT, 1.0)],
    ),
    (
        "tiny_sd2_conv",
        "tiny-sd2",
        [
            ("kohya", 3, 1, ["proj_in", "mid_block.attentions.0.transformer_blocks.0.ff.net.2", "downsamplers.0.conv"], [], 0.5),
            ("peft", 1, 1, ["attn2.to_v"], ["v_proj", "out_proj"], -0.25),
        ],
    ),
]


def bake(suffix, model, loras):
    name = f"bake_{suffix}"

    def make(root, folder):
        draw, pipeline, inputs = Draw(name), load_pipeline(root, model_path(model)), []
        components = [c for c in ("unet", "text_encoder", "text_encoder_2") if getattr(pipeline, c, None) is not None]
        modules = {c: base_weights(getattr(pipeline, c), c) for c in components}
        for i, (style, rank, alpha, targets, text, scale) in enumerate(loras):
            lora = draw_lora(draw, modules, rank, alpha, {"unet": targets, "text_encoder": text, "text_encoder_2": text})
            names = sgm_names(pipeline.unet) if style == "sgm" else None
            style = "kohya" if style == "sgm" else style
            write_lora(folder / f"lora.{i}.safetensors", lora, style, names)
            inputs.append(dict(file=f"lora.{i}.safetensors", format=style, rank=rank, alpha=alpha, scale=scale))
        return dict(kind="bake", model=model_path(model), inputs=inputs), {}

    return Build(name, model_path(model), make)


# (suffix, model, UNet targets, text targets, half precision, mixed ranks)
FORMATS = [
    ("three_sd1", "three-sd1", ATTENTION, TEXT, False, False),
    ("three_sd1_conv_mixed", "three-sd1", TRANSFORMER + CONVOLUTIONS + ["time_emb_proj"], [], False, True),
    ("three_sd2_half", "three-sd2", TRANSFORMER, TEXT, True, False),
    ("deep_sd1", "deep-sd1", ATTENTION, TEXT, False, False),
    ("deep_sd1_all_mixed", "deep-sd1", TRANSFORMER + CONVOLUTIONS + ["time_emb_proj"], TEXT + ["fc1", "fc2"], False, True),
    ("three_sdxl", "three-sdxl", ATTENTION + FEED_FORWARD, TEXT + ["fc1", "fc2"], False, False),
    ("deep_sdxl_half", "deep-sdxl", ["attn1.to_out.0", "attn2.to_k"] + CONVOLUTIONS, TEXT, True, False),
    ("deep_sdxl_mixed", "deep-sdxl", ["attn1.to_v", "proj_in", "time_emb_proj"] + CONVOLUTIONS, [], False, True),
    (
        "tiny_sd2_half_mixed",
        "tiny-sd2",
        ["attn1.to_q", "mid_block.attentions.0.proj_in", "down_blocks.0.downsamplers.0.conv"],
        [],
        True,
        True,
    ),
]


def scaled(lora, alpha_factor, up_factor):
    """The same delta with another alpha: alpha times one factor, the up matrix times its inverse."""
    return {key: type(f)(f.down, f.up * up_factor, f.alpha * alpha_factor) for key, f in lora.items()}


def lora_formats(suffix, model, targets, text, half, mixed):
    name = f"lora_formats_{suffix}"

    def make(root, folder):
        draw, pipeline = Draw(name), load_pipeline(root, model_path(model))
        components = [c for c in ("unet", "text_encoder", "text_encoder_2") if getattr(pipeline, c, None) is not None]
        modules = {c: base_weights(getattr(pipeline, c), c) for c in components}

        def rank(component, module):
            return 1 + len(module) % 3 if mixed else 2

        lora = draw_lora(draw, modules, rank, rank, {"unet": targets, "text_encoder": text, "text_encoder_2": text})
        if half:
            lora = {key: type(f)(f.down.half(), f.up.half(), f.alpha) for key, f in lora.items()}
        attention_only = set(targets) <= set(ATTENTION) and set(text) <= set(TEXT)
        original = sgm_names(pipeline.unet)
        doubled, halved = scaled(lora, 2, 0.5), scaled(lora, 0.5, 2)
        files = [
            ("peft", "peft", lora, None, "no alpha stored: alpha = rank"),
            (
                "peft_meta",
                "peft",
                doubled,
                metadata_of(doubled),
                "alpha = 2*rank in the header's lora_adapter_metadata; lora_B halved",
            ),
            ("diffusers", "diffusers", lora, None, "no alpha stored: alpha = rank"),
        ]
        if attention_only:
            files.append(("diffusers_old", "diffusers_old", lora, None, "attention processors; no alpha stored: alpha = rank"))
        files.append(("kohya", "kohya", halved, None, "alpha = rank/2 stored; lora_up doubled; diffusers-style block names"))
        if "text_encoder_2" in components:
            files.append(
                (
                    "kohya_sgm",
                    "kohya_sgm",
                    halved,
                    None,
                    "alpha = rank/2 stored; lora_up doubled; input_blocks/output_blocks names",
                )
            )
        entries = []
        for file, style, content, metadata, note in files:
            names = original if style == "kohya_sgm" else None
            style = "kohya" if style == "kohya_sgm" else style
            write_lora(folder / f"{file}.safetensors", content, style, names, metadata)
            entries.append(dict(file=f"{file}.safetensors", format=style, note=note))
        return dict(kind="lora_formats", model=model_path(model), rank=None if mixed else 2, files=entries), {}

    return Build(name, model_path(model), make)


def cases():
    yield from (merge(*arguments) for arguments in MERGES)
    yield merge("kohya_linear", "linear", [(3, 6, SOME), (3, 1, SOME)], [0.5, 0.8], {}, style="kohya")
    yield merge(
        "three_sdxl_ties_svd",
        "ties_svd",
        [(3, 3, ATTENTION), (3, 6, ATTENTION)],
        [1.0, 0.5],
        dict(density=0.5, svd_rank=8),
        model="three-sdxl",
    )
    yield merge("deep_sd1_cat", "cat", [(4, 4, ATTENTION), (2, 1, TRANSFORMER)], [0.5, 0.5], {}, model="deep-sd1")
    yield from (bake(*arguments) for arguments in BAKES)
    yield from (lora_formats(*arguments) for arguments in FORMATS)
