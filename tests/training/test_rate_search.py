"""The search for a learning rate: what it tries, what it chooses, and that it goes on where it was killed."""

import json

import pytest

from rtd_plugin import hookimpl
from rtd_plugin.contract import plugins
from rtd_plugin.engine.build import build_engine
from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.training import rate_search, rate_trials
from rtd_plugin.training.loop import make_accelerator, train
from rtd_plugin.training.plain import build_plain
from rtd_plugin.training.rate_search import describe_search, search_rate
from rtd_plugin.training.rate_trials import plan_search, read_search, trial_folder
from rtd_plugin.training.recipe import Optimizer, read_recipe
from rtd_plugin.training.run import resume_recipe, write_recipe
from rtd_plugin.training.trainer import Diverged

RATES = [1e-4, 1e-3, 1e-2]
SEARCH = (f"optimizer.learning_rate={RATES}", "steps=8", "validation={every: 100, triplets: 0.2}")


class Scripted:
    """Validates with a function of learning rate and step, and notes the steps that are taken."""

    def __init__(self, value, at_step=None):
        self.value, self.at_step, self.taken = value, at_step, []

    @hookimpl
    def rtd_validation_due(self, run, step):
        return {"recall_at_1": self.value(run.recipe.optimizer.rate, step) if step else 5.0}

    @hookimpl
    def rtd_step_ended(self, run, report):
        if self.at_step is not None:
            self.at_step(run, report.step)
        self.taken.append((run.recipe.optimizer.learning_rate, report.step))


@pytest.fixture
def search(make_run):
    """Search with scripted validation; returns the run and the plugin."""

    def search(value, *overrides, name="run", at_step=None, build=build_engine):
        scripted = Scripted(value, at_step)
        with plugins.use_plugins(scripted):
            return search_rate(make_run(name, *SEARCH, *overrides), build), scripted

    return search


def finish(run, scripted):
    with plugins.use_plugins(scripted):
        tower, step = train(run, make_accelerator(run.recipe), build_engine)
    return tower.state_dict(), step


def by_rate(values):
    return lambda rate, step: values[rate] + step / 100


@pytest.mark.parametrize(
    ("rates", "steps", "every", "rungs", "interval"),
    [
        ("auto", 2000, 100, [(0, 200, 4), (200, 400, 2), (400, 800, 1)], 100),
        ("auto", 250, 100, [(0, 31, 4), (31, 62, 2), (62, 124, 1)], 31),
        ("[1,2]", 100, 30, [(0, 30, 1)], 30),
        ("[1,2,3,4,5]", 80, 3, [(0, 9, 4), (9, 18, 2), (18, 36, 1)], 3),
        ("auto", 3, 100, [(0, 1, 4), (1, 2, 2), (2, 3, 1)], 1),
    ],
)
def test_the_plan(recipe_file, rates, steps, every, rungs, interval):
    """Rungs double, the last ends after half of the steps at most, and all end with a validation."""
    overrides = [f"optimizer.learning_rate={rates}", f"steps={steps}", f"validation={{triplets: 0.2, every: {every}}}"]
    plan = plan_search(read_recipe(recipe_file, overrides))
    assert [(rung.start, rung.steps, rung.survivors) for rung in plan.rungs] == rungs
    assert plan.every == interval
    assert all(rung.steps % plan.every == 0 for rung in plan.rungs)


def test_the_better_half_goes_on(search):
    run, scripted = search(by_rate({1e-4: 10, 1e-3: 30, 1e-2: 20}))
    assert run.recipe.optimizer.learning_rate == 1e-3
    assert run.recipe.validation.every == 2
    first = [(rate, step) for rate in RATES for step in (1, 2)]
    assert scripted.taken == [*first, (1e-3, 3), (1e-3, 4), (1e-2, 3), (1e-2, 4)]
    assert read_recipe(run.folder / "recipe.yaml") == run.recipe
    trials = [(trial.learning_rate, trial.steps, trial.value) for trial in read_search(run.folder).trials]
    assert trials == [(1e-4, 2, 10.02), (1e-3, 2, 30.02), (1e-2, 2, 20.02), (1e-3, 4, 30.04), (1e-2, 4, 20.04)]
    described = describe_search(run.folder)
    assert (described["before"], described["learning_rate"], described["metric"]) == (5.0, 1e-3, "recall_at_1")


