"""Repairs of LinCIR's faults."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from rtd_plugin.contract import Report, Shim

REMOVED = ("causal_attention_mask", "return_dict")


def keep_causal_mask(original: Callable[..., Any], report: Report, *args: Any, **kwargs: Any) -> Any:
    """Handle the arguments that CLIP's encoder in transformers no longer has: 4.54 refuses them, 5 ignores them.

    Ignoring them is worse: without its mask the text encoder attends in both directions.
    """
    accepted = inspect.signature(original).parameters
    removed = {name: kwargs.pop(name) for name in REMOVED if name in kwargs and name not in accepted}
    if not removed:
        return original(*args, **kwargs)
    report()
    causal = removed.get("causal_attention_mask")
    if causal is not None:
        padding = kwargs.get("attention_mask")
        kwargs["attention_mask"] = causal if padding is None else causal + padding
    output = original(*args, **kwargs)
    return output.to_tuple() if removed.get("return_dict") is False else output


CAUSAL_MASK = Shim(
    name="causal-mask",
    fault="transformers 4.54 and later refuse or ignore LinCIR's causal mask",
    modules=("transformers.models.clip.modeling_clip",),
    function="CLIPEncoder.forward",
    repair=keep_causal_mask,
)
