"""Retrieval on a benchmark: the image side once, then as many text encoders as one likes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rtd_plugin.adapter import Adapter
from rtd_plugin.clip.backbones import ImageEncoder
from rtd_plugin.clip.tokens import tokenize
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.benchmark import Benchmark, Query
from rtd_plugin.evaluation.metrics import bootstrap_interval, recall_at, subset_ranks, target_ranks

RECALL_AT = (1, 5, 10)
SUBSET_RECALL_AT = (1,)
BATCH = 64


@dataclass(frozen=True)
class Ranks:
    """Where each query's target came.

    Attributes:
        overall: (Q,) int64 ranks in the gallery, from 1.
        subset: (Q,) int64 ranks in the query's subset, None where the benchmark has none.
        groups: Q names; metrics are also given for each apart.
    """

    overall: Tensor
    subset: Tensor | None
    groups: Sequence[str]

    def _metrics(self) -> dict[str, tuple[Tensor, int]]:
        metrics = {f"recall_at_{k}": (self.overall, k) for k in RECALL_AT}
        if self.subset is not None:
            metrics |= {f"subset_recall_at_{k}": (self.subset, k) for k in SUBSET_RECALL_AT}
        return metrics

    def _selections(self) -> dict[str, Tensor]:
        names = sorted(set(self.groups) - {""})
        return {name: torch.tensor([group == name for group in self.groups]) for name in names}

    def metrics(self) -> dict[str, Any]:
        """Each metric in percent, over all queries and, nested, over each group's."""

        def over(chosen: Tensor | slice) -> dict[str, float]:
            return {name: recall_at(ranks[chosen], k) for name, (ranks, k) in self._metrics().items()}

        return over(slice(None)) | {name: over(chosen) for name, chosen in self._selections().items()}

    def gain_over(self, other: "Ranks") -> dict[str, Any]:
        """Difference of each metric to another encoder's on the same queries, in points.

        Returns:
            As `metrics`, with `{"difference", "low", "high"}` for each: the interval is a paired bootstrap's, 95 %.
        """

        def over(chosen: Tensor | slice) -> dict[str, dict[str, float]]:
            gains = {}
            for name, (ranks, k) in self._metrics().items():
                hits = ranks[chosen] <= k
                others = other._metrics()[name][0][chosen] <= k
                low, high = bootstrap_interval(hits.float(), other=others.float())
                difference = 100 * (hits.double().mean() - others.double().mean()).item()
                gains[name] = {"difference": difference, "low": low, "high": high}
            return gains

        return over(slice(None)) | {name: over(chosen) for name, chosen in self._selections().items()}