def test_the_best_step_so_far_counts(search):
    """A rate that was better before is chosen, not the one that is better at the end of the rung."""
    values = {1e-4: [20, 20, 20, 20], 1e-3: [50, 50, 0, 0], 1e-2: [40, 40, 40, 40]}
    run, _ = search(lambda rate, step: values[rate][step - 1])
    assert run.recipe.optimizer.learning_rate == 1e-3


def test_of_equal_rates_the_lower_is_chosen(search):
    run, _ = search(lambda rate, step: 7.0)
    assert run.recipe.optimizer.learning_rate == 1e-4


def test_of_some_metrics_the_lowest_is_chosen(search, make_run):
    scripted = Scripted(by_rate({1e-4: 10, 1e-3: 8, 1e-2: 9}))
    scripted.rtd_validation_due = None

    class Spread:
        @hookimpl
        def rtd_validation_due(self, run, step):
            return {"spread_of_recall_at_1": scripted.value(run.recipe.optimizer.rate, 0) if step else 9.5}

    with plugins.use_plugins(Spread()):
        run = search_rate(make_run("run", *SEARCH, "validation.select=spread_of_recall_at_1"), build_engine)
    assert run.recipe.optimizer.learning_rate == 1e-3


def test_auto_goes_higher_while_the_highest_is_the_best(search):
    run, scripted = search(lambda rate, step: min(rate, 3e-3), "optimizer.learning_rate=auto")
    tried = list(dict.fromkeys(rate for rate, _ in scripted.taken))
    assert tried == [*rate_trials.AUTO, *rate_trials.HIGHER]
    assert run.recipe.optimizer.learning_rate == 3e-3, "the lower of the two best"
    run, scripted = search(lambda rate, step: -rate, "optimizer.learning_rate=auto", name="other")
    assert {rate for rate, _ in scripted.taken} == {*rate_trials.AUTO}
    assert run.recipe.optimizer.learning_rate == 1e-6


def test_a_rate_with_which_losses_are_not_finite_is_the_worst(search):
    run, _ = search(lambda rate, step: rate, "optimizer.learning_rate=[1e-4,1e-3,1e39]")
    assert run.recipe.optimizer.learning_rate == 1e-3
    trials = {(trial.learning_rate, trial.steps): trial.value for trial in read_search(run.folder).trials}
    assert trials[1e39, 2] is None
    assert (1e39, 4) not in trials
    with pytest.raises(Diverged, match=r"not finite with any of the learning rates 1e\+38, 1e\+39: name lower ones"):
        search(lambda rate, step: rate, "optimizer.learning_rate=[1e38,1e39]", name="other")


@pytest.mark.parametrize("build", [build_engine, build_plain])
def test_the_run_equals_one_with_the_chosen_rate(search, make_run, metrics, same_weights, tmp_path, build):
    """To the last bit: weights, the best step and the log; the folder is that of any run."""
    values = by_rate({1e-4: 10, 1e-3: 30, 1e-2: 20})
    run, scripted = search(values, build=build)
    with plugins.use_plugins(scripted):
        tower, step = train(run, make_accelerator(run.recipe), build)
    assert scripted.taken[-4:] == [(1e-3, step) for step in (5, 6, 7, 8)]
    write_recipe(run.recipe, tmp_path / "direct")
    recipe = read_recipe(tmp_path / "direct/recipe.yaml")
    direct = make_run("direct", *(f"{key}={json.dumps(value)}" for key, value in recipe.to_dict().items()))
    with plugins.use_plugins(Scripted(values)):
        other, other_step = train(direct, make_accelerator(recipe), build)
    assert step == other_step == 8
    assert same_weights(tower.state_dict(), other.state_dict())
    assert metrics("run") == metrics("direct")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoints",
        "metrics.jsonl",
        "recipe.yaml",
        "search",
    ]


class Killed(RTDError):
    pass


@pytest.mark.parametrize("kill_at", [0, 1, 2, 5, 6, 7, 9])
def test_a_killed_search_goes_on(search, same_weights, kill_at):
    """Finished trials are not repeated, and the result is the same to the last bit."""
    values = by_rate({1e-4: 10, 1e-3: 30, 1e-2: 20})
    whole, undisturbed = search(values, name="whole")
    expected = finish(whole, undisturbed)
    taken = []

    def kill(run, step):
        if len(taken) == kill_at:
            raise Killed
        taken.append((run.recipe.optimizer.rate, step))

    with pytest.raises(Killed):
        search(values, at_step=kill)
    before = read_search(whole.folder.parent / "run")
    finished = [(trial.learning_rate, trial.steps) for trial in before.trials] if before else []
    run, scripted = search(values)
    assert not [step for step in scripted.taken for rate, steps in finished if step[0] == rate and step[1] <= steps]
    weights, step = finish(run, scripted)
    assert {*taken, *scripted.taken} == {*undisturbed.taken}
    assert same_weights(weights, expected[0])
    assert step == expected[1]
    assert read_search(run.folder) == read_search(whole.folder)


