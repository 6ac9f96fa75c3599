from pathlib import Path

import numpy as np
import pytest
from bs4 import BeautifulSoup
from matplotlib.figure import Figure

from lab4_core.config import Config
from lab4_core.errors import Lab4Error
from lab4_core.plots import (
    band,
    dips,
    plot_dips,
    plot_effects,
    plot_kld_vs_psnr,
    plot_psnr_per_frame,
    plot_schedule,
    plot_sweep,
    plot_teacher_forcing,
    plot_training,
    plot_validation,
    results_table,
    show,
)
from lab4_core.plots.psnr import smooth, student_t
from lab4_core.plots.style import labels
from lab4_core.schedules import Cyclical, Monotonic, MultiStep
from lab4_core.scores import Score
from lab4_core.teacher_forcing import Linear


class FakeRun:
    """Invented records of `epochs` epochs of 20 steps, two step records each."""

    def __init__(self, name="a", epochs=4, annealing=None, seed=0, result=None):
        self.name, self.dir, self.result = name, Path(f"{name}-{seed:012x}"), result or {}
        self.config = Config(annealing=annealing or Cyclical(), seed=seed, epochs=max(1, epochs))
        values = {"loss": 1.0, "mse": 0.5, "kld": 3.0, "beta": 0.1, "tfr": 0.5, "lr": 1e-3}
        self.records = []
        for e in range(epochs):
            for half in (1, 2):
                step = {"kind": "step", "epoch": e, "step": 20 * e + 10 * half, "seconds": 1.0}
                self.records.append({**step, **values, "beta": half / 10})
            self.records.append(
                {"kind": "epoch", "epoch": e, "step": 20 * (e + 1), "seconds": 60.0 * (e + 1), **values}
            )
            self.records.append(
                {"kind": "eval", "epoch": e, "step": 20 * (e + 1), "seconds": 60.0 * (e + 1), "psnr": 20.0 + e,
                 "ssim": 0.9, "repeat_first": 18.0, "copy_previous": 30.0}
            )  # fmt: skip

    def metrics(self, kind):
        return [r for r in self.records if r["kind"] == kind]


def line(ax, label):
    return next(found for found in ax.lines if found.get_label() == label)


def score(psnr):
    psnr = np.atleast_2d(np.asarray(psnr, np.float32))
    return Score(psnr, psnr / 50, {"repeat_first": {"psnr": psnr * 0 + 20}, "copy_previous": {"psnr": psnr * 0 + 100}})


def test_training_curves_are_the_logged_values_at_epochs_done():
    figure = plot_training(FakeRun())
    panels = {ax.get_title(): ax for ax in figure.axes}
    assert len(panels) == 6
    assert line(panels["loss"], "a").get_xydata().tolist() == [[1, 1], [2, 1], [3, 1], [4, 1]]


@pytest.mark.parametrize("length", [{}, {"steps": 80}, {"minutes": 4.0}])
def test_schedules_are_drawn_as_they_were_at_every_step_and_not_as_means_of_the_log(length):
    run = FakeRun(annealing=Cyclical(cycles=2, unit="step"))
    run.config = run.config.replace(beta=0.5, lr_schedule=MultiStep(milestones=(2,)), **length)
    panels = {ax.get_title(): ax for ax in plot_training(run).axes}
    x, beta = line(panels["KL weight"], "a").get_xydata().T
    assert x[:-1].tolist() == pytest.approx([step / 20 for step in range(80)]) and x[-1] == 4
    steps = 10_000 if "minutes" in length else 80
    assert beta[:-1].tolist() == [0.5 * run.config.annealing(round(t * steps / 80), steps) for t in range(80)]
    assert beta[39] > 0.4 and beta[40] == 0 and line(panels["KL weight"], "a").get_drawstyle() == "steps-post"
    lr = line(panels["learning rate"], "a").get_ydata()
    assert lr[39] == run.config.optimizer.lr and lr[40] < lr[39] and panels["teacher forcing"].get_ylim()[1] > 1


