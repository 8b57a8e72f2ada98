"""The time of a composed query with a patch and without, in the same process.

    python tests/benchmarks/patching.py [--host HOST] [--repeats 5]

A model of OpenAI's package with ViT-B/32's text tower and random weights, 32 prompts with conditions as long as CIRR's,
on one thread of a CPU. HOST is a checkout of SEARLE; without it, the tests' miniature of it, whose function does the
same work.
"""

import argparse
import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from clip.model import CLIP
from safetensors.torch import save_file

import rtd_plugin
from rtd_plugin.clip.tokens import END, START
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.clip.tuned_encoder import read_weights
from rtd_plugin.contract import plugins
from rtd_plugin.patching.detection import find_host
from rtd_plugin.patching.patch_folder import write_patch

MINIATURE = Path(__file__).parents[1] / "patching/hosts/searle"
BATCH = 32
MEAN, DEVIATION = 12.1, 4.8  # tokens of a condition of CIRR's validation split


def make_prompts() -> torch.Tensor:
    """Return (32, 77) tokens: `a photo of $ that`, a condition of random words, and the end token."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.zeros(BATCH, 77, dtype=torch.int64)
    for row in tokens:
        length = int((MEAN + DEVIATION * torch.randn((), generator=generator)).clamp(3, 60))
        condition = torch.randint(500, 40000, (length,), generator=generator).tolist()
        text = [START, 320, 1125, 539, 259, 682, *condition, END]
        row[: len(text)] = torch.tensor(text)
    return tokens


def measure_seconds(function: Callable[[], torch.Tensor], repeats: int) -> float:
    """Return the median over the repeats, after a warm-up call."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--host", type=Path, default=MINIATURE)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    host = find_host(args.host, [plugins.find_adapter("searle")])
    sys.path.insert(0, str(host.root / "src"))
    compose = importlib.import_module("encode_with_pseudo_tokens").encode_with_pseudo_tokens
    model = CLIP(512, 32, 1, 64, 32, 77, 49408, 512, 8, 12).eval()
    tokens, pseudo_tokens = make_prompts(), 0.02 * torch.randn(BATCH, 512)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        file = Path(folder) / "tuned.safetensors"
        save_file(TextTower.from_state_dict(model.state_dict()).state_dict(), file)
        manifest = write_patch(Path(folder) / "patch", host, read_weights(file))
        expected = compose(model, tokens, pseudo_tokens)
        host_seconds = measure_seconds(lambda: compose(model, tokens, pseudo_tokens), args.repeats)
        with rtd_plugin.activate(manifest.folder):
            patched_compose = importlib.import_module("encode_with_pseudo_tokens").encode_with_pseudo_tokens
            patched_seconds = measure_seconds(lambda: patched_compose(model, tokens, pseudo_tokens), args.repeats)
            difference = (patched_compose(model, tokens, pseudo_tokens) - expected).abs().max().item()
    longest = int(tokens.argmax(dim=1).max()) + 1
    print(f"{BATCH} prompts of up to {longest} tokens: host {host_seconds:.2f} s, patched {patched_seconds:.2f} s")
    print(
        f"{host_seconds / patched_seconds:.1f} times as fast; largest difference with the same weights {difference:.1e}"
    )


if __name__ == "__main__":
    main()
