"""Kinds lora_train and lora_train_text."""

from reference.files import Draw, read_json
from reference.loras import base_weights, matches
from reference.networks import load_unet
from reference.training import networks

from .build import SCHEDULE, Build, model_path
from .networks import conditioning

ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]
FEED_FORWARD = ["ff.net.0.proj", "ff.net.2"]
TRANSFORMER = ATTENTION + FEED_FORWARD + ["proj_in", "proj_out"]
CONVOLUTIONS = ["conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"]
EVERYTHING = (
    TRANSFORMER + CONVOLUTIONS + ["time_emb_proj", "conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"]
)

CASES = [
    dict(
        name="lora_train_small3_conv_v_snr_accum",
        model="small3",
        targets=["conv1", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "proj_in", "attn2.to_k"],
        rank=1,
        alpha=3,
        height=11,
        width=6,
        batch=2,
        steps=2,
        accumulation=2,
        v=True,
        gamma=5.0,
        tokens=9,
        # Not 1e-8, which makes a step of what f32 rounds its smallest gradient to: README.md has the numbers.
        optimizer=dict(lr=1e-3, betas=[0.9, 0.999], eps=1e-6, weight_decay=0.01),
    ),
    dict(
        name="lora_train_dora_sd1",
        model="tiny-sd1",
        targets=["to_q", "to_out.0", "ff.net.0.proj", "conv2", "proj_in"],
        rank=2,
        alpha=3,
        height=7,
        width=6,
        batch=2,
        dora=True,
        optimizer=dict(lr=1e-3, betas=[0.9, 0.999], eps=1e-6, weight_decay=0.01),
    ),
    dict(
        name="lora_train_small3_conv_rank3",
        model="small3",
        targets=TRANSFORMER + CONVOLUTIONS + ["time_emb_proj"],
        rank=3,
        alpha=6,
        height=11,
        width=6,
        batch=1,
        steps=2,
    ),
    dict(
        name="lora_train_small3_sdxl_v_snr_accum",
        model="small3-sdxl",
        targets=ATTENTION,
        rank=2,
        alpha=3,
        height=12,
        width=10,
        batch=2,
        steps=2,
        accumulation=2,
        v=True,
        gamma=5.0,
    ),
    dict(
        name="lora_train_tiny_sd2_v_snr_accum",
        model="tiny-sd2",
        targets=ATTENTION + FEED_FORWARD,
        rank=3,
        alpha=7,
        height=12,
        width=20,
        batch=3,
        steps=3,
        accumulation=2,
        v=True,
        gamma=1.0,
    ),
    dict(
        name="lora_train_three_sd1_attention_rank1",
        model="three-sd1",
        targets=ATTENTION,
        rank=1,
        alpha=1,
        height=12,
        width=20,
        batch=3,
    ),
    dict(
        name="lora_train_three_sd1_rank7_alpha3",
        model="three-sd1",
        targets=TRANSFORMER,
        rank=7,
        alpha=3,
        height=22,
        width=11,
        batch=2,
    ),
    dict(
        name="lora_train_three_sd1_conv_all",
        model="three-sd1",
        targets=TRANSFORMER + CONVOLUTIONS + ["time_emb_proj"],
        rank=3,
        alpha=6,
        height=22,
        width=11,
        batch=1,
    ),
    dict(
        name="lora_train_three_sd1_everything", model="three-sd1", targets=EVERYTHING, rank=2, alpha=1, height=8, width=8, batch=2
    ),
    dict(
        name="lora_train_three_sd1_up_only",
        model="three-sd1",
        targets=["up_blocks.2.attentions.0.transformer_blocks.0.attn2.to_q"],
        rank=4,
        alpha=4,
        height=9,
        width=7,
        batch=1,
    ),
    dict(
        name="lora_train_three_sd1_zero_b_snr",
        model="three-sd1",
        targets=["to_q", "to_v"],
        rank=3,
        alpha=3,
        height=12,
        width=8,
        batch=3,
        gamma=5.0,
        zero_b=True,
        steps=5,
    ),
    dict(
        name="lora_train_three_sd1_clipped",
        model="three-sd1",
        targets=ATTENTION,
        rank=3,
        alpha=9,
        height=16,
        width=12,
        batch=1,
        max_norm=0.01,
        optimizer=dict(lr=3e-3, betas=[0.8, 0.95], eps=1e-6, weight_decay=0.1),
    ),
    dict(
        name="lora_train_three_sd1_accum5",
        model="three-sd1",
        targets=ATTENTION,
        rank=3,
        alpha=3,
        height=8,
        width=12,
        batch=1,
        accumulation=5,
        steps=2,
    ),
    dict(
        name="lora_train_three_sd2_v",
        model="three-sd2",
        targets=TRANSFORMER,
        rank=7,
        alpha=14,
        height=11,
        width=22,
        batch=2,
        v=True,
    ),
    dict(
        name="lora_train_three_sd2_v_snr_accum",
        model="three-sd2",
        targets=ATTENTION,
        rank=3,
        alpha=1,
        height=12,
        width=20,
        batch=3,
        v=True,
        gamma=5.0,
        accumulation=3,
    ),
    dict(
        name="lora_train_three_sd2_v_zero_snr",
        model="three-sd2",
        targets=ATTENTION,
        rank=3,
        alpha=3,
        height=8,
        width=8,
        batch=2,
        v=True,
        gamma=5.0,
        schedule=dict(SCHEDULE, rescale_betas_zero_snr=True),
    ),
    dict(
        name="lora_train_three_sd2_long_prompt",
        model="three-sd2",
        targets=ATTENTION,
        rank=3,
        alpha=3,
        height=8,
        width=8,
        batch=1,
        tokens=154,
    ),
    dict(
        name="lora_train_three_sd1_linear_schedule",
        model="three-sd1",
        targets=["to_q"],
        rank=3,
        alpha=3,
        height=8,
        width=8,
        batch=2,
        schedule=dict(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", num_train_timesteps=1000),
    ),
    dict(
        name="lora_train_three_sdxl_attention",
        model="three-sdxl",
        targets=ATTENTION,
        rank=3,
        alpha=6,
        height=12,
        width=20,
        batch=3,
    ),
    dict(
        name="lora_train_three_sdxl_conv_odd",
        model="three-sdxl",
        targets=TRANSFORMER + CONVOLUTIONS,
        rank=2,
        alpha=1,
        height=22,
        width=11,
        batch=1,
    ),
    dict(
        name="lora_train_three_sdxl_embeddings",
        model="three-sdxl",
        targets=["add_embedding.linear_1", "add_embedding.linear_2", "time_embedding.linear_1", "time_emb_proj"],
        rank=3,
        alpha=3,
        height=8,
        width=8,
        batch=2,
    ),
    dict(name="lora_train_deep_sd1", model="deep-sd1", targets=ATTENTION, rank=8, alpha=8, height=16, width=16, batch=2),
    dict(
        name="lora_train_deep_sd1_conv",
        model="deep-sd1",
        targets=TRANSFORMER + CONVOLUTIONS + ["time_emb_proj"],
        rank=1,
        alpha=3,
        height=26,
        width=18,
        batch=1,
        steps=2,
    ),
    dict(
        name="lora_train_deep_sdxl",
        model="deep-sdxl",
        targets=ATTENTION,
        rank=3,
        alpha=3,
        height=16,
        width=16,
        batch=2,
        steps=2,
        accumulation=2,
    ),
]


def training(
    name,
    model,
    targets,
    rank,
    alpha,
    height,
    width,
    batch,
    steps=3,
    accumulation=1,
    v=False,
    gamma=None,
    zero_b=False,
    max_norm=1.0,
    tokens=77,
    schedule=None,
    optimizer=None,
    dora=False,
):
    def make(root, folder):
        draw = Draw(name)
        case = dict(
            kind="lora_train",
            model=model_path(model),
            rank=rank,
            alpha=alpha,
            target_modules=targets,
            prediction_type="v_prediction" if v else "epsilon",
            snr_gamma=gamma,
            noise_schedule=schedule or dict(SCHEDULE),
            optimizer=dict(name="AdamW", **(optimizer or dict(lr=1e-3, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.01))),
            max_grad_norm=max_norm,
            steps=steps,
            grad_accum=accumulation,
            train_batch_size=batch,
            **({"dora": True} if dora else {}),
        )
        config = read_json(root.path(model_path(model)) / "unet" / "config.json")
        inputs = {}
        for module, weight in sorted(base_weights(load_unet(root.path(model_path(model))), "unet").items()):
            if matches(module, targets):
                kernel = [1, 1] if weight.ndim == 4 else []
                inputs[f"lora.init.unet.{module}.lora_A.weight"] = draw.normal(
                    rank, *weight.shape[1:], scale=weight[0].numel() ** -0.5
                )
                inputs[f"lora.init.unet.{module}.lora_B.weight"] = draw.normal(
                    weight.shape[0], rank, *kernel, scale=0.0 if zero_b else 0.3 * rank**-0.5
                )
                if dora:
                    lengths = weight.flatten(1).norm(dim=1) * (1 + 0.1 * draw.normal(weight.shape[0]))
                    shape = [1, -1, 1, 1] if kernel else [-1]
                    inputs[f"lora.init.unet.{module}.lora_magnitude_vector.weight"] = lengths.reshape(shape)
        edges = [0, 999, 500]
        for i in range(steps * accumulation):
            inputs[f"in.{i}.latents"] = draw.normal(batch, 4, height, width)
            inputs[f"in.{i}.noise"] = draw.normal(batch, 4, height, width)
            inputs[f"in.{i}.timesteps"] = draw.integers(batch, below=1000)
            if i == 1:
                inputs["in.1.timesteps"][0] = edges[len(name) % 3]
            inputs |= conditioning(draw, config, batch, tokens, f"in.{i}.")
        return case, inputs

    return Build(name, model_path(model), make)


TEXTS = [
    dict(name="lora_train_text_sd1", model="tiny-sd1", text_targets=["q_proj", "k_proj", "v_proj", "out_proj"], rank=2, alpha=4),
    dict(
        name="lora_train_text_sdxl",
        model="tiny-sdxl",
        text_targets=["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
        rank=2,
        alpha=1,
        lora_plus_ratio=4.0,
    ),
]
CAPTIONS = [
    ["a red circle left of a blue square", "two cats"],
    ["a photo of a dog, three birds and a very long word: incomprehensibilities", ""],
    ["a green triangle", "A CAT!!!"],
]


def text_training(name, model, text_targets, rank, alpha, lora_plus_ratio=1.0):
    def make(root, folder):
        draw = Draw(name)
        case = dict(
            kind="lora_train_text",
            model=model_path(model),
            rank=rank,
            alpha=alpha,
            target_modules=ATTENTION,
            text_targets=text_targets,
            text_lr=4e-4,
            lora_plus_ratio=lora_plus_ratio,
            prediction_type="epsilon",
            snr_gamma=None,
            noise_schedule=dict(SCHEDULE),
            # Not 1e-8, which makes a step of what f32 rounds its smallest gradient to: README.md has the numbers.
            optimizer=dict(name="AdamW", lr=1e-3, betas=[0.9, 0.999], eps=1e-6, weight_decay=0.01),
            max_grad_norm=1.0,
            vocab="clip_vocab",
            captions=CAPTIONS,
        )
        inputs = {}
        for parameter, value in networks(case, root)[-1].items():
            spread = value[0].numel() ** -0.5 if ".lora_A." in parameter else 0.3 * rank**-0.5
            inputs[f"lora.init.{parameter}"] = draw.normal(*value.shape, scale=spread)
        config = read_json(root.path(model_path(model)) / "unet" / "config.json")
        for step, captions in enumerate(CAPTIONS):
            batch = len(captions)
            inputs[f"in.{step}.latents"] = draw.normal(batch, 4, 8, 6)
            inputs[f"in.{step}.noise"] = draw.normal(batch, 4, 8, 6)
            inputs[f"in.{step}.timesteps"] = draw.integers(batch, below=1000)
            drawn = conditioning(draw, config, batch, 1, f"in.{step}.")
            inputs |= {key: x for key, x in drawn.items() if key.endswith("time_ids")}
        return case, inputs

    return Build(name, model_path(model), make)


def cases():
    yield from (training(**options) for options in CASES)
    yield from (text_training(**options) for options in TEXTS)
