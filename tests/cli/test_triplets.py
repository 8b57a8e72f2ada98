"""`rtd-plugin triplets`: building, checking and describing triplets from the command line."""

import json

import pytest
from rtd_adapters.lincir import LinCIR
from torch import nn

from rtd_plugin.contract import hookimpl
from rtd_plugin.contract.plugins import use_plugins
from rtd_plugin.errors import UsageError
from rtd_plugin.generation.workflows import build_triplets, describe_triplets

GOOD = [
    {"reference_caption": "a red dog runs", "conditioning_caption": "is blue", "target_caption": "a blue dog runs"},
    {"reference_caption": "two cats sit", "conditioning_caption": "only one", "target_caption": "one cat sits"},
]
CAPTIONS = [
    f"A {look} {who} is {doing} {place} ."
    for look in ("black", "white", "brown")
    for who in ("dog", "cat", "horse")
    for doing in ("running", "sitting")
    for place in ("on the grass", "on the beach", "in the snow")
]


@pytest.fixture
def triplets(tmp_path):
    def triplets(*rows):
        path = tmp_path / "t.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    return triplets


def test_build_by_rule_then_check_then_stats(rtd, tmp_path):
    (tmp_path / "captions.txt").write_text("".join(f"{caption}\n" for caption in CAPTIONS))
    done = rtd("triplets", "build", "rules", "captions.txt", "--output", "t.jsonl", "--workers", 1, "--json")
    assert done.exit_code == 0, done.output
    built = json.loads(done.stdout)
    assert (built["captions"], built["skipped"]) == (54, 0)
    assert built["triplets"] == len((tmp_path / "t.jsonl").read_text().splitlines()) > 54
    assert set(built["edits"]) >= {"attribute", "describe", "thing", "place"}
    result = build_triplets("captions.txt", "again.jsonl", workers=1)
    assert result == {**built, "output": "again.jsonl"}
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "t.jsonl").read_bytes()
    assert rtd("triplets", "check", "t.jsonl").exit_code == 0
    done = rtd("triplets", "stats", "t.jsonl", "--json")
    assert json.loads(done.stdout) == json.loads(json.dumps(describe_triplets("t.jsonl")))
    assert json.loads(done.stdout)["triplets"] == built["triplets"]


def test_with_several_wordings_the_next_step_trains_on_them(rtd, tmp_path):
    (tmp_path / "captions.txt").write_text("".join(f"{caption}\n" for caption in CAPTIONS))
    done = rtd("triplets", "build", "rules", "captions.txt", "--output", "t.jsonl", "--workers", 1, "--wordings", 2)
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith("--set wording.sample=true --set wording.consistency=1\n")
    records = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    requests = {(record["reference_caption"], record["target_caption"]) for record in records}
    assert len(requests) < len(records) <= 2 * len(requests)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"endpoint": "http://localhost/v1"}, "endpoint: not an option of the method 'rules'"),
        ({"method": "llm", "backbone": "ViT-B-32"}, "backbone: not an option of the method 'llm'"),
        ({"method": "llm", "wordings": 2}, "wordings: not an option of the method 'llm'"),
        ({"method": "llm", "endpoint": "http://localhost/v1"}, "model: required by"),
    ],
)
def test_options_that_do_not_fit_the_method_are_named(options, says, tmp_path):
    with pytest.raises(UsageError, match=says):
        build_triplets(tmp_path / "captions.txt", tmp_path / "t.jsonl", **options)


def test_build_in_a_backbone_s_text_space(rtd, files, tmp_path):
    (tmp_path / "captions.csv").write_text("title\n" + "".join(f"{caption}\n" for caption in CAPTIONS))
    options = (
        "--column",
        "title",
        "--workers",
        1,
        "--backbone",
        files / "model.json",
        "--checkpoint",
        files / "clip.pt",
    )
    done = rtd("triplets", "build", "rules", "captions.csv", "--output", "t.jsonl", *options)
    assert done.exit_code == 0, done.output
    assert "rtd-plugin triplets check t.jsonl" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("build", "rules", "none.txt", "--output", "t.jsonl"), "cannot read none.txt: No such file"),
        (("build", "rules", ".", "--output", "t.jsonl"), "cannot read .: Is a directory"),
        (("build", "llm", "c", "--output", "t", "--endpoint", "nowhere", "--model", "m"), "--endpoint nowhere: not an"),
        (("check", "."), "cannot read .: Is a directory"),
        (("stats", "none.jsonl"), "cannot read none.jsonl: No such file"),
        (("check", "t.csv", "--column", "x"), "--column x: expected TEXT=NAME"),
        (("check", "t.csv", "--column", "x=y"), "'x' is not one of reference, condition, target"),
    ],
)
def test_errors_are_a_sentence(rtd, arguments, says):
    done = rtd("triplets", *arguments)
    assert done.exit_code in (1, 2)
    assert says in done.stderr
    assert "Traceback" not in done.output


