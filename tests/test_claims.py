"""Claims: what an interval says, what a table says, and that the claims of this project are experiments."""

import json

import pytest
import yaml

from lab4_core import cli, plots
from lab4_core.errors import Lab4Error
from lab4_core.paths import ROOT
from lab4_core.plots.results import Table
from lab4_core.presets import load_config
from lab4_core.sweeps import claims, findings
from lab4_core.sweeps.claims import FOLDER, judge, overall, read_claim, verdict
from lab4_core.sweeps.sweep import expand, notebook_parameters
from lab4_core.sweeps.table import write_table

CLAIM = {
    "claim": "Teacher forcing hurts",
    "source": "report_000",
    "expects": "worse",
    "margin": 0.2,
    "base": "free",
    "levels": {"free": {"teacher_forcing.ratio": 0.0}, "forced": {"teacher_forcing.ratio": 1.0}},
    "where": {"strategies": [["ema"], []]},
    "common": {"steps": 10},
    "seeds": [0, 1, 2],
}
FILES = sorted(FOLDER.glob("*.yaml"))


def write(tmp_path, **changes):
    path = tmp_path / "forcing.yaml"
    path.write_text(yaml.safe_dump({**CLAIM, **changes}, sort_keys=False))
    return path


def rows_of(points, psnr):
    """The table of a sweep in which the score of a point is psnr(point)."""
    keys = list(dict.fromkeys(k for p in points for k in p))

    def cell(v):
        return json.dumps(v) if isinstance(v, list) else v

    return [
        {"point": str(i), **{k: cell(p.get(k)) for k in keys}, "status": "finished", "psnr": psnr(p)}
        for i, p in enumerate(points)
    ]


@pytest.mark.parametrize(
    "expects,low,high,said",
    [
        ("same", -0.1, 0.1, "holds"), ("same", 0.3, 0.5, "does not hold"), ("same", -0.5, -0.3, "does not hold"),
        ("same", -0.5, 0.1, "undecided"), ("same", 0.1, 0.3, "undecided"),
        ("better", 0.1, 0.5, "holds"), ("better", -0.1, 0.5, "undecided"), ("better", 0.05, 0.15, "does not hold"),
        ("better", -0.6, -0.3, "does not hold"), ("better", -0.1, 0.1, "does not hold"),
        ("worse", -0.5, -0.1, "holds"), ("worse", 0.3, 0.6, "does not hold"), ("worse", -0.5, 0.1, "undecided"),
    ],
)  # fmt: skip
def test_the_verdict_of_an_interval(expects, low, high, said):
    assert verdict(expects, low, high, margin=0.2) == said


def test_pairs_take_the_seeds_out_of_the_comparison(tmp_path):
    """Seeds 3 dB apart, an effect of 0.5 dB in each: the interval is narrow, by hand 4.3027 x 0.01 / sqrt(3)."""
    claim = read_claim(write(tmp_path))
    jitter = {0: -0.01, 1: 0.0, 2: 0.01}

    def psnr(p):
        return 25 + 3 * p["seed"] - (0.5 + jitter[p["seed"]]) * p["teacher_forcing.ratio"] * (p["strategies"] != [])

    judged = judge(claim, rows_of(claim.points(), psnr))
    with_ema, without = judged
    assert with_ema["where"] == 'strategies = ["ema"]' and with_ema["compared"] == "forced against free"
    assert with_ema["effect"] == pytest.approx(-0.5) and with_ema["pairs"] == 3
    half = 4.3027 * 0.01 / 3**0.5
    assert (with_ema["low"], with_ema["high"]) == pytest.approx((-0.5 - half, -0.5 + half))
    assert (with_ema["verdict"], without["verdict"]) == ("holds", "does not hold")
    assert overall(judged) == "depends" and overall(judged[:1]) == "holds"
    assert overall([*judged, {"verdict": "undecided"}]) == "depends"
    assert overall([judged[0], {"verdict": "undecided"}]) == "undecided"


def test_failed_and_missing_runs_are_no_pairs(tmp_path):
    claim = read_claim(write(tmp_path, where={}))
    rows = rows_of(claim.points(), lambda p: 25 + p["teacher_forcing.ratio"])
    rows[0]["status"] = "failed"
    (row,) = judge(claim, rows)
    assert row["pairs"] == 2 and row["verdict"] == "does not hold"
    (row,) = judge(claim, rows[:4])
    assert (row["pairs"], row["low"], row["verdict"]) == (1, None, "not measured")
    (row,) = judge(claim, [])
    assert (row["pairs"], row["effect"], row["verdict"]) == (0, None, "not measured")


def test_a_row_of_another_point_is_not_taken(tmp_path):
    claim = read_claim(write(tmp_path, where={}))
    rows = rows_of([{**p, "beta": 0.5} for p in claim.points()], lambda p: 25.0)
    assert judge(claim, rows)[0]["pairs"] == 0, "these were run with another beta"


