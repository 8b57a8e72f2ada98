"""The loop: results, resuming, and written files."""

import copy
import gc
import math
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from rtd_plugin.engine.build import build_engine
from rtd_plugin.errors import RTDError
from rtd_plugin.training import batches
from rtd_plugin.training.batches import RunBatches
from rtd_plugin.training.checkpoints import CheckpointStore
from rtd_plugin.training.loop import make_accelerator, train
from rtd_plugin.training.order import BatchOrder
from rtd_plugin.training.recipe import Optimizer
from rtd_plugin.training.trainer import schedule_rate


def validation(*values):
    """A recipe's validation of every second step, and a function that gives these values in turn."""
    values = iter((0.0, *values))  # the first is the pre-trained tower's
    override = "validation={benchmark: shelf, data: d, every: 2, select: seen.recall_at_1}"
    return override, lambda tower: {"recall_at_1": 50.0, "seen": {"recall_at_1": next(values)}}


def optimizer_state(folder, step):
    return torch.load(folder / "checkpoints" / f"step-{step:06d}" / "optimizer.pt", weights_only=True)["optimizer"]


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("accumulation=2",),
        ("precision=bf16",),
        ("optimizer.schedule=cosine", "optimizer.max_grad_norm=0.5"),
        ("wording={noise: 0.5, sample: true}", "triplets.0.path=wordings.jsonl", "batch_size=60"),  # two epochs
    ],
    ids=str,
)
def test_resuming_from_any_checkpoint_is_bit_for_bit(
    train_run, metrics, same_weights, tmp_path, monkeypatch, overrides
):
    monkeypatch.chdir(tmp_path)
    overrides = (*overrides, "checkpoints={every: 1, keep: 9}", "steps=4")
    weights, _ = train_run("whole", *overrides)
    for step in (1, 3):
        shutil.copytree(tmp_path / "whole", tmp_path / "run")
        for later in range(step + 1, 5):
            shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{later:06d}")
        resumed, _ = train_run("run", *overrides)
        assert same_weights(resumed, weights)
        assert metrics() == metrics("whole")
        for one, other in zip(
            optimizer_state(tmp_path / "run", 4)["state"].values(),
            optimizer_state(tmp_path / "whole", 4)["state"].values(),
            strict=True,
        ):
            assert same_weights(one, other)
        shutil.rmtree(tmp_path / "run")
    assert [line["step"] for line in metrics("whole")] == [1, 2, 3, 4]


@pytest.mark.parametrize("file", ["tower.safetensors", "optimizer.pt", "progress.json"])
def test_a_truncated_checkpoint_is_resumed_from_the_one_before_it(
    train_run, metrics, same_weights, tmp_path, caplog, file
):
    overrides = ("checkpoints={every: 1, keep: 9}", "steps=3")
    weights, _ = train_run("run", *overrides)
    folder = tmp_path / "run" / "checkpoints"
    lines = metrics()
    for step in (2, 3):
        path = folder / f"step-{step:06d}" / file
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert same_weights(train_run("run", *overrides)[0], weights)
    assert metrics() == lines
    warnings = [record.message for record in caplog.records if "resuming" in record.message]
    for warning, step in zip(warnings, (3, 2), strict=True):
        assert warning.startswith(f"{folder}/step-{step:06d}/{file}: ")
        assert warning.endswith(f"resuming from the checkpoint before it, {folder}/step-{step - 1:06d}.")
    assert CheckpointStore(tmp_path / "run", 9).read_progress(3).step == 3


def test_a_run_whose_checkpoints_are_all_broken_is_refused(train_run, tmp_path):
    train_run("run", "checkpoints={every: 1, keep: 2}", "steps=3")
    for path in tmp_path.glob("run/checkpoints/*/optimizer.pt"):
        path.write_bytes(b"")
    with pytest.raises(RTDError, match=r"step-000002/optimizer\.pt: .*, and no earlier checkpoint: start a new run"):
        train_run("run", "checkpoints={every: 1, keep: 2}", "steps=3")


