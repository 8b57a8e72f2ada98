"""Check a file of triplets, and repair it."""

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rtd_plugin.errors import UsageError
from rtd_plugin.progress import Progress, no_progress
from rtd_plugin.triplets.checks import PROBLEMS as PROBLEMS
from rtd_plugin.triplets.checks import Checker, detect_language, repair
from rtd_plugin.triplets.records import Column, read_records
from rtd_plugin.triplets.triplet import Triplet
from rtd_plugin.triplets.triplet_file import columns_of, open_writer

PROGRESS_EVERY = 1000  # records


def check_triplets(
    file: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    fix: str | Path | None = None,
    max_listed: int | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """List what is wrong with a file of triplets: `rtd-plugin triplets check`.

    Args:
        file: JSON in any shape of the source `json`, CSV or Parquet.
        columns: `reference`, `condition` or `target` to its name in the file.
        fix: where to write a copy, if given: placeholder characters are removed, records with other problems left out.
        max_listed: list no more problems than this; None lists all.
        progress: shows the progress.

    Returns:
        What `rtd-plugin triplets check … --json` prints; in `list`, each problem has its `place` in the file, its
        `kind`, a key of PROBLEMS, and a `detail` that may be "".

    Raises:
        UsageError: `columns` is wrong, or `fix` is the file itself.
        RTDError: the file cannot be read, or the copy cannot be written.
    """
    file, fix = Path(file), Path(fix) if fix is not None else None
    names = choose_columns(file, columns or {})
    if fix is not None and fix.resolve() == file.resolve():
        raise UsageError(f"--fix {fix}: is the file that is checked; write the copy to another")
    checker = Checker(names, detect_language if importlib.util.find_spec("py3langid") else lambda text: None)
    summary = checker.summary
    listed: list[dict[str, Any]] = []
    written = repaired = 0
    with _open_copy(fix) as write, progress("Checking") as advance:
        for location, triplet, problems in checker.check(read_records(file, names)):
            if summary.records % PROGRESS_EVERY == 0:
                advance(summary.records, 0, f"{summary.records - summary.sound:,} with problems")
            if max_listed is None or len(listed) < max_listed:
                listed += [{"place": location, "kind": problem.name, "detail": problem.detail} for problem in problems]
            if fix is not None and triplet is not None:
                clean = repair(triplet, problems) if problems else triplet
                if clean is not None:
                    write(clean)
                    written += 1
                    repaired += bool(problems)
    detected = summary.english + summary.other_languages
    result = {
        "file": str(file),
        "records": summary.records,
        "sound": summary.sound,
        "problems": dict(sorted(summary.problems.items())),
        "non_english_percent": round(100 * summary.other_languages / detected, 1) if detected else None,
    }
    if fix is not None:
        left_out = summary.records - written
        result["fixed"] = {"file": str(fix), "written": written, "repaired": repaired, "left_out": left_out}
    return {**result, "list": listed[:max_listed]}


def choose_columns(file: Path, names: Mapping[str, str]) -> tuple[Column, ...]:
    """Return the columns of a triplet file, some under names that a user gives.

    Raises:
        UsageError: a key of `names` is not `reference`, `condition` or `target`.
    """
    try:
        return columns_of(file, names)
    except ValueError as error:
        raise UsageError(f"--column: {error}") from error


@contextmanager
def _open_copy(path: Path | None) -> Iterator[Callable[[Triplet], None]]:
    if path is None:
        yield lambda triplet: None
        return
    with open_writer(path) as write:
        yield write
