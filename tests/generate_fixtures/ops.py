#!/usr/bin/env python3
"""Writes tests/fixtures/ops.safetensors: what PyTorch computes for every op, forward and backward, at awkward sizes.

    python tests/generate_fixtures/ops.py [--out tests/fixtures/ops.safetensors]

Layouts are selma's: feature maps [n, h, w, c], convolution weights [c_out, kh, kw, c_in], linear weights [out, in],
tokens [n, t, c]. Inputs are drawn in float32; everything is computed from them in float64 and rounded to float32 at the
end, so the stored outputs carry no rounding error of their own.

Tensor names are `<case>.<tensor>`, cases `<op>.<number>`. Inputs have the op's own names (`x`, `w`, `b`, ...), the output is
`y`, the gradient that comes from above `dy`, and the gradient of input `x` is `dx`. Scalar parameters of a case
(its op, eps, groups, stride, ...) are in the file's metadata: key `cases`, a JSON object from case to parameters.
Needs the packages of tests/interop/requirements.txt.
"""

import argparse
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

# ---- the ops, in selma's layouts; autograd goes through the permutations, so gradients come out in these layouts too


def to_nchw(x):
    return x.permute(0, 3, 1, 2)


def to_nhwc(x):
    return x.permute(0, 2, 3, 1)


def linear(x, w, b=None):
    return F.linear(x, w, b)


def lora_linear(x, w, a, b_lora, b=None, *, scale):
    return F.linear(x, w, b) + scale * F.linear(F.linear(x, a), b_lora)


def conv2d(x, w, b=None, *, stride, pad_top, pad_bottom, pad_left, pad_right):
    padded = F.pad(to_nchw(x), (pad_left, pad_right, pad_top, pad_bottom))
    return to_nhwc(F.conv2d(padded, to_nchw(w), b, stride=stride))


def lora_conv2d(x, w, a, b_lora, b=None, *, scale, stride, pad_top, pad_bottom, pad_left, pad_right):
    """The down factor has the base's kernel, stride and padding; the up factor [c_out, r] is a 1x1 convolution."""
    pads = dict(pad_top=pad_top, pad_bottom=pad_bottom, pad_left=pad_left, pad_right=pad_right)
    return conv2d(x, w, b, stride=stride, **pads) + scale * F.linear(conv2d(x, a, stride=stride, **pads), b_lora)


def group_norm(x, w, b, *, groups, eps):
    return to_nhwc(F.group_norm(to_nchw(x), groups, w, b, eps))


def group_norm_silu(x, w, b, *, groups, eps):
    return F.silu(group_norm(x, w, b, groups=groups, eps=eps))


def layer_norm(x, w, b, *, eps):
    return F.layer_norm(x, x.shape[-1:], w, b, eps)


def attention(q, k, v, *, heads, causal):
    def split(x):
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    out = F.scaled_dot_product_attention(split(q), split(k), split(v), is_causal=causal)
    return out.transpose(1, 2).flatten(2)


def silu(x):
    return F.silu(x)


def gelu(x):
    return F.gelu(x)


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


def geglu(x):
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate)


def upsample_nearest(x, *, height, width):
    return to_nhwc(F.interpolate(to_nchw(x), size=(height, width), mode="nearest"))


def embedding(w, ids):
    return F.embedding(ids, w)


def timestep_embedding(t, *, dim, flip_sin_to_cos, freq_shift):
    """diffusers' get_timestep_embedding, in float64 (diffusers itself works in float32)."""
    half = dim // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float64) / (half - freq_shift))
    angle = t[:, None] * frequency[None]
    parts = [angle.cos(), angle.sin()] if flip_sin_to_cos else [angle.sin(), angle.cos()]
    return F.pad(torch.cat(parts, dim=-1), (0, dim - 2 * half))


def concat_channels(x, skip):
    return torch.cat([x, skip], dim=-1)


def add_channel_bias(x, b):
    """b [n, c] is added at every position of x [n, h, w, c]: the time embedding in a resnet."""
    return x + b[:, None, None, :]


def weighted_mse(prediction, target, weight):
    """Mean over the batch of weight[i] * mean squared error of sample i."""
    return (weight * (prediction - target).square().flatten(1).mean(1)).mean().reshape(1)


