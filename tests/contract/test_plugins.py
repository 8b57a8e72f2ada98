"""Plugins are found, checked and reported by name; the core knows none; imports run one way."""

import ast
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

import rtd_plugin
from rtd_plugin import contract
from rtd_plugin.cli.main import main
from rtd_plugin.contract import Adapter, Prompt, hookimpl, plugins
from rtd_plugin.contract.recipe_files import RecipeFile
from rtd_plugin.errors import RTDError, UsageError

SOURCE = Path(rtd_plugin.__file__).parent
# Each may import those to its left, and the modules of the package's root. Evaluation stands before training, because
# validation is evaluation at intervals. Generation is a plugin, whose commands use helpers of the command line.
ORDER = [
    "clip",
    "contract",
    "testing",
    "triplets",
    "phrasing",
    "evaluation",
    "search",
    "serving",
    "training",
    "engine",
    "patching",
    "miniature",
    "workflows",
    "cli",
    "generation",
]


@pytest.fixture
def install(monkeypatch):
    """Replaces the installed plugins: `install(name=plugin)`, the plugin an object or an exception to raise."""
    installed = []

    def install(*pairs, **named):
        installed.extend([*pairs, *named.items()])
        plugins.get_plugin_manager.cache_clear()

    def entry_points(group):
        assert group == "rtd_plugin"
        return [
            SimpleNamespace(
                name=name,
                value=f"{name}_module",
                dist=SimpleNamespace(name=f"package-{number}", version="1.0"),
                load=lambda p=p: load(p),
            )
            for number, (name, p) in enumerate(installed, 1)
        ]

    def load(plugin):
        if isinstance(plugin, Exception):
            raise plugin
        return plugin

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    plugins.get_plugin_manager.cache_clear()
    yield install
    plugins.get_plugin_manager.cache_clear()


def registering(*adapters):
    class Plugin:
        @hookimpl
        def rtd_adapters(self):
            return adapters

    return Plugin()


class Method(Adapter):
    home = "https://example.org"
    prompt = Prompt("a photo of $ that {condition}")
    unconditioned_prompt = Prompt("a photo of $")
    prompt_of_two = Prompt("a photo of $ that {first} and {second}")

    def __init__(self, name):
        self.name = name

    def build_projection(self, state, features, token_width):
        raise NotImplementedError


ONE, TWO = Method("one"), Method("two")


def test_shipped_plugins_are_found():
    assert "lincir" in plugins.list_adapters()
    assert plugins.find_adapter("lincir").name == "lincir"
    assert plugins.find_triplet_source("json").name == "json"


def test_hook_rtd_adapters(install):
    install(first=registering(ONE), second=registering(TWO))
    assert plugins.list_adapters() == {"one": ONE, "two": TWO}
    with pytest.raises(UsageError, match=r"^unknown adapter 'three': installed are one, two$"):
        plugins.find_adapter("three")


def test_no_adapter_is_installed(install):
    install()
    with pytest.raises(UsageError, match="unknown adapter 'one': installed are none"):
        plugins.find_adapter("one")


@pytest.mark.parametrize("value", ["second", " second , ,unknown", "second,broken"])
def test_disabled_plugins_are_left_out(install, monkeypatch, value):
    monkeypatch.setenv("RTD_PLUGIN_DISABLE", value)
    install(first=registering(ONE), second=registering(TWO))
    assert plugins.list_adapters() == {"one": ONE}


def test_a_disabled_plugin_is_not_loaded(install, monkeypatch):
    monkeypatch.setenv("RTD_PLUGIN_DISABLE", "broken")
    install(first=registering(ONE), broken=ImportError("no module named 'x'"))
    assert plugins.list_adapters() == {"one": ONE}


@pytest.mark.parametrize("error", [ImportError("no module named 'x'"), ValueError("what")])
def test_a_plugin_that_cannot_be_loaded_is_named(install, error):
    install(first=registering(ONE), broken=error)
    with pytest.raises(RTDError) as caught:
        plugins.list_adapters()
    assert str(caught.value) == (
        f"the plugin broken (of package-2 1.0) cannot be loaded from broken_module: {type(error).__name__}: {error}. "
        "Leave it out with RTD_PLUGIN_DISABLE=broken"
    )


def test_an_unknown_hook_is_named(install):
    class Plugin:
        @hookimpl
        def rtd_adaptors(self):
            return []

    install(misspelt=Plugin())
    with pytest.raises(
        RTDError, match=r"misspelt \(of package-1 1.0\) does not fit: unknown hook 'rtd_adaptors'"
    ) as error:
        plugins.list_adapters()
    assert "\n" not in str(error.value)


