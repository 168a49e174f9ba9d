# SPDX-License-Identifier: BSD-3-Clause
"""The page about runs: what it says, what it must not load, figures as files."""

import base64
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
pytest.importorskip("mne")

from eegfast.report import model_figures, run_figures, write_comparison  # noqa: E402
from eegfast.report.comparison import slug, summary  # noqa: E402
from eegfast.report.sections import wilson  # noqa: E402
from eegfast.report.style import line_style, short  # noqa: E402

SVG = "data:image/svg+xml;base64,"


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.tags, self.links, self.images, self.text = [], [], [], ""
        self.feed(self.html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attrs = dict(attrs)
        if tag == "img":
            self.images.append(attrs)
        self.links += [v for k, v in attrs.items() if k in ("src", "href", "srcset", "action")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page(compared):
    return Page(compared.page)


def test_nothing_is_loaded_from_anywhere(page):
    assert page.images and all(link.startswith(SVG) for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "@import" not in page.html and "url(" not in page.html
    for image in page.images:
        svg = base64.b64decode(image["src"].removeprefix(SVG)).decode()
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert "<script" not in svg and not re.search(r'href="(?!#|data:)', svg)


def test_every_figure_says_in_words_what_it_shows(page):
    alts = [image["alt"] for image in page.images]
    assert len(set(alts)) == len(alts) and min(map(len, alts)) > 30
    assert any("from" in alt and "median" in alt for alt in alts)


def test_names_are_escaped(page, hostile):
    assert "<script" not in page.html
    assert page.text.count(hostile) >= 4


def test_the_papers_figure_stands_beside_both_of_ours(compared, page):
    rows = {row["name"]: row for row in summary(compared.comparison["runs"], "sample")}
    row = rows["hamnet"]
    (paper,), (honest,) = row["cells"]["paper"], row["cells"]["honest"]
    assert row["claims"][0]["figure"] == "95.18 ± 2.13" and row["paper_leaks"]
    results = [run["results"] for run in compared.comparison["runs"]]
    truth = [100 * r["units"]["sample"]["overall"]["accuracy"] for r in results[:2]]
    assert [float(paper["figure"]), float(honest["figure"])] == pytest.approx(truth, abs=0.06)
    assert truth[0] > truth[1] + 10
    assert paper["leaks"] and not honest["leaks"]
    assert honest["unfinished"] == 2 and honest["n_splits"] == 14
    text = " ".join(page.text.split())
    for expected in (paper["figure"], honest["figure"], "14 of 16 fits are finished"):
        assert expected in text, expected


def test_figures_of_other_data_are_called_so(compared):
    rows = {row["name"]: row for row in summary(compared.comparison["runs"], "sample")}
    assert "SEED: other data than ours" in rows["resattentionet"]["claims"][0]["about"]
    assert rows["hamnet"]["claims"][0]["about"] == ""


def test_claims_are_those_for_what_was_selected(compared):
    run = dict(compared.comparison["runs"][0])
    claims = [
        {"dataset": "seed", "metric": "accuracy", "mean": m, "std": None, "select": {"target": t}}
        for t, m in (("arousal", 69.99), ("valence", 71.13))
    ]
    run |= {"paper": {"claims": claims}, "select": {"target": "valence", "subjects": [1]}}
    assert summary([run], "sample")[0]["claims"] == [{"figure": "71.13", "about": ""}]


def test_leakage_is_named(page):
    text = " ".join(page.text.split())
    assert "Windows are dealt out at random: windows of one trial are on both sides." in text
    assert "Windows of one trial are on both sides of the paper's split." in text
    assert "Training and test come from the same subject on the same day." in text
    # The summary's and the two other tables' marks of the one run that leaks, three papers', one
    # in the explanation.
    assert page.html.count('class="mark">leaks') == 3 + 3 + 1


def test_it_says_where_it_comes_from(page):
    text = " ".join(page.text.split())
    for expected in (
        "Some of the data are synthetic",
        "nothing here is about emotion",
        "5f1c0a9e5f1c0a9e",
        "eegfast train hamnet --root data --protocol paper",
        "torch: 2.13.0",
        "label_smoothing",
        "The rate is not in the text",
        "differential entropy as the network takes it",
    ):
        assert expected in text, expected


def test_networks_are_looked_into(compared):
    kinds = [set(run["explained"]) - {"fit"} for run in compared.comparison["runs"]]
    assert kinds[0] == {"spatial_filters", "filter_responses", "topographies"}
    assert kinds[2] == {"attention", "topographies"}
    assert kinds[3] == {"temporal_attention", "topographies"}


def test_figures_are_files_on_request(compared):
    from PIL import Image

    assert len(compared.figures) == len(list(compared.figures[0].parent.iterdir())) >= 15
    names = [path.name for path in compared.figures]
    assert len(set(names)) == len(names) and all(re.fullmatch(r"[\w.-]+", n) for n in names)
    for path in compared.figures:
        with Image.open(path) as image:
            assert min(image.size) > 300 and image.getextrema()[0] != (255, 255)


def test_pdf_too(compared, tmp_path):
    comparison = {**compared.comparison, "runs": compared.comparison["runs"][3:]}
    written = write_comparison(comparison, tmp_path / "p.html", figures=tmp_path, format="pdf")
    assert {path.suffix for path in written[1:]} == {".pdf"}
    assert all(path.read_bytes().startswith(b"%PDF") for path in written[1:])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"runs": []}, "runs with different labels"),
        ({"unit": "window"}, "unit must be one of sample, trial"),
    ],
)
def test_what_makes_no_page_is_refused(compared, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_comparison({**compared.comparison, **change}, tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


def test_another_format_is_refused(compared, tmp_path):
    with pytest.raises(ValueError, match="png, pdf, svg, got 'gif'"):
        write_comparison(compared.comparison, tmp_path / "page.html", format="gif")


def test_what_cannot_be_shown_is_said(compared, tmp_path):
    run = {**compared.comparison["runs"][3], "explained": {}, "missing": ["scalp maps, for a test"]}
    page = Page(write_comparison({**compared.comparison, "runs": [run]}, tmp_path / "p.html")[0])
    assert "resattentionet, an honest split: scalp maps, for a test" in page.text


def test_curves_of_stages_follow_one_another_and_the_mean_ends_with_half_the_fits():
    def history(second):
        stages = ["a"] * 3 + ["b"] * second
        n = len(stages)
        return {"stage": stages, "train_loss": [1.0] * n, "train_accuracy": [0.5] * n}

    figure = run_figures.learning_curves([history(2), history(4), history(6)]).figure
    lines = figure.axes[0].lines
    assert [len(line.get_xdata()) for line in lines[:3]] == [9, 9, 9]
    assert np.isfinite(lines[0].get_ydata()).sum() == 5
    (mean,) = [line for line in lines if line.get_lw() == 2.2]
    assert mean.get_xdata()[-1] == 3 + 4
    assert [text.get_text() for text in figure.axes[0].texts] == ["a", "b"]


def test_subjects_are_sorted_and_rows_are_not_overfull():
    subjects = {f"s{i}": {"value": i / 100, "low": None, "high": None} for i in range(90)}
    axes = run_figures.subject_bars({"subjects": subjects}).figure.axes
    assert len(axes) == 3
    assert [tick.get_text() for tick in axes[0].get_xticklabels()][:2] == ["s89", "s88"]


def test_differences_between_classes_have_zero_in_the_middle():
    maps = {name: np.full((2, 4, 4), value) for name, value in (("a", 1.0), ("b", 4.0))}
    drawing = model_figures.class_topographies({"bands": ["x", "y"], "unit": "DE", "classes": maps})
    limits = [axis.images[0].get_clim() for axis in drawing.figure.axes if axis.images]
    assert sum(low == pytest.approx(-high) for low, high in limits) == 4


@pytest.mark.parametrize("share, n", [(0.5, 10), (1.0, 5), (0.0, 5)])
def test_wilson(share, n):
    from scipy.stats import binomtest

    truth = binomtest(round(share * n), n).proportion_ci(method="wilson")
    assert wilson(share, n) == pytest.approx((truth.low, truth.high), abs=1e-4)


def test_small_helpers():
    assert short("a" * 30, 11) == "aaaaa…aaaaa" and short("a\nb") == "a b"
    assert slug("Bäume <x>") == "baume-x" and slug("!") == "figure"
    styles = [tuple(line_style(i).values()) for i in range(20)]
    assert len(set(styles)) == 20