def test_loss_axes_are_logarithmic_only_where_they_span_decades():
    run = FakeRun()
    for record in run.metrics("epoch"):
        record["kld"] = 10.0 ** -record["epoch"] if record["epoch"] < 3 else 0.0
    panels = {ax.get_title(): ax for ax in plot_training(run).axes}
    assert panels["KL divergence"].get_yscale() == "symlog"  # a collapsed KL of exactly 0 has its place
    assert panels["loss"].get_yscale() == panels["KL weight"].get_yscale() == "linear"


@pytest.mark.parametrize("plot", [plot_training, plot_validation, plot_kld_vs_psnr])
def test_no_record_one_record_and_a_broken_value_all_draw(plot):
    empty = plot([FakeRun(epochs=0)])
    assert "nothing to draw yet" in empty.texts[0].get_text() and not empty.axes
    broken = FakeRun("b", epochs=2)
    broken.metrics("epoch")[0]["kld"] = float("nan")
    broken.metrics("eval")[0]["psnr"] = None
    del broken.metrics("epoch")[1]["lr"]
    figure = plot([FakeRun(epochs=0), FakeRun("c", epochs=1), broken])
    assert show(figure, alt="x").png().startswith(b"\x89PNG")
    one = plot(FakeRun(epochs=1))
    shown = [found for found in one.axes[0].lines if found.get_marker() not in ("", "None", None)]
    assert shown, "a single point is not visible"


def test_validation_marks_the_best_and_shares_baselines():
    figure = plot_validation([FakeRun("a"), FakeRun("b", seed=1)])
    by_epoch, by_minute = figure.axes
    assert line(by_epoch, "a").get_xydata()[-1].tolist() == [4, 23]
    assert line(by_minute, "a").get_xdata().tolist() == [1, 2, 3, 4]
    levels = [found.get_ydata()[0] for found in by_epoch.lines if "frame, " in found.get_label()]
    assert sorted(levels) == [18, 30]  # one of each, though two runs logged them
    rings = [found.get_xydata()[0].tolist() for found in by_epoch.lines if found.get_markersize() == 9]
    assert rings == [[4, 23], [4, 23]]


def test_runs_of_one_name_are_told_apart():
    a, b = FakeRun("x", annealing=Monotonic()), FakeRun("x", annealing=Cyclical())
    assert labels([a, b]) == ["x, monotonic", "x, cyclical"]
    c = FakeRun("x", seed=1)
    assert labels([b, c]) == ["x, seed 0", "x, seed 1"]
    assert labels([a]) == ["x"]
    same = FakeRun("x", seed=0)
    same.dir = Path("x-ffffffffffff")
    assert len(set(labels([b, same]))) == 2


def test_band_by_hand():
    mean, low, high = band([[1.0, 4.0], [3.0, 4.0]])
    assert mean.tolist() == [2, 4]
    half = 12.7062 * np.sqrt(2) / np.sqrt(2)  # sd of (1, 3) is sqrt 2; t of one degree of freedom
    assert low == pytest.approx([2 - half, 4]) and high == pytest.approx([2 + half, 4])
    many = np.arange(41.0)[:, None]  # 40 degrees of freedom: t = 2.021
    assert (band(many)[2] - 20)[0] == pytest.approx(2.021 * many.std(ddof=1) / np.sqrt(41), rel=1e-3)
    with pytest.raises(Lab4Error, match="2 seeds or more"):
        band([[1.0, 2.0]])


def test_band_covers_the_true_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(5.0, 2.0, (4, 4000))
    _, low, high = band(draws)
    assert np.mean((low <= 5) & (high >= 5)) == pytest.approx(0.95, abs=0.015)


def test_smooth_by_hand():
    assert smooth(np.array([0.0, 3.0, 0.0, 3.0]), 3) == pytest.approx([1.5, 1, 2, 1.5])
    assert smooth(np.full(5, 7.0), 15) == pytest.approx(np.full(5, 7.0))


def test_dips_are_separate_local_minima_deepest_first():
    curve = np.full(100, 30.0) + np.arange(100) * 1e-3
    curve[[20, 22, 70]] = 10, 5, 15
    assert dips(curve, 2, apart=10) == [22, 70]  # 20 belongs to the dip at 22
    assert dips(np.arange(50.0), 6, apart=10) == [0]  # a slope has one lowest place
    assert dips(np.zeros(5), 6) == dips(np.ones(100), 6) == dips(np.full(630, 31.7), 6) == []  # flat


