"""Patch folders: written whole, outside the host, read back, removed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from rtd_plugin.clip.layouts import write_state_dict
from rtd_plugin.clip.tuned_encoder import find_newest_run, read_weights
from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.patching.function_reference import format_reference
from rtd_plugin.patching.manifest import default_folder, find_patch, read_manifest
from rtd_plugin.patching.patch_folder import find_removable, remove_patch


def list_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_manifest_is_read_back(patch_host, files):
    manifest = patch_host("searle", blend=0.5, force=True)
    files_of_patch = [name for name in list_files(manifest.folder) if not name.startswith("code/")]
    assert files_of_patch == [
        "activate",
        "activate.fish",
        "manifest.json",
        "site/sitecustomize.py",
        "text_encoder.safetensors",
    ]
    assert read_manifest(manifest.folder) == manifest
    (point,) = manifest.points
    assert point.signature == "(clip_model, text, pseudo_tokens, num_tokens=1)"
    assert point.read == "rtd_adapters.searle:read_composition"
    assert manifest.training_files == ("src/train_*.py", "src/oti_inversion.py")
    weights = manifest.weights
    assert (weights.base, weights.adapter, weights.step, weights.heads) == ("ViT-Tiny (base)", "searle", 12, 1)
    assert len(weights.digest) == 64
    assert (manifest.blend, manifest.force) == (0.5, True)
    assert "@SITE@" not in "".join(path.read_text() for path in manifest.folder.glob("activate*"))


def test_a_manifest_lacks_shims_that_are_switched_off(patch_host):
    manifest = patch_host("pic2word", without_shims=["gallery-names"])
    assert [shim.name for shim in manifest.shims] == ["distributed", "swallowed-errors"]
    assert manifest.shims[0].repair == "rtd_adapters.pic2word_shims:set_distributed"


def test_only_a_patch_folder_is_replaced(patch_host, copy_host, tmp_path):
    root = copy_host("searle")
    patch_host(root)
    assert patch_host(root, blend=0.5).blend == read_manifest(tmp_path / "patch").blend == 0.5
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    with pytest.raises(UsageError, match="mine: exists and is not a patch folder"):
        patch_host(root, folder="mine")
    assert list_files(tmp_path / "mine") == ["notes.txt"]
    with pytest.raises(UsageError, match="lies inside the host, which is never changed"):
        patch_host(root, folder=f"{root.name}/patch")


@pytest.mark.parametrize("blend", [-0.1, 1.1, float("nan")])
def test_a_blend_outside_0_to_1_is_refused(patch_host, blend):
    with pytest.raises(UsageError, match="is not between 0"):
        patch_host("searle", blend=blend)


def test_removal_keeps_files_of_the_user(patch_host, tmp_path):
    folder = patch_host("searle").folder
    (folder / "site/__pycache__").mkdir()
    (folder / "code/rtd_plugin/__pycache__").mkdir()
    (folder / "code/rtd_plugin/__pycache__/errors.cpython-38.pyc").touch()
    (folder / "notes.txt").touch()
    (folder / "code/rtd_plugin/notes.txt").touch()
    remove_patch(folder)
    assert list_files(folder) == ["code/rtd_plugin/notes.txt", "notes.txt"], "they belong to the user"
    with pytest.raises(RTDError, match="not a patch folder"):
        remove_patch(folder)
    folder = patch_host("searle", folder="other").folder
    remove_patch(folder)
    assert not folder.exists()


@pytest.mark.parametrize("interrupted_at", range(6))
def test_an_interrupted_removal_can_be_repeated(patch_host, tmp_path, monkeypatch, interrupted_at):
    """Also when only the empty folder is left."""
    manifest = patch_host("searle", folder="checkout 0-rtd-patch")
    steps = iter(range(100))

    def interrupt(step):
        def run(path, *args, **kwargs):
            if next(steps) == interrupted_at:
                raise KeyboardInterrupt
            return step(path, *args, **kwargs)

        return run

    with monkeypatch.context() as patches:
        patches.setattr(Path, "unlink", interrupt(Path.unlink))
        patches.setattr(Path, "rmdir", interrupt(Path.rmdir))
        with pytest.raises(KeyboardInterrupt):
            remove_patch(manifest.folder)
    assert manifest.folder.exists()
    assert find_removable(Path(manifest.host)) == find_removable(manifest.folder) == manifest.folder
    remove_patch(manifest.folder)
    assert not manifest.folder.exists()


@pytest.mark.parametrize("name", ["notes.txt", "site/notes.txt", "code/rtd_plugin/notes.txt"])
def test_a_patch_folder_with_files_of_the_user_is_not_replaced(patch_host, copy_host, name):
    root = copy_host("searle")
    folder = patch_host(root).folder
    (folder / "site/__pycache__").mkdir()
    patch_host(root)
    (folder / name).touch()
    before = list_files(folder)
    with pytest.raises(UsageError, match=f"would be replaced, but holds {name}, which is not part of the patch"):
        patch_host(root, blend=0.5)
    assert list_files(folder) == before
    assert read_manifest(folder).blend == 1


def test_a_host_stands_for_the_patch_beside_it(patch_host, copy_host, tmp_path):
    root = copy_host("searle")
    with pytest.raises(RTDError, match="neither a patch folder nor a host with one beside it"):
        find_patch(root)
    manifest = patch_host(root, folder=default_folder(root).name)
    assert default_folder(root).name == f"{root.name}-rtd-patch"
    for given in (root, root / "src", manifest.folder):
        assert find_patch(given) == manifest


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 2, "points": 3}'])
def test_a_broken_manifest_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RTDError, match=r"manifest\.json: not a readable manifest of a patch: patch the host again"):
        read_manifest(tmp_path)


def test_a_newer_manifest_is_refused(patch_host):
    folder = patch_host("searle").folder
    values = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**values, "format": 3, "version": "9.1", "more": 1}))
    with pytest.raises(RTDError, match=r"written by rtd-plugin 9\.1 in format 3, but this version reads format 2"):
        read_manifest(folder)


def test_functions_that_other_processes_cannot_import_are_refused():
    assert format_reference(read_manifest) == "rtd_plugin.patching.manifest:read_manifest"
    for function in (
        lambda: None,
        test_functions_that_other_processes_cannot_import_are_refused.__class__(list_files.__code__, {}),
    ):
        function.__module__ = "__main__"
        with pytest.raises(RTDError, match="hosts' processes cannot import it"):
            format_reference(function)


def test_a_run_and_its_file_are_the_same_weights(files):
    one, other = read_weights(files.run), read_weights(files.run / "text_encoder.safetensors")
    assert one == other
    assert one.base_probe is not None


def test_a_folder_of_save_pretrained_is_read(files, tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPTextConfig(vocab_size=300, projection_dim=32, hidden_act="gelu", **sizes)
    CLIPTextModelWithProjection(config).save_pretrained(tmp_path / "tuned")
    weights = read_weights(tmp_path / "tuned")
    assert (weights.activation, weights.heads, weights.base) == ("gelu", 4, None)
    assert weights.path == str((tmp_path / "tuned/model.safetensors").resolve())
    text = {**sizes, "projection_dim": 32}
    configs = [
        ({"text_config": sizes, "text_config_dict": {**text, "hidden_act": "gelu"}}, ("gelu", 4)),
        ({"model_type": "clip_text_model", "hidden_size": 64, "num_hidden_layers": 2}, ("quick_gelu", 8)),
    ]
    for content, expected in configs:
        (tmp_path / "tuned/config.json").write_text(json.dumps(content))
        weights = read_weights(tmp_path / "tuned")
        assert (weights.activation, weights.heads) == expected, "left out values are the defaults of transformers"


def test_sharded_weights_are_read(tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = CLIPTextModelWithProjection(CLIPTextConfig(vocab_size=300, projection_dim=32, **sizes))
    model.save_pretrained(tmp_path / "tuned", max_shard_size="100KB")
    assert (tmp_path / "tuned/model.safetensors.index.json").is_file()
    weights = read_weights(tmp_path / "tuned")
    assert weights.path == str((tmp_path / "tuned/model.safetensors.index.json").resolve())
    torch.testing.assert_close(dict(weights.read()), dict(model.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(files, tmp_path, value):
    state = {name: weight.clone() for name, weight in files.tuned.state_dict().items()}
    state["ln_final.bias"][3] = value
    save_file(state, tmp_path / "bad.safetensors")
    with pytest.raises(RTDError, match=r"bad\.safetensors: ln_final\.bias has infinite or NaN values"):
        read_weights(tmp_path / "bad.safetensors")


def test_files_that_are_not_a_text_encoder_are_refused(files, tmp_path):
    with pytest.raises(RTDError, match="none: no such file or folder"):
        read_weights(tmp_path / "none")
    with pytest.raises(RTDError, match="no finished run and no weights in this folder"):
        read_weights(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(RTDError, match=r"x\.safetensors: not the weights of a CLIP text tower"):
        read_weights(tmp_path / "x.safetensors")
    state = write_state_dict(files.tuned.state_dict(), "rtd")
    del state["CLIPTextModelWithProjection"]["text_projection.weight"]
    torch.save(state, tmp_path / "authors.pt")
    with pytest.raises(RTDError, match=r"authors\.pt: missing key text_projection\.weight"):
        read_weights(tmp_path / "authors.pt")


def test_the_newest_run_is_the_default(tmp_path):
    import os

    with pytest.raises(UsageError, match=r"runs: no finished run in this folder: pass --weights"):
        find_newest_run(tmp_path / "runs")
    for age, name in enumerate("abc"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "text_encoder.safetensors").touch()
        os.utime(tmp_path / "runs" / name / "text_encoder.safetensors", (1e9 - age, 1e9 - age))
    assert find_newest_run(tmp_path / "runs").parent.name == "a"
