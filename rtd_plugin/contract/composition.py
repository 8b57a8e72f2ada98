"""Composition points: where a host's code puts pseudo tokens into a tokenised prompt and encodes it, as data.

An adapter lists its host's composition points; patching checks them against the host's source and runs `compose` with
the tuned tower in their place.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor

from rtd_plugin.clip.tower import TextTower


@dataclass(frozen=True, eq=False)
class Composition:
    """What a host asked of its composition point: a batch of prompts, and what to put into them.

    Attributes:
        model: the host's own model object, which says on which device and in which dtype it works.
        tokens: (B, L) integers, as the host tokenised them.
        pseudo_tokens: (B, W), or (B, n, W) for n of them a text, of any dtype.
        placeholder: where they go: a token id, or a (B, L) bool mask of positions; see `TextTower.encode`.
        hidden_states: whether the host also wants the last hidden states.
    """

    model: Any
    tokens: Tensor
    pseudo_tokens: Tensor
    placeholder: int | Tensor
    hidden_states: bool = False


@dataclass(frozen=True)
class CompositionPoint:
    """One function or method of a host's code.

    Attributes:
        file: its file, relative to the host's root, with forward slashes. Not every version of a host need have it.
        modules: the names under which the host's programs import that file.
        name: its qualified name in the file: `function` or `Class.method`.
        read: turns the host's arguments into a composition. Its parameters are the host's, by name, order and
            default: what the host passes can be passed on as it is, and a host whose own differ is told by that. A
            function of a module's own, which hosts' processes import by name.
        arguments: how the host's own programs call it, if not with model, tokens and pseudo tokens as its first three
            arguments; see `call`.
        example: arguments for a small call, given the module that the file was imported as: a tiny model of the kind
            that the host has, with random weights, and texts and pseudo tokens for it. `rtd-plugin doctor` composes
            them with the host's own function; None if it is not to.
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
        """The arguments, by name, with which the host composes texts that have one placeholder of the adapter's each.

        Args:
            model: the host's.
            tokens: (B, L).
            pseudo_tokens: (B, W) or (B, n, W), one row a text.

        Returns:
            None if the host cannot be asked for that: it may take one image at a time, for example.
        """
        if self.arguments is not None:
            return self.arguments(model, tokens, pseudo_tokens)
        return dict(zip(self.signature.parameters, (model, tokens, pseudo_tokens), strict=False))


def compose(tower: TextTower, composition: Composition) -> Tensor | tuple[Tensor, Tensor]:
    """Encode what a host asked for as its own function would, with this tower's weights.

    Returns:
        (B, D) features, not normalised; if the host wants them, also the last hidden states of all positions after the
        final layer norm, (B, L, W).

    Raises:
        RTDError: as `TextTower.encode`.
    """
    encode = tower.encode_with_hidden_states if composition.hidden_states else tower.encode
    return encode(composition.tokens, composition.pseudo_tokens, composition.placeholder)