def test_a_finished_run_is_not_trained_again_and_can_be_made_longer(train_run, metrics, same_weights):
    weights, _ = train_run()
    again, step = train_run()
    assert step == 6
    assert same_weights(again, weights)
    longer, step = train_run("run", "steps=8")
    assert step == 8
    assert same_weights(longer, train_run("undisturbed", "steps=8")[0])
    assert metrics() == metrics("undisturbed")


def test_two_runs_on_two_threads_are_equal(train_run, metrics, same_weights):
    torch.set_num_threads(2)
    overrides = ("batch_size=32", "steps=2")
    assert same_weights(train_run("one", *overrides)[0], train_run("two", *overrides)[0])
    assert metrics("one") == metrics("two")


@pytest.fixture
def norms(monkeypatch):
    """Norms of the gradients that the optimizer gets, one per step."""
    norms = []
    step = torch.optim.AdamW.step

    def record(self, *arguments, **options):
        gradients = [parameter.grad for group in self.param_groups for parameter in group["params"]]
        norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", record)
    return norms


def test_accumulation_averages_the_gradients_of_its_batches(train_run, metrics, norms, monkeypatch):
    """Two batches of 4 that are equal to each other make the step that one of them makes."""
    override = ("shuffle=false", "objective.noise_scale=0", "steps=3")
    one, _ = train_run("one", *override)
    rows = BatchOrder.rows
    monkeypatch.setattr(BatchOrder, "rows", lambda self, index, rank: rows(self, index // 2, rank))
    two, _ = train_run("two", *override, "accumulation=2")
    for name, weight in one.items():
        if not name.endswith("in_proj_bias"):  # of a key's bias there is no gradient but rounding error
            torch.testing.assert_close(two[name], weight, rtol=1e-4, atol=1e-5, msg=name)
    losses = [[line["loss"] for line in metrics(name)] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert norms[:3] == pytest.approx(norms[3:], rel=1e-4)  # AdamW alone would hide a constant factor


def test_each_batch_of_each_process_has_different_noise(train_run, monkeypatch):
    """On features, and of words."""
    seeds = []
    make_noise, replace_words = batches.make_noise, batches.replace_words
    monkeypatch.setattr(batches, "make_noise", lambda *given: seeds.append(given[-1]) or make_noise(*given))
    monkeypatch.setattr(batches, "replace_words", lambda *given: seeds.append(given[2]) or replace_words(*given))
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda _: 2))
    for rank in (0, 1):
        monkeypatch.setattr(Accelerator, "process_index", property(lambda _, rank=rank: rank))
        train_run(f"rank {rank}", "shuffle=false", "accumulation=2", "steps=2", "wording.noise=0.5")
    train_run("seed", "shuffle=false", "accumulation=2", "steps=2", "wording.noise=0.5", "seed=1")
    assert len(seeds) == len(set(seeds)) == 24


def test_accumulation_takes_the_next_batches(make_run, monkeypatch):
    indices = []
    rows = BatchOrder.rows
    monkeypatch.setattr(BatchOrder, "rows", lambda self, index, rank: indices.append(index) or rows(self, index, rank))
    run = make_run("run", "accumulation=3", "steps=2")
    train(run, make_accelerator(run.recipe), build_engine)
    assert indices == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0, [1, 1, 1, 1, 1, 1]),
        ("constant", 2, [0.5, 1, 1, 1, 1, 1]),
        ("linear", 0, [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("linear", 2, [0.5, 1, 1, 3 / 4, 2 / 4, 1 / 4]),
        ("cosine", 0, [(1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]),
        ("cosine", 6, [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1]),
        ("linear", 9, [step / 9 for step in range(1, 7)]),
    ],
)
def test_learning_rates(schedule, warmup, expected):
    settings = Optimizer(learning_rate=0.1, schedule=schedule, warmup_steps=warmup)
    assert [schedule_rate(step, 6, settings) for step in range(6)] == pytest.approx([0.1 * rate for rate in expected])


def test_each_step_uses_and_logs_its_learning_rate(train_run, make_run, metrics):
    weights, _ = train_run("run", "optimizer={schedule: linear, warmup_steps: 2, learning_rate: 1.0e-3}", "steps=3")
    assert [line["learning_rate"] for line in metrics()] == pytest.approx([5e-4, 1e-3, 1e-3])
    frozen, _ = train_run("still", "optimizer={learning_rate: 1.0e-30, weight_decay: 0}", "steps=3")
    before = make_run().tower.state_dict()
    assert all(torch.allclose(frozen[name], before[name], rtol=0, atol=1e-20) for name in before)
    assert not torch.equal(weights["text_projection"], before["text_projection"])


def test_gradients_are_clipped_over_all_parameters_together(train_run, norms):
    train_run("free", "optimizer.max_grad_norm=null", "steps=1", "accumulation=2")
    train_run("clipped", "optimizer.max_grad_norm=0.25", "steps=1", "accumulation=2")
    assert norms[0] > 0.5
    assert norms[1] == pytest.approx(0.25, rel=1e-4)


def test_a_loss_that_is_not_finite(train_run, tmp_path):
    """Weights that are not finite are never saved."""
    with pytest.raises(
        RTDError, match=r"(loss is nan at step [2-4], in batch|weights are not finite after step).*lower"
    ):
        train_run("run", "optimizer.learning_rate=1.0e+38", "checkpoints.every=1")
    store = CheckpointStore(tmp_path / "run", 1)
    for step in store.list_steps():
        assert all(weight.isfinite().all() for weight in store.read_tower(step).values())


def test_one_step_that_ruins_the_weights(train_run, tmp_path):
    """The loss of the only step is finite: it was computed before."""
    with pytest.raises(RTDError, match=r"weights are not finite after step 1: lower optimizer.learning_rate"):
        train_run("run", "optimizer.learning_rate=1.0e+39", "steps=1")
    assert CheckpointStore(tmp_path / "run", 1).list_steps() == []


def test_one_step_that_ruins_the_features(train_run, tmp_path):
    """Its weights are finite, but too large for features."""
    with pytest.raises(RTDError, match=r"features are not finite after step 1: lower optimizer.learning_rate"):
        train_run("run", "optimizer.learning_rate=1.0e+30", "steps=1")
    assert CheckpointStore(tmp_path / "run", 1).list_steps() == []


def test_a_run_that_diverged_resumes_with_a_lower_learning_rate(train_run, tmp_path):
    """As the message advises."""
    train_run("run", "steps=2")
    with pytest.raises(RTDError, match="learning rate and precision may change with --resume"):
        train_run("run", "optimizer.learning_rate=1.0e+39", "steps=4")
    _, step = train_run("run", "optimizer.learning_rate=1.0e-5", "steps=4")
    assert step == 4


def test_the_best_by_validation_is_the_result(train_run, metrics, same_weights, tmp_path):
    override, validate = validation(10.0, 30.0, 30.0)
    weights, step = train_run("run", override, "checkpoints={every: 5, keep: 1}", validate=validate)
    assert step == 4
    assert same_weights(weights, train_run("four", "steps=4")[0])
    assert CheckpointStore(tmp_path / "run", 1).list_steps() == [4, 6]
    assert [line["step"] for line in metrics()] == [0, 1, 2, 2, 3, 4, 4, 5, 6, 6]
    assert metrics()[0] == {"step": 0, "validation": {"recall_at_1": 50.0, "seen": {"recall_at_1": 0.0}}}
    assert metrics()[3]["validation"]["seen"] == {"recall_at_1": 10.0}


def test_validation_resumes_with_its_best(train_run, metrics, tmp_path):
    override, validate = validation(40.0, 30.0)
    with pytest.raises(RTDError, match="Validating failed in rtd_validation_due: StopIteration"):
        train_run("run", override, "checkpoints={every: 1, keep: 1}", validate=validate)
    _, step = train_run("run", override, "checkpoints={every: 1, keep: 1}", validate=lambda _: validate_as(20.0))
    assert step == 2
    assert [line["step"] for line in metrics()] == [0, 1, 2, 2, 3, 4, 4, 5, 6, 6]


def validate_as(value):
    return {"recall_at_1": value, "seen": {"recall_at_1": value}}


@pytest.mark.parametrize("change", ["validation.select=recall_at_1", "validation.books=9", "validation=null"])
def test_the_best_by_another_validation_is_forgotten(train_run, change):
    override, validate = validation(40.0, 30.0, 20.0)
    assert train_run("run", override, validate=validate)[1] == 2
    assert train_run("run", override, change, "steps=8", validate=lambda _: validate_as(1.0))[1] == 8


def test_the_best_stays_where_only_its_interval_changes(train_run):
    override, validate = validation(40.0, 30.0, 20.0)
    assert train_run("run", override, validate=validate)[1] == 2
    assert train_run("run", override, "validation.every=4", "steps=8", validate=lambda _: validate_as(1.0))[1] == 2


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"recall_at_5": 1.0, "seen": {"recall_at_10": 2.0}}, "no metric 'seen.recall_at_1'; found recall_at_5, seen"),
        ({"seen": {"recall_at_1": math.nan}}, "the metric seen.recall_at_1 is nan"),
        ({"seen": 5.0}, "no metric"),
    ],
)
def test_a_validation_that_cannot_select_fails_before_the_first_step(train_run, tmp_path, metrics, message):
    override, _ = validation()
    with pytest.raises(RTDError, match=message):
        train_run("run", override, validate=lambda _: metrics)
    assert '"loss"' not in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("file", "message"),
    [("clip.safetensors", "backbone"), ("phi.pt", "projection"), ("triplets.jsonl", "triplets")],
)
def test_resuming_with_other_files_under_the_same_names(train_run, recipe_file, tower, projection, file, message):
    train_run("run", "steps=2")
    path = recipe_file.with_name(file)
    if file == "clip.safetensors":
        from safetensors.torch import save_file

        tower.ln_final.bias.data += 1e-3
        save_file(tower.state_dict(), path)
    elif file == "phi.pt":
        torch.save({"Phi": {name: weight * 1.001 for name, weight in projection.state_dict().items()}}, path)
    else:
        path.write_text(path.read_text().replace("a brown dog", "a black dog", 1))
    with pytest.raises(RTDError, match=f"run: cannot resume: the {message} files changed since the run began"):
        train_run()


