"""Sources are found by name; a removed source names its replacement."""

import pytest

from rtd_plugin.contract import plugins
from rtd_plugin.errors import UsageError


@pytest.mark.parametrize("name", ["json", "csv", "parquet", "datasets"])
def test_sources_are_found_by_name(name):
    assert plugins.find_triplet_source(name).name == name


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("rules", "run `rtd-plugin triplets build rules` once, and name the file that it writes with `source: json`"),
        ("llm", "run `rtd-plugin triplets build llm` once, and name the file that it writes with `source: json`"),
        ("instructpix2pix", "`source: json` reads its keys"),
    ],
)
def test_a_removed_source_names_its_replacement(name, remedy):
    with pytest.raises(UsageError) as raised:
        plugins.find_triplet_source(name)
    assert str(raised.value) == f"the source {name!r} was removed: {remedy}"