def weighted_distance(prediction, target, weight, c, kind):
    """As weighted_mse with the distances of kohya's sd-scripts (conditional_loss), and a weight for each position."""
    root = (prediction - target).square() + c[:, None, None, None].square()
    c = c[:, None, None, None]
    each = {"huber": 2 * c * (root.sqrt() - c), "smooth_l1": 2 * (root.sqrt() - c), "squared": (prediction - target).square()}[kind]
    return (weight[..., None] * each).mean().reshape(1)


# ---- drawing inputs and recording cases


class Recorder:
    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.tensors, self.cases, self.counts = {}, {}, {}

    def normal(self, *shape, scale=1.0, offset=0.0):
        return scale * torch.randn(*shape, generator=self.generator) + offset

    def integers(self, *shape, below):
        return torch.randint(0, below, shape, generator=self.generator)

    def record(self, op, inputs, without_gradient=(), **parameters):
        """Runs `op` on float32 `inputs` in float64 and stores inputs, output, upstream gradient and gradients."""
        number = self.counts.setdefault(op.__name__, 0)
        self.counts[op.__name__] += 1
        case = f"{op.__name__}.{number}"
        self.cases[case] = dict(op=op.__name__, **parameters)
        inputs = {name: x for name, x in inputs.items() if x is not None}
        wide = {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}
        tracked = [name for name, x in wide.items() if x.is_floating_point() and name not in without_gradient]
        for name in tracked:
            wide[name].requires_grad_(True)
        y = op(**wide, **parameters)
        stored = dict(inputs, y=y)
        if tracked:
            stored["dy"] = self.normal(*y.shape)
            gradients = torch.autograd.grad(y, [wide[name] for name in tracked], stored["dy"].double())
            stored |= {f"d{name}": gradient for name, gradient in zip(tracked, gradients)}
        for name, x in stored.items():
            x = x.detach()
            self.tensors[f"{case}.{name}"] = (x.float() if x.is_floating_point() else x).contiguous()


def record_products(r):
    for n, t, inputs, outputs, bias in [(2, 33, 37, 19, True), (1, 1, 5, 64, True), (3, 7, 64, 31, False), (1, 70, 17, 3, True)]:
        r.record(
            linear,
            dict(
                x=r.normal(n, t, inputs), w=r.normal(outputs, inputs, scale=inputs**-0.5), b=r.normal(outputs) if bias else None
            ),
        )
    for n, t, inputs, outputs, rank, scale, bias in [
        (2, 33, 37, 19, 4, 1.0, True),
        (1, 5, 24, 41, 1, 0.25, False),
        (2, 9, 40, 40, 7, 2.0, True),
        (1, 21, 16, 48, 20, -0.5, True),
    ]:
        r.record(
            lora_linear,
            dict(
                x=r.normal(n, t, inputs),
                w=r.normal(outputs, inputs, scale=inputs**-0.5),
                a=r.normal(rank, inputs, scale=inputs**-0.5),
                b_lora=r.normal(outputs, rank, scale=rank**-0.5),
                b=r.normal(outputs) if bias else None,
            ),
            scale=scale,
        )


def pads(top, bottom, left, right):
    return dict(pad_top=top, pad_bottom=bottom, pad_left=left, pad_right=right)


def record_convolutions(r):
    def weight(c_out, kernel, c_in):
        return r.normal(c_out, kernel, kernel, c_in, scale=(kernel * kernel * c_in) ** -0.5)

    same, none = pads(1, 1, 1, 1), pads(0, 0, 0, 0)
    right_bottom = pads(0, 1, 0, 1)
    for n, h, w, c_in, c_out, kernel, stride, padding, bias in [
        (2, 7, 9, 5, 7, 3, 1, same, True),
        (1, 6, 5, 16, 33, 3, 1, same, True),
        (1, 1, 1, 3, 4, 3, 1, same, True),
        (1, 5, 17, 9, 3, 3, 1, same, False),
        (2, 7, 9, 5, 7, 3, 2, same, True),
        (1, 8, 6, 12, 12, 3, 2, same, True),
        (2, 7, 9, 5, 7, 3, 2, right_bottom, True),
        (1, 8, 6, 8, 5, 3, 2, right_bottom, True),
        (2, 7, 9, 5, 7, 1, 1, none, True),
        (1, 4, 3, 19, 35, 1, 1, none, False),
        (1, 5, 6, 4, 6, 1, 2, none, True),
    ]:
        r.record(
            conv2d,
            dict(x=r.normal(n, h, w, c_in), w=weight(c_out, kernel, c_in), b=r.normal(c_out) if bias else None),
            stride=stride,
            **padding,
        )
    for n, h, w, c_in, c_out, kernel, stride, padding, rank, scale in [
        (2, 7, 9, 5, 7, 3, 1, same, 3, 0.5),
        (1, 6, 7, 8, 9, 3, 2, same, 2, 2.0),
        (1, 4, 5, 11, 6, 1, 1, none, 4, 1.0),
    ]:
        r.record(
            lora_conv2d,
            dict(
                x=r.normal(n, h, w, c_in),
                w=weight(c_out, kernel, c_in),
                a=weight(rank, kernel, c_in),
                b_lora=r.normal(c_out, rank, scale=rank**-0.5),
                b=r.normal(c_out),
            ),
            scale=scale,
            stride=stride,
            **padding,
        )


