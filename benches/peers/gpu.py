#!/usr/bin/env python3
"""selma and PyTorch on one GPU: the ops of `selma bench`, and the LoRA training step of Stable Diffusion 1.5, in one table.

  python benches/peers/gpu.py --selma-command "target/release/selma bench --device cuda --precision bf16 --json"
  python benches/peers/gpu.py --tiny --device cpu    # that the script works, on sizes that mean nothing

Needs torch, diffusers and peft. Ops: matrices in bf16, forward, and forward with the backward pass behind it; PyTorch
eager and compiled, convolutions and GroupNorm also in channels-last memory. The step: frozen weights in bf16, f32 factors
under autocast as peft has them, AdamW in f32; eager and compiled, each also in channels-last memory. Medians of runs that
are timed by CUDA events, after a write that empties the cache, as selma's are. FLOPs and bytes are selma's counts.
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

import cpu_step

RANK, HEADS, TOKENS = 128, 8, 77


def linear(rows, k, out, bias=False):
    shapes = [(rows, k), (out, k)] + [(out,)] * bias
    return f"linear {rows}x{k}->{out}" + " bias" * bias, shapes, 1, F.linear


def lora_linear(rows, c):
    def run(x, a, b, w):
        return F.linear(x, w) + F.linear(F.linear(x, a), b)

    return f"lora_linear {rows}x{c}->{c} r{RANK} auto", [(rows, c), (RANK, c), (c, RANK), (c, c)], 3, run


def conv2d(n, side, c, trained):
    name = f"conv2d 3x3 {n}x{side}x{side} {c}->{c}" + " trained" * trained
    return name, [(n, c, side, side), (c, c, 3, 3)], 1 + trained, lambda x, w: F.conv2d(x, w, padding=1)


def attention(n, queries, keys, c):
    def run(*projections):
        q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in projections)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    return f"attention {n}x{queries}x{keys}x{c}", [(n, queries, c), (n, keys, c), (n, keys, c)], 3, run


def geglu(rows, c):
    def run(x):
        value, gate = x.chunk(2, -1)
        return value * F.gelu(gate)

    return f"geglu {rows}x{8 * c}", [(rows, 8 * c)], 1, run


def group_norm(n, side, c):
    name = f"group_norm_silu {n}x{side}x{side}x{c}"
    return name, [(n, c, side, side), (c,), (c,)], 1, lambda x, w, b: F.silu(F.group_norm(x, 32, w, b, 1e-5))


def layer_norm(rows, c):
    return f"layer_norm {rows}x{c}", [(rows, c), (c,), (c,)], 1, lambda x, w, b: F.layer_norm(x, (c,), w, b, 1e-5)


def ops(n, side):
    """Name, shapes of the inputs, how many of them get gradients, and the op: in the order of src/bench/ops.rs."""
    for level, c in ((1, 320), (2, 640), (4, 1280)):
        at = max(side // level, 1)
        rows = n * at * at
        yield conv2d(n, at, c, False)
        yield conv2d(n, at, c, True)
        yield attention(n, at * at, at * at, c)
        yield attention(n, at * at, TOKENS, c)
        yield lora_linear(rows, c)
        yield linear(rows, c, 8 * c)
        yield linear(rows, 4 * c, c, bias=True)
        yield geglu(rows, c)
        yield group_norm(n, at, c)
        yield layer_norm(rows, c)


class Clock:
    def __init__(self, device, runs):
        self.cuda, self.runs = device == "cuda", runs
        self.flushed = torch.empty(256 << 20, dtype=torch.uint8, device=device) if self.cuda else None

    def median(self, run):
        """Milliseconds."""
        for _ in range(3):
            run()
        times = []
        for _ in range(self.runs):
            if self.cuda:
                self.flushed.zero_()
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record()
                run()
                end.record()
                end.synchronize()
                times.append(begin.elapsed_time(end))
            else:
                begin = time.perf_counter()
                run()
                times.append(1e3 * (time.perf_counter() - begin))
        return statistics.median(times)


def time_op(op, device, dtype, clock, channels_last):
    """Milliseconds by pass and way; a way that PyTorch cannot go is left out."""
    _, shapes, tracked, run = op
    inputs = [torch.randn(shape, device=device, dtype=dtype) * (0.02 if i else 1) for i, shape in enumerate(shapes)]
    if channels_last:
        inputs = [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs]
    inputs = [x.requires_grad_(i < tracked) for i, x in enumerate(inputs)]
    dy = torch.randn_like(run(*inputs))
    found = {}
    for way, f in (("eager", run), ("compiled", torch.compile(run))):
        way = f"{way}, channels last" if channels_last else way

        def forward(f=f):
            with torch.no_grad():
                f(*inputs)

        def both(f=f):
            torch.autograd.grad(f(*inputs), inputs[:tracked], dy)

        for name, timed in (("forward", forward), ("both", both)):
            try:
                found[name, way] = clock.median(timed)
            except Exception as error:  # the rest of the table is worth having
                print(f"{op[0]} {name}, {way}: {error!r}"[:300], file=sys.stderr)
    return found


class Step:
    """One training step in PyTorch: batch 16 of 64x64 latents; of the tiny case of cpu_step where that is asked for."""

    def __init__(self, device, dtype, channels_last, compiled, tiny):
        from diffusers import DDPMScheduler, UNet2DConditionModel
        from peft import LoraConfig

        case, rank = (cpu_step.CASES["tiny"], 8) if tiny else (cpu_step.CASES["sd15"] | dict(batch=16, latent=64), RANK)
        torch.manual_seed(0)
        with torch.device(device):
            unet = UNet2DConditionModel(**case["unet"])
        unet.requires_grad_(False).to(device, dtype)
        targets = ["to_q", "to_k", "to_v", "to_out.0"]
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=targets))
        self.parameters = [p for p in unet.parameters() if p.requires_grad]
        for parameter in self.parameters:
            parameter.data = parameter.data.float()
        if channels_last:
            unet.to(memory_format=torch.channels_last)
        self.unet = torch.compile(unet) if compiled else unet
        self.optimizer = torch.optim.AdamW(self.parameters, lr=3e-4, weight_decay=1e-2)
        self.schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        self.latents = torch.randn(case["batch"], 4, case["latent"], case["latent"], device=device, dtype=dtype)
        if channels_last:
            self.latents = self.latents.contiguous(memory_format=torch.channels_last)
        width = case["unet"]["cross_attention_dim"]
        self.context = torch.randn(case["batch"], TOKENS, width, device=device, dtype=dtype)
        self.autocast = dict(device_type=device, dtype=dtype, enabled=dtype != torch.float32)

    def __call__(self):
        noise = torch.randn_like(self.latents)
        timesteps = torch.randint(0, 1000, (len(noise),), device=noise.device)
        noisy = self.schedule.add_noise(self.latents, noise, timesteps)
        with torch.autocast(**self.autocast):
            predicted = self.unet(noisy, timesteps, self.context, return_dict=False)[0]
        F.mse_loss(predicted.float(), noise.float()).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def selma_rows(command, case=None):
    """What selma's bench printed, by case."""
    if not command:
        return {}
    result = subprocess.run(shlex.split(command) + ([case] if case else []), stdout=subprocess.PIPE, text=True, check=True)
    rows = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    return {row["case"]: row for row in rows}