def test_resuming_with_another_number_of_processes(train_run, tmp_path):
    """A run of four takes four batches a step when it goes on alone; negatives that they shared cannot be had so."""
    train_run("run", "steps=2", "batch_size=2")
    path = tmp_path / "run" / "checkpoints" / "step-000002" / "progress.json"
    path.write_text(path.read_text().replace('"processes":1', '"processes":4'))
    reports = []
    train_run("run", "steps=3", "batch_size=2", report=reports.append)
    assert '"processes":4' in (tmp_path / "run" / "checkpoints" / "step-000003" / "progress.json").read_text()
    with pytest.raises(RTDError, match=re.escape("started with 4 process(es), so it cannot resume with 1: start 4")):
        train_run("run", "steps=4", "batch_size=2", "objective.negatives=gathered")


@pytest.mark.parametrize(
    ("accumulation", "began_with", "processes", "batches"),
    [(1, None, 4, 1), (3, None, 2, 3), (1, 4, 4, 1), (1, 4, 2, 2), (1, 4, 1, 4), (2, 4, 8, 1), (3, 2, 6, 1)],
)
def test_a_step_has_the_same_batches_on_any_number_of_processes(make_run, accumulation, began_with, processes, batches):
    run = replace(make_run("run", f"accumulation={accumulation}"), began_with=began_with)
    assert run.count_batches(processes) == batches


