"""Retrieval on a benchmark: images are encoded once, and then ranked for any number of text encoders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rtd_plugin.clip.tokens import clean_caption, encode_text, find_room, pad
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.benchmark import Benchmark, Query, RankedNames
from rtd_plugin.evaluation.image_features import ImageFeatures
from rtd_plugin.evaluation.per_query_metrics import PerQueryMetrics, compute_per_query_metrics
from rtd_plugin.evaluation.ranking import Gallery, Rankings
from rtd_plugin.progress import Advance, ignore_progress

BATCH = 256  # texts at a time
DEPTH = 50  # of the rankings that submissions and reports show
SUBSET_DEPTH = 3
_REMEDY = "check the benchmark's files"


@dataclass(frozen=True)
class RetrievalResult:
    """The rankings of one way to query.

    Attributes:
        benchmark, queries, names: the benchmark, its queries, and the names of its gallery.
        rankings: in the gallery, or among each query's candidates.
        subset: in each query's subset; None if the benchmark has no subsets.
    """

    benchmark: Benchmark
    queries: Sequence[Query]
    names: Sequence[str]
    rankings: Rankings
    subset: Rankings | None

    @cached_property
    def per_query(self) -> PerQueryMetrics | None:
        """The metrics of each query; None if targets are not known."""
        if not self.queries[0].targets:
            return None
        return compute_per_query_metrics(
            self.rankings,
            self.subset,
            [query.groups for query in self.queries],
            recall_at=self.benchmark.recall_at,
            subset_recall_at=self.benchmark.subset_recall_at,
            map_at=self.benchmark.map_at,
            averages_groups=self.benchmark.averages_groups,
        )

    def compute_metrics(self) -> dict[str, Any]:
        """Return what `PerQueryMetrics.compute_metrics` does.

        Raises:
            RTDError: targets are not known.
        """
        if self.per_query is None:
            raise RTDError(f"{self.benchmark.name}: no metrics: the targets of this split are kept secret")
        return self.per_query.compute_metrics()

    def list_ranked_names(self) -> list[RankedNames]:
        """Return the names of the best images of each query."""

        def names(rankings: Rankings | None, row: int) -> list[str]:
            return [self.names[index] for index in rankings.top[row].tolist() if index >= 0] if rankings else []

        return [
            RankedNames(query, names(self.rankings, row), names(self.subset, row))
            for row, query in enumerate(self.queries)
        ]


class Retrieval:
    """A benchmark with its image features and pseudo tokens, ready for any text encoder.

    Args:
        benchmark: the queries and the gallery.
        adapter: the method, for its prompts.
        images: the backbone's image side.
        projection: the method's φ.
        advance: called while images are encoded.

    Attributes:
        queries: Q of them.
        names: of the N images in the gallery.
        references: (Q, D) features of the reference images, not normalised.
        pseudo_tokens: (Q, W) or (Q, n, W).

    Raises:
        RTDError: there are no queries, an image is missing or cannot be read, or the gallery has a name twice.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        adapter: Adapter,
        images: ImageFeatures,
        projection: nn.Module,
        advance: Advance = ignore_progress,
    ):
        self.benchmark = benchmark
        self.adapter = adapter
        self.device = images.device
        self.queries = benchmark.queries()
        self.names = benchmark.gallery()
        index_of = _index_gallery(benchmark, self.queries, self.names)
        self._targets = _find_indices(index_of, [query.targets for query in self.queries]) or [[]] * len(self.queries)
        self._candidates = _find_indices(index_of, [query.candidates for query in self.queries])
        self._subsets = _find_indices(index_of, [query.subset for query in self.queries])
        if self._subsets is not None and not all(self._subsets):
            raise RTDError(f"{benchmark.name}: some queries have a subset and some have none; {_REMEDY}")
        self._excluded = None
        if benchmark.excludes_reference:
            self._excluded = [index_of.get(query.reference, -1) for query in self.queries]

        outside = sorted({query.reference for query in self.queries} - index_of.keys())
        features = images.encode(benchmark, [*self.names, *outside], advance)
        index_of |= {name: index for index, name in enumerate(outside, start=len(self.names))}
        self.references = features[[index_of[query.reference] for query in self.queries]]
        references = list(dict.fromkeys(query.reference for query in self.queries))
        tokens = images.project(projection, benchmark, references, features[[index_of[name] for name in references]])
        row_of = {name: row for row, name in enumerate(references)}
        self.pseudo_tokens = tokens[[row_of[query.reference] for query in self.queries]].to(self.device)
        self.gallery = Gallery(F.normalize(features[: len(self.names)], dim=-1).to(self.device))

    def rank_by_image(self) -> RetrievalResult:
        """Rank with the reference image as the query."""
        return self.rank(self.references)

    def rank_by_condition(self, tower: TextTower) -> RetrievalResult:
        """Rank with the condition as the query; two conditions become one text."""
        return self.rank(self._encode_captions(tower, [" and ".join(query.conditions) for query in self.queries]))

    def rank_by_target_caption(self, tower: TextTower) -> RetrievalResult | None:
        """Rank with the target's caption as the query; None if the benchmark has no captions."""
        captions = [query.target_caption for query in self.queries]
        return self.rank(self._encode_captions(tower, captions)) if all(captions) else None

    def rank_composed(self, tower: TextTower) -> RetrievalResult:
        """Rank with the composed query: the method's prompt with condition and pseudo token.

        Two conditions make one prompt or, if the method uses both orders, two, whose normalised features are averaged.

        Raises:
            RTDError: some queries have one condition and some two.
        """
        conditions = [query.conditions for query in self.queries]
        if {len(each) for each in conditions} == {1}:
            prompts = [self.adapter.prompt.encode(condition=each[0]) for each in conditions]
            return self.rank(self._encode(tower, prompts, self.pseudo_tokens))
        if {len(each) for each in conditions} != {2}:
            raise RTDError(f"{self.benchmark.name}: each query needs one condition, or each two; {_REMEDY}")
        prompts = [self.adapter.encode_two(first, second) for first, second in conditions]
        features = self._encode(tower, prompts, self.pseudo_tokens)
        if self.adapter.both_orders:
            prompts = [self.adapter.encode_two(second, first) for first, second in conditions]
            swapped = self._encode(tower, prompts, self.pseudo_tokens)
            features = (F.normalize(features, dim=-1) + F.normalize(swapped, dim=-1)) / 2
        return self.rank(features)

    def rank(self, features: Tensor) -> RetrievalResult:
        """Rank the gallery for query features (Q, D), which need not be normalised."""
        features = F.normalize(features.float().to(self.device), dim=-1)
        subset = None
        if self._subsets is not None:
            subset = self.gallery.rank(
                features, self._targets, excluded=self._excluded, candidates=self._subsets, depth=SUBSET_DEPTH
            )
        rankings = self.gallery.rank(
            features, self._targets, excluded=self._excluded, candidates=self._candidates, depth=DEPTH
        )
        return RetrievalResult(self.benchmark, self.queries, self.names, rankings, subset)

    def _encode_captions(self, tower: TextTower, captions: Sequence[str]) -> Tensor:
        return self._encode(tower, [encode_text(clean_caption(caption)) for caption in captions])

    @torch.no_grad()
    def _encode(self, tower: TextTower, texts: Sequence[list[int]], pseudo_tokens: Tensor | None = None) -> Tensor:
        """Encode token ids without start and end to features (Q, D) float32, with a pseudo token for each text."""
        tower = tower.to(self.device)
        placeholder = self.adapter.prompt.placeholder_id
        pseudo_count = pseudo_tokens.shape[1] if pseudo_tokens is not None and pseudo_tokens.ndim == 3 else 1
        room = find_room(texts[0], placeholder, pseudo_count, tower.context_length)
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))  # similar lengths need little padding
        features = torch.empty(len(texts), tower.features, device=self.device)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            tokens = pad([texts[row] for row in rows], room).to(self.device)
            batch = None if pseudo_tokens is None else pseudo_tokens[rows]
            features[rows] = tower.encode(tokens, batch, placeholder).float()
        return features


