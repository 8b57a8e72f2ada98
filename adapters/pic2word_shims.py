"""Repairs of Pic2Word's faults, all of `src/eval_retrieval.py`."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from rtd_plugin.contract import Report, Shim

EVALUATION = "eval_retrieval.py"


def set_distributed(original: Callable[..., Any], report: Report, *args: Any, **kwargs: Any) -> Any:
    """Give the parsed arguments `distributed`, which the evaluation reads and only the training sets."""
    parsed = original(*args, **kwargs)
    if _is_evaluation() and not hasattr(parsed, "distributed"):
        parsed.distributed = False
        report()
    return parsed


def use_bare_gallery_names(original: Callable[..., Any], report: Report, *args: Any, **kwargs: Any) -> Any:
    """Remove the folders from the gallery's names, because the queries' names have none."""
    call = inspect.signature(original).bind(*args, **kwargs)
    names = {*call.arguments["reference_names"], *call.arguments["target_names"]}
    gallery = list(call.arguments["index_names"])
    bare = [os.path.basename(name) for name in gallery]
    if names.isdisjoint(gallery) and names <= set(bare):
        report()
        call.arguments["index_names"] = bare
    return original(*call.args, **call.kwargs)


def show_errors(original: Callable[..., Any], report: Report, *args: Any, **kwargs: Any) -> Any:
    """Show the error that the evaluation swallows; it starts right after its arguments are parsed."""
    if _is_evaluation():
        program: Any = sys.modules["__main__"]
        program.main_worker = _show_errors_of(program.main_worker, report)
    return original(*args, **kwargs)


def _is_evaluation() -> bool:
    program = sys.modules["__main__"]
    return os.path.basename(getattr(program, "__file__", None) or "") == EVALUATION and hasattr(program, "main_worker")


def _show_errors_of(worker: Callable[..., Any], report: Report) -> Callable[..., Any]:
    @functools.wraps(worker)
    def run_worker(*args: Any, **kwargs: Any) -> Any:
        try:
            return worker(*args, **kwargs)
        except Exception as error:
            traceback.print_exc()
            report(failure=f"{type(error).__name__}: {error}")
            raise

    return run_worker


SHIMS = (
    Shim(
        name="distributed",
        fault="the evaluation reads args.distributed, which is never set",
        file="src/params.py",
        modules=("params",),
        function="parse_args",
        repair=set_distributed,
    ),
    Shim(
        name="gallery-names",
        fault="CIRR's gallery names carry folders, its queries' names do not",
        file="src/eval_utils.py",
        modules=("eval_utils",),
        function="get_metrics_cirr",
        repair=use_bare_gallery_names,
    ),
    Shim(
        name="swallowed-errors",
        fault="the evaluation swallows every error and exits with 0",
        file="src/params.py",
        modules=("params",),
        function="parse_args",
        repair=show_errors,
    ),
)
