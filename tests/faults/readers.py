"""rtd-plugin's readers, each with small valid files, for the fuzzer to mutate."""

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from benchmark_files import WRITERS
from PIL import Image
from scenarios import MODEL, WIDTH

from rtd_plugin.clip.artifact import load_text_encoder, read_info
from rtd_plugin.clip.backbones import Backbone
from rtd_plugin.clip.huggingface_config import build_text_config
from rtd_plugin.clip.layouts import write_state_dict
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.clip.tuned_encoder import read_weights
from rtd_plugin.contract import plugins
from rtd_plugin.contract.adapter import load_projection
from rtd_plugin.evaluation.image_files import open_image
from rtd_plugin.generation.captions import read_captions
from rtd_plugin.generation.llm.answers import AnswerFile
from rtd_plugin.generation.llm.prompt import parse_answer
from rtd_plugin.generation.statistics import read_conditions
from rtd_plugin.patching.manifest import read_manifest
from rtd_plugin.search.faiss_store import FaissStore
from rtd_plugin.training.checkpoints import CheckpointStore
from rtd_plugin.training.recipe import parse_override, read_recipe
from rtd_plugin.training.run import resume_recipe
from rtd_plugin.workflows.check import check_triplets
from rtd_plugin.workflows.evaluate import make_benchmark
from rtd_plugin.workflows.runs import choose_run
from rtd_plugin.workflows.train import train

Read = Callable[[Path], Any]


@dataclass(frozen=True)
class Reader:
    """A reader and the files that it reads.

    Attributes:
        name: of the reader.
        write: writes valid files into an empty folder.
        read: reads them; the argument is that folder.
        mutated: pattern of the files that are mutated.
        allowed: exceptions that the reader raises by contract, besides `RTDError`.
        changes: whether reading changes the files, so that each time new ones are needed.
    """

    name: str
    write: Callable[[Path], None]
    read: Read
    mutated: str
    allowed: tuple[type[Exception], ...] = ()
    changes: bool = False


def _write_inputs(folder: Path) -> None:
    shutil.copytree(INPUTS, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("host"))


INPUTS = Path()  # set by `list_readers`