def test_wrong_arguments_are_named(install):
    class Plugin:
        @hookimpl
        def rtd_adapters(self, colour):
            return []

    install(curious=Plugin())
    with pytest.raises(
        RTDError, match=r"curious \(of package-1 1.0\) does not fit: .*'rtd_adapters'.*'colour'"
    ) as error:
        plugins.list_adapters()
    assert "hookimpl definition: rtd_adapters(colour)" in str(error.value)
    assert "\n" not in str(error.value)


def test_two_plugins_of_one_name_are_refused(install):
    install(("same", registering(ONE)), ("same", registering(TWO)))
    with pytest.raises(RTDError, match=r"two plugins are called 'same', one of package-1 1\.0 and one of"):
        plugins.list_adapters()


def test_two_adapters_of_one_name_are_refused(install):
    install(first=registering(ONE), second=registering(TWO, Method("one")))
    with pytest.raises(RTDError, match="two plugins register the adapter 'one': ") as error:
        plugins.list_adapters()
    for origin in ("first (of package-1 1.0)", "second (of package-2 1.0)"):
        assert origin in str(error.value)


def test_hook_rtd_triplet_sources(install):
    class Plugin:
        @hookimpl
        def rtd_triplet_sources(self):
            return [ONE]

    install(mine=Plugin())
    assert plugins.find_triplet_source("one") is ONE
    with pytest.raises(UsageError, match="unknown triplet source 'two': installed are one"):
        plugins.find_triplet_source("two")


def test_hook_rtd_benchmarks(install):
    class Plugin:
        @hookimpl
        def rtd_benchmarks(self):
            return [TWO]

    install(mine=Plugin())
    assert plugins.find_benchmark("two") is TWO
    with pytest.raises(UsageError, match="unknown benchmark 'one': installed are two"):
        plugins.find_benchmark("one")


def test_hook_rtd_commands(install, capsys, caplog):
    @click.command("stamp")
    def stamp():
        """Stamp a page."""
        raise RTDError("the ink is dry")

    @click.command("triplets label")
    def label():
        print("labelled")

    class Plugin:
        @hookimpl
        def rtd_commands(self):
            return [stamp, label]

    def run(*args):
        with pytest.raises(SystemExit) as end:
            main(args)
        return end.value.code or 0, "".join(capsys.readouterr())

    install(mine=Plugin())
    assert run("triplets", "label") == (0, "labelled\n")
    assert run("stamp") == (1, "Error: the ink is dry\n")
    assert re.search(r"recipes .*\n  stamp +Stamp a page\.$", run("--help")[1], re.M)
    assert re.search(r"  check .*\n  label$", run("triplets", "--help")[1], re.M)
    assert run("label")[0] == 2
    install(other=Plugin())
    code, message = run("stamp")
    assert (code, "two plugins register the command 'stamp'" in message) == (1, True)
    code, shown = run("--help")  # help is there when a plugin is broken
    assert (code, "  train " in shown, "stamp " in shown) == (0, True, False)
    assert "two plugins register the command 'stamp'" in shown


def test_hook_rtd_recipe_folders(install, tmp_path):
    class Plugin:
        def __init__(self, folder):
            self.folder = tmp_path / folder
            self.folder.mkdir()
            (self.folder / "quick.yaml").touch()

        @hookimpl
        def rtd_recipe_folders(self):
            return [self.folder]

    install(first=Plugin("a"))
    assert plugins.list_recipes() == {"quick": RecipeFile(tmp_path / "a" / "quick.yaml", "quick")}
    install(second=Plugin("b"))
    with pytest.raises(RTDError, match="two plugins register the recipe 'quick'"):
        plugins.list_recipes()


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda: None, "failed in rtd_adapters: TypeError"),
        (lambda: 1 / 0, "failed in rtd_adapters: ZeroDivisionError: division by zero"),
        (lambda: (1 / 0 for _ in "a"), "failed in rtd_adapters: ZeroDivisionError: division by zero"),
        (lambda: [object()], "registers <object .*> as adapter, but it is not an instance of rtd_plugin"),
        (lambda: [Method], r"registers <class .*> as adapter, but it is a class: return an instance, Method\(\)"),
        (
            lambda: [type("Bare", (Method,), {"prompt": property()})("bare")],
            "registers .* its class sets no prompt",
        ),
        (
            lambda: [type("Text", (Method,), {"prompt": "a $ {condition}"})("x")],
            "registers .* its prompt is not a Prompt",
        ),
        (
            lambda: [type("NoComma", (Method,), {"training_files": ("train.py")})("x")],
            "registers .* its training_files is not a tuple: a tuple of one needs a comma",
        ),
        (
            lambda: [type("NoComma", (Method,), {"composition_points": (object())})("x")],
            "registers .* its composition_points is not a tuple: a tuple of one needs a comma",
        ),
    ],
)
def test_hooks_that_fail_are_named(install, returned, message):
    class Plugin:
        @hookimpl
        def rtd_adapters(self):
            return returned()

    install(odd=Plugin())
    with pytest.raises(RTDError, match=rf"the plugin odd \(of package-1 1.0\) {message}"):
        plugins.list_adapters()


