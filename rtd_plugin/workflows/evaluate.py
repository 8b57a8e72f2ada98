"""What `rtd-plugin evaluate` does: queries a benchmark with each text encoder, and writes what came of it."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rtd_plugin.cli.console import err, progress
from rtd_plugin.contract import plugins
from rtd_plugin.errors import UsageError
from rtd_plugin.evaluation.benchmark import Benchmark
from rtd_plugin.evaluation.comparison import Comparison, ComparisonRow, compare
from rtd_plugin.evaluation.report import write_report
from rtd_plugin.evaluation.retrieval import Retrieval
from rtd_plugin.files import write_text
from rtd_plugin.paths import CommandLineText
from rtd_plugin.training.recipe import parse_override
from rtd_plugin.workflows.folders import make_folder
from rtd_plugin.workflows.loading import load_setup

EVALUATIONS = Path("evaluations")
RESULTS_FILE, REPORT_FILE, SUBMISSIONS = "results.json", "report.html", "submissions"


def evaluate_run(
    benchmark: str,
    data: Path | None,
    split: str | None,
    options: Sequence[str],
    output: Path | None,
    seed: int,
    **setup: Any,
) -> dict[str, Any] | None:
    """Evaluate as the options of `rtd-plugin evaluate` say.

    Returns:
        What `results.json` holds; None on all processes but the first, which only help to encode images.

    Raises:
        RTDError: an option is wrong, or a file is missing, broken, or does not fit the others.
    """
    began = time.monotonic()
    measured = make_benchmark(benchmark, data, split, options)
    if output is not None and (output / RESULTS_FILE).exists():
        raise UsageError(f"{output}: already holds results: pass another --output")
    measured.queries(), measured.gallery()  # what is missing shows before models are loaded, or even downloaded
    loaded = load_setup(**setup, miniature=benchmark == "miniature")
    first = os.environ.get("RANK", "0") == "0"
    with progress("Encoding images", shown=first) as advance:
        retrieval = Retrieval(measured, loaded.adapter, loaded.images, loaded.projection, advance)
    if not first:
        return None
    remarks = list(measured.remarks())
    for remark in remarks:
        err().print(f"{remark}.", soft_wrap=True)
    with progress("Querying", shown=first) as advance:
        comparison = compare(retrieval, loaded.tower, loaded.tuned, report=advance)
    figures = {**comparison.to_dict(), **loaded.to_dict(), "remarks": remarks}
    submissions = _submissions(comparison)
    folder = make_folder(output, EVALUATIONS, "-".join(filter(None, (measured.name, figures["split"]))))
    for name, content in submissions.items():
        write_text(folder / name, json.dumps(content, separators=(",", ":")))
    write_report(folder / REPORT_FILE, comparison, figures, seed)
    result = {
        **figures,
        "output": str(folder),
        "report": REPORT_FILE,
        "submissions": list(submissions),
        "seconds": round(time.monotonic() - began, 1),
    }
    write_text(folder / RESULTS_FILE, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return result


def make_benchmark(name: str, data: Path | None, split: str | None, options: Sequence[str]) -> Benchmark:
    """A benchmark from what the command line says of it.

    Raises:
        UsageError: there is none of that name, or an option that it does not have, needs or understand.
    """
    kind = plugins.find_benchmark(name)
    values: dict[str, Any] = dict(map(parse_override, options))
    for key, value in (("data", data), ("split", split)):
        if value is not None:
            values[key] = CommandLineText(value)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = str(problem["loc"][0])
        option = f"--{key}" if key in ("data", "split") else f"--set {key}"
        if problem["type"] == "extra_forbidden":
            raise UsageError(f"{option}: {name} has no such option") from error
        if problem["type"] == "missing":
            raise UsageError(f"{name} needs {option}") from error
        raise UsageError(f"{option}: {problem['msg'][0].lower()}{problem['msg'][1:]}") from error


def _submissions(comparison: Comparison) -> dict[str, Any]:
    """Files for the benchmark's server by their path in the results' folder; none where targets are known."""
    if comparison.retrieval.queries[0].targets:
        return {}
    files = {}
    for row in comparison.results:
        content = comparison.retrieval.benchmark.submissions(row.result.list_ranked_names())
        files |= {f"{SUBMISSIONS}/{folder_name(row)}/{name}": value for name, value in content.items()}
    return files


def folder_name(row: ComparisonRow) -> str:
    """A text encoder's name as that of a folder in `submissions`."""
    if row.weights is None:
        return "pre-trained"
    return "tuned" if row.name in (".", "..") else row.name.replace("/", "-")
