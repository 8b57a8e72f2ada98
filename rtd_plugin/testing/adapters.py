"""What every adapter has to get right, as checks that say what is wrong."""

from collections.abc import Callable

from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.testing import compositions, projections, prompts
from rtd_plugin.testing.fixtures import require

CHECKS: dict[str, Callable[[Adapter], None]] = {
    "name": prompts.check_name,
    "prompts": prompts.check_prompts,
    "two conditions": prompts.check_two_conditions,
    "composed queries": prompts.check_composed_queries,
    "projection": projections.check_projection,
    "precision": projections.check_precision,
    "checkpoints": projections.check_checkpoints,
    "bad checkpoints": projections.check_bad_checkpoints,
    "composition points": compositions.check_points,
    "compositions": compositions.check_compositions,
}
"""The checks by name; each raises an AssertionError that says what is wrong."""


def faults(adapter: Adapter, check: str) -> str | None:
    """What one of `CHECKS` finds wrong with an adapter, None for nothing."""
    try:
        CHECKS[check](adapter)
    except AssertionError as fault:
        return str(fault)
    except Exception as error:  # an adapter may be anybody's
        return f"raised {type(error).__name__}: {error}"
    return None


def check_adapter(adapter: Adapter) -> None:
    """Check an adapter: its prompts, its projection and checkpoints, its composition points.

    Composed queries are compared with an encoder that is written out, `encode_slowly`, on a small CLIP of random
    weights.

    Args:
        adapter: an instance, as a plugin registers it.

    Raises:
        AssertionError: something is wrong; the message lists every fault under the name of its check.
    """
    require(
        isinstance(adapter, Adapter),
        f"{adapter!r} is no adapter: pass an instance of a subclass of rtd_plugin.contract.adapter.Adapter",
    )
    found = {check: fault for check in CHECKS if (fault := faults(adapter, check)) is not None}
    listed = "".join(f"\n- {check}: {fault}" for check, fault in found.items())
    require(not found, f"the adapter {getattr(adapter, 'name', None)!r} does not pass {len(found)} checks:{listed}")
