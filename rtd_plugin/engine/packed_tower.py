"""A text tower that encodes prefix trees: `TextTower.encode` up to rounding, gradients included."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from rtd_plugin.clip.injection import find_placeholders, inject
from rtd_plugin.clip.old_torch import select_attention_kernels
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.engine.prefix_tree import PackedTexts, pack_texts
from rtd_plugin.engine.rounded_weights import round_weights
from rtd_plugin.errors import RTDError

ROUNDED_TOGETHER = 4  # blocks; of all together, data parallelism could send no gradient before the last


class PackedTower(nn.Module):
    """A text tower that encodes texts as prefix trees.

    Args:
        tower: the tower whose weights it uses, without a copy.
        device: where it encodes, which determines the shapes.
        checkpointing: keep only each block's input for the backward pass, and recompute the rest there.
        compiled: compile the blocks, and what is before them, with torch.compile.
    """

    def __init__(self, tower: TextTower, device: torch.device, checkpointing: bool = False, compiled: bool = False):
        super().__init__()
        self.tower = tower
        self.device = device
        self.checkpointing = checkpointing
        self.compiled = compiled
        self._embed = embed
        if compiled:
            self._embed = torch.compile(embed, dynamic=True)
            for block in tower.transformer.resblocks:
                block.compile(dynamic=True)

    def prepare(
        self,
        tokens: Tensor,
        placeholder: int | Tensor = 259,
        subjects: Tensor | None = None,
        pseudo_tokens: int | None = None,
    ) -> PackedTexts:
        """Pack texts on the CPU, without reading the weights.

        Args:
            tokens: (B, L) integers on the CPU.
            placeholder, subjects: as `TextTower.encode` takes them, on the CPU.
            pseudo_tokens: number of pseudo tokens for each placeholder, n; None for texts without any.

        Raises:
            RTDError: as `TextTower.encode`.
        """
        if tokens.ndim != 2 or not tokens.shape[0] or not tokens.shape[1]:
            raise RTDError(f"tokens have shape {tuple(tokens.shape)}, but a batch of texts needs (B, L)")
        ends = tokens.argmax(dim=1)
        if pseudo_tokens is not None:
            subjects = torch.arange(len(tokens)) if subjects is None else subjects
            rows = subjects[:, None] * pseudo_tokens + torch.arange(pseudo_tokens)  # (B, n)
            placeholders = find_placeholders(tokens, placeholder, ends)
            ids, ends = inject(tokens.unsqueeze(-1), placeholders, -1 - rows.unsqueeze(-1), ends)
            tokens = ids.squeeze(-1)  # (B, L + n - 1)
        if int(ends.max()) >= self.tower.context_length:
            raise RTDError(
                f"a text needs {int(ends.max()) + 1} positions, but the text tower has {self.tower.context_length}"
            )
        return pack_texts(tokens.numpy(), ends.numpy() + 1, few_shapes=self.device.type != "cpu")

    def forward(self, texts: PackedTexts, pseudo_tokens: Tensor | None = None) -> Tensor:
        """Return the texts' features, (n, D), not normalised.

        Args:
            texts: from `prepare`, on the tower's device.
            pseudo_tokens: (P, W) or (P, n, W), if `prepare` got their number.
        """
        tower, blocks = self.tower, list(self.tower.transformer.resblocks)
        kind = tower.positional_embedding.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tower.dtype
        x, mask = self._call(self._embed, tower, texts, pseudo_tokens, dtype)
        for first in range(0, len(blocks), ROUNDED_TOGETHER):
            some = blocks[first : first + ROUNDED_TOGETHER]
            for block, weights in zip(some, round_weights(some, dtype), strict=True):
                # Behind the last attention only end tokens are read: 6 % of a step of twelve layers saved.
                rows = texts.ends if block is blocks[-1] else None
                if self.checkpointing and torch.is_grad_enabled():
                    x = self._call(checkpoint, run_block, block, weights, x, mask, rows, use_reentrant=False)
                else:
                    x = self._call(run_block, block, weights, x, mask, rows)
        return tower.ln_final(x) @ tower.text_projection  # (n, D)

    def _call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except Exception as error:
            if self.compiled and type(error).__name__ == "BackendCompilerFailed":
                raise RTDError(
                    f"torch.compile failed ({str(error).strip().splitlines()[0]}): it needs a C++ compiler, "
                    "and Triton for a GPU; or set `compile: false`"
                ) from error
            raise


def embed(
    tower: TextTower, texts: PackedTexts, pseudo_tokens: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the states before the first block, (S, T, W), and attention's mask in a dtype, (S, 1, T, T)."""
    x = tower.token_embedding(texts.tokens)  # (S, T, W)
    if pseudo_tokens is not None:
        rows = texts.pseudo_rows
        injected = F.embedding(rows.clamp(min=0), pseudo_tokens.to(x.dtype).flatten(0, -2))
        x = torch.where((rows >= 0).unsqueeze(-1), injected, x)
    return x + F.embedding(texts.positions, tower.positional_embedding), texts.build_mask(dtype)


def run_block(
    block: nn.Module, weights: dict[str, Tensor], x: Tensor, mask: Tensor, rows: Tensor | None = None
) -> Tensor:
    """Run a block with some of its weights replaced, and with chosen kernels, also when it is computed again."""
    with select_attention_kernels():
        return functional_call(block, weights, (x, mask, rows))
