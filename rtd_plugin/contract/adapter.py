"""Adapters: what rtd-plugin needs to know about a projection-based method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rtd_plugin.clip.tokens import Prompt
from rtd_plugin.contract.composition import CompositionPoint
from rtd_plugin.contract.shims import KnownFault, Shim
from rtd_plugin.errors import RTDError, UsageError, locate_errors

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class ProjectionInputs:
    """The inputs of a projection for B queries; see `Adapter.project`.

    Attributes:
        features: (B, D) CLIP's features of the images; in training, of the reference captions, with noise.
        prompts: (B, L) int64, the queries' texts with start, placeholder and end, zeros after it.
        encode_text: ψ₀, the pre-trained text encoder: tokens (B, L) to features (B, D), not normalised.
        patch_tokens: (B, 1 + P, V), the output of the image tower's last block, its class token first; None in
            training, where there are no images, and for adapters without `reads_patch_tokens`.
    """

    features: Tensor
    prompts: Tensor
    encode_text: Callable[[Tensor], Tensor]
    patch_tokens: Tensor | None = None


class Adapter(ABC):
    """One projection-based ZS-CIR method; a plugin subclasses it and registers an instance with `rtd_adapters`.

    Attributes:
        name: the method's name on the command line and in recipes.
        home: the address of its code or paper.
        prompt: the composed query's text, with the placeholder and `{condition}`.
        unconditioned_prompt: the same without a condition.
        prompt_of_two: the same with two conditions, `{first}` and `{second}`, as FashionIQ has them.
        both_orders: whether the query of two conditions is the mean of the normalised features of both orders.
        projection_files: names of the projection's files, if it has several: a recipe's `projection` then has a file
            for each name, and `projection_state` gets their contents by name.
        reads_patch_tokens: whether `project` reads the images' patch tokens where there are images.
        composition_points: where its code, and that of its relatives, composes queries; empty if the method cannot be
            patched. A checkout may lack some of them.
        markers: distinguish its code from that of relatives: files, relative to the root, each with a text in it. If
            several adapters fit a host, the one with the most markers is used.
        training_files: patterns (`src/train_*.py`) of its code's files, relative to the root, that train or feed a
            projection: queries composed for them keep the pre-trained text encoder.
        rounds_weights: whether its code loads checkpoints into a CLIP in fp16, even if it then computes in fp32: a
            patch rounds the tuned weights the same way.
        shims: repairs of its code's faults; see `rtd_plugin.contract.Shim`.
        known_faults: versions of packages with which its code fails or gives wrong results.
        evaluation: the command that runs its evaluation, from the code's root; shown to users.

    >>> from rtd_plugin.contract import Adapter, Prompt
    >>> class MyMethod(Adapter):
    ...     name = "mymethod"
    ...     home = "https://example.org/mymethod"
    ...     prompt = Prompt("a photo of $ that {condition}")
    ...     unconditioned_prompt = Prompt("a photo of $")
    ...     prompt_of_two = Prompt("a photo of $ that {first} and {second}")
    ...     def build_projection(self, state, features, token_width):
    ...         from torch import nn
    ...         return nn.Linear(features, token_width)
    >>> MyMethod().prompt.conditions
    ['condition']
    """

    name: ClassVar[str]
    home: ClassVar[str]
    prompt: ClassVar[Prompt]
    unconditioned_prompt: ClassVar[Prompt]
    prompt_of_two: ClassVar[Prompt]
    both_orders: ClassVar[bool] = True
    projection_files: ClassVar[tuple[str, ...]] = ()
    reads_patch_tokens: ClassVar[bool] = False
    composition_points: ClassVar[tuple[CompositionPoint, ...]] = ()
    markers: ClassVar[Mapping[str, str]] = {}
    training_files: ClassVar[tuple[str, ...]] = ()
    rounds_weights: ClassVar[bool] = True
    shims: ClassVar[tuple[Shim, ...]] = ()
    known_faults: ClassVar[tuple[KnownFault, ...]] = ()
    evaluation: ClassVar[str] = "python …"

    def encode_two(self, first: str, second: str) -> list[int]:
        """Return the token ids of the prompt with two conditions, without start and end.

        A method may override this to trim the conditions.
        """
        return self.prompt_of_two.encode(first=first, second=second)

    @abstractmethod
    def build_projection(self, state: Mapping[str, Tensor], features: int, token_width: int) -> nn.Module:
        """Build an untrained projection module φ; sizes that the method leaves open are read from the state dict.

        Args:
            state: the state dict that will be loaded into it; empty for a new projection of the method's own sizes.
            features: size of CLIP's image and text features, D.
            token_width: width of CLIP's token embeddings, W.

        Returns:
            A module that maps features (B, D) to pseudo tokens: (B, W), or (B, n, W) for n of them.
        """

    def project(self, projection: nn.Module, inputs: ProjectionInputs) -> Tensor | tuple[Tensor, ...]:
        """Return the pseudo tokens of B queries, (B, W) or (B, n, W), from what `build_projection` built.

        By default they depend on the images' features alone. A method whose projection reads the query's text or patch
        tokens overrides this. So does one that averages the normalised features of several composed queries, one prompt
        with different pseudo tokens: it returns a tuple of these, all of one shape. In training, the prompt without a
        condition shares the pseudo tokens of the one with it.
        """
        return projection(inputs.features)

    @property
    def reads_queries(self) -> bool:
        """Whether `project` is overridden: then pseudo tokens may depend on more than the image's feature."""
        return type(self).project is not Adapter.project

    def projection_state(self, checkpoint: Mapping[str, Any]) -> Mapping[str, Tensor]:
        """Return the projection's state dict from one of the method's checkpoints; by default, the checkpoint itself.

        Raises:
            RTDError: the checkpoint is not one of this method.
        """
        return checkpoint

    def projection_checkpoint(self, state: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """Return a checkpoint as the method's own training program saves it: the inverse of `projection_state`."""
        return state


def list_pseudo_tokens(adapter: Adapter, projection: nn.Module, inputs: ProjectionInputs) -> tuple[Tensor, ...]:
    """Return the pseudo tokens of `Adapter.project` for each composed query of the mean; of one, without a mean."""
    pseudo_tokens = adapter.project(projection, inputs)
    return pseudo_tokens if isinstance(pseudo_tokens, tuple) else (pseudo_tokens,)


def load_projection(
    adapter: Adapter, projection: Path | Mapping[str, Path], features: int, token_width: int
) -> nn.Module:
    """Load a method's trained projection module, frozen, in eval mode and fp32.

    Args:
        adapter: the method.
        projection: its checkpoint, as the method's own code saved it, or the state dict as safetensors; or a
            mapping of the adapter's `projection_files` to files.
        features: size of the backbone's features, D.
        token_width: width of the backbone's token embeddings, W.

    Raises:
        RTDError: a file is broken, belongs to another method, was trained for another backbone, or has weights that
            are not finite.
        UsageError: the adapter has other files.
    """
    from rtd_plugin.checkpoint_files import read_checkpoint
    from rtd_plugin.clip.layouts import strip_wrapper

    files = dict(projection) if isinstance(projection, Mapping) else {"": projection}
    if files.keys() != set(adapter.projection_files or [""]):
        expected = ", ".join(f"{name}: FILE" for name in adapter.projection_files)
        named = ", ".join(f"{name}: {path}" if name else str(path) for name, path in files.items())
        expected = f"several files, {{{expected}}}" if expected else "one file"
        raise UsageError(f"the projection of {adapter.name} needs {expected}, not {named}")
    contents = {name: strip_wrapper(read_checkpoint(path)) for name, path in files.items()}
    checkpoint = contents if adapter.projection_files else contents[""]
    return build_trained(adapter, checkpoint, features, token_width, ", ".join(map(str, files.values())))


def build_trained(
    adapter: Adapter, checkpoint: Mapping[str, Any], features: int, token_width: int, source: str
) -> nn.Module:
    """Build a projection from a checkpoint read from `source`; other arguments as in `load_projection`."""
    from torch import Tensor  # late, because listing adapters must not wait for torch

    from rtd_plugin.clip.layouts import check_finite

    mismatch = f"{source}: not a projection of {adapter.name}"
    with locate_errors(source):
        state = adapter.projection_state(checkpoint)
    if not isinstance(state, Mapping):
        raise RTDError(f"{mismatch}: its weights are a {type(state).__name__}, not a state dict")
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise RTDError(f"{mismatch}: {key} is a {type(value).__name__}, not a tensor")
    projection = adapter.build_projection(state, features, token_width)
    expected = projection.state_dict()
    for key in sorted(expected.keys() | state.keys()):
        if key not in state or key not in expected:
            problem = "missing" if key not in state else "unexpected"
            raise RTDError(f"{mismatch}: {problem} key {key}")
    for key, weight in expected.items():
        if state[key].shape != weight.shape:
            raise RTDError(
                f"{source}: {key} has shape {tuple(state[key].shape)}, but a backbone with features of size {features} "
                f"and token embeddings of width {token_width} needs {tuple(weight.shape)}: "
                "was it trained for another backbone?"
            )
    with locate_errors(source):
        check_finite(state)
    projection.load_state_dict(state)
    return projection.float().eval().requires_grad_(False)
