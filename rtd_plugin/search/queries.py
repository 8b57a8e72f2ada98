"""Images that a caller may pass: paths, PIL images, arrays of pixels, or features; one or many."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.evaluation.benchmark import Benchmark, Query
from rtd_plugin.evaluation.image_files import check_size, open_image, reduce_depth, turn_upright

OneImage: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray | Tensor"
Images: TypeAlias = "OneImage | Sequence[OneImage]"

_FORMS = "a path, a PIL image, an array of pixels (H, W, 3) uint8, or a feature (D,) of floats"
_NORMALISED = 1e-3  # a feature whose length is this close to 1 is normalised, perhaps in float16


class CallerImages(Benchmark):
    """Images of a caller, which `ImageFeatures` encodes; not kept on disk."""

    name: ClassVar[str] = "search"

    images: dict[str, Any]

    def queries(self) -> Sequence[Query]:
        return []

    def gallery(self) -> Sequence[str]:
        return list(self.images)

    def image(self, name: str) -> Image.Image:
        image = self.images[name]
        if isinstance(image, Image.Image):
            check_size(name, image.size)
            return turn_upright(reduce_depth(name, image))
        return turn_upright(open_image(Path(image)))


def list_images(images: Any) -> tuple[list[Any], bool]:
    """Return images as a list of paths, PIL images and features (D,), and whether the caller passed a single one.

    Raises:
        UsageError: one of them is something else.
    """
    if isinstance(images, str | os.PathLike | Image.Image):
        return [images], True
    if isinstance(images, Tensor):
        images = images.detach().cpu()
        images = (images.float() if images.is_floating_point() else images).numpy()
    if isinstance(images, np.ndarray):
        is_single = images.ndim in ((1,) if _is_float(images) else (2, 3))
        return [_convert_array(each) for each in ([images] if is_single else images)], is_single
    if not isinstance(images, Sequence):
        raise UsageError(f"image: a {type(images).__name__} is not {_FORMS}, or a list of these")
    listed = []
    for each in images:
        converted, is_single = list_images(each)
        if not is_single:
            raise UsageError(f"image: a list may hold only single images: {_FORMS}")
        listed += converted
    if not listed:
        raise UsageError("image: an empty list")
    return listed, False


def _is_float(array: np.ndarray) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating))


def _convert_array(array: np.ndarray) -> Image.Image | Tensor:
    if _is_float(array) and array.ndim == 1:
        return torch.from_numpy(array.astype(np.float32))
    if array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        return Image.fromarray(array)
    raise UsageError(f"image: an array of {array.dtype} with shape {array.shape} is not {_FORMS}")


def check_references(features: Tensor, size: int) -> None:
    """Check features (N, D) that a caller passes as reference images.

    Raises:
        UsageError: they have another size, or have been normalised.
        RTDError: they are not finite.
    """
    if features.shape[1] != size:
        raise UsageError(f"image: a feature of size {features.shape[1]}, but this backbone's have {size}")
    if not features.isfinite().all():
        raise RTDError("image: a feature is not finite")
    if ((features.norm(dim=1) - 1).abs() < _NORMALISED).any():
        raise UsageError(
            "image: a normalised feature, but the projection needs features that are not normalised: "
            "use encode_images(…, normalize=False)"
        )