def _index_gallery(benchmark: Benchmark, queries: Sequence[Query], names: Sequence[str]) -> dict[str, int]:
    """Return each image's index in the gallery, after checking that targets and candidates are in it."""
    if not queries:
        raise RTDError(f"{benchmark.name}: no queries; {_REMEDY}")
    if len({bool(query.targets) for query in queries}) > 1:
        raise RTDError(f"{benchmark.name}: some queries have targets and some have none; {_REMEDY}")
    index_of: dict[str, int] = {}
    for index, name in enumerate(names):
        if index_of.setdefault(name, index) != index:
            raise RTDError(f"{benchmark.name}: {name} is in the gallery more than once; {_REMEDY}")
    checked: set[int] = set()  # ids of tuples that many queries share
    for query in queries:
        for listed in (query.targets, query.subset, query.candidates):
            if id(listed) in checked:
                continue
            checked.add(id(listed))
            for name in listed:
                if name not in index_of:
                    raise RTDError(
                        f"{benchmark.name}: {name}, a query's target or candidate, is not in the gallery; {_REMEDY}"
                    )
    return index_of


def _find_indices(index_of: Mapping[str, int], tuples: Sequence[tuple[str, ...]]) -> list[list[int]] | None:
    """Return gallery indices of names, one list for all queries that share a tuple; None if all tuples are empty."""
    lists: dict[int, list[int]] = {}
    for names in tuples:
        if id(names) not in lists:
            lists[id(names)] = [index_of[name] for name in names]
    return [lists[id(names)] for names in tuples] if any(tuples) else None
