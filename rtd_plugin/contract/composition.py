"""Composition points: where a host's code puts pseudo tokens into a tokenised prompt and encodes it, as data.

An adapter lists its host's composition points; patching checks them against the host's source and runs `compose` with
the tuned tower instead of the host's function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rtd_plugin.errors import RTDError

if TYPE_CHECKING:
    from torch import Tensor

    from rtd_plugin.clip.tower import TextTower


@dataclass(frozen=True, eq=False)
class Composition:
    """The arguments of one call to a composition point: a batch of prompts, and the pseudo tokens to put into them.

    Attributes:
        model: the host's model object, which determines device and dtype.
        tokens: (B, L) integers, as the host tokenised them; or (1, L), one text for all pseudo tokens.
        pseudo_tokens: (B, W), or (B, n, W) for n of them per text, of any dtype; or (1, W) or (1, n, W), those of
            one image for all texts.
        placeholder: where they go. A token id: to all tokens of that id. A (B, L) or (1, L) bool
            mask: to these positions, for hosts that replace others. A text without any is encoded unchanged. A text
            with one takes all n pseudo tokens there, and what follows moves right; n placeholders take one each.
        hidden_states: whether the host also wants the last hidden states.
    """

    model: Any
    tokens: Tensor
    pseudo_tokens: Tensor
    placeholder: int | Tensor
    hidden_states: bool = False

    def __len__(self) -> int:
        """Return the number of composed queries, B."""
        return max(len(self.tokens), len(self.pseudo_tokens))


@dataclass(frozen=True)
class CompositionPoint:
    """One function or method of a host's code.

    Attributes:
        file: its file, relative to the host's root, with forward slashes. Some versions of a host may lack it.
        modules: the names under which the host's programs import that file.
        name: its qualified name in the file: `function` or `Class.method`.
        read: turns the host's arguments into a composition. Its parameters must equal the host function's in name,
            order and default: arguments are passed on unchanged, and a host with another signature is refused. A
            module-level function, which hosts' processes import by name, from a copy of its module if that imports only
            the standard library, torch, numpy and `rtd_plugin.contract`.
        arguments: builds the host's arguments, if model, tokens and pseudo tokens are not its first three
            parameters; see `call`.
        example: returns arguments for a small call, given the module that the file was imported as: a tiny model of
            the host's class with random weights, texts, and pseudo tokens. `rtd-plugin doctor` passes them to the
            host's function; None skips this check.

    >>> def read(model, text, tokens):
    ...     return Composition(model, text, tokens, placeholder=259)
    >>> point = CompositionPoint(file="src/encode.py", modules=("encode",), name="encode_query", read=read)
    >>> str(point.signature)
    '(model, text, tokens)'
    """

    file: str
    modules: tuple[str, ...]
    name: str
    read: Callable[..., Composition]
    arguments: Callable[[Any, Tensor, Tensor], dict[str, Any] | None] | None = None
    example: Callable[[ModuleType], tuple[Any, ...]] | None = None

    @property
    def signature(self) -> inspect.Signature:
        """The parameters that the host's function must have, without annotations."""
        bare = inspect.Parameter.empty
        parameters = inspect.signature(self.read).parameters.values()
        return inspect.Signature([parameter.replace(annotation=bare) for parameter in parameters])

    def call(self, model: Any, tokens: Tensor, pseudo_tokens: Tensor) -> dict[str, Any] | None:
        """Return the arguments, by name, with which the host composes texts that have one placeholder each.

        Args:
            model: the host's.
            tokens: (B, L).
            pseudo_tokens: (B, W) or (B, n, W), one row per text.

        Returns:
            None if the host cannot compose such a batch: for example, if it takes only one image at a time.
        """
        if self.arguments is not None:
            return self.arguments(model, tokens, pseudo_tokens)
        return dict(zip(self.signature.parameters, (model, tokens, pseudo_tokens), strict=False))


def compose(tower: TextTower, composition: Composition) -> Tensor | tuple[Tensor, Tensor]:
    """Encode a composition as the host's own function would, with this tower's weights.

    Returns:
        (B, D) features, not normalised; if the host wants them, also the last hidden states of all positions after the
        final layer norm, (B, L, W).

    Raises:
        RTDError: as `TextTower.encode`.
    """
    from torch import Tensor  # late, because listing adapters must not wait for torch

    tokens, pseudo_tokens, placeholders = composition.tokens, composition.pseudo_tokens, composition.placeholder
    if 1 not in (len(tokens), len(pseudo_tokens)) and len(tokens) != len(pseudo_tokens):
        counts = f"{len(tokens)} texts for pseudo tokens of {len(pseudo_tokens)} images"
        raise RTDError(f"{counts}: pass as many of both, or one of either")
    if not isinstance(placeholders, Tensor) or placeholders.ndim == 0:  # an id, possibly as a tensor
        placeholders = tokens == placeholders
        tokens = tokens.masked_fill(placeholders, 0)  # an id that the host added would count as the end token
    tokens, pseudo_tokens, placeholders = (
        rows.expand(len(composition), *rows.shape[1:]) if len(rows) == 1 else rows
        for rows in (tokens, pseudo_tokens, placeholders)
    )
    if composition.hidden_states:
        return tower.encode_with_hidden_states(tokens, pseudo_tokens, placeholders)
    if tokens.ndim == 2 and tokens.numel() and tokens.shape == placeholders.shape:
        # Hosts pad to 77 tokens, on the GPU: one wait for it saves three quarters of the work.
        length = int(tokens.argmax(dim=1).max()) + 1
        tokens, placeholders = tokens[:, :length], placeholders[:, :length]
    return tower.encode(tokens, pseudo_tokens, placeholders)
