# SPDX-License-Identifier: BSD-3-Clause
import base64
import csv
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
pytest.importorskip("mne")

from eegfast.report import figures, write_report  # noqa: E402
from eegfast.report.scalp import on_head  # noqa: E402

EVIL = "<script>alert('x')</script>"
SVG = "data:image/svg+xml;base64,"


def model(name="Regression", **extra):
    return {
        "name": name,
        "features": "DE",
        "normalization": "per-subject z",
        "transductive": True,
        "unit": "window",
        "accuracy": np.float64(0.75),
        "interval": (0.5, 1.0),
        "unit_accuracy": 0.7,
        "subjects": {
            "01": {"accuracy": 1.0, "unit_accuracy": 0.9},
            "02": {"accuracy": 0.5, "unit_accuracy": 0.5},
        },
        "confusion": np.array([[2, 0], [1, 1]]),
        "nulls": [
            {
                "kind": "swap",
                "n_permutations": 4,
                "mean": 0.5,
                "p95": 0.75,
                "p_value": 0.4,
                "levels": [0.25, 0.5],
                "counts": [1, 3],
            }
        ],
        "histories": [
            {
                "train_loss": [0.7, 0.6],
                "train_accuracy": [0.5, 0.8],
                "val_loss": [0.7, 0.7],
                "val_accuracy": [0.5, 0.6],
            }
        ],
        "seconds": 1.25,
        **extra,
    }


def results(**extra):
    positions = {
        "Fp1": (-0.03, 0.1, 0.02),
        "Fp2": (0.03, 0.1, 0.02),
        "Cz": (0.0, 0.03, 0.14),
        "T3": (-0.09, 0.015, 0.04),
        "T4": (0.09, 0.015, 0.04),
        "O1": (-0.03, -0.08, 0.05),
        "O2": (0.03, -0.08, 0.05),
    }
    rng = np.random.default_rng(0)
    return {
        "title": "A title",
        "subtitle": "A subtitle",
        "shows": ["It runs."],
        "does_not_show": ["Nothing about emotion."],
        "verdict": ["The network does not reach the baseline."],
        "class_names": ["rest", "task"],
        "chance": 0.5,
        "models": [model(), model("Network")],
        "topomaps": {
            "ch_names": [*positions, "ECG"],
            "positions": positions,
            "bands": ["alpha\n8–14 Hz", "beta\n14–31 Hz"],
            "unit": "log2(µV²)",
            "conditions": {"rest": rng.normal(size=(8, 2)), "task": rng.normal(size=(8, 2))},
        },
        "speed": {
            "what": "band_power",
            "shape": "48 recordings",
            "kernel": True,
            "rows": [
                {"label": "eegfast.ops", "median_ms": 2.0, "low_ms": 1.9, "high_ms": 2.2},
                {"label": "reference", "median_ms": 9.0, "low_ms": 8.0, "high_ms": 9.5},
            ],
            "ratio": 4.5,
            "max_error": 1e-7,
            "tolerance": 5e-7,
            "threads": 2,
            "runs": 11,
        },
        "notes": [{"title": "A note", "text": "Its text"}],
        "options": {"seed": 0},
        "provenance": {"torch": "2.13.0"},
        "dataset": {"name": "A set", "citation": "Zyma et al.", "license": "ODC-By"},
        **extra,
    }


