"""`rtd-plugin patch` and `doctor`: what they print, in words and as JSON, and with which exit codes."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from rtd_plugin import hookimpl
from rtd_plugin.contract import plugins
from rtd_plugin.patching.manifest import Manifest, read_manifest

HOSTS = Path(__file__).parents[1] / "patching/hosts"


@pytest.fixture
def copy_host(tmp_path):
    return lambda name: shutil.copytree(HOSTS / name, tmp_path / "code")


def test_patch_shows_the_host_the_changes_and_the_next_commands(rtd, finished_run, copy_host, tmp_path):
    root = copy_host("searle")
    done = rtd("patch", "code/src", "--weights", finished_run)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        f"Host     {root} (searle)",
        "Point    src/encode_with_pseudo_tokens.py:7  encode_with_pseudo_tokens"
        "(clip_model, text, pseudo_tokens, num_tokens=1)",
        f"Weights  {finished_run}/text_encoder.safetensors, step 6",
        "         tuned from model for lincir; the host's CLIP is checked at the first composed query",
        "         note: tuned for lincir, whose prompt may differ from searle's",
        "Changes  Composed queries use the tuned text encoder. Plain texts, images, the projection and training code",
        "         keep the weights that the host loads; no file of the host is changed.",
        "Needs    Python 3.8 and torch 1.11 or newer; rtd-plugin need not be installed there",
        f"Wrote    {tmp_path}/code-rtd-patch",
        "",
        "Next:",
        f"  cd {root}",
        f"  rtd-plugin run {tmp_path}/code-rtd-patch -- python src/validate.py --eval-type phi --dataset cirr …",
        "or, for all Python started from a shell,",
        f"  source {tmp_path}/code-rtd-patch/activate",
    ]


def test_options_reach_the_manifest(rtd, finished_run, copy_host, tmp_path):
    copy_host("pic2word")
    options = ["--adapter", "pic2word", "--output", "out", "--blend", "0.5", "--force", "--no-shim", "distributed"]
    done = rtd("patch", "code", "--weights", finished_run, *options)
    assert done.exit_code == 0, done.output
    assert "the host's CLIP is not checked (--force)" in done.stdout
    assert "Composed queries use a blend, 0.5 of it tuned." in done.stdout
    assert "distributed: the evaluation reads args.distributed, which is never set (not repaired)" in done.stdout
    assert "PYTHONPATH=src:. rtd-plugin run " in done.stdout
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.blend, manifest.force, len(manifest.shims)) == (0.5, True, 2)


def test_json_has_the_manifest_and_the_next_commands(rtd, finished_run, copy_host, tmp_path):
    copy_host("lincir")
    content = json.loads(rtd("patch", "code", "--weights", finished_run, "--json").stdout)
    assert content["patch"] == f"{tmp_path}/code-rtd-patch"
    assert content["adapter"] == "lincir"
    assert [point["file"] for point in content["points"]] == [
        "encode_with_pseudo_tokens.py",
        "genecis/eval_functions.py",
    ]
    assert content["weights"]["base"] == "model"
    assert content["next"][0] == f"cd {tmp_path}/code"
    assert json.loads(rtd("patch", "code", "--remove", "--json").stdout) == {"removed": f"{tmp_path}/code-rtd-patch"}
    assert not (tmp_path / "code-rtd-patch").exists()


def test_the_newest_run_is_used(rtd, finished_run, copy_host, tmp_path):
    copy_host("searle")
    done = rtd("patch", "code")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "runs: no finished run in this folder" in done.stderr
    shutil.copytree(finished_run, tmp_path / "runs/mine")
    assert "runs/mine/text_encoder.safetensors" in rtd("patch", "code").stdout


def test_weights_without_a_recorded_base_are_noted(rtd, finished_run, copy_host):
    copy_host("searle")
    assert rtd("export", finished_run, "--layout", "rtd", "authors.pt").exit_code == 0
    done = rtd("patch", "code", "--weights", "authors.pt")
    assert "no base recorded: cannot check that the host's CLIP is the one it was tuned from" in done.stdout


def test_a_patch_is_removed(rtd, finished_run, copy_host, tmp_path):
    copy_host("searle")
    rtd("patch", "code", "--weights", finished_run)
    done = rtd("patch", "code", "--remove")
    assert (done.exit_code, done.stdout) == (0, f"Removed {tmp_path}/code-rtd-patch.\n")
    assert rtd("patch", "code", "--remove").exit_code == 1
    rtd("patch", "code", "--weights", finished_run, "--output", "out")
    assert rtd("patch", "out", "--remove").stdout == f"Removed {tmp_path}/out.\n"


def test_nothing_is_written_when_it_fails(rtd, finished_run, copy_host, tmp_path):
    copy_host("searle")
    for options in (["--blend", "2"], ["--no-shim", "x"], ["--output", "code/inside"], ["--adapter", "lincir"]):
        assert rtd("patch", "code", "--weights", finished_run, *options).exit_code in (1, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["code"]


def test_weights_that_are_not_finite_are_refused(rtd, finished_run, copy_host, tmp_path):
    copy_host("searle")
    weights = load_file(finished_run / "text_encoder.safetensors")
    weights["ln_final.bias"][0] = float("nan")
    save_file(weights, tmp_path / "nan.safetensors")
    done = rtd("patch", "code", "--weights", "nan.safetensors")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "ln_final.bias has infinite or NaN values" in " ".join(done.stderr.split())
    assert not (tmp_path / "code-rtd-patch").exists()


def test_hook_rtd_host_patched(rtd, finished_run, copy_host, tmp_path):
    copy_host("searle")
    manifests = []

    class Recorder:
        @hookimpl
        def rtd_host_patched(self, manifest):
            assert read_manifest(manifest.folder) == manifest
            manifests.append(manifest)

    with plugins.use_plugins(Recorder()):
        rtd("patch", "code", "--weights", finished_run, "--blend", "3")
        assert manifests == []
        rtd("patch", "code", "--weights", finished_run)
    (manifest,) = manifests
    assert isinstance(manifest, Manifest)
    assert manifest.folder == tmp_path / "code-rtd-patch"


def test_a_host_in_a_folder_of_its_checkout_is_patched_beside_the_checkout(rtd, copy_host, finished_run, tmp_path):
    copy_host("pic2word")
    (tmp_path / "checkout").mkdir()
    (tmp_path / "code").rename(tmp_path / "checkout/src")
    content = json.loads(rtd("patch", "checkout", "--weights", finished_run, "--json").stdout)
    assert content["patch"] == str(tmp_path / "checkout-rtd-patch")
    assert content["host"] == str(tmp_path / "checkout/src")
    assert sorted(path.name for path in (tmp_path / "checkout").iterdir()) == ["src"]
    assert rtd("patch", "checkout", "--remove").exit_code == 0
    assert not (tmp_path / "checkout-rtd-patch").exists()


@pytest.mark.slow
def test_doctor_finds_the_lost_causal_mask(rtd, copy_host, tmp_path):
    """This transformers swallows LinCIR's argument: no error, and wrong features."""
    copy_host("lincir")
    (tmp_path / "code/extra.py").write_text(
        "import json, no_such_package.module\ntry:\n    import no_other\nexcept: ...\n"
    )
    done = rtd("doctor", "code", "--json")
    assert done.exit_code == 1
    content = json.loads(done.stdout)
    assert (content["right"], content["adapter"]) == (False, "lincir")
    assert {point["outcome"] for point in content["points"]} == {"wrong"}
    assert min(point["difference"] for point in content["points"]) > 0.1
    assert [fault["package"] for fault in content["known_faults"]] == ["transformers"]
    assert content["missing_packages"] == {"no_such_package": ["extra.py"]}
    assert [shim["name"] for shim in content["shims"]] == ["causal-mask"]


