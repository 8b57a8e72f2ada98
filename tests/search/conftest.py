"""A run's folder and a catalogue of images."""

import json

import pytest
import torch
from safetensors.torch import save_file

from rtd_plugin.files import write_text
from rtd_plugin.workflows.catalogue import load_recipe
from rtd_plugin.workflows.loading import load_models

CONDITIONS = ["is a kettle", "has more children", "stands in the rain", "is red and has no laces", "is night"]


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run's folder with the miniature's recipe, and its text encoder with noise on all weights."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    write_text(folder / "recipe.yaml", load_recipe("lincir-miniature")[0])
    generator = torch.Generator().manual_seed(0)
    state = load_models(recipe="lincir-miniature").tower.state_dict()
    tuned = {name: weight + 0.01 * torch.randn(weight.shape, generator=generator) for name, weight in state.items()}
    save_file(tuned, folder / "text_encoder.safetensors")
    return folder


@pytest.fixture(scope="session")
def catalogue(write_dataset, tmp_path_factory):
    """A folder of twelve images, with queries."""
    folder = tmp_path_factory.mktemp("catalogue")
    write_dataset("folder", folder)
    names = [f"{index}.png" for index in range(8)]
    queries = [
        {"reference": names[index % 3], "condition": condition, "target": names[3 + index]}
        for index, condition in enumerate(CONDITIONS)
    ]
    (folder / "queries.csv").unlink()
    (folder / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    return folder
