"""Checkpoints are written atomically, and the latest and best are kept."""

import errno

import pytest
import torch
from torch import nn

from rtd_plugin.errors import RTDError
from rtd_plugin.training import checkpoints
from rtd_plugin.training.checkpoints import Best, BrokenCheckpoint, CheckpointStore, RunProgress


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path, keep=2)


@pytest.fixture
def save(store):
    """Save a small module at a step; its weight is the step."""

    def save(step, best=None):
        module = nn.Linear(2, 1, bias=False)
        nn.init.constant_(module.weight, step)
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
        module.weight.sum().backward()
        optimizer.step()
        nn.init.constant_(module.weight, step)
        store.save(progress(step, best), module, optimizer, None)

    return save


def progress(step, best=None):
    best = None if best is None else Best(step=best, value=1.5, validation={"benchmark": "cirr"})
    return RunProgress(
        step=step, processes=1, base_digest="b", projection_digest="p", triplet_digests=["t", "u"], best=best
    )


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_latest_and_the_best_are_kept(store, save):
    assert store.list_steps() == []
    kept = []
    for step, best in [(10, None), (20, 20), (30, 20), (40, 20), (50, 50), (60, 50), (70, 50)]:
        save(step, best)
        kept.append(store.list_steps())
        assert store.read_progress(step) == progress(step, best)
    assert kept == [[10], [10, 20], [20, 30], [20, 30, 40], [40, 50], [50, 60], [50, 60, 70]]
    assert store.read_tower(50)["weight"].tolist() == [[50, 50]]


def test_steps_are_in_numeric_order_beyond_six_digits(store, save):
    save(999_999)
    save(1_000_000)
    assert store.list_steps() == [999_999, 1_000_000]
    assert store.read_progress(1_000_000).step == 1_000_000


def test_load_restores_weights_and_optimizer(store, save):
    save(10)
    save(20)
    module = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.5)
    store.load(10, module, optimizer, None)
    assert module.weight.tolist() == [[10, 10]]
    assert optimizer.state[module.weight]["step"] == 1
    torch.testing.assert_close(optimizer.state[module.weight]["exp_avg"], torch.full((1, 2), 0.1))


@pytest.mark.parametrize("function", ["save_file", "torch.save"])
@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ZeroDivisionError()]
)
def test_a_failure_while_writing_leaves_the_earlier_ones(store, save, tmp_path, monkeypatch, function, failure):
    save(10)
    save(20, best=10)
    before = files(tmp_path)

    def fail(content, path):
        path.write_bytes(b"half of")
        raise failure

    home, _, name = function.rpartition(".")
    monkeypatch.setattr(torch if home else checkpoints, name, fail)
    expected = RTDError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected, match="No space left on device" if expected is RTDError else None):
        save(30, best=10)
    assert files(tmp_path) == before
    assert store.list_steps() == [10, 20]


def test_leftovers_of_a_killed_run_are_removed(store, save, tmp_path):
    save(10)
    draft = tmp_path / "checkpoints" / ".step-000020.abc" / "step-000020"
    draft.mkdir(parents=True)
    (draft / "tower.safetensors").write_bytes(b"half of")
    assert store.list_steps() == [10]
    save(20)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-000010", "step-000020"}


def test_a_resumed_run_removes_what_the_killed_one_was_about_to(store, save, tmp_path):
    """One that was killed once it had saved its last checkpoint, which is not saved again."""
    for step in (10, 20, 30):
        save(step)
    (tmp_path / "checkpoints/step-000010").mkdir()
    (tmp_path / "checkpoints/.step-000005.removed").mkdir()
    (tmp_path / "checkpoints/.step-000005.removed/optimizer.pt").touch()
    store.remove_old(progress(30))
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-000020", "step-000030"}


def test_a_checkpoint_that_cannot_be_removed_does_not_end_the_run(store, save, monkeypatch, caplog):
    save(10)
    save(20)

    def fail(source, target):
        if str(target).endswith(".removed"):
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    replace = checkpoints.os.replace
    with monkeypatch.context() as context:
        context.setattr(checkpoints.os, "replace", fail)
        save(30)
    assert store.list_steps() == [10, 20, 30]
    assert [record.getMessage() for record in caplog.records] == [
        f"{store.path(10)}: an old checkpoint that cannot be removed (Input/output error)"
    ]
    store.remove_old(progress(30))
    assert store.list_steps() == [20, 30]


@pytest.mark.parametrize("content", ["", "{", '{"step": 20}', '{"step": "x"}', "[]"])
def test_broken_progress(store, save, content):
    save(20)
    (store.path(20) / "progress.json").write_text(content)
    with pytest.raises(BrokenCheckpoint, match=r"progress\.json: missing or broken$"):
        store.read_progress(20)


@pytest.mark.parametrize("file", ["tower.safetensors", "optimizer.pt"])
def test_broken_weights_and_optimizer(store, save, file):
    save(10)
    path = store.path(10) / file
    path.write_bytes(path.read_bytes()[:-40])
    module = nn.Linear(2, 1, bias=False)
    with pytest.raises(BrokenCheckpoint, match=file):
        store.load(10, module, torch.optim.AdamW(module.parameters()), None)


def test_a_checkpoint_of_something_else(store, save):
    save(10)
    module = nn.Linear(3, 1)
    with pytest.raises(BrokenCheckpoint, match=r"step-000010: not a checkpoint of this run, or a broken one$"):
        store.load(10, module, torch.optim.AdamW(module.parameters()), None)
