"""Gradients of an added token's embeddings in both text encoders of SDXL: tests/fixtures/token_gradients.safetensors.

Packages: tests/interop/requirements.txt (torch, diffusers, transformers, safetensors). The model is the recorded tiny-sdxl. One
denoising loss of two captions, as diffusers' textual_inversion_sdxl.py computes it, but for the pooled text: it is taken at the
first end token, because an added token's id is larger than that of the end token, where argmax would land."""

from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

TESTS = Path(__file__).parents[1]
MODEL, VOCAB = TESTS / "fixtures/parity/models/tiny-sdxl", TESTS / "fixtures/parity/clip_vocab"
CAPTIONS = ["a photo of a <x>", "two <x> on a table, seen from far away"]
END, NEW = 49407, 49408


def encoder(kind, name):
    model = kind.from_pretrained(MODEL / name, torch_dtype=torch.float32).eval().requires_grad_(False)
    model.resize_token_embeddings(NEW + 1, mean_resizing=False)
    return model


def ids(pad):
    tokenizer = CLIPTokenizer(str(VOCAB / "vocab.json"), str(VOCAB / "merges.txt"), pad_token=pad)
    assert tokenizer.add_tokens(["<x>"]) == 1 and tokenizer.convert_tokens_to_ids("<x>") == NEW
    return tokenizer(CAPTIONS, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


def states(model, tokens, row):
    """All hidden states and the last one, with `row` as the embedding of the added token."""
    table = model.get_input_embeddings()

    def with_row(_, inputs, output):
        return torch.where((inputs[0] == NEW).unsqueeze(-1), row, output)

    hook = table.register_forward_hook(with_row)
    out = model(tokens, output_hidden_states=True)
    hook.remove()
    return out.hidden_states[-2], out.hidden_states[-1]


def main():
    torch.manual_seed(0)
    first, second = encoder(CLIPTextModel, "text_encoder"), encoder(CLIPTextModelWithProjection, "text_encoder_2")
    unet = UNet2DConditionModel.from_pretrained(MODEL / "unet", torch_dtype=torch.float32).eval().requires_grad_(False)
    tokens = [ids("<|endoftext|>"), ids("!")]
    rows = [model.get_input_embeddings().weight[1125].clone() + 0.01 * torch.randn(model.config.hidden_size) for model in (first, second)]
    rows = [row.requires_grad_() for row in rows]
    size = unet.config.sample_size if unet.config.sample_size and unet.config.sample_size <= 16 else 8
    latents, noise = torch.randn(2, 4, size, size), torch.randn(2, 4, size, size)
    timesteps = torch.tensor([120, 730])
    time_ids = torch.tensor([[64.0, 64, 0, 0, 64, 64], [80.0, 72, 4, 8, 64, 64]])
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")

    def loss(detached):
        one, _ = states(first, tokens[0], rows[0])
        two, last = states(second, tokens[1], rows[1])
        end = (tokens[1] == END).int().argmax(dim=-1)
        norm = second.text_model.final_layer_norm if hasattr(second, "text_model") else second.final_layer_norm
        pooled = second.text_projection(norm(last)[torch.arange(2), end])
        pooled = pooled.detach() if detached else pooled
        added = {"text_embeds": pooled, "time_ids": time_ids}
        noisy = scheduler.add_noise(latents, noise, timesteps)
        out = unet(noisy, timesteps, torch.cat([one, two], dim=-1), added_cond_kwargs=added, return_dict=False)[0]
        return torch.nn.functional.mse_loss(out, noise), pooled

    whole, pooled = loss(False)
    gradients = torch.autograd.grad(whole, rows)
    without = torch.autograd.grad(loss(True)[0], rows)
    tensors = {"in.latents": latents, "in.noise": noise, "in.timesteps": timesteps, "in.time_ids": time_ids}
    tensors |= {f"in.row.{i}": row for i, row in enumerate(rows)}
    tensors |= {f"in.ids.{i}": row for i, row in enumerate(tokens)}
    tensors |= {"out.loss": whole.reshape(1), "out.pooled": pooled, "out.without_pooled.1": without[1]}
    tensors |= {f"out.grad.{i}": gradient for i, gradient in enumerate(gradients)}
    tensors = {name: x.detach().contiguous().clone() for name, x in tensors.items()}
    save_file(tensors, TESTS / "fixtures/token_gradients.safetensors", {"captions": "\n".join(CAPTIONS)})


main()
