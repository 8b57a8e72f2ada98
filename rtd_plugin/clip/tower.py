"""CLIP's text encoder with pseudo-token injection: the one encoder of training, patching and evaluation.

It is causal, so a feature depends on nothing right of its end token: `encode` cuts each batch after the last end token,
for the same result and a fraction of the work. Tokens on a GPU are not cut, since looking at them would wait for it:
pass them from the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rtd_plugin.clip.injection import check_pseudo_tokens, find_placeholders, inject
from rtd_plugin.clip.layouts import detect_layout, layout_names, read_state_dict
from rtd_plugin.clip.old_torch import build_empty, copy_weights, is_compiling, select_attention_kernels
from rtd_plugin.clip.transformer import ACTIVATIONS, Transformer
from rtd_plugin.errors import RTDError

HEAD_WIDTH = 64  # of every published CLIP text tower


class TextTower(nn.Module):
    """CLIP's text encoder, parameter names as in OpenAI's and open_clip's state dicts.

    Args:
        vocabulary: number of token embeddings.
        context_length: longest sequence, start and end token included.
        width: of the residual stream and of a pseudo token, W.
        layers: number of transformer blocks.
        heads: number of attention heads; None for one per 64 channels, as in every published CLIP.
        mlp_width: of the hidden layer in each block; None for 4W.
        features: size of the text features, D.
        activation: "gelu" or "quick_gelu".
    """

    def __init__(
        self,
        *,
        vocabulary: int = 49408,
        context_length: int = 77,
        width: int = 512,
        layers: int = 12,
        heads: int | None = None,
        mlp_width: int | None = None,
        features: int = 512,
        activation: str = "quick_gelu",
    ):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise RTDError(f"activation {activation!r} is not one of {', '.join(ACTIVATIONS)}")
        if heads is None:
            if width % HEAD_WIDTH:
                raise RTDError(f"a text tower of width {width} has no default number of heads: pass heads=…")
            heads = width // HEAD_WIDTH
        if width % heads:
            raise RTDError(f"{heads} heads do not divide a text tower of width {width}")
        self.heads = heads
        self.activation = activation
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        self.transformer = Transformer(layers, width, heads, mlp_width or 4 * width, activation)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, features))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width**-0.5)

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, Any], *, activation: str | None = None, heads: int | None = None
    ) -> TextTower:
        """Build the tower that a state dict describes, with its weights and their dtype.

        Args:
            state: in OpenAI's and open_clip's layout (a whole CLIP or its text tower), in the layout of Hugging Face's
                `CLIPTextModelWithProjection` (or of a whole `CLIPModel`), or the authors'
                `{'CLIPTextModelWithProjection': state dict}`. See `rtd_plugin.clip.layouts`.
            activation: "gelu" or "quick_gelu", which a state dict does not contain. None means quick_gelu, as for
                OpenAI's weights; most weights trained with open_clip need gelu.
            heads: number of attention heads; None for one per 64 channels.

        Raises:
            RTDError: the layout is unknown, or a key is missing, unexpected or of the wrong shape.
        """
        weights = read_state_dict(state)
        layout = detect_layout(state)

        def read_size(name: str, dimension: int) -> int:
            if weights[name].ndim != 2:
                raise RTDError(
                    f"{layout_names(name, layout)[0]} has shape {tuple(weights[name].shape)}, "
                    "but a text tower needs two dimensions there"
                )
            return weights[name].shape[dimension]

        width = read_size("token_embedding.weight", 1)
        tower = build_empty(
            lambda: cls(
                vocabulary=read_size("token_embedding.weight", 0),
                context_length=read_size("positional_embedding", 0),
                width=width,
                layers=sum(name.endswith(".attn.in_proj_weight") for name in weights),
                heads=heads,
                mlp_width=read_size("transformer.resblocks.0.mlp.c_fc.weight", 0),
                features=read_size("text_projection", 1),
                activation=activation or "quick_gelu",
            )
        )
        for name, parameter in tower.state_dict().items():
            shape, expected = _get_shape(layout, name, weights[name]), _get_shape(layout, name, parameter)
            if shape != expected:
                raise RTDError(
                    f"{layout_names(name, layout)[0]} has shape {shape}, "
                    f"but a text tower of width {width} needs {expected}"
                )
        dtypes = {weight.dtype for weight in weights.values()}
        # OpenAI's own archives mix fp16 and fp32: fp32 holds both without loss.
        dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
        copy_weights(tower, weights, dtype)
        return tower

    @property
    def width(self) -> int:
        """Size of a token embedding and of a pseudo token, W."""
        return self.positional_embedding.shape[1]

    @property
    def context_length(self) -> int:
        """Longest sequence, start and end token included."""
        return self.positional_embedding.shape[0]

    @property
    def features(self) -> int:
        """Size of a text feature, D."""
        return self.text_projection.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.text_projection.dtype

    @property
    def device(self) -> torch.device:
        return self.text_projection.device

    def encode(
        self,
        tokens: Tensor,
        pseudo_tokens: Tensor | None = None,
        placeholder: int | Tensor = 259,
        subjects: Tensor | None = None,
    ) -> Tensor:
        """Encode texts, or composed queries if pseudo tokens are given.

        Args:
            tokens: (B, L) integers, L at most the context length. The end token is the largest id of a row, as in
                OpenAI's `encode_text`; its first occurrence counts, and whatever follows is padding. Tokens on the
                CPU are moved to the tower's device without what follows the batch's last end token.
            pseudo_tokens: None: the placeholder is a token like any other.
                (B, W): every placeholder of a row becomes the row's pseudo token (LinCIR).
                (B, n, W): a row's n placeholders become its n pseudo tokens in order; if each row has one placeholder,
                all n take its position, and what follows moves right; (B, 1, W) is the same as (B, W).
            placeholder: the placeholder's id, which every row must have left of its end token; or a (B, L) bool mask
                of the positions to replace, of which a row may have none.
            subjects: (B,) integers: each row's index into the pseudo tokens, then (P, W) or (P, n, W). None: row i
                takes the i-th.

        Returns:
            (B, D) features at the end token, not normalised, in the tower's dtype (or autocast's).

        Raises:
            RTDError: rows without a placeholder, more tokens than fit into the context, or shapes other than these.

        Example:
            >>> tower = TextTower(width=64, layers=2, features=32)
            >>> tokens = torch.tensor([[49406, 320, 1125, 539, 259, 49407]])  # "a photo of $"
            >>> tower.encode(tokens, pseudo_tokens=torch.randn(1, 64)).shape
            torch.Size([1, 32])
        """
        if pseudo_tokens is not None and subjects is not None:
            pseudo_tokens = pseudo_tokens[subjects]
        x, ends = self._transform(tokens, pseudo_tokens, placeholder, cut=True)
        x = x[torch.arange(x.shape[0], device=x.device), ends]  # (B, W)
        return self.ln_final(x) @ self.text_projection

    forward = encode

    def encode_with_hidden_states(
        self, tokens: Tensor, pseudo_tokens: Tensor | None = None, placeholder: int | Tensor = 259
    ) -> tuple[Tensor, Tensor]:
        """Encode as `encode` does, and return the last hidden states of all positions too.

        Returns:
            The features, (B, D), and the hidden states after the final layer norm: (B, L, W), or (B, L + n - 1, W) if
            n pseudo tokens took one placeholder's position.

        Raises:
            RTDError: as `encode`.
        """
        x, ends = self._transform(tokens, pseudo_tokens, placeholder, cut=False)
        x = self.ln_final(x)  # (B, L, W)
        return x[torch.arange(x.shape[0], device=x.device), ends] @ self.text_projection, x

    def _transform(
        self, tokens: Tensor, pseudo_tokens: Tensor | None, placeholder: int | Tensor, cut: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the transformer's output, (B, L, W), cut after the last end token or not, and the end positions."""
        if tokens.ndim != 2 or not tokens.shape[1]:
            raise RTDError(f"tokens have shape {tuple(tokens.shape)}, but a batch of texts needs (B, L)")
        ends = tokens.argmax(dim=1)  # (B,)
        length = tokens.shape[1]
        # Looking at tokens on a GPU would wait for it, and an exported graph cannot depend on data.
        if cut and tokens.device.type == "cpu" and not is_compiling() and len(tokens):
            length = int(ends.max()) + 1
        if pseudo_tokens is not None:
            placeholders = find_placeholders(tokens, placeholder, ends)[:, :length].to(self.device)
            pseudo_tokens = check_pseudo_tokens(pseudo_tokens, tokens.shape[0], self.width)
        ends = ends.to(self.device)
        x = self.token_embedding(tokens[:, :length].to(self.device))  # (B, L, W)
        if pseudo_tokens is not None:
            x, ends = inject(x, placeholders, pseudo_tokens.to(x.dtype), ends)
        if x.shape[1] > self.context_length:
            raise RTDError(f"a text needs {x.shape[1]} positions, but the text tower has {self.context_length}")
        with select_attention_kernels():
            return self.transformer(x + self.positional_embedding[: x.shape[1]]), ends


def average_features(features: Sequence[Tensor]) -> Tensor:
    """Return the mean of normalised features, (B, D) fp32, of m batches (B, D); one batch as it is, not normalised."""
    if len(features) == 1:
        return features[0]
    return F.normalize(torch.stack(tuple(features)).float(), dim=-1).mean(dim=0)


def _get_shape(layout: str, name: str, weight: Tensor) -> tuple[int, ...]:
    """Return a parameter's shape as its state dict's layout has it."""
    shape = tuple(weight.shape)
    if layout == "openai":
        return shape
    if len(layout_names(name, layout)) == 3:
        return (shape[0] // 3, *shape[1:])
    return shape[::-1] if name == "text_projection" else shape
