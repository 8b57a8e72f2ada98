"""The documentation: the site builds, and its lists match the code."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
API_MODULES = ("rtd_plugin", "rtd_plugin.contract", "rtd_plugin.testing")


def test_the_site_builds_without_a_warning(tmp_path):
    """With every page in the navigation and every link's target on a page; without a network."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "rtd-plugin train --adapter lincir" in page
    assert not re.search(r'<(?:link|script)[^>]+(?:href|src)="(?:https?:)?//', page), "the page loads from a network"


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS.glob("*.md"):
        assert f": {page.name}\n" in navigation


def test_environment_variables_are_listed():
    """Each `RTD_PLUGIN_` variable that the source names has a row in the table, and no other has."""
    source = [path for folder in ("rtd_plugin", "adapters", "recipes") for path in (ROOT / folder).rglob("*")]
    texts = [
        path.read_text(encoding="utf-8") for path in source if path.suffix in (".py", ".fish", "") and path.is_file()
    ]
    used = set(re.findall(r"RTD_PLUGIN_[A-Z_]+", "".join(texts)))
    rows = [line for line in (DOCS / "environment.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    listed = {name for row in rows for name in re.findall(r"`(RTD_PLUGIN_[A-Z_]+)`", row.split("|")[1])}
    assert len(used) > 4
    assert listed == used


@pytest.mark.parametrize("module", API_MODULES)
def test_public_names_are_listed(module):
    """`docs/api.md` has a row for each name of `__all__`, and for no other."""
    rows = re.findall(r"^\| `([\w.]+)\.(\w+)[`(]", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = [name for prefix, name in rows if prefix == module]
    assert sorted(listed) == sorted(importlib.import_module(module).__all__)
    for name in listed:
        assert getattr(importlib.import_module(module), name).__doc__ or name == "hookimpl"


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md", "README.md", "SECURITY.md"])
def test_files_that_a_page_names_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    paths = re.findall(r"`((?:rtd_plugin|adapters|recipes|tests|docs)/[\w./-]*)`", text)
    names = {
        path.name for folder in ("rtd_plugin", "adapters", "tests", "docs") for path in (ROOT / folder).rglob("*.py")
    }
    missing_names = set(re.findall(r"`(\w+\.py)`", text)) - names
    links = re.findall(r"\]\(([\w./-]+)(?:#[\w-]*)?\)", text)
    missing = {path for path in paths if "NAME" not in path and not (ROOT / path).exists()}
    missing |= {link for link in links if not (ROOT / page).parent.joinpath(link).exists()}
    assert not missing | missing_names
    assert paths or links


def test_code_that_a_page_names_exists():
    """`module.name` in the table of docs/architecture.md: a rename in the code needs a rename in the table."""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    names = re.findall(r"`(rtd_plugin/[\w/]+)\.py`: ((?:`\w+`(?:, )?)+)", text)
    assert len(names) > 10
    for path, listed in names:
        module = importlib.import_module(path.replace("/", "."))
        for name in re.findall(r"`(\w+)`", listed):
            assert hasattr(module, name), f"{path}.py has no {name}"


def test_messages_in_troubleshooting_are_in_the_source():
    """The words in backticks of each heading appear in a message."""
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### .*`(.+)`", text, re.MULTILINE)
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "rtd_plugin").rglob("*.py"))
    source = re.sub(r'"\s+f?"', "", source)  # strings that go on in the next line
    assert len(headings) > 8
    for heading in headings:
        for part in heading.split(" … "):
            assert part in source, f"no message says {part!r}"
