"""Kind scheduler: every sampler with every option that changes its numbers, and the forward noising."""

import itertools

import torch
from reference import schedulers
from reference.files import Draw

from .build import SCHEDULE, Build

SD = dict(SCHEDULE, steps_offset=1, timestep_spacing="leading", prediction_type="epsilon")
V = dict(prediction_type="v_prediction")
X0 = dict(prediction_type="sample")
TRAILING, LINSPACE = dict(timestep_spacing="trailing", steps_offset=0), dict(timestep_spacing="linspace", steps_offset=0)
ZERO_SNR = dict(rescale_betas_zero_snr=True, **V, **TRAILING)
KARRAS, SIGMA_MIN = dict(use_karras_sigmas=True), dict(final_sigmas_type="sigma_min")
SPACINGS = {"leading": {}, "trailing": TRAILING, "linspace": LINSPACE}


def ddpm():
    base = dict(SD, clip_sample=False)
    for (spacing, options), variance in itertools.product(SPACINGS.items(), ("fixed_small", "fixed_large")):
        yield f"{spacing}_{variance}", dict(base, variance_type=variance, **options), 7
    yield "v_linspace", base | V | LINSPACE, 13
    yield "x0", base | X0, 6
    yield "v_zero_snr", base | ZERO_SNR, 6
    yield "clip", dict(base, clip_sample=True, clip_sample_range=1.5), 6
    yield "thresholding", dict(base, thresholding=True, sample_max_value=2.0), 5
    yield "log_variance", dict(base, variance_type="fixed_small_log"), 5
    yield "many", base, 41
    yield "one", base, 1
    yield "class_defaults", {}, 6


def ddim():
    base = dict(SD, clip_sample=False, set_alpha_to_one=False)
    for spacing, options in SPACINGS.items():
        yield spacing, base | options, 7
        yield f"v_{spacing}_eta", base | V | options, 6, dict(eta=0.5)
    yield "eta_one", base, 7, dict(eta=1.0)
    yield "alpha_to_one", dict(base, set_alpha_to_one=True), 7
    yield "clip_eta", dict(base, clip_sample=True), 6, dict(eta=0.3)
    yield "clip_range_v", dict(base, clip_sample=True, clip_sample_range=1.7) | V, 6
    yield "thresholding", dict(base, thresholding=True, sample_max_value=1.5), 5
    yield "x0", base | X0, 6
    yield "zero_snr_eta", base | ZERO_SNR, 6, dict(eta=0.7)
    yield "zero_snr_alpha_to_one", dict(base | ZERO_SNR, set_alpha_to_one=True), 5
    yield "many", base, 50
    yield "one", base, 1
    yield "one_trailing", base | TRAILING, 1
    yield "class_defaults", {}, 6


def pndm():
    base = dict(SD, skip_prk_steps=True, set_alpha_to_one=False)
    for spacing, options in SPACINGS.items():
        yield spacing, base | options, 8
        yield f"v_{spacing}", base | V | options, 7
    yield "alpha_to_one", dict(base, set_alpha_to_one=True), 7
    for steps, word in [(1, "one"), (2, "two"), (3, "three"), (37, "many")]:
        yield word, base, steps
    yield "prk", dict(base, skip_prk_steps=False), 6
    yield "prk_v", dict(base, skip_prk_steps=False) | V, 6


def euler():
    for spacing, options in SPACINGS.items():
        yield spacing, SD | options, 7
        yield f"v_{spacing}", SD | V | options, 6
        yield f"karras_{spacing}", SD | KARRAS | options, 8
        yield f"sigma_min_{spacing}", SD | SIGMA_MIN | options, 6
    yield "x0", SD | X0, 6
    yield "v_karras", SD | V | KARRAS, 6
    yield "karras_sigma_min", SD | KARRAS | SIGMA_MIN, 6
    yield "v_zero_snr", SD | ZERO_SNR, 6
    yield "exponential", dict(SD, use_exponential_sigmas=True), 6
    yield "log_linear", dict(SD, interpolation_type="log_linear") | LINSPACE, 6
    yield "many", SD, 50
    yield "one", SD, 1
    yield "two_karras", SD | KARRAS, 2
    yield "class_defaults", {}, 6


