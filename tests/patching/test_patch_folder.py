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


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_manifest_comes_back(patch_host, files):
    manifest = patch_host("searle", blend=0.5, force=True)
    assert names(manifest.folder) == ["activate", "activate.fish", "manifest.json", "site/sitecustomize.py"]
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


def test_shims_that_are_switched_off_are_not_in_it(patch_host):
    manifest = patch_host("pic2word", without_shims=["gallery-names"])
    assert [shim.name for shim in manifest.shims] == ["distributed", "swallowed-errors"]
    assert manifest.shims[0].repair == "rtd_adapters.pic2word_shims:set_distributed"


def test_a_patch_is_replaced_and_nothing_else_is(patch_host, copy_host, tmp_path):
    root = copy_host("searle")
    patch_host(root)
    assert patch_host(root, blend=0.5).blend == read_manifest(tmp_path / "patch").blend == 0.5
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    with pytest.raises(UsageError, match="mine: exists and is not a patch folder"):
        patch_host(root, folder="mine")
    assert names(tmp_path / "mine") == ["notes.txt"]
    with pytest.raises(UsageError, match="lies inside the host, which is never written to"):
        patch_host(root, folder=f"{root.name}/patch")


@pytest.mark.parametrize("blend", [-0.1, 1.1, float("nan")])
def test_a_blend_beyond_the_two(patch_host, blend):
    with pytest.raises(UsageError, match="is not between 0"):
        patch_host("searle", blend=blend)


def test_removing(patch_host, tmp_path):
    folder = patch_host("searle").folder
    (folder / "site/__pycache__").mkdir()
    (folder / "notes.txt").touch()
    remove_patch(folder)
    assert names(folder) == ["notes.txt"], "that is the user's"
    with pytest.raises(RTDError, match="not a patch folder"):
        remove_patch(folder)
    folder = patch_host("searle", folder="other").folder
    remove_patch(folder)
    assert not folder.exists()


@pytest.mark.parametrize("interrupted_at", range(6))
def test_an_interrupted_removal_can_be_repeated(patch_host, tmp_path, monkeypatch, interrupted_at):
    """Also when nothing but the empty folder is left of it."""
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


@pytest.mark.parametrize("name", ["notes.txt", "site/notes.txt"])
def test_a_patch_folder_with_files_of_the_user_is_not_replaced(patch_host, copy_host, name):
    root = copy_host("searle")
    folder = patch_host(root).folder
    (folder / "site/__pycache__").mkdir()
    patch_host(root)
    (folder / name).touch()
    before = names(folder)
    with pytest.raises(UsageError, match=f"would be replaced, but holds {name}, which is not part of the patch"):
        patch_host(root, blend=0.5)
    assert names(folder) == before
    assert read_manifest(folder).blend == 1


def test_a_host_means_the_patch_beside_it(patch_host, copy_host, tmp_path):
    root = copy_host("searle")
    with pytest.raises(RTDError, match="neither a patch folder nor a host with one beside it"):
        find_patch(root)
    manifest = patch_host(root, folder=default_folder(root).name)
    assert default_folder(root).name == f"{root.name}-rtd-patch"
    for given in (root, root / "src", manifest.folder):
        assert find_patch(given) == manifest


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "points": 3}'])
def test_a_broken_manifest(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RTDError, match=r"manifest\.json: not a readable manifest of a patch: patch the host again"):
        read_manifest(tmp_path)


def test_a_newer_manifest(patch_host):
    folder = patch_host("searle").folder
    values = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**values, "format": 2, "version": "9.1", "more": 1}))
    with pytest.raises(RTDError, match=r"written by rtd-plugin 9\.1 in format 2, but this version reads format 1"):
        read_manifest(folder)


def test_functions_that_no_other_process_could_import():
    assert format_reference(read_manifest) == "rtd_plugin.patching.manifest:read_manifest"
    for function in (lambda: None, test_functions_that_no_other_process_could_import.__class__(names.__code__, {})):
        function.__module__ = "__main__"
        with pytest.raises(RTDError, match="hosts' processes cannot import it"):
            format_reference(function)


def test_weights_of_a_run_and_of_a_file(files):
    one, other = read_weights(files.run), read_weights(files.run / "text_encoder.safetensors")
    assert one == other
    assert one.base_probe is not None


def test_weights_of_a_folder_of_save_pretrained(files, tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPTextConfig(vocab_size=300, projection_dim=32, hidden_act="gelu", **sizes)
    CLIPTextModelWithProjection(config).save_pretrained(tmp_path / "tuned")
    weights = read_weights(tmp_path / "tuned")
    assert (weights.activation, weights.heads, weights.base) == ("gelu", 4, None)
    assert weights.path == str((tmp_path / "tuned/model.safetensors").resolve())


def test_what_are_no_weights(files, tmp_path):
    with pytest.raises(RTDError, match="none: no such file or folder"):
        read_weights(tmp_path / "none")
    with pytest.raises(RTDError, match="no text encoder in this folder"):
        read_weights(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(RTDError, match=r"x\.safetensors: not the weights of a CLIP text tower"):
        read_weights(tmp_path / "x.safetensors")
    state = write_state_dict(files.tuned.state_dict(), "rtd")
    del state["CLIPTextModelWithProjection"]["text_projection.weight"]
    torch.save(state, tmp_path / "authors.pt")
    with pytest.raises(RTDError, match=r"authors\.pt: missing key text_projection\.weight"):
        read_weights(tmp_path / "authors.pt")


def test_the_newest_run(tmp_path):
    import os

    with pytest.raises(UsageError, match=r"runs: no finished run in this folder: pass --weights"):
        find_newest_run(tmp_path / "runs")
    for age, name in enumerate("abc"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "text_encoder.safetensors").touch()
        os.utime(tmp_path / "runs" / name / "text_encoder.safetensors", (1e9 - age, 1e9 - age))
    assert find_newest_run(tmp_path / "runs").parent.name == "a"
