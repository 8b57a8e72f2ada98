"""Measure how far training in fp32, bf16 and (on a GPU) fp16 is from an fp64 reference.

    python tests/faults/precision.py [--towers tiny,medium,ViT-B-32] [--triplets 32] [--seed 0]
    python tests/faults/precision.py --train [--seeds 3]

For each adapter and size of the text tower: ψ₀, φ and ψ have random weights; the batch is of the miniature's triplets,
with the adapter's own prompt. Composed features and losses are those of the training engine, under autocast as in
training; the reference is the same step in fp64. A feature's error is its distance from the reference's, as a share of
the reference's norm; the largest of the batch is printed. Exit code 1 if an error exceeds its bound.

With --train, LinCIR's miniature is trained in fp32 and in bf16, and recall is compared; exit code 1 if it differs by
more than `RECALL_BOUND` for a seed.
"""

import argparse
import copy
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn

from rtd_plugin.clip.tokens import pad, tokenize
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract import plugins
from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.engine.packed_tower import PackedTower
from rtd_plugin.miniature.triplets import MiniatureTriplets
from rtd_plugin.training.batches import stack_tokens
from rtd_plugin.training.loss import rtd_loss
from rtd_plugin.workflows.train import train

SIZES = {"tiny": (64, 2), "medium": (256, 6)}  # width, layers
TOWERS = (*SIZES, "ViT-B-32")
RECALL_BOUND = 2.0  # percentage points of recall@1 and recall@10
BOUNDS = {torch.float32: (5e-6, 5e-6), torch.bfloat16: (0.03, 0.02), torch.float16: (0.02, 0.01)}  # feature, loss
ADAPTERS = ("lincir", "searle", "pic2word")


def build_tower(name: str) -> TextTower:
    """Return a text tower with random weights: a small one, or that of a model of open_clip."""
    if name in SIZES:
        width, layers = SIZES[name]
        return TextTower(width=width, layers=layers, heads=width // 64, features=width)
    state = open_clip.create_model(name, pretrained=None).state_dict()
    return TextTower.from_state_dict(state, activation="gelu")


def build_models(adapter: Adapter, name: str, seed: int) -> tuple[TextTower, TextTower, nn.Module]:
    """Return ψ₀, ψ with slightly other weights, and φ, in fp32."""
    torch.manual_seed(seed)
    frozen = build_tower(name)
    projection = adapter.build_projection({}, frozen.features, frozen.width).eval()
    tower = copy.deepcopy(frozen)
    with torch.no_grad():
        for weight in tower.parameters():
            weight += 0.01 * weight.std() * torch.randn_like(weight) if weight.numel() > 1 else 0
    models = frozen.eval(), tower.eval(), projection
    for model in models:
        model.requires_grad_(False)
    return models


def compute_step(
    adapter: Adapter, models: tuple[TextTower, TextTower, nn.Module], triplets: int, seed: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the composed features (2B, D) and the loss of one batch: frozen side in `dtype`, ψ under autocast."""
    frozen, tower, projection = models
    device = frozen.device
    texts = list(MiniatureTriplets(count=triplets).load().triplets)
    encode = PackedTower(tower, device)
    generator = torch.Generator().manual_seed(seed)
    noise = 0.5 * torch.randn(triplets, frozen.features, generator=generator, dtype=torch.float64)
    captions = [tokenize([text[column] for text in texts]) for column in (0, 2)]
    references, targets = (frozen.encode(tokens.to(device)) for tokens in captions)
    pseudo_tokens = projection(references + noise.to(references))
    conditions = adapter.prompt.tokenize([t[1] for t in texts])
    unconditioned = pad([adapter.unconditioned_prompt.encode()] * triplets)
    tokens = stack_tokens(conditions, unconditioned)
    subjects = torch.arange(triplets).repeat(2)
    with torch.autocast(device.type, dtype, enabled=dtype in (torch.bfloat16, torch.float16)):
        prepared = encode.prepare(tokens, adapter.prompt.placeholder_id, subjects)
        queries = encode(prepared, pseudo_tokens)
        loss = rtd_loss(queries, torch.cat([targets, references]), 0.07)
    return queries.double(), loss.double()


def measure(
    adapter: Adapter, tower: str, triplets: int, seed: int, dtypes: Sequence[torch.dtype]
) -> dict[torch.dtype, tuple[float, float]]:
    """Return the largest error of a feature and the error of the loss, relative, for each dtype."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = build_models(adapter, tower, seed)
    exact = tuple(copy.deepcopy(model).double().to(device) for model in models)
    features, loss = compute_step(adapter, exact, triplets, seed, torch.float64)
    errors = {}
    for dtype in dtypes:
        frozen, tower, projection = (copy.deepcopy(model).to(device) for model in models)
        rounded = compute_step(adapter, (frozen.to(dtype), tower, projection.to(dtype)), triplets, seed, dtype)
        distances = (rounded[0] - features).norm(dim=1) / features.norm(dim=1)
        errors[dtype] = distances.max().item(), abs(rounded[1] / loss - 1).item()
    return errors


def compare_training(seed: int, *overrides: str) -> dict[str, tuple[float, float]]:
    """Return recall@1 and recall@10 in percent of the miniature that is trained in fp32 and in bf16."""
    recall = {}
    for precision in ("fp32", "bf16"):
        settings = [f"seed={seed}", f"precision={precision}", *overrides]
        with tempfile.TemporaryDirectory() as folder:
            result = train("lincir-miniature", overrides=settings, output=Path(folder) / "run")
        (metrics,) = result.evaluation["results"][-1]["metrics"].values()
        recall[precision] = metrics["recall_at_1"], metrics["recall_at_10"]
    return recall


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--towers", default=",".join(TOWERS))
    parser.add_argument("--triplets", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()

    if args.train:
        return _print_training(args.seeds)
    dtypes = [torch.float32, torch.bfloat16, *([torch.float16] if torch.cuda.is_available() else [])]
    print("| adapter | tower | precision | feature | loss |\n|---|---|---|---|---|")
    exceeded = False
    for name in ADAPTERS:
        for tower in args.towers.split(","):
            adapter = plugins.find_adapter(name)
            for dtype, errors in measure(adapter, tower, args.triplets, args.seed, dtypes).items():
                print(f"| {name} | {tower} | {str(dtype).removeprefix('torch.')} | {errors[0]:.1e} | {errors[1]:.1e} |")
                exceeded |= any(error > bound for error, bound in zip(errors, BOUNDS[dtype], strict=True))
    return int(exceeded)


def _print_training(seeds: int) -> int:
    print("| seed | recall@1 fp32 | bf16 | recall@10 fp32 | bf16 |\n|---|---|---|---|---|", flush=True)
    exceeded = False
    for seed in range(seeds):
        recall = compare_training(seed)
        pairs = [*zip(recall["fp32"], recall["bf16"], strict=True)]
        print(f"| {seed} | {' | '.join(f'{value:.1f}' for pair in pairs for value in pair)} |", flush=True)
        exceeded |= any(abs(full - half) > RECALL_BOUND for full, half in pairs)
    return int(exceeded)


if __name__ == "__main__":
    sys.exit(main())
