"""The text tower for training: texts as a prefix tree, each of its nodes computed once.

In a causal tower what stands at a position depends on what stands left of it and on nothing else. So texts that begin
alike share their states as far as they are alike: the start token and `a photo of` of all prompts, the whole of the
prompt without a condition but its end token, captions of one phrasing. `pack` finds the nodes of a batch's prefix
tree; `PackedTower` runs all that works position by position on these alone, without padding. Only attention looks at
whole texts: it gathers queries, keys and values of the nodes on the way to each text's end, texts of similar lengths
together.

The result is `TextTower.encode`'s up to rounding, gradients included.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rtd_plugin.clip.tower import Block, CausalAttention, TextTower, check_pseudo_tokens, find_placeholders, inject
from rtd_plugin.errors import RTDError

STRETCH = 1.3  # longest over shortest text of those that attention takes together: more texts at once, more padding
NOTHING = np.iinfo(np.int64).min  # stands right of a text's end


@dataclass(frozen=True, eq=False)
class Packing:
    """The prefix tree of a batch of B texts: N nodes, and U distinct texts, sorted by length into groups.

    Attributes:
        tokens: (N,) token ids; of a node with a pseudo token any.
        positions: (N,) of each node in its texts.
        pseudo_nodes, pseudo_tokens: (K,) nodes that have a pseudo token, and which of all texts' in order it is.
        shapes: of each group: its number of texts and its longest text's length.
        paths: (M,) the nodes of each text from left to right, padded to the group's length, of all groups in turn.
        inside: (M,) whether that is one of the text's nodes, and not padding.
        owners: (N,) where in `paths` each node stands.
        ends: (U,) the node of each distinct text's end token.
        texts: (B,) which of the distinct texts each text is.
    """

    tokens: Tensor
    positions: Tensor
    pseudo_nodes: Tensor
    pseudo_tokens: Tensor
    shapes: tuple[tuple[int, int], ...]
    paths: Tensor
    inside: Tensor
    owners: Tensor
    ends: Tensor
    texts: Tensor

    def to(self, device: torch.device) -> "Packing":
        moved = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved = {name: value.to(device, non_blocking=True) for name, value in moved.items()}
        return Packing(**{**vars(self), **moved})


def pack(tokens: Tensor, ends: Tensor) -> Packing:
    """The prefix tree of texts.

    Args:
        tokens: (B, L) integers on the CPU; -1 - i stands for the i-th of the pseudo tokens.
        ends: (B,) positions of the end tokens.
    """
    keys, lengths = tokens.numpy(), ends.numpy() + 1
    length = int(lengths.max(initial=0))
    keys = np.where(np.arange(length) < lengths[:, None], keys[:, :length], NOTHING)
    rows, texts = np.unique(keys, axis=0, return_inverse=True)  # (U, L), sorted: texts that begin alike are neighbours
    inside = rows != NOTHING  # (U, L)
    lengths = inside.sum(axis=1)  # (U,)
    new = inside.copy()  # where a text has a node that those before it do not have
    new[1:] &= ~np.logical_and.accumulate(rows[1:] == rows[:-1], axis=1)
    numbers = np.where(new, np.cumsum(new).reshape(new.shape) - 1, 0)
    paths = np.maximum.accumulate(numbers, axis=0)  # (U, L), right where `inside`

    order = np.argsort(lengths, kind="stable")
    places = np.zeros_like(paths)  # in the groups' layout
    shapes, flat_paths, flat_inside, size = [], [], [], 0
    for group in _groups(lengths[order]):
        chosen = order[group]
        longest = int(lengths[chosen[-1]])
        shapes.append((len(chosen), longest))
        flat_paths.append(paths[chosen, :longest].ravel())
        flat_inside.append(inside[chosen, :longest].ravel())
        places[chosen, :longest] = size + np.arange(len(chosen) * longest).reshape(-1, longest)
        size += len(chosen) * longest
    ids, (_, positions) = rows[new], np.nonzero(new)
    (pseudo_nodes,) = np.nonzero(ids < 0)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    arrays = {
        "tokens": np.maximum(ids, 0),
        "positions": positions,
        "pseudo_nodes": pseudo_nodes,
        "pseudo_tokens": -1 - ids[pseudo_nodes],
        "paths": np.concatenate(flat_paths),
        "inside": np.concatenate(flat_inside),
        "owners": places[new],
        "ends": paths[order, lengths[order] - 1],
        "texts": rank[texts.reshape(-1)],
    }
    return Packing(shapes=tuple(shapes), **{name: torch.from_numpy(array) for name, array in arrays.items()})


def _groups(lengths: np.ndarray) -> list[slice]:
    """Neighbours in ascending lengths of which none is much longer than the first."""
    groups, start = [], 0
    while start < len(lengths):
        end = int(np.searchsorted(lengths, STRETCH * lengths[start], side="right"))
        groups.append(slice(start, end))
        start = end
    return groups


class PackedTower(nn.Module):
    """A text tower that encodes a batch as a prefix tree.

    Args:
        tower: whose weights it works with; they stay its own.
    """

    def __init__(self, tower: TextTower):
        super().__init__()
        self.tower = tower

    def forward(
        self,
        tokens: Tensor,
        pseudo_tokens: Tensor | None = None,
        placeholder: int | Tensor = 259,
        subjects: Tensor | None = None,
    ) -> Tensor:
        """What `TextTower.encode` gives, from the same arguments; tokens, mask and subjects best on the CPU."""
        tower = self.tower
        if tokens.ndim != 2 or not tokens.shape[1]:
            raise RTDError(f"tokens have shape {tuple(tokens.shape)}, but a batch of texts needs (B, L)")
        if not len(tokens):
            return tower.encode(tokens.to(tower.device), pseudo_tokens)
        tokens = tokens.cpu()
        ends = tokens.argmax(dim=1)
        if pseudo_tokens is not None:
            texts = len(tokens) if subjects is None else len(pseudo_tokens)
            pseudo_tokens = check_pseudo_tokens(pseudo_tokens, texts, tower.width)  # (P, n, W)
            numbers = torch.arange(pseudo_tokens.shape[:2].numel()).reshape(-1, pseudo_tokens.shape[1], 1)  # (P, n, 1)
            numbers = numbers if subjects is None else numbers[subjects.cpu()]
            mask = placeholder.cpu() if isinstance(placeholder, Tensor) else placeholder
            placeholders = find_placeholders(tokens, mask, ends)
            ids, ends = inject(tokens.unsqueeze(-1), placeholders, -1 - numbers, ends)  # (B, L + n - 1, 1)
            tokens = ids.squeeze(-1)
        if int(ends.max()) >= tower.context_length:
            raise RTDError(
                f"a text needs {int(ends.max()) + 1} positions, but the text tower has {tower.context_length}"
            )
        return self._encode(pack(tokens, ends).to(tower.device), pseudo_tokens)

    def _encode(self, packing: Packing, pseudo_tokens: Tensor | None) -> Tensor:
        tower = self.tower
        x = tower.token_embedding(packing.tokens)  # (N, W)
        if pseudo_tokens is not None:
            chosen = pseudo_tokens.to(x.dtype).flatten(0, 1)[packing.pseudo_tokens]
            x = x.index_copy(0, packing.pseudo_nodes, chosen)
        x = x + F.embedding(packing.positions, tower.positional_embedding)
        *blocks, last = tower.transformer.resblocks
        for block in blocks:
            x = x + attend(block.attn, block.ln_1(x), packing)
            x = x + block.mlp(block.ln_2(x))
        x = read(last, x, packing)  # (U, W)
        return (tower.ln_final(x) @ tower.text_projection)[packing.texts]


def attend(attention: CausalAttention, x: Tensor, packing: Packing) -> Tensor:
    """What `attention` gives at each node of the tree, (N, W), from (N, W)."""
    qkv = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)  # (N, 3W)
    parts = []
    for group, (texts, length) in _grouped(qkv, packing):
        query, key, value = group.view(texts, length, 3, attention.heads, -1).permute(2, 0, 3, 1, 4)
        part = F.scaled_dot_product_attention(query, key, value, is_causal=True)  # (texts, heads, length, W / heads)
        parts.append(part.transpose(1, 2).flatten(2).flatten(0, 1))
    return attention.out_proj(torch.cat(parts)[packing.owners])


def read(block: Block, x: Tensor, packing: Packing) -> Tensor:
    """What a block gives at the end tokens, (U, W), where nothing else is read."""
    attention, width = block.attn, x.shape[1]
    normed, ends = block.ln_1(x), packing.ends
    kv = F.linear(normed, attention.in_proj_weight[width:], attention.in_proj_bias[width:])  # (N, 2W)
    query = F.linear(normed[ends], attention.in_proj_weight[:width], attention.in_proj_bias[:width])  # (U, W)
    sizes = [texts for texts, _ in packing.shapes]
    inside = packing.inside.split([texts * length for texts, length in packing.shapes])
    parts = []
    for (group, (texts, length)), of_text, mask in zip(_grouped(kv, packing), query.split(sizes), inside, strict=True):
        key, value = group.view(texts, length, 2, attention.heads, -1).permute(2, 0, 3, 1, 4)
        q = of_text.view(texts, 1, attention.heads, -1).transpose(1, 2)  # (texts, heads, 1, W / heads)
        part = F.scaled_dot_product_attention(q, key, value, attn_mask=mask.view(texts, 1, 1, length))
        parts.append(part.transpose(1, 2).flatten(1))
    x = x[ends] + attention.out_proj(torch.cat(parts))
    return x + block.mlp(block.ln_2(x))


def _grouped(states: Tensor, packing: Packing) -> list[tuple[Tensor, tuple[int, int]]]:
    """Each group's states along its texts, (texts · length, C), with its shape."""
    along = F.embedding(packing.paths, states)  # (M, C): its gradient adds up the texts that share a node
    sizes = [texts * length for texts, length in packing.shapes]
    return list(zip(along.split(sizes), packing.shapes, strict=True))
