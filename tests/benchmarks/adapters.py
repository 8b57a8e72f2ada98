"""The gain of RTD on the miniature with each adapter and several backbones, and the paper's ablations.

    python tests/benchmarks/adapters.py OUTPUT [BACKBONE ...] [--seeds 3] [--jobs 1]

A BACKBONE is a folder with clip.safetensors and its projections, as the programs of recipes/miniature write them; the
shipped backbone comes first. OUTPUT gets a JSON file for each run; a run whose file exists is skipped. Prints the
tables of docs/miniature.md: recall in percent on the test split, mean and standard deviation over training seeds.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import rtd_recipes.miniature
import torch
from miniature import GROUPS, compute_metrics, format_mean, load_retrievals, make_run, map_in_processes, train_tower
from torch import Tensor

from rtd_plugin import hookimpl
from rtd_plugin.contract import plugins
from rtd_plugin.evaluation.retrieval import Retrieval
from rtd_plugin.files import write_text
from rtd_plugin.training.batches import stack_tokens
from rtd_plugin.training.loss import rtd_loss
from rtd_plugin.training.objective import ObjectiveInputs
from rtd_plugin.training.run import Run

ADAPTERS = ("lincir", "searle", "pic2word")
SHIPPED = Path(rtd_recipes.miniature.__file__).parent
METRICS = ("recall_at_1", "recall_at_5")
COLUMNS = "seeds | R@1 before | R@1 after | gain | R@5 before | R@5 after | gain |\n|"


class TrainedTargets:
    """The paper's ablation of the frozen target encoder: the trained tower also encodes targets and references."""

    @hookimpl
    def rtd_objective(self, inputs: ObjectiveInputs) -> Tensor:
        targets, references = (
            inputs.encode(captions, None, inputs.placeholder)
            for captions in (inputs.batch.targets, inputs.batch.references)
        )
        batch, subjects = inputs.batch, torch.arange(len(targets)).repeat(2)
        tokens = stack_tokens(batch.queries, batch.unconditioned)
        queries = inputs.encode(tokens, inputs.pseudo_tokens, inputs.placeholder, subjects)
        return rtd_loss(queries, torch.cat([targets, references]), inputs.settings.temperature)


PUBLISHED = ["wording={}", "triplets.0.wordings=1"]
ABLATIONS: dict[str, tuple[list[str], list[object]]] = {  # overrides of the recipe, plugins
    "wordings, without consistency": (["wording.consistency=0"], []),
    "published objective": (PUBLISHED, []),
    "without hard negatives": ([*PUBLISHED, "objective.hard_negatives=false"], []),
    "plain text concatenation": ([*PUBLISHED, "objective.concatenation=text"], []),
    "target encoder not frozen": (PUBLISHED, [TrainedTargets()]),
}


@dataclass(frozen=True)
class Cell:
    """One run: a backbone's folder, an adapter, a seed, and optionally an ablation."""

    backbone: Path
    adapter: str
    seed: int
    ablation: str | None = None

    @property
    def name(self) -> str:
        backbone = "shipped" if self.backbone == SHIPPED else self.backbone.name
        ablation = [self.ablation.replace(" ", "-")] if self.ablation else []
        return "_".join([backbone, self.adapter, *ablation, str(self.seed)])

    def make_run(self, folder: Path) -> Run:
        """Return the run, which writes to a folder."""
        overrides, _ = ABLATIONS.get(self.ablation, ([], []))
        clip, projection = self.backbone / "clip.safetensors", self.backbone / f"{self.adapter}.safetensors"
        weights = [f"backbone.checkpoint={clip}", f"projection={projection}"]
        return make_run(f"{self.adapter}-miniature", self.seed, folder, *weights, *overrides)


@cache
def load_once(backbone: Path, adapter: str) -> tuple[dict[str, Retrieval], dict[str, Any]]:
    """Return the test split for one projection, and its metrics before training."""
    run = Cell(backbone, adapter, 0).make_run(Path())
    retrievals = load_retrievals(run)
    before = {
        "image only": compute_metrics(retrievals, Retrieval.rank_by_image),
        "before": compute_metrics(retrievals, partial(Retrieval.rank_composed, tower=run.tower)),
    }
    return retrievals, before


def measure(output: Path, cell: Cell) -> None:
    """Train a run, and write the metrics before and after."""
    retrievals, before = load_once(cell.backbone, cell.adapter)
    _, ablation_plugins = ABLATIONS.get(cell.ablation, ([], []))
    with tempfile.TemporaryDirectory() as folder, plugins.use_plugins(*ablation_plugins):
        tower, seconds = train_tower(cell.make_run(Path(folder)), cell.name)
    after = compute_metrics(retrievals, partial(Retrieval.rank_composed, tower=tower))
    results = {**before, "after": after, "seconds": seconds}
    write_text(output / f"{cell.name}.json", json.dumps(results, indent=2))


def list_cells(backbones: Sequence[Path], seeds: int) -> list[Cell]:
    """Return the runs of all tables."""
    main = [Cell(backbone, adapter, seed) for backbone in backbones for adapter in ADAPTERS for seed in range(seeds)]
    return main + [Cell(SHIPPED, "lincir", seed, ablation) for ablation in ABLATIONS for seed in range(seeds)]


def print_tables(output: Path, backbones: Sequence[Path], seeds: int) -> None:
    """Print the tables of the runs whose results exist."""
    files = {cell: output / f"{cell.name}.json" for cell in list_cells(backbones, seeds)}
    results = {cell: json.loads(file.read_text(encoding="utf-8")) for cell, file in files.items() if file.is_file()}
    for group in GROUPS:
        print(f"\n| {group} phrasings | backbone | {COLUMNS}" + "---|" * 9)
        for adapter in ADAPTERS:
            for index, backbone in enumerate(backbones):
                runs = [results.get(Cell(backbone, adapter, seed)) for seed in range(seeds)]
                print_row(f"{adapter} | {index}", runs, group)
    for group in GROUPS:
        print(f"\n| {group} phrasings | {COLUMNS}" + "---|" * 8)
        for ablation in (None, *ABLATIONS):
            runs = [results.get(Cell(SHIPPED, "lincir", seed, ablation)) for seed in range(seeds)]
            print_row(ablation or "the recipe", runs, group)


def print_row(name: str, results: Sequence[dict[str, Any] | None], group: str) -> None:
    """Print a row over the runs that have a result."""
    runs = [result for result in results if result]
    cells = []
    for metric in METRICS if runs else ():
        before, after = ([run[time][group][metric] for run in runs] for time in ("before", "after"))
        gains = [tuned - frozen for frozen, tuned in zip(before, after, strict=True)]
        cells += [f"{before[0]:.1f}", format_mean(after), format_mean(gains, "+")]
    print(f"| {name} | {len(runs)} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("backbones", type=Path, nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="processes that run at once")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    backbones = [SHIPPED, *(folder.resolve() for folder in args.backbones)]
    missing = [cell for cell in list_cells(backbones, args.seeds) if not (args.output / f"{cell.name}.json").is_file()]
    map_in_processes(partial(measure, args.output), missing, args.jobs)
    print_tables(args.output, backbones, args.seeds)


if __name__ == "__main__":
    main()
