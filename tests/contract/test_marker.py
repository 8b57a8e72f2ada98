"""Our marker of hook implementations is pluggy's, without importing it."""

import pluggy
import pytest

from rtd_plugin import hookimpl

theirs = pluggy.HookimplMarker("rtd_plugin")
OPTIONS = [{}, *({name: True} for name in ("tryfirst", "trylast", "optionalhook", "wrapper", "hookwrapper"))]


@pytest.mark.parametrize("options", [*OPTIONS, {"specname": "rtd_adapters"}])
def test_it_marks_as_pluggy_does(options):
    def one(): ...
    def other(): ...

    assert hookimpl(**options)(one) is one
    theirs(**options)(other)
    assert vars(one) == vars(other) != {}


def test_without_options():
    @hookimpl
    def one(): ...

    @theirs
    def other(): ...

    assert vars(one) == vars(other)
