"""The tuned text encoder inside a host: loaded at the first composed query, with the device and dtype of its model."""

from __future__ import annotations

import threading
import weakref
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from rtd_plugin.checkpoint_parts import hash_checkpoint
from rtd_plugin.clip.old_torch import VERSION
from rtd_plugin.clip.tensor_file import read_tensors
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.clip.tuned_encoder import check_base
from rtd_plugin.contract.composition import Composition, compose
from rtd_plugin.errors import RTDError, locate_errors
from rtd_plugin.patching.host_model import (
    copy_text_tower,
    describe_model,
    format_sizes,
    read_placement,
    read_settings,
    round_like,
)
from rtd_plugin.patching.manifest import WEIGHTS_FILE, Manifest

OLDEST_TORCH = (1, 11)


class HostEncoder:
    """A patch's text encoder, one copy for each device and dtype of the host's models.

    Raises:
        RTDError: torch is too old.
    """

    def __init__(self, manifest: Manifest):
        if VERSION < OLDEST_TORCH:
            raise RTDError(f"the patch needs torch 1.11 or newer, but here it is {torch.__version__}")
        self._manifest = manifest
        self._lock = threading.Lock()
        self._towers: dict[tuple[torch.device, torch.dtype], TextTower] = {}
        self._checked: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def compose(self, composition: Composition) -> Tensor | tuple[Tensor, Tensor]:
        """Encode a composed query on the device and in the dtype of the host's model, or in autocast's dtype.

        Raises:
            RTDError: the weights cannot be loaded, the host's model is not the CLIP that they were tuned from, or the
                composition is invalid.
        """
        with self._lock:
            tower = self._get_tower(composition.model)
        return compose(tower, composition)

    # Weights loaded in the host's inference mode could not take part in gradients later, and its autocast would change
    # the probe.
    @torch.inference_mode(False)
    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def _get_tower(self, model: nn.Module) -> TextTower:
        placement = read_placement(model)
        if model in self._checked and placement in self._towers:
            return self._towers[placement]
        tuned = self._towers.get(placement) or self._load(model)
        base = self._read_base(model, tuned)
        if placement not in self._towers:
            if base is not None:
                tuned = tuned.float()
                if self._manifest.blend != 1:
                    pretrained = dict(base.named_parameters())
                    for name, weight in tuned.named_parameters():
                        weight.copy_(torch.lerp(pretrained[name], weight, self._manifest.blend))
                if self._manifest.rounds_weights:
                    round_like(tuned, base)
            device, dtype = placement
            self._towers[placement] = tuned.to(device, dtype).eval().requires_grad_(False)
        self._checked.add(model)
        return self._towers[placement]

    def _load(self, model: nn.Module) -> TextTower:
        """Load the tuned tower with the dtype of its file."""
        weights = self._manifest.weights
        path = Path(weights.path)
        with suppress(OSError):  # if the file is gone, or not readable for this user, the copy is right
            if path.is_file() and hash_checkpoint(path) != weights.digest:
                raise RTDError(f"{path}: has changed since the host was patched: patch it again")
        state = read_tensors(self._manifest.folder / WEIGHTS_FILE)
        activation, heads = read_settings(model)
        with locate_errors(path):
            return TextTower.from_state_dict(
                state, activation=weights.activation or activation, heads=weights.heads or heads
            )

    def _read_base(self, model: nn.Module, tuned: TextTower) -> TextTower | None:
        """Return the host's text tower, compared with the base of the tuned one; None if unreadable and not needed."""
        weights, forced = self._manifest.weights, self._manifest.force
        try:
            base = copy_text_tower(model, weights.activation, weights.heads)
        except RTDError as error:
            if forced and self._manifest.blend == 1:
                return None
            raise RTDError(
                f"the host's model cannot be compared with the tuned text encoder's base: {error}"
            ) from error
        tuned_clause = f"{weights.path} was tuned from {weights.base or 'a CLIP'} ({format_sizes(tuned)})"
        host_clause = f"the host has {describe_model(model, base)}"
        same_sizes = (base.width, base.features) == (tuned.width, tuned.features)
        blendable = self._manifest.blend == 1 or [p.shape for p in base.parameters()] == [
            p.shape for p in tuned.parameters()
        ]
        if not same_sizes or not blendable:
            raise RTDError(f"{tuned_clause}, but {host_clause}: they do not fit")
        if not forced:
            hint = "Tune an encoder from the host's CLIP, or patch with --force"
            check_base(weights, base, f"{host_clause} with other weights", hint)
        return base