def test_results_are_read_as_they_were_written(tmp_path):
    claim = read_claim(write(tmp_path))
    rows = rows_of([*claim.points(), {"seed": 9, "annealing": "none"}], lambda p: 25 + 0.1 * p["seed"])
    findings.write_results(claim, rows, tmp_path)
    read = findings.read_results(claim, tmp_path)
    assert len(read) == 12 and judge(claim, read) == judge(claim, rows)
    named = claims.labelled(claim, read)
    assert [row["level"] for row in named] == ["free"] * 6 + ["forced"] * 6
    assert {row["teacher_forcing.ratio"] for row in named[:6]} == {"0.0"}


def test_what_is_said_for_one_dataset_counts_there_alone(tmp_path):
    claim = read_claim(write(tmp_path, where={}, datasets={"lab4": {"hold_out": 0, "steps": 20}}))
    assert {(p.get("hold_out"), p["steps"]) for p in claim.on("lab4").points()} == {(0, 20)}
    assert claim.on("dancer").points() == claim.points() and "hold_out" not in claim.points()[0]
    for data, effect in (("dancer", -1.0), ("lab4", -3.0)):
        rows = rows_of(claim.on(data).points(), lambda p, effect=effect: 25 + effect * p["teacher_forcing.ratio"])
        findings.write_results(claim, rows, tmp_path, data)
    judged = findings.judged_on_all(claim, tmp_path)
    assert [(row["data"], row["effect"], row["pairs"]) for row in judged] == [
        ("synthetic dancer", -1.0, 3), ("real frames", -3.0, 3)]  # fmt: skip
    elsewhere = rows_of(claim.on("dancer").points(), lambda p: 25.0)
    assert judge(claim.on("lab4"), elsewhere)[0]["pairs"] == 0, "these were scored on another clip"


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"datasets": {"lab5": {}}}, "unknown dataset of the claim forcing: 'lab5': did you mean 'lab4'"),
        ({"datasets": {"lab4": 3}}, "datasets: lab4: 3: expected a mapping of overrides"),
        ({"datasets": [1]}, "datasets = \\[1\\]: expected a mapping"),
        ({"expects": "bigger"}, "expects = 'bigger': expected one of 'same'"),
        ({"base": "nobody"}, "base = 'nobody': expected one of two levels"),
        ({"seeds": [1]}, "expected 2 or more"),
        ({"margin": 0}, "more than 0 dB"),
        ({"levels": [1]}, "levels = \\[1\\]: expected a mapping"),
        ({"levels": {"free": 0.0, "forced": {}}}, "level 'free': 0.0: expected a word and a mapping"),
        ({"seed": [1]}, "did you mean 'seeds'"),
    ],
)
def test_a_mistake_in_a_claim_is_one_clear_error(tmp_path, changes, message):
    with pytest.raises(Lab4Error, match=message):
        read_claim(write(tmp_path, **changes))


def test_claims_share_their_points(tmp_path):
    claim = read_claim(write(tmp_path))
    assert len(claims.points_of_all([claim, claim])) == len(claim.points()) == 12
    assert [p["seed"] for p in claims.points_of_all([claim])] == sorted(p["seed"] for p in claim.points())
    assert claims.points_of(write(tmp_path)) == claim.points()


@pytest.mark.parametrize("path", FILES, ids=[p.stem for p in FILES])
def test_every_claim_of_the_project_can_run(path):
    """Each of its points is a configuration, no two are the same, and what was measured belongs to them."""
    claim = read_claim(path)
    points = claim.points()
    assert len(expand([{k: [v] for k, v in p.items()} for p in points])) == len(points)
    for point in [*points, *claim.on("lab4").points()]:
        params = notebook_parameters(point, {})
        changes = {"seed": params["seed"], **params["overrides"]}
        load_config(params["profile"], params["preset"], overrides=changes)
    for data in findings.DATASETS:
        measured, there = findings.read_results(claim, data=data), claim.on(data).points()
        assert sum(claims.finished_row(measured, p) is not None for p in there) == len(measured)


