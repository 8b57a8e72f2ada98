"""`rtd-plugin recipes`."""

import json

import pytest

from rtd_plugin.contract import plugins


@pytest.fixture
def shipped(files, monkeypatch):
    """Plugins that ship tiny.yaml alone, under the name `tiny`."""
    found = {"tiny": files / "tiny.yaml"}
    monkeypatch.setattr(plugins, "list_recipes", lambda: found)
    return found


def test_list(rtd, shipped):
    assert rtd("recipes").stdout.splitlines()[3] == "│ tiny   │ lincir  │ model.json │ 6     │"
    assert json.loads(rtd("recipes", "--json").stdout) == {"recipes": ["tiny"]}


def test_show(rtd, shipped):
    assert rtd("recipes", "tiny").stdout == shipped["tiny"].read_text()
    shown = json.loads(rtd("recipes", "tiny", "--json").stdout)
    assert shown["name"] == "tiny"
    assert shown["recipe"]["backbone"] == {"model": "model.json", "checkpoint": "clip.pt"}


def test_unknown(rtd, shipped):
    done = rtd("recipes", "tinny")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "there is no recipe 'tinny': installed are tiny" in done.stderr


@pytest.mark.parametrize("text", ["a: [1", "- 1", ""])
@pytest.mark.parametrize("args", [(), ("broken",), ("broken", "--json")])
def test_broken(rtd, shipped, tmp_path, text, args):
    shipped["broken"] = tmp_path / "broken.yaml"
    shipped["broken"].write_text(text)
    done = rtd("recipes", *args)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Error: {tmp_path}/broken.yaml")
    assert ": not a recipe" in done.stderr or ", line 1: not YAML" in done.stderr
    assert done.stderr.count("\n") == 1
