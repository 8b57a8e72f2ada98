"""Compare the engine's step with the explicit step: the loss and every gradient, on towers of full size.

    python tests/benchmarks/exactness.py [--tower ViT-B-32] [--triplets 32] [--threads 2] [--steps 20]
        [--captions FILE --conditions FILE] [--authors REPOSITORY --authors-python PYTHON]

Both sides are those of `speed.py`, in one process. Each takes all steps with the gradients that it computes. The
difference of two gradients is the largest difference of an entry, relative to the largest entry.

With --authors, the other side is the authors' own code (`authors_step.py`), and the weights after the last step are
compared instead of the gradients.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from common import TOWERS, add_text_options
from speed import Explicit, Ours, Side, prepare
from torch import Tensor

from rtd_plugin.clip.layouts import write_state_dict


def drop_key_bias(name: str, gradient: Tensor) -> Tensor:
    """Leave out the bias of keys: it cancels in the softmax, so its gradient is rounding error alone."""
    return gradient.view(3, -1)[::2] if name.endswith("in_proj_bias") else gradient


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tower", choices=list(TOWERS), default="ViT-B-32")
    parser.add_argument("--triplets", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    add_text_options(parser)
    parser.add_argument("--authors", help="their repository, unpacked")
    parser.add_argument("--authors-python", default=sys.executable)
    parser.set_defaults(side="first epoch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(args, folder)
        if args.authors:
            compare_weights(args, folder)
        else:
            compare(args, Explicit(args, folder), Ours(args, folder))


def compare_weights(args: argparse.Namespace, folder: Path) -> None:
    """Print the losses of each step, and the largest differences of the weights after the last one."""
    script = str(Path(__file__).with_name("authors_step.py"))
    authors = Side([args.authors_python, script, args.authors, str(folder), str(args.threads)])
    ours, worst_loss = Ours(args, folder), 0.0
    print("| step | loss | relative difference |\n|---|---|---|")
    for step in range(args.steps):
        authors.take(step)
        expected, loss = authors.answers[-1]["loss"], ours.take(step)
        difference = abs(loss - expected) / expected
        print(f"| {step + 1} | {loss:.6f} | {difference:.1e} |", flush=True)
        worst_loss = max(worst_loss, difference)
    authors.process.stdin.close()
    authors.process.wait()
    expected_weights = torch.load(folder / "authors.pt", weights_only=True)
    weights = write_state_dict(ours.trainer.copy_tower().state_dict(), "huggingface")
    start = torch.load(folder / "prepared.pt", weights_only=True, mmap=True)["huggingface"]
    print("\n| weights that differ most | by | largest change in training |\n|---|---|---|")
    rows = [
        (float((weights[name] - expected).abs().max()), float((expected - start[name]).abs().max()), name)
        for name, expected in expected_weights.items()
        if name in start
    ]
    for difference, change, name in sorted(rows, reverse=True)[:5]:
        print(f"| {name} | {difference:.1e} | {change:.1e} |")
    without_key_bias = max(difference for difference, _, name in rows if not name.endswith("k_proj.bias"))
    print(
        f"\n{args.tower}, {args.triplets} triplets, {args.steps} steps: loss {worst_loss:.1e}, "
        f"weights {max(rows)[0]:.1e} at worst, {without_key_bias:.1e} without the bias of keys"
    )


def compare(args: argparse.Namespace, explicit: Explicit, ours: Ours) -> None:
    """Print the differences of each step, and the largest."""
    gradients: dict[str, dict[str, Tensor]] = {}

    def record_gradients(side: str, tower: torch.nn.Module) -> None:
        for name, parameter in tower.named_parameters():
            if parameter.grad is not None:
                gradients[side][name] = drop_key_bias(name, parameter.grad.clone())

    explicit.optimizer.register_step_pre_hook(lambda *_: record_gradients("explicit", explicit.tower))
    ours.trainer.optimizer.optimizer.register_step_pre_hook(lambda *_: record_gradients("ours", ours.trainer.tower))
    rows = ours.trainer.tower.token_embedding.trained
    worst_loss = worst_gradient = 0.0
    print("| step | loss | relative difference | largest difference of a gradient | in |\n|---|---|---|---|---|")
    for step in range(args.steps):
        gradients |= {"explicit": {}, "ours": {}}
        expected, loss = explicit.take(step), ours.take(step)
        assert (
            gradients["explicit"].keys() == gradients["ours"].keys() == dict(explicit.tower.named_parameters()).keys()
        )
        embedding = "token_embedding.weight"
        assert (
            gradients["explicit"][embedding].count_nonzero() == gradients["explicit"][embedding][rows].count_nonzero()
        )
        gradients["explicit"][embedding] = gradients["explicit"][embedding][rows]
        gradient_difference, name = max(
            (float((gradients["ours"][name] - gradient).abs().max() / gradient.abs().max()), name)
            for name, gradient in gradients["explicit"].items()
        )
        loss_difference = abs(loss - expected) / expected
        print(f"| {step + 1} | {loss:.6f} | {loss_difference:.1e} | {gradient_difference:.1e} | {name} |", flush=True)
        worst_loss = max(worst_loss, loss_difference)
        worst_gradient = max(worst_gradient, gradient_difference)
    print(f"\n{args.tower}, {args.triplets} triplets: loss {worst_loss:.1e}, gradients {worst_gradient:.1e} at worst")


if __name__ == "__main__":
    main()
