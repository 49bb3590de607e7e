"""DoRA as peft and LyCORIS compute it: tests/fixtures/dora.safetensors.

Packages: tests/interop/requirements.txt, and lycoris-lora==4.1.3. A case NAME has the weight of a layer as NAME.weight, linear
[6, 9] or a convolution [5, 4, 3, 3], what the adapter stores as NAME.file.KEY, and the weight with the adapter merged as
NAME.merged; of peft's also NAME.half, at half its strength. LyCORIS's norm has NAME.weight, NAME.bias and both merged."""

from pathlib import Path

import torch
from lycoris.modules.locon import LoConModule
from lycoris.modules.norms import NormModule
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file

torch.manual_seed(0)


class One(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.proj = layer


def linear():
    return torch.nn.Linear(9, 6, bias=False)


def conv():
    return torch.nn.Conv2d(4, 5, 3, padding=1, bias=False)


def peft(layer):
    model = get_peft_model(One(layer), LoraConfig(r=2, lora_alpha=3, target_modules=["proj"], use_dora=True))
    randomise(model)
    prefix = "base_model.model.proj."
    stored = {key.removeprefix(prefix): x.clone() for key, x in get_peft_model_state_dict(model).items()}
    merged = {}
    for name, strength in (("half", 0.5), ("merged", 1.0)):
        one = model.base_model.model.proj
        one.set_scale("default", strength)
        one.merge()
        merged[name] = one.base_layer.weight.detach().clone()
        one.unmerge()
    return stored, merged


def lycoris(layer, wd_on_out):
    module = LoConModule("module", layer, 1.0, 2, 3.0, weight_decompose=True, wd_on_out=wd_on_out)
    randomise(module)
    stored = {key: x.detach().clone() for key, x in module.custom_state_dict().items()}
    return stored, {"merged": module.get_merged_weight(1.0)[0].detach()}


@torch.no_grad()
def randomise(module):
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.copy_(0.5 * torch.randn_like(parameter) + (1.0 if "magnitude" in str(type(parameter)) else 0.0))


CASES = {
    "peft_linear": (linear, peft),
    "peft_conv": (conv, peft),
    "rows_linear": (linear, lambda layer: lycoris(layer, True)),
    "rows_conv": (conv, lambda layer: lycoris(layer, True)),
    "columns_linear": (linear, lambda layer: lycoris(layer, False)),
    "columns_conv": (conv, lambda layer: lycoris(layer, False)),
}
tensors = {}
for name, (make, adapter) in CASES.items():
    layer = make()
    tensors[f"{name}.weight"] = layer.weight.detach().clone()
    stored, merged = adapter(layer)
    tensors |= {f"{name}.file.{key}": x for key, x in stored.items()}
    tensors |= {f"{name}.{key}": x for key, x in merged.items()}

norm = torch.nn.GroupNorm(2, 4)
randomise(norm)
module = NormModule("module", norm, 1.0)
randomise(module)
weight, bias = module.get_merged_weight(1.0)
tensors |= {"norm.weight": norm.weight, "norm.bias": norm.bias, "norm.merged_weight": weight, "norm.merged_bias": bias}
tensors |= {"norm.file.w_norm": module.w_norm, "norm.file.b_norm": module.b_norm}
out = {key: x.detach().float().clone(memory_format=torch.contiguous_format) for key, x in tensors.items()}
save_file(out, Path(__file__).parents[1] / "fixtures/dora.safetensors")
print({key: list(x.shape) for key, x in out.items()})