def test_the_command_measures_what_is_missing_and_judges(tmp_path, monkeypatch, capsys):
    path = write(tmp_path, where={})

    def run_sweep(points, out, common, engine, slots):
        rows = rows_of(points, lambda p: 25 + 0.01 * p["seed"] - p["teacher_forcing.ratio"])
        out.mkdir()
        write_table(rows, out)

    monkeypatch.setattr("lab4_core.sweeps.sweep.run_sweep", run_sweep)
    assert cli.main(["claims", str(path)]) == 0
    assert "not measured" in capsys.readouterr().out
    assert cli.main(["claims", str(path), "--run", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "forcing, synthetic dancer: holds (Teacher forcing hurts; report_000)" in said and "real" not in said
    assert "forced against free: -1.00 dB, 95 % interval -1.00 to -1.00 over 3 seeds: holds" in said
    assert cli.main(["claims", str(path)]) == 0 and capsys.readouterr().out == said
    # nothing new measured takes nothing away
    (tmp_path / "empty").mkdir()
    write_table(rows_of([{"seed": 99}], lambda p: 20.0), tmp_path / "empty")
    assert cli.main(["claims", str(path), "--out", str(tmp_path / "empty")]) == 0 and capsys.readouterr().out == said
    # nor does a sweep that has finished one point of them, whose number is the newer one
    (tmp_path / "one").mkdir()
    point = {**read_claim(path).points()[0], "seed": 0}
    write_table(rows_of([point], lambda p: 26.0), tmp_path / "one")
    assert cli.main(["claims", str(path), "--out", str(tmp_path / "one")]) == 0
    assert "over 3 seeds" in capsys.readouterr().out
    stored = findings.read_results(read_claim(path), tmp_path)
    assert len(stored) == 6 and sorted(float(row["psnr"]) for row in stored)[-1] == 26
    assert cli.main(["claims", str(path), "--run", "--out", str(tmp_path / "again")]) == 0
    assert capsys.readouterr().out == said
    # whose results these are, the sweep knows
    (tmp_path / "one" / "sweep.json").write_text('{"points": [], "common": {"data": "/LAB4_Dataset"}}')
    assert cli.main(["claims", str(path), "--out", str(tmp_path / "one")]) == 0
    assert "forcing, real frames" in capsys.readouterr().out
    stored = {data: tmp_path / "results" / data / "forcing.csv" for data in ("dancer", "lab4")}
    assert [len(findings.read_table(file)) for file in stored.values()] == [6, 1]
    stored["lab4"].unlink()
    # a folder that is none is a slip, and not "nothing new"
    assert cli.main(["claims", str(path), "--out", str(tmp_path / "nowhere")]) == 2
    assert "no sweep.csv in it" in capsys.readouterr().err

    # real frames have results of their own, and a row of the table names the command that measured it
    root = tmp_path / "LAB4_Dataset"
    root.mkdir()
    assert cli.main(["claims", str(path), "--run", "--out", str(tmp_path / "real"), "--data", str(root)]) == 0
    said = capsys.readouterr().out
    assert "forcing, synthetic dancer: holds" in said and "forcing, real frames: holds" in said
    assert cli.main(["claims", str(path), "--markdown"]) == 0
    head, _, dancer, real = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in head.split("|")][1:-1] == list(findings.FINDINGS)
    measured = "forced -1.00 dB (-1.00 to -1.00, 3 seeds) | holds | forcing.yaml |"
    assert dancer.endswith(f"| synthetic dancer | {measured}") and real.endswith(f"| real frames | {measured}")
    rows = findings.table_rows(findings.judged_on_all(read_claim(path), tmp_path))
    assert [r["command"] for r in rows] == [
        f"lab4 claims {path} --run",
        f"lab4 claims {path} --run --data LAB4_Dataset",
    ]
    assert rows[0]["95 % interval"] == "-1.00 to -1.00" and set(findings.TABLE) <= set(rows[0])


def test_the_findings_of_the_readme_are_those_of_the_results():
    """Its lines are calculated by `lab4 claims --markdown`; nobody types a verdict."""
    expected = Table(findings.finding_rows(claims.all_claims()), findings.FINDINGS).to_markdown()
    assert expected in (ROOT / "README.md").read_text(encoding="utf-8")


def test_effects_and_the_runs_behind_them_are_drawn(tmp_path):
    claim = read_claim(write(tmp_path))
    rows = rows_of(claim.points(), lambda p: 25 + 0.01 * p["seed"] ** 2 * p["teacher_forcing.ratio"])
    effects = plots.plot_effects([*judge(claim, rows), *judge(claim, [])]).axes[0]
    shown = [label.get_text() for label in effects.get_yticklabels()]
    assert shown == [
        'forcing: forced against free, strategies = ["ema"] (3 pairs)',
        "forcing: forced against free, strategies = [] (3 pairs)",
    ]
    assert effects.get_ylim()[0] > effects.get_ylim()[1], "the first on top"

    figure = plots.plot_sweep(claims.labelled(claim, rows), ["level"])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["free", "forced"]
    assert {t.get_text() for t in figure.legends[0].get_texts()} == {"mean", "seed 0", "seed 1", "seed 2"}
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert len(dots) == 12, "a dot for each run"
    for empty in (plots.plot_effects(judge(claim, [])), plots.plot_sweep([], ["level"])):
        assert not empty.axes and empty.texts, "a sentence in the figure's place"
