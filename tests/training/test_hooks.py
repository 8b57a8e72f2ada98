"""What the hooks of a run pass to plugins, and what plugins can change."""

import shutil

import pytest
import torch
from rtd_adapters.lincir import LinCIR

from rtd_plugin import hookimpl
from rtd_plugin.contract import plugins
from rtd_plugin.engine.build import build_engine
from rtd_plugin.errors import RTDError
from rtd_plugin.training.batches import stack_tokens
from rtd_plugin.training.loop import make_accelerator, train
from rtd_plugin.training.loss import rtd_loss
from rtd_plugin.training.objective import ObjectiveInputs

VALIDATION = "validation={benchmark: shelf, data: d, every: 2, select: depth}"


@pytest.fixture
def run_with(make_run):
    """Train a run of four steps with plugins."""

    def run_with(*run_plugins, overrides=()):
        run = make_run("run", "steps=4", *overrides)
        with plugins.use_plugins(*run_plugins):
            train(run, make_accelerator(run.recipe), build_engine)
        return run

    return run_with


def test_hook_rtd_run_started(run_with):
    calls = []

    class Starts:
        @hookimpl
        def rtd_run_started(self, run, step):
            calls.append((run.adapter.name, step))

    run_with(Starts())
    run_with(Starts(), overrides=["steps=6"])
    assert calls == [("lincir", 0), ("lincir", 4)]


def test_hook_rtd_step_ended(run_with, metrics):
    calls = []

    class Steps:
        @hookimpl
        def rtd_step_ended(self, run, report):
            calls.append(report)

    run_with(Steps())
    assert [report.step for report in calls] == [1, 2, 3, 4]
    assert [report.loss for report in calls] == [line["loss"] for line in metrics()]
    assert all(report.triplets_per_second > 0 for report in calls)


def test_hook_rtd_validation_due(run_with, metrics):
    """Metrics of two plugins are merged, and any of them can select."""

    class Depth:
        @hookimpl
        def rtd_validation_due(self, run, tower, step):
            assert tower.features == run.tower.features
            return {"depth": [0.0, 7.0, 3.0][step // 2]}

    class Height:
        @hookimpl
        def rtd_validation_due(self):
            return {"height": {"above": 1.0}}

    run_with(Depth(), Height(), overrides=[VALIDATION])
    validations = [line["validation"] for line in metrics() if "validation" in line]
    assert validations == [{"depth": depth, "height": {"above": 1.0}} for depth in (0.0, 7.0, 3.0)]


def test_two_plugins_of_one_metric(run_with):
    class One:
        @hookimpl
        def rtd_validation_due(self):
            return {"depth": 1.0}

    class Two(One):
        pass

    with pytest.raises(RTDError, match="two plugins give the validation metric 'depth'"):
        run_with(One(), Two(), overrides=[VALIDATION])


def test_hook_rtd_checkpoint_saved(run_with):
    calls = []

    class Checkpoints:
        @hookimpl
        def rtd_checkpoint_saved(self, run, checkpoint, step):
            assert (checkpoint / "progress.json").is_file()
            calls.append((checkpoint, step))

    run = run_with(Checkpoints())
    assert calls == [(run.folder / "checkpoints" / f"step-00000{step}", step) for step in (2, 4)]


def test_hook_rtd_objective(run_with, metrics):
    """The first plugin with a result replaces the published objective; one that returns None keeps it."""

    class Conditioned:
        """Without the refined batch: the same as the recipe's own option."""

        @hookimpl
        def rtd_objective(self, inputs: ObjectiveInputs):
            queries = inputs.encode(inputs.batch.queries, inputs.pseudo_tokens, inputs.placeholder)
            return rtd_loss(queries, inputs.targets, inputs.settings.temperature)

    class Undecided:
        @hookimpl
        def rtd_objective(self):
            return None

    losses = {}
    for name, run_plugins, overrides in (
        ("option", [], ["objective.hard_negatives=false"]),
        ("plugin", [Undecided(), Conditioned()], []),
        ("published", [Undecided()], []),
    ):
        run = run_with(*run_plugins, overrides=overrides)
        losses[name] = [line["loss"] for line in metrics()]
        for path in sorted(run.folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    assert losses["plugin"] == pytest.approx(losses["option"], rel=1e-6)
    assert losses["plugin"] != pytest.approx(losses["published"], rel=1e-3)


def test_an_objective_averages_composed_queries_as_the_published_one(run_with, metrics, monkeypatch):
    def project(self, projection, inputs):
        pseudo_tokens = projection(inputs.features)
        return pseudo_tokens, pseudo_tokens.flip(1)

    class Published:
        @hookimpl
        def rtd_objective(self, inputs):
            texts = stack_tokens(inputs.batch.queries, inputs.batch.unconditioned)
            subjects = torch.arange(len(inputs.targets)).repeat(2)
            queries = inputs.encode(texts, inputs.pseudo_tokens, inputs.placeholder, subjects)
            return rtd_loss(queries, torch.cat([inputs.targets, inputs.references]), inputs.settings.temperature)

    monkeypatch.setattr(LinCIR, "project", project)
    folder = run_with(Published()).folder
    losses = [line["loss"] for line in metrics()]
    shutil.rmtree(folder)
    run_with()
    assert losses == pytest.approx([line["loss"] for line in metrics()], rel=1e-5)


def test_a_plugin_that_fails_in_a_run_is_named(run_with, tmp_path):
    """Checkpoints before stay, and the run can resume."""

    class Late:
        @hookimpl
        def rtd_step_ended(self, report):
            if report.step == 3:
                raise KeyError("gone")

    with pytest.raises(RTDError, match=r"^the plugin Late failed in rtd_step_ended: KeyError: 'gone'$"):
        run_with(Late())
    assert (tmp_path / "run" / "checkpoints" / "step-000002").is_dir()
    run = run_with()
    assert torch.isfinite(run.tower.text_projection).all()


def test_temporary_plugins_are_unregistered_afterwards(run_with):
    class Passing:
        @hookimpl
        def rtd_run_started(self):
            pass

    before = plugins.get_plugin_manager().get_plugins()
    run_with(Passing())
    assert plugins.get_plugin_manager().get_plugins() == before


def test_a_misspelt_hook_of_a_temporary_plugin(run_with):
    class Misspelt:
        @hookimpl
        def rtd_step_end(self):
            pass

    with pytest.raises(RTDError, match="the plugin Misspelt does not fit: unknown hook 'rtd_step_end'"):
        run_with(Misspelt())
    assert not plugins.get_plugin_manager().has_plugin("Misspelt")
