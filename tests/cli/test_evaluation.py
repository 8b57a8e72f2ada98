"""Training with validation and a final evaluation, and the table that shows it."""

import json
from io import StringIO

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from rtd_plugin import hookimpl
from rtd_plugin.cli.results import comparison_tables
from rtd_plugin.contract import plugins
from rtd_plugin.evaluation.benchmark import Benchmark, Query
from rtd_plugin.miniature.triplets import MiniatureTriplets
from rtd_plugin.workflows.verdict import find_loss

WORDS = [
    "kettle",
    "ladder",
    "violin",
    "turtle",
    "lantern",
    "bicycle",
    "pear",
    "harbour",
    "shelf",
    "rain",
    "night",
    "bridge",
]


class Swatches(Benchmark):
    """Blurred images of four random colours each."""

    name = "swatches"
    excludes_reference = True
    subset_recall_at = (1,)

    missing: str = ""

    def queries(self):
        groups = ("seen", "unseen")
        return [
            Query(
                reference=str(n),
                conditions=(f"as a {WORDS[n]}",),
                targets=(str(n + 1),),
                subset=(str(n + 1), str(n + 3)),
                groups=(groups[n % 2],),
                target_caption=f"colour {n + 1}",
            )
            for n in range(12)
        ]

    def gallery(self):
        return [str(index) for index in range(16)]

    def image(self, name):
        if name == self.missing:
            raise FileNotFoundError(f"no {name}.png")
        pixels = torch.randint(256, (2, 2, 3), generator=torch.Generator().manual_seed(int(name)))
        return Image.fromarray(pixels.byte().numpy()).resize((32, 32))


class Plugin:
    @hookimpl
    def rtd_benchmarks(self):
        return [Swatches]


@pytest.fixture
def recipe(files, tmp_path):
    manager = plugins.get_plugin_manager()
    manager.register(Plugin(), "swatches")
    values = yaml.safe_load((files / "tiny.yaml").read_text())
    values["backbone"] = {"model": str(files / "model.json"), "checkpoint": str(files / "clip.pt")}
    values["projection"] = str(files / "phi.pt")
    values["triplets"][0]["path"] = str(files / "triplets.jsonl")
    values["optimizer"]["learning_rate"] = 0.01  # the ranks change in these few steps
    values["validation"] = {"every": 2, "benchmark": "swatches", "select": "seen.recall_at_5"}
    values["evaluation"] = {"benchmark": "swatches"}
    (tmp_path / "swatches.yaml").write_text(yaml.safe_dump(values))
    yield tmp_path / "swatches.yaml"
    manager.unregister(name="swatches")