def test_psnr_figure_has_means_baselines_dips_and_bands():
    curve = np.full(100, 30.0)
    curve[40] = 20.0
    figure = plot_psnr_per_frame({"a": score(curve), "b": [score(curve + 1), score(curve + 2)]}, n_dips=1)
    ax = figure.axes[0]
    names = [found.get_label() for found in ax.lines]
    assert "a, mean 29.90 dB" in names and "b, mean 31.40 dB (2 seeds, 95 % band)" in names
    assert "repeat the first frame, mean 20.00 dB" in names and "copy the true previous frame, mean 100.00 dB" in names
    assert [t.get_text() for t in ax.texts] == ["41"]  # the first predicted frame is frame 1
    assert line(ax, "a, mean 29.90 dB").get_xdata()[0] == 1
    assert "moving average over 13" in ax.get_xlabel()  # of 100 frames
    other = plot_psnr_per_frame({"a": score(curve), "b": score(curve[::-1])}, n_dips=1, dips_of="b")
    assert [t.get_text() for t in other.axes[0].texts] == ["60"]
    short = plot_psnr_per_frame({"a": score(np.linspace(40, 20, 28))}).axes[0]  # 15 of them would flatten its fall
    assert "over 3" in short.get_xlabel() and line(short, "a, mean 30.00 dB").get_ydata()[0] > 39.5
    shortest = plot_psnr_per_frame({"a": score(np.linspace(40, 20, 12))}).axes[0]
    assert shortest.get_xlabel() == "frame" and line(shortest, "a, mean 30.00 dB").get_ydata()[0] == 40
    low, high = (
        ax.collections[0].get_paths()[0].vertices[:, 1].min(),
        ax.collections[0].get_paths()[0].vertices[:, 1].max(),
    )
    assert high - low > 2 * 12.7 * 0.5  # sd of two curves 1 dB apart is 0.71, over sqrt 2 is 0.5
    assert ax.get_ylim()[1] < 60  # the 100 dB of a still baseline do not press the curves flat


def test_psnr_figure_of_one_clip_or_the_mean_of_all():
    two = score([[10.0] * 30, [30.0] * 30])
    assert "a, mean 20.00 dB" in [found.get_label() for found in plot_psnr_per_frame({"a": two}).axes[0].lines]
    assert "a, mean 30.00 dB" in [found.get_label() for found in plot_psnr_per_frame({"a": two}, clip=1).axes[0].lines]
    with pytest.raises(Lab4Error, match="clip = 2: expected 0 to 1"):
        plot_psnr_per_frame({"a": two}, clip=2)
    with pytest.raises(Lab4Error, match="one length"):
        plot_psnr_per_frame({"a": [score([1.0] * 20), score([1.0] * 21)]})
    assert not plot_psnr_per_frame({}).axes


def test_dips_figure_shows_the_frames_of_the_dips():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (61, 8, 6, 3), dtype=np.uint8)  # taller than wide
    pred = truth.copy()
    pred[33] = 255 - truth[33]
    curve = np.full(60, 40.0)
    curve[32] = 5.0
    figure = plot_dips(score(curve), pred, truth, truth, k=1)
    pictures = [ax.images[0].get_array() for ax in figure.axes if ax.images]
    assert np.array_equal(pictures[0], pred[33]) and np.array_equal(pictures[1], truth[33]) and len(pictures) == 4
    assert "frame 33" in figure.axes[0].get_title()
    numbers = plot_dips(score(curve), pred, truth, np.zeros((61, 7)), k=1)  # a robot's conditions are no pictures
    assert sum(bool(ax.images) for ax in numbers.axes) == 3
    with pytest.raises(Lab4Error, match="60 scored ones"):
        plot_dips(score(curve), pred[1:], truth[1:])


