"""What other implementations of optimizers do with given gradients: tests/fixtures/optimizers.safetensors.

Packages: tests/interop/requirements.txt, and prodigyopt==1.1.2, lion-pytorch==0.2.5, schedulefree==1.4.1. Everything is
computed in float64 and stored as float32. Gradients are those of a quadratic at the reference's own values, with noise,
rounded to float32 before they are used.

Tensors of a case NAME: NAME.start [n], NAME.lr [t], NAME.gradients [t, n], NAME.values [t, n] (after each update), and
NAME.result [n] where the result is another than the last values. The metadata holds the settings.
"""

import json
import math
from pathlib import Path

import torch
from lion_pytorch import Lion
from prodigyopt import Prodigy
from safetensors.torch import save_file
from schedulefree import AdamWScheduleFree
from transformers.optimization import Adafactor

SHAPES = [(6, 5), (10,), (4, 5), (3, 12)]
STEPS = 16
FLAT = [1.0] * STEPS
WARM = [min(1.0, step / 4) for step in range(STEPS)]

CASES = {
    "prodigy": (Prodigy, {"lr": 1.0}, FLAT),
    "prodigy_warm": (
        Prodigy,
        {
            "lr": 1.0, "betas": (0.9, 0.99), "weight_decay": 0.01, "d_coef": 2.0, "d0": 1e-4, "growth_rate": 1.5,
            "use_bias_correction": True, "safeguard_warmup": True,
        },
        WARM,
    ),
    "lion": (Lion, {"lr": 1e-2, "betas": (0.9, 0.99), "weight_decay": 0.1}, WARM),
    "sgd": (torch.optim.SGD, {"lr": 5e-2, "momentum": 0.9, "weight_decay": 1e-2}, FLAT),
    "sgd_nesterov": (torch.optim.SGD, {"lr": 5e-2, "momentum": 0.9, "nesterov": True}, WARM),
    "schedule_free": (AdamWScheduleFree, {"lr": 2e-2, "betas": (0.9, 0.999), "weight_decay": 0.01, "foreach": False}, WARM),
    "adafactor": (
        Adafactor,
        {"lr": 1e-2, "scale_parameter": False, "relative_step": False, "warmup_init": False, "weight_decay": 0.01},
        FLAT,
    ),
    "adafactor_scaled": (
        Adafactor,
        {"lr": 1e-2, "scale_parameter": True, "relative_step": False, "warmup_init": False, "beta1": 0.9},
        WARM[1:] + [1.0],
    ),
    "adafactor_relative": (
        Adafactor,
        {"lr": None, "scale_parameter": True, "relative_step": True, "warmup_init": False},
        FLAT,
    ),
    "adafactor_warm": (
        Adafactor,
        {"lr": None, "scale_parameter": True, "relative_step": True, "warmup_init": True},
        FLAT,
    ),
}


def flat(tensors):
    return torch.cat([x.detach().reshape(-1) for x in tensors]).clone()


def rounded(x):
    return x.to(torch.float32).to(torch.float64)


tensors, metadata = {}, {}
for number, (name, (kind, settings, factors)) in enumerate(CASES.items()):
    torch.manual_seed(number)
    # Prodigy's first steps are of 1e-6: float32 would round them by a tenth at values of 1.
    size = 1e-3 if kind is Prodigy else 1.0
    params = [torch.nn.Parameter(rounded(size * torch.randn(shape, dtype=torch.float64))) for shape in SHAPES]
    goals = [torch.randn(shape, dtype=torch.float64) for shape in SHAPES]
    curvatures = [torch.rand(shape, dtype=torch.float64) * 2 + 0.1 for shape in SHAPES]
    optimizer = kind(params, **settings)
    if kind is AdamWScheduleFree:
        optimizer.train()
    start, gradients, values, rates = flat(params), [], [], []
    for factor in factors:
        for p, goal, curvature in zip(params, goals, curvatures):
            p.grad = rounded(curvature * (p.detach() - goal) + 0.1 * torch.randn_like(p))
        gradients.append(flat([p.grad for p in params]))
        for group in optimizer.param_groups:
            if settings["lr"] is not None:
                group["lr"] = settings["lr"] * factor
        rates.append((settings["lr"] or 0.0) * factor)
        optimizer.step()
        values.append(flat(params))
    stored = {"start": start, "lr": torch.tensor(rates, dtype=torch.float64), "gradients": torch.stack(gradients),
              "values": torch.stack(values)}
    if kind is AdamWScheduleFree:
        optimizer.eval()
        stored["result"] = flat(params)
    for key, value in stored.items():
        assert all(map(math.isfinite, value.flatten().tolist())), name
        tensors[f"{name}.{key}"] = value.to(torch.float32)
    metadata[name] = json.dumps({key: value for key, value in settings.items() if value is not None})
save_file(tensors, Path(__file__).parents[1] / "fixtures/optimizers.safetensors", metadata)
