"""The fast engine trains as the plain one does."""

import shutil

import numpy as np
import pytest
import torch

from rtd_plugin.contract import hookimpl
from rtd_plugin.contract.plugins import list_recipes, use_plugins
from rtd_plugin.engine.build import build_engine
from rtd_plugin.engine.device_batches import DeviceBatches
from rtd_plugin.engine.packed_tower import PackedTower
from rtd_plugin.engine.partial_embedding import PartialEmbedding
from rtd_plugin.engine.prefetching import AHEAD, PrefetchedBatches
from rtd_plugin.training.batches import list_device_tensors
from rtd_plugin.training.loop import make_accelerator
from rtd_plugin.training.loss import rtd_loss
from rtd_plugin.training.plain import build_plain
from rtd_plugin.training.recipe import read_recipe
from rtd_plugin.training.run import load_run
from rtd_plugin.training.trainer import Trainer


def make_trainer(run, build):
    return Trainer(run, make_accelerator(run.recipe), build)


@pytest.fixture(scope="module")
def load_miniature(tmp_path_factory):
    def load_miniature(adapter, *overrides):
        recipe = read_recipe(list_recipes()[f"{adapter}-miniature"], ["triplets.0.count=1000", *overrides])
        return load_run(recipe, tmp_path_factory.mktemp("run"))

    return load_miniature


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adapter", "overrides"), [("lincir", ()), ("searle", ()), ("pic2word", ()), ("lincir", ("wording.noise=0.5",))]
)
def test_twenty_steps_are_those_of_the_plain_engine(load_miniature, adapter, overrides):
    run = load_miniature(adapter, "batch_size=16", *overrides)
    fast, plain = make_trainer(run, build_engine), make_trainer(run, build_plain)
    for step in range(20):
        loss, expected = fast.take_step(step, 1e-3).item(), plain.take_step(step, 1e-3).item()
        assert loss == pytest.approx(expected, rel=1e-5)
    weights, expected_weights = fast.copy_tower().state_dict(), plain.copy_tower().state_dict()
    before = run.tower.state_dict()
    for name, weight in weights.items():
        if not name.endswith("in_proj_bias"):  # a key's bias has no gradient but rounding error
            differences = (weight - expected_weights[name]).abs()
            assert differences.mean() < 1e-5, name  # the steps move weights by up to 2e-2
            assert differences.max() < 1e-3, name  # Adam amplifies rounding where a gradient is all but zero
        assert not torch.equal(weight, before[name])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # which the compiler looks at
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_steps_are_those_of_the_plain_engine(load_miniature):
    """The blocks, what is before them, and the loss, with batches of different shapes."""
    run = load_miniature("lincir", "compile=true", "batch_size=16")
    fast, plain = make_trainer(run, build_engine), make_trainer(run, build_plain)
    for step in range(4):
        loss, expected = fast.take_step(step, 1e-3).item(), plain.take_step(step, 1e-3).item()
        assert loss == pytest.approx(expected, rel=1e-5)


def test_only_tokens_that_occur_are_trained(load_miniature):
    embedding = make_trainer(load_miniature("lincir"), build_engine).tower.token_embedding
    assert isinstance(embedding, PartialEmbedding)
    assert len(embedding.weight) < 500


class Objective:
    """The published one without hard negatives, as a plugin."""

    @hookimpl
    def rtd_objective(self, inputs):
        queries = inputs.encode(inputs.batch.queries, inputs.pseudo_tokens, inputs.placeholder)
        return rtd_loss(queries, inputs.targets, inputs.settings.temperature)


@pytest.mark.parametrize("build", [build_engine, build_plain])
@pytest.mark.parametrize("plugins", [(), (Objective(),)], ids=["published", "plugin"])
def test_words_that_occur_as_noise_alone_only_decay(load_miniature, build, plugins):
    run = load_miniature("lincir", "wording.noise=0.9", "optimizer.weight_decay=0.5")
    with use_plugins(*plugins):
        trainer = make_trainer(run, build)
        for step in range(3):
            trainer.take_step(step, 1e-2)
    before, after = (tower.token_embedding.weight.detach() for tower in (run.tower, trainer.copy_tower()))
    drawn = torch.cat([trainer._engine.batches[index].queries.flatten() for index in range(3)]).unique()
    is_trained = torch.zeros(len(before), dtype=torch.bool)
    is_trained[run.list_tokens()] = True
    assert (~is_trained[drawn]).sum() > 100
    decayed = before * (1 - 1e-2 * 0.5) ** 3
    torch.testing.assert_close(after[~is_trained], decayed[~is_trained], rtol=1e-5, atol=0)
    moved = ((after - decayed).abs() > 1e-3).any(dim=1)
    assert moved[drawn[is_trained[drawn]]].float().mean() > 0.9


