"""One benchmark, before and after: the pre-trained and tuned text encoders, and what other queries would find."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rtd_plugin.clip.artifact import FILE_NAME
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.evaluation.image_features import Report
from rtd_plugin.evaluation.retrieval import Retrieval, RetrievalResult

PRE_TRAINED = "pre-trained"


@dataclass(frozen=True)
class ComparisonRow:
    """One way to query: what the query is made of, and whose text encoder encodes it.

    Attributes:
        query: "image only", "text only", "composed" or "target caption".
        weights: the tuned text encoder, None for the pre-trained one.
        result: the rankings and metrics.
        name: of the text encoder, unlike those of the others.
    """

    query: str
    weights: Path | None
    result: RetrievalResult
    name: str


@dataclass(frozen=True)
class Comparison:
    """Every way to query on one benchmark.

    Attributes:
        retrieval: the benchmark.
        results: composed queries by each text encoder, the pre-trained one first.
        baselines: queries by one half of the composed query, or by the target's caption.
    """

    retrieval: Retrieval
    results: list[ComparisonRow]
    baselines: list[ComparisonRow] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values, metrics in percent, each with its interval; a gain is over the first result."""
        benchmark = self.retrieval.benchmark
        return {
            "benchmark": benchmark.name,
            "split": None,
            **benchmark.model_dump(mode="json"),
            "queries": len(self.retrieval.queries),
            "gallery": len(self.retrieval.names),
            "results": [self._row(row) for row in self.results],
            "baselines": [self._row(row) for row in self.baselines],
        }

    def _row(self, row: ComparisonRow) -> dict[str, Any]:
        name = self.retrieval.benchmark.name
        figures, before = row.result.per_query, self.results[0].result.per_query
        weights = str(row.weights) if row.weights else None
        values: dict[str, Any] = {"query": row.query, "name": row.name, "weights": weights}
        if figures is None or before is None:
            return values
        values |= {"metrics": {name: figures.compute_metrics()}, "intervals": {name: figures.compute_intervals()}}
        if row.weights is not None:
            values["gain"] = {name: figures.compute_gain(before)}
        return values


def compare(
    retrieval: Retrieval,
    frozen: TextTower,
    tuned: Mapping[Path, Callable[[], TextTower]],
    report: Report = lambda done, total: None,
    baselines: bool = True,
) -> Comparison:
    """Query a benchmark in every way.

    Args:
        retrieval: the benchmark, its images encoded.
        frozen: ψ₀, the pre-trained text encoder.
        tuned: files of tuned text encoders, and what loads each: one at a time is kept.
        report: called with how many ways to query are done, and of how many.
        baselines: whether to query also with what is no composed query.
    """
    ways: list[tuple[str, Path | None, str, Callable[[], RetrievalResult | None]]] = [
        ("composed", None, PRE_TRAINED, lambda: retrieval.rank_composed(frozen)),
        *(
            ("composed", path, name, lambda load=load: retrieval.rank_composed(load()))
            for name, (path, load) in zip(_names(tuned), tuned.items(), strict=True)
        ),
    ]
    if baselines:
        ways += [
            ("image only", None, PRE_TRAINED, retrieval.rank_by_image),
            ("text only", None, PRE_TRAINED, lambda: retrieval.rank_by_condition(frozen)),
            ("target caption", None, PRE_TRAINED, lambda: retrieval.rank_by_target_caption(frozen)),
        ]
    results, others = [], []
    for number, (query, weights, name, find) in enumerate(ways, start=1):
        if (found := find()) is not None:
            (results if query == "composed" else others).append(ComparisonRow(query, weights, found, name))
        report(number, len(ways))
    return Comparison(retrieval, results, others)


def _names(paths: Iterable[Path]) -> list[str]:
    """Short names of tuned text encoders: their run's, as long as no two are alike."""
    paths = list(paths)
    files = (path.parent if path.name == FILE_NAME else path for path in paths)
    short = [path.name if path.is_dir() else path.stem for path in files]
    return [name if name and short.count(name) == 1 else str(path) for name, path in zip(short, paths, strict=True)]
