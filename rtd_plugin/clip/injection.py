"""Pseudo-token injection: a projection's output in place of a placeholder's embedding."""

from __future__ import annotations

import torch
from torch import Tensor

from rtd_plugin.clip.old_torch import is_compiling
from rtd_plugin.errors import RTDError


def find_placeholders(tokens: Tensor, placeholder: int | Tensor, ends: Tensor) -> Tensor:
    """Return where the placeholders are, as a (B, L) bool mask.

    Args:
        tokens: (B, L) token ids.
        placeholder: their id, or the mask itself; see `rtd_plugin.TextTower.encode`.
        ends: (B,) positions of the end tokens.

    Raises:
        RTDError: a text has no placeholder, or the mask has another shape or dtype.
    """
    if isinstance(placeholder, Tensor):
        if placeholder.dtype != torch.bool or placeholder.shape != tokens.shape:
            raise RTDError(
                f"the placeholders' mask is {placeholder.dtype} of shape {tuple(placeholder.shape)}, "
                f"but tokens of shape {tuple(tokens.shape)} need bool of the same"
            )
        return placeholder
    before_end = torch.arange(tokens.shape[1], device=tokens.device) < ends.unsqueeze(1)
    placeholders = (tokens == placeholder) & before_end
    has_placeholder = placeholders.any(dim=1)  # (B,)
    # An exported graph cannot depend on data, so it is not checked there.
    if not is_compiling() and not has_placeholder.all():
        raise RTDError(
            f"text {int(has_placeholder.int().argmin())} of the batch has no placeholder for its pseudo token"
        )
    return placeholders


def check_pseudo_tokens(pseudo_tokens: Tensor, texts: int, width: int) -> Tensor:
    """Return pseudo tokens (texts, W) or (texts, n, W) as (texts, n, W).

    Raises:
        RTDError: they have another shape.
    """
    fits = pseudo_tokens.ndim == 2 or (pseudo_tokens.ndim == 3 and pseudo_tokens.shape[1] > 0)
    if not fits or (pseudo_tokens.shape[0], pseudo_tokens.shape[-1]) != (texts, width):
        raise RTDError(
            f"pseudo tokens have shape {tuple(pseudo_tokens.shape)}, but {texts} texts at width {width} "
            f"need ({texts}, {width}) or ({texts}, n, {width})"
        )
    return pseudo_tokens.unsqueeze(1) if pseudo_tokens.ndim == 2 else pseudo_tokens


def inject(x: Tensor, placeholders: Tensor, pseudo_tokens: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Replace the placeholders' embeddings by pseudo tokens.

    Args:
        x: (B, L, W) token embeddings.
        placeholders: (B, L) bool; a single one that is replaced by several pseudo tokens must be left of the end token.
        pseudo_tokens: (B, n, W), see `rtd_plugin.TextTower.encode`.
        ends: (B,) positions of the end tokens.

    Returns:
        The embeddings, (B, L, W) or (B, L + n - 1, W), and the end tokens' positions in them.

    Raises:
        RTDError: for n > 1, the texts that have placeholders have neither 1 nor n each.
    """
    n = pseudo_tokens.shape[1]
    if n == 1:
        return torch.where(placeholders.unsqueeze(-1), pseudo_tokens, x), ends
    counts = placeholders.sum(dim=1, keepdim=True)  # (B, 1)
    moved = (counts == 1) * (n - 1)  # (B, 1): how far the text right of a single placeholder moves
    length = x.shape[1] + n - 1
    if not is_compiling():  # an exported graph cannot depend on data: it has the longer length
        has_placeholder = counts > 0
        if not ((counts == has_placeholder).all() or (counts == n * has_placeholder).all()):
            distinct = sorted(set(counts.flatten().tolist()))
            raise RTDError(f"{n} pseudo tokens a text need 1 or {n} placeholders in each text, found {distinct}")
        length = x.shape[1] + (n - 1) * bool((counts == 1).any())
    at = placeholders.int().argmax(dim=1, keepdim=True)  # (B, 1): the first placeholder, 0 for none
    positions = torch.arange(length, device=x.device).unsqueeze(0)  # (1, length)
    source = torch.where(positions < at, positions, (positions - moved).maximum(at)).clamp(max=x.shape[1] - 1)
    placeholders = placeholders.gather(1, source)  # a single one is there n times
    # The k-th placeholder of a row takes the row's k-th pseudo token.
    order = (placeholders.cumsum(dim=1) - 1).clamp(0, n - 1)  # (B, length)
    replacements = pseudo_tokens.gather(1, order.unsqueeze(-1).expand(-1, -1, x.shape[2]))
    x = x.gather(1, source.unsqueeze(-1).expand(-1, -1, x.shape[2]))
    return torch.where(placeholders.unsqueeze(-1), replacements, x), ends + moved.squeeze(1)