def test_validation_selects_the_result_and_evaluation_shows_it(rtd, recipe, tmp_path):
    done = rtd("train", "--recipe", recipe, "--json")
    assert done.exit_code == 0, done.stderr
    assert done.stderr.count("Encoding images 16/16") == 1  # of two equal benchmarks only once
    result = json.loads(done.stdout)
    log = [json.loads(line) for line in (tmp_path / "runs/swatches/metrics.jsonl").read_text().splitlines()]
    values = {line["step"]: line["validation"]["seen"]["recall_at_5"] for line in log if "validation" in line}
    assert list(values) == [0, 2, 4, 6]
    del values[0]  # of the frozen encoder, which is not a result
    assert result["step"] == max(values, key=values.get)  # the first of equal ones
    assert len(set(values.values())) > 1
    evaluation = result["evaluation"]
    assert [evaluation[key] for key in ("benchmark", "queries", "gallery")] == ["swatches", 12, 16]
    frozen, tuned = evaluation["results"]
    assert tuned["weights"] == result["text_encoder"]
    assert frozen["weights"] is None
    assert tuned["metrics"]["swatches"]["seen"]["recall_at_5"] == max(values.values())
    for group in ("seen", "unseen"):
        before, after = (row["metrics"]["swatches"][group]["recall_at_5"] for row in (frozen, tuned))
        gain = tuned["gain"]["swatches"][group]["recall_at_5"]
        assert gain["difference"] == pytest.approx(after - before)
        assert gain["low"] <= gain["difference"] <= gain["high"]
    again = rtd("train", "--recipe", recipe, "--resume")
    assert f"Wrote runs/swatches/text_encoder.safetensors (step {result['step']})." in again.stdout
    shown = [line.split("│") for line in again.stdout.splitlines() if "tuned" in line]
    assert [float(cells[3]) for cells in shown] == [
        round(metrics["recall_at_5"], 1)
        for metrics in (
            tuned["metrics"]["swatches"][group] if group else tuned["metrics"]["swatches"]
            for group in ("", "seen", "unseen")
        )
    ]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["validation.select=recall_at_7"], "validation.select: no metric 'recall_at_7'; found recall_at_1,"),
        (["evaluation.missing='3'"], "swatches: the image 3 cannot be read (FileNotFoundError: no 3.png)"),
        (["evaluation.benchmark=none"], "unknown benchmark 'none': installed are"),
    ],
)
def test_faults_are_found_before_training(rtd, recipe, tmp_path, overrides, says):
    done = rtd(
        "train", "--recipe", recipe, "--output", "run", *(word for text in overrides for word in ("--set", text))
    )
    assert done.exit_code in (1, 2)
    assert says in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_validation_by_a_metric_of_any_benchmark(rtd, recipe, write_dataset, tmp_path):
    """The same metrics as `evaluate` gives of the same encoders; paths are relative to where the command runs."""
    write_dataset("circo", tmp_path / "circo")
    validation = "validation={benchmark: circo, data: circo, every: 1, select: negation.map_at_50}"
    options = ("--set", validation, "--set", "evaluation=null", "--set", "steps=3", "--output", "run")
    done = rtd("train", "--recipe", recipe, *options)
    assert done.exit_code == 0, done.stderr
    log = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    values = {line["step"]: line["validation"] for line in log if "validation" in line}
    evaluated = rtd("evaluate", "--benchmark", "circo", "--data", "circo", "--weights", "run", "--json")
    assert evaluated.exit_code == 0, evaluated.stderr
    assert "Encoding" not in evaluated.stderr
    result = json.loads(evaluated.stdout)
    best = max(list(values)[1:], key=lambda step: values[step]["negation"]["map_at_50"])
    assert values[0] == result["results"][0]["metrics"]["circo"]
    assert values[best] == result["results"][1]["metrics"]["circo"]


def test_validation_needs_targets(rtd, recipe, write_dataset, tmp_path):
    write_dataset("circo", tmp_path / "circo")
    for part in ("validation", "evaluation"):
        secret = f"{part}={{benchmark: circo, data: circo, split: test}}"
        done = rtd("train", "--recipe", recipe, "--set", f"{part}=null", "--set", secret, "--output", "run")
        assert done.exit_code == 1
        assert "circo: no metrics: the targets of this split are kept secret" in done.stderr
        assert not (tmp_path / "run").exists()


def train_on_held_out(rtd, recipe, *overrides):
    options = ("validation={triplets: 0.25, every: 2}", "evaluation=null", *overrides)
    return rtd("train", "--recipe", recipe, "--output", "run", *(word for text in options for word in ("--set", text)))


