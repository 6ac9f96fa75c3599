"""The report from end to end: three runs, one page that shows everything and loads nothing."""

import base64

import pytest
from bs4 import BeautifulSoup

from lab4_core.errors import Lab4Error
from lab4_core.pages import report
from lab4_core.pages.export import check_offline
from lab4_core.submission import read_submission

TINY = {"steps": 8, "epochs": 2, "eval_frames": 30, "model.width": 8, "name": "tiny",
        "data": {"kind": "dancer", "clips": 2, "frames": 40, "test_clips": 2}}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return report.make_report("smoke", out=folder, overrides=TINY, slots=2)


def test_the_page_shows_every_figure_and_needs_no_network(made):
    html = made.read_text(encoding="utf-8")
    check_offline(html)
    page = BeautifulSoup(html, "html.parser")
    assert not page.find_all("script") and not page.find_all(class_="input"), "no code, nothing that runs"
    pictures = page.find_all("img")
    assert all(len(p.get("alt", "")) > 15 for p in pictures), "every picture says what it shows"
    gifs = [p for p in pictures if p["src"].startswith("data:image/gif")]
    assert len(gifs) == 4, "the validation clip, its prediction and two test clips"
    for gif in gifs:
        assert base64.b64decode(gif["src"].partition(",")[2])[:6] == b"GIF89a"
    assert len(pictures) - len(gifs) >= 5, "schedules, losses, validation, PSNR per frame, dips"
    assert all(f.find("figcaption") is not None for f in page.find_all("figure"))
    text = page.get_text()
    for kind in report.ANNEALING:
        assert kind in text
    assert "repeat first" in text and "N(0, I)" in text, "baselines and protocol stand beside the score"
    assert page.find("math") is not None


def test_what_is_handed_in_lies_beside_the_page(made):
    clips = read_submission(made.parent / "submission.csv", n_frames=40)
    assert len(clips) == 2
    assert {p.name for p in made.parent.glob("*.gif")} == {"pred_seq0.gif", "pred_seq1.gif", "val.gif"}


def test_made_again_it_takes_up_the_finished_runs(made, capsys):
    before = made.stat().st_mtime_ns
    assert report.make_report("smoke", out=made.parent, overrides=TINY, slots=2) == made
    assert "3 finished before, 0 to run" in capsys.readouterr().out
    assert made.stat().st_mtime_ns > before


def test_no_finished_run_is_an_error_with_the_reason(tmp_path):
    with pytest.raises(Lab4Error, match=r"report: no run finished; cyclical: .*n_frames = 500"):
        report.make_report("smoke", out=tmp_path, overrides={**TINY, "n_frames": 500})