def euler_ancestral():
    for spacing, options in SPACINGS.items():
        yield spacing, SD | options, 7
        yield f"v_{spacing}", SD | V | options, 6
    yield "v_zero_snr", SD | ZERO_SNR, 6
    yield "many", SD, 31
    yield "one", SD, 1
    yield "class_defaults", {}, 6


def dpm():
    base = dict(SD, algorithm_type="dpmsolver++")
    for order, solver, karras in itertools.product((1, 2, 3), ("midpoint", "heun"), (False, True)):
        yield (
            f"order{order}_{solver}{'_karras' if karras else ''}",
            dict(base, solver_order=order, solver_type=solver, use_karras_sigmas=karras),
            9,
        )
    for spacing, options in SPACINGS.items():
        yield f"v_{spacing}", base | V | options, 8
        yield f"order3_{spacing}_many", dict(base, solver_order=3) | options, 20
        yield f"karras_{spacing}", base | KARRAS | options, 7
    for order, steps in itertools.product((2, 3), (8, 16)):
        yield f"order{order}_no_lower_final_{steps}", dict(base, solver_order=order, lower_order_final=False), steps
        yield (
            f"order{order}_no_lower_final_sigma_min_{steps}",
            dict(base, solver_order=order, lower_order_final=False) | SIGMA_MIN,
            steps,
        )
        yield f"order{order}_euler_at_final_{steps}", dict(base, solver_order=order, euler_at_final=True) | SIGMA_MIN, steps
        yield f"order{order}_sigma_min_{steps}", dict(base, solver_order=order) | SIGMA_MIN, steps
    yield "order3_karras_sigma_min", dict(base, solver_order=3) | KARRAS | SIGMA_MIN, 8
    yield "x0", base | X0, 7
    yield "v_zero_snr", base | ZERO_SNR, 7
    yield "thresholding", dict(base, thresholding=True, sample_max_value=1.5), 6
    yield "exponential", dict(base, use_exponential_sigmas=True), 7
    yield "lu_lambdas", dict(base, use_lu_lambdas=True), 7
    yield "lambda_clipped", dict(base, lambda_min_clipped=-5.1) | LINSPACE, 7
    for steps, word in [(1, "one"), (2, "two"), (3, "three"), (14, "fourteen"), (15, "fifteen")]:
        yield f"order3_{word}", dict(base, solver_order=3), steps
    sde = dict(SD, algorithm_type="sde-dpmsolver++")
    for order, solver in [(1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint")]:
        yield f"sde_order{order}_{solver}", dict(sde, solver_order=order, solver_type=solver), 8
    yield "sde_karras", sde | KARRAS, 8
    yield "sde_v_trailing", sde | V | TRAILING, 7
    yield "dpmsolver_order2_sigma_min", dict(SD, algorithm_type="dpmsolver", solver_order=2) | SIGMA_MIN, 7
    yield "dpmsolver_order3_sigma_min", dict(SD, algorithm_type="dpmsolver", solver_order=3) | SIGMA_MIN, 8
    yield "class_defaults", {}, 7


def unipc():
    for order, steps in itertools.product((1, 2, 3), (7, 18)):
        yield f"order{order}_bh2_{steps}", dict(SD, solver_order=order), steps
        yield f"order{order}_bh1_sigma_min_{steps}", dict(SD, solver_order=order, solver_type="bh1") | SIGMA_MIN, steps
        yield f"order{order}_bh2_karras_{steps}", dict(SD, solver_order=order) | KARRAS, steps
    for spacing, options in SPACINGS.items():
        yield f"v_{spacing}", SD | V | options, 7
        yield f"karras_{spacing}", SD | KARRAS | options, 7
    yield "sigma_min", SD | SIGMA_MIN, 7
    yield "order3_no_lower_final_sigma_min", dict(SD, solver_order=3, lower_order_final=False) | SIGMA_MIN, 7
    yield "order2_predict_epsilon_sigma_min", dict(SD, predict_x0=False) | SIGMA_MIN, 7
    yield "no_corrector", dict(SD, disable_corrector=[0, 1, 3]), 7
    yield "x0", SD | X0, 7
    yield "v_zero_snr", SD | ZERO_SNR, 7
    yield "thresholding", dict(SD, thresholding=True, sample_max_value=1.5), 6
    for steps, word in [(1, "one"), (2, "two"), (3, "three")]:
        yield f"order3_{word}", dict(SD, solver_order=3), steps
    yield "class_defaults", {}, 7


def lcm():
    base = dict(SD, original_inference_steps=50, clip_sample=False, set_alpha_to_one=True)
    for steps, word in [(1, "one"), (2, "two"), (4, "four"), (7, "seven"), (8, "eight"), (50, "fifty")]:
        yield word, base, steps
    yield "v", base | V, 4
    yield "x0", base | X0, 4
    yield "clip", dict(base, clip_sample=True, clip_sample_range=1.2), 4
    yield "origin100", dict(base, original_inference_steps=100, timestep_scaling=8.0), 6
    yield "alpha_not_one", dict(base, set_alpha_to_one=False), 4
    yield "zero_snr", base | ZERO_SNR, 4
    yield "class_defaults", {}, 4


EXPONENTIAL = dict(use_exponential_sigmas=True)
RESPACED = {"": {}, "karras_": KARRAS, "exponential_": EXPONENTIAL}


def k_diffusion(predictions):
    """Options that the samplers of k-diffusion share."""
    for (spacing, options), (respaced, levels) in itertools.product(SPACINGS.items(), RESPACED.items()):
        yield f"{respaced}{spacing}", SD | options | levels, 7
    for prediction in predictions:
        yield f"{prediction['prediction_type'][0]}_linspace", SD | LINSPACE | prediction, 8
        yield f"{prediction['prediction_type'][0]}_karras", SD | KARRAS | prediction, 8
    for steps, word in [(1, "one"), (2, "two"), (23, "many")]:
        yield word, SD, steps
    yield "class_defaults", {}, 6


def heun():
    yield from k_diffusion([V, X0])
    yield "clip", dict(SD, clip_sample=True, clip_sample_range=1.3), 6


def deis():
    for order, steps in itertools.product((1, 2, 3), (7, 18)):
        yield f"order{order}_{steps}", dict(SD, solver_order=order), steps
    for (spacing, options), (respaced, levels) in itertools.product(SPACINGS.items(), RESPACED.items()):
        yield f"order3_{respaced}{spacing}", dict(SD, solver_order=3) | options | levels, 8
    yield "v_trailing", SD | V | TRAILING, 7
    yield "x0_order3", dict(SD, solver_order=3) | X0, 7
    yield "thresholding", dict(SD, thresholding=True, sample_max_value=1.5), 6
    yield "no_lower_final", dict(SD, solver_order=3, lower_order_final=False), 7
    for steps, word in [(1, "one"), (2, "two"), (3, "three")]:
        yield f"order3_{word}", dict(SD, solver_order=3), steps
    yield "class_defaults", {}, 7


def singlestep():
    base = {key: value for key, value in SD.items() if key not in ("timestep_spacing", "steps_offset")}
    for order, solver, steps in itertools.product((1, 2, 3), ("midpoint", "heun"), (6, 7, 8)):
        yield f"order{order}_{solver}_{steps}", dict(base, solver_order=order, solver_type=solver), steps
    for order, solver in itertools.product((2, 3), ("midpoint", "heun")):
        options = dict(base, solver_order=order, solver_type=solver)
        yield f"sde_order{order}_{solver}", dict(options, algorithm_type="sde-dpmsolver++"), 7
        yield f"no_lower_final_order{order}_{solver}", options | SIGMA_MIN, 6
        yield f"lower_final_order{order}_{solver}", dict(options, lower_order_final=True) | SIGMA_MIN, 6
        yield f"dpmsolver_order{order}_{solver}", dict(options, algorithm_type="dpmsolver") | SIGMA_MIN, 6
    yield "karras", base | KARRAS, 7
    yield "exponential", base | EXPONENTIAL, 7
    yield "v", base | V, 7
    yield "x0", base | X0, 7
    yield "thresholding", dict(base, thresholding=True, sample_max_value=1.5), 6
    yield "lambda_clipped", dict(base, lambda_min_clipped=-5.1), 7
    yield "one", base, 1
    yield "class_defaults", {}, 7


def tcd():
    base = dict(SD, original_inference_steps=50)
    for steps, word in [(1, "one"), (2, "two"), (4, "four"), (7, "seven"), (50, "fifty")]:
        yield word, base, steps
        yield f"{word}_eta_none", base, steps, dict(eta=0.0)
    yield "eta_one", base, 4, dict(eta=1.0)
    yield "v_eta", base | V, 4, dict(eta=0.6)
    yield "x0", base | X0, 4
    yield "origin100", dict(base, original_inference_steps=100), 6
    yield "zero_snr", base | ZERO_SNR, 4
    yield "class_defaults", {}, 4


SAMPLERS = {
    "ddpm": ("DDPMScheduler", ddpm),
    "ddim": ("DDIMScheduler", ddim),
    "pndm": ("PNDMScheduler", pndm),
    "euler": ("EulerDiscreteScheduler", euler),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", euler_ancestral),
    "dpm": ("DPMSolverMultistepScheduler", dpm),
    "unipc": ("UniPCMultistepScheduler", unipc),
    "lcm": ("LCMScheduler", lcm),
    "heun": ("HeunDiscreteScheduler", heun),
    "kdpm2": ("KDPM2DiscreteScheduler", lambda: k_diffusion([V])),
    "kdpm2_ancestral": ("KDPM2AncestralDiscreteScheduler", lambda: k_diffusion([V])),
    "k_dpm_sde": ("DPMSolverSDEScheduler", lambda: k_diffusion([V])),
    "dpm_singlestep": ("DPMSolverSinglestepScheduler", singlestep),
    "lms": ("LMSDiscreteScheduler", lambda: k_diffusion([V, X0])),
    "deis": ("DEISMultistepScheduler", deis),
    "tcd": ("TCDScheduler", tcd),
}


def sampler(prefix, cls, suffix, config, steps, extra=None):
    name = f"sched_{prefix}_{suffix}"

    def make(root, folder):
        draw = Draw(name)
        case = {
            "kind": "scheduler",
            "op": "sample",
            "class": cls,
            "config": config,
            "num_inference_steps": steps,
            **(extra or {}),
        }
        case["model_evaluations"] = n = schedulers.evaluations(case)
        inputs = {
            f"in.{key}": draw.normal(*shape, 1, 2, 2, 3)
            for key, shape in [("initial", ()), ("model_outputs", (n,)), ("noise", (n,))]
        }
        if not schedulers.sample(case, inputs)[1]:
            del inputs["in.noise"]
        return case, inputs

    return Build(name, None, make)


def add_noise(suffix, config):
    name = f"sched_add_noise_{suffix}"

    def make(root, folder):
        draw = Draw(name)
        inputs = {
            "in.original": draw.normal(6, 2, 2, 3),
            "in.noise": draw.normal(6, 2, 2, 3),
            "in.timesteps": torch.tensor([0, 1, 250, 500, 998, 999]),
        }
        return {"kind": "scheduler", "op": "add_noise", "class": "DDPMScheduler", "config": config}, inputs

    return Build(name, None, make)


def cases():
    for prefix, (cls, options) in SAMPLERS.items():
        yield from (sampler(prefix, cls, *option) for option in options())
    yield add_noise("edges", dict(SCHEDULE))
    yield add_noise("zero_snr", dict(SCHEDULE, rescale_betas_zero_snr=True))
    yield add_noise("linear", {})
    yield add_noise("cosine", dict(beta_schedule="squaredcos_cap_v2"))
