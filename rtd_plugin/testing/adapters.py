"""The checks that every adapter must pass, each with a message that says what is wrong."""

from collections.abc import Callable

from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.testing import compositions, projections, prompts
from rtd_plugin.testing.fixtures import describe_failure, require

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


def run_check(adapter: Adapter, check: str) -> str | None:
    """Run one of `CHECKS`; return what is wrong with the adapter, or None."""
    try:
        CHECKS[check](adapter)
    except AssertionError as fault:
        return str(fault)
    except Exception as error:  # third-party code may raise anything
        return f"raised {describe_failure(error)}"
    return None


def check_adapter(adapter: Adapter) -> None:
    """Check an adapter: its prompts, its projection and checkpoints, its composition points.

    Composed queries are compared with the reference encoder `encode_slowly` on a small CLIP with random weights.

    Args:
        adapter: an instance, as a plugin registers it.

    Raises:
        AssertionError: something is wrong; the message lists every fault under the name of its check.

    >>> from rtd_plugin.contract import plugins
    >>> check_adapter(plugins.find_adapter("lincir"))
    """
    require(
        isinstance(adapter, Adapter),
        f"{adapter!r} is not an adapter: pass an instance of a subclass of rtd_plugin.contract.Adapter",
    )
    faults = {check: fault for check in CHECKS if (fault := run_check(adapter, check)) is not None}
    lines = "".join(f"\n- {check}: {fault}" for check, fault in faults.items())
    checks = "1 check" if len(faults) == 1 else f"{len(faults)} checks"
    require(not faults, f"the adapter {getattr(adapter, 'name', None)!r} does not pass {checks}:{lines}")
