"""Two processes, each with half of a batch, against one with all of it."""

import socket

import numpy as np
import pytest
import torch
from batch_loss import compute_batch_loss

from rtd_plugin.training.recipe import Objective

HALF = 3


@pytest.fixture
def in_two_processes(start):
    """Run `two_processes.py` as `torchrun --nproc-per-node 2` would."""

    def in_two_processes(**names):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        processes = [
            start("two_processes.py", ENVIRONMENT={**environment, "RANK": rank, "LOCAL_RANK": rank}, **names)
            for rank in ("0", "1")
        ]
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0]

    return in_two_processes


@pytest.mark.slow
def test_two_processes_are_one_with_the_joined_batch(make_run, recipe_file, tmp_path, train_run, in_two_processes):
    """With gathered negatives; with local ones, loss and gradients are the mean of the halves'."""
    overrides = ["steps=4", "accumulation=2", "objective.noise_scale=0", "objective.negatives=gathered"]
    in_two_processes(RECIPE=recipe_file, FOLDER=tmp_path / "two", OVERRIDES=[*overrides, "batch_size=2"])
    results = torch.load(tmp_path / "two" / "results.pt", weights_only=True)
    assert results["processes"] == 2

    run = make_run()
    tower = run.tower.requires_grad_(True)

    def compute_in_one_process(*batches):
        tower.zero_grad()
        losses = [compute_batch_loss(run, tower, np.array(rows), Objective(noise_scale=0)) for rows in batches]
        torch.stack(losses).mean().backward()
        return torch.stack(losses).detach(), [parameter.grad for parameter in tower.parameters()]

    joined = compute_in_one_process(range(2 * HALF))
    halves = compute_in_one_process(range(HALF), range(HALF, 2 * HALF))
    assert not torch.allclose(joined[0], halves[0])
    for name, (losses, gradients) in {"gathered": joined, "local": halves}.items():
        torch.testing.assert_close(results[name]["loss"], losses.expand(2))
        for one, other in zip(results[name]["gradients"], gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())

    weights, _ = train_run("one", *overrides, "batch_size=4")
    for name, weight in weights.items():
        if name.endswith("in_proj_bias"):  # a key's bias has no gradient but rounding error, which Adam blows up
            continue
        torch.testing.assert_close(results["weights"][name], weight, rtol=1e-4, atol=1e-5, msg=name)

    assert results["reductions"] == 4, "one a step, of loss and interrupts"
    for exact, rounded in zip(results["fp32"], results["bf16"], strict=True):
        assert torch.equal(rounded, rounded.bfloat16().float())
        torch.testing.assert_close(rounded, exact, rtol=2e-2, atol=1e-2 * exact.abs().max().item())
    assert not all(torch.equal(exact, exact.bfloat16().float()) for exact in results["fp32"])
