"""Every value of both 8-bit float formats as float32: tests/fixtures/fp8.safetensors.

Packages: tests/interop/requirements.txt (torch, safetensors)."""

from pathlib import Path

import torch
from safetensors.torch import save_file

codes = torch.arange(256, dtype=torch.uint8)
tensors = {}
for name, dtype in [("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)]:
    tensors[name] = codes.clone().view(dtype)
    tensors[f"{name}.f32"] = codes.view(dtype).to(torch.float32)
save_file(tensors, Path(__file__).parents[1] / "fixtures/fp8.safetensors")