class Page(HTMLParser):
    """Collects tags, the text, and everything that could load something."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.links, self.images, self.text = [], [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attrs = dict(attrs)
        if tag == "img":
            self.images.append(attrs)
        self.links += [v for k, v in attrs.items() if k in ("src", "href", "srcset", "action")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "new" / "folder"
    return write_report(results(), folder)


def test_the_page_loads_nothing_from_anywhere(written):
    html = written.html.read_text(encoding="utf-8")
    page = Page(html)
    assert page.images and all(link.startswith(SVG) for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "@import" not in html and "url(" not in html
    for image in page.images:
        svg = base64.b64decode(image["src"].removeprefix(SVG)).decode()
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert not re.search(r'href="(?!#|data:)', svg)
        assert image["alt"]


def test_the_page_says_what_matters(written):
    text = Page(written.html.read_text(encoding="utf-8")).text
    for expected in (
        "A title",
        "It runs.",
        "Nothing about emotion.",
        "The network does not reach the baseline.",
        "transductive",
        "0.75",
        "0.50–1.00",
        "p = 0.400",
        "Zyma et al.",
        "ODC-By",
        "2.13.0",
        "The reference takes 4.5 times as long",
        "log2(µV²)",
        "A note",
    ):
        assert expected in text, expected


def test_only_the_three_files_are_left(written):
    names = sorted(p.name for p in written.html.parent.iterdir())
    assert names == ["report.html", "results.csv", "results.json"]


def test_json_holds_the_numbers(written):
    stored = json.loads(written.json.read_text(encoding="utf-8"))
    assert stored["models"][0]["confusion"] == [[2, 0], [1, 1]]
    assert stored["models"][0]["accuracy"] == 0.75
    assert len(stored["topomaps"]["conditions"]["rest"]) == 8


def test_csv_has_a_row_per_model_and_subject(written):
    rows = list(csv.DictReader(written.csv.open(encoding="utf-8")))
    assert [(r["model"], r["subject"], float(r["accuracy"])) for r in rows] == [
        (name, subject, value)
        for name in ("Regression", "Network")
        for subject, value in (("all", 0.75), ("01", 1.0), ("02", 0.5))
    ]


def test_names_are_escaped_and_no_mathematics_is_read_from_them(tmp_path):
    bad = {EVIL: {"accuracy": 1.0, "unit_accuracy": 1.0}, r"$\frac": {**results()["models"][0]}}
    hostile = results(
        title=EVIL,
        models=[model(name=EVIL, subjects=bad)],
        class_names=[EVIL, r"$\nope$"],
        provenance={EVIL: EVIL},
        notes=[{"title": EVIL, "text": EVIL}],
    )
    html = write_report(hostile, tmp_path).html.read_text(encoding="utf-8")
    assert "<script" not in html
    assert EVIL in Page(html).text


def test_sections_without_results_are_left_out(tmp_path):
    bare = model()
    for key in ("nulls", "histories", "interval", "seconds"):
        del bare[key]
    written = write_report({"title": "T", "models": [bare]}, tmp_path)
    text = Page(written.html.read_text(encoding="utf-8")).text
    for heading in ("Learning curves", "Speed of the kernel", "Where on the scalp", "Data\n"):
        assert heading not in text
    assert "Confusion" in text


def test_a_missing_kernel_is_said(tmp_path):
    speed = {**results()["speed"], "kernel": False}
    html = write_report(results(speed=speed), tmp_path).html.read_text(encoding="utf-8")
    assert "no compiled kernel" in html and "times as long" not in html


def test_values_that_json_lacks_become_null(tmp_path):
    written = write_report(results(provenance={"x": float("nan"), "y": tmp_path}), tmp_path)
    stored = json.loads(written.json.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert stored["provenance"] == {"x": None, "y": str(tmp_path)}


@pytest.mark.parametrize("missing", ["title", "models"])
def test_results_without_title_or_models_are_refused(tmp_path, missing):
    broken = results()
    del broken[missing]
    with pytest.raises(ValueError, match="title and at least one model"):
        write_report(broken, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_old_report_survives_a_failed_one(tmp_path):
    (tmp_path / "report.html").write_text("old")
    with pytest.raises(KeyError):
        write_report(results(models=[{"name": "x"}]), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"


def test_figures_touch_no_global_state():
    import matplotlib
    from matplotlib import pyplot

    before = dict(matplotlib.rcParams)
    figures.topomaps(results()["topomaps"])
    figures.accuracy_per_subject([model()], 0.5)
    assert pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


def test_figures_repeat():
    assert figures.confusion_matrices([model()]) == figures.confusion_matrices([model()])


def test_topomaps_need_positions():
    maps = results()["topomaps"]
    maps["positions"] = {"Cz": (0, 0, 0.1)}
    with pytest.raises(ValueError, match="only 1 channels"):
        figures.topomaps(maps)


def test_head_is_centred_and_holds_the_electrodes():
    places, radius = on_head(np.array(list(results()["topomaps"]["positions"].values())))
    assert places[:, 2].min() == pytest.approx(0)
    assert abs(places[:, 0].mean()) < 1e-9
    assert 0.07 < radius < 0.12
