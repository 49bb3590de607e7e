#!/usr/bin/env python3
"""Learns tokens with selma, and loads the files in diffusers by load_textual_inversion.

    python tests/interop/check_embeddings.py --selma target/release/selma

A file passes when the pipeline knows each token, its rows of the embedding table are the file's, and a prompt with the token
has as many ids more as the token has vectors.
"""

import argparse
import tempfile
from pathlib import Path

from common import PARITY, Report, complete_model, load_pipeline, run
from PIL import Image
from safetensors.torch import load_file


def photos(folder, captions):
    folder.mkdir()
    for i, caption in enumerate(captions):
        Image.effect_noise((40, 40), 60).convert("RGB").save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(caption)


def check(report, name, tokenizer, encoder, tokens):
    """`tokens`: {token: rows of the file}."""
    table = encoder.get_input_embeddings().weight
    for token, rows in tokens.items():
        parts = [token] + [f"{token}_{i}" for i in range(1, rows.shape[0])]
        ids = tokenizer.convert_tokens_to_ids(parts)
        known = len(set(ids)) == len(parts) and tokenizer.unk_token_id not in ids
        far = (table[ids].float() - rows).abs().max().item()
        plain = len(tokenizer("a photo of a").input_ids)
        more = len(tokenizer(f"a photo of a {' '.join(parts)}").input_ids) - plain
        report.check(known and far == 0 and more == len(parts), f"{name} {token}", f"ids {ids}, off by {far}, {more} more ids")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--selma", type=Path, required=True)
    selma = parser.parse_args().selma.resolve()
    report = Report()
    few = ["--steps", 2, "--batch-size", 2, "--grad-accum", 1, "--lr", 1e-2, "--init-word", "photo"]
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        photos(work / "one", ["a photo of a <thing>"] * 2)
        photos(work / "two", ["a photo of a <cat-toy>", "a photo of a <Robin>"])
        for name in ["tiny-sd1", "tiny-sd2", "tiny-sdxl"]:
            model = complete_model(PARITY, name, work)
            train = [selma, "train", "--model", model, *few]
            for vectors in [1, 3]:
                out = work / f"{name}-{vectors}"
                run(*train, "--data", work / "one", "--class-token", "<thing>", "--vectors", vectors, "--out", out)
                file = out / "learned_embeds.safetensors"
                pipeline = load_pipeline(model)
                rows = load_file(file)
                if name == "tiny-sdxl":
                    # As diffusers' documentation loads embeddings for SDXL.
                    pipeline.load_textual_inversion(
                        rows["clip_l"], token="<thing>", text_encoder=pipeline.text_encoder, tokenizer=pipeline.tokenizer
                    )
                    pipeline.load_textual_inversion(
                        rows["clip_g"], token="<thing>", text_encoder=pipeline.text_encoder_2, tokenizer=pipeline.tokenizer_2
                    )
                    check(report, f"{name} clip_l", pipeline.tokenizer, pipeline.text_encoder, {"<thing>": rows["clip_l"]})
                    check(report, f"{name} clip_g", pipeline.tokenizer_2, pipeline.text_encoder_2, {"<thing>": rows["clip_g"]})
                else:
                    pipeline.load_textual_inversion(file)
                    check(report, name, pipeline.tokenizer, pipeline.text_encoder, rows)
            if name == "tiny-sdxl":
                continue
            out = work / f"{name}-two"
            tokens = ["--class-token", "<cat-toy>", "--class-token", "<Robin>"]
            run(*train, "--data", work / "two", *tokens, "--out", out)
            rows = load_file(out / "learned_embeds.safetensors")
            pipeline = load_pipeline(model)
            for token, values in rows.items():
                pipeline.load_textual_inversion({token: values})
            check(report, f"{name}, two", pipeline.tokenizer, pipeline.text_encoder, rows)
    report.exit()


main()
