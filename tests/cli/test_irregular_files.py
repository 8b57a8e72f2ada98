"""A named pipe, or a link to itself, in place of any file that a command reads is refused at once.

Opening a pipe would wait for ever.
"""

import os
import shutil
from pathlib import Path

import pytest

HOSTS = Path(__file__).parents[1] / "patching/hosts"
MODEL = ("--adapter", "lincir", "--model", "model.json", "--checkpoint", "clip.pt", "--projection", "phi.pt")
FOLDER = ("evaluate", "--benchmark", "folder", "--data", "data", *MODEL, "--output", "out", "--cache", "cache")
CIRR = ("evaluate", "--benchmark", "cirr", "--data", "data", *MODEL, "--output", "out", "--cache", "cache")
SEARCH = ("search", "data/0.png", "is red", "--images", "data", *MODEL, "--cache", "cache")
TRAIN = ("train", "--recipe", "tiny.yaml", "--output", "new")
RESUME = ("train", "--resume", "--output", "run")
SERVER = ("--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--attempts", "1", "--limit", "1")
LLM = ("triplets", "build", "llm", *SERVER, "--output", "out.jsonl")

CASES = {  # the file that is replaced, and a command that reads it
    "recipe": ("tiny.yaml", TRAIN),
    "triplets": ("triplets.jsonl", TRAIN),
    "csv triplets": ("t.csv", (*TRAIN, "--set", "triplets=[{source: csv, path: t.csv}]")),
    "parquet triplets": ("t.parquet", (*TRAIN, "--set", "triplets=[{source: parquet, path: t.parquet}]")),
    "backbone": ("clip.pt", TRAIN),
    "backbone in safetensors": ("clip.safetensors", (*TRAIN, "--set", "backbone.checkpoint=clip.safetensors")),
    "backbone in a folder": ("folder/model.safetensors", (*TRAIN, "--set", "backbone.checkpoint=folder")),
    "configuration": ("model.json", TRAIN),
    "projection": ("phi.pt", TRAIN),
    "recipe of a run": ("run/recipe.yaml", RESUME),
    "queries": ("data/queries.csv", FOLDER),
    "named queries": ("q.jsonl", (*FOLDER, "--set", "queries_file=q.jsonl")),
    "picture": ("data/0.png", (*FOLDER, "--no-skip-unreadable")),
    "annotations": ("data/cirr/captions/cap.rc2.val.json", CIRR),
    "weights": ("weights.safetensors", (*FOLDER, "--weights", "weights.safetensors")),
    "weights of torch": ("weights.pt", (*FOLDER, "--weights", "weights.pt")),
    "run": ("run/text_encoder.safetensors", (*FOLDER, "--weights", "run")),
    "reference": ("data/0.png", SEARCH),
    "image": ("data/1.png", (*SEARCH, "--no-skip-unreadable")),
    "exported run": ("run/text_encoder.safetensors", ("export", "run", "--layout", "openai", "out.pt")),
    "weights of a patch": ("weights.pt", ("patch", "host", "--weights", "weights.pt")),
    "source": ("host/encode_with_pseudo_tokens.py", ("patch", "host", "--weights", "run")),
    "manifest": ("host-rtd-patch/manifest.json", ("run", "host-rtd-patch", "--", "true")),
    "removed manifest": ("host-rtd-patch/manifest.json", ("patch", "host", "--remove")),
    "examined source": ("host/encode_with_pseudo_tokens.py", ("doctor", "host")),
    "checked triplets": ("t.jsonl", ("triplets", "check", "t.jsonl")),
    "checked table": ("t.csv", ("triplets", "check", "t.csv")),
    "checked parquet": ("t.parquet", ("triplets", "check", "t.parquet")),
    "described triplets": ("t.jsonl", ("triplets", "stats", "t.jsonl")),
    "real conditions": ("real.txt", ("triplets", "stats", "triplets.jsonl", "--real", "real.txt")),
    "records of captions": ("c.jsonl", (*LLM, "c.jsonl", "--column", "caption")),
    "captions": ("captions.txt", (*LLM, "captions.txt")),
    "answers": ("out.jsonl.answers", (*LLM, "text.txt")),
    "shown recipe": ("tiny.yaml", ("recipes", "tiny.yaml")),
}


@pytest.mark.timeout(300)  # of a command that waits
@pytest.mark.parametrize("replacement", ["pipe", "link to itself"])
@pytest.mark.parametrize("case", CASES)
def test_a_file_that_cannot_be_read_is_refused_at_once(
    rtd, files, finished_run, write_dataset, tmp_path, case, replacement
):
    pipe, command = CASES[case]
    for file in files.iterdir():
        shutil.copy(file, tmp_path)
    shutil.copytree(HOSTS / "lincir", "host", ignore=shutil.ignore_patterns("genecis"))
    write_dataset("folder", Path("data"))
    write_dataset("cirr", Path("data"))
    Path("text.txt").write_text("a dog on a shelf\n")
    if pipe.startswith("run/") or "run" in command:
        shutil.copytree(finished_run, "run")
    path = Path(pipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if replacement == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path.name)
    done = rtd(*command)
    assert done.exit_code in (1, 2), done.output
    assert "unexpected" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert path.name in done.stderr or "host" in pipe or replacement == "link to itself"