def test_check_names_each_problem(rtd, triplets):
    path = triplets(*GOOD, GOOD[0], {"caption": "a", "edit": "is $", "output": "b"}, "{", "")
    done = rtd("triplets", "check", path)
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert lines[0] == f"{path}, record 3 (line 3): the triplet occurs earlier"
    assert lines[1] == f"{path}, record 4 (line 4): a text holds a placeholder character (condition holds $)"
    assert lines[2].startswith(f"{path}, record 5 (line 5): the record cannot be read (broken JSON: ")
    assert "5 records, 3 with problems" in done.stdout
    result = json.loads(rtd("triplets", "check", path, "--json").stdout)
    assert result["problems"] == {"broken": 1, "duplicate": 1, "placeholder": 1}
    assert [problem["kind"] for problem in result["list"]] == ["duplicate", "placeholder", "broken"]


def test_fix_writes_a_copy_that_is_sound(rtd, triplets, tmp_path):
    path = triplets(*GOOD, GOOD[0], {"caption": "a", "edit": "is $ red", "output": "b"}, "{")
    before = path.read_bytes()
    done = rtd("triplets", "check", path, "--fix", "clean.jsonl", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["fixed"] == {"file": "clean.jsonl", "written": 3, "repaired": 1, "left_out": 2}
    assert path.read_bytes() == before
    assert rtd("triplets", "check", "clean.jsonl").exit_code == 0
    rows = [json.loads(line) for line in (tmp_path / "clean.jsonl").read_text().splitlines()]
    assert rows == [*GOOD, dict(zip(GOOD[0], ("a", "is red", "b"), strict=True))]
    assert rtd("triplets", "check", path, "--fix", path).exit_code == 2


def test_check_of_a_table(rtd, tmp_path):
    (tmp_path / "t.csv").write_text('before,edit,after\na dog,=HYPERLINK("x"),a cat\na dog,a cat,\n')
    columns = ("--column", "reference=before", "--column", "condition=edit", "--column", "target=after")
    result = json.loads(rtd("triplets", "check", "t.csv", *columns, "--json").stdout)
    assert result["problems"] == {"empty": 1, "formula": 1}


@pytest.mark.parametrize(("edit", "said"), [("a cat instead of a dog", True), ("replace the dog with a cat", False)])
def test_check_says_how_many_conditions_name_the_old_first(rtd, triplets, edit, said):
    rows = [{"caption": f"a dog, number {n}", "edit": edit, "output": f"a cat, number {n}"} for n in range(101)]
    path = triplets(*rows)
    order = "new first" if said else "old first"
    assert json.loads(rtd("triplets", "check", path, "--json").stdout)["order_percent"][order] == 100
    shown = rtd("triplets", "check", path).stdout
    assert f"Conditions name the old and new content: {order} 100.0 %." in shown
    assert ("may learn to use whatever comes first" in shown) == said


class Several(LinCIR):
    name = "several"

    def build_projection(self, state, features, token_width):
        return nn.Unflatten(1, (4, features // 4))


class Plugin:
    @hookimpl
    def rtd_adapters(self):
        return [Several()]


@pytest.mark.parametrize(("words", "excess"), [(67, 0), (68, 1)])
def test_check_knows_how_much_of_a_condition_fits_into_the_methods_prompt(rtd, triplets, words, excess):
    """LinCIR's prompt has 5 tokens; beside it, start, end and 3 more pseudo tokens, 67 are left."""
    path = triplets({"caption": "a dog", "edit": "red " * words, "output": "a cat"})
    with use_plugins(Plugin()):
        result = json.loads(rtd("triplets", "check", path, "--adapter", "several", "--json").stdout)
    assert [problem["detail"] for problem in result["list"]] == [f"condition by {excess}"] * bool(excess)
    assert rtd("triplets", "check", path, "--adapter", "lincir").exit_code == 0
    assert rtd("triplets", "check", path, "--adapter", "nonsense").exit_code == 2


def test_an_empty_file_is_a_problem(rtd, triplets):
    assert rtd("triplets", "check", triplets()).exit_code == 1


def test_stats_writes_a_page(rtd, triplets, tmp_path):
    (tmp_path / "real.json").write_text('[{"caption": "is blue"}, {"caption": "<b>show</b> two"}]')
    odd = {"caption": "a dog", "edit": "<b>show</b> two <script>", "output": "a cat"}
    done = rtd("triplets", "stats", triplets(*GOOD, odd, "{"), "--real", "real.json", "--page", "stats.html")
    assert done.exit_code == 0, done.output
    assert "Left out 1 broken record." in done.stdout
    page = (tmp_path / "stats.html").read_text()
    assert page.count("<svg") == 4
    assert "prefers-color-scheme: dark" in page  # the frame of the report
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page.replace("http-equiv", "")
