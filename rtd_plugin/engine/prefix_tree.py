"""The text tower for training: texts as a prefix tree, each of its nodes computed once.

In a causal tower what stands at a position depends on what stands left of it and on nothing else. So texts that begin
alike share their states as far as they are alike: the start token and `a photo of` of all prompts, the whole of the
prompt without a condition but its end token, captions of one phrasing. `pack` finds the nodes of a batch's prefix
tree; `PackedTower` runs all that works position by position on these alone, without padding.

Attention takes the nodes in blocks. In the order of the sorted texts, a tree's subtrees are contiguous: what a node of
a block attends to is in the block, or left of the block's first node in that one's texts. So a block's keys are its own
nodes and the first one's ancestors, with a mask of who descends from whom: of what lies between a key and its subtree's
end.

The result is `TextTower.encode`'s up to rounding, gradients included.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from rtd_plugin.clip.tower import Block, TextTower, check_pseudo_tokens, find_placeholders, inject
from rtd_plugin.engine.recomputing_linear import linear_of
from rtd_plugin.errors import RTDError

BLOCK = 32  # nodes that attention takes together, at most: larger blocks have more to mask, smaller ones are slower
NOTHING = np.iinfo(np.int64).min  # stands right of a text's end


@dataclass(frozen=True, eq=False)
class Packing:
    """The prefix tree of a batch of B texts, U of them distinct: its N nodes, in S blocks of T for attention.

    Attributes:
        kinds: (N,) which of M kinds each node is. Those of a kind have a token and a position in common.
        tokens: (M,) token ids; of a kind with a pseudo token any.
        positions: (M,) in the texts.
        pseudo_kinds, pseudo_tokens: (K,) kinds that have a pseudo token, and which of all texts' in order it is.
        keys: (S, A + T) for each block the nodes left of its first one in that one's texts, then any, and the block's
            own; the last block is filled up with copies of its last node.
        mask: (S, T, A + T) fp32: 0 for those of its block's keys that a node attends to, and -inf for the others.
        ends: (U,) the node of each distinct text's end token.
        paths, path_mask: (U, L) the nodes of each distinct text, then any; (U, 1, L) fp32: 0 for its own, and -inf
            for the others.
        texts: (B,) which of the distinct texts each text is.
    """

    kinds: Tensor
    tokens: Tensor
    positions: Tensor
    pseudo_kinds: Tensor
    pseudo_tokens: Tensor
    keys: Tensor
    mask: Tensor
    ends: Tensor
    paths: Tensor
    path_mask: Tensor
    texts: Tensor

    def to(self, device: torch.device) -> "Packing":
        return Packing(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})


def pack(tokens: Tensor, ends: Tensor) -> Packing:
    """The prefix tree of texts.

    Args:
        tokens: (B, L) integers on the CPU; -1 - i stands for the i-th of the pseudo tokens.
        ends: (B,) positions of the end tokens.
    """
    keys, lengths = tokens.numpy(), ends.numpy() + 1
    length = int(lengths.max())
    keys = np.where(np.arange(length) < lengths[:, None], keys[:, :length], NOTHING)
    order = np.lexsort(keys.T[::-1])  # texts that begin alike are neighbours
    keys = keys[order]
    alike = np.logical_and.accumulate(keys[1:] == keys[:-1], axis=1)  # as far as a text is the one before it
    distinct = np.concatenate([[True], ~alike[:, -1]])
    texts = np.empty(len(keys), np.int64)
    texts[order] = np.cumsum(distinct) - 1
    rows = keys[distinct]  # (U, L)
    there = rows != NOTHING
    lengths = there.sum(axis=1)  # (U,)
    new = there.copy()  # where a text has a node that those before it do not have
    new[1:] &= ~alike[distinct[1:]]
    numbers = np.where(new, np.cumsum(new).reshape(new.shape) - 1, 0)
    paths = np.maximum.accumulate(numbers, axis=0)  # (U, L) the nodes of each text, right up to its end
    ids, (owners, positions) = rows[new], np.nonzero(new)  # of each node; one text that it is in
    keys, mask = _blocks(paths, owners, positions, _ends(new, there))
    _, first, kinds = np.unique(ids * length + positions, return_index=True, return_inverse=True)
    ids = ids[first]  # (M,)
    (pseudo_kinds,) = np.nonzero(ids < 0)
    arrays = {
        "kinds": kinds,
        "tokens": np.maximum(ids, 0),
        "positions": positions[first],
        "pseudo_kinds": pseudo_kinds,
        "pseudo_tokens": -1 - ids[pseudo_kinds],
        "keys": keys,
        "mask": mask,
        "ends": paths[np.arange(len(rows)), lengths - 1],
        "paths": paths,
        "path_mask": _mask(there[:, None]),
        "texts": texts,
    }
    return Packing(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def _ends(new: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Of each node, (N,), the first one that comes after it and is no descendant of it; masks as in `pack`, (U, L)."""
    own = new.sum(axis=1)  # (U,) nodes that each text adds
    first, count = np.cumsum(own) - own, own.sum()
    shared = there.sum(axis=1) - own  # (U,) nodes that each text has in common with the one before it
    # Descendants end where the first text begins that does not come by.
    others = np.where(np.arange(new.shape[1]) < shared[1:, None], count, first[1:, None])
    ends = np.full(new.shape, count)
    ends[:-1] = np.minimum.accumulate(others[::-1], axis=0)[::-1]
    return ends[new]


