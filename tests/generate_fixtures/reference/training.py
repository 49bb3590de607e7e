"""Kind lora_train: the loop of diffusers' train_text_to_image_lora.py with everything random given."""

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from peft import LoraConfig

from .networks import load_unet


def add_adapter(unet, case):
    unet.requires_grad_(False)
    unet.add_adapter(
        LoraConfig(r=case["rank"], lora_alpha=case["alpha"], target_modules=case["target_modules"], init_lora_weights="gaussian")
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
