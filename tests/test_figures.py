import json
import subprocess
import sys

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io
import pytest

from marn import analysis, figures
from marn.errors import MarnError

SCORES = ("dev/icd/micro_f1", "dev/icd/macro_f1_caml")
HOSTILE = '<script>alert(1)</script><a href="javascript:x">'


def points(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 2))


def history():
    epochs = np.arange(1, 6)
    return pd.DataFrame(
        {
            "epoch": epochs,
            "loss": 1 / epochs / 3,
            "dev/icd/micro_f1": epochs / 7,
            "dev/icd/macro_f1_caml": [np.nan, 0.1, 0.2, 0.3, 0.4],
        }
    )


def losses(codes=12, seed=0):
    generator = np.random.default_rng(seed)
    targets = generator.random((30, codes)) < 0.4
    return analysis.loss_per_code(
        generator.normal(size=(30, codes)), targets, np.arange(codes, 0, -1)
    )[0]


def tree():
    return pd.DataFrame(
        {
            "code": ["427.31", "427.89", "921.3"],
            "title": ["Atrial fibrillation", "Other specified cardiac dysrhythmias", HOSTILE],
            "ccs": ["106", "106", "239"],
            "ccs_title": ["Cardiac dysrhythmias", "Cardiac dysrhythmias", "Superficial injury"],
        }
    )


def scores():
    return pd.DataFrame(
        {
            "name": ["CAML", "CAML", "MARN", HOSTILE],
            "part": ["base", "+ RAM", "base", "+ RAM"],
            "mean": [0.5, 0.55, 0.6123456, 0.58],
            "low": [0.49, np.nan, 0.6, 0.57],
            "high": [0.51, np.nan, 0.62, 0.59],
        }
    )


MAKERS = {
    "code_frequency": lambda: figures.code_frequency([3, 9], [HOSTILE, "b"]),
    "code_tree": lambda: figures.code_tree(tree()),
    "note_lengths": lambda: figures.note_lengths({HOSTILE: [100, 600, 9000], "b": [700, 800]}),
    "focal_curves": figures.focal_curves,
    "focal_optimum": figures.focal_optimum,
    "training_curves": lambda: figures.training_curves(history(), SCORES, best_epoch=4),
    "score_bars": lambda: figures.score_bars(scores(), metric="micro-F1"),
    "loss_by_frequency": lambda: figures.loss_by_frequency({HOSTILE: losses(), "b": losses()}),
    "code_clusters": lambda: figures.code_clusters(
        points(30),
        points(9, 1),
        icd_names=[HOSTILE] * 30,
        ccs_names=["c"] * 9,
        explained=[1 / 3, 1 / 7],
    ),
    "ccs_neighbourhoods": lambda: figures.ccs_neighbourhoods(
        points(30),
        points(3, 1),
        np.arange(30) % 3,
        {0: HOSTILE, 1: "b", 2: "c"},
        1 / 3,
        icd_names=[HOSTILE] * 30,
    ),
}

# a drawing, and a plane without a scale
UNTITLED = {"code_tree", "ccs_neighbourhoods"}


def numbers(value):
    if isinstance(value, dict):
        for item in value.values():
            yield from numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, float):
        yield value


@pytest.mark.parametrize("name", MAKERS)
def test_every_figure_is_small_stable_and_plain(name):
    figure = MAKERS[name]()
    assert isinstance(figure, go.Figure)
    text = figure.to_json()
    assert text == MAKERS[name]().to_json()
    assert len(text) < 20_000
    data = json.loads(text)
    assert "bdata" not in text  # lists, so that a changed number shows in a review
    assert len(json.dumps(data["layout"]["template"])) < 100
    for number in numbers([data["data"], data.get("frames", [])]):
        assert number == float(f"{number:.4g}")
    assert data["layout"]["title"]["text"]
    assert max(map(len, data["layout"]["title"]["text"].split("<br>"))) <= 60
    assert data["layout"]["height"] <= 700


@pytest.mark.parametrize("name", MAKERS)
def test_no_figure_lets_a_name_become_markup(name):
    text = json.dumps(json.loads(MAKERS[name]().to_json()))
    assert "<script" not in text
    assert "<a href" not in text


