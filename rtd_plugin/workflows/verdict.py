"""Whether tuning helped, by a run's validation or evaluation, as figures and as a sentence."""

from collections.abc import Callable, Mapping
from typing import Any

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.evaluation.comparison_table import shorten_metric
from rtd_plugin.evaluation.metrics import PerQueryMetrics, is_lower_better
from rtd_plugin.training.metrics import flatten
from rtd_plugin.training.recipe import Recipe
from rtd_plugin.training.run import Run

Measure = Callable[[TextTower], PerQueryMetrics]


def measure_gain(run: Run, measure: Measure, tower: TextTower, control: Measure | None = None) -> dict[str, Any] | None:
    """Return what tuning gains on the recipe's validation, by the metric that selects.

    Args:
        run: the run.
        measure: of the recipe's validation.
        tower: the tuned text tower.
        control: the same with swapped conditions, of held-out triplets.

    Returns:
        What was measured, `metric`, `before` and `after` in percent, `difference` with the ends of its 95 % interval
        (`low` and `high`) in points, `control` (None without one) with the metric `after` tuning and the gain over it,
        and whether tuning `helps`: the whole intervals of both gains are gains. None for the metric of a plugin.
    """
    assert run.recipe.validation is not None
    metric, benchmark = run.recipe.validation.select, run.recipe.validation.benchmark
    before, after = measure(run.tower), measure(tower)
    metrics = [dict(flatten(each.compute_metrics())) for each in (before, after)]
    if metric not in metrics[0]:
        return None
    gain, over_control = _select_gain(after, before, metric), None
    helps = gain["high"] < 0 if is_lower_better(metric) else gain["low"] > 0
    if control is not None:
        swapped = control(tower)
        over_control = {"after": swapped.compute_metrics()[metric], **_select_gain(after, swapped, metric)}
        helps = helps and over_control["low"] > 0
    return {
        "measured": "held-out triplets" if benchmark is None else benchmark.title(),
        "queries": len(before.groups),
        "metric": metric,
        "before": metrics[0][metric],
        "after": metrics[1][metric],
        **gain,
        "control": over_control,
        "helps": helps,
    }


def _select_gain(after: PerQueryMetrics, before: PerQueryMetrics, metric: str) -> dict[str, float]:
    gains = dict(flatten(after.compute_gain(before)))
    return {key: gains[f"{metric}.{key}"] for key in ("difference", "low", "high")}


def find_loss(validation: Mapping[str, Any] | None, evaluation: Mapping[str, Any] | None) -> str | None:
    """Return a sentence if validation does not show that tuning helps, or the first metric of evaluation that it harms.

    Args:
        validation: as `measure_gain` gives it.
        evaluation: as `Comparison.to_dict` gives it.
    """
    if validation is not None:
        return None if validation["helps"] else _describe_gain(validation)
    figures = _find_first_gain(evaluation)
    return _describe_gain(figures) if figures is not None and figures["high"] < 0 else None


def describe_verdict(validation: Mapping[str, Any] | None, evaluation: Mapping[str, Any] | None) -> str | None:
    """Return a sentence on whether tuning helps, by validation or else by the first metric of evaluation.

    Arguments as in `find_loss`. None without both.
    """
    figures = _find_first_gain(evaluation) if validation is None else validation
    return None if figures is None else _describe_gain(figures)


def find_remarks(recipe: Recipe, step: int, search: Mapping[str, Any] | None) -> list[str]:
    """Return sentences on choices that were the best at the end of what was tried.

    Args:
        recipe: of the run, with the learning rate that was chosen.
        step: optimizer steps that the text encoder has taken.
        search: as `rtd_plugin.training.rate_search.describe_search` gives it.
    """
    remarks = []
    if search is not None:
        rates = [trial["learning_rate"] for trial in search["trials"]]
        for end, name, factor in ((max(rates), "highest", 3), (min(rates), "lowest", 1 / 3)):
            if search["learning_rate"] == end:
                remarks.append(
                    f"The {name} learning rate is the best: one beyond it may be better, as in "
                    f"--set optimizer.learning_rate=[{end:g},{end * factor:.0e}]"
                )
    if recipe.validation is not None and step == recipe.steps and recipe.optimizer.schedule == "constant":
        remarks.append("The last step is the best: more steps may be better")
    return remarks


def _find_first_gain(evaluation: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the first metric of an evaluation before and after, None if its targets are secret."""
    if evaluation is None or "gain" not in evaluation["results"][1]:
        return None
    before, after = (row["metrics"][evaluation["benchmark"]] for row in evaluation["results"])
    metric, gain = next(iter(evaluation["results"][1]["gain"][evaluation["benchmark"]].items()))
    figures = {"measured": evaluation["title"], "metric": metric, "before": before[metric], "after": after[metric]}
    return {**figures, **gain, "helps": gain["high"] < 0 if is_lower_better(metric) else gain["low"] > 0}


def _describe_gain(figures: Mapping[str, Any]) -> str:
    low, high, control = figures["low"], figures["high"], figures.get("control")
    change = (
        f"{shorten_metric(figures['metric'])} of {figures['measured']} {figures['before']:.1f} → {figures['after']:.1f}"
    )
    if figures.get("helps"):
        over_others = "" if control is None else f"; {control['after']:.1f} with the conditions of other triplets"
        return f"Tuning helps: {change} (95 % interval of the gain {low:+.1f}…{high:+.1f}){over_others}"
    if control is not None and low > 0:
        return (
            f"Tuning is not shown to help: {change}, but {control['after']:.1f} with the conditions of other triplets "
            f"(95 % interval of the difference {control['low']:+.1f}…{control['high']:+.1f}). The conditions do not "
            "say what changes between the captions: see that each triplet has its own, then run `rtd-plugin triplets "
            "check FILE`"
        )
    verdict = "is not shown to help" if low <= 0 <= high else "does harm"
    return f"Tuning {verdict}: {change} (95 % interval of the gain {low:+.1f}…{high:+.1f})"
