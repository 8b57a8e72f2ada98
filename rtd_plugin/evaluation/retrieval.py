"""Retrieval on a benchmark: images are encoded once, and then ranked for any number of text encoders."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rtd_plugin.clip.tokens import clean_caption, encode_text
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.benchmark import Benchmark, Query, RankedNames
from rtd_plugin.evaluation.encoding import check_text, compose, encode_texts, make_project
from rtd_plugin.evaluation.image_features import ImageFeatures, name_images
from rtd_plugin.evaluation.metrics import PerQueryMetrics, average_precision_at, hits_at, wrong_share_at
from rtd_plugin.evaluation.ranking import Rankings, open_gallery
from rtd_plugin.progress import Advance, ignore_progress

DEPTH = 50  # of the rankings that submissions and reports show
SUBSET_DEPTH = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetrievalResult:
    """The rankings of one type of query.

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
        benchmark, subset_ranks = self.benchmark, self.subset_target_ranks
        values = {f"recall_at_{k}": hits_at(self.target_ranks, k) for k in benchmark.recall_at}
        if subset_ranks is not None:
            values |= {f"subset_recall_at_{k}": hits_at(subset_ranks, k) for k in benchmark.subset_recall_at}
        values |= {f"map_at_{k}": average_precision_at(self.rankings.ranks, k) for k in benchmark.map_at}
        counts = [len(query.wrong) for query in self.queries]
        if any(counts):
            values |= {f"wrong_at_{k}": wrong_share_at(self.wrong_ranks, counts, k) for k in benchmark.wrong_at}
        compared = [f"{metric}_at_{k}" for metric in ("recall", "map") for k in benchmark.spread_at]
        return PerQueryMetrics(
            values,
            groups=[query.groups for query in self.queries],
            averages_groups=benchmark.averages_groups,
            requests=[query.request for query in self.queries],
            spread_of=[name for name in compared if name in values] if has_wordings(self.queries) else (),
        )

    @property
    def target_ranks(self) -> Tensor:
        """The rank (Q,) of each query's target that recall counts; 0 without targets."""
        return self._select_ranks(self.rankings)

    @property
    def subset_target_ranks(self) -> Tensor | None:
        """The same in each query's subset."""
        return None if self.subset is None else self._select_ranks(self.subset)

    def _select_ranks(self, rankings: Rankings) -> Tensor:
        return rankings.ranks[:, 0] if self.benchmark.recall_of_any_target else rankings.first

    @cached_property
    def wrong_ranks(self) -> list[list[int]]:
        """The ranks of each query's wrong answers, ascending, as deep as the rankings are kept."""
        column_of = {name: column for column, name in enumerate(self.names)}
        ranks = []
        for query, top in zip(self.queries, self.rankings.top.tolist(), strict=True):
            wrong = {column_of[name] for name in query.wrong}
            ranks.append([rank for rank, column in enumerate(top, start=1) if column in wrong])
        return ranks

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
        frozen: ψ₀, with which some methods' φ encodes texts.
        advance: called while images are encoded.

    Attributes:
        queries: Q of them.
        names: of the N images in the gallery.
        unreadable: why images were left out, by name.
        remarks: a sentence about them, if there are any.
        references: (Q, D) features of the reference images, not normalised.
        pseudo_tokens: (Q, W) or (Q, n, W), or a function of the prompts.

    Raises:
        RTDError: there are no queries, an image is missing or cannot be read, or the benchmark contradicts itself.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        adapter: Adapter,
        images: ImageFeatures,
        projection: nn.Module,
        frozen: TextTower,
        advance: Advance = ignore_progress,
    ):
        self.benchmark = benchmark
        self.adapter = adapter
        self.device = images.device
        self._images = images
        self.queries = benchmark.queries()
        self.names = benchmark.gallery()
        self.remarks: list[str] = []
        check_queries(benchmark, self.queries, self.names)
        names = list(dict.fromkeys((*self.names, *(query.reference for query in self.queries))))
        features, self.unreadable = images.encode_readable(benchmark, names, advance)
        if self.unreadable:
            self._leave_out()
        index_of = {name: row for row, name in enumerate(name for name in names if name not in self.unreadable)}

        @cache  # many queries share their candidates
        def find(names: tuple[str, ...]) -> tuple[int, ...]:
            return tuple(index_of[name] for name in names)

        self._targets = [find(query.targets) for query in self.queries]
        self._candidates = [find(query.candidates) for query in self.queries]
        self._subsets = [find(query.subset) for query in self.queries]
        references = [index_of[query.reference] for query in self.queries]
        self._excluded = references if benchmark.excludes_reference else None
        self.references = features[torch.tensor(references)]
        with images.compute():
            self.pseudo_tokens = make_project(
                adapter,
                projection,
                frozen,
                self.references,
                self.device,
                lambda rows: images.encode_patches(benchmark, [self.queries[row].reference for row in rows]),
            )
        self.gallery = open_gallery(features, len(self.names), self.device)

    @property
    def name(self) -> str:
        """The benchmark's name; another one if images of a published benchmark were left out."""
        skips_by_default = type(self.benchmark).model_fields["skip_unreadable"].default
        return self.benchmark.name + ("-incomplete" if self.unreadable and not skips_by_default else "")

    @property
    def title(self) -> str:
        """A heading for the results: what the benchmark calls itself, unless it is incomplete."""
        return self.benchmark.title() if self.name == self.benchmark.name else self.name

    def _leave_out(self) -> None:
        """Leave out unreadable images, and the queries whose reference, or target that recall counts, is among them."""

        @cache  # many queries share their candidates
        def keep(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(name for name in names if name not in self.unreadable)

        def is_lost(query: Query) -> bool:
            targets = query.targets if self.benchmark.recall_of_any_target else query.targets[:1]
            return query.reference in self.unreadable or (bool(targets) and not keep(targets))

        queries, images = len(self.queries), len(self.names)
        self.names = keep(tuple(self.names))
        self.queries = [
            replace(
                query,
                targets=keep(query.targets),
                candidates=keep(query.candidates),
                subset=keep(query.subset),
                wrong=keep(query.wrong),
            )
            for query in self.queries
            if not is_lost(query)
        ]
        lost = queries - len(self.queries)
        name, reason = next(iter(self.unreadable.items()))
        remark = (
            f"{self.name}: {len(self.unreadable)} of {images} images cannot be read and are left out, with {lost} of "
            f"{queries} queries: {name_images(self.unreadable)} ({name}: {reason})"
        )
        if not self.queries:
            raise RTDError(remark)
        _log.warning("%s.", remark)
        self.remarks = [remark]

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
        """Rank with the composed query: the method's prompt with condition and pseudo token."""
        conditions = [query.conditions for query in self.queries]
        with self._images.compute():
            features = compose(tower.to(self.device), self.adapter, conditions, self.pseudo_tokens)
        return self.rank(features)

    def rank(self, features: Tensor) -> RetrievalResult:
        """Rank the gallery for query features (Q, D), which need not be normalised."""
        features = F.normalize(features.float().to(self.device), dim=-1)

        def rank(candidates: Sequence[tuple[int, ...]], depth: int) -> Rankings:
            return self.gallery.rank(
                features, self._targets, excluded=self._excluded, candidates=candidates, depth=depth
            )

        subset = rank(self._subsets, SUBSET_DEPTH) if any(self._subsets) else None
        return RetrievalResult(self.benchmark, self.queries, self.names, rank(self._candidates, DEPTH), subset)

    def _encode_captions(self, tower: TextTower, captions: Sequence[str]) -> Tensor:
        with self._images.compute():
            return encode_texts(tower.to(self.device), [encode_text(clean_caption(caption)) for caption in captions])


def has_wordings(queries: Sequence[Query]) -> bool:
    """Return whether there is a request with several wordings."""
    return max(Counter(filter(None, (query.request for query in queries))).values(), default=0) > 1


def check_queries(benchmark: Benchmark, queries: Sequence[Query], names: Sequence[str]) -> None:
    """Check that all queries have what metrics need, and that their images are in the gallery.

    Raises:
        RTDError: a check fails.
    """

    def check(is_right: bool, problem: str) -> None:
        if not is_right:
            raise RTDError(f"{benchmark.name}: {problem}; check the benchmark's files")

    gallery = set(names)
    as_set = cache(frozenset[str])  # many queries share their candidates
    outside = cache(lambda images: as_set(images) - gallery)
    if len(gallery) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        check(False, f"{twice} is in the gallery more than once")
    check(bool(queries), "no queries")
    check(len({bool(query.targets) for query in queries}) == 1, "some queries have targets and some have none")
    check(len({bool(query.subset) for query in queries}) == 1, "some queries have a subset and some have none")
    counts = {len(query.conditions) for query in queries}
    check(counts in ({1}, {2}), "all queries need one condition, or all need two")
    for query in queries:
        for text in (*query.conditions, query.target_caption):
            check_text(text)
        for images in (query.targets, query.subset, query.candidates):
            lost = outside(images)
            check(not lost, f"{min(lost, default='')}, a query's target or candidate, is not in the gallery")
        lost = outside(query.wrong)
        check(not lost, f"{min(lost, default='')}, a query's wrong answer, is not in the gallery")
        for images in filter(None, (query.subset, query.candidates)):
            lost = as_set(query.targets) - as_set(images)
            check(not lost, f"the target {min(lost, default='')} of a query is not among its candidates")
        is_excluded = benchmark.excludes_reference and query.reference in query.targets
        check(not is_excluded, f"{query.reference} is the reference and a target of a query")
