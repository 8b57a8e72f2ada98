"""What rtd-plugin has to know about a projection-based method."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from rtd_plugin.clip.tokens import Prompt
from rtd_plugin.contract.composition import CompositionPoint
from rtd_plugin.contract.shims import KnownFault, Shim
from rtd_plugin.errors import RTDError
from rtd_plugin.files import read_checkpoint


class Adapter(ABC):
    """One projection-based ZS-CIR method; a plugin subclasses it and registers an instance with `rtd_adapters`.

    Attributes:
        name: how the command line and recipes call the method.
        home: where its code or paper is.
        prompt: the composed query's text, with the placeholder and `{condition}`.
        unconditioned_prompt: the same without a condition.
        prompt_of_two: the same with two conditions, `{first}` and `{second}`, as FashionIQ has them.
        both_orders: whether the query of two conditions is the mean of the normalised features of both orders.
        composition_points: where its code, and that of its relatives, composes queries; none if it is not to be
            patched. One checkout need not have them all.
        training_files: patterns (`src/train_*.py`) of its code's files, relative to the root, that train or feed a
            projection: what composes on their behalf keeps the pre-trained text encoder.
        shims: repairs of its code's faults; see `rtd_plugin.contract.shims`.
        known_faults: versions of packages with which its code fails or is wrong.
        evaluation: how its evaluation is started, from the code's root; shown to users.
    """

    name: ClassVar[str]
    home: ClassVar[str]
    prompt: ClassVar[Prompt]
    unconditioned_prompt: ClassVar[Prompt]
    prompt_of_two: ClassVar[Prompt]
    both_orders: ClassVar[bool] = True
    composition_points: ClassVar[tuple[CompositionPoint, ...]] = ()
    training_files: ClassVar[tuple[str, ...]] = ()
    shims: ClassVar[tuple[Shim, ...]] = ()
    known_faults: ClassVar[tuple[KnownFault, ...]] = ()
    evaluation: ClassVar[str] = "python …"

    def encode_two(self, first: str, second: str) -> list[int]:
        """Token ids of the prompt with two conditions, without start and end; a method may trim the conditions."""
        return self.prompt_of_two.encode(first=first, second=second)

    @abstractmethod
    def build_projection(self, state: Mapping[str, Tensor], features: int, token_width: int) -> nn.Module:
        """An untrained projection module φ, of the sizes its state dict has where the method leaves them open.

        Args:
            state: the state dict that will be loaded into it; empty for a new projection of the method's own sizes.
            features: size of CLIP's image and text features, D.
            token_width: width of CLIP's token embeddings, W.

        Returns:
            A module that maps features (B, D) to pseudo tokens: (B, W), or (B, n, W) for n of them.
        """

    def projection_state(self, checkpoint: Mapping[str, Any]) -> Mapping[str, Tensor]:
        """The projection's state dict inside one of the method's checkpoints; by default, the checkpoint is just that.

        Raises:
            RTDError: the checkpoint is not one of this method.
        """
        return checkpoint

    def projection_checkpoint(self, state: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """The inverse of `projection_state`: a checkpoint as the method's own training program saves it."""
        return state


def load_projection(adapter: Adapter, path: Path, features: int, token_width: int) -> nn.Module:
    """A method's trained projection module, frozen, in eval mode and fp32.

    Args:
        adapter: the method.
        path: its checkpoint, as the method's own code saved it, or the state dict as safetensors.
        features: size of the backbone's features, D.
        token_width: width of the backbone's token embeddings, W.

    Raises:
        RTDError: the file is broken, belongs to another method, or was trained for another backbone.
    """
    checkpoint = read_checkpoint(path)
    try:
        state = adapter.projection_state(checkpoint)
    except RTDError as error:
        raise RTDError(f"{path}: {error}") from error
    mismatch = f"{path}: not a projection of {adapter.name}"
    if not isinstance(state, Mapping):
        raise RTDError(f"{mismatch}: its weights are a {type(state).__name__}, not a state dict")
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise RTDError(f"{mismatch}: {key} is a {type(value).__name__}, not a tensor")
    projection = adapter.build_projection(state, features, token_width)
    expected = projection.state_dict()
    for key in sorted(expected.keys() | state.keys()):
        if key not in state or key not in expected:
            which = "missing" if key not in state else "unexpected"
            raise RTDError(f"{mismatch}: {which} key {key}")
    for key, weight in expected.items():
        if state[key].shape != weight.shape:
            raise RTDError(
                f"{path}: {key} has shape {tuple(state[key].shape)}, but a backbone with features of size {features} "
                f"and token embeddings of width {token_width} needs {tuple(weight.shape)}: was it trained for another?"
            )
    projection.load_state_dict(state)
    return projection.float().eval().requires_grad_(False)
