"""Writes tests/data/buckets.tsv: what sd-scripts' BucketManager makes of image sizes.

    python buckets.py SD_SCRIPTS > ../data/buckets.tsv     (a checkout of kohya-ss/sd-scripts at 0005867; numpy 2.3.5)

Only the class and the function it calls are taken out of the two files, so that nothing but numpy is needed."""

import ast, math, random, sys, types, typing
from pathlib import Path

import numpy as np


def definition(path, name):
    tree = ast.parse(Path(path).read_text())
    found = next(node for node in tree.body if getattr(node, "name", None) == name)
    module = ast.Module([found], [])
    space = {"math": math, "np": np, "random": random}
    return module, space


def load(root):
    module, space = definition(f"{root}/library/model_util.py", "make_bucket_resolutions")
    exec(compile(module, "model_util", "exec"), space)
    util = types.SimpleNamespace(make_bucket_resolutions=space["make_bucket_resolutions"])
    module, space = definition(f"{root}/library/train_util.py", "BucketManager")
    space["model_util"], space["Tuple"] = util, typing.Tuple
    exec(compile(module, "train_util", "exec"), space)
    return space["BucketManager"]


manager = load(sys.argv[1])
print("side\tsteps\tupscale\twidth\theight\tresized_width\tresized_height\tbucket_width\tbucket_height")
sizes = [(512, 512), (768, 512), (512, 768), (1024, 1024), (4000, 3000), (3000, 4000), (1920, 1080), (1080, 1920),
         (600, 100), (100, 600), (300, 200), (333, 517), (2048, 640), (513, 511), (1000, 1001), (640, 480), (70, 64)]
for side, steps in [(512, 64), (1024, 64), (768, 8)]:
    for upscale in (False, True):
        m = manager(not upscale, (side, side), 256, max(1024, 2 * side), steps)
        if upscale:
            m.make_buckets()
        for w, h in sizes:
            reso, resized, _ = m.select_bucket(w, h)
            print(side, steps, int(upscale), w, h, *resized, *reso, sep="\t")