@pytest.mark.slow
def test_doctor_does_not_change_a_host_that_composes_correctly(rtd, copy_host, tmp_path):
    copy_host("pic2word")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = rtd("doctor", "code")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("correct here: equals an exact causal encoding up to") == 2
    assert f"Host     {tmp_path}/code (pic2word)" in done.stdout
    assert "Shim     gallery-names: " in done.stdout
    assert done.stdout.splitlines()[-1] == "The host composes correctly here."
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_doctor_reports_a_host_that_fails(rtd, copy_host, tmp_path):
    copy_host("searle")
    file = tmp_path / "code/src/encode_with_pseudo_tokens.py"
    file.write_text(f"import no_such_package\n{file.read_text()}")
    done = rtd("doctor", "code")
    assert done.exit_code == 1
    assert "fails here: ModuleNotFoundError: No module named 'no_such_package'" in done.stdout
    assert "Do: install the missing packages" in done.stdout
    assert done.stdout.splitlines()[-1] == (
        "A patch would not compose here either, until this is fixed: "
        "ModuleNotFoundError: No module named 'no_such_package'"
    )


@pytest.mark.parametrize(
    "code",
    [
        "import atexit; atexit.register(print, '[' * 100_000); atexit.register(print, '{}')",
        "import os; os.write(2, b'\\xff' * 100_000); os._exit(0)",
        "import os, tempfile; os.chdir(tempfile.mkdtemp()); os.rmdir(os.getcwd()); raise OSError('no folder')",
    ],
    ids=["prints at exit", "ends at once", "removes its folder"],
)
def test_doctor_judges_a_host_that_prints_anything(rtd, copy_host, tmp_path, code):
    copy_host("searle")
    file = tmp_path / "code/src/encode_with_pseudo_tokens.py"
    file.write_text(f"{code}\n{file.read_text()}")
    done = rtd("doctor", "code", "--json")
    (point,) = json.loads(done.stdout)["points"]
    assert point["outcome"] == ("exact" if "atexit" in code else "failed")
    assert len(point["message"]) <= 2000


def test_doctor_names_batches_that_the_adapter_misreads(rtd, copy_host, tmp_path, monkeypatch):
    copy_host("searle")
    report = {"outcome": "misread", "difference": 1e-7, "message": "texts without …", "patchable": True}
    monkeypatch.setattr("rtd_plugin.patching.doctor._check_in_process", lambda arguments: report)
    done = rtd("doctor", "code")
    assert done.exit_code == 1
    assert "the adapter reads some batches differently: texts without …" in done.stdout
    assert done.stdout.splitlines()[-1] == "A patch would not compose as the host does: the adapter has to be fixed."


@pytest.mark.slow
def test_doctor_recommends_a_patch_last(rtd, copy_host, tmp_path):
    """A patch helps where the host's function is wrong."""
    copy_host("lincir")
    lines = rtd("doctor", "code").stdout.splitlines()
    assert lines[-1].startswith("Do: patch the host (`rtd-plugin patch`): composed queries then bypass")


def test_doctor_stops_a_host_that_hangs(rtd, copy_host, tmp_path, monkeypatch):
    """Its process is ended at the time limit; a child that it started does not keep the doctor waiting."""
    copy_host("searle")
    file = tmp_path / "code/src/encode_with_pseudo_tokens.py"
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1e6)'])"
    file.write_text(f"import subprocess, sys, time\n{child}\ntime.sleep(1e6)\n{file.read_text()}")
    monkeypatch.setattr("rtd_plugin.patching.doctor.TIME_LIMIT", 0.2)
    done = rtd("doctor", "code")
    assert done.exit_code == 1
    assert "fails here: not finished after 0.2 seconds: the import of the host, or its" in done.stdout
