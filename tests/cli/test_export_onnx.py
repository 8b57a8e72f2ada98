"""`rtd-plugin export --layout onnx`: graphs that give torch's features without torch."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

import rtd_plugin
from rtd_plugin.clip.tokens import pad
from rtd_plugin.contract import plugins
from rtd_plugin.contract.adapter import load_projection

PROGRAM = """
import sys
import numpy as np, onnxruntime

project, compose = (onnxruntime.InferenceSession(f"graphs/{name}.onnx") for name in ("projection", "composed_query"))
inputs = np.load("inputs.npz")
outputs = {}
for batch in "abc":
    (outputs[f"pseudo_{batch}"],) = project.run(None, {"features": inputs[f"features_{batch}"]})
    pseudo_tokens = outputs[f"pseudo_{batch}"]
    values = {"tokens": inputs[f"tokens_{batch}"], "pseudo_tokens": pseudo_tokens}
    (outputs[f"composed_{batch}"],) = compose.run(None, values)
np.savez("outputs.npz", **outputs)
print(compose.get_modelmeta().custom_metadata_map, "torch" in sys.modules)
"""


@pytest.mark.slow
def test_graphs_give_torchs_values_without_torch(rtd, finished_run, files, tmp_path):
    """For batches and lengths other than those of the export, up to the longest text."""
    pytest.importorskip("onnxruntime")
    done = rtd("export", finished_run, "--layout", "onnx", "graphs", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == {"file": "graphs", "layout": "onnx"}
    assert sorted(path.name for path in (tmp_path / "graphs").iterdir()) == ["composed_query.onnx", "projection.onnx"]

    adapter, tower = plugins.find_adapter("lincir"), rtd_plugin.load_text_encoder(finished_run)
    projection = load_projection(adapter, files / "phi.pt", tower.features, tower.width)
    batches = {"a": ["is red"], "b": ["is", "is a kettle " * 40, "has laces"], "c": [f"has {n} dogs" for n in range(9)]}
    inputs, expected = {}, {}
    for name, conditions in batches.items():
        tokens = pad([adapter.prompt.encode(condition=condition) for condition in conditions])
        features = torch.randn(len(conditions), tower.features)
        inputs |= {f"tokens_{name}": tokens, f"features_{name}": features}
        expected[f"pseudo_{name}"] = projection(features)
        expected[f"composed_{name}"] = tower.encode(tokens, expected[f"pseudo_{name}"], adapter.prompt.placeholder_id)
    np.savez(tmp_path / "inputs.npz", **inputs)
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
    assert "'prompt': 'a photo of $ that {condition}'" in done.stdout
    assert "'placeholder_id': '259'" in done.stdout
    assert "'context_length': '77'" in done.stdout
    with np.load(tmp_path / "outputs.npz") as file:
        outputs = dict(file)
    assert set(outputs) == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(torch.from_numpy(outputs[name]), values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_a_missing_extra_is_one_sentence(rtd, finished_run, monkeypatch, tmp_path, package):
    monkeypatch.setitem(sys.modules, "onnxruntime", sys)
    monkeypatch.setitem(sys.modules, "onnxscript", sys)
    monkeypatch.setitem(sys.modules, package, None)
    done = rtd("export", finished_run, "--layout", "onnx", "graphs")
    assert done.exit_code == 1
    assert done.stderr == f"Error: writing ONNX needs {package}: install it with `pip install 'rtd-plugin[onnx]'`\n"
    assert list(tmp_path.iterdir()) == []


def test_impossible_exports_are_refused(rtd, finished_run, monkeypatch, tmp_path):
    for package in ("onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, sys)
    (tmp_path / "notes.txt").touch()
    done = rtd("export", finished_run, "--layout", "onnx", ".")
    assert (done.exit_code, "holds other files: name a new folder" in done.stderr) == (2, True)
    with monkeypatch.context() as patch:
        patch.setattr(type(plugins.find_adapter("lincir")), "project", lambda self, projection, inputs: None)
        done = rtd("export", finished_run, "--layout", "onnx", "graphs")
    assert (done.exit_code, "lincir: its projection reads more than images' features" in done.stderr) == (1, True)
    (tmp_path / "alone.safetensors").write_bytes((finished_run / "text_encoder.safetensors").read_bytes())
    done = rtd("export", "alone.safetensors", "--layout", "onnx", "graphs")
    assert (done.exit_code, "no recipe.yaml beside the text encoder" in done.stderr) == (1, True)


def test_an_exporter_that_fails_is_named_by_its_version(rtd, finished_run, monkeypatch, tmp_path):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **kwargs: 1 / 0)
    done = rtd("export", finished_run, "--layout", "onnx", "graphs")
    assert done.exit_code == 1
    expected = rf"Error: torch {re.escape(torch.__version__)} .*cannot write this graph \(ZeroDivisionError\)"
    assert re.search(expected, done.stderr)
    assert not (tmp_path / "graphs").exists()