@pytest.mark.parametrize("name", sorted(set(MAKERS) - UNTITLED))
def test_axes_have_titles(name):
    layout = MAKERS[name]().to_dict()["layout"]
    titled = {
        axis[0]
        for axis in layout
        if axis[1:5] == "axis" and layout[axis].get("title", {}).get("text")
    }
    assert titled == ({"x"} if name == "score_bars" else {"x", "y"})


def test_only_the_theme_says_which_colours_text_and_ground_have():
    for make in MAKERS.values():
        layout = make().to_dict()["layout"]
        assert "paper_bgcolor" not in layout
        assert "plot_bgcolor" not in layout
        assert "color" not in layout["title"]["font"]
        assert "font" not in layout


# -- each figure by hand --------------------------------------------------------------------------


def test_no_figure_that_is_shown_offers_to_upload_itself():
    for make in (MAKERS["code_tree"], go.Figure):  # a chapter's own figures too
        shown = plotly.io.renderers["plotly_mimetype"].to_mimebundle(make().to_dict())
        config = shown["application/vnd.plotly.v1+json"]["config"]
        assert config == {"displaylogo": False, "showSendToCloud": False}
    page = plotly.io.renderers["notebook"].to_mimebundle(go.Figure().to_dict())["text/html"]
    assert '"showSendToCloud": false' in page


@pytest.mark.parametrize("config", [None, {"scrollZoom": True}])
def test_no_figure_that_is_exported_offers_to_upload_itself(config, tmp_path):
    figure = go.Figure()
    figure.write_html(tmp_path / "page.html", config=config, include_plotlyjs=False)
    pages = [
        (tmp_path / "page.html").read_text(),
        figure.to_html(config, include_plotlyjs=False),
        plotly.io.to_html(figure, config=config, include_plotlyjs=False),
    ]
    for page in pages:
        assert '"showSendToCloud": false' in page
        assert ('"scrollZoom": true' in page) is (config is not None)


