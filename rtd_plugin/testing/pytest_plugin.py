"""`pytest --rtd-adapter NAME`: run every check of an installed adapter as a separate test."""

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


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    for name in config.getoption("--rtd-adapter"):
        items += _make_checks(session, name)


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

    def reportinfo(self) -> tuple[str, None, str]:
        return "rtd-plugin", None, self.name
