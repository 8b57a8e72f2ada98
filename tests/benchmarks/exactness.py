"""Whether RTD's fast step is the step written out: loss and every gradient, step by step, on towers of full size.

    python tests/benchmarks/exactness.py [--tower ViT-B-32] [--triplets 32] [--threads 2] [--steps 20]
        [--captions FILE --conditions FILE]

Both sides are those of `speed.py`, in one process; both take each step with their own gradients, from the weights that
their earlier steps gave. Of a gradient's difference the largest entry counts, as a share of the gradient's largest.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from common import TOWERS, add_text_options
from speed import Explicit, Ours, prepare
from torch import Tensor


def without_keys(name: str, gradient: Tensor) -> Tensor:
    """A key's bias cancels in the softmax: its gradient is rounding error alone."""
    return gradient.view(3, -1)[::2] if name.endswith("in_proj_bias") else gradient


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tower", choices=list(TOWERS), default="ViT-B-32")
    parser.add_argument("--triplets", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    add_text_options(parser)
    parser.set_defaults(side="first epoch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(args, folder)
        compare(args, Explicit(args, folder), Ours(args, folder))


def compare(args: argparse.Namespace, explicit: Explicit, ours: Ours) -> None:
    found: dict[str, dict[str, Tensor]] = {}

    def note(side: str, tower: torch.nn.Module) -> None:
        for name, parameter in tower.named_parameters():
            if parameter.grad is not None:
                found[side][name] = without_keys(name, parameter.grad.clone())

    explicit.optimizer.register_step_pre_hook(lambda *_: note("explicit", explicit.tower))
    ours.trainer.optimizer.optimizer.register_step_pre_hook(lambda *_: note("ours", ours.trainer.tower))
    rows = ours.trainer.tower.token_embedding.trained
    worst_loss = worst_gradient = 0.0
    print("| step | loss | relative difference | largest difference of a gradient | in |\n|---|---|---|---|---|")
    for step in range(args.steps):
        found |= {"explicit": {}, "ours": {}}
        expected, loss = explicit.take(step), ours.take(step)
        assert found["explicit"].keys() == found["ours"].keys() == dict(explicit.tower.named_parameters()).keys()
        embedding = "token_embedding.weight"
        assert found["explicit"][embedding].count_nonzero() == found["explicit"][embedding][rows].count_nonzero()
        found["explicit"][embedding] = found["explicit"][embedding][rows]
        gradient, name = max(
            (float((found["ours"][name] - other).abs().max() / other.abs().max()), name)
            for name, other in found["explicit"].items()
        )
        difference = abs(loss - expected) / expected
        print(f"| {step + 1} | {loss:.6f} | {difference:.1e} | {gradient:.1e} | {name} |", flush=True)
        worst_loss, worst_gradient = max(worst_loss, difference), max(worst_gradient, gradient)
    print(f"\n{args.tower}, {args.triplets} triplets: loss {worst_loss:.1e}, gradients {worst_gradient:.1e} at worst")


if __name__ == "__main__":
    main()