def record_norms(r):
    # The last group_norm case has a mean of 30 standard deviations, where one-pass variances lose digits.
    for op in (group_norm, group_norm_silu):
        for n, h, w, c, groups, eps, offset in [
            (2, 7, 9, 24, 4, 1e-5, 0.3),
            (1, 3, 5, 32, 32, 1e-6, 0.0),
            (1, 1, 1, 12, 3, 1e-5, 0.0),
            (3, 2, 2, 40, 8, 1e-6, 0.0),
            (1, 5, 5, 14, 2, 1e-5, 30.0),
        ]:
            r.record(
                op,
                dict(x=r.normal(n, h, w, c, offset=offset), w=r.normal(c, scale=0.3, offset=1.0), b=r.normal(c)),
                groups=groups,
                eps=eps,
            )
    for n, t, c, offset in [(2, 11, 40, 0.0), (1, 1, 7, 0.0), (3, 5, 129, 0.5), (1, 3, 33, 30.0)]:
        r.record(
            layer_norm, dict(x=r.normal(n, t, c, offset=offset), w=r.normal(c, scale=0.3, offset=1.0), b=r.normal(c)), eps=1e-5
        )


def record_attention(r):
    for n, t, keys, heads, width, causal, scale in [
        (2, 63, 63, 2, 8, False, 1.0),
        (1, 15, 15, 3, 40, False, 1.0),
        (1, 1, 1, 1, 5, False, 1.0),
        (2, 35, 35, 2, 16, False, 1.0),
        (2, 13, 77, 2, 8, False, 1.0),
        (1, 9, 77, 1, 40, False, 1.0),
        (1, 130, 77, 1, 12, False, 1.0),
        (1, 77, 77, 2, 8, True, 1.0),
        (1, 19, 19, 3, 10, True, 1.0),
        (1, 17, 17, 1, 64, False, 1.0),
        (1, 7, 7, 1, 160, False, 1.0),
        (1, 3, 3, 1, 512, False, 1.0),
        (1, 21, 21, 2, 8, False, 6.0),
    ]:  # the last one: logits up to a hundred, so a softmax that subtracts no maximum overflows
        r.record(
            attention,
            dict(
                q=r.normal(n, t, heads * width, scale=scale),
                k=r.normal(n, keys, heads * width, scale=scale),
                v=r.normal(n, keys, heads * width),
            ),
            heads=heads,
            causal=causal,
        )


def record_pointwise(r):
    edges = torch.tensor(
        [
            0.0,
            -0.0,
            1e-20,
            -1e-20,
            1e-4,
            -1e-4,
            0.5,
            -0.5,
            3.0,
            -3.0,
            6.0,
            -6.0,
            12.0,
            -12.0,
            88.0,
            -88.0,
            104.0,
            -104.0,
            1e4,
            -1e4,
        ]
    )
    for op in (silu, gelu, quick_gelu):
        r.record(op, dict(x=r.normal(3, 5, 17, scale=2.0)))
        r.record(op, dict(x=edges.clone()))
    r.record(geglu, dict(x=r.normal(2, 9, 34, scale=1.5)))
    r.record(geglu, dict(x=r.normal(1, 1, 130)))
    for n, h, w, c, height, width in [
        (2, 3, 5, 6, 6, 10),
        (1, 5, 7, 4, 9, 13),
        (1, 6, 4, 3, 11, 7),
        (1, 1, 1, 5, 2, 3),
        (2, 4, 3, 2, 4, 3),
    ]:
        r.record(upsample_nearest, dict(x=r.normal(n, h, w, c)), height=height, width=width)
    r.record(embedding, dict(w=r.normal(23, 9), ids=r.integers(2, 17, below=23)))
    r.record(embedding, dict(w=r.normal(5, 4), ids=torch.tensor([[0, 4, 4, 4, 0]])))
    for dim, flip, shift in [(32, True, 0), (32, False, 0), (20, True, 1), (33, False, 1), (320, True, 0)]:
        t = torch.tensor([0.0, 1.0, 2.5, 499.0, 999.0, 998.0909])
        r.record(timestep_embedding, dict(t=t), without_gradient=("t",), dim=dim, flip_sin_to_cos=flip, freq_shift=shift)
    for n, h, w, c, skip in [(2, 3, 5, 7, 4), (1, 2, 2, 3, 16), (1, 1, 6, 32, 1)]:
        r.record(concat_channels, dict(x=r.normal(n, h, w, c), skip=r.normal(n, h, w, skip)))
    for n, h, w, c in [(2, 5, 3, 7), (3, 1, 1, 33)]:
        r.record(add_channel_bias, dict(x=r.normal(n, h, w, c), b=r.normal(n, c)))
    for n, h, w, c in [(3, 4, 5, 4), (1, 3, 3, 4)]:
        r.record(
            weighted_mse,
            dict(prediction=r.normal(n, h, w, c), target=r.normal(n, h, w, c), weight=r.normal(n).abs() + 0.1),
            without_gradient=("target", "weight"),
        )