def test_a_triplet_source_without_a_name_is_refused(install):
    class Plugin:
        @hookimpl
        def rtd_triplet_sources(self):
            return [dict]

    install(odd=Plugin())
    with pytest.raises(RTDError, match=r"registers <class 'dict'> as triplet source, but it has no name\. Leave"):
        plugins.find_triplet_source("dict")


def test_a_plugin_without_hooks_is_a_warning(install, caplog):
    install(idle=object(), first=registering(ONE))
    with caplog.at_level(logging.WARNING):
        assert plugins.list_adapters() == {"one": ONE}
    (message,) = caplog.messages
    assert message.startswith("the plugin idle (of package-1 1.0) implements no hook: mark its functions with")


def test_every_public_name_can_be_imported():
    for name in contract.__all__:
        assert getattr(contract, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        contract.nonsense  # noqa: B018


def sources() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def test_the_core_knows_no_method_by_name():
    for file in sources():
        text = file.read_text()
        modules = {module.split(".")[0] for module in imports(ast.parse(text))}
        assert not modules & {"rtd_adapters", "adapters"}, f"{file} imports an adapter"
        assert not re.search(r"rtd_adapters\.\w", text), f"{file} names an adapter's module"


def modules_after(program: str) -> set[str]:
    """Names of the modules that a Python process has imported after running a program."""
    program += "\nimport json, sys; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_imports_no_library():
    assert not {"torch", "open_clip", "numpy", "pluggy"} & modules_after("import rtd_plugin, rtd_plugin.contract")


@pytest.mark.parametrize("command", ["adapters", "recipes"])
def test_listing_imports_no_heavy_library(command):
    program = f"from rtd_plugin.cli.main import main\nimport sys; sys.argv[1:] = ['{command}', '--json']\n"
    modules = modules_after(f"{program}try: main()\nexcept SystemExit as end: assert not end.code, end")
    assert "rtd_adapters.lincir" in modules
    assert not {"torch", "open_clip", "numpy", "accelerate", "transformers", "pydantic", "pyarrow"} & modules


def test_names_are_imported_on_first_use():
    assert rtd_plugin.TextTower.__name__ == "TextTower"
    assert callable(rtd_plugin.load_text_encoder)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        rtd_plugin.nonsense  # noqa: B018


def imports(tree: ast.AST) -> list[str]:
    """Modules that a source imports when it runs: not those under `if TYPE_CHECKING`."""
    modules = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules += [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            modules += imports(node)
    return modules


def test_imports_run_one_way():
    wrong = []
    for file in sources():
        package = file.relative_to(SOURCE).parts[0]
        if package == "__main__.py":
            continue
        for module in imports(ast.parse(file.read_text())):
            names = module.split(".")
            if names[0] != "rtd_plugin" or len(names) < 2 or names[1] not in ORDER or names[1] == package:
                continue
            # The root's modules stand before all packages, but for what adapters are made of.
            allowed = ORDER[: ORDER.index(package)] if package in ORDER else ["clip"]
            if names[1] not in allowed:
                wrong.append(f"{file.relative_to(SOURCE)} imports {module}")
    assert not wrong


def test_the_command_line_imports_only_workflows_and_what_messages_need():
    allowed = {"cli", "workflows", "contract", "errors", "printable", "progress"}
    wrong = [
        f"{file.relative_to(SOURCE)} imports {module}"
        for file in (SOURCE / "cli").rglob("*.py")
        for module in imports(ast.parse(file.read_text()))
        if module.startswith("rtd_plugin.") and module.split(".")[1] not in allowed
    ]
    assert not wrong


def test_only_the_command_line_imports_its_libraries():
    """Workflows, the Python interface, neither parse arguments nor print; of a plugin only its commands do."""
    importing = {
        file.relative_to(SOURCE)
        for file in sources()
        for module in imports(ast.parse(file.read_text()))
        if module.split(".")[0] in ("click", "rich") or module.startswith("rtd_plugin.cli.")
    }
    outside = {path for path in importing if path.parts[0] != "cli" and path.name != "__main__.py"}
    commands = ("build_command.py", "paraphrase_command.py", "stats_command.py")
    assert outside == {Path("generation", name) for name in commands}


def test_the_order_lists_every_package():
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert packages <= {"torchscript", *ORDER}  # torchscript counts as one of the root modules