def test_schedules_are_drawn_in_their_own_unit():
    ax = plot_schedule({"epoch": Monotonic(), "step": Monotonic(unit="step")}, epochs=4, steps_per_epoch=10).axes[0]
    stairs, ramp = (line(ax, name).get_ydata() for name in ("epoch", "step"))
    assert stairs[:4].tolist() == [0, 0.25, 0.5, 0.75] and len(ramp) == 41
    assert line(ax, "step").get_xdata()[-1] == 4
    ax = plot_teacher_forcing({"lab": Linear(start_decay=2, decay_step=0.5)}, epochs=4).axes[0]
    assert line(ax, "lab").get_ydata().tolist() == [1, 1, 0.5, 0, 0]


def test_show_escapes_and_is_constant_as_text():
    bundle = show(Figure(), alt='"><script>', caption="a < b & <i>c</i>")._repr_mimebundle_()
    soup = BeautifulSoup(bundle["text/html"], "html.parser")
    assert soup.img["alt"] == '"><script>' and soup.img["src"].startswith("data:image/png;base64,")
    assert soup.figcaption.text == "a < b & <i>c</i>" and soup.script is None
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert bundle["text/plain"] == show(plot_training(FakeRun()), alt="other")._repr_mimebundle_()["text/plain"]


def test_results_table_has_a_row_a_run_and_says_why_one_failed():
    good = {
        "status": "finished", "reason": None, "psnr": 31.234, "ssim": 0.9123, "best_epoch": 3, "seconds": 90.0,
        "baselines": {"repeat_first": {"psnr": 22.0}, "copy_previous": {"psnr": 40.0}},
    }  # fmt: skip
    runs = [
        FakeRun("good", result=good),
        FakeRun("<b>bad</b>", result={"status": "failed", "reason": "kld = inf | <script>"}),
        FakeRun("young"),
    ]
    table = results_table(runs)
    soup = BeautifulSoup(table._repr_mimebundle_()["text/html"], "html.parser")
    rows = [[cell.text for cell in tr.find_all(["th", "td"])] for tr in soup.tbody.find_all("tr")]
    assert [th.text for th in soup.find_all("th", scope="row")] == ["good", "<b>bad</b>", "young"]
    assert "text-align:left" in soup.caption["style"] and soup.caption.text == table.caption
    assert rows[0] == [
        "good",
        "cyclical, 10 cycles, beta 0 to 1",
        "31.23",
        "0.912",
        "22.00",
        "40.00",
        "4",
        "1.5",
        "finished",
    ]
    assert rows[1][0] == "<b>bad</b>" and rows[1][-1] == "failed: kld = inf | <script>" and rows[1][2] == "–"
    assert rows[2][-1] == "not finished" and soup.b is None and soup.script is None
    lines = table.to_markdown().splitlines()
    assert len(lines) == 5 and "<" not in lines[3] and lines[3].replace(r"\|", "").count("|") == 10


def test_a_setting_of_zero_is_a_setting():
    rows = [{"status": "finished", "seed": 0, "ratio": ratio, "detach": ratio == 0.0, "psnr": psnr}
            for ratio, psnr in ((0.0, 20.0), (None, 30.0), (1.0, 10.0))]  # fmt: skip
    names = [label.get_text() for label in plot_sweep(rows, ["ratio", "detach"]).axes[0].get_yticklabels()]
    assert names == ["0.0, True", "–, False", "1.0, False"]


def test_student_t_is_the_quantile_of_its_table_and_beyond():
    assert student_t(1) == 12.7062 and student_t(18) == 2.1009 and student_t(40) == pytest.approx(2.021, abs=2e-3)


def test_a_large_effect_is_an_arrow_with_its_value_and_presses_no_other_flat():
    row = {"name": "n", "compared": "x against y", "where": "", "pairs": 4}
    rows = [{**row, "effect": e, "low": e - 0.1, "high": e + 0.1, "verdict": "holds"} for e in (-4.5, 0.3)]
    ax = plot_effects(rows).axes[0]
    assert ax.get_xlim() == (-2.5, 2.5)
    assert [t.get_text() for t in ax.texts] == ["-4.5 (-4.6 to -4.4)"]
    assert len(ax.containers) == 1  # one errorbar
