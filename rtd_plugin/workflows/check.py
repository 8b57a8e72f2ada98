"""Check a file of triplets, and repair it."""

from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rtd_plugin.contract import plugins
from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.errors import UsageError
from rtd_plugin.progress import Progress, no_progress
from rtd_plugin.regular_files import resolve_links
from rtd_plugin.triplets.checks import MAX_TOKENS, check_records, detect_language, repair
from rtd_plugin.triplets.checks import PROBLEMS as PROBLEMS
from rtd_plugin.triplets.records import Column, read_records
from rtd_plugin.triplets.triplet_file import columns_of, open_writer
from rtd_plugin.triplets.wording import ORDERS, find_order

PROGRESS_EVERY = 1000  # records


def check_triplets(
    file: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    adapter: str | None = None,
    fix: str | Path | None = None,
    max_listed: int | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """List what is wrong with a file of triplets: `rtd-plugin triplets check`.

    Args:
        file: JSON in any shape of the source `json`, CSV or Parquet.
        columns: `reference`, `condition` or `target` to its name in the file.
        adapter: name of the method to train: conditions must fit into its prompt, beside its pseudo
            tokens. None: a condition may be as long as a caption.
        fix: where to write a copy, if given: placeholder characters are removed, records with other problems left out.
        max_listed: list no more problems than this; None lists all.
        progress: shows the progress.

    Returns:
        What `rtd-plugin triplets check … --json` prints; in `list`, each problem has its `place` in the file, its
        `kind`, a key of PROBLEMS, and a `detail` that may be "". `order_percent` says how many conditions name the old
        before the new, and so on (`triplets.wording.find_order`).

    Raises:
        UsageError: `columns` is wrong, there is no such adapter, or `fix` is the file itself.
        RTDError: the file cannot be read, or the copy cannot be written.
    """
    file, fix = Path(file), Path(fix) if fix is not None else None
    names = choose_columns(file, columns or {})
    if fix is not None and resolve_links(fix) == resolve_links(file):
        raise UsageError(f"--fix {fix}: is the file that is checked; write the copy to another")
    max_condition = count_condition_tokens(plugins.find_adapter(adapter)) if adapter is not None else MAX_TOKENS
    listed: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    languages: Counter[str | None] = Counter()
    orders: Counter[str] = Counter()
    records = sound = written = repaired = 0
    with open_writer(fix) if fix is not None else nullcontext() as write, progress("Checking") as advance:
        for location, triplet, problems in check_records(read_records(file, names), names, max_condition):
            records += 1
            sound += not problems
            counts.update({problem.name for problem in problems})
            if records % PROGRESS_EVERY == 0:
                advance(records, 0, f"{records - sound:,} with problems")
            if max_listed is None or len(listed) < max_listed:
                listed += [{"place": location, "kind": problem.name, "detail": problem.detail} for problem in problems]
            if triplet is not None:
                languages[detect_language(triplet.reference)] += 1
                orders[find_order(triplet)] += 1
                clean = repair(triplet, problems) if problems else triplet
                if write is not None and clean is not None:
                    write(clean)
                    written += 1
                    repaired += bool(problems)
    detected = languages.total() - languages[None]
    result = {
        "file": str(file),
        "records": records,
        "sound": sound,
        "problems": dict(sorted(counts.items())),
        "non_english_percent": round(100 * (1 - languages["en"] / detected), 1) if detected else None,
        "order_percent": {order: round(100 * orders[order] / max(1, orders.total()), 1) for order in ORDERS},
    }
    if fix is not None:
        counts_of_copy = {"written": written, "repaired": repaired, "left_out": records - written}
        result["fixed"] = {"file": str(fix), **counts_of_copy}
    return {**result, "list": listed[:max_listed]}


def count_condition_tokens(adapter: Adapter) -> int:
    """Return how many tokens of a condition fit into a method's prompt beside its pseudo tokens."""
    import torch

    from rtd_plugin.clip.tokens import find_room, pad
    from rtd_plugin.contract.adapter import ProjectionInputs, list_pseudo_tokens

    size = 64  # of features and tokens: how many pseudo tokens there are does not depend on it
    prompt = adapter.prompt.encode(condition="")
    inputs = ProjectionInputs(torch.zeros(2, size), pad([prompt] * 2), lambda tokens: torch.zeros(len(tokens), size))
    with torch.inference_mode():
        pseudo_tokens, *_ = list_pseudo_tokens(adapter, adapter.build_projection({}, size, size).eval(), inputs)
    count = pseudo_tokens.shape[1] if pseudo_tokens.ndim == 3 else 1
    return find_room(prompt, adapter.prompt.placeholder_id, count) - 2 - len(prompt)


def choose_columns(file: Path, names: Mapping[str, str]) -> tuple[Column, ...]:
    """Return the columns of a triplet file, some under names that a user gives.

    Raises:
        UsageError: a key of `names` is not `reference`, `condition` or `target`.
    """
    try:
        return columns_of(file, names)
    except ValueError as error:
        raise UsageError(f"--column: {error}") from error
