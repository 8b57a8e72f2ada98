"""Validation without images: triplets that are held out of training, ranked among their captions."""

import torch
from torch import Tensor
from torch.nn import functional as F

from rtd_plugin.clip.tower import TextTower, average_features
from rtd_plugin.evaluation.encoding import BATCH
from rtd_plugin.evaluation.metrics import PerQueryMetrics, hits_at
from rtd_plugin.evaluation.ranking import Gallery
from rtd_plugin.training.batches import fill_captions, make_batch, stack_composed
from rtd_plugin.training.frozen import PlainFrozen, copy_frozen
from rtd_plugin.training.run import Run
from rtd_plugin.triplets.token_store import TokenStore

RECALL_AT = (1, 5, 10)


class HeldOutTriplets:
    """The held-out triplets of a run as composed queries.

    A query is composed of the pseudo token of the reference caption, without noise, and the condition. It is ranked
    among the captions of all held-out triplets by ψ₀: the targets, and the references as hard negatives.

    Swapped, each query has the condition of another triplet, always the same one: what an encoder recalls then, it does
    not recall by its condition.

    Args:
        run: the run, for its models; they are not kept.
        triplets: its held-out triplets.
        device: where to compute.
    """

    @torch.no_grad()
    def __init__(self, run: Run, triplets: TokenStore, device: torch.device):
        frozen = PlainFrozen(*copy_frozen(run, device))
        queries, pseudo_tokens = frozen.count_pseudo_tokens()
        captions, features = [], []
        self._queries: dict[bool, list[tuple[Tensor, Tensor, int]]] = {False: [], True: []}
        self._placeholder = run.adapter.prompt.placeholder_id
        order = torch.randperm(len(triplets), generator=torch.Generator().manual_seed(0))
        others = order.roll(1)[order.argsort()]  # one cycle: no triplet keeps its condition
        for rows in torch.arange(len(triplets)).split(BATCH):
            tokens = triplets.gather(rows.numpy())
            swapped_tokens = tokens._replace(conditions=triplets.gather(others[rows].numpy()).conditions)
            references, targets = (
                frozen.tower.encode(fill_captions(texts, run.tower.context_length))
                for texts in (tokens.references, tokens.targets)
            )
            for swapped, composed in ((False, tokens), (True, swapped_tokens)):
                batch = make_batch(composed, run.adapter, run.tower.context_length, pseudo_tokens=pseudo_tokens)
                texts, subjects = stack_composed(batch, hard_negatives=False, queries=queries)
                projected = frozen.project(references, batch.queries)[subjects.to(device)]
                self._queries[swapped].append((texts, projected, len(rows)))
            captions.append(torch.from_numpy(tokens.captions))
            features.append(torch.stack([references, targets], dim=1))
        distinct, index = torch.cat(captions).unique(return_inverse=True)
        self._targets = index[:, 1:].tolist()
        gallery = torch.empty(len(distinct), run.tower.features, device=device)
        gallery[index.flatten().to(device)] = torch.cat(features).flatten(0, 1).float()
        self._device, self._gallery = device, Gallery(F.normalize(gallery, dim=-1))

    @torch.no_grad()
    def measure(self, tower: TextTower, swapped: bool = False) -> PerQueryMetrics:
        """Return the recall of each triplet by a text tower, which is moved to the device."""
        tower = tower.to(self._device)
        queries = [
            average_features(
                tower.encode(texts.to(self._device), pseudo_tokens.to(tower.dtype), self._placeholder).split(triplets)
            )
            for texts, pseudo_tokens, triplets in self._queries[swapped]
        ]
        features = F.normalize(torch.cat(queries).float(), dim=-1)
        ranks = self._gallery.rank(features, self._targets).first
        return PerQueryMetrics({f"recall_at_{k}": hits_at(ranks, k) for k in RECALL_AT}, [()] * len(ranks))