def test_validation_on_held_out_triplets(rtd, recipe, tmp_path):
    """Before and after by the metric that selects; no image is read."""
    done = train_on_held_out(rtd, recipe, "validation.select=recall_at_5")
    assert done.exit_code == 0, done.stderr
    assert "Encoding" not in done.stderr
    log = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    values = {line["step"]: line["validation"]["recall_at_5"] for line in log if "validation" in line}
    result = json.loads((tmp_path / "run/results.json").read_text())
    validation = result["validation"]
    assert result["step"] == max(list(values)[1:], key=values.get)
    assert (validation["measured"], validation["metric"]) == ("held-out triplets", "recall_at_5")
    assert (validation["before"], validation["after"]) == (values[0], values[result["step"]])
    assert validation["difference"] == pytest.approx(validation["after"] - validation["before"])
    assert validation["low"] <= validation["difference"] <= validation["high"]
    control = validation["control"]
    assert validation["helps"] == (validation["low"] > 0 and control["low"] > 0)
    assert control["difference"] == pytest.approx(validation["after"] - control["after"])
    assert validation["queries"] + result["triplets"] == 48
    card = (tmp_path / "run/README.md").read_text()
    assert f"on held-out triplets: recall\\_at\\_5 {values[0]:.1f} before" in card
    assert f"With the conditions of other triplets, the tuned encoder has {control['after']:.1f}." in card


def test_without_a_gain_there_is_a_warning_and_no_next_step(rtd, recipe):
    """The pre-trained encoder's recall is not exceeded by a rate that changes nothing."""
    done = train_on_held_out(rtd, recipe, "optimizer.learning_rate=1e-12")
    assert done.exit_code == 0, done.stderr
    assert "Tuning is not shown to help: R@1 of held-out triplets" in done.stderr
    assert "(95 % interval of the gain +0.0…+0.0)" in done.stderr
    assert "No gain is shown: keep the pre-trained text encoder for now." in done.stdout
    assert "rtd-plugin patch" not in done.stdout


def test_a_loss_on_evaluation_is_a_warning():
    """Of its first metric, if the whole interval is one."""
    metrics = [
        {"town": {"recall_at_1": 28.3, "recall_at_5": 40.0}},
        {"town": {"recall_at_1": 15.0, "recall_at_5": 60.0}},
    ]
    gain = {"recall_at_1": {"difference": -13.3, "low": -20.0, "high": -6.6}, "recall_at_5": {}}
    results = [{"metrics": metrics[0]}, {"metrics": metrics[1], "gain": {"town": gain}}]
    evaluation = {"benchmark": "town", "title": "my town", "results": results}
    assert find_loss(None, evaluation) == (
        "Tuning does harm: R@1 of my town 28.3 → 15.0 (95 % interval of the gain -20.0…-6.6)"
    )
    gain["recall_at_1"]["high"] = 0.5
    assert find_loss(None, evaluation) is None


@pytest.mark.slow  # 40 steps on the miniature
def test_with_a_gain_there_is_a_next_step(rtd):
    done = train_on_held_out(rtd, "lincir-miniature", "steps=40", "triplets.0.count=4000", "validation.triplets=0.2")
    assert done.exit_code == 0, done.stderr
    assert "Tuning" not in done.stderr
    assert "rtd-plugin patch" in done.stdout


@pytest.mark.slow  # 100 steps on the miniature
def test_shuffled_conditions_are_a_warning(rtd, tmp_path):
    """Tuning finds more targets, as it learns what captions have in common, but not by the condition."""
    triplets = list(MiniatureTriplets(count=16000).load().triplets)
    with (tmp_path / "shuffled.jsonl").open("w", encoding="utf-8") as file:
        for row, triplet in enumerate(triplets):
            condition = triplets[(row * 7919 + 1) % len(triplets)].condition
            json.dump({"caption": triplet.reference, "edit": condition, "output": triplet.target}, file)
            file.write("\n")
    source = "triplets=[{source: json, path: shuffled.jsonl}]"
    done = train_on_held_out(
        rtd,
        "lincir-miniature",
        source,
        "wording={}",
        "steps=100",
        "optimizer.learning_rate=3e-4",
        "validation={triplets: 0.1, every: 50}",
    )
    assert done.exit_code == 0, done.stderr
    assert "The conditions do not say what changes between the captions" in done.stderr
    assert "rtd-plugin patch" not in done.stdout