def test_batches_that_cannot_be_shared_equally_are_named(make_run):
    run = replace(make_run("run", "accumulation=2"), began_with=2)
    with pytest.raises(RTDError, match=re.escape("cannot resume with 3: start 1 or 2 or 4")):
        run.count_batches(3)


def test_each_step_reads_the_same_triplets_with_the_same_noise(make_run, tmp_path):
    """Of four processes, of two and of one, over several epochs."""
    wordings = ("wording={noise: 0.5, sample: true}", f"triplets.0.path={tmp_path / 'wordings.jsonl'}")
    run = make_run("run", "batch_size=2", "accumulation=3", *wordings)

    def list_batches(processes, began_with, step):
        shared = replace(run, began_with=began_with)
        count, found = shared.count_batches(processes), []
        for rank in range(processes):
            accelerator = SimpleNamespace(process_index=rank, num_processes=processes)
            batches = RunBatches(
                shared, accelerator, lambda *args: None, SimpleNamespace(count_pseudo_tokens=lambda: (1, 1))
            )
            found += [batches[index] for index in range(step * count, (step + 1) * count)]
        return sorted((batch.rows.tolist(), batch.noise.tolist(), batch.queries.tolist()) for batch in found)

    for step in (0, 1, 7):
        expected = list_batches(4, None, step)
        assert len(expected) == 12
        for processes in (1, 2, 3, 6, 12):
            assert list_batches(processes, 4, step) == expected


