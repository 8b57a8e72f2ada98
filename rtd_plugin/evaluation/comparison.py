"""Compares the pre-trained and tuned text encoders on one benchmark, and simpler queries with composed ones."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.clip.weight_files import FILE_NAME
from rtd_plugin.evaluation.retrieval import Retrieval, RetrievalResult
from rtd_plugin.progress import Advance, ignore_progress

PRE_TRAINED = "pre-trained"


@dataclass(frozen=True)
class ComparisonRow:
    """One type of query, encoded by one text encoder.

    Attributes:
        query: "image only", "text only", "composed" or "target caption".
        weights: the tuned text encoder, None for the pre-trained one.
        name: a short name of the text encoder, different from the others'.
        label: the row's name in tables.
        result: its rankings and metrics.
    """

    query: str
    weights: Path | None
    name: str
    label: str
    result: RetrievalResult


@dataclass(frozen=True)
class Comparison:
    """All types of queries on one benchmark.

    Attributes:
        retrieval: the benchmark.
        results: composed queries by each text encoder, the pre-trained one first.
        baselines: queries by the image or the condition alone, or by the target's caption.
    """

    retrieval: Retrieval
    results: list[ComparisonRow]
    baselines: list[ComparisonRow] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return all metrics in percent with their intervals, and gains over the first result, as plain values."""
        benchmark = self.retrieval.benchmark
        return {
            "benchmark": self.retrieval.name,
            "title": self.retrieval.title,
            "split": None,
            **benchmark.model_dump(mode="json"),
            "queries": len(self.retrieval.queries),
            "requests": len({query.request or index for index, query in enumerate(self.retrieval.queries)}),
            "gallery": len(self.retrieval.names),
            "unreadable": self.retrieval.unreadable,
            "results": [self._to_dict(row) for row in self.results],
            "baselines": [self._to_dict(row) for row in self.baselines],
        }

    def list_ranks(self) -> list[dict[str, Any]]:
        """Return each query as plain values, with ranks by each text encoder's name.

        `ranks` are of the target that recall counts, in the query's subset `subset_ranks`; if it has several targets or
        wrong answers, `target_ranks` are of all targets, and `wrong_ranks` of the wrong answers among the first 50.
        """
        queries = self.retrieval.queries
        rows: list[dict[str, Any]] = [asdict(query) for query in queries]
        for row in self.results:
            result, subset_ranks = row.result, row.result.subset_target_ranks
            ranks_of_all = result.rankings.ranks.tolist()
            for index, (query, values) in enumerate(zip(queries, rows, strict=True)):
                ranks: dict[str, Any] = {"ranks": int(result.target_ranks[index])}
                if subset_ranks is not None:
                    ranks["subset_ranks"] = int(subset_ranks[index])
                if len(query.targets) > 1:
                    ranks["target_ranks"] = ranks_of_all[index][: len(query.targets)]
                if query.wrong:
                    ranks["wrong_ranks"] = result.wrong_ranks[index]
                for key, value in ranks.items():
                    values.setdefault(key, {})[row.name] = value
        return [{key: value for key, value in row.items() if value and key != "candidates"} for row in rows]

    def _to_dict(self, row: ComparisonRow) -> dict[str, Any]:
        benchmark = self.retrieval.name
        per_query, before = row.result.per_query, self.results[0].result.per_query
        weights = str(row.weights) if row.weights else None
        values: dict[str, Any] = {"query": row.query, "name": row.name, "label": row.label, "weights": weights}
        if per_query is None or before is None:
            return values
        values["metrics"] = {benchmark: per_query.compute_metrics()}
        values["intervals"] = {benchmark: per_query.compute_intervals()}
        if row.weights is not None:
            values["gain"] = {benchmark: per_query.compute_gain(before)}
        return values


def list_encoders(
    frozen: TextTower, tuned: Mapping[Path, Callable[[], TextTower]]
) -> list[tuple[Path | None, str, str, Callable[[], TextTower]]]:
    """Return file, short name, label and loader of each text encoder, the pre-trained one (no file) first."""
    names = _shorten_paths(tuned)
    labels = ["composed, tuned"] if len(names) == 1 else [f"composed, {name}" for name in names]
    return [
        (None, PRE_TRAINED, "composed, frozen", lambda: frozen),
        *zip(tuned, names, labels, tuned.values(), strict=True),
    ]


def compare(
    retrieval: Retrieval,
    frozen: TextTower,
    tuned: Mapping[Path, Callable[[], TextTower]],
    advance: Advance = ignore_progress,
) -> Comparison:
    """Rank a benchmark's gallery for all types of queries.

    Args:
        retrieval: the benchmark, its images encoded.
        frozen: ψ₀, the pre-trained text encoder.
        tuned: a function that loads each tuned text encoder, by its file; one at a time is in memory.
        advance: called with the number of rankings done.
    """
    encoders = list_encoders(frozen, tuned)
    simpler: dict[str, Callable[[], RetrievalResult | None]] = {
        "image only": retrieval.rank_by_image,
        "text only": partial(retrieval.rank_by_condition, frozen),
        "target caption": partial(retrieval.rank_by_target_caption, frozen),
    }
    total = len(encoders) + len(simpler)
    comparison = Comparison(retrieval, [])
    for done, (weights, name, label, load) in enumerate(encoders, start=1):
        result = retrieval.rank_composed(load())
        comparison.results.append(ComparisonRow("composed", weights, name, label, result))
        advance(done, total)
    for done, (query, rank) in enumerate(simpler.items(), start=len(encoders) + 1):
        if (ranked := rank()) is not None:
            comparison.baselines.append(ComparisonRow(query, None, PRE_TRAINED, query, ranked))
        advance(done, total)
    return comparison


def _shorten_paths(paths: Iterable[Path]) -> list[str]:
    """Return short names of tuned text encoders: the run's, the path if that is not unique, or the absolute path."""
    paths = list(paths)
    runs = (path.parent if path.name == FILE_NAME else path for path in paths)
    short = [path.name if path.is_dir() else path.stem for path in runs]
    names = [name if name and short.count(name) == 1 else str(path) for name, path in zip(short, paths, strict=True)]
    return [name if name != PRE_TRAINED else str(path.absolute()) for name, path in zip(names, paths, strict=True)]
