"""The report of `rtd-plugin evaluate`: one page that needs nothing else."""

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from benchmark_metrics import METRICS, groups_of

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """The elements of a page: whether they close in order, and what they refer to."""

    EMPTY = ("meta", "link", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.wrong, self.references = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.references += [named[name] for name in ("src", "href", "srcset", "data", "action") if name in named]
        if tag == "img":
            self.images.append(named)
        if tag in ("script", "iframe", "object", "base"):
            self.wrong.append(tag)
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"/{tag}")


def check_page(text):
    page = Page(text)
    assert page.wrong == []
    assert page.open == []
    assert all(reference.startswith("data:") for reference in page.references)
    assert "@import" not in text
    assert "url(" not in text
    assert all(image["alt"] for image in page.images)
    return page


@pytest.mark.parametrize("name", METRICS)
def test_the_report_is_one_valid_page(evaluate, finished_run, name):
    """Every element is closed, every image is in it, nothing is fetched, and its figures are those of the JSON."""
    result = evaluate(name, "--weights", finished_run)
    text = (Path(result["output"]) / "report.html").read_text()
    page = check_page(text)
    assert len(page.images) >= 5
    for row in result["results"]:
        for value in row["metrics"][name].values():
            if isinstance(value, float):
                assert f"<td>{value:.2f}<small>" in text
    assert text.count("<polyline") == 4
    groups = len(groups_of(result["results"][0], name))
    assert text.count('class="bar"') == 2 * groups
    assert text.count('class="hit"') <= len(page.images)


def test_the_reports_heading_data_run_and_date(evaluate, finished_run, tmp_path):
    """A user's folder is called by its name."""
    result = evaluate("folder", "--weights", finished_run)
    text = (Path(result["output"]) / "report.html").read_text()
    assert "<h1>folder</h1>" in text
    assert f"Data: {tmp_path / 'folder'}. Tuned: {finished_run}." in text
    assert result["date"][:10] in text
    (tmp_path / "folder").rename(tmp_path / "shoes")
    result = evaluate("folder", "--data", "shoes")
    assert "<h1>shoes</h1>" in (Path(result["output"]) / "report.html").read_text()
    assert result["benchmark"] == "folder"


def test_texts_in_the_report_are_escaped(evaluate, write_dataset, tmp_path):
    write_dataset("cirr", tmp_path / "cirr")
    file = tmp_path / "cirr/cirr/captions/cap.rc2.val.json"
    pairs = json.loads(file.read_text())
    for pair in pairs:
        pair["caption"] = '<script>alert("x")</script> & <b>'
    file.write_text(json.dumps(pairs))
    text = (Path(evaluate("cirr")["output"]) / "report.html").read_text()
    check_page(text)
    assert "&lt;script&gt;" in text


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_report_opens_without_errors(evaluate, finished_run, tmp_path, width):
    """Laid out by a real browser: nothing on its console, every image decoded, no wider than the window."""
    page = Path(evaluate("circo", "--weights", finished_run)["output"]) / "report.html"
    probe = (
        "<script>onload=()=>{document.title=JSON.stringify({wide:document.documentElement.scrollWidth,"
        "window:innerWidth,broken:[...document.images].filter(i=>!i.naturalWidth).length,"
        "images:document.images.length,curves:document.querySelectorAll('polyline').length})}</script>"
    )
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("</head>", f"{probe}</head>"))
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--dump-dom")
    arguments = (f"--window-size={width},900", f"--user-data-dir={tmp_path / 'profile'}", probed.as_uri())
    done = subprocess.run([BROWSER, *options, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr
    seen = json.loads(done.stdout.partition("<title>")[2].partition("</title>")[0])
    assert seen["broken"] == 0
    assert seen["images"] > 10
    assert seen["curves"] == 4
    assert seen["wide"] <= seen["window"]


def test_wordings_and_wrong_answers(evaluate, finished_run, write_dataset, tmp_path):
    """In the metrics, in `--json`, in the ranks of each query, and in the report a request's wordings side by side."""
    write_dataset("folder", tmp_path / "folder")
    rows = [
        f"{reference}.png,{wording},{reference + 1}.png;more/1.jpg,{reference},{reference + 2}.png;more/2.jpg"
        for reference in (0, 3)
        for wording in ("is red", "in red", "make it red")
    ]
    content = "\n".join(["reference,condition,target,request,wrong", *rows])
    (tmp_path / "folder/queries.csv").write_text(content)
    result = evaluate("folder", "--weights", finished_run)
    assert (result["queries"], result["requests"]) == (6, 2)
    queries = [json.loads(line) for line in (Path(result["output"]) / "ranks.jsonl").read_text().splitlines()]
    for row in result["results"]:
        ranks = [query["ranks"][row["name"]] for query in queries]
        assert ranks == row["ranks"] == [min(query["target_ranks"][row["name"]]) for query in queries]
        assert row["ranks_by_request"] == {"0": ranks[:3], "3": ranks[3:]}
        wrong = [sum(rank <= 10 for rank in query["wrong_ranks"][row["name"]]) / 2 for query in queries]
        metrics = row["metrics"]["folder"]
        assert metrics["wrong_at_10"] == pytest.approx(100 * sum(wrong) / 6)
        assert set(metrics) - set(METRICS["folder"]) == {
            "wrong_at_10",
            *(f"{kind}_{metric}_at_10" for kind in ("spread_of", "worst") for metric in ("recall", "map")),
        }
    text = (Path(result["output"]) / "report.html").read_text()
    check_page(text)
    assert "6 queries (wordings of 2 requests)" in text
    before, after = (row["ranks"][0] for row in result["results"])
    assert f"<tr><td>“is red”</td><td>{before}</td><td>{after}</td></tr>" in text
    assert 'class="wrong"' in text
