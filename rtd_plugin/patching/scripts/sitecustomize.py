"""Activates the patch of the folder above in each Python that starts; written by `rtd-plugin patch`.

Any Python may run this: only the standard library is used, and syntax that Python 2 reads, which then lacks a module.
"""

import json
import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

HERE = os.path.dirname(os.path.abspath(__file__))
PATCH = os.path.dirname(HERE)


class Code:
    """Finds packages in the code of patches. It is asked last, so that packages that are installed take precedence."""

    def __init__(self):
        self.rtd_plugin_folders = []

    def find_spec(self, name, path=None, target=None):
        if path is not None:
            return None
        spec = PathFinder.find_spec(name, self.rtd_plugin_folders)
        if spec is not None and spec.loader is not None:  # two patches have different modules of one package
            folders = [os.path.join(folder, name) for folder in self.rtd_plugin_folders]
            spec.submodule_search_locations = [folder for folder in folders if os.path.isdir(folder)]
            return spec
        return None


class Refusal:
    """Ends the program when it imports a composition point of the host: this Python cannot patch it."""

    def __init__(self, problem):
        with open(os.path.join(PATCH, "manifest.json")) as file:
            manifest = json.load(file)
        self.problem = problem
        self.names = {name for point in manifest["points"] for name in point["modules"]}
        self.files = {os.path.join(manifest["host"], point["file"]) for point in manifest["points"]}

    def find_spec(self, name, path=None, target=None):
        if name in self.names:
            spec = PathFinder.find_spec(name, path)
            if spec is not None and os.path.realpath(spec.origin or "") in self.files:
                raise SystemExit("rtd-plugin: " + self.problem)
        return None


def add_code():
    folder = os.path.join(PATCH, "code")
    if os.path.isdir(folder):
        finders = [finder for finder in sys.meta_path if hasattr(finder, "rtd_plugin_folders")]
        if not finders:
            finders = [Code()]
            sys.meta_path.append(finders[0])
        finders[0].rtd_plugin_folders.append(folder)


def start():
    if sys.version_info < (3, 8):
        version = ".".join(map(str, sys.version_info[:2]))
        problem = "%s is Python %s, but a patch needs 3.8" % (sys.executable, version)
        sys.meta_path.insert(0, Refusal(problem))
        return
    add_code()
    try:
        from rtd_plugin.patching.bootstrap import start
    except Exception as error:
        install = "%s -m pip install rtd-plugin" % sys.executable
        sys.meta_path.insert(0, Refusal("this Python lacks rtd-plugin (%s): %s" % (error, install)))
        return
    try:
        start(PATCH)
    except Exception as error:
        from rtd_plugin.printable import make_printable

        sys.meta_path.insert(0, Refusal(make_printable(str(error))))


def chain():
    """Run the sitecustomize that Python would have found without this one, as if this one did not exist."""
    # What stands before this folder has passed on to it.
    paths = [os.path.abspath(path or os.curdir) for path in sys.path]
    spec = PathFinder.find_spec("sitecustomize", paths[paths.index(HERE) + 1 :])
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


try:
    start()
finally:
    chain()
