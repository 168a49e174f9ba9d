# SPDX-License-Identifier: BSD-3-Clause
"""Fits handed to other processes, and fits that several processes share."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from eegfast.training import ResidentLoader, Run
from eegfast.training.trainer import join_processes

NOT_HERE = 77
TOGETHER = f"""
import datetime
import sys
import torch

sys.path.insert(0, sys.argv[2])
from conftest import Experiment

torch.set_num_threads(1)
try:
    torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=150))
    torch.distributed.all_reduce(torch.ones(1))
except RuntimeError as error:
    print(error)
    sys.exit({NOT_HERE})
Experiment().run(sys.argv[1], Experiment().alone())
"""


def run_together(script, *arguments, folder):
    """Run a script in two processes that find each other, as under torchrun."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    together = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    started = []
    for rank in "0", "1":
        own = {**os.environ, **together, "RANK": rank, "LOCAL_RANK": rank}
        with open(folder / f"rank {rank}.txt", "w") as output:
            command = [sys.executable, str(script), *map(str, arguments)]
            started.append(subprocess.Popen(command, env=own, stdout=output, stderr=output))
    try:
        for process in started:
            process.wait(timeout=300)
    finally:
        for process in started:
            process.kill()
            process.wait()
    said = "".join((folder / f"rank {rank}.txt").read_text() for rank in "01")
    codes = [process.returncode for process in started]
    if NOT_HERE in codes:
        pytest.skip(f"torch itself cannot join two processes on this machine: {said}")
    assert codes == [0, 0], said


def test_fits_of_a_killed_worker_go_on_elsewhere_with_the_same_result(
    tmp_path, experiment, assert_same
):
    psutil = pytest.importorskip("psutil")
    pytest.importorskip("distributed")
    recipe, out = experiment.recipe(epochs=12), tmp_path / "spread"
    killed = []

    def kill_one():
        while not killed:
            time.sleep(0.005)
            if list(out.glob("fits/*/checkpoints/last.pt")):
                for child in psutil.Process().children(recursive=True):
                    if "spawn_main" in " ".join(child.cmdline()):
                        os.kill(child.pid, signal.SIGKILL)
                        killed.append(child.pid)
                        return

    thread = threading.Thread(target=kill_one, daemon=True)
    thread.start()
    seen = []
    run = experiment.run(out, recipe, workers=2, progress=seen.append)
    assert killed
    assert [news.fits_done for news in seen] == [1, 2]
    assert sorted(p.name for p in out.iterdir()) == ["fits", "recipe.yaml", "run.json"]
    assert_same(experiment.run(tmp_path / "alone", recipe), run)


def test_a_fit_that_fails_elsewhere_is_named_and_the_others_are_done(
    tmp_path, monkeypatch, experiment
):
    from eegfast.training import experiment as module

    def over(function, jobs, workers, scheduler):  # Dask's part is tested above
        for number, job in enumerate(jobs):
            error = None if number else ValueError("out of luck")
            if error is None:
                function(*job)
            yield job, None, error

    monkeypatch.setattr(module, "over_dask", over)
    with pytest.raises(ValueError, match="1 of 2 fits failed, the others are done: fold 1: out of"):
        experiment.run(tmp_path / "run", workers=2)
    run = Run(tmp_path / "run")
    assert [fit.name for fit in run.fits] == ["fold 2"] and len(run.unfinished) == 1


def test_two_processes_make_the_steps_of_one(tmp_path, experiment):
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    run_together(script, tmp_path / "two", os.path.dirname(__file__), folder=tmp_path)
    one, two = experiment.run(tmp_path / "one", experiment.alone()), Run(tmp_path / "two")
    for a, b in zip(one.fits, two.fits, strict=True):
        assert b.facts["processes"] == 2
        there, here = a.model().state_dict(), b.model().state_dict()
        for name in there:
            torch.testing.assert_close(here[name], there[name], rtol=0, atol=2e-6)  # Adam of 1e-2
        curves = [
            [v for k, v in fit.history().items() if k != "stage" and "seconds" not in k]
            for fit in (a, b)
        ]
        assert np.allclose(*curves, atol=1e-5)


def test_an_environment_that_announces_processes_without_the_rest(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "0")
    for name in "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT":
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="WORLD_SIZE=4 .* LOCAL_RANK, MASTER_ADDR, MASTER_PORT is"):
        join_processes()


def test_shares_of_a_batch_are_the_batch():
    x, y = torch.arange(23.0)[:, None], torch.arange(23) % 3

    def batches(share):
        order = torch.Generator().manual_seed(0)
        loader = ResidentLoader((x, 2 * x), y, 7, shuffle=True, generator=order, share=share)
        assert len(loader) == len(list(loader.__class__.__iter__(loader))) == 4 - (share[1] > 2)
        order.manual_seed(1)
        return list(loader)

    whole = batches((0, 1))
    for first, second, ((a, b), labels) in zip(
        batches((0, 2)), batches((1, 2)), whole, strict=True
    ):
        assert abs(len(first[1]) - len(second[1])) <= 1
        assert torch.equal(torch.cat([first[0][0], second[0][0]]), a)
        assert torch.equal(torch.cat([first[0][1], second[0][1]]), b)
        assert torch.equal(torch.cat([first[1], second[1]]), labels)
    assert len(batches((0, 3))) == 3  # two samples are left: one process would have none
    with pytest.raises(ValueError, match="batch_size must be at least 8"):
        ResidentLoader(x, y, 7, share=(0, 8))
    with pytest.raises(ValueError, match="of one length"):
        ResidentLoader((x, x[:3]), y, 7)
