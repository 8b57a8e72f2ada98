"""Hosts are recognised by their composition points, from their sources alone."""

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from rtd_plugin.contract import plugins
from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.contract.composition import CompositionPoint
from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.patching.detection import LARGEST_SOURCE, find_host
from rtd_plugin.patching.doctor import find_missing_packages

HOSTS = Path(__file__).parent / "hosts"


def find(folder, *names):
    chosen = [plugins.find_adapter(name) for name in names] or plugins.list_adapters().values()
    return find_host(folder, chosen)


POINTS = {
    "searle": ["src/encode_with_pseudo_tokens.py"],
    "lincir": ["encode_with_pseudo_tokens.py", "genecis/eval_functions.py"],
    "pic2word": ["model/model.py", "model/model.py"],
}


@pytest.mark.parametrize("name", POINTS)
def test_a_host_is_recognised_under_any_name(copy_host, name):
    recognised = find(copy_host(name))
    assert recognised.adapter.name == name
    assert [point.point.file for point in recognised.points] == POINTS[name]
    assert recognised.commit is None
    for point in recognised.points:
        line = (recognised.root / point.point.file).read_text().splitlines()[point.line - 1]
        assert line.lstrip().startswith(f"def {point.point.name.split('.')[-1]}(")


@pytest.mark.parametrize(("name", "folder"), [("searle", "src"), ("lincir", "genecis/datasets"), ("pic2word", "model")])
def test_any_folder_of_a_host_may_be_given(copy_host, name, folder):
    root = copy_host(name)
    recognised = find(root / folder)
    assert recognised.root == root.resolve()
    assert [point.point.file for point in recognised.points] == POINTS[name]


def test_git_ends_the_search_and_gives_the_commit(copy_host):
    root = copy_host("lincir")
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=x", "-c", "user.email=x", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", root, *command], check=True)
    head = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    assert find(root / "genecis").commit == head.strip()
    (root / "inner/.git").mkdir(parents=True)
    with pytest.raises(RTDError, match="not a host of"):
        find(root / "inner")


def test_a_checkout_need_not_have_every_point(copy_host):
    root = copy_host("lincir")
    shutil.rmtree(root / "genecis")
    assert [point.point.file for point in find(root).points] == ["encode_with_pseudo_tokens.py"]


def test_nothing_of_the_host_runs(copy_host):
    root = copy_host("searle")
    file = root / "src/encode_with_pseudo_tokens.py"
    file.write_text(f"raise RuntimeError\nif True:\n    import nothing\n{file.read_text()}")
    assert find(root).points[0].line > 8


def test_a_folder_that_is_not_a_host_is_refused(copy_host, tmp_path):
    root = copy_host("searle")
    file = root / "src/encode_with_pseudo_tokens.py"
    file.write_text(file.read_text().replace("def encode_with_pseudo_tokens(", "def encode("))
    with pytest.raises(RTDError) as error:
        find(root)
    message = str(error.value)
    assert "not a host of lincir, pic2word, searle: looked for" in message
    assert "encode_with_pseudo_tokens in src/encode_with_pseudo_tokens.py" in message
    assert f"found {file} has encode" in message
    (tmp_path / "empty").mkdir()
    with pytest.raises(RTDError, match=r"CLIP\.encode_text_img_retrieval in model/model\.py.*found none of these"):
        find(tmp_path / "empty", "pic2word")
    with pytest.raises(RTDError, match="no such folder"):
        find(tmp_path / "none")
    with pytest.raises(RTDError, match="a file, not the folder of a host"):
        find(file)