METRICS = ("recall_at_1", "recall_at_5", "recall_at_10", "subset_recall_at_1")


def over_groups(value, all_queries, seen):
    """Made-up figures, each metric's 10 above the one before."""

    def over(first):
        return {name: value(first + 10 * number) for number, name in enumerate(METRICS)}

    return {**over(all_queries), "seen": over(seen)}


def test_a_table_fits_the_console():
    """On a console of 80 columns, nothing wraps."""
    rows = [
        ("composed", "composed, frozen", None, 20, 25),
        ("composed", "composed, tuned", "run/t", 30.06, 25),
        ("image only", "image only", None, 2, 4),
    ]
    frozen, tuned, image = (
        {
            "query": query,
            "name": "",
            "label": label,
            "weights": weights,
            "metrics": {"town": over_groups(float, *values)},
            "intervals": {"town": over_groups(lambda value: {"low": value - 1, "high": value + 1}, *values)},
        }
        for query, label, weights, *values in rows
    )
    gain = over_groups(lambda d: {"difference": d, "low": d - 12.04, "high": d + 3}, 10.06, 0)
    comparison = {
        "benchmark": "town",
        "title": "town",
        "queries": 100,
        "results": [frozen, tuned | {"gain": {"town": gain}}],
        "baselines": [image],
    }
    assert print_lines(comparison) == TABLE.splitlines()


def print_lines(comparison):
    shown = StringIO()
    console = Console(width=80, file=shown)
    for table in comparison_tables(comparison):
        console.print(table)
    return [line.rstrip() for line in shown.getvalue().splitlines()]


def test_many_metrics_and_groups_make_several_tables():
    """A table for each family of metrics; of each tuned encoder, the gain by group, largest losses first."""
    metrics = {f"{kind}_at_{k}": 10.0 * k for kind in ("recall", "map") for k in (1, 2, 3)}
    names = [str(index) for index in range(5)]
    gains = {
        name: {metric: {"difference": lowest, "low": -9.0, "high": 9.0} for metric in metrics}
        for name, lowest in zip(names, (2.0, -3.0, 1.0, -4.0, 0.0), strict=True)
    }
    intervals = {name: {"low": value - 1, "high": value + 1} for name, value in metrics.items()}
    rows = [
        {
            "query": "composed",
            "name": name,
            "label": f"composed, {name}",
            "weights": weights,
            "metrics": {"town": metrics | dict.fromkeys(names, metrics)},
            "intervals": {"town": intervals | dict.fromkeys(names, intervals)},
        }
        for name, weights in (("frozen", None), ("a", "runs/a"), ("b", "runs/b"))
    ]
    for row in rows[1:]:
        row["gain"] = {"town": gains["0"] | gains}
    lines = print_lines({"benchmark": "town", "title": "city", "results": rows, "baselines": [], "queries": 100})
    assert [line for line in lines if line.startswith("city")] == ["city: recall in percent", "city: mAP in percent"]
    labels = [line.split("│")[1].rstrip() for line in lines if line.startswith("│")]
    by_group = [f"   {name} queries" for name in "31420"]
    assert (
        labels[:20]
        == labels[20:]
        == [
            " all queries",
            "   composed, frozen",
            "   composed, a",
            "   composed, b",
            "   gain of a",
            "     95 % interval",
            "   gain of b",
            "     95 % interval",
            *(" gain of a by group", *by_group, " gain of b by group", *by_group),
        ]
    )
    assert "mAP@3" in lines[lines.index("city: mAP in percent") + 2]
    alone = print_lines({"benchmark": "town", "title": "city", "results": rows[:1], "baselines": [], "queries": 100})
    assert sum("queries" in line and "all" not in line for line in alone) == 10


