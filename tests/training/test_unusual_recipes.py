"""Unusual values in a recipe are errors that name a key or a line."""

import pytest

from rtd_plugin.errors import UsageError
from rtd_plugin.training.recipe import read_recipe
from rtd_plugin.training.yaml_lines import NotYAML, load_yaml

DEEP = "[" * 100_000
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{letter}: &{letter} [{','.join(9 * [f'*{before}'])}]\n" for before, letter in zip("abcdef", "bcdefg", strict=True)
)
TEXTS = {
    "a year above 9999": "steps: 9999-12-31T23:59:59-23:59\n",
    "a year below 1": "seed: 0001-01-01T00:00:00+23:59\n",
    "no such date": "adapter: 2026-13-45\n",
    "no such time": "adapter: 2026-01-01T99:99:99\n",
    "deep": DEEP,
    "an alias to itself": "adapter: &a [*a]\n",
    "aliases of aliases": BOMB + "adapter: *g\n",
    "aliases of aliases as triplets": BOMB + "triplets: *g\n",
    "a list as a key": "[1, 2]: 3\n",
    "not a number as a key": ".nan: 3\n",
    "no bool": "steps: !!bool many\n",
    "no timestamp": "steps: !!timestamp many\n",
    "no binary": "adapter: !!binary '*'\n",
    "a long sexagesimal": f"steps: {':'.join(500 * ['59'])}.5\n",
    "a long integer": f"steps: {'9' * 10_000}\n",
    "a character that does not exist": 'adapter: "\\UFFFFFFFF"\n',
    "half a surrogate pair": 'adapter: lincir\nprojection: "\\uD800"\n',
}


@pytest.mark.parametrize("case", TEXTS)
def test_unusual_texts(tmp_path, case):
    (tmp_path / "r.yaml").write_text(TEXTS[case])
    with pytest.raises(UsageError, match=r"r\.yaml") as error:
        read_recipe(tmp_path / "r.yaml")
    assert len(str(error.value)) <= 2000


@pytest.mark.parametrize(
    "override",
    [
        "accumulation=1000000000000",
        "steps=1000000000000",
        "batch_size=1000000000000",
        "checkpoints.keep=1000000000000",
        f"optimizer.warmup_steps={10**400}",
        f"optimizer.learning_rate={10**400}",
        f"triplets.{'9' * 5000}.path=x",
        f"{'a.' * 5000}b=1",
        f"steps={DEEP}",
        'projection="a\\0b"',
        'triplets.0.path="a\\0b"',
        "triplets.0.weight=1e-320",
        "triplets.0.weight=1e308",
    ],
    ids=lambda override: override[:24],
)
def test_unusual_overrides(tmp_path, override):
    (tmp_path / "r.yaml").write_text(
        "adapter: lincir\nbackbone: {checkpoint: c.pt}\nprojection: p.pt\ntriplets: [{source: json, path: t.json}]\n"
    )
    assert read_recipe(tmp_path / "r.yaml").steps == 2000
    with pytest.raises(UsageError, match="--set ") as error:
        read_recipe(tmp_path / "r.yaml", [override])
    assert len(str(error.value)) <= 2000


def test_an_impossible_value_names_its_line():
    with pytest.raises(NotYAML, match="not a value") as error:
        load_yaml("a: 1\nb: !!bool many\n")
    assert error.value.line == 2
