"""Build triplets from captions, and describe sets of triplets: what Python and the command line both call."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rtd_plugin.errors import UsageError, require_extra
from rtd_plugin.progress import Progress, no_progress
from rtd_plugin.ray_tasks import RayTasks
from rtd_plugin.triplets.parallel import count_processors
from rtd_plugin.triplets.records import read_records
from rtd_plugin.triplets.sources import load_triplets
from rtd_plugin.workflows.check import choose_columns


def build_triplets(
    captions: str | Path,
    output: str | Path,
    method: Literal["rules", "llm"] = "rules",
    *,
    column: str | None = None,
    per_caption: int | None = None,
    wordings: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    ray: str | None = None,
    register: Literal["mixed", "requests", "statements"] = "mixed",
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

    A build that was stopped resumes when it is started again.

    Args:
        captions: a file as `generation.captions.read_captions` takes it: text, a table or JSON.
        output: the file to write.
        method: "rules", for English captions, or "llm", a language model on a server.
        column: the column or key that has the captions; None: recognised by its name or the first records.
        per_caption: requests of one caption; by default at most 5 by rules, and 2 asked for from a language model.
        wordings: for rules, wordings of each request, at most (by default 1): triplets with the same captions, for
            `wording.sample` of a recipe.
        seed: of all random choices.
        workers: processes for rules (by default one per processor; the result does not depend on it), concurrent
            requests for a language model (by default 4).
        ray: for rules, the address of a Ray cluster whose machines do the work, or "auto" for the one that this machine
            belongs to; they have to see the output's folder. The result does not depend on it.
        register: for rules, how conditions are written: "requests" as in CIRR ("make the dog black"), "statements" as
            in FashionIQ ("is black"), or both, "mixed".
        backbone, pretrained, checkpoint: for rules, an open_clip model with the tag or file of its weights, in whose
            text space similarity is measured; by default the contexts of words in the captions are compared.
        endpoint, model: for a language model, the address of a server that speaks OpenAI's chat protocol, and the name
            of the model there.
        limit: requests to send at most, retries included.
        timeout: seconds to wait for an answer.
        attempts: attempts before a request counts as failed.
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
    options: dict[str, dict[str, object]] = {
        "rules": {
            "backbone": backbone,
            "pretrained": pretrained,
            "checkpoint": checkpoint,
            "ray": ray,
            "wordings": wordings,
        },
        "llm": {"endpoint": endpoint, "model": model},
    }
    for name, value in options["llm" if method == "rules" else "rules"].items():
        if value is not None:
            raise UsageError(f"{name}: not an option of the method {method!r}")
    if method == "rules":
        with require_extra("triplets", "building triplets by rules"):
            from rtd_plugin.generation.rules.build import build as build_by_rules
        embed = None
        if backbone or checkpoint:
            from rtd_plugin.clip.backbones import Backbone
            from rtd_plugin.generation.similarity import Embedding

            embed = Embedding(Backbone(backbone, pretrained, Path(checkpoint) if checkpoint else None))
        with progress("Building") as advance:
            by_rules = build_by_rules(
                captions,
                output,
                column=column,
                per_caption=per_caption or 5,
                wordings=wordings or 1,
                seed=seed,
                workers=workers or count_processors(),
                register=register,
                embed=embed,
                cluster=RayTasks(ray) if ray is not None else None,
                advance=advance,
            )
        return {"output": str(output), **by_rules.to_dict()}
    if endpoint is None or model is None:
        raise UsageError(f"{'endpoint' if endpoint is None else 'model'}: required by the method 'llm'")
    from rtd_plugin.generation.llm.build import build as build_with_model
    from rtd_plugin.generation.llm.server import Server

    server = Server(endpoint, model, timeout, attempts)
    with progress("Asking") as advance:
        answered = build_with_model(
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
    return {"output": str(output), **vars(answered)}


def paraphrase_triplets(
    file: str | Path,
    output: str | Path,
    *,
    endpoint: str,
    model: str,
    columns: Mapping[str, str] | None = None,
    wordings: int = 3,
    limit: int = 1000,
    workers: int = 4,
    timeout: float = 120.0,
    attempts: int = 6,
    seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write the conditions of a triplet file in other words, with a language model: `rtd-plugin triplets paraphrase`.

    A run that was stopped resumes when it is started again.

    Args:
        file: JSON in any shape of the source `json`, CSV or Parquet; records with a problem are left out.
        output: the file to write: each triplet, and one more for each new wording of its condition.
        endpoint, model: the address of a server that speaks OpenAI's chat protocol, and the name of the model there.
        columns: `reference`, `condition` or `target` to its name in the file.
        wordings: other wordings of each condition to ask for.
        limit: requests to send at most, retries included.
        workers: concurrent requests.
        timeout: seconds to wait for an answer.
        attempts: attempts before a request counts as failed.
        seed: sent with each request.
        progress: shows the progress.

    Returns:
        What `rtd-plugin triplets paraphrase … --json` prints.

    Raises:
        UsageError: an option is wrong, or the output is the file itself.
        RTDError: the file cannot be read, the server does not answer, or the output cannot be written.
    """
    from rtd_plugin.generation.llm.paraphrase import paraphrase
    from rtd_plugin.generation.llm.server import Server

    file, output = Path(file), Path(output)
    names = choose_columns(file, columns or {})
    server = Server(endpoint, model, timeout, attempts)
    with progress("Asking") as advance:
        result = paraphrase(
            file,
            names,
            output,
            server,
            count=wordings,
            limit=limit,
            workers=workers,
            seed=seed,
            advance=advance,
        )
    return {"output": str(output), **vars(result)}


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
    from rtd_plugin.generation.page import write_page
    from rtd_plugin.generation.statistics import compute_statistics, read_conditions

    file = Path(file)
    names = choose_columns(file, columns or {})
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