def line(name, ours, theirs):
    cells = [f"{name:<52}", f"{ours['median_ms']:10.3f}" if ours else f"{'-':>10}"]
    best = min(theirs.values(), default=None)
    cells.append(f"{best / ours['median_ms']:6.2f}x" if ours and best else f"{'-':>7}")
    share = ours.get("percent_of_floor") if ours else None
    cells.append(f"{share:5.1f} %" if share else f"{'-':>7}")
    cells += [f"{way} {ms:.3f}" for way, ms in theirs.items()]
    if ours and ours.get("library_ms"):
        cells.append(f"{ours['library']} {ours['library_ms']:.3f}")
    print("  ".join(cells), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--selma-command", help="what prints selma's rows as JSON; without it its columns stay empty")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    device, tiny = arguments.device, arguments.tiny
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.backends.cudnn.benchmark = True
    clock = Clock(device, 1 if tiny else arguments.runs)
    name = torch.cuda.get_device_name() if device == "cuda" else device
    print(f"{name}, torch {torch.__version__}, {dtype}; milliseconds, and how many times selma is as fast as the best of PyTorch")
    print(f"{'':<52}  {'selma':>10}  {'times':>7}  {'floor':>7}  PyTorch")
    ours = selma_rows(arguments.selma_command)
    for op in ops(*((1, 4) if tiny else (16, 64))):
        found = time_op(op, device, dtype, clock, False)
        if any(len(shape) == 4 for shape in op[1]):
            found |= time_op(op, device, dtype, clock, True)
        for timed in ("forward", "both"):
            theirs = {way: ms for (which, way), ms in found.items() if which == timed}
            line(f"{op[0]} {timed}", ours.get(f"{op[0]} {timed}"), theirs)
    case, theirs = "tiny" if tiny else "sd15_512", {}
    for compiled in (False, True):
        for channels_last in (False, True):
            way = ("compiled" if compiled else "eager") + (", channels last" if channels_last else "")
            try:
                theirs[way] = clock.median(Step(device, dtype, channels_last, compiled, tiny))
            except Exception as error:  # out of memory, most likely
                print(f"{case}, {way}: {error!r}"[:300], file=sys.stderr)
            torch._dynamo.reset()
            if device == "cuda":
                torch.cuda.empty_cache()
    line(case, selma_rows(arguments.selma_command, case).get(case), theirs)


if __name__ == "__main__":
    main()