def test_a_plugins_objective_may_use_any_token(load_miniature):
    """A plugin with the published loss gives the same tower: untrained embeddings decay as trained ones do."""
    overrides = ("optimizer={learning_rate: 1.0e-3, weight_decay: 0.5}", "objective.hard_negatives=false", "wording={}")
    run = load_miniature("lincir", *overrides)
    partial = make_trainer(run, build_engine)
    losses = [partial.take_step(step, 1e-3 / (1 + step)).item() for step in range(5)]
    with use_plugins(Objective()):
        whole = make_trainer(run, build_engine)
        assert len(whole.tower.token_embedding.weight) == 49408
        assert [whole.take_step(step, 1e-3 / (1 + step)).item() for step in range(5)] == pytest.approx(losses, rel=1e-6)
    weights, expected = partial.copy_tower().state_dict(), whole.copy_tower().state_dict()
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-6)
    before = run.tower.state_dict()["token_embedding.weight"]
    moved = (expected["token_embedding.weight"] - before).abs().max(dim=1).values
    assert (moved[before.abs().max(dim=1).values > 0] > 0).all()  # all decayed


def test_captions_are_computed_once(load_miniature, monkeypatch, tmp_path):
    """In two epochs ψ₀ runs only in the first, and the losses equal those without a cache."""
    small = ("triplets.0.count=200", "batch_size=100")
    texts = []
    forward = PackedTower.forward

    def record(self, packed, *arguments):
        if not torch.is_grad_enabled():
            texts.append(len(packed.ends))
        return forward(self, packed, *arguments)

    monkeypatch.setattr(PackedTower, "forward", record)
    monkeypatch.setenv("RTD_PLUGIN_CACHE", str(tmp_path / "cache"))
    run = load_miniature("lincir", *small)
    trainer = make_trainer(run, build_engine)
    losses = [trainer.take_step(step, 1e-3).item() for step in range(4)]
    distinct = [
        len(np.unique(run.triplets.gather(trainer._engine.batches[index].rows.numpy()).captions)) for index in range(2)
    ]
    assert texts == distinct
    again = make_trainer(run, build_engine)
    assert [again.take_step(step, 1e-3).item() for step in range(4)] == losses
    assert texts == distinct
    monkeypatch.setattr("rtd_plugin.engine.caption_features.LIMIT", 0)
    monkeypatch.setenv("RTD_PLUGIN_CACHE", str(tmp_path / "another"))
    uncached = make_trainer(load_miniature("lincir", *small), build_engine)
    assert [uncached.take_step(step, 1e-3).item() for step in range(4)] == pytest.approx(losses, rel=1e-6)
    assert len(texts) == 6


@pytest.mark.parametrize("lost", ["file", "row"])
def test_features_are_the_same_to_the_last_bit_whenever_they_are_computed(load_miniature, monkeypatch, tmp_path, lost):
    """A run that was killed, or lost some of its cache, computes features later than an undisturbed one."""
    run = load_miniature("lincir", "triplets.0.count=200", "batch_size=60")
    monkeypatch.setenv("RTD_PLUGIN_CACHE", str(tmp_path / "cache"))
    engine = make_trainer(run, build_engine)._engine
    expected = [torch.cat(engine.frozen.features(engine.batches[index])) for index in range(6)]  # two epochs
    if lost == "file":
        monkeypatch.setenv("RTD_PLUGIN_CACHE", str(tmp_path / "another"))
    else:
        (file,) = (tmp_path / "cache/frozen").glob("*.features")
        with file.open("r+b") as stream:
            for position in range(0, file.stat().st_size, 1000):
                stream.seek(position)
                stream.write(b"?")
    engine = make_trainer(run, build_engine)._engine
    for index in reversed(range(6)):
        assert torch.equal(torch.cat(engine.frozen.features(engine.batches[index])), expected[index])


def test_batches_of_a_device_are_those_that_were_made(load_miniature):
    """On a CPU there is neither a copy nor a stream; `tests/benchmarks/gpu.py` checks a GPU's losses."""
    batches = make_trainer(load_miniature("lincir"), build_engine)._engine.batches
    expected, batch = batches[3], DeviceBatches(batches, torch.device("cpu"))[3]
    tensors, made = list_device_tensors(batch), list_device_tensors(expected)
    assert len(tensors) == len(made) == 7  # the noise, five of the queries, and the weight of consistency
    assert all(map(torch.equal, tensors, made))


def test_prefetched_batches_are_the_same_in_any_order():
    made = []

    class Squares:
        def __getitem__(self, index):
            made.append(index)
            return index * index

    batches = PrefetchedBatches(Squares(), lambda batch: batch + 1)
    assert [batches[index] for index in (0, 1, 2, 7, 8, 3)] == [1, 2, 5, 50, 65, 10]
    assert made[: 3 + AHEAD - 1] == list(range(3 + AHEAD - 1))


def test_a_batch_that_fails_ahead_fails_when_it_is_due():
    class Failing:
        def __getitem__(self, index):
            if index == 2:
                raise OSError("the store is gone")
            return index

    batches = PrefetchedBatches(Failing(), lambda batch: batch)
    assert [batches[0], batches[1]] == [0, 1]
    with pytest.raises(OSError, match="the store is gone"):
        batches[2]