def _blocks(
    paths: np.ndarray, owners: np.ndarray, positions: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`keys` and `mask` of a packing."""
    count = len(positions)
    size = -(-count // -(-count // BLOCK))
    blocks = -(-count // size)
    none = blocks * size
    own = np.arange(none).reshape(blocks, size)  # (S, T), `count` or more for copies of the last node
    first = own[:, 0]
    deepest = int(positions[first].max())
    left = np.arange(deepest) < positions[first][:, None]
    keys = np.concatenate([np.where(left, paths[owners[first], :deepest], none), own], axis=1)  # (S, A + T)
    ends = np.concatenate([ends, np.arange(count, none) + 1, [0]])[keys]
    mask = (keys[:, None, :] <= own[:, :, None]) & (own[:, :, None] < ends[:, None, :])  # (S, T, A + T)
    return np.minimum(keys, count - 1), _mask(mask)


def _mask(attends: np.ndarray) -> np.ndarray:
    return np.where(attends, np.float32(0), np.float32("-inf"))


class PackedTower(nn.Module):
    """A text tower that encodes a batch as a prefix tree.

    Args:
        tower: whose weights it works with; they stay its own.
        checkpointing: keep only what goes into each block for the backward pass, and compute the rest again there.
        compiled: have torch compile what a block does, once for the first one and once for the others.
        done: called with each block that has been used.
    """

    def __init__(
        self,
        tower: TextTower,
        checkpointing: bool = False,
        compiled: bool = False,
        done: Callable[[nn.Module], None] = lambda block: None,
    ):
        super().__init__()
        self.tower = tower
        self.checkpointing = checkpointing
        self.compiled = torch.compile(transform, dynamic=True) if compiled else None
        self.done = done

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
        x = tower.token_embedding(packing.tokens)  # (M, W)
        if pseudo_tokens is not None:
            chosen = pseudo_tokens.to(x.dtype).flatten(0, 1)[packing.pseudo_tokens]
            x = x.index_copy(0, packing.pseudo_kinds, chosen)
        x = x + F.embedding(packing.positions, tower.positional_embedding)
        *blocks, last = tower.transformer.resblocks
        rows: Tensor | None = packing.kinds
        for block in blocks:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(self._transform, block, x, packing, rows, use_reentrant=False)
            else:
                x = self._transform(block, x, packing, rows)
            rows = None
            self.done(block)
        x = read(last, x if rows is None else x[rows], packing)  # (U, W)
        self.done(last)
        return (tower.ln_final(x) @ tower.text_projection)[packing.texts]

    def _transform(self, block: Block, x: Tensor, packing: Packing, rows: Tensor | None) -> Tensor:
        if self.compiled is None:
            return transform(block, x, packing, rows)
        from torch._dynamo.exc import BackendCompilerFailed  # slow to import, and there now

        try:
            return self.compiled(block, x, packing, rows)
        except BackendCompilerFailed as error:
            raise RTDError(
                f"torch.compile failed ({str(error).strip().splitlines()[0]}): it needs a C++ compiler, "
                "and Triton for a GPU; or set `compile: false`"
            ) from error


def transform(block: Block, x: Tensor, packing: Packing, rows: Tensor | None = None) -> Tensor:
    """What a block gives at each node, (N, W), from (N, W); or from (M, W), of which nodes have the `rows`, (N,)."""
    attention, width, (blocks, size, _) = block.attn, x.shape[1], packing.mask.shape
    qkv = linear_of(block.ln_1, x, attention.in_proj_weight, attention.in_proj_bias)  # (N or M, 3W)
    query, key, value = qkv.split(width, dim=1)
    if rows is None:
        keys = packing.keys
        query = F.pad(query, (0, 0, 0, blocks * size - len(query))).view(blocks, size, width)
    else:
        keys = rows[packing.keys]
        query, x = F.embedding(keys[:, -size:], query), F.embedding(rows, x)
    attended = attend(query, key, value, attention.heads, keys, packing.mask)  # (S, T, W)
    x = x + attention.out_proj(attended.flatten(0, 1)[: len(x)])
    return x + perceive(block, x)


def read(block: Block, x: Tensor, packing: Packing) -> Tensor:
    """What a block gives at the end tokens, (U, W), where nothing else is read."""
    attention, width, ends = block.attn, x.shape[1], packing.ends
    parts = (parameter.split([width, 2 * width]) for parameter in (attention.in_proj_weight, attention.in_proj_bias))
    of_query, of_kv = zip(*parts, strict=True)
    normed = block.ln_1(x)
    kv = F.linear(normed, *of_kv)  # (N, 2W)
    query = F.linear(normed[ends], *of_query)  # (U, W)
    key, value = kv.split(width, dim=1)
    attended = attend(query.unsqueeze(1), key, value, attention.heads, packing.paths, packing.path_mask)  # (U, 1, W)
    x = x[ends] + attention.out_proj(attended.squeeze(1))
    return x + perceive(block, x)


def perceive(block: Block, x: Tensor) -> Tensor:
    """What a block's multi-layer perceptron gives, (N, W), from (N, W)."""
    mlp = block.mlp
    hidden = linear_of(block.ln_2, x, mlp.c_fc.weight, mlp.c_fc.bias)  # (N, 4W)
    return linear_of(mlp.gelu, hidden, mlp.c_proj.weight, mlp.c_proj.bias)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, keys: Tensor, mask: Tensor) -> Tensor:
    """Attention of groups of T queries over K nodes each.

    Args:
        query: (G, T, W).
        key, value: (N, W) of all nodes.
        heads: among which W is divided.
        keys: (G, K) the nodes.
        mask: (G, T, K), added to the scores.

    Returns:
        (G, T, W).
    """
    grouped = (query, F.embedding(keys, key), F.embedding(keys, value))  # (G, T or K, W)
    query, key, value = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in grouped)  # (G, H, T or K, W / H)
    x = F.scaled_dot_product_attention(query, key, value, attn_mask=mask.unsqueeze(1).to(query))
    return x.transpose(1, 2).flatten(2)