@pytest.mark.parametrize(
    ("parameters", "shown"),
    [
        ("clip_model, text, pseudo_tokens", "(clip_model, text, pseudo_tokens)"),
        ("clip_model, text, pseudo_tokens, num_tokens: int = 2", "(clip_model, text, pseudo_tokens, num_tokens=2)"),
        ("clip_model, tokens, pseudo_tokens, num_tokens=1", "(clip_model, tokens, pseudo_tokens, num_tokens=1)"),
        ("clip_model, /, *texts, num_tokens=N + 1, **more", "(clip_model, /, *texts, num_tokens=N + 1, **more)"),
    ],
)
def test_a_host_with_another_signature_is_refused(copy_host, parameters, shown):
    root = copy_host("searle")
    (root / "src/encode_with_pseudo_tokens.py").write_text(f"\ndef encode_with_pseudo_tokens({parameters}): ...\n")
    with pytest.raises(RTDError) as error:
        find(root)
    assert "line 2: encode_with_pseudo_tokens has another signature" in str(error.value)
    assert "looked for encode_with_pseudo_tokens(clip_model, text, pseudo_tokens, num_tokens=1)" in str(error.value)
    assert f"found encode_with_pseudo_tokens{shown}. A fork" in str(error.value)


def test_annotations_make_no_difference(copy_host):
    root = copy_host("searle")
    parameters = "clip_model: X, text: 'Y', pseudo_tokens, num_tokens: int=1"
    text = f"async def other(): ...\ndef encode_with_pseudo_tokens({parameters}) -> Z: ..."
    (root / "src/encode_with_pseudo_tokens.py").write_text(text)
    assert find(root).adapter.name == "searle"


def test_a_broken_source_is_refused(copy_host):
    root = copy_host("searle")
    (root / "src/encode_with_pseudo_tokens.py").write_text("def (")
    with pytest.raises(RTDError, match=r"encode_with_pseudo_tokens\.py: not readable as Python source"):
        find(root)


def test_deeply_nested_source_is_read_or_refused(copy_host):
    root = copy_host("searle")
    file = root / "src/encode_with_pseudo_tokens.py"
    source = file.read_text()
    file.write_text("if a: pass\n" + "elif a: pass\n" * 900 + "else:\n    import no_such_package\n" + source)
    assert find(root).adapter.name == "searle"
    assert list(find_missing_packages(root)) == ["no_such_package"]
    default = "-" * 700 + "1"
    file.write_text(f"def encode_with_pseudo_tokens(clip_model, text={default}): ...\n")
    with pytest.raises(RTDError, match=r"too deeply|has another signature"):
        find(root)
    file.write_text("x = " + "-" * 200_000 + "1")
    with pytest.raises(RTDError, match="not readable as Python source"):
        find(root)


def test_a_host_of_several_methods_needs_an_adapter_name(copy_host):
    root = copy_host("searle")
    (root / "model").mkdir()
    shutil.copy(copy_host("pic2word") / "model/model.py", root / "model")
    with pytest.raises(UsageError, match=r"several methods: pic2word \(model/model.py.*searle .*Pass --adapter NAME"):
        find(root)
    assert find(root, "searle").adapter.name == "searle"


def test_only_the_given_adapters_are_looked_for(copy_host, tmp_path):
    """Adapters without composition points are skipped."""
    (tmp_path / "fork/lib").mkdir(parents=True)
    (tmp_path / "fork/lib/fuse.py").write_text("class A:\n    class B:\n        def fuse(self, x, *, y=None): ...\n")

    def read(self, x, *, y=None): ...

    class Other(type(plugins.find_adapter("lincir"))):
        name = "other"
        composition_points = (CompositionPoint("lib/fuse.py", ("fuse",), "A.B.fuse", read),)

    class Without(type(plugins.find_adapter("lincir"))):
        name = "without"
        composition_points = ()

    adapters: Iterable[Adapter] = [Without(), Other()]
    assert find_host(tmp_path / "fork", adapters).points[0].line == 3
    with pytest.raises(RTDError, match="not a host of other"):
        find_host(copy_host("searle"), adapters)


def test_shims_of_functions_that_a_host_lacks_are_left_out(copy_host):
    root = copy_host("pic2word")
    names = [shim.name for shim in find(root).shims]
    assert names == ["distributed", "gallery-names", "swallowed-errors"]
    (root / "src/params.py").unlink()
    assert [shim.name for shim in find(root).shims] == ["gallery-names"]
    assert [shim.name for shim in find(copy_host("lincir")).shims] == ["causal-mask"]


