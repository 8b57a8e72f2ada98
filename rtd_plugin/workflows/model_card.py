"""The model card of a run: `README.md` in its folder, in the form that model hubs read."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from rtd_plugin.files import write_text
from rtd_plugin.paths import name_projection
from rtd_plugin.printable import make_printable
from rtd_plugin.training.run import Run

CARD_FILE = "README.md"


def write_model_card(
    run: Run,
    step: int,
    validation: Mapping[str, Any] | None,
    evaluation: Mapping[str, Any] | None,
    search: Mapping[str, Any] | None = None,
) -> None:
    """Write the model card of a finished run into its folder, whole or not at all.

    Args:
        run: the run, its text encoder saved.
        step: optimizer steps that the text encoder has taken.
        validation: as `rtd_plugin.workflows.verdict.measure_gain` gives it.
        evaluation: as `Comparison.to_dict` gives it, None if the recipe has none.
        search: as `rtd_plugin.training.rate_search.describe_search` gives it.

    Raises:
        RTDError: the card cannot be written.
    """
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"line": _escape_line, "json": lambda value: json.dumps(str(value))}
    template = files("rtd_plugin.workflows").joinpath("model_card.md").read_text(encoding="utf-8")
    values = {**_collect_values(run, step, validation, evaluation), "search": _list_rates(search)}
    write_text(run.folder / CARD_FILE, environment.from_string(template).render(values))


def _collect_values(
    run: Run, step: int, validation: Mapping[str, Any] | None, evaluation: Mapping[str, Any] | None
) -> dict[str, Any]:
    recipe = run.recipe
    sources = zip(recipe.triplets, run.triplet_digests, strict=True)
    return {
        "adapter": run.adapter.name,
        "backbone": recipe.backbone.name,
        # File names without their folders: a card is published, and folders are local.
        "model": Path(recipe.backbone.model or "MODEL").name.removesuffix(".json"),
        "pretrained": recipe.backbone.pretrained or "CHECKPOINT",
        "base_digest": run.base_digest,
        "projection": name_projection(recipe.projection),
        "projection_digest": run.projection_digest,
        "step": step,
        "triplets_per_step": recipe.batch_size * recipe.accumulation,
        "learning_rate": recipe.optimizer.learning_rate,
        "precision": recipe.precision,
        "sources": [{"name": source.name, "digest": digest} for source, digest in sources],
        "version": version("rtd-plugin"),
        "validation": validation,
        "benchmark": evaluation["benchmark"] if evaluation else None,
        "metrics": list_gains(evaluation) if evaluation else [],
    }


def _list_rates(search: Mapping[str, Any] | None) -> str | None:
    """Return the learning rates that were tried, as words."""
    if search is None:
        return None
    *rates, last = sorted({trial["learning_rate"] for trial in search["trials"]})
    return f"{', '.join(f'{rate:g}' for rate in rates)} and {last:g}"


def list_gains(evaluation: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a row for each metric over all queries: its `name`, `before`, `after`, `gain` and the gain's `interval`.

    Args:
        evaluation: as `Comparison.to_dict` gives it.

    Returns:
        The rows, none if the targets are not known.
    """
    before, after = evaluation["results"]
    if "metrics" not in before:
        return []
    name = evaluation["benchmark"]
    rows = []
    for metric, value in before["metrics"][name].items():
        if isinstance(value, Mapping):
            continue
        gain = after["gain"][name][metric]
        rows.append(
            {
                "name": metric,
                "before": f"{value:.1f}",
                "after": f"{after['metrics'][name][metric]:.1f}",
                "gain": f"{gain['difference']:+.1f}",
                "interval": f"{gain['low']:+.1f} to {gain['high']:+.1f}",
            }
        )
    return rows


def _escape_line(text: str) -> str:
    """Return a name as text within a line or a table's cell of Markdown."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in " ".join(make_printable(text).split()))
