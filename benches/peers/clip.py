#!/usr/bin/env python3
"""Times CLIP's vision tower on the CPU: transformers and, in the same run, selma.

    cargo build --release --example judge_rate
    python benches/peers/clip.py --folder /tmp/clip-l14 --rate target/release/examples/judge_rate

The model is CLIP ViT-L/14 with random weights, which are written to --folder once, in float32. Both sides embed the same
--images images on --threads threads, take turns (A B A B ...), and what is reported is the ratio of medians. Their embeddings
are compared. Needs the packages of tests/interop/requirements.txt.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import time

import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

LARGE = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=224,
             patch_size=14, projection_dim=768, hidden_act="quick_gelu")
# Multiply-adds of an image, twice.
FLOPS = 162e9


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--rate", required=True)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if not (arguments.folder / "model.safetensors").exists():
        CLIPVisionModelWithProjection(CLIPVisionConfig(**LARGE)).save_pretrained(arguments.folder)
    model = CLIPVisionModelWithProjection.from_pretrained(arguments.folder).eval()
    size = model.config.image_size
    count = arguments.images * size * size * 3
    pixels = (torch.arange(count) * 7919 % 1000).float() / 500 - 1
    pixels = pixels.view(arguments.images, size, size, 3).permute(0, 3, 1, 2).contiguous()

    command = [arguments.rate, str(arguments.folder), str(arguments.images), str(arguments.threads)]
    selma = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    ours = torch.tensor(json.loads(selma.stdout.readline()), dtype=torch.float64)
    with torch.inference_mode():
        theirs = model(pixel_values=pixels).image_embeds.flatten().double()
        print(f"relative difference of the embeddings {((ours - theirs).norm() / theirs.norm()).item():.1e}")
        times = {"transformers": [], "selma": []}
        for _ in range(arguments.rounds):
            begin = time.perf_counter()
            model(pixel_values=pixels)
            times["transformers"].append(1000 * (time.perf_counter() - begin))
            selma.stdin.write("\n")
            selma.stdin.flush()
            times["selma"].append(float(selma.stdout.readline()))
    selma.stdin.close()
    selma.wait()
    medians = {}
    for name, values in times.items():
        medians[name] = statistics.median(values) / arguments.images
        rate = FLOPS / medians[name] / 1e6
        rounds = [round(value / arguments.images) for value in values]
        print(f"{name:13} {medians[name]:8.0f} ms an image, {rate:5.0f} GFLOP/s, rounds {rounds}")
    print(f"transformers / selma: {medians['transformers'] / medians['selma']:.2f}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