@pytest.mark.parametrize("moment", ["write_recipe", "read_text"])
def test_a_search_killed_while_the_run_takes_over_goes_on(search, same_weights, monkeypatch, moment):
    values = by_rate({1e-4: 10, 1e-3: 30, 1e-2: 20})
    expected = finish(*search(values, name="whole"))

    def kill(*arguments):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(rate_search, moment, kill)
        with pytest.raises(Killed):
            search(values)
    run, scripted = search(values)
    assert scripted.taken == []
    assert same_weights(finish(run, scripted)[0], expected[0])


def test_checkpoints_of_losers_are_removed(search):
    """As soon as enough others are better: of three trials no more than three keep theirs at any time."""
    folders = []

    def look(run, step):
        folders.append(sum((path / "checkpoints").exists() for path in run.folder.parent.glob("*")))

    run, _ = search(by_rate({1e-4: 30, 1e-3: 20, 1e-2: 10}), at_step=look)
    assert max(folders) <= 3
    assert [rate for rate in RATES if (trial_folder(run.folder, rate) / "checkpoints").exists()] == []
    assert all((trial_folder(run.folder, rate) / "metrics.jsonl").is_file() for rate in RATES)


def test_a_broken_file_of_a_search_is_an_error(search, make_run):
    run, _ = search(by_rate({1e-4: 10, 1e-3: 30, 1e-2: 20}))
    (run.folder / "search/search.json").write_text("{")
    with pytest.raises(RTDError, match=r"search\.json: broken: start a new run with another --output"):
        search_rate(make_run("run", *SEARCH), build_engine)


def test_a_run_in_its_search_resumes_with_the_same_settings(make_run):
    run = make_run("run", *SEARCH)
    write_recipe(run.recipe, run.folder)
    assert resume_recipe(run.folder, ["checkpoints.every=3"], None).optimizer.learning_rate == RATES
    for override in ("optimizer.learning_rate=1e-3", "steps=9", "validation.every=5"):
        with pytest.raises(UsageError, match=r"while its learning rate is being chosen: only checkpoints, evaluation"):
            resume_recipe(run.folder, [override], None)


def test_a_run_with_a_learning_rate_cannot_search_for_one(make_run):
    run = make_run("run", "validation={triplets: 0.2}")
    write_recipe(run.recipe, run.folder)
    with pytest.raises(UsageError, match=r"has a learning rate \(0\.001\), so it cannot search for one: start a new"):
        resume_recipe(run.folder, ["optimizer.learning_rate=auto"], None)


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        ("often", "optimizer.learning_rate: input should be a valid number, unable to parse"),
        ("[1e-3]", "optimizer.learning_rate: list should have at least 2 items"),
        ("[1e-3,-1]", "optimizer.learning_rate.1: input should be greater than 0, found -1"),
        ("[1e-3,1e-3]", "optimizer.learning_rate: expected auto, a number, or several, found one several times"),
        ("-1", "optimizer.learning_rate: input should be greater than 0, found -1"),
        (".inf", "optimizer.learning_rate: input should be a finite number"),
    ],
)
def test_learning_rates_that_are_refused(recipe_file, rate, message):
    with pytest.raises(UsageError) as error:
        read_recipe(recipe_file, [f"optimizer.learning_rate={rate}"])
    assert message in str(error.value)


def test_triplets_are_held_out_for_a_search_by_default(recipe_file, tmp_path):
    for rate, read in (("auto", "auto"), ("[1e-2,1e-4]", [1e-4, 1e-2])):
        recipe = read_recipe(recipe_file, [f"optimizer.learning_rate={rate}"])
        assert recipe.optimizer == Optimizer(learning_rate=read)
        assert recipe.optimizer.is_searched
        assert (recipe.validation.triplets, recipe.validation.select) == (0.1, "recall_at_1")
        write_recipe(recipe, tmp_path / "run")
        assert read_recipe(tmp_path / "run/recipe.yaml") == recipe
    assert read_recipe(recipe_file).validation is None
    given = read_recipe(recipe_file, ["optimizer.learning_rate=auto", "validation={triplets: 0.3}"])
    assert given.validation.triplets == 0.3
