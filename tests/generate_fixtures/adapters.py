"""Adapters of LyCORIS beside plain LoRA, and the change of the weight that each is: tests/fixtures/lycoris.safetensors.

Packages: torch==2.15.0, safetensors==0.8.0, lycoris-lora==4.1.3. A case NAME has the tensors of its state as NAME.KEY and the change as
NAME.delta, for a linear layer [16, 24] or a convolution [12, 8, 3, 3]."""

from pathlib import Path

import torch
import torch.nn.functional as F
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from safetensors.torch import save_file

torch.manual_seed(0)


def linear():
    return torch.nn.Linear(24, 16, bias=False)


def conv():
    return torch.nn.Conv2d(8, 12, 3, padding=1, bias=False)


CASES = {
    "loha_linear": (LohaModule, linear, dict(lora_dim=3, alpha=2.0)),
    "loha_conv": (LohaModule, conv, dict(lora_dim=3, alpha=2.0, use_tucker=False)),
    "loha_tucker": (LohaModule, conv, dict(lora_dim=3, alpha=2.0, use_tucker=True)),
    "lokr_linear": (LokrModule, linear, dict(lora_dim=2, alpha=1.0, factor=4)),
    "lokr_both": (LokrModule, linear, dict(lora_dim=1, alpha=1.0, factor=4, decompose_both=True)),
    "lokr_full": (LokrModule, linear, dict(lora_dim=100, alpha=7.0, factor=4)),
    "lokr_conv": (LokrModule, conv, dict(lora_dim=1, alpha=2.0, factor=2, use_tucker=False)),
    "lokr_tucker": (LokrModule, conv, dict(lora_dim=1, alpha=2.0, factor=2, use_tucker=True)),
}
tensors = {}
for name, (kind, layer, settings) in CASES.items():
    layer = layer()
    module = kind("module", layer, multiplier=1.0, **settings)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.5 * torch.randn_like(parameter))
    for key, value in module.state_dict().items():
        tensors[f"{name}.{key}"] = value.detach().float().clone()
    # What the layer does differently with it: get_diff_weight (4.1.3) has the scale twice.
    module.apply_to()
    module.eval()
    with torch.no_grad():
        delta = module.get_weight(layer.weight.shape).detach().float()
        x = torch.randn(2, *((24,) if layer.weight.dim() == 2 else (8, 5, 5)))
        without = F.linear(x, layer.weight) if layer.weight.dim() == 2 else F.conv2d(x, layer.weight, padding=1)
        change = F.linear(x, delta) if layer.weight.dim() == 2 else F.conv2d(x, delta, padding=1)
        assert torch.allclose(layer(x) - without, change, atol=1e-4, rtol=1e-4), name
    tensors[f"{name}.delta"] = delta.clone()
save_file({key: value.contiguous() for key, value in tensors.items()}, Path(__file__).parents[1] / "fixtures/lycoris.safetensors")
print({key: list(value.shape) for key, value in tensors.items()})