def test_tensorboard(train_run, metrics, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    override, validate = validation(10.0, 30.0, 20.0)
    train_run("run", override, "tracker=tensorboard", validate=validate)
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard" / "rtd-plugin")).Reload()
    losses = [line["loss"] for line in metrics() if "loss" in line]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses)
    assert [event.step for event in events.Scalars("validation.seen.recall_at_1")] == [0, 2, 4, 6]


def test_missing_hardware_and_packages_are_named(make_run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RTDError, match="precision fp16 needs a GPU, and torch sees none: pass --set precision=bf16"):
        make_accelerator(make_run("run", "precision=fp16").recipe)
    monkeypatch.setattr("rtd_plugin.training.loop.get_available_trackers", lambda: ["tensorboard"])
    with pytest.raises(RTDError, match="the tracker aim is not installed: pip install aim"):
        make_accelerator(make_run("run", "tracker=aim").recipe)


def test_a_gpu_without_bf16_is_named(make_run, monkeypatch):
    recipe = make_run("run", "precision=bf16").recipe
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    with pytest.raises(RTDError) as error:
        make_accelerator(recipe)
    assert str(error.value) == "precision bf16: Tesla T4 lacks it: pass --set precision=fp16 or fp32"


def test_precisions_follow_each_other_in_one_process(train_run, same_weights):
    exact, _ = train_run("one")
    rounded, _ = train_run("two", "precision=bf16")
    again, _ = train_run("three")
    assert same_weights(exact, again)
    assert not same_weights(exact, rounded)
    assert {weight.dtype for weight in rounded.values()} == {torch.float32}


def test_the_modules_of_the_run_are_not_changed(make_run, same_weights):
    run = make_run("run", "precision=bf16")
    before = copy.deepcopy((run.tower, run.projection))
    tower, _ = train(run, make_accelerator(run.recipe), build_engine)
    for module, old in zip((run.tower, run.projection), before, strict=True):
        assert same_weights(module.state_dict(), old.state_dict())
        assert [p.requires_grad for p in module.parameters()] == [p.requires_grad for p in old.parameters()]
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert not tower.training
    tokens = torch.tensor([[49406, 320, 49407]])
    assert torch.equal(tower(tokens), tower.encode(tokens))  # without the autocast it was trained under
    copy.deepcopy(tower)


def test_no_step_keeps_memory(train_run):
    """As many tensors are alive after the fourth step as after the third."""
    alive = {}

    def count(step):
        gc.collect()
        alive[step.step] = sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())

    train_run("run", "steps=4", report=count)
    assert alive[4] == alive[3]


def test_a_projection_for_another_width(make_run, recipe_file, projection):
    state = {name: weight[:15] if "6" in name else weight for name, weight in projection.state_dict().items()}
    torch.save({"Phi": state}, recipe_file.with_name("phi.pt"))
    with pytest.raises(RTDError, match=r"phi.pt: layers.6.weight has shape \(15, 128\)"):
        make_run()


def test_too_few_triplets_for_a_batch(train_run, tmp_path):
    with pytest.raises(RTDError, match="120 triplets do not fill one batch of 128"):
        train_run("run", "batch_size=128")
    assert not (tmp_path / "run").exists()
