"""Retrieval on a benchmark: the image side once, then as many text encoders as one likes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rtd_plugin.clip.tokens import clean_caption, encode_text, pad
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.benchmark import Benchmark, Query, RankedNames
from rtd_plugin.evaluation.image_features import ImageFeatures, Report
from rtd_plugin.evaluation.per_query_metrics import PerQueryMetrics, compute_per_query_metrics
from rtd_plugin.evaluation.ranking import Gallery, Rankings

BATCH = 256  # texts at a time
DEPTH = 50  # of the rankings that submissions and reports show
SUBSET_DEPTH = 3


@dataclass(frozen=True)
class RetrievalResult:
    """What one way to query found.

    Attributes:
        benchmark, queries, names: the benchmark, its queries, and its gallery by name.
        rankings: in the gallery, or among each query's candidates.
        subset: in each query's subset; None where the benchmark has none.
    """

    benchmark: Benchmark
    queries: Sequence[Query]
    names: Sequence[str]
    rankings: Rankings
    subset: Rankings | None

    @cached_property
    def per_query(self) -> PerQueryMetrics | None:
        """What the metrics are made of; None where targets are not known."""
        if not self.queries[0].targets:
            return None
        kind = self.benchmark
        return compute_per_query_metrics(
            self.rankings,
            self.subset,
            [query.groups for query in self.queries],
            recall_at=kind.recall_at,
            subset_recall_at=kind.subset_recall_at,
            map_at=kind.map_at,
            averages_groups=kind.averages_groups,
        )

    def compute_metrics(self) -> dict[str, Any]:
        """As `PerQueryMetrics.metrics`.

        Raises:
            RTDError: targets are not known.
        """
        if self.per_query is None:
            raise RTDError(f"{self.benchmark.name}: there are no metrics: the targets of this split are kept secret")
        return self.per_query.compute_metrics()

    def list_ranked_names(self) -> list[RankedNames]:
        """The best images of each query by name."""

        def named(rankings: Rankings | None, number: int) -> list[str]:
            return [self.names[row] for row in rankings.top[number].tolist() if row >= 0] if rankings else []

        return [
            RankedNames(query, named(self.rankings, number), named(self.subset, number))
            for number, query in enumerate(self.queries)
        ]


class Retrieval:
    """A benchmark with its image features and pseudo tokens computed: ready for any text encoder.

    Args:
        benchmark: what to search, and for what.
        adapter: the method, for its prompts.
        images: the backbone's image side.
        projection: the method's φ.
        report: called with (done, total) while images are encoded.

    Attributes:
        queries: Q of them.
        names: of the N images in the gallery.
        references: (Q, D) features of the reference images, not normalised.
        pseudo_tokens: (Q, W) or (Q, n, W).

    Raises:
        RTDError: there are no queries, an image is missing or cannot be read, or the gallery names one twice.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        adapter: Adapter,
        images: ImageFeatures,
        projection: nn.Module,
        report: Report = lambda done, total: None,
    ):
        self.benchmark = benchmark
        self.adapter = adapter
        self.device = images.device
        self.queries = benchmark.queries()
        self.names = benchmark.gallery()
        place = _places(benchmark, self.queries, self.names)
        self._targets = _rows(place, [query.targets for query in self.queries]) or [[]] * len(self.queries)
        self._candidates = _rows(place, [query.candidates for query in self.queries])
        self._subsets = _rows(place, [query.subset for query in self.queries])
        if self._subsets is not None and not all(self._subsets):
            raise RTDError(f"{benchmark.name}: some queries have a subset and some have none; check its files")
        self._excluded = None
        if benchmark.excludes_reference:
            self._excluded = [place.get(query.reference, -1) for query in self.queries]

        extra = sorted({query.reference for query in self.queries} - place.keys())
        names = [*self.names, *extra]
        features = images.features(benchmark, names, report)
        place |= {name: number for number, name in enumerate(extra, start=len(self.names))}
        self.references = features[[place[query.reference] for query in self.queries]]
        distinct = {query.reference: number for number, query in enumerate(self.queries)}
        tokens = images.pseudo_tokens(projection, benchmark, list(distinct), self.references[list(distinct.values())])
        token_of = {name: number for number, name in enumerate(distinct)}
        self.pseudo_tokens = tokens[[token_of[query.reference] for query in self.queries]].to(self.device)
        self.gallery = Gallery(F.normalize(features[: len(self.names)], dim=-1).to(self.device))

    def rank_by_image(self) -> RetrievalResult:
        """The reference image as the query."""
        return self.rank(self.references)

    def rank_by_condition(self, tower: TextTower) -> RetrievalResult:
        """The condition as the query, as any text; of two conditions, both in one text."""
        return self.rank(self._encode_captions(tower, [" and ".join(query.conditions) for query in self.queries]))

    def rank_by_target_caption(self, tower: TextTower) -> RetrievalResult | None:
        """The target's caption as the query; None where the benchmark has none."""
        captions = [query.target_caption for query in self.queries]
        return self.rank(self._encode_captions(tower, captions)) if all(captions) else None

    def rank_composed(self, tower: TextTower) -> RetrievalResult:
        """The composed query: the method's prompt with condition and pseudo token.

        Two conditions make one prompt or, for a method that wants both orders, two, whose normalised features are
        averaged.
        """
        prompt = self.adapter.prompt
        one = [prompt.encode(condition=query.conditions[0]) for query in self.queries if len(query.conditions) == 1]
        if len(one) == len(self.queries):
            return self.rank(self._encode(tower, one, self.pseudo_tokens))
        pairs = [query.conditions for query in self.queries]
        if set(map(len, pairs)) != {2}:
            raise RTDError(f"{self.benchmark.name}: each query needs one condition, or each two; check its files")
        two = [self.adapter.encode_two(first, second) for first, second in pairs]
        features = self._encode(tower, two, self.pseudo_tokens)
        if self.adapter.both_orders:
            turned = [self.adapter.encode_two(second, first) for first, second in pairs]
            other = self._encode(tower, turned, self.pseudo_tokens)
            features = (F.normalize(features, dim=-1) + F.normalize(other, dim=-1)) / 2
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
        """Texts as token ids, with a pseudo token for each or none, to features (Q, D)."""
        tower = tower.to(self.device)
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))  # similar lengths need little padding
        features = torch.empty(len(texts), tower.features, device=self.device)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            tokens = pad([texts[row] for row in rows], tower.context_length)
            batch = None if pseudo_tokens is None else pseudo_tokens[rows]
            features[rows] = tower.encode(tokens, batch, self.adapter.prompt.placeholder_id).float()
        return features


