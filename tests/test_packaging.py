"""The installed packages, their data and entry points, under names that do not clash with other packages."""

import re
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import rtd_adapters
import rtd_recipes

ROOT = Path(__file__).parents[1]
PACKAGES = {"rtd_plugin": "rtd_plugin", "adapters": "rtd_adapters", "recipes": "rtd_recipes"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy of the tree, without the files of earlier builds."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_installs_three_packages(contents):
    """Not `adapters`, which is a package on PyPI, nor `recipes` or `tests`."""
    top = {name.split("/")[0] for name in contents}
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES.values())


def test_every_module_is_in_the_wheel(contents):
    """Packages are listed by hand in pyproject.toml: the list is complete."""
    modules = {
        f"{PACKAGES[path.relative_to(ROOT).parts[0]]}/{path.relative_to(ROOT / path.relative_to(ROOT).parts[0])}"
        for folder in PACKAGES
        for path in (ROOT / folder).rglob("*.py")
    }
    assert len(modules) > 30
    assert modules <= contents.keys()


def test_every_data_file_of_the_core_is_in_the_wheel(contents):
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rtd_plugin").rglob("*.*") if path.is_file()}
    data = {file for file in files if "__pycache__" not in file}
    assert {f"rtd_plugin/miniature/{name}phrasings.yaml" for name in ("", "independent_")} <= data
    assert data <= contents.keys()


def test_every_recipe_and_its_files_are_in_the_wheel(contents):
    data = {
        f"rtd_recipes/{path.relative_to(ROOT / 'recipes')}"
        for suffix in ("yaml", "json", "safetensors", "md")
        for path in (ROOT / "recipes").rglob(f"*.{suffix}")
    }
    assert {Path(name).suffix for name in data} >= {".yaml", ".json", ".safetensors"}
    assert data <= contents.keys()


def test_entry_points_name_modules_of_the_wheel(contents):
    (file,) = (name for name in contents if name.endswith("entry_points.txt"))
    points = ConfigParser()
    points.read_string(contents[file].decode())
    assert dict(points["console_scripts"]) == {"rtd-plugin": "rtd_plugin.cli.main:main"}
    for module in points["rtd_plugin"].values():
        assert f"{module.replace('.', '/')}.py" in contents or f"{module.replace('.', '/')}/__init__.py" in contents
    installed = {point.name: point.value for point in entry_points(group="rtd_plugin")}
    assert dict(points["rtd_plugin"]).items() <= installed.items()


def test_the_wheel_is_small_and_has_the_license(wheel, contents):
    assert wheel.stat().st_size < 10e6
    assert any(name.endswith("/licenses/LICENSE") for name in contents)


def test_the_metadata_states_python_version_and_license(contents):
    (file,) = (name for name in contents if name.endswith(".dist-info/METADATA"))
    metadata = contents[file].decode()
    assert re.search(r"^Requires-Python: >=3\.10$", metadata, re.M)
    assert "License-Expression: Apache-2.0" in metadata


def test_the_tree_has_the_import_names_of_the_wheel():
    """An editable installation maps adapters/ and recipes/ to them."""
    for module, name in ((rtd_adapters, "rtd_adapters"), (rtd_recipes, "rtd_recipes")):
        assert module.__name__ == name
        assert Path(module.__file__).name == "__init__.py"


@pytest.mark.slow
def test_the_installed_wheel_runs(wheel, tmp_path):
    """Imported from the unpacked wheel, not from this tree, it finds its adapters and recipes."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import rtd_plugin, rtd_recipes; print(rtd_plugin.__file__, rtd_recipes.__file__)\n"
        "from rtd_plugin.cli.main import main; main(['recipes', 'lincir-miniature'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n{code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    files, *recipe = done.stdout.splitlines()
    assert all(Path(file).is_relative_to(tmp_path / "site") for file in files.split())
    assert "adapter: lincir" in recipe
