"""Kind scheduler: diffusers' samplers stepped on given network outputs, and the forward noising."""

import sys

import diffusers
import torch
from diffusers.training_utils import compute_snr

from .files import replace_noise


def make(name, config):
    return getattr(diffusers, name)(**config)


def noise_source(scheduler):
    """The module whose `randn_tensor` the scheduler's step calls (deterministic classes have none)."""
    return sys.modules[type(scheduler).__module__]


class BrownianPath:
    """What DPMSolverSDEScheduler cuts out of torchsde's tree, made of given normals: fresh ones for each lower sigma."""

    def __init__(self, normals):
        self.normals, self.points, self.drawn = normals, {}, False

    def __call__(self, sigma, sigma_next):
        self.drawn = True
        sigma, sigma_next = float(sigma), float(sigma_next)
        self.points.setdefault(sigma, torch.zeros_like(self.normals[0], dtype=torch.float64))
        lowest = min(self.points)
        self.points[sigma_next] = self.points[lowest] + (lowest - sigma_next) ** 0.5 * self.normals[len(self.points) - 1].double()
        path = self.points[sigma_next] - self.points[sigma]
        return (path / (sigma - sigma_next) ** 0.5).to(self.normals.dtype)


def evaluations(case):
    """How often the network is called in a `sample` case."""
    scheduler = make(case["class"], case["config"])
    scheduler.set_timesteps(case["num_inference_steps"])
    return len(scheduler.timesteps)


def sample(case, inputs):
    """Returns the outputs, and whether any step drew noise."""
    scheduler = make(case["class"], case["config"])
    scheduler.set_timesteps(case["num_inference_steps"])
    assert len(scheduler.timesteps) == case["model_evaluations"]
    drew_noise = False
    path = hasattr(scheduler, "noise_sampler") and "in.noise" in inputs
    if path:
        scheduler.noise_sampler = path = BrownianPath(inputs["in.noise"])
    options = {"eta": case["eta"]} if "eta" in case else {}
    x = inputs["in.initial"] * scheduler.init_noise_sigma
    scaled, previous = [], []
    for i, t in enumerate(scheduler.timesteps):

        def draw(shape, i=i):
            nonlocal drew_noise
            drew_noise = True
            return inputs["in.noise"][i]

        scaled.append(scheduler.scale_model_input(x, t))
        with replace_noise(noise_source(scheduler), draw):
            x = scheduler.step(inputs["in.model_outputs"][i], t, x, **options, return_dict=False)[0]
        previous.append(x)
    drew_noise = drew_noise or (path and path.drawn)
    timesteps = scheduler.timesteps
    outputs = {
        "out.timesteps": timesteps.float() if timesteps.is_floating_point() else timesteps.long(),
        "out.alphas_cumprod": scheduler.alphas_cumprod.float(),
        "out.init_noise_sigma": torch.as_tensor(scheduler.init_noise_sigma).float().reshape(1),
        "out.scaled_inputs": torch.stack(scaled),
        "out.prev_samples": torch.stack(previous),
    }
    if hasattr(scheduler, "sigmas"):
        outputs["out.sigmas"] = torch.as_tensor(scheduler.sigmas).float()
    return outputs, drew_noise


def add_noise(case, inputs):
    scheduler = make(case["class"], case["config"])
    original, noise, timesteps = inputs["in.original"], inputs["in.noise"], inputs["in.timesteps"]
    return {
        "out.noisy": scheduler.add_noise(original, noise, timesteps),
        "out.velocity": scheduler.get_velocity(original, noise, timesteps),
        "out.snr": compute_snr(scheduler, timesteps),
        "out.alphas_cumprod": scheduler.alphas_cumprod.float(),
    }


def scheduler(case, inputs, root, folder):
    return sample(case, inputs)[0] if case["op"] == "sample" else add_noise(case, inputs)
