"""RTD's contrastive loss."""

from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional as F

from rtd_plugin.errors import RTDError


def rtd_loss(queries: Tensor, targets: Tensor, temperature: float = 0.07) -> Tensor:
    """Return NT-Xent over queries and targets (Chen et al. 2020, equation 1, on RTD's pairs).

    The n queries and n targets make one set of 2n rows. Each row is an anchor; its positive is its partner in the other
    half, and every other row of either half is a negative.

    Args:
        queries: (n, D) features of composed queries, not normalised.
        targets: (n, D) features of their targets, not normalised.
        temperature: divides the cosine similarities.

    Returns:
        The mean over the 2n anchors, a scalar in fp32.

    Raises:
        RTDError: the shapes differ or are not (n, D).

    Example:
        >>> features = torch.eye(4)
        >>> round(rtd_loss(features, features).item(), 5)  # every query at its target, all others at right angles
        0.0
    """
    if queries.ndim != 2 or queries.shape != targets.shape:
        raise RTDError(
            f"queries have shape {tuple(queries.shape)} and targets {tuple(targets.shape)}, but both need (n, D)"
        )
    n = len(queries)
    rows = F.normalize(torch.cat([queries, targets]).float(), dim=-1)  # (2n, D)
    similarities = rows @ rows.T / temperature  # (2n, 2n)
    itself = torch.eye(2 * n, dtype=torch.bool, device=rows.device)
    partners = torch.arange(2 * n, device=rows.device).roll(n)
    return F.cross_entropy(similarities.masked_fill(itself, float("-inf")), partners)


def wording_distance(queries: Tensor, reworded: Tensor) -> Tensor:
    """Return the mean cosine distance between the queries of two wordings of each request.

    Args:
        queries: (n, D) features of composed queries, not normalised.
        reworded: (n, D) those in another wording.

    Returns:
        The mean of 1 - cos, a scalar in fp32 between 0 and 2.

    Example:
        >>> features = torch.eye(4)
        >>> wording_distance(features, 2 * features).item()
        0.0
    """
    return 1 - F.cosine_similarity(queries.float(), reworded.float()).mean()


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows (n, D) of all P processes, (P n, D) fp32, with gradients; those given if there is one process."""
    if not distributed.is_available() or not distributed.is_initialized():
        return rows
    return _GatherRows.apply(rows.float())


class _GatherRows(torch.autograd.Function):
    """The rows of all processes, for a loss that every one of them computes in full.

    Data parallelism averages the gradients of P processes, so each returns P times its rows' share: the average is the
    gradient of the loss.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:  # (n, D) -> (P n, D)
        gathered = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # (P n, D) -> (n, D)
        processes = distributed.get_world_size()
        return processes * gradient.chunk(processes)[distributed.get_rank()]