def test_a_pipe_is_not_a_source(copy_host):
    """Nothing is read from it, which would wait for a writer."""
    root = copy_host("searle")
    os.mkfifo(root / "src/pipe.py")
    (root / "src/other.py").write_text("import no_such_package\n")
    assert find_missing_packages(root) == {"no_such_package": ["src/other.py"]}
    (root / "src/encode_with_pseudo_tokens.py").unlink()
    os.mkfifo(root / "src/encode_with_pseudo_tokens.py")
    with pytest.raises(RTDError, match="not a host of searle"):
        find(root, "searle")


def test_a_huge_source_is_refused(copy_host):
    root = copy_host("searle")
    with (root / "src/encode_with_pseudo_tokens.py").open("r+") as file:
        file.truncate(3 * 2**30)  # a file with a hole, which takes no disk
    assert LARGEST_SOURCE < 2**25
    with pytest.raises(RTDError, match=r"encode_with_pseudo_tokens\.py: larger than 4 MiB, not read as Python source"):
        find(root)
    assert find_missing_packages(root) == {}


def make_relative(**attributes):
    """An adapter that reads the hosts of Pic2Word too."""
    return type("Relative", (type(plugins.find_adapter("pic2word")),), {"name": "relative", **attributes})()


def test_a_host_below_the_folder_is_found(copy_host, tmp_path):
    """As in a repository whose code is in src."""
    root = copy_host("pic2word")
    (tmp_path / "repository").mkdir()
    root.rename(tmp_path / "repository/src")
    (tmp_path / "repository/.git").mkdir()
    for folder in ("repository", "repository/src", "repository/src/model"):
        assert find(tmp_path / folder).root == tmp_path / "repository/src"
    (tmp_path / "many/below").mkdir(parents=True)
    shutil.copytree(tmp_path / "repository", tmp_path / "many/a")
    assert find(tmp_path / "many").root == tmp_path / "many/a/src"
    shutil.copytree(HOSTS / "searle", tmp_path / "many/b")
    with pytest.raises(
        UsageError, match=r"several hosts in it, .*/many/b \(searle\), .*/many/a/src \(pic2word\): pass"
    ):
        find(tmp_path / "many")
    assert find(tmp_path / "many", "searle").root == tmp_path / "many/b"


def test_a_hidden_or_deep_folder_is_not_looked_into(copy_host, tmp_path):
    root = copy_host("pic2word")
    for place in (".cache/copy", "a/b/c"):
        shutil.copytree(root, tmp_path / "other" / place)
    with pytest.raises(RTDError, match="not a host of"):
        find(tmp_path / "other")


def test_the_adapter_with_the_most_markers_is_used(copy_host):
    pic2word = plugins.find_adapter("pic2word")
    root = copy_host("pic2word")
    marked = make_relative(markers={"src/fusion.py": "class Fusion"})
    assert find_host(root, [pic2word, marked]).adapter.name == "pic2word"
    (root / "src/fusion.py").write_text("class Other: ...\n")
    assert find_host(root, [pic2word, marked]).adapter.name == "pic2word"
    (root / "src/fusion.py").write_text("class Fusion: ...\n")
    assert find_host(root / "model", [pic2word, marked]).adapter.name == "relative"
    more = make_relative(name="more", markers={"src/fusion.py": "class Fusion", "model/model.py": "CLIP"})
    assert find_host(root, [more, pic2word, marked]).adapter.name == "more"


def test_two_adapters_with_equal_claims_are_a_question(copy_host):
    markers = {"model/model.py": "CLIP"}
    pair = [make_relative(name="one", markers=markers), make_relative(name="two", markers=markers)]
    with pytest.raises(UsageError, match=r"several methods: one \(.*two \(.*Pass --adapter NAME"):
        find_host(copy_host("pic2word"), [plugins.find_adapter("pic2word"), *pair])


def test_an_adapter_that_is_named_needs_no_markers(copy_host):
    assert find_host(copy_host("pic2word"), [make_relative(markers={"none.py": ""})]).adapter.name == "relative"
