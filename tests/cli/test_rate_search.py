"""`rtd-plugin train` that chooses its learning rate: what it prints and writes, kills, and several processes."""

import json
import re
import signal
import socket

import pytest
import yaml
from safetensors.torch import load_file

import rtd_plugin

RATES = [1e-4, 1e-3, 1e-2]


@pytest.fixture
def options(files):
    settings = (f"optimizer.learning_rate={RATES}", "validation={triplets: 0.25, every: 100}", "steps=8")
    return ("--recipe", files / "tiny.yaml", *(word for text in settings for word in ("--set", text)))


def read_results(run):
    return json.loads((run / "results.json").read_text())


def same_weights(one, other):
    one, other = (load_file(run / "text_encoder.safetensors") for run in (one, other))
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def strip_times(results):
    return {key: value for key, value in results.items() if key not in ("seconds", "run", "text_encoder", "report")}


def test_train_shows_the_search_and_whether_tuning_helps(rtd, options, tmp_path):
    done = rtd("train", *options, "--output", "run")
    assert done.exit_code == 0, done.stderr
    assert "Searching for a learning rate 10/10" in done.stderr
    results = read_results(tmp_path / "run")
    search, chosen = results["search"], results["search"]["learning_rate"]
    assert [(trial["learning_rate"], trial["steps"]) for trial in search["trials"][:3]] == [(rate, 2) for rate in RATES]
    assert yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())["optimizer"]["learning_rate"] == chosen
    table = done.stdout[: done.stdout.index("Wrote")]
    assert f"R@1 in percent by learning rate, {search['before']:.1f} before" in table
    assert re.search(rf"│ {chosen:g} \(chosen\) +│ +\d+\.\d │ +\d+\.\d │", table)
    assert "Wrote run/report.html.\n" in done.stdout
    assert results["verdict"] in done.stdout + done.stderr
    page = (tmp_path / "run/report.html").read_text()
    assert results["verdict"] in page
    assert f"<td>{chosen:g} (chosen)</td>" in page
    assert page.count('<polyline class="curve"') == 3
    card = (tmp_path / "run/README.md").read_text()
    assert "The learning rate was chosen among 0.0001, 0.001 and 0.01, by the validation below." in card


def test_python_and_the_command_line_search_alike(rtd, files, options, tmp_path):
    done = rtd("train", *options, "--json", "--output", "run")
    overrides = [text for text in map(str, options) if "=" in text]
    result = rtd_plugin.train(files / "tiny.yaml", overrides=overrides, output=tmp_path / "python")
    assert strip_times(result.to_dict()) == strip_times(json.loads(done.stdout))
    assert same_weights(tmp_path / "run", tmp_path / "python")


def test_train_with_the_chosen_rate_gives_the_same_encoder(rtd, options, tmp_path):
    rtd("train", *options, "--output", "run")
    done = rtd("train", "--recipe", "run/recipe.yaml", "--output", "again")
    assert done.exit_code == 0, done.stderr
    assert same_weights(tmp_path / "run", tmp_path / "again")
    again = read_results(tmp_path / "again")
    assert again["search"] is None
    assert again["validation"] == read_results(tmp_path / "run")["validation"]


def test_a_searched_run_resumes_and_extends(rtd, options, tmp_path):
    rtd("train", *options, "--output", "run")
    done = rtd("train", "--resume", "--output", "run", "--set", "steps=10")
    assert done.exit_code == 0, done.stderr
    assert "Searching" not in done.stderr
    results = read_results(tmp_path / "run")
    assert results["search"]["learning_rate"] in RATES
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) > 10


def test_a_search_without_a_gain_ends_with_other_advice(rtd, options):
    done = rtd("train", *options, "--set", "optimizer.learning_rate=[1e-13,1e-12]", "--output", "run")
    assert "Tuning is not shown to help" in done.stderr
    assert "No gain is shown" in done.stdout
    assert "learning_rate=auto" not in done.stdout


@pytest.mark.parametrize(
    ("event", "moment"),
    [
        ("os.rename", "run/recipe.yaml"),
        ("os.rename", "search/0.001/metrics.jsonl"),
        ("os.rename", "search/0.0001/checkpoints/step-000002"),
        ("os.rename", "search/search.json"),
        ("shutil.rmtree", "search/0.0001/checkpoints"),
        ("os.rename", "run/metrics.jsonl"),
        ("os.rename", "run/checkpoints"),
        ("os.rename", "run/results.json"),
    ],
)
def test_a_killed_search_resumes(rtd, start, options, tmp_path, event, moment):
    process = start("train", *options, "--output", "run", signal_at=(event, moment, signal.SIGKILL))
    process.join()
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "output.txt").read_text()
    assert not (tmp_path / "run/results.json").exists()
    assert rtd("train", *options, "--output", "whole").exit_code == 0
    done = rtd("train", *options, "--output", "run", "--resume")
    assert done.exit_code == 0, done.stderr
    assert same_weights(tmp_path / "run", tmp_path / "whole")
    assert strip_times(read_results(tmp_path / "run")) == strip_times(read_results(tmp_path / "whole"))


def test_an_interrupted_search_says_how_to_go_on(rtd, start, options, tmp_path):
    process = start(
        "train", *options, "--output", "run", signal_at=("os.rename", "search/0.001/checkpoints/step", signal.SIGINT)
    )
    process.join()
    output = (tmp_path / "output.txt").read_text()
    assert process.exitcode == 1
    assert (
        "interrupted in the search for a learning rate, with 0.001; run can resume: "
        "rtd-plugin train --resume --output run\n"
    ) in output
    assert rtd("train", "--resume", "--output", "run").exit_code == 0
    assert rtd("train", *options, "--output", "whole").exit_code == 0
    assert same_weights(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_search(start, rtd, options, tmp_path):
    """Both train each trial, the first decides; killed, they go on, and so does a single process."""

    def both(*args, signal_at=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        shared = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        main, helper = (shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01")
        processes = [
            start("train", *args, environment=main, signal_at=signal_at),
            start("train", *args, environment=helper),
        ]
        processes[0].join()
        if signal_at is not None:
            processes[1].kill()
        processes[1].join()
        return [process.exitcode for process in processes]

    assert both(*options, "--output", "whole") == [0, 0], (tmp_path / "output.txt").read_text()
    moment = ("os.rename", "search/0.001/checkpoints/step-000002", signal.SIGKILL)
    assert both(*options, "--output", "run", signal_at=moment)[0] == -signal.SIGKILL
    assert json.loads((tmp_path / "run/search/search.json").read_text())["processes"] == 2
    assert both("--resume", "--output", "run") == [0, 0]
    assert same_weights(tmp_path / "run", tmp_path / "whole")
    assert strip_times(read_results(tmp_path / "run")) == strip_times(read_results(tmp_path / "whole"))
