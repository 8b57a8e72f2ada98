"""`pytest --rtd-adapter NAME`: run every check of an installed adapter as a separate test."""

import inspect
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rtd_plugin.contract import Adapter


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("rtd-plugin").addoption(
        "--rtd-adapter",
        action="append",
        default=[],
        metavar="NAME",
        help="check this adapter of an installed plugin",
    )
    parser.getgroup("rtd-plugin").addoption(
        "--rtd-host",
        metavar="FOLDER",
        help="also compare the adapter with its method's own code in this folder, as `rtd-plugin doctor` does",
    )


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    for name in config.getoption("--rtd-adapter"):
        items += _make_checks(session, name)
        if config.getoption("--rtd-host"):
            arguments = {"adapter": name, "host": config.getoption("--rtd-host")}
            items.append(
                HostItem.from_parent(session, name=f"{name}: host", nodeid=f"rtd-adapter::{name}::host", **arguments)
            )


def _make_checks(session: pytest.Session, name: str) -> Iterator[pytest.Item]:
    # Late, because every pytest of an environment with rtd-plugin loads this module.
    from rtd_plugin.contract import plugins
    from rtd_plugin.errors import RTDError
    from rtd_plugin.testing.adapters import CHECKS

    try:
        adapter = plugins.find_adapter(name)
    except RTDError as error:
        raise pytest.UsageError(str(error)) from error
    for check in CHECKS:
        nodeid = f"rtd-adapter::{name}::{check}"
        yield CheckItem.from_parent(session, name=f"{name}: {check}", nodeid=nodeid, adapter=adapter, check=check)


class CheckItem(pytest.Item):
    """One check of one adapter."""

    def __init__(self, *, adapter: "Adapter", check: str, **arguments: Any):
        super().__init__(**arguments)
        self.adapter = adapter
        self.check = check

    def runtest(self) -> None:
        from rtd_plugin.testing.adapters import run_check

        if (fault := run_check(self.adapter, self.check)) is not None:
            pytest.fail(fault, pytrace=False)

    def reportinfo(self) -> tuple[str, int, str]:
        cls = type(self.adapter)
        return inspect.getfile(cls), inspect.getsourcelines(cls)[1] - 1, self.name


class HostItem(pytest.Item):
    """The comparison of an adapter with its method's own code, in a separate process."""

    def __init__(self, *, adapter: str, host: str, **arguments: Any):
        super().__init__(**arguments)
        self.command = [sys.executable, "-m", "rtd_plugin", "doctor", host, "--adapter", adapter]

    def runtest(self) -> None:
        done = subprocess.run(self.command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(done.stdout + done.stderr, pytrace=False)

    def reportinfo(self) -> tuple[str, None, str]:
        return "rtd-plugin", None, self.name
