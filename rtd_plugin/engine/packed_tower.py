"""A text tower that encodes prefix trees: `TextTower.encode` up to rounding, gradients included."""

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


class PackedTower(nn.Module):
    """A text tower that encodes texts as prefix trees.

    Args:
        tower: the tower whose weights it uses, without a copy.
        device: where it encodes, which determines the shapes.
        checkpointing: keep only each block's input for the backward pass, and recompute the rest there.
        compiled: compile the blocks with torch.compile.
    """

    def __init__(self, tower: TextTower, device: torch.device, checkpointing: bool = False, compiled: bool = False):
        super().__init__()
        self.tower = tower
        self.device = device
        self.checkpointing = checkpointing
        self.compiled = compiled
        if compiled:
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
        tower = self.tower
        x = tower.token_embedding(texts.tokens)  # (S, T, W)
        if pseudo_tokens is not None:
            rows = texts.pseudo_rows
            injected = F.embedding(rows.clamp(min=0), pseudo_tokens.to(x.dtype).flatten(0, -2))
            x = torch.where((rows >= 0).unsqueeze(-1), injected, x)
        x = x + F.embedding(texts.positions, tower.positional_embedding)
        kind = x.device.type
        mask = texts.build_mask(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype)
        *blocks, last = tower.transformer.resblocks
        for block in blocks:
            x = self._run(block, x, mask)
        # Behind the last attention only end tokens are read: 6 % of a step of twelve layers saved.
        x = self._run(last, x, mask, texts.ends)  # (n, W)
        return tower.ln_final(x) @ tower.text_projection

    def _run(self, block: nn.Module, x: Tensor, mask: Tensor, rows: Tensor | None = None) -> Tensor:
        try:
            if self.checkpointing and torch.is_grad_enabled():
                return checkpoint(run_block, block, x, mask, rows, use_reentrant=False)
            return run_block(block, x, mask, rows)
        except Exception as error:
            if self.compiled and type(error).__name__ == "BackendCompilerFailed":
                raise RTDError(
                    f"torch.compile failed ({str(error).strip().splitlines()[0]}): it needs a C++ compiler, "
                    "and Triton for a GPU; or set `compile: false`"
                ) from error
            raise


def run_block(block: nn.Module, x: Tensor, mask: Tensor, rows: Tensor | None) -> Tensor:
    """Run a block with chosen kernels, also when its activations are computed again in the backward pass."""
    dtype = mask.dtype
    with select_attention_kernels():
        if next(block.parameters()).dtype == dtype:
            return block(x, mask, rows)
        return functional_call(block, round_weights(block, dtype), (x, mask, rows))
