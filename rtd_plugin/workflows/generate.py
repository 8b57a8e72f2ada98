"""Build triplets from captions, and describe sets of triplets. This alone uses the optional `rtd_plugin.generation`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.progress import Progress, no_progress
from rtd_plugin.triplets.parallel import count_processors
from rtd_plugin.triplets.records import read_records
from rtd_plugin.triplets.sources import load_triplets
from rtd_plugin.workflows.check import choose_columns

if TYPE_CHECKING:
    from rtd_plugin.generation.rules.lexicon import Embed

EXTRA = ("inflect", "py3langid", "spacy")  # modules of the extra `triplets`


def build_triplets(
    captions: str | Path,
    output: str | Path,
    method: Literal["rules", "llm"] = "rules",
    *,
    column: str | None = None,
    per_caption: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    backbone: str | None = None,
    pretrained: str | None = None,
    checkpoint: str | Path | None = None,
    endpoint: str | None = None,
    model: str | None = None,
    limit: int = 1000,
    timeout: float = 120.0,
    attempts: int = 6,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Build text triplets from captions, and write them as JSON lines: `rtd-plugin triplets build`.

    A build that was stopped goes on where it was when it is started again.

    Args:
        captions: text with a caption a line, or lines `image#index<TAB>caption`; with `column`, JSON lines, CSV or
            Parquet.
        output: the file to write.
        method: "rules", for English captions, or "llm", a language model on a server.
        column: the column or key that has the captions.
        per_caption: triplets of one caption; by default at most 5 by rules, and 2 asked for from a language model.
        seed: of all random choices.
        workers: processes for rules (by default one per processor; the result does not depend on it), concurrent
            requests for a language model (by default 4).
        backbone, pretrained, checkpoint: for rules, an open_clip model with the tag or file of its weights, in whose
            text space similarity is measured; by default the contexts of words in the captions are compared.
        endpoint, model: for a language model, the address of a server that speaks OpenAI's chat protocol, and the name
            of the model there.
        limit: requests to send at most, retries included.
        timeout: seconds to wait for an answer.
        attempts: how often a request is sent before it counts as failed.
        progress: shows the progress.

    Returns:
        What `rtd-plugin triplets build … --json` prints.

    Raises:
        UsageError: an option does not fit the method.
        RTDError: the captions cannot be read or give no triplet, the server does not answer, the output cannot be
            written, or a package that the method needs is not installed.

    Example:
        >>> build_triplets("captions.txt", "triplets.jsonl")["triplets"]  # doctest: +SKIP
        107187
    """
    captions, output = Path(captions), Path(output)
    unsuitable: dict[str, object] = {"endpoint": endpoint, "model": model}
    if method == "llm":
        unsuitable = {"backbone": backbone, "pretrained": pretrained, "checkpoint": checkpoint}
    for name, value in unsuitable.items():
        if value is not None:
            raise UsageError(f"{name}: is not an option of the method {method!r}")
    with _explain_missing_modules():
        if method == "rules":
            weights = Path(checkpoint) if checkpoint is not None else None
            similarity = _load_similarity(backbone, pretrained, weights) if backbone or weights else (None, "")
            return _build_by_rules(
                captions, output, column, per_caption or 5, seed, workers or count_processors(), similarity, progress
            )
        if endpoint is None or model is None:
            raise UsageError(f"{'endpoint' if endpoint is None else 'model'}: is missing; the method 'llm' needs it")
        from rtd_plugin.generation.llm.build import build
        from rtd_plugin.generation.llm.server import Server

        server = Server(endpoint, model, timeout, attempts)
        with progress("Asking") as advance:
            result = build(
                captions,
                output,
                server,
                limit=limit,
                column=column,
                per_caption=per_caption or 2,
                workers=workers or 4,
                seed=seed,
                advance=advance,
            )
        return {"output": str(output), **vars(result)}


def _load_similarity(
    backbone: str | None, pretrained: str | None, checkpoint: Path | None
) -> tuple["Embed | None", str]:
    """Return a function that embeds words, and a name for it."""
    from rtd_plugin.clip.backbones import Backbone
    from rtd_plugin.generation.similarity import build_embedding

    model = Backbone(backbone, pretrained, checkpoint)
    return build_embedding(model), f"{model.name} {checkpoint or ''}"


def _build_by_rules(
    captions: Path,
    output: Path,
    column: str | None,
    per_caption: int,
    seed: int,
    workers: int,
    similarity: tuple["Embed | None", str],
    progress: Progress,
) -> dict[str, Any]:
    from rtd_plugin.generation.rules.build import build

    embed, name = similarity
    with progress("Building") as advance:
        result = build(
            captions,
            output,
            column=column,
            per_caption=per_caption,
            seed=seed,
            workers=workers,
            embed=embed,
            backbone=name,
            advance=advance,
        )
    low, high = result.band
    return {
        "output": str(output),
        "captions": result.captions,
        "skipped": result.skipped,
        "first_fault": result.first_fault,
        "triplets": result.triplets,
        "edits": dict(sorted(result.kinds.items())),
        "similarity": {"low": low, "high": high},
    }


def describe_triplets(
    file: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    real: Sequence[str | Path] = (),
    page: str | Path | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Describe a set of triplets, and compare its conditions with real ones: `rtd-plugin triplets stats`.

    Args:
        file: JSON in any shape of the source `json`, CSV or Parquet; broken records are left out.
        columns: `reference`, `condition` or `target` to its name in the file.
        real: files of conditions that people wrote, as `generation.statistics.read_conditions` reads them.
        page: a file to write as a page with plots, if given.
        progress: shows the progress.

    Returns:
        What `rtd-plugin triplets stats … --json` prints.

    Raises:
        RTDError: a file cannot be read, or the page cannot be written.
    """
    file = Path(file)
    names = choose_columns(file, columns or {})
    with _explain_missing_modules():
        from rtd_plugin.generation.page import write_page
        from rtd_plugin.generation.statistics import compute_statistics, read_conditions

    conditions = {path.name: read_conditions(path) for path in map(Path, real)}
    with progress("Reading") as advance:
        triplets = load_triplets(str(file), read_records(file, names), names, skip_invalid=True)
        advance(triplets.count, triplets.count)
    statistics = {
        "file": str(file),
        "left_out": triplets.skipped,
        **compute_statistics(triplets.triplets, conditions),
    }
    if page is not None:
        write_page(Path(page), file.name, statistics)
        statistics["page"] = str(page)
    return statistics


@contextmanager
def _explain_missing_modules() -> Iterator[None]:
    """Raise an RTDError if the optional room, or a package of its extra, is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        name = error.name or ""
        if f"{name}.".startswith("rtd_plugin.generation."):
            raise RTDError(
                "this installation lacks rtd_plugin.generation, which builds and describes triplets: "
                "install rtd-plugin from PyPI"
            ) from error
        if name.partition(".")[0] in EXTRA:
            raise RTDError(
                f"building triplets by rules needs {name}: install it with `pip install 'rtd-plugin[triplets]'`"
            ) from error
        raise