class Retrieval:
    """A benchmark with its image features and pseudo tokens computed: ready for any text encoder.

    Args:
        benchmark: queries and gallery.
        adapter: the method whose prompt makes composed queries.
        image_encoder: CLIP's image tower with its preprocessing.
        projection: φ, features (B, D) to pseudo tokens.
        device: where to compute.
        report: called with (done, total) while images are encoded.

    Raises:
        RTDError: there are no queries, an image is missing or cannot be read, or the gallery names one twice.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        adapter: Adapter,
        image_encoder: ImageEncoder,
        projection: nn.Module,
        device: torch.device | str = "cpu",
        report: Callable[[int, int], None] = lambda done, total: None,
    ):
        self.benchmark = benchmark
        self.adapter = adapter
        self.device = device
        self.queries = benchmark.queries()
        self.names = benchmark.gallery()
        place = _places(benchmark, self.queries, self.names)
        self.targets = torch.tensor([place[query.target] for query in self.queries])
        self.subsets = [[place[name] for name in query.subset] for query in self.queries]
        references = [place.get(query.reference, -1) for query in self.queries]
        self.excluded = torch.tensor(references) if benchmark.excludes_reference else None

        extra = sorted({query.reference for query in self.queries} - place.keys())
        features = self._encode_images(image_encoder, [*self.names, *extra], report)
        place |= {name: len(self.names) + number for number, name in enumerate(extra)}
        self.gallery = F.normalize(features[: len(self.names)], dim=-1)  # (N, D)
        self.references = features[[place[query.reference] for query in self.queries]]  # (Q, D), not normalised
        with torch.no_grad():
            self.pseudo_tokens = projection.to(device)(self.references.to(device))  # (Q, W) or (Q, n, W)

    def image_only(self) -> Ranks:
        """The reference image as the query."""
        return self.rank(self.references)

    def text_only(self, tower: TextTower) -> Ranks:
        """The condition as the query, as any text."""
        return self.rank(self._encode_texts(tower, [query.condition for query in self.queries]))

    def target_captions(self, tower: TextTower) -> Ranks | None:
        """The target's caption as the query; None where the benchmark has none."""
        captions = [query.target_caption for query in self.queries]
        return self.rank(self._encode_texts(tower, captions)) if all(captions) else None

    @torch.no_grad()
    def composed(self, tower: TextTower) -> Ranks:
        """The composed query: the method's prompt with condition and pseudo token."""
        tower = tower.to(self.device)
        features = []
        for start in range(0, len(self.queries), BATCH):
            conditions = [query.condition for query in self.queries[start : start + BATCH]]
            tokens = self.adapter.prompt.tokenize(conditions, tower.context_length).to(self.device)
            pseudo_tokens = self.pseudo_tokens[start : start + BATCH]
            features.append(tower.encode(tokens, pseudo_tokens, self.adapter.prompt.placeholder_id))
        return self.rank(torch.cat(features))

    def rank(self, features: Tensor) -> Ranks:
        """Rank the gallery for query features (Q, D), which need not be normalised."""
        features = F.normalize(features.float().cpu(), dim=-1)
        subset = None
        if all(self.subsets):
            subset = subset_ranks(features, self.gallery, self.targets, self.subsets)
        overall = target_ranks(features, self.gallery, self.targets, self.excluded)
        return Ranks(overall, subset, [query.group for query in self.queries])

    @torch.no_grad()
    def _encode_images(
        self, image_encoder: ImageEncoder, names: Sequence[str], report: Callable[[int, int], None]
    ) -> Tensor:
        image_encoder.visual.to(self.device)
        features = []
        for start in range(0, len(names), BATCH):
            images = [self._image(image_encoder, name) for name in names[start : start + BATCH]]
            features.append(image_encoder(torch.stack(images).to(self.device)).float().cpu())
            report(min(start + BATCH, len(names)), len(names))
        return torch.cat(features)

    def _image(self, image_encoder: ImageEncoder, name: str) -> Tensor:
        try:
            return image_encoder.preprocess(self.benchmark.image(name))
        except Exception as error:  # Pillow fails in many ways on a broken file, and a benchmark may be anybody's
            reason = f"{type(error).__name__}: {error}"
            raise RTDError(f"{self.benchmark.name}: the image {name} cannot be read ({reason})") from error

    @torch.no_grad()
    def _encode_texts(self, tower: TextTower, texts: Sequence[str]) -> Tensor:
        tower = tower.to(self.device)
        starts = range(0, len(texts), BATCH)
        tokens = (tokenize(texts[start : start + BATCH], tower.context_length) for start in starts)
        return torch.cat([tower.encode(batch.to(self.device)) for batch in tokens])


def _places(benchmark: Benchmark, queries: Sequence[Query], names: Sequence[str]) -> dict[str, int]:
    """Each image's row of the gallery, which must have every target and candidate once."""
    remedy = "check the benchmark's files"
    if not queries:
        raise RTDError(f"{benchmark.name}: there are no queries; {remedy}")
    places: dict[str, int] = {}
    for number, name in enumerate(names):
        if places.setdefault(name, number) != number:
            raise RTDError(f"{benchmark.name}: {name} is in the gallery more than once; {remedy}")
    for query in queries:
        for name in (query.target, *query.subset):
            if name not in places:
                raise RTDError(
                    f"{benchmark.name}: {name}, a query's target or candidate, is not in the gallery; {remedy}"
                )
    return places
