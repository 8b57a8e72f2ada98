"""Encode texts and composed queries in batches, for evaluation and search."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from rtd_plugin.clip.tokens import find_room, pad
from rtd_plugin.clip.tower import TextTower, average_features
from rtd_plugin.contract.adapter import Adapter, ProjectionInputs, list_pseudo_tokens
from rtd_plugin.errors import RTDError

BATCH = 256  # texts or references at a time
BATCH_WITH_PATCHES = 64  # references with their patch tokens, half a megabyte each, at a time


Project = Callable[[Sequence[list[int]]], tuple[Tensor, ...]]
"""Gives the pseudo tokens (Q, W) or (Q, n, W) of Q prompts, token ids without start and end; see `Adapter.project`."""


def check_text(text: str) -> None:
    """Check that a text can be encoded.

    Raises:
        RTDError: it has half a surrogate pair, or bytes of the command line that are not UTF-8.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise RTDError(f"the text {text!r} has half a surrogate pair, or bytes that are not UTF-8")


def compose(
    tower: TextTower, adapter: Adapter, conditions: Sequence[tuple[str, ...]], pseudo_tokens: Tensor | Project
) -> Tensor:
    """Encode composed queries: the method's prompt with conditions and pseudo token.

    Two conditions make one prompt or, if the method uses both orders, two, whose normalised features are averaged.

    Args:
        tower: encodes them on its device.
        adapter: the method, for its prompts.
        conditions: one per query, or two per query.
        pseudo_tokens: (Q, W) or (Q, n, W), or a function of the prompts.

    Returns:
        (Q, D) float32 features, not normalised.
    """

    def encode(prompts: Sequence[list[int]]) -> Tensor:
        vectors = (pseudo_tokens,) if isinstance(pseudo_tokens, Tensor) else pseudo_tokens(prompts)
        placeholder = adapter.prompt.placeholder_id
        return average_features([encode_texts(tower, prompts, each, placeholder) for each in vectors])

    if len(conditions[0]) == 1:
        return encode([adapter.prompt.encode(condition=condition) for (condition,) in conditions])
    features = encode([adapter.encode_two(*each) for each in conditions])
    if adapter.both_orders:
        swapped = encode([adapter.encode_two(second, first) for first, second in conditions])
        features = average_features([features, swapped])
    return features


@torch.no_grad()
def project(projection: nn.Module, references: Tensor, device: torch.device) -> Tensor:
    """Return pseudo tokens (Q, W) or (Q, n, W), float32 on the device, of references' features (Q, D)."""
    distinct, rows = references.unique(dim=0, return_inverse=True)
    projection = projection.to(device)
    return torch.cat([projection(batch.to(device)) for batch in distinct.split(BATCH)])[rows.to(device)].float()


def make_project(
    adapter: Adapter,
    projection: nn.Module,
    frozen: TextTower,
    references: Tensor,
    device: torch.device,
    read_patches: Callable[[Sequence[int]], Tensor],
) -> Tensor | Project:
    """Return pseudo tokens for `compose`, or a function of prompts if the method's φ reads them.

    Args:
        adapter, projection, frozen: the method, φ and ψ₀.
        references: (Q, D) features of the reference images.
        device: where to compute.
        read_patches: returns the patch tokens (N, 1 + P, V) of references, by their rows.
    """
    if not adapter.reads_queries:
        return project(projection, references, device)

    @torch.no_grad()
    def project_prompts(prompts: Sequence[list[int]]) -> tuple[Tensor, ...]:
        tower, module, vectors = frozen.to(device), projection.to(device), []
        for rows in torch.arange(len(prompts)).split(BATCH_WITH_PATCHES if adapter.reads_patch_tokens else BATCH):
            tokens = pad([prompts[row] for row in rows.tolist()], tower.context_length).to(device)
            patches = read_patches(rows.tolist()) if adapter.reads_patch_tokens else None
            inputs = ProjectionInputs(references[rows].to(device), tokens, tower.encode, patches)
            vectors.append(list_pseudo_tokens(adapter, module, inputs))
        return tuple(torch.cat(batches).float() for batches in zip(*vectors, strict=True))

    return project_prompts


@torch.no_grad()
def encode_texts(
    tower: TextTower, texts: Sequence[list[int]], pseudo_tokens: Tensor | None = None, placeholder: int = 259
) -> Tensor:
    """Encode token ids without start and end on the tower's device, with a pseudo token for each text.

    Returns:
        (N, D) float32 features, not normalised.
    """
    pseudo_count = pseudo_tokens.shape[1] if pseudo_tokens is not None and pseudo_tokens.ndim == 3 else 1
    room = find_room(texts[0], placeholder, pseudo_count, tower.context_length)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))  # similar lengths need little padding
    features = torch.empty(len(texts), tower.features, device=tower.device)
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        tokens = pad([texts[row] for row in rows], room)
        batch = None if pseudo_tokens is None else pseudo_tokens[rows]
        features[rows] = tower.encode(tokens, batch, placeholder).float()
    return features
