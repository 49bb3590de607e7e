"""Kinds lora_train and lora_train_text: the loop of diffusers' train_text_to_image_lora.py with everything random given; with
LoRA layers in the text encoders too as in train_dreambooth_lora.py and train_dreambooth_lora_sdxl.py."""

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from peft import LoraConfig

from .files import read_json
from .networks import load_text_encoder, load_tokenizer, load_unet, tokenize


def add_adapter(unet, case):
    unet.requires_grad_(False)
    unet.add_adapter(
        LoraConfig(
            r=case["rank"],
            lora_alpha=case["alpha"],
            target_modules=case["target_modules"],
            init_lora_weights="gaussian",
            use_dora=case.get("dora", False),
        )
    )
    return {"unet." + name.replace(".default", ""): p for name, p in sorted(unet.named_parameters()) if p.requires_grad}


def micro_batch_loss(case, unet, schedule, inputs):
    """Loss, noisy latents, target and prediction of one micro-batch; `inputs` without the `in.<i>.` prefix."""
    latents, noise, timesteps = inputs["latents"], inputs["noise"], inputs["timesteps"]
    noisy = schedule.add_noise(latents, noise, timesteps)
    v_prediction = case["prediction_type"] == "v_prediction"
    target = schedule.get_velocity(latents, noise, timesteps) if v_prediction else noise
    added = None
    if "add_text_embeds" in inputs:
        added = {"text_embeds": inputs["add_text_embeds"], "time_ids": inputs["add_time_ids"]}
    prediction = unet(noisy, timesteps, inputs["encoder_hidden_states"], added_cond_kwargs=added, return_dict=False)[0]
    if case["snr_gamma"] is None:
        loss = F.mse_loss(prediction.float(), target.float(), reduction="mean")
    else:
        snr = compute_snr(schedule, timesteps)
        weight = torch.stack([snr, case["snr_gamma"] * torch.ones_like(timesteps)], dim=1).min(dim=1)[0]
        weight = weight / (snr + 1) if v_prediction else weight / snr
        loss = F.mse_loss(prediction.float(), target.float(), reduction="none")
        loss = (loss.mean(dim=list(range(1, len(loss.shape)))) * weight).mean()
    return loss, noisy, target, prediction


def lora_train(case, inputs, root, folder):
    unet = load_unet(root.path(case["model"])).train()
    parameters = add_adapter(unet, case)
    initial = {name.removeprefix("lora.init."): x for name, x in inputs.items() if name.startswith("lora.init.")}
    assert initial.keys() == parameters.keys(), sorted(initial.keys() ^ parameters.keys())[:4]
    for name, p in parameters.items():
        p.data.copy_(initial[name])
    schedule = DDPMScheduler(prediction_type=case["prediction_type"], **case["noise_schedule"])
    options = {key: value for key, value in case["optimizer"].items() if key != "name"}
    optimizer = torch.optim.AdamW(parameters.values(), **dict(options, betas=tuple(options["betas"])))
    outputs, norms = {"out.alphas_cumprod": schedule.alphas_cumprod.float()}, []
    for step in range(case["steps"]):
        for i in range(step * case["grad_accum"], (step + 1) * case["grad_accum"]):
            batch = {name.removeprefix(f"in.{i}."): x for name, x in inputs.items() if name.startswith(f"in.{i}.")}
            loss, noisy, target, prediction = micro_batch_loss(case, unet, schedule, batch)
            (loss / case["grad_accum"]).backward()
            outputs[f"out.{i}.loss"] = loss.detach().reshape(1)
            if i == 0:
                outputs |= {"out.0.noisy_latents": noisy, "out.0.target": target, "out.0.model_pred": prediction.detach()}
        if step == 0:
            outputs |= {f"out.grad.{name}": p.grad.clone() for name, p in parameters.items()}
        norms.append(torch.nn.utils.clip_grad_norm_(parameters.values(), case["max_grad_norm"]))
        optimizer.step()
        optimizer.zero_grad()
    outputs["out.grad_norm"] = torch.stack(norms)
    outputs |= {f"out.lora.{name}": p.detach().clone() for name, p in parameters.items()}
    return outputs