def _from_inputs(*names: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name in names:
            source = INPUTS / name
            if source.is_dir():
                shutil.copytree(source, folder / name)
            else:
                shutil.copy(source, folder / name)

    return write


def _write_text(name: str, text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_text(text, encoding="utf-8")

    return write


TRIPLETS = [(f"a {word} cat", f"is {word}", f"a {word} dog") for word in ("red", "blue", "old", "young", "tall")]
JSON_KEYS = ("reference_caption", "conditioning_caption", "target_caption")


def _list_triplet_readers() -> list[Reader]:
    records = [dict(zip(JSON_KEYS, triplet, strict=True)) for triplet in TRIPLETS]
    lists = {key: [record[key] for record in records] for key in JSON_KEYS}
    table = "\n".join(",".join(row) for row in [("reference", "condition", "target"), *TRIPLETS])

    def write_parquet(folder: Path) -> None:
        columns = dict(zip(("reference", "condition", "target"), map(list, zip(*TRIPLETS, strict=True)), strict=True))
        pq.write_table(pa.table(columns), folder / "t.parquet")

    def read(source: str, name: str) -> Read:
        def read(folder: Path) -> None:
            found = plugins.find_triplet_source(source).model_validate(
                {"path": folder / name, "skip_invalid": True}, context={"folder": folder}
            )
            triplets = found.load()
            list(triplets.triplets)

        return read

    def check(folder: Path) -> None:
        check_triplets(folder / "t.jsonl", fix=folder / "fixed.jsonl")

    lines = "\n".join(map(json.dumps, records))
    return [
        Reader("triplets-lists", _write_text("t.json", json.dumps(lists)), read("json", "t.json"), "t.json"),
        Reader("triplets-array", _write_text("t.json", json.dumps(records)), read("json", "t.json"), "t.json"),
        Reader("triplets-lines", _write_text("t.jsonl", lines), read("json", "t.jsonl"), "t.jsonl"),
        Reader("triplets-csv", _write_text("t.csv", table), read("csv", "t.csv"), "t.csv"),
        Reader("triplets-parquet", write_parquet, read("parquet", "t.parquet"), "t.parquet"),
        Reader("triplets-check", _write_text("t.jsonl", lines), check, "t.jsonl"),
    ]


def _list_caption_readers() -> list[Reader]:
    captions = "".join(f"img{i // 2}.jpg#{i % 2}\ta {t[0]}\n" for i, t in enumerate(TRIPLETS))
    table = "caption,other\n" + "".join(f"{t[0]},x\n" for t in TRIPLETS)
    lines = "".join(json.dumps({"caption": t[0]}) + "\n" for t in TRIPLETS)

    def write_parquet(folder: Path) -> None:
        pq.write_table(pa.table({"caption": [t[0] for t in TRIPLETS]}), folder / "c.parquet")

    def read(name: str, column: str | None) -> Read:
        return lambda folder: list(read_captions(folder / name, column))

    answer = json.dumps(
        [{"condition": "is red", "target": "a red dog"}, {"condition": "is old", "target": "an old dog"}]
    )
    answers = json.dumps(["ab" * 12, [["is red", "a red dog"]]]) + "\n"

    def read_answers(folder: Path) -> None:
        with AnswerFile(folder / "a.jsonl") as kept:
            kept.get("a caption")

    def parse(folder: Path) -> None:
        parse_answer("a dog", (folder / "a.json").read_text(encoding="utf-8", errors="replace"), 3)

    return [
        Reader("captions-text", _write_text("c.txt", captions), read("c.txt", None), "c.txt"),
        Reader("captions-csv", _write_text("c.csv", table), read("c.csv", "caption"), "c.csv"),
        Reader("captions-lines", _write_text("c.jsonl", lines), read("c.jsonl", "caption"), "c.jsonl"),
        Reader("captions-parquet", write_parquet, read("c.parquet", "caption"), "c.parquet"),
        Reader("conditions", _write_text("c.json", lines), lambda folder: read_conditions(folder / "c.json"), "c.json"),
        Reader("llm-answers", _write_text("a.jsonl", answers), read_answers, "a.jsonl"),
        Reader("llm-answer", _write_text("a.json", answer), parse, "a.json", allowed=(ValueError,)),
    ]


def _list_recipe_readers() -> list[Reader]:
    def resume(folder: Path) -> None:
        choose_run(None, None, (), folder / "run", True)
        resume_recipe(folder / "run", (), None)

    def override(folder: Path) -> None:
        text = (folder / "override.yaml").read_text(encoding="utf-8", errors="replace")
        parse_override(text)
        read_recipe(folder / "tiny.yaml", [text])

    recipe = _from_inputs("tiny.yaml")

    def write_override(folder: Path) -> None:
        recipe(folder)
        (folder / "override.yaml").write_text("optimizer.learning_rate=1e-4")

    return [
        Reader("recipe", recipe, lambda folder: read_recipe(folder / "tiny.yaml").to_dict(), "tiny.yaml"),
        Reader("recipe-override", write_override, override, "override.yaml"),
        Reader("run-recipe", _from_inputs("run"), resume, "run/recipe.yaml"),
    ]


def _list_weight_readers() -> list[Reader]:
    def load_tower(state: dict[str, torch.Tensor]) -> TextTower:
        return TextTower.from_state_dict(state, activation="gelu", heads=1)

    tower = load_tower(torch.load(INPUTS / "clip.pt", weights_only=True))

    def write_huggingface(folder: Path) -> None:
        from safetensors.torch import save_file

        (folder / "hf").mkdir()
        save_file(write_state_dict(tower.state_dict(), "huggingface"), folder / "hf/model.safetensors")
        (folder / "hf/config.json").write_text(json.dumps(build_text_config(tower)))

    def write_authors(folder: Path) -> None:
        torch.save(write_state_dict(tower.state_dict(), "rtd"), folder / "rtd.pt")

    def write_archive(folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.jit.trace_module(open_clip.CLIP(**MODEL).visual.ln_post, {"forward": torch.zeros(1, WIDTH)})
            torch.jit.save(module, folder / "clip.jit")

    def read_backbone(name: str) -> Read:
        def read(folder: Path) -> None:
            backbone = Backbone(model=str(folder / "model.json"), checkpoint=folder / name)
            backbone.load_text_tower()
            backbone.load_image_encoder()

        return read

    def read_run(folder: Path) -> None:
        read_info(folder / "run/text_encoder.safetensors")
        load_text_encoder(folder / "run")
        read_weights(folder / "run")

    def read_projection(folder: Path) -> None:
        load_projection(plugins.find_adapter("lincir"), folder / "phi.pt", WIDTH, WIDTH)

    def read_checkpoints(folder: Path) -> None:
        store = CheckpointStore(folder / "run", 2)
        step = store.list_steps()[-1]
        store.read_progress(step)
        module = load_tower(dict(tower.state_dict()))
        store.load(step, module, torch.optim.AdamW(module.parameters()), None)

    def resume(folder: Path) -> None:
        overrides = ["validation=null", "evaluation=null", "steps=7"]
        train(folder / "tiny.yaml", output=folder / "run", overrides=overrides, resume=True)

    run = _from_inputs("run")
    encoder = "run/text_encoder.safetensors"
    checkpoints = "run/checkpoints/step-000006/*"
    return [
        Reader("weights-openai", _from_inputs("clip.pt"), lambda folder: read_weights(folder / "clip.pt"), "clip.pt"),
        Reader("weights-folder", write_huggingface, lambda folder: read_weights(folder / "hf"), "hf/*"),
        Reader("weights-authors", write_authors, lambda folder: read_weights(folder / "rtd.pt"), "rtd.pt"),
        Reader("weights-archive", write_archive, lambda folder: read_weights(folder / "clip.jit"), "clip.jit"),
        Reader("weights-run", run, read_run, encoder),
        Reader("backbone", _from_inputs("clip.pt", "model.json"), read_backbone("clip.pt"), "*.*"),
        Reader("projection", _from_inputs("phi.pt"), read_projection, "phi.pt"),
        Reader("checkpoint", run, read_checkpoints, checkpoints),
        Reader("resumed-run", _write_inputs, resume, "run/*", changes=True),
    ]


def _list_benchmark_readers() -> list[Reader]:
    def read(name: str, split: str | None, **options: Any) -> Read:
        def read(folder: Path) -> None:
            benchmark = make_benchmark(name, folder, split, options, False)
            queries, gallery = benchmark.queries(), benchmark.gallery()
            benchmark.remarks()
            for image in islice((*gallery, *(query.reference for query in queries)), 3):
                benchmark.image(image)

        return read

    mutated = {
        "cirr": "cirr/*/*.val.json",
        "circo": "**/*.json",
        "fashioniq": "**/*.json",
        "genecis": "*.json",
        "pinpoint": "*.*",
        "folder": "queries.csv",
    }
    missing = (FileNotFoundError,)  # by contract of `Benchmark`: there is no such image
    return [Reader(name, WRITERS[name], read(name, None), pattern, missing) for name, pattern in mutated.items()]


def _make_index_reader() -> Reader:
    size = 4
    schema = pa.schema([("image", pa.string()), ("stamp", pa.string()), ("vector", pa.list_(pa.float32(), size))])
    rows = [{"image": f"{i}.png", "stamp": "1", "vector": [float(i == j) for j in range(size)]} for i in range(size)]

    def write(folder: Path) -> None:
        store = FaissStore(str(folder / "gallery.faiss"))
        store.create(schema, {"tower": "t", "folder": "f", "columns": {}})
        store.add(pa.Table.from_pylist(rows, schema))

    def read(folder: Path) -> None:
        store = FaissStore(str(folder / "gallery.faiss"))
        store.read_settings()
        store.read_rows(["image", "stamp"])
        store.search(np.full(size, 0.5, np.float32), 3, None, True)

    return Reader("index", write, read, "gallery.faiss/*")


def _list_other_readers() -> list[Reader]:
    picture = Image.linear_gradient("L").resize((24, 18)).convert("RGB")

    def make_picture_reader(name: str, **options: Any) -> Reader:
        def write(folder: Path) -> None:
            (picture.convert("P") if name == "palette.png" else picture).save(folder / name, **options)

        return Reader(f"picture-{name}", write, lambda folder: open_image(folder / name).convert("RGB"), name)

    names = ("a.png", "a.jpg", "a.webp", "a.gif", "a.bmp", "a.tiff", "a.ppm", "palette.png")
    pictures = [make_picture_reader(name) for name in names]
    pictures.append(make_picture_reader("several.gif", save_all=True, append_images=[picture.rotate(90)]))
    pictures.append(make_picture_reader("packed.tiff", compression="tiff_lzw"))

    def read_patch(folder: Path) -> None:
        read_manifest(folder / "patch").to_dict()

    return [
        *pictures,
        Reader("manifest", _from_inputs("patch"), read_patch, "patch/manifest.json"),
        _make_index_reader(),
    ]


def list_readers(inputs: Path) -> list[Reader]:
    """Return all readers, whose files are made from the inputs of `scenarios.make_inputs`, a run and a patch."""
    global INPUTS
    INPUTS = inputs
    return [
        *_list_recipe_readers(),
        *_list_triplet_readers(),
        *_list_caption_readers(),
        *_list_weight_readers(),
        *_list_benchmark_readers(),
        *_list_other_readers(),
    ]
