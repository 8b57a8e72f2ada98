"""The code that a patch needs in its host, and whether a patch folder can hold it.

A host may have an old Python and an old torch, and rtd-plugin is not installed for it. So the modules of `HOST_MODULES`
use the syntax and the library of Python 3.8, and import nothing but each other, the standard library, and torch from
1.11 on. `write_patch` copies them into the patch folder, with the adapter's modules if these keep to the same.
"""

import ast
import importlib.util
import sys
from collections.abc import Collection, Iterable, Iterator

from rtd_plugin import contract
from rtd_plugin.errors import RTDError
from rtd_plugin.regular_files import read_bytes

OLDEST_PYTHON = (3, 8)
LIBRARIES = ("numpy", "torch")
HOST_MODULES = (
    "rtd_plugin",
    "rtd_plugin.checkpoint_parts",
    "rtd_plugin.clip",
    "rtd_plugin.clip.fingerprint",
    "rtd_plugin.clip.injection",
    "rtd_plugin.clip.layouts",
    "rtd_plugin.clip.old_torch",
    "rtd_plugin.clip.tensor_file",
    "rtd_plugin.clip.tokens",
    "rtd_plugin.clip.tower",
    "rtd_plugin.clip.transformer",
    "rtd_plugin.clip.tuned_encoder",
    "rtd_plugin.clip.weight_files",
    "rtd_plugin.contract",
    "rtd_plugin.contract.adapter",
    "rtd_plugin.contract.composition",
    "rtd_plugin.contract.markers",
    "rtd_plugin.contract.shims",
    "rtd_plugin.errors",
    "rtd_plugin.patching",
    "rtd_plugin.patching.activation",
    "rtd_plugin.patching.active_patch",
    "rtd_plugin.patching.bootstrap",
    "rtd_plugin.patching.function_reference",
    "rtd_plugin.patching.function_replacement",
    "rtd_plugin.patching.host_encoder",
    "rtd_plugin.patching.host_model",
    "rtd_plugin.patching.import_hook",
    "rtd_plugin.patching.manifest",
    "rtd_plugin.patching.usage_log",
    "rtd_plugin.printable",
    "rtd_plugin.regular_files",
)


class NotCopiedError(RTDError):
    """A module that a patch folder cannot hold: the message says why."""


def collect_code(modules: Iterable[str], packages: Iterable[str] = ()) -> dict[str, bytes]:
    """Return the files that a patch needs in its host, by their paths in the folder of the patch's code.

    Args:
        modules: of the adapter's functions.
        packages: further top-level packages of the adapter. What is imported from its packages comes along.

    Raises:
        NotCopiedError: one of the modules imports, at its top level, something else than the standard library, torch,
            numpy and names of `rtd_plugin.contract` that hosts have, or is not written in Python 3.8.
    """
    files = dict(_read_module(name) for name in HOST_MODULES)
    pending = list(modules)
    own = {*packages, *(name.split(".")[0] for name in pending)} - {"rtd_plugin"}
    collected = set(HOST_MODULES)
    while pending:
        name = pending.pop()
        if name not in collected:
            collected.add(name)
            file, source = _read_module(name)
            files[file] = source
            pending += _list_own_modules(name, source, own, is_package=file.endswith("/__init__.py"))
            if "." in name:
                pending.append(name.rpartition(".")[0])
    return files


def _read_module(name: str) -> tuple[str, bytes]:
    """Return a module's path below the folder that its top-level package is in, and its source."""
    spec = importlib.util.find_spec(name)
    if spec is None or not (spec.origin or "").endswith(".py"):
        raise NotCopiedError(f"{name} has no source file")
    suffix = ".py" if spec.submodule_search_locations is None else "/__init__.py"
    return name.replace(".", "/") + suffix, read_bytes(str(spec.origin))


def _list_own_modules(name: str, source: bytes, own: Collection[str], is_package: bool) -> Iterator[str]:
    """Yield the modules of an adapter's packages that a module imports, and check what else it imports."""
    try:
        tree = ast.parse(source, feature_version=OLDEST_PYTHON)
    except (SyntaxError, ValueError) as error:
        raise NotCopiedError(f"{name} has syntax that Python 3.8 lacks ({error})") from error
    for node, at_import in _list_imports(tree, at_import=True):
        for module, attribute in _resolve(node, name, is_package):
            if module.split(".")[0] in own:
                yield module
                if attribute and _is_module(f"{module}.{attribute}"):
                    yield f"{module}.{attribute}"
            elif at_import and not _is_available(module, attribute):
                raise NotCopiedError(f"{name} imports {attribute and f'{attribute} of '}{module}")


def _list_imports(tree: ast.AST, at_import: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Yield statements that import, and whether they run, and have to succeed, when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, at_import
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from _list_imports(ast.Module(node.orelse, []), at_import)
        else:
            is_late = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Try)
            yield from _list_imports(node, at_import and not is_late)


def _resolve(node: ast.Import | ast.ImportFrom, name: str, is_package: bool) -> Iterator[tuple[str, str]]:
    """Yield the absolute names of modules that a statement imports, each with the name taken from it or ""."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, "") for alias in node.names)
        return
    module = node.module or ""
    if node.level:
        package = name.split(".")[: len(name.split(".")) - node.level + is_package]
        module = ".".join([*package, *([module] if module else [])])
    yield from ((module, alias.name) for alias in node.names)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # what should be its package is a module
        return False


def _is_available(module: str, attribute: str) -> bool:
    """Whether a host has a module, and what is taken from it."""
    if module == contract.__name__:
        homes = [f"rtd_plugin.{home}" for home, names in contract.MODULES.items() if attribute in names]
        return any(home in HOST_MODULES for home in homes)
    top = module.split(".")[0]
    if top == "rtd_plugin":
        return module in HOST_MODULES[1:] or f"{module}.{attribute}" in HOST_MODULES
    return top in LIBRARIES or top in sys.stdlib_module_names