def test_gains_are_green_losses_red_and_the_rest_plain():
    metrics = dict.fromkeys(METRICS[:3], 10.0)
    intervals = {name: {"low": 9.0, "high": 11.0} for name in metrics}
    ends = ((2.0, 1.0, 3.0), (-2.0, -3.0, -1.0), (0.5, -1.0, 2.0))
    gain = {
        name: dict(zip(("difference", "low", "high"), values, strict=True))
        for name, values in zip(METRICS, ends, strict=False)
    }
    rows = [
        {"query": "composed", "name": "", "label": "composed", "weights": weights, "metrics": {"town": metrics}}
        for weights in (None, "run/t")
    ]
    rows = [row | {"intervals": {"town": intervals}} for row in rows]
    rows[1]["gain"] = {"town": gain}
    (table,) = comparison_tables(
        {"benchmark": "town", "title": "town", "results": rows, "baselines": [], "queries": 100}
    )
    for row in (-2, -1):
        assert [list(column.cells)[row].style for column in table.columns[1:]] == ["green", "red", ""]


def test_secret_targets_have_no_table():
    row = {"query": "composed", "name": "pre-trained", "weights": None}
    assert (
        comparison_tables({"benchmark": "town", "title": "town", "results": [row], "baselines": [], "queries": 100})
        == []
    )


TABLE = """\
town: recall in percent
┏━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━┳━━━━━━━━━━━━┳━━━━━━━━━━━━━┳━━━━━━━━━━━━━┓
┃ query              ┃        R@1 ┃        R@5 ┃        R@10 ┃  subset R@1 ┃
┡━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━╇━━━━━━━━━━━━╇━━━━━━━━━━━━━╇━━━━━━━━━━━━━┩
│ all queries        │            │            │             │             │
│   image only       │        2.0 │       12.0 │        22.0 │        32.0 │
│   composed, frozen │       20.0 │       30.0 │        40.0 │        50.0 │
│   composed, tuned  │       30.1 │       40.1 │        50.1 │        60.1 │
│   gain of tuning   │      +10.1 │      +20.1 │       +30.1 │       +40.1 │
│     95 % interval  │ -2.0…+13.1 │ +8.0…+23.1 │ +18.0…+33.1 │ +28.0…+43.1 │
├────────────────────┼────────────┼────────────┼─────────────┼─────────────┤
│ seen queries       │            │            │             │             │
│   image only       │        4.0 │       14.0 │        24.0 │        34.0 │
│   composed, frozen │       25.0 │       35.0 │        45.0 │        55.0 │
│   composed, tuned  │       25.0 │       35.0 │        45.0 │        55.0 │
│   gain of tuning   │       +0.0 │      +10.0 │       +20.0 │       +30.0 │
│     95 % interval  │ -12.0…+3.0 │ -2.0…+13.0 │  +8.0…+23.0 │ +18.0…+33.0 │
└────────────────────┴────────────┴────────────┴─────────────┴─────────────┘
"""


def test_families_of_metrics_share_a_table_if_they_fit():
    def titles(*metrics):
        row = {"query": "composed", "label": "", "weights": None}
        values = {"metrics": {"town": dict.fromkeys(metrics, 1.0)}}
        intervals = {"intervals": {"town": {key: {"low": 0.0, "high": 2.0} for key in metrics}}}
        comparison = {
            "benchmark": "town",
            "title": "town",
            "results": [row | values | intervals],
            "baselines": [],
            "queries": 100,
        }
        return [table.title.removeprefix("town: ") for table in comparison_tables(comparison)]

    recall, wordings = [f"recall_at_{k}" for k in (1, 5, 10)], ["spread_of_recall_at_1", "worst_recall_at_1"]
    assert titles(*recall, "subset_recall_at_1") == ["recall in percent"]
    assert titles(*recall, "map_at_5") == ["recall, mAP in percent"]
    assert titles(*recall, "subset_recall_at_1", "wrong_at_10", *wordings) == [
        "recall in percent",
        "wrong answers, spread over wordings in percent",
    ]