def text_modules(encoder, targets, is_xl_first):
    """Module names that get a LoRA. The last layer of SDXL's first encoder is read by nothing."""
    names = [name for name, _ in encoder.named_modules() if ".layers." in name and name.split(".")[-1] in targets]
    last = f".layers.{encoder.config.num_hidden_layers - 1}."
    return [name for name in names if not (is_xl_first and last in name)]


def add_text_adapter(encoder, component, case, is_xl_first):
    """Trained parameters under the names of files: transformers dropped CLIPTextModel's level `text_model`."""
    encoder.requires_grad_(False)
    encoder.add_adapter(
        LoraConfig(
            r=case["rank"], lora_alpha=case["alpha"], target_modules=text_modules(encoder, case["text_targets"], is_xl_first)
        )
    )
    named = {}
    for name, p in sorted(encoder.named_parameters()):
        if p.requires_grad:
            name = name.replace(".default", "")
            named[f"{component}.{name if name.startswith('text_model.') else 'text_model.' + name}"] = p
    return named


def text_states(encoders, tokenizers, captions):
    """Context and pooled text, as the pipelines make them."""
    outputs = [
        encoder(tokenize(tokenizer, captions), output_hidden_states=True) for encoder, tokenizer in zip(encoders, tokenizers)
    ]
    if len(outputs) == 1:
        return outputs[0].last_hidden_state, None
    return torch.cat([output.hidden_states[-2] for output in outputs], dim=-1), outputs[1].text_embeds


def networks(case, root):
    model = root.path(case["model"])
    unet = load_unet(model).train()
    components = [name for name in ("text_encoder", "text_encoder_2") if (model / name).is_dir()]
    encoders = [load_text_encoder(model, name).train() for name in components]
    folders = [name.replace("text_encoder", "tokenizer") for name in components]
    configurations = [read_json(model / folder / "tokenizer_config.json") for folder in folders]
    tokenizers = [load_tokenizer(root.path("clip_vocab"), configuration) for configuration in configurations]
    parameters = add_adapter(unet, case)
    for name, encoder in zip(components, encoders):
        parameters |= add_text_adapter(encoder, name, case, len(components) == 2 and name == "text_encoder")
    return unet, encoders, tokenizers, parameters


def groups(case, parameters):
    """Parameter groups: text encoders have their own learning rate, and B a multiple of A's (LoRA+)."""
    found = {}
    for name, p in parameters.items():
        lr = case["optimizer"]["lr"] if name.startswith("unet.") else case["text_lr"]
        lr *= case["lora_plus_ratio"] if ".lora_B." in name else 1.0
        found.setdefault(lr, []).append(p)
    return [{"params": params, "lr": lr} for lr, params in found.items()]


def lora_train_text(case, inputs, root, folder):
    unet, encoders, tokenizers, parameters = networks(case, root)
    initial = {name.removeprefix("lora.init."): x for name, x in inputs.items() if name.startswith("lora.init.")}
    assert initial.keys() == parameters.keys(), sorted(initial.keys() ^ parameters.keys())[:4]
    for name, p in parameters.items():
        p.data.copy_(initial[name])
    schedule = DDPMScheduler(prediction_type=case["prediction_type"], **case["noise_schedule"])
    options = {key: value for key, value in case["optimizer"].items() if key not in ("name", "lr")}
    optimizer = torch.optim.AdamW(groups(case, parameters), **dict(options, betas=tuple(options["betas"])))
    outputs, norms = {}, []
    for step, captions in enumerate(case["captions"]):
        batch = {name.removeprefix(f"in.{step}."): x for name, x in inputs.items() if name.startswith(f"in.{step}.")}
        batch["encoder_hidden_states"], pooled = text_states(encoders, tokenizers, captions)
        if pooled is not None:
            batch["add_text_embeds"] = pooled
        loss, *_ = micro_batch_loss(case, unet, schedule, batch)
        loss.backward()
        outputs[f"out.{step}.loss"] = loss.detach().reshape(1)
        if step == 0:
            outputs |= {f"out.grad.{name}": p.grad.clone() for name, p in parameters.items()}
            outputs["out.0.encoder_hidden_states"] = batch["encoder_hidden_states"].detach()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters.values(), case["max_grad_norm"]))
        optimizer.step()
        optimizer.zero_grad()
    outputs["out.grad_norm"] = torch.stack(norms)
    outputs |= {f"out.lora.{name}": p.detach().clone() for name, p in parameters.items()}
    return outputs
