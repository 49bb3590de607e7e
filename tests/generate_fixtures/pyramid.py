"""Noise of many resolutions as kohya's sd-scripts make it (pyramid_noise_like), from given numbers: tests/fixtures/pyramid.safetensors.

Packages: tests/interop/requirements.txt (torch, safetensors). Tensors are [h, w, c]; the levels are those of a batch of one."""

from pathlib import Path

import torch
from safetensors.torch import save_file

torch.manual_seed(0)
discount, shape, sizes = 0.4, (12, 9), [(12, 9), (5, 3), (2, 1)]
noise = torch.randn(1, 4, *shape, dtype=torch.float64)
tensors = {"noise": noise[0].permute(1, 2, 0).contiguous().float()}
total, upsample = noise.float().double(), torch.nn.Upsample(size=shape, mode="bilinear")
for i, size in enumerate(sizes):
    level = torch.randn(1, 4, *size, dtype=torch.float64).float().double()
    tensors[f"level.{i}"] = level[0].permute(1, 2, 0).contiguous().float()
    total = total + upsample(level) * discount**i
tensors["result"] = (total / total.std())[0].permute(1, 2, 0).contiguous().float()
save_file(tensors, Path(__file__).parents[1] / "fixtures/pyramid.safetensors", {"discount": str(discount)})
