#!/usr/bin/env python3
"""Times one LoRA training step on the CPU: PyTorch (diffusers + peft) and, in the same run, selma.

    python benches/peers/cpu_step.py --selma-command "target/release/selma bench {case} --json"
    python benches/peers/cpu_step.py --profile            # PyTorch alone: phases, FLOPs, the most expensive operators

A step is what a trainer does for one micro-batch: add noise, UNet forward, mean squared error, backward, clip the
gradient to norm 1, AdamW. Both sides use float32, --threads threads, random weights and attention LoRA of rank 8.

    tiny   batch 16, 16x16 latents, the two-block UNet below
    sd15   batch 1, 32x32 latents, the Stable Diffusion 1.5 UNet

A machine's speed drifts, so the two sides take turns (A B A B ...) within each case, and what is reported is the ratio
of medians over the rounds. The selma command is run once a round, with `{case}` replaced (without `{case}` it must print
every case); it must print one JSON object a line: {"case": "tiny", "median_ms": 1.0, "min_ms": 1.0, "runs": 9}.
Needs the packages of tests/interop/requirements.txt.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig

RANK = 8
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]

CASES = {
    "tiny": dict(
        batch=16,
        latent=16,
        runs=9,
        unet=dict(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            flip_sin_to_cos=True,
            freq_shift=0,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(32, 64),
            layers_per_block=1,
            cross_attention_dim=64,
            attention_head_dim=4,
            norm_num_groups=32,
            norm_eps=1e-5,
            act_fn="silu",
        ),
    ),
    "sd15": dict(
        batch=1,
        latent=32,
        runs=3,
        unet=dict(
            sample_size=64,
            in_channels=4,
            out_channels=4,
            center_input_sample=False,
            flip_sin_to_cos=True,
            freq_shift=0,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            cross_attention_dim=768,
            attention_head_dim=8,
            norm_num_groups=32,
            norm_eps=1e-5,
            act_fn="silu",
        ),
    ),
}


class TorchStep:
    """The PyTorch side of one case: a model, an optimizer, and a step that reports the seconds of its phases."""

    def __init__(self, name, channels_last=False):
        case = CASES[name]
        torch.manual_seed(0)
        self.unet = UNet2DConditionModel(**case["unet"])
        self.unet.requires_grad_(False)
        self.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=TARGETS))
        self.unet.train()
        if channels_last:
            self.unet.to(memory_format=torch.channels_last)
        self.parameters = [p for p in self.unet.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=3e-4, weight_decay=1e-2)
        self.schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
        self.batch = case["batch"]
        self.latents = torch.randn(self.batch, 4, case["latent"], case["latent"])
        self.context = torch.randn(self.batch, 77, case["unet"]["cross_attention_dim"])

    def loss(self):
        noise = torch.randn_like(self.latents)
        timesteps = torch.randint(0, 1000, (self.batch,))
        noisy = self.schedule.add_noise(self.latents, noise, timesteps)
        return F.mse_loss(self.unet(noisy, timesteps, self.context, return_dict=False)[0], noise)

    def update(self):
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def __call__(self):
        start = time.perf_counter()
        loss = self.loss()
        forward = time.perf_counter()
        loss.backward()
        backward = time.perf_counter()
        self.update()
        end = time.perf_counter()
        return dict(step=end - start, forward=forward - start, backward=backward - forward, update=end - backward)

    def flops(self):
        """FLOPs (2 x multiply-adds) of forward and backward, as torch's own counter sees them."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as forward:
            loss = self.loss()
        with FlopCounterMode(display=False) as backward:
            loss.backward()
        self.optimizer.zero_grad()
        return forward.get_total_flops(), backward.get_total_flops()


def milliseconds(seconds):
    return dict(median_ms=1e3 * statistics.median(seconds), min_ms=1e3 * min(seconds), runs=len(seconds))


def run_selma(template, case):
    """One run of the selma side; returns the JSON object of `case`."""
    command = [part.replace("{case}", case) for part in shlex.split(template)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit(f"{shlex.join(command)}: exit status {result.returncode}")
    for line in result.stdout.splitlines():
        if line.startswith("{"):
            entry = json.loads(line)
            if entry.get("case") == case:
                return entry
    sys.exit(f"{shlex.join(command)}: printed no JSON line for case {case!r}")


def profile(step, rows):
    """The operators with the most self CPU time over three steps, as torch's profiler prints them."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    with record(activities=[ProfilerActivity.CPU]) as events:
        for _ in range(3):
            step()
    return events.key_averages().table(sort_by="self_cpu_time_total", row_limit=rows, max_name_column_width=48)


def measure_torch_alone(name, arguments):
    step = TorchStep(name, arguments.channels_last)
    for _ in range(2):
        step()
    phases = [step() for _ in range(arguments.rounds * CASES[name]["runs"])]
    forward, backward = step.flops()
    report = {key: milliseconds([phase[key] for phase in phases]) for key in phases[0]}
    with torch.no_grad():
        no_grad = []
        for _ in range(arguments.rounds):
            start = time.perf_counter()
            step.loss()
            no_grad.append(time.perf_counter() - start)
    report["forward_without_gradient"] = milliseconds(no_grad)
    report["gflop"] = dict(forward=forward / 1e9, backward=backward / 1e9)
    report["gflop_per_s"] = (forward + backward) / 1e6 / report["step"]["median_ms"]
    print(json.dumps(dict(case=name, channels_last=arguments.channels_last, **report)), flush=True)
    print(profile(step, 15), flush=True)


def compare(name, arguments):
    step = TorchStep(name, arguments.channels_last)
    for _ in range(2):
        step()
    ours, theirs = [], []
    for round in range(arguments.rounds):
        theirs.append(1e3 * statistics.median(step()["step"] for _ in range(CASES[name]["runs"])))
        time.sleep(0.3)  # lets torch's worker threads stop spinning before the other side is timed
        ours.append(run_selma(arguments.selma_command, name)["median_ms"])
        print(f"{name} round {round}: torch {theirs[-1]:.1f} ms, selma {ours[-1]:.1f} ms", file=sys.stderr, flush=True)
    torch_ms, selma_ms = statistics.median(theirs), statistics.median(ours)
    ratios = sorted(t / s for t, s in zip(theirs, ours))
    print(
        json.dumps(
            dict(
                case=name,
                threads=arguments.threads,
                rounds=arguments.rounds,
                torch_ms=torch_ms,
                selma_ms=selma_ms,
                torch_over_selma=torch_ms / selma_ms,
                ratio_of_rounds=[ratios[0], ratios[-1]],
            )
        ),
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--selma-command", help="what prints selma's timings; {case} is replaced")
    parser.add_argument("--cases", default="tiny,sd15")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--channels-last", action="store_true", help="give PyTorch its NHWC memory format")
    parser.add_argument("--profile", action="store_true", help="PyTorch alone, with FLOPs and a profile")
    arguments = parser.parse_args()
    if not arguments.profile and not arguments.selma_command:
        parser.error("--selma-command is needed unless --profile is given")
    torch.set_num_threads(arguments.threads)
    for name in arguments.cases.split(","):
        (measure_torch_alone if arguments.profile else compare)(name, arguments)


if __name__ == "__main__":
    main()
