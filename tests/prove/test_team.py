"""The training loop takes the same steps in several processes. This file is also the script that torchrun starts."""

import atexit
import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lbdl import fit
from tests.test_training import adam, network, samples, scripted, squared_error, weights

ROOT = Path(__file__).parents[2]


def train_in_team(rank):
    """Everything at once: momentum, clipping, a schedule, odd batches; and a metric on which processes differ."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    history = fit(
        model,
        samples(),
        squared_error,
        optimizer,
        6,
        schedule=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 18),
        clip=0.5,
        metrics={"rank": lambda m: float(rank), "error": scripted([5, 4, 3, 3 + rank, 3 + rank, 0])["error"]},
        watch="error",
        patience=2,
    )
    return model, history


def in_team(folder):
    """What one process of the team does and reports."""
    rank = int(os.environ["RANK"])

    @atexit.register  # first registered, last called
    def tell():
        (Path(folder) / f"{rank}.left").write_text(str(not torch.distributed.is_initialized()))

    model, history = train_in_team(rank)
    assert torch.distributed.is_initialized()
    report = {"weights": weights(model).tolist(), "history": copy.copy(history.__dict__)}
    try:
        fit(model, samples(1), squared_error, adam(model))
    except ValueError as error:
        report["error"] = str(error)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(report))


@pytest.fixture
def team(tmp_path):
    """The reports of two processes that torchrun started; nothing is reached but this machine."""
    run = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2"]
    meet = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LBDL_PROGRESS": "0"}
    script = ["-m", "tests.prove.test_team", str(tmp_path)]
    done = subprocess.run(
        [*run, *meet, *script], cwd=ROOT, env=environment, timeout=120, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    reports = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    return [{"left": (tmp_path / f"{rank}.left").read_text(), **report} for rank, report in enumerate(reports)]


def test_two_processes_take_the_steps_of_one_and_the_first_decides(team):
    model, history = train_in_team(0)
    first, second = team
    assert first["weights"] == second["weights"] and first["history"] == second["history"]
    assert first["weights"] == pytest.approx(weights(model).tolist(), abs=1e-6)
    assert first["history"]["steps"] == pytest.approx(history.steps, abs=1e-6)
    assert set(first["history"]["metrics"]["rank"]) == {0.0}
    assert first["history"]["best_epoch"] == 2
    assert len(first["history"]["epochs"]) == 5  # the patience of the first process
    for member in team:
        assert member["error"] == "fit: a batch of 1 cannot be shared by 2 processes: use larger batches"
        # Otherwise gloo's threads abort one in some hundred: they let go of a tensor when the interpreter is gone.
        assert member["left"] == "True"


if __name__ == "__main__":
    in_team(sys.argv[1])
