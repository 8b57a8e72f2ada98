"""The tuned text encoder inside a host: loaded at the first composed query, where and as the host's model is."""

import threading
import weakref
from pathlib import Path

import torch
from torch import Tensor, nn

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.clip.tuned_encoder import check_base
from rtd_plugin.contract.composition import Composition, compose
from rtd_plugin.errors import RTDError
from rtd_plugin.files import hash_file, read_checkpoint
from rtd_plugin.patching.host_model import describe, placement, round_like, settings, sizes, text_tower
from rtd_plugin.patching.manifest import Manifest


class HostEncoder:
    """A patch's text encoder, one copy for each device and dtype that the host's models have."""

    def __init__(self, manifest: Manifest):
        self._manifest = manifest
        self._lock = threading.Lock()
        self._towers: dict[tuple[torch.device, torch.dtype], TextTower] = {}
        self._checked: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def compose(self, composition: Composition) -> Tensor | tuple[Tensor, Tensor]:
        """What the host's composition point is to return, on its model's device and in its dtype (or autocast's).

        Raises:
            RTDError: the weights cannot be loaded, the host's model is not the CLIP that they were tuned from, or the
                composition makes no sense.
        """
        with self._lock:
            tower = self._tower(composition.model)
        return compose(tower, composition)

    # Weights loaded in the host's inference mode could not take part in gradients later, and a probe taken under its
    # autocast would be another.
    @torch.inference_mode(False)
    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def _tower(self, model: nn.Module) -> TextTower:
        place = placement(model)
        if model in self._checked and place in self._towers:
            return self._towers[place]
        tuned = self._towers.get(place) or self._load(model)
        base = self._checked_base(model, tuned)
        if place not in self._towers:
            if base is not None:
                tuned = tuned.float()
                if self._manifest.blend != 1:
                    for weight, pretrained in zip(tuned.parameters(), base.parameters(), strict=True):
                        weight.copy_(torch.lerp(pretrained, weight, self._manifest.blend))
                round_like(tuned, base)
            device, dtype = place
            self._towers[place] = tuned.to(device, dtype).eval().requires_grad_(False)
        self._checked.add(model)
        return self._towers[place]

    def _load(self, model: nn.Module) -> TextTower:
        """The tuned tower as it is on disk."""
        weights = self._manifest.weights
        path = Path(weights.path)
        state = read_checkpoint(path)
        if hash_file(path) != weights.digest:
            raise RTDError(f"{path}: has changed since the host was patched: patch it again")
        activation, heads = settings(model)
        try:
            return TextTower.from_state_dict(
                state, activation=weights.activation or activation, heads=weights.heads or heads
            )
        except RTDError as error:
            raise RTDError(f"{path}: {error}") from error

    def _checked_base(self, model: nn.Module, tuned: TextTower) -> TextTower | None:
        """The host's text tower, which must be that which was tuned; None if it cannot be read and need not be."""
        weights, forced = self._manifest.weights, self._manifest.force
        try:
            base = text_tower(model, weights.activation, weights.heads)
        except RTDError as error:
            if forced and self._manifest.blend == 1:
                return None
            raise RTDError(
                f"the host's model cannot be compared with the tuned text encoder's base: {error}"
            ) from error
        ours = f"{weights.path} was tuned from {weights.base or 'a CLIP'} ({sizes(tuned)})"
        theirs = f"the host has {describe(model, base)}"
        same_sizes = (base.width, base.features) == (tuned.width, tuned.features)
        blendable = self._manifest.blend == 1 or [p.shape for p in base.parameters()] == [
            p.shape for p in tuned.parameters()
        ]
        if not same_sizes or not blendable:
            raise RTDError(f"{ours}, but {theirs}: they do not fit")
        if not forced:
            hint = "Tune an encoder from the host's CLIP, or patch with --force"
            check_base(weights, base, f"{theirs} with other weights", hint)
        return base
