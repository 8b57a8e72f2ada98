"""Work on a local Ray cluster of two workers: the same results as without it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from rtd_plugin.cli.main import main
from rtd_plugin.contract import plugins
from rtd_plugin.errors import RTDError
from rtd_plugin.ray_tasks import RayTasks
from rtd_plugin.search import indexing
from rtd_plugin.workflows.index import build_index

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own


@pytest.fixture(scope="module")
def cluster():
    """The address of a cluster of two workers."""
    ray = pytest.importorskip("ray")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield context.address_info["address"]
    ray.shutdown()


def test_results_come_in_the_order_of_the_jobs(cluster):
    def work(shared, job):
        import time

        time.sleep(0.05 * (job % 3))
        return shared * job

    assert list(RayTasks("auto").map(work, range(12), 3)) == [3 * job for job in range(12)]


def test_jobs_are_taken_as_results_are_consumed(cluster):
    taken = []

    def list_jobs():
        for job in range(100):
            taken.append(job)
            yield job

    results = RayTasks("auto").map(lambda shared, job: job, list_jobs(), None)
    assert next(results) == 0
    assert len(taken) == 5


def test_a_killed_worker_costs_its_block_alone(cluster, tmp_path):
    log = tmp_path / "log"

    def work(folder, job):
        with open(f"{folder}/log", "a") as file:
            file.write(f"{job}\n")
        if job == 3 and not os.path.exists(f"{folder}/killed"):
            open(f"{folder}/killed", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return job

    assert list(RayTasks("auto").map(work, range(8), str(tmp_path))) == list(range(8))
    assert sorted(map(int, log.read_text().split())) == [0, 1, 2, 3, 3, 4, 5, 6, 7]


def test_a_block_that_fails_says_why(cluster):
    def fail(shared, job):
        raise RTDError("a.png: cannot be read")

    with pytest.raises(RTDError, match=r"^a\.png: cannot be read"):
        list(RayTasks("auto").map(fail, [1], None))

    def die(shared, job):
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RTDError, match="was killed 6 times"):
        list(RayTasks("auto").map(die, [1], None))


def test_triplets_are_those_of_one_machine(cluster, tmp_path, monkeypatch):
    """From the command line, in a process of its own that joins the cluster by its address."""
    pytest.importorskip("spacy")
    things, places = ("dog", "cat", "bird", "horse"), ("on the grass", "in the water", "near a tree", "on the street")
    colours = ("brown", "white", "black")
    captions = [f"a {colour} {thing} runs {place}" for thing in things for place in places for colour in colours]
    (tmp_path / "captions.txt").write_text("\n".join(captions) + "\n")
    program = "import sys; from rtd_plugin.generation.rules import build; build.CHUNK = 10\n"
    program += "from rtd_plugin.cli.main import main; main(sys.argv[1:])"
    command = ["triplets", "build", "rules", tmp_path / "captions.txt", "--json", "--output"]

    def build(name, *options):
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, (*command, tmp_path / name, *options))],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return {key: value for key, value in json.loads(done.stdout).items() if key != "output"}

    here = build("here.jsonl", "--workers", 1)
    assert build("there.jsonl", "--ray", cluster) == here
    assert here["triplets"] > 20
    assert (tmp_path / "there.jsonl").read_bytes() == (tmp_path / "here.jsonl").read_bytes()
    assert not (tmp_path / "there.jsonl.parts").exists()


def test_an_index_is_that_of_one_machine(cluster, tmp_path, monkeypatch):
    """With images that cannot be read, and relative paths."""
    pytest.importorskip("lancedb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(indexing, "ROWS", 4)
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(10):
        Image.new("RGB", (40 + index, 30), (25 * index, 100, 50)).save(folder / f"{index}.png")
    (folder / "broken.png").write_bytes(b"no image")
    options = {"adapter": "lincir", "recipe": "lincir-miniature", "device": "cpu"}
    here = build_index("images", "here.lance", **options)
    command = "index images --output there.lance --recipe lincir-miniature --device cpu --json --ray auto"
    done = CliRunner().invoke(main, command.split())
    assert done.exit_code == 0, done.stderr
    there = json.loads(done.stdout)
    for key in ("images", "added", "removed", "unreadable"):
        assert there[key] == here[key]
    assert (there["images"], list(there["unreadable"])) == (10, ["broken.png"])
    tables = []
    for name in ("here", "there"):
        rows = plugins.find_gallery_store(f"{name}.lance").read_rows(["image", "stamp", "vector"]).sort_by("image")
        vectors = torch.tensor(rows["vector"].to_pylist())
        tables.append((rows["image"].to_pylist(), rows["stamp"].to_pylist(), vectors))
    assert tables[0][:2] == tables[1][:2]
    torch.testing.assert_close(tables[0][2], tables[1][2], atol=1e-6, rtol=0)


def test_a_missing_cluster_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    program = "import sys; from rtd_plugin.ray_tasks import RayTasks; RayTasks(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", program, address], capture_output=True, text=True)
    assert f"RTDError: --ray {address}: no Ray cluster" in done.stderr
    assert "start one with `ray start --head`, or name its address" in done.stderr


def test_each_script_of_the_page_is_valid_shell(tmp_path):
    """`docs/clusters.md`: bash can parse them, and their commands exist."""
    text = (Path(__file__).parents[1] / "docs/clusters.md").read_text()
    scripts = [block.partition("```")[0] for block in text.split("```bash\n")[1:]]
    assert len(scripts) == 3
    for script in scripts:
        assert subprocess.run([shutil.which("bash"), "-n"], input=script, text=True).returncode == 0
        assert "--requeue" in script
