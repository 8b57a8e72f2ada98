"""The commands that faults are injected into, with small files of their own, and what each must leave on disk.

A scenario runs in `ROOT/work`. Its inputs are in `ROOT/inputs`, which no command may change.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import open_clip
import service_client
import torch
import yaml
from injection import run
from PIL import Image
from rtd_adapters.phi import Phi

from rtd_plugin.contract import plugins
from rtd_plugin.files import DRAFT_LOCK, DRAFT_MARK, STALE_AFTER, write_text
from rtd_plugin.generation.llm import server as llm_server
from rtd_plugin.generation.rules import build as rules_build
from rtd_plugin.search import indexing
from rtd_plugin.testing.fixtures import randomise

WIDTH = 16
MODEL = {
    "embed_dim": WIDTH,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": WIDTH, "heads": 1, "layers": 1},
}
THINGS = ("kettle", "ladder", "violin", "turtle", "lantern", "bicycle")
PLACES = ("on a shelf", "in the rain", "at night", "under a bridge")
HOSTS = Path(__file__).parents[1] / "patching/hosts"
DRAFT = re.compile(rf"^\..+{re.escape(DRAFT_MARK)}\w{{8}}$|^\.step-\w+\.removed$|^\.tmp\w+$")
VOLATILE = re.compile(  # what depends on the clock
    r'(?<="seconds": )[\d.e+-]+|(?<="triplets_per_second": )[\d.e+-]+|\d{4}-\d\d-\d\d[T ]\d\d:\d\d[:\d+-]*'
)


@dataclass(frozen=True)
class Scenario:
    """A command and how it is repeated.

    Attributes:
        name: of the scenario.
        words: the command line.
        repeat: the command line after a fault; by default the same.
        prepare: command lines that run before, without a fault.
        is_done: whether the work folder holds the whole result already, so that repeating would be refused.
        kept: files of which a killed or failed command may leave a part, for the next to go on from: a pattern.
        starts_threads: whether a library that it imports starts threads, which a fork lacks: each fork imports it.
    """

    name: str
    words: tuple[str, ...]
    repeat: tuple[str, ...] = ()
    prepare: tuple[tuple[str, ...], ...] = ()
    is_done: Callable[[Path], bool] = lambda work: False
    kept: str = r"$^"
    starts_threads: bool = False


RECIPE = "../inputs/tiny.yaml"
TRAIN = ("train", "--recipe", RECIPE, "--output", "run")
RESUME = (*TRAIN, "--resume")
RUN = "../inputs/run"
RUN_FILES = r"run/(checkpoints/.*|metrics\.jsonl|\.lock.*)"
SEARCH_FILES = rf"{RUN_FILES}|run/(recipe\.yaml|search/.*)"  # which a search changes as it goes on
RATES = ("--set", "optimizer.learning_rate=[1e-3,1e-2]")
BUILD = ("triplets", "build", "rules", "../inputs/captions.txt", "--output", "triplets.jsonl", "--workers", "1")
ASK = ("triplets", "build", "llm", "../inputs/captions.txt", "--output", "triplets.jsonl", "--workers", "1")
SERVER = ("--endpoint", "http://127.0.0.1:9/v1", "--model", "none")
CACHED = ("--cache", "features", "--workers", "1")
EVALUATE = ("evaluate", "--weights", RUN, "--benchmark", "folder", "--data", "../inputs/images", "--output", "out")
SEARCHED = ("--images", "../inputs/images", "--page", "page.html")
PATCH = ("patch", "../inputs/host", "--weights", RUN, "--output", "patch")
INDEX = ("index", "../inputs/images", "--weights", RUN, "--output")
INDEXES = (".faiss", ".lance")
LIBRARY_FOLDERS = "gallery.lance/"


def _is_evaluated(work: Path) -> bool:
    return (work / "out/results.json").exists()


def _is_removed(work: Path) -> bool:
    return not (work / "patch").exists()


SCENARIOS = (
    Scenario("train", TRAIN, RESUME, kept=RUN_FILES),
    Scenario("train-resume", RESUME, RESUME, ((*TRAIN, "--set", "steps=3"),), kept=RUN_FILES),
    Scenario("train-rates", (*TRAIN, *RATES), (*RESUME, *RATES), kept=SEARCH_FILES),
    Scenario("evaluate", (*EVALUATE, *CACHED), is_done=_is_evaluated, kept=r"out/.*"),
    Scenario("triplets-rules", BUILD, kept=r"triplets\.jsonl\.parts/.*"),
    Scenario("triplets-llm", (*ASK, *SERVER), kept=r"triplets\.jsonl\.answers"),
    Scenario("triplets-check", ("triplets", "check", "../inputs/broken.jsonl", "--fix", "fixed.jsonl")),
    Scenario("triplets-stats", ("triplets", "stats", "../inputs/triplets.jsonl", "--page", "page.html")),
    Scenario("patch", PATCH),
    Scenario("patch-again", PATCH, prepare=((*PATCH, "--blend", "0.5"),)),
    Scenario("patch-remove", ("patch", "patch", "--remove"), (), (PATCH,), _is_removed, kept=r"patch/.*"),
    Scenario("export-openai", ("export", RUN, "--layout", "openai", "encoder.pt")),
    Scenario("export-folder", ("export", RUN, "--layout", "huggingface", "encoder"), kept=r"encoder/.*"),
    Scenario("export-rtd", ("export", RUN, "--layout", "rtd", "encoder.pt")),
    Scenario(
        "search",
        ("search", "../inputs/images/0.png", "is red", *SEARCHED, "--weights", RUN, *CACHED),
    ),
    Scenario("serve", ("serve", "--images", "../inputs/images", "--port", "0", "--weights", RUN, *CACHED)),
    Scenario(
        "serve-index",
        ("serve", "--index", "gallery.faiss", "--port", "0", "--weights", RUN, *CACHED),
        prepare=((*INDEX, "gallery.faiss"),),
    ),
    Scenario("index-faiss", (*INDEX, "gallery.faiss"), kept=r"gallery\.faiss"),
    Scenario("index-lance", (*INDEX, "gallery.lance"), kept=r"gallery\.lance", starts_threads=True),
)


def make_inputs(folder: Path) -> None:
    """Write the inputs of all scenarios except the run."""
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps(MODEL))
    torch.save(randomise(open_clip.CLIP(**MODEL)).state_dict(), folder / "clip.pt")
    torch.save({"epoch": 1, "Phi": randomise(Phi(WIDTH, WIDTH)).state_dict()}, folder / "phi.pt")
    triplets = [
        {"caption": f"a {thing} {place}", "edit": f"make it a {other}", "output": f"a {other} {place}"}
        for thing, other in zip(THINGS, reversed(THINGS), strict=True)
        for place in PLACES
    ]
    lines = [json.dumps(triplet) + "\n" for triplet in triplets]
    (folder / "triplets.jsonl").write_text("".join(lines))
    (folder / "broken.jsonl").write_text(
        "".join(lines[:9]) + '{"caption": "a $ sign", "edit": "b", "output": "c"}\n[1]\n'
    )
    beings, places = ("dog", "cat", "man", "boy"), ("on the beach", "on the grass", "in the snow")
    looks = ("red", "black", "young", "old")
    captions = [
        f"A {looks[(index + row) % 4]} {being} is {doing} {place} ."
        for index, being in enumerate(beings)
        for row, place in enumerate(places)
        for doing in ("running", "sitting")
    ]
    (folder / "captions.txt").write_text("\n".join(captions) + "\n")
    (folder / "images").mkdir()
    for index in range(6):
        Image.new("RGB", (40, 30 + index), (40 * index, 255 - 40 * index, 99)).save(folder / f"images/{index}.png")
    queries = "reference,condition,target\n0.png,is red,1.png\n2.png,is blue,3.png\n4.png,is lit,5.png\n"
    (folder / "images/queries.csv").write_text(queries)
    benchmark = {"benchmark": "folder", "data": "images"}
    recipe = {
        "adapter": "lincir",
        "backbone": {"model": "model.json", "checkpoint": "clip.pt"},
        "projection": "phi.pt",
        "triplets": [{"source": "json", "path": "triplets.jsonl"}],
        "optimizer": {"learning_rate": 1e-3},
        "steps": 6,
        "batch_size": 4,
        "precision": "fp32",
        "validation": {**benchmark, "every": 2},
        "evaluation": benchmark,
        "checkpoints": {"every": 3, "keep": 1},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    shutil.copytree(HOSTS / "lincir", folder / "host")


def start_over(root: Path) -> Path:
    """Empty the work folder; return it."""
    work = root / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    return work


def set_up_process(root: Path) -> None:
    """Prepare this process for all scenarios: a cache below the work folder, small chunks, servers and clients."""
    torch.set_num_threads(1)
    os.environ["RTD_PLUGIN_CACHE"] = str(root / "work/cache")
    rules_build.CHUNK = 8
    indexing.ROWS = 4
    llm_server.Server.ask = _answer  # type: ignore[method-assign]
    service_client.install()


def _answer(server: llm_server.Server, messages: list[dict[str, str]], seed: int) -> str:
    digest = hashlib.sha256(messages[-1]["content"].encode()).hexdigest()[:6]
    return json.dumps([{"condition": f"has number {digest}", "target": f"a picture of number {digest}"}])


def read_outcome(work: Path) -> dict[str, str]:
    """Return the digest of each file, without what depends on the clock; caches and drafts are left out.

    An index has one digest, of its rows: what its files are called, and how many there are, is its library's business.
    """
    outcome = {path.name: read_index(path) for path in work.iterdir() if path.suffix in INDEXES}
    for path in sorted(work.rglob("*")):
        name = path.relative_to(work).as_posix()
        first = name.split("/")[0]
        if first in ("cache", "features", *outcome) or path.is_dir() or any(map(DRAFT.search, name.split("/"))):
            continue
        content = path.read_bytes()
        if path.suffix in (".json", ".jsonl", ".html"):
            content = VOLATILE.sub("0", content.decode(errors="replace")).encode()
        outcome[name] = hashlib.sha256(content).hexdigest()
    return outcome


def read_index(folder: Path) -> str:
    """Return what is in an index, read in a fork of this process."""

    def read() -> None:
        rows = plugins.find_gallery_store(str(folder)).read_rows(["image", "stamp", "vector"]).sort_by("image")
        print(hashlib.sha256(json.dumps(rows.to_pylist()).encode()).hexdigest())

    ended = run(read, folder.parent)
    return ended.output.strip() if ended.code == 0 else "unreadable"


def list_drafts(work: Path) -> list[str]:
    """Return the drafts that lie anywhere below the work folder, caches included; LanceDB removes its own."""
    names = (path.relative_to(work).as_posix() for path in work.rglob("*") if DRAFT.search(path.name))
    return sorted(name for name in names if not name.startswith(LIBRARY_FOLDERS))


def age_drafts(work: Path) -> None:
    """Make drafts older than the age at which they are swept."""
    for path in work.rglob("*"):
        if DRAFT.search(path.name) or path.name == DRAFT_LOCK:
            changed = path.stat().st_mtime - STALE_AFTER - 3600
            os.utime(path, (changed, changed))


def sweep_drafts(work: Path) -> None:
    """Write into each folder that holds a draft, as some later command would: that removes old ones."""
    for folder in {(work / name).parent for name in list_drafts(work)}:
        if not folder.exists():  # a draft in another, which is gone by now
            continue
        write_text(folder / "probe", "")
        (folder / "probe").unlink()
