"""Weighted prompts as AUTOMATIC1111's webui reads and encodes them (its "Original" emphasis): tests/fixtures/attention.safetensors.

Written anew from webui's description of the syntax and of what it does with it:
brackets multiply by 1.1 or its inverse or by the number given; BREAK ends a chunk of 75 tokens; a chunk that is full ends after its
last comma if that is at most 20 tokens back; the states of a chunk are multiplied by their tokens' weights, then all of them by
(mean before) / (mean after). Packages: tests/interop/requirements.txt. Text encoder and vocabulary are those of the recorded cases.
"""

import json
import re
from pathlib import Path

import torch
from reference.networks import load_tokenizer
from safetensors.torch import save_file
from transformers import CLIPTextModel

FIXTURES = Path(__file__).parents[1] / "fixtures"
MODEL = FIXTURES / "parity/models/tiny-sd1"
SIZE, REACH = 75, 20
PROMPTS = [
    "a cat",
    "a (red:1.5) cat on [wood]",
    "((very)) ([mild]) (nested (deep:1.2) words:0.7), sharp",
    "\\(a bracket\\) and (weight: 2.5 )",
    "(never closed [at all",
    "closed too) often] at 10:30, a:1.2)",
    "first part BREAK (second:1.3) part",
    "BREAK (a BREAKFAST:0.5) table",
    "(" + ", ".join(f"word number {i} of a list" for i in range(24)) + ":1.25), the end",
    "one (" + "two " * 90 + ":0.8) three",
    "(down to nothing:0)",
    "(backwards:-1.5) and on",
]
# One mark of the syntax.
MARK = re.compile(r"\\(?P<escaped>[()\[\]\\])|(?P<lost>\\)|(?P<open>[(\[])|:\s*(?P<weight>[+-]?[.\d]+)\s*\)|(?P<close>[)\]])")


def fragments(prompt):
    """[text, weight] with None as the text of a break."""
    found, open_at, end = [], {"(": [], "[": []}, 0

    def plain(text):
        for i, part in enumerate(re.split(r"\s*\bBREAK\b\s*", text)):
            found.extend([[None, 1.0]] if i else [])
            found.append([part, 1.0])

    def close(kind, factor):
        for item in found[open_at[kind].pop() :]:
            item[1] *= factor

    for mark in MARK.finditer(prompt):
        if mark.start() > end:
            plain(prompt[end : mark.start()])
        end = mark.end()
        if mark["escaped"]:
            found.append([mark["escaped"], 1.0])
        elif mark["open"]:
            open_at[mark["open"]].append(len(found))
        elif mark["weight"] and open_at["("]:
            close("(", float(mark["weight"]))
        elif mark["close"] == ")" and open_at["("]:
            close("(", 1.1)
        elif mark["close"] == "]" and open_at["["]:
            close("[", 1 / 1.1)
        elif not mark["lost"]:
            plain(mark[0])
    if end < len(prompt):
        plain(prompt[end:])
    for kind, factor in (("(", 1.1), ("[", 1 / 1.1)):
        while open_at[kind]:
            close(kind, factor)
    joined = []
    for text, weight in found:
        if joined and text is not None and joined[-1][0] is not None and joined[-1][1] == weight:
            joined[-1][0] += text
        else:
            joined.append([text, weight])
    return joined or [["", 1.0]]


def chunks(parts, tokenizer):
    """Lists of (id, weight), at most SIZE each."""
    comma_id, done, now, comma = tokenizer.convert_tokens_to_ids(",</w>"), [], [], None
    for text, weight in parts:
        if text is None:
            done, now, comma = done + [now], [], None
            continue
        for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
            if token != comma_id and len(now) == SIZE and comma is not None and SIZE - comma <= REACH:
                done, now, comma = done + [now[: comma + 1]], now[comma + 1 :], None
            if token == comma_id:
                comma = len(now)
            if len(now) == SIZE:
                done, now, comma = done + [now], [], None
            now.append((token, weight))
    return done + [now] if now or not done else done


def main():
    model = CLIPTextModel.from_pretrained(MODEL / "text_encoder", dtype=torch.float32)
    configuration = json.loads((MODEL / "tokenizer/tokenizer_config.json").read_text())
    tokenizer = load_tokenizer(FIXTURES / "parity/clip_vocab", configuration)
    assert tokenizer("a cat", add_special_tokens=False)["input_ids"] == [320, 2368]
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    tensors, cases = {}, []
    for number, prompt in enumerate(PROMPTS):
        parts = fragments(prompt)
        windows = chunks(parts, tokenizer)
        cases.append({"prompt": prompt, "fragments": parts, "windows": windows})
        for i, window in enumerate(windows):
            ids = [start, *(token for token, _ in window)]
            ids += [end] * (SIZE + 2 - len(ids))
            weights = torch.ones(SIZE + 2)
            weights[1 : len(window) + 1] = torch.tensor([weight for _, weight in window])
            with torch.no_grad():
                z = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
            weighted = z * weights[:, None]
            tensors[f"{number}.{i}"] = (weighted * (z.mean() / weighted.mean())).contiguous()
    save_file(tensors, FIXTURES / "attention.safetensors", {"cases": json.dumps(cases)})
    print(f"{len(cases)} prompts, {len(tensors)} windows")


if __name__ == "__main__":
    main()
