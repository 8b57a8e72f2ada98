"""Evaluates text encoders on a benchmark, and writes results, a report and submissions."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from rtd_plugin.contract import plugins
from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.evaluation.benchmark import Benchmark, Query
from rtd_plugin.evaluation.comparison import PRE_TRAINED, Comparison, compare
from rtd_plugin.evaluation.comparison_table import tabulate_comparison as tabulate_comparison
from rtd_plugin.evaluation.report import write_report
from rtd_plugin.evaluation.retrieval import Retrieval, check_queries, has_wordings
from rtd_plugin.files import write_text
from rtd_plugin.paths import CommandLineText
from rtd_plugin.printable import dump_json
from rtd_plugin.progress import Progress, no_progress
from rtd_plugin.training.recipe import parse_override
from rtd_plugin.validation import describe_error
from rtd_plugin.workflows.folders import make_folder
from rtd_plugin.workflows.loading import ModelOptions, load_models

if TYPE_CHECKING:
    from typing_extensions import Unpack

EVALUATIONS = Path("evaluations")
RESULTS_FILE, RANKS_FILE, REPORT_FILE, SUBMISSIONS = "results.json", "ranks.jsonl", "report.html", "submissions"

_log = logging.getLogger(__name__)


def evaluate(
    benchmark: str,
    data: str | Path | None = None,
    split: str | None = None,
    options: Mapping[str, Any] | Sequence[str] = (),
    *,
    skip_unreadable: bool | None = None,
    output: str | Path | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
    **model_options: Unpack[ModelOptions],
) -> dict[str, Any] | None:
    """Evaluate the pre-trained text encoder and tuned ones, as `rtd-plugin evaluate` does.

    Writes `results.json`, `report.html`, and `ranks.jsonl` with the rank of each query's target or, if the split's
    targets are secret, files for its server.

    Args:
        benchmark: name of a benchmark.
        data: the benchmark's folder.
        split: by default the one with targets.
        options: the benchmark's other options by name, or as `KEY=VALUE` with the value in YAML.
        skip_unreadable: whether images that cannot be read are left out, with the queries that need them, instead of
            being an error; by default for a folder of your own images only. Results of a published benchmark
            that lacks images have the name BENCHMARK-incomplete.
        output: folder for the results; by default a new one in `evaluations`.
        seed: chooses the queries in the report.
        progress: shows the progress, see `rtd_plugin.progress`.
        **model_options: `adapter`, `projection`, `model`, `pretrained`, `checkpoint`, `recipe`, `weights`,
            `preprocess`, `cache`, `workers`, `device`: see `rtd_plugin.workflows.loading.ModelOptions`.

    Returns:
        What `results.json` holds: metrics in percent, gains in percentage points. None in all processes of `torchrun`
        except the first: they only encode images.

    Raises:
        RTDError: a file is missing, broken, or does not fit the other files.
        UsageError: an option is missing or wrong.

    Example:
        ```python
        results = rtd_plugin.evaluate("cirr", "CIRR", weights=["runs/mine"])
        results["results"][1]["gain"]["cirr"]["recall_at_10"]["difference"]
        ```
    """
    start = time.monotonic()
    bench = make_benchmark(benchmark, data, split, options, skip_unreadable)
    if output is not None and (Path(output) / RESULTS_FILE).exists():
        raise UsageError(f"{output}: already holds results: pass another --output")
    check_queries(bench, bench.queries(), bench.gallery())  # before models are loaded or even downloaded
    models = load_models(**model_options, miniature=benchmark == "miniature")
    is_first_process = os.environ.get("RANK", "0") == "0"
    progress = progress if is_first_process else no_progress
    with progress("Encoding images") as advance:
        retrieval = Retrieval(bench, models.adapter, models.images, models.projection, models.tower, advance)
    if not is_first_process:
        return None
    if retrieval.unreadable and not retrieval.queries[0].targets:
        raise RTDError(f"{bench.name}: its server needs rankings of all images, and some cannot be read")
    remarks = list(bench.remarks())
    for remark in remarks:
        _log.warning("%s.", remark)
    with progress("Querying") as advance:
        comparison = compare(retrieval, models.tower, models.tuned, advance)
    figures = {
        **comparison.to_dict(),
        **models.to_dict(),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "remarks": [*retrieval.remarks, *remarks],
    }
    submissions = _make_submissions(comparison)
    name = "-".join(filter(None, (figures["benchmark"], figures["split"])))
    folder = make_folder(Path(output) if output is not None else None, EVALUATIONS, name)
    for file, content in submissions.items():
        write_text(folder / file, json.dumps(content, separators=(",", ":")))
    if retrieval.queries[0].targets:
        ranks = comparison.list_ranks()
        write_text(folder / RANKS_FILE, "".join(f"{json.dumps(query)}\n" for query in ranks))
        for row in figures["results"]:
            row["ranks"] = [query["ranks"][row["name"]] for query in ranks]
            if has_wordings(retrieval.queries):
                row["ranks_by_request"] = _group_ranks(retrieval.queries, row["ranks"])
    results = {
        **figures,
        "output": str(folder),
        "report": REPORT_FILE,
        "submissions": list(submissions),
        "seconds": round(time.monotonic() - start, 1),
    }
    write_report(folder / REPORT_FILE, comparison, figures, seed)
    # Last: with it the folder counts as a finished evaluation. Names of files need not be UTF-8.
    write_text(folder / RESULTS_FILE, dump_json(results) + "\n")
    return results


def make_benchmark(
    name: str,
    data: str | Path | None,
    split: str | None,
    options: Mapping[str, Any] | Sequence[str],
    skip_unreadable: bool | None,
) -> Benchmark:
    """Return a benchmark with its options; arguments as in `evaluate`.

    Raises:
        UsageError: there is no such benchmark, or an option is unknown, missing or wrong.
    """
    benchmark = plugins.find_benchmark(name)
    values = dict(options) if isinstance(options, Mapping) else dict(map(parse_override, options))
    for key, value in (("data", data), ("split", split)):
        if value is not None:
            values[key] = CommandLineText(value)
    if skip_unreadable is not None:
        values["skip_unreadable"] = skip_unreadable
    try:
        return benchmark.model_validate(values)
    except ValidationError as error:
        problem = describe_error(error)
        key = str(problem.location[0])
        option = f"--{key}" if key in ("data", "split") else f"--set {key}"
        if problem.type == "extra_forbidden":
            raise UsageError(f"{option}: {name} has no such option") from error
        if problem.type == "missing":
            raise UsageError(f"{name} needs {option}") from error
        raise UsageError(f"{option}: {problem.sentence}") from error


def _group_ranks(queries: Sequence[Query], ranks: Sequence[int]) -> dict[str, list[int]]:
    """Return the ranks of each request's wordings, in the order of the queries."""
    by_request: dict[str, list[int]] = {}
    for query, rank in zip(queries, ranks, strict=True):
        if query.request:
            by_request.setdefault(query.request, []).append(rank)
    return by_request


def _make_submissions(comparison: Comparison) -> dict[str, Any]:
    """Return the content of each file for the benchmark's server, by its path; empty if targets are known."""
    if comparison.retrieval.queries[0].targets:
        return {}
    folders = name_folders([PRE_TRAINED if row.weights is None else row.name for row in comparison.results])
    submissions: dict[str, Any] = {}
    for folder, row in zip(folders, comparison.results, strict=True):
        files = comparison.retrieval.benchmark.submissions(row.result.list_ranked_names())
        submissions |= {f"{SUBMISSIONS}/{folder}/{name}": content for name, content in files.items()}
    return submissions


def name_folders(names: Sequence[str]) -> list[str]:
    """Return a folder name for each name of a text encoder, unique even if the file system ignores case."""
    folders: list[str] = []
    for name in names:
        base = "tuned" if name in (".", "..") else name.replace("/", "-")
        candidates = (base if copy == 1 else f"{base}-{copy}" for copy in range(1, len(names) + 2))
        folders.append(next(each for each in candidates if each.casefold() not in map(str.casefold, folders)))
    return folders