def test_a_kernel_with_marn_offers_no_upload_whoever_draws():
    code = """
import sys, types
sys.modules["ipykernel"] = types.ModuleType("ipykernel")
import marn, plotly.io
print(plotly.io.renderers["plotly_mimetype"].config["showSendToCloud"])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_code_frequency_draws_every_code_from_frequent_to_rare():
    figure = figures.code_frequency([2, 7, 0, 2], ["a", "b", "c", "d"])
    assert figure.data[0].x == (1, 2, 3, 4)
    assert figure.data[0].y == (7, 2, 2, 0)
    assert figure.data[0].text == ("b", "a", "d", "c")


def test_code_frequency_refuses_the_wrong_number_of_names():
    with pytest.raises(
        MarnError, match="frequency and names must have the same length, but got 2 and 1"
    ):
        figures.code_frequency([1, 2], names=["a"])


def test_code_tree_joins_every_code_to_its_parent():
    figure = figures.code_tree(tree())
    ends = np.array(figure.data[0].y, dtype=float).reshape(-1, 3)[:, :2]
    # ICD codes at 0, -1, -2; CCS 106 half way between its two codes, 239 beside its one
    np.testing.assert_allclose(ends, [[0, -0.5], [-1, -0.5], [-2, -2]])
    texts = [note.text for note in figure.layout.annotations]
    assert len(texts) == 5
    assert texts[0] == "<b>427.31</b><br>Atrial fibrillation"
    assert texts[3] == "<b>CCS 106</b><br>Cardiac dysrhythmias"
    with pytest.raises(MarnError, match="ccs_title"):
        figures.code_tree(tree().drop(columns="ccs_title"))
    with pytest.raises(MarnError, match="at least one row"):
        figures.code_tree(tree()[:0])


def test_note_lengths_by_hand():
    figure = figures.note_lengths({"a": [10, 512, 513, 5000]})
    bars = figure.data[0]
    assert bars.name == "a: 50.0% over 512 words"  # 512 itself is not over
    assert bars.y[0] == 0.25
    assert bars.y[2] == 0.5  # 400 to 600
    assert bars.y[-1] == 0.25  # from 4,000
    assert sum(bars.y) == pytest.approx(1)
    assert figure.layout.shapes[0].x0 == 512
    with pytest.raises(MarnError, match="'a'"):
        figures.note_lengths({"a": []})


def test_focal_curves_are_the_analysis():
    figure = figures.focal_curves()
    curves = {trace.name: trace.y for trace in figure.data}
    p = np.array(figure.data[0].x)
    np.testing.assert_allclose(curves["γ = 0"], -np.log(p), rtol=1e-3)
    np.testing.assert_allclose(curves["γ = 2"], (1 - p) ** 2 * -np.log(p), rtol=1e-3, atol=1e-9)


def test_focal_optimum_has_one_frame_for_each_gamma_and_starts_at_two():
    figure = figures.focal_optimum(0.9, gammas=(0, 1, 2))
    assert [frame.name for frame in figure.frames] == ["0", "1", "2"]
    assert figure.layout.sliders[0].active == 2
    assert figure.layout.xaxis.ticktext[-1] == "50%"  # where the readings part
    assert figure.frames[2].data[0].y == figure.data[0].y
    assert figure.frames[0].data[0].x is None  # frames hold only what changes
    truth = np.array(figure.data[0].x)
    # without focus the released reading answers the truth
    np.testing.assert_allclose(figure.frames[0].data[1].y, truth, atol=1e-3)
    paper = np.interp(0.1, truth, figure.data[0].y)
    assert paper == pytest.approx(0.5, abs=0.01)  # the marked point 1 - alpha
    assert figure.layout.annotations[0].x == pytest.approx(-1)
    assert not figures.focal_optimum(0.9, (2,), ("released",)).layout.sliders
    marks = [figures.focal_optimum(alpha).layout.annotations[0] for alpha in (0.999, 0.5)]
    assert [mark.xanchor for mark in marks] == ["left", "right"]  # beside the line, in the axis


def test_training_curves_put_loss_above_and_scores_below():
    figure = figures.training_curves(history(), SCORES, best_epoch=4)
    assert figure.layout.xaxis2.dtick == 1
    assert [trace.yaxis for trace in figure.data] == ["y", "y2", "y2"]
    assert figure.data[2].y == (None, 0.1, 0.2, 0.3, 0.4)
    names = ["training loss", "dev ICD, micro-F1", "dev ICD, macro-F1 (CAML)"]
    assert [trace.name for trace in figure.data] == names
    assert figure.layout.title.text == "Training (best: epoch 4)"
    assert {shape.x0 for shape in figure.layout.shapes} == {4}
    with pytest.raises(MarnError, match="dev/icd/auc"):
        figures.training_curves(history(), ["dev/icd/auc"], best_epoch=4)


def test_score_bars_put_bar_and_interval_in_one_place():
    figure = figures.score_bars(scores(), metric="micro-F1")
    base, ram, halo, line = figure.data
    assert [base.name, ram.name] == ["base", "+ RAM"]
    # three names at 0, 1, 2; two parts 0.4 apart around each
    np.testing.assert_allclose(base.y, [-0.2, 0.8])
    np.testing.assert_allclose(ram.y, [0.2, 2.2])
    assert base.x == (0.5, 0.6123)
    assert line.x == halo.x == (0.49, 0.51, None, 0.6, 0.62, None, 0.57, 0.59, None)
    np.testing.assert_allclose(
        [y for y in line.y if y is not None], [-0.2] * 2 + [0.8] * 2 + [2.2] * 2
    )
    assert list(figure.layout.xaxis.range) == [0, 0.66]  # 5 % past the highest end, 0.62


def test_score_bars_need_only_names_and_means():
    bars = pd.DataFrame({"name": ["a", "b"], "mean": [0.99, 0.2]})
    figure = figures.score_bars(bars, metric="micro-F1")
    assert len(figure.data) == 1
    assert list(figure.layout.xaxis.range) == [0, 1]
    with pytest.raises(MarnError, match="mean"):
        figures.score_bars(pd.DataFrame({"name": ["a"]}), metric="micro-F1")


def test_loss_by_frequency_draws_codes_or_medians_of_runs():
    frame = losses(12)
    figure = figures.loss_by_frequency({"BCE": frame})
    assert figure.data[0].x == tuple(range(1, 13))
    np.testing.assert_allclose(figure.data[0].y, frame["loss"], rtol=1e-3)
    many = losses(900)
    runs = figures.loss_by_frequency({"BCE": many}).data[0]
    expected = np.median(many["loss"].to_numpy().reshape(300, 3), axis=1)
    np.testing.assert_allclose(runs.y, expected, rtol=1e-3)
    assert runs.x[:3] == (2, 5, 8)
    narrow = figures.loss_by_frequency({"BCE": frame.assign(loss=np.linspace(0.002, 0.03, 12))})
    assert list(narrow.layout.yaxis.tickvals) == [0.001, 0.002, 0.005, 0.01, 0.02, 0.05]
    wide = figures.loss_by_frequency({"BCE": frame.assign(loss=np.logspace(-4, 0, 12))})
    assert wide.layout.yaxis.tickvals is None
    assert wide.layout.yaxis.dtick == 1
    with pytest.raises(MarnError, match="'focal'"):
        figures.loss_by_frequency({"BCE": frame, "focal": frame[::-1]})


def clusters(size, names):
    named = {"icd_names": ["i"] * names, "ccs_names": ["c"] * 9, "explained": [0.31, 0.12]}
    return figures.code_clusters(points(size), points(9, 1), **named)


def test_code_clusters_draws_every_code():
    figure = clusters(30, 30)
    np.testing.assert_allclose(
        np.array([figure.data[0].x, figure.data[0].y]).T, points(30), rtol=0.01
    )
    assert [len(trace.x) for trace in figure.data] == [30, 9]
    assert min(trace.marker.opacity for trace in figure.data) >= 0.9  # less is lost on a dark page
    assert figure.layout.xaxis.title.text == "first component (31% of variance)"
    assert {trace.type for trace in figure.data} == {"scatter"}
    assert {trace.type for trace in clusters(4000, 4000).data} == {"scattergl"}
    with pytest.raises(MarnError, match=r"icd_points and icd_names .* 30 and 1"):
        clusters(30, 1)


def test_ccs_neighbourhoods_by_hand():
    icd = np.array([[0, 0], [1, 0], [9, 0], [0, 3]])
    figure = figures.ccs_neighbourhoods(
        icd, [[0, 1], [9, 9]], [0, 0, 1, -1], {1: "one", 0: "nought"}, 2, icd_names=list("abcd")
    )
    cloud, own, centre = figure.data[3:]  # the second panel shows row 0
    assert len(cloud.x) == 4
    assert own.x == (0, 1)
    assert own.text == ("a", "b")
    assert (centre.x, centre.y) == ((0,), (1,))
    assert centre.text == ("2 of 2 inside the circle",)
    circle = figure.layout.shapes[1]
    assert (circle.x0, circle.y0, circle.x1, circle.y1) == (-2, -1, 2, 3)
    assert figure.data[2].text == ("0 of 1 inside the circle",)  # (9, 0) is 9 away from (9, 9)
    assert figure.layout.yaxis2.scaleanchor == "x2"  # a circle is round
    with pytest.raises(MarnError, match="from 0 to 1"):
        figures.ccs_neighbourhoods(
            icd, [[0, 1], [9, 9]], [0, 0, 1, -1], {2: "x"}, 2, icd_names=list("abcd")
        )
    with pytest.raises(MarnError, match="parent"):
        figures.ccs_neighbourhoods(icd, [[0, 1]], [0], {0: "x"}, 2, icd_names=list("abcd"))


def test_ccs_neighbourhoods_thin_the_grey_cloud_but_stay_near_it():
    icd = points(9000)
    figure = figures.ccs_neighbourhoods(
        icd, points(2, 1), np.zeros(9000, int) - 1, {0: "a"}, 0.5, icd_names=["i"] * 9000
    )
    cloud = np.array([figure.data[0].x, figure.data[0].y]).T
    assert len(cloud) < 4500
    cell = np.ptp(icd, axis=0).max() / 80
    nearest = np.array([np.abs(cloud - point).max(axis=1).min() for point in icd[:200]])
    assert nearest.max() <= 0.51 * cell + 0.01
