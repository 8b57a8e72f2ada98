"""`pytest --rtd-adapter NAME`: every check of an installed adapter as a test of its own."""

from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("rtd-plugin").addoption(
        "--rtd-adapter",
        action="append",
        default=[],
        metavar="NAME",
        help="check this adapter, which a plugin registers",
    )


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    for name in config.getoption("--rtd-adapter"):
        items += _checks(session, name)


def _checks(session: pytest.Session, name: str) -> Iterator[pytest.Item]:
    # Only now: this module is loaded by every pytest of an environment that rtd-plugin is installed in.
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

    def __init__(self, *, adapter: object, check: str, **given: object):
        super().__init__(**given)
        self.adapter = adapter
        self.check = check

    def runtest(self) -> None:
        from rtd_plugin.testing.adapters import faults

        if (fault := faults(self.adapter, self.check)) is not None:
            pytest.fail(fault, pytrace=False)

    def reportinfo(self) -> tuple[str, None, str]:
        return "rtd-plugin", None, self.name
