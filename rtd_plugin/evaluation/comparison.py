"""One benchmark, before and after: the pre-trained and a tuned text encoder, and what other queries would find."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.evaluation.retrieval import Ranks, Retrieval


@dataclass(frozen=True)
class Row:
    """One way to query: what the query is made of, and whose text encoder encodes it.

    Attributes:
        query: "image only", "text only", "composed" or "target caption".
        weights: the tuned text encoder, None for the pre-trained one.
        ranks: where the targets came.
    """

    query: str
    weights: Path | None
    ranks: Ranks


@dataclass(frozen=True)
class Comparison:
    """Ranks of every way to query on one benchmark."""

    retrieval: Retrieval
    rows: list[Row]

    def gain(self) -> dict[str, Any]:
        """What tuning gained on composed queries, as `Ranks.gain_over`."""
        before, after = (row.ranks for row in self.rows if row.query == "composed")
        return after.gain_over(before)

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values, metrics in percent."""
        benchmark = self.retrieval.benchmark
        return {
            "benchmark": benchmark.name,
            **benchmark.model_dump(mode="json"),
            "queries": len(self.retrieval.queries),
            "gallery": len(self.retrieval.names),
            "results": [
                {
                    "query": row.query,
                    "weights": str(row.weights) if row.weights else None,
                    "metrics": {benchmark.name: row.ranks.metrics()},
                }
                for row in self.rows
            ],
            "gain": {benchmark.name: self.gain()},
        }


def compare(retrieval: Retrieval, frozen: TextTower, tuned: TextTower, weights: Path) -> Comparison:
    """Query a benchmark in every way.

    Args:
        retrieval: the benchmark, its images encoded.
        frozen: ψ₀, the pre-trained text encoder.
        tuned: ψ.
        weights: the file ψ is in.
    """
    rows = [
        Row("image only", None, retrieval.image_only()),
        Row("text only", None, retrieval.text_only(frozen)),
        Row("composed", None, retrieval.composed(frozen)),
        Row("composed", weights, retrieval.composed(tuned)),
    ]
    if (ranks := retrieval.target_captions(frozen)) is not None:
        rows.append(Row("target caption", None, ranks))
    return Comparison(retrieval, rows)
