"""The program that measures training on a GPU works: on a CPU it runs a tiny tower."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the sides and counts of a machine without a GPU")
def test_the_program_for_gpus_runs_on_a_cpu(tmp_path):
    """It compares losses with the plain pair, and writes a row for each side."""
    output = tmp_path / "results.json"
    command = [sys.executable, BENCHMARKS / "gpu.py", "--sides", "authors,good,engine", "--triplets", "4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--output", output], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(output.read_text())
    assert {name for name, check in results["check"].items() if check["right"]} == {"fp32", "bf16"}
    assert [case["side"] for case in results["cases"]] == ["authors", "good", "engine"]
    for case in results["cases"]:
        assert case["ms"] > 0
        assert case["peak_share"] > 0
    assert done.stdout.count("| tiny | 4 |") == 3