def record_distances(r):
    for kind in ["squared", "huber", "smooth_l1"]:
        n, h, w, c = 3, 4, 5, 4
        r.record(
            weighted_distance,
            dict(
                prediction=r.normal(n, h, w, c), target=r.normal(n, h, w, c), weight=r.normal(n, h, w).abs() + 0.1,
                c=r.normal(n).abs() * 0.3 + 0.01,
            ),
            without_gradient=("target", "weight", "c"),
            kind=kind,
        )


def record_adamw(r):
    """Four AdamW steps after clipping the global norm of two tensors, in float64: `p.0`, `p.1`, gradients `g.<step>.<i>`."""
    for lr, betas, eps, weight_decay, max_norm in [(1e-2, (0.9, 0.999), 1e-8, 0.01, 1.0), (3e-3, (0.8, 0.95), 1e-6, 0.3, 100.0)]:
        number = r.counts.setdefault("adamw", 0)
        r.counts["adamw"] += 1
        case, steps = f"adamw.{number}", 4
        r.cases[case] = dict(
            op="adamw", lr=lr, beta1=betas[0], beta2=betas[1], eps=eps, weight_decay=weight_decay, max_norm=max_norm, steps=steps
        )
        initial = [r.normal(4, 9), r.normal(13)]
        parameters = [p.double().requires_grad_(True) for p in initial]
        optimizer = torch.optim.AdamW(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        norms = []
        for step in range(steps):
            for i, p in enumerate(parameters):
                gradient = r.normal(*p.shape, scale=0.1 + step)
                r.tensors[f"{case}.g.{step}.{i}"] = gradient
                p.grad = gradient.double()
            norms.append(torch.nn.utils.clip_grad_norm_(parameters, max_norm))
            optimizer.step()
        for i, p in enumerate(parameters):
            r.tensors[f"{case}.p.{i}"] = initial[i]
            r.tensors[f"{case}.y.{i}"] = p.detach().float()
        r.tensors[f"{case}.norm"] = torch.stack(norms).float()


def check_timestep_embedding(r):
    """Our float64 formula must be the library's function up to float32's rounding of the angle."""
    from diffusers.models.embeddings import get_timestep_embedding

    for case, parameters in r.cases.items():
        if parameters["op"] == "timestep_embedding":
            theirs = get_timestep_embedding(
                r.tensors[f"{case}.t"], parameters["dim"], parameters["flip_sin_to_cos"], parameters["freq_shift"]
            )
            difference = (theirs - r.tensors[f"{case}.y"]).abs().max().item()
            assert difference < 1e-4, (case, difference)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "fixtures" / "ops.safetensors")
    out = parser.parse_args().out
    recorder = Recorder(seed=20260307)
    for record in (record_products, record_convolutions, record_norms, record_attention, record_pointwise, record_adamw, record_distances):
        record(recorder)
    check_timestep_embedding(recorder)
    for name, x in recorder.tensors.items():
        assert not x.is_floating_point() or x.isfinite().all(), name
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(recorder.tensors, out, metadata={"cases": json.dumps(recorder.cases)})
    print(f"{out}: {len(recorder.cases)} cases, {len(recorder.tensors)} tensors, {out.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