def _places(benchmark: Benchmark, queries: Sequence[Query], names: Sequence[str]) -> dict[str, int]:
    """Each image's row of the gallery, which must have every target and candidate once."""
    remedy = "check the benchmark's files"
    if not queries:
        raise RTDError(f"{benchmark.name}: there are no queries; {remedy}")
    if len({bool(query.targets) for query in queries}) > 1:
        raise RTDError(f"{benchmark.name}: some queries have targets and some have none; {remedy}")
    places: dict[str, int] = {}
    for number, name in enumerate(names):
        if places.setdefault(name, number) != number:
            raise RTDError(f"{benchmark.name}: {name} is in the gallery more than once; {remedy}")
    checked: set[int] = set()  # of lists of candidates that many queries share
    for query in queries:
        for listed in (query.targets, query.subset, query.candidates):
            if id(listed) in checked:
                continue
            checked.add(id(listed))
            for name in listed:
                if name not in places:
                    raise RTDError(
                        f"{benchmark.name}: {name}, a query's target or candidate, is not in the gallery; {remedy}"
                    )
    return places


def _rows(places: Mapping[str, int], listed: Sequence[tuple[str, ...]]) -> list[list[int]] | None:
    """Gallery rows of names, one list for all queries that share their tuple; None if no query has any."""
    rows: dict[int, list[int]] = {}
    for names in listed:
        if id(names) not in rows:
            rows[id(names)] = [places[name] for name in names]
    return [rows[id(names)] for names in listed] if any(listed) else None
