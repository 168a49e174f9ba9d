# SPDX-License-Identifier: BSD-3-Clause
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def hostile():
    return "<script>alert('x')</script>"


@pytest.fixture(scope="session")
def compared(tmp_path_factory, hostile):
    """Four runs of three systems, one with hostile names, and the page about them."""
    for needed in ("jinja2", "matplotlib", "mne", "lightning", "sklearn", "yaml", "safetensors"):
        pytest.importorskip(needed)
    from run_folders import recipe_of, write_run

    from eegfast.cli._report_gather import gather
    from eegfast.report import write_comparison
    from eegfast.training.runs import Run

    folder = tmp_path_factory.mktemp("runs")
    names = ["Fp1", "Fp2", "C3", "Cz", "C4", "O1", "Oz", "O2"]
    hamnet = {"n_chans": 8, "n_times": 100, "ch_names": names, "n_spatial": 3}
    hamnet |= {"bands": [[8, 12], [20, 24]], "n_taps": 21}
    subjects = [f"a participant with a long name, {number:02d}" for number in range(1, 17)]
    stages = ("pretrain", "finetune")
    long = {"subjects": subjects, "stages": stages, "ch_names": names, "trials": 3, "windows": 2}
    evil = recipe_of("ldm-eeg", {"n": 1, "c": 2}, name=hostile)
    made = {
        "ham-paper": write_run(
            folder / "ham-paper", "hamnet", hamnet, role="paper", skill=2.5, **long
        ),
        "ham-honest": write_run(folder / "ham-honest", "hamnet", hamnet, unfinished=2, **long),
        "evil": write_run(
            folder / "evil",
            "ldm-eeg",
            {"n": 1, "c": 2},
            recipe=evil,
            class_names=(hostile, r"$\frac", "neutral"),
            ch_names=[hostile, *names],
            subjects=(hostile, r"$x$"),
            trials=3,
            windows=1,
        ),
        "short": write_run(
            folder / "short",
            "resattentionet",
            {"n_chans": 8, "base_width": 2, "n_windows": 40},
            class_names=("rest", "task"),
            ch_names=names,
            recipe=recipe_of("resattentionet", {}, dataset="eegmat"),
            trials=4,
            windows=1,
        ),
    }
    runs = [Run(folder / name) for name in made]
    comparison = gather(runs, prepare=lambda run: made[run.path.name])
    written = write_comparison(
        comparison, folder / "out" / "page.html", figures=folder / "figures", format="png"
    )
    return SimpleNamespace(
        page=written[0], figures=written[1:], comparison=comparison, runs=runs, made=made
    )
