"""`rtd-plugin push` and `hf://…` against a stand-in for the Hub, in processes of their own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hub_server import TOKEN, run_hub

from rtd_plugin.cli.main import main
from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.hub import find_run
from rtd_plugin.workflows.push import shorten_recipe

pytestmark = pytest.mark.slow
FIND = "import sys; from rtd_plugin.hub import find_run; print(find_run(sys.argv[1]))"
FILES = {"README.md", "metrics.jsonl", "recipe.yaml", "text_encoder.safetensors"}


@pytest.fixture
def hub():
    with run_hub() as hub:
        yield hub


@pytest.fixture
def call(hub, tmp_path):
    """Runs Python or the command line with the Hub's address; returns what it printed, checked for the token."""

    def call(*args, code=0, token=TOKEN, **variables):
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            **{"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"},
            **({"HF_TOKEN": token} if token else {}),
            **variables,
        }
        command = [sys.executable, *args] if args[0] == "-c" else [sys.executable, "-m", "rtd_plugin", *args]
        done = subprocess.run(
            list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    return call


def test_a_run_comes_back_as_it_went(call, hub, finished_run, tmp_path):
    """The same bytes, but for the recipe, which names files without their folders; used by evaluate."""
    pushed = json.loads(call("push", finished_run, "me/tuned", "--private", "--json"))
    assert set(pushed["files"]) == FILES
    assert pushed["weights"] == f"hf://me/tuned@{pushed['commit']}"
    assert hub.repositories["me/tuned"].private
    folder = Path(call("-c", FIND, "hf://me/tuned").strip())
    for name in FILES - {"recipe.yaml"}:
        assert (folder / name).read_bytes() == (finished_run / name).read_bytes()
    values = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert str(finished_run.parent) not in (folder / "recipe.yaml").read_text()
    assert values["projection"] == "phi.pt"
    assert values["steps"] == yaml.safe_load((finished_run / "recipe.yaml").read_text())["steps"]
    load = "import sys, rtd_plugin; print(rtd_plugin.load_text_encoder(sys.argv[1]).features)"
    assert call("-c", load, pushed["weights"]) == call("-c", load, str(finished_run))
    exported = call("export", "hf://me/tuned", "--layout", "huggingface", "exported.safetensors")
    assert "exported.safetensors" in exported
    # Without a token, a private repository cannot be seen.
    message = call("-c", FIND, "hf://me/tuned", code=1, token=None, HF_HOME=str(tmp_path / "elsewhere"))
    assert "hf://me/tuned: no such repository, or not for you" in message


def test_the_cache_serves_without_the_hub(call, hub, finished_run):
    call("push", finished_run, "me/tuned")
    call("-c", FIND, "hf://me/tuned")
    hub.requests.clear()
    call("export", "hf://me/tuned", "--layout", "rtd", "tuned.pt", HF_HUB_OFFLINE="1")
    assert hub.requests == []
    call("-c", FIND, "hf://me/tuned", HF_ENDPOINT="http://127.0.0.1:9")  # where nothing listens
    message = call("-c", FIND, "hf://me/another", code=1, HF_HUB_OFFLINE="1")
    assert "hf://me/another: not in the cache, and the Hub cannot be reached" in message


def test_revisions(call, hub, finished_run, tmp_path):
    first = json.loads(call("push", finished_run, "me/tuned", "--json"))
    changed = shutil.copytree(finished_run, tmp_path / "changed")
    (changed / "README.md").write_text("---\nlicense: apache-2.0\n---\nAn edited card.\n")
    shown = call("push", changed, "me/tuned", "--revision", "licensed")
    assert "The model card states no license" not in shown
    repository = hub.repositories["me/tuned"]
    assert repository.branches["main"] == first["commit"] != repository.branches["licensed"]
    find = "import sys; from rtd_plugin.hub import find_run; print((find_run(sys.argv[1]) / 'README.md').read_text())"
    assert "An edited card." in call("-c", find, "hf://me/tuned@licensed")
    assert "An edited card." not in call("-c", find, f"hf://me/tuned@{first['commit']}")
    export = ("export", "hf://me/tuned@nowhere", "--layout", "rtd", "a.pt")
    assert "hf://me/tuned: no such revision" in call(*export, code=1)


def test_a_run_with_its_projection_works_by_itself(call, finished_run, tmp_path):
    pushed = json.loads(call("push", finished_run, "me/whole", "--with-projection", "--json"))
    assert set(pushed["files"]) == {*FILES, "phi.pt"}
    find = "import sys; from rtd_plugin.hub import find_run; print(find_run(sys.argv[1]).joinpath('phi.pt').exists())"
    assert call("-c", find, "hf://me/whole") == "True\n"


def test_a_private_upload_to_a_public_repository_is_refused(call, hub, finished_run):
    call("push", finished_run, "me/tuned")
    commits = len(hub.repositories["me/tuned"].commits)
    message = call("push", finished_run, "me/tuned", "--private", code=2)
    assert "me/tuned: is public already" in message
    assert len(hub.repositories["me/tuned"].commits) == commits


def test_a_hub_that_cannot_be_reached_is_named(call, finished_run):
    message = call("push", finished_run, "me/tuned", code=1, HF_ENDPOINT="http://127.0.0.1:9")
    assert message.splitlines()[-1].startswith("Error: hf://me/tuned: ")


def test_a_wrong_token_is_not_printed(call, finished_run):
    message = call("push", finished_run, "me/tuned", code=1, token="hf_aWrongTokenThatNobodyKnows")
    assert "hf://me/tuned: " in message
    assert "aWrongToken" not in message


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["push", ".", "me/tuned"], "not a run's folder: it has no recipe.yaml"),
        (["push", "RUN", "tuned"], "tuned: expected USER/NAME"),
        (["evaluate", "--benchmark", "miniature", "--weights", "hf://tuned"], "expected hf://USER/NAME"),
    ],
)
def test_wrong_names_are_refused_before_anything_is_sent(finished_run, args, says, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, [str(finished_run) if arg == "RUN" else arg for arg in args])
    assert done.exit_code in (1, 2)
    assert says in done.stderr


def test_paths_of_this_machine_are_left_out(finished_run):
    recipe, projections = shorten_recipe(finished_run)
    assert b"/" not in recipe.replace(b"://", b"")
    assert [path.name for path in projections] == ["phi.pt"]


def test_a_path_is_a_path():
    assert find_run("runs/hf") == Path("runs/hf")
    assert find_run(Path("hf")) == Path("hf")
    with pytest.raises(UsageError, match="expected hf://USER/NAME"):
        find_run("hf://a/b/c")
    with pytest.raises(RTDError):
        find_run(Path("hf://a"))
