"""CLIP's causal text transformer, with pseudo-token injection as an operation of its own.

One tower serves training, patching and evaluation. It is causal, so nothing to the right of the end token can reach
the feature that is read there: `encode` cuts each batch after its last end token, for the same result and a
fraction of the work.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rtd_plugin.clip.layouts import detect_layout, layout_names, read_state_dict
from rtd_plugin.errors import RTDError

HEAD_WIDTH = 64  # of every published CLIP text tower


class QuickGELU(nn.Module):
    """The sigmoid approximation of GELU that OpenAI's CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(1.702 * x).div_(1.702)  # x · sigmoid(1.702 x), with one tensor less to keep for the gradient


ACTIVATIONS = {"gelu": nn.GELU, "quick_gelu": QuickGELU}


class CausalAttention(nn.Module):
    """Multi-head self-attention of each position over itself and what stands left of it."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor) -> Tensor:
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)  # (B, L, 3W)
        query, key, value = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # 3 × (B, H, L, W/H)
        x = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out_proj(x.transpose(1, 2).flatten(2))  # (B, L, W)


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_width: int, activation: str):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = CausalAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, mlp_width), gelu=ACTIVATIONS[activation](), c_proj=nn.Linear(mlp_width, width)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """The stack of blocks, named as in OpenAI's state dicts."""

    def __init__(self, layers: int, *block: Any):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(*block) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x


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
    ) -> "TextTower":
        """Build the tower that a state dict describes, with its weights and their dtype.

        Args:
            state: in OpenAI's and open_clip's layout (a whole CLIP or its text tower), in the layout of Hugging Face's
                `CLIPTextModelWithProjection` (or of a whole `CLIPModel`), or the authors'
                `{'CLIPTextModelWithProjection': state dict}`. See `rtd_plugin.clip.layouts`.
            activation: "gelu" or "quick_gelu"; a state dict does not tell. None means quick_gelu, which OpenAI's
                weights need; most weights trained with open_clip need gelu.
            heads: number of attention heads; None for one per 64 channels.

        Raises:
            RTDError: the layout is unknown, or a key is missing, unexpected or of the wrong shape.
        """
        weights = read_state_dict(state)
        layout = detect_layout(state)

        def size(name: str, dimension: int) -> int:
            if weights[name].ndim != 2:
                raise RTDError(
                    f"{layout_names(name, layout)[0]} has shape {tuple(weights[name].shape)}, "
                    "but a text tower needs two dimensions there"
                )
            return weights[name].shape[dimension]

        width = size("token_embedding.weight", 1)
        with torch.device("meta"):
            tower = cls(
                vocabulary=size("token_embedding.weight", 0),
                context_length=size("positional_embedding", 0),
                width=width,
                layers=sum(name.endswith(".attn.in_proj_weight") for name in weights),
                heads=heads,
                mlp_width=size("transformer.resblocks.0.mlp.c_fc.weight", 0),
                features=size("text_projection", 1),
                activation=activation or "quick_gelu",
            )
        for name, parameter in tower.state_dict().items():
            found, needed = _shape_in(layout, name, weights[name]), _shape_in(layout, name, parameter)
            if found != needed:
                raise RTDError(
                    f"{layout_names(name, layout)[0]} has shape {found}, "
                    f"but a text tower of width {width} needs {needed}"
                )
        dtypes = {weight.dtype for weight in weights.values()}
        # OpenAI's own archives mix fp16 and fp32: fp32 holds both without loss.
        dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
        tower.load_state_dict(
            {name: weight.detach().to(dtype, copy=True) for name, weight in weights.items()}, assign=True
        )
        return tower

    @property
    def width(self) -> int:
        """Size of a token embedding and of a pseudo token, W."""
        return self.positional_embedding.shape[1]

    @property
    def context_length(self) -> int:
        """Longest sequence, start and end token included."""
        return len(self.positional_embedding)

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
                OpenAI's `encode_text`; its first occurrence counts, whatever follows is padding.
            pseudo_tokens: None: the placeholder is a token like any other.
                (B, W): every placeholder of a row becomes the row's pseudo token (LinCIR).
                (B, n, W): a row's n placeholders become its n pseudo tokens in order; if each row has one placeholder,
                that one makes room for all n; (B, 1, W) is the same as (B, W).
            placeholder: the placeholder's id, which every row must have left of its end token; or a (B, L) bool mask
                of the positions to replace, whatever stands there, of which a row may have none.
            subjects: (B,) integers: which of the pseudo tokens, then (P, W) or (P, n, W), a row takes. None: row i
                takes the i-th.

        Returns:
            (B, D) features at the end token, not normalised, in the tower's dtype (or autocast's).

        Raises:
            RTDError: rows without a placeholder, more tokens than fit into the context, or shapes other than these.
        """
        if pseudo_tokens is not None and subjects is not None:
            pseudo_tokens = pseudo_tokens[subjects]
        x, ends = self._transform(tokens, pseudo_tokens, placeholder, cut=True)
        x = x[torch.arange(len(x), device=x.device), ends]  # (B, W)
        return self.ln_final(x) @ self.text_projection

    forward = encode

    def encode_with_hidden_states(
        self, tokens: Tensor, pseudo_tokens: Tensor | None = None, placeholder: int | Tensor = 259
    ) -> tuple[Tensor, Tensor]:
        """Encode as `encode` does, and give the last hidden states too: of all positions, so that nothing is cut.

        Returns:
            The features, (B, D), and the hidden states after the final layer norm: (B, L, W), or (B, L + n - 1, W) if
            a placeholder made room for n pseudo tokens.

        Raises:
            RTDError: as `encode`.
        """
        x, ends = self._transform(tokens, pseudo_tokens, placeholder, cut=False)
        x = self.ln_final(x)  # (B, L, W)
        return x[torch.arange(len(x), device=x.device), ends] @ self.text_projection, x

    def _transform(
        self, tokens: Tensor, pseudo_tokens: Tensor | None, placeholder: int | Tensor, cut: bool
    ) -> tuple[Tensor, Tensor]:
        """The transformer's output, (B, L, W), cut after the last end token or not, and the end tokens' positions."""
        if tokens.ndim != 2 or not tokens.shape[1]:
            raise RTDError(f"tokens have shape {tuple(tokens.shape)}, but a batch of texts needs (B, L)")
        ends = tokens.argmax(dim=1)  # (B,)
        length = int(ends.max()) + 1 if cut and len(tokens) else tokens.shape[1]
        x = self.token_embedding(tokens[:, :length])  # (B, L, W)
        if pseudo_tokens is not None:
            placeholders = find_placeholders(tokens, placeholder, ends)[:, :length]
            pseudo_tokens = check_pseudo_tokens(pseudo_tokens, len(x), self.width)
            x, ends = inject(x, placeholders, pseudo_tokens.to(x.dtype), ends)
        if x.shape[1] > self.context_length:
            raise RTDError(f"a text needs {x.shape[1]} positions, but the text tower has {self.context_length}")
        return self.transformer(x + self.positional_embedding[: x.shape[1]]), ends


def find_placeholders(tokens: Tensor, placeholder: int | Tensor, ends: Tensor) -> Tensor:
    """Where the placeholders stand, as a (B, L) bool mask; arguments as in `TextTower.encode`."""
    if isinstance(placeholder, Tensor):
        if placeholder.dtype != torch.bool or placeholder.shape != tokens.shape:
            raise RTDError(
                f"the placeholders' mask is {placeholder.dtype} of shape {tuple(placeholder.shape)}, "
                f"but tokens of shape {tuple(tokens.shape)} need bool of the same"
            )
        return placeholder
    before_end = torch.arange(tokens.shape[1], device=tokens.device) < ends.unsqueeze(1)
    placeholders = (tokens == placeholder) & before_end
    found = placeholders.any(dim=1)  # (B,)
    if not found.all():
        raise RTDError(f"text {int(found.int().argmin())} of the batch has no placeholder for its pseudo token")
    return placeholders


def check_pseudo_tokens(pseudo_tokens: Tensor, texts: int, width: int) -> Tensor:
    """Pseudo tokens (texts, W) or (texts, n, W), as `TextTower.encode` takes them, as (texts, n, W)."""
    fits = pseudo_tokens.ndim == 2 or (pseudo_tokens.ndim == 3 and pseudo_tokens.shape[1] > 0)
    if not fits or (len(pseudo_tokens), pseudo_tokens.shape[-1]) != (texts, width):
        raise RTDError(
            f"pseudo tokens have shape {tuple(pseudo_tokens.shape)}, but {texts} texts at width {width} "
            f"need ({texts}, {width}) or ({texts}, n, {width})"
        )
    return pseudo_tokens.unsqueeze(1) if pseudo_tokens.ndim == 2 else pseudo_tokens


def inject(x: Tensor, placeholders: Tensor, pseudo_tokens: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Put pseudo tokens where the placeholders stand.

    Args:
        x: (B, L, W) token embeddings.
        placeholders: (B, L) bool; one that makes room stands left of the end token.
        pseudo_tokens: (B, n, W), see `TextTower.encode`.
        ends: (B,) positions of the end tokens.

    Returns:
        The embeddings, (B, L, W) or (B, L + n - 1, W), and the end tokens' positions in them.
    """
    n = pseudo_tokens.shape[1]
    if n == 1:
        return torch.where(placeholders.unsqueeze(-1), pseudo_tokens, x), ends
    counts = placeholders.sum(dim=1)  # (B,)
    if (counts == n).all():
        # The k-th placeholder of a row takes the row's k-th pseudo token.
        order = (placeholders.cumsum(dim=1) - 1).clamp(min=0)  # (B, L)
        chosen = pseudo_tokens.gather(1, order.unsqueeze(-1).expand(-1, -1, x.shape[2]))
        return torch.where(placeholders.unsqueeze(-1), chosen, x), ends
    if (counts == 1).all():
        at = placeholders.int().argmax(dim=1, keepdim=True)  # (B, 1)
        positions = torch.arange(x.shape[1] + n - 1, device=x.device).unsqueeze(0)  # (1, L + n - 1)
        source = torch.where(positions < at + n, positions.minimum(at), positions - (n - 1))  # (B, L + n - 1)
        x = x.gather(1, source.unsqueeze(-1).expand(-1, -1, x.shape[2]))
        inside = (positions >= at) & (positions < at + n)
        chosen = pseudo_tokens.gather(1, (positions - at).clamp(0, n - 1).unsqueeze(-1).expand(-1, -1, x.shape[2]))
        return torch.where(inside.unsqueeze(-1), chosen, x), ends + (n - 1)
    raise RTDError(
        f"{n} pseudo tokens a text need 1 or {n} placeholders in each text, found {sorted(set(counts.tolist()))}"
    )


def _shape_in(layout: str, name: str, weight: Tensor) -> tuple[int, ...]:
    """A parameter's shape as its state dict's layout has it."""
    shape = tuple(weight.shape)
    if layout == "openai":
        return shape
    if len(layout_names(name, layout)) == 3:
        return (shape[0] // 3, *shape[1:])
    return shape[::-1] if name == "text_projection" else shape
