"""Text that came from files, folders and metrics is text wherever it is shown: it never becomes a tag, a script, a
formula or an attribute. And nothing here serves anything to a network beyond what JupyterLab does by itself."""

from __future__ import annotations

import json
import re
import subprocess
import types
from pathlib import Path

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from nbformat import v4

import lab4_core
from lab4_core import plots
from lab4_core.config import Config
from lab4_core.errors import Lab4Error
from lab4_core.media import Video, figure_html
from lab4_core.pages import report
from lab4_core.pages.export import check_offline, notebook_html
from lab4_core.plots.results import results_table
from lab4_core.runlog import Run, create
from lab4_core.scores import Score
from lab4_core.sweeps import table as sweep_table

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", '" onload="alert(1)',
    "' onfocus='alert(1)' autofocus='", "</td></table><iframe src=//x>", "$\\frac{", "$x_{$", "a|b\n|c", "&lt;b&gt;",
    "\u202e<b>", "]]><svg onload=alert(1)>",
]  # fmt: skip


def harmless(html: str, *texts: str) -> None:
    """No element or attribute that can act; and the texts are there, to be read."""
    page = BeautifulSoup(html, "html.parser")
    assert not page.find_all(["script", "iframe", "svg", "object", "embed"]), html[:500]
    for tag in page.find_all(True):
        assert not [name for name in tag.attrs if name.startswith("on") or name == "autofocus"], str(tag)[:300]
        assert tag.name != "img" or tag["src"].startswith("data:"), str(tag)[:300]
    check_offline(html)
    shown = page.get_text() + " ".join(str(v) for tag in page.find_all(True) for v in tag.attrs.values())
    for text in texts:
        assert text.strip() in shown, f"{text!r} is not shown as it is"


def run_named(folder: Path, name: str, **result) -> Run:
    """A run whose folder somebody gave a name, the end of which is shown, and whose files somebody wrote."""
    run = create(folder / re.sub(r"[/\n]", "", name), Config())
    run.write_result({"status": "failed", "reason": name, **result})
    lines = [{"kind": kind, "epoch": e, "step": e + 1, "loss": 1.0, "psnr": 20.0 + e} for e in range(2)
             for kind in ("step", "epoch", "eval")]  # fmt: skip
    (run.dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


@pytest.mark.parametrize("text", HOSTILE)
def test_tables(tmp_path, text):
    runs = [run_named(tmp_path, f"{i}{text}") for i in range(2)]
    table = results_table(runs)
    harmless(table.to_html(), text)
    cell = v4.new_code_cell(outputs=[v4.new_output("display_data", data={"text/markdown": table.to_markdown()})])
    harmless(notebook_html(v4.new_notebook(cells=[cell])))
    numbers = {"psnr": np.full((1, 2), 20.0), "ssim": np.ones((1, 2))}
    score = Score(**numbers, baselines={text: numbers}, protocol={text: text})
    harmless(score._repr_html_(), text.replace("_", " "), text)


@pytest.mark.parametrize("text", HOSTILE)
def test_alt_texts_captions_and_titles(text):
    clip = np.zeros((2, 8, 8, 3), np.uint8)
    harmless(figure_html(b"x", "image/png", alt=text, caption=text), text)
    harmless(Video({text: clip}, title=text, alt=text).to_html(), text)
    harmless(Video({text: clip}, title=text, embed="gif").to_html(), text)


def test_figures(tmp_path):
    """Names in a legend are drawn letter for letter: a dollar begins no formula, which would end in an error."""
    runs = [run_named(tmp_path, f"{text}{i}") for i, text in enumerate(HOSTILE)]
    score, all_ = Score(np.full((1, 4), 20.0), np.ones((1, 4)), {}), "\n".join(HOSTILE)
    for figure in (plots.plot_training(runs), plots.plot_validation(runs),
                   plots.plot_psnr_per_frame(dict.fromkeys(HOSTILE, score)),
                   plots.plot_schedule(dict.fromkeys(HOSTILE, Config().annealing), 4)):  # fmt: skip
        assert len(figure.legends[0].get_texts()) >= len(HOSTILE)
        picture = plots.show(figure, alt=all_, caption=all_)
        harmless(picture._repr_mimebundle_()["text/html"], *HOSTILE)


@pytest.mark.parametrize("text", HOSTILE)
def test_exported_pages(text):
    """Outputs of every kind and the heading that a picture's description is made of."""
    outputs = [
        v4.new_output("stream", name="stdout", text=text),
        v4.new_output("display_data", data={"text/plain": text}),
        v4.new_output("display_data", data={"image/png": "eA=="}),
        v4.new_output("error", ename="Lab4Error", evalue=text, traceback=[text]),
    ]
    heading = v4.new_markdown_cell("# " + text.replace("<", "&lt;").replace("$", r"\$").replace("\n", " "))
    page = notebook_html(v4.new_notebook(cells=[heading, v4.new_code_cell(outputs=outputs)]), name=text)
    harmless(page)


@pytest.mark.parametrize("html", [
    '<p onclick="alert(1)">x</p>', '<a href="javascript:alert(1)">x</a>', '<a href=" java\tscript:alert(1)">x</a>',
    '<a href="data:text/html,x">x</a>', "<svg onload=alert(1)></svg>", "<iframe srcdoc=x></iframe>",
])  # fmt: skip
def test_a_page_that_could_act_is_refused(html):
    with pytest.raises(Lab4Error, match="not self-contained"):
        check_offline(html)


def test_sweep_tables_and_failed_points(tmp_path):
    """A failed point is a row with its reason, in CSV and HTML; the report says it too."""
    points = [{"annealing": text} for text in HOSTILE]
    folders = []
    for i, text in enumerate(HOSTILE):
        folders.append(tmp_path / "points" / str(i))
        folders[-1].mkdir(parents=True)
        (folders[-1] / "status.json").write_text(json.dumps({"status": "failed", "reason": text}))
    rows = sweep_table.table(points, folders)
    sweep_table.write_table(rows, tmp_path)
    assert [row["status"] for row in rows] == ["failed"] * len(HOSTILE)
    harmless((tmp_path / "sweep.html").read_text(encoding="utf-8"), *(text.replace("\n", " ") for text in HOSTILE[:5]))
    assert report.point_run(folders[0]) == (None, HOSTILE[0])
    (folders[0] / "status.json").write_text(json.dumps({"status": "finished", "run": "../../../etc"}))
    with pytest.raises(Lab4Error, match="outside of"):
        report.point_run(folders[0])


def test_the_report_says_which_run_failed(capsys):
    """Notebook 12's own cell, on a run that finished and a point that came to none."""
    cells = nbformat.read(ROOT / "notebooks/12_report.ipynb", as_version=4).cells
    (source,) = [c.source for c in cells if c.cell_type == "code" and "a run failed" in c.source]
    cfg = Config.from_dict({"data": {"kind": "dancer", "clips": 1, "frames": 4, "test_clips": 0}})
    finished = types.SimpleNamespace(config=cfg, finished=True, result={"psnr": 20.0})
    exec(source, {"l4": lab4_core, "found": [(finished, None), (None, HOSTILE[0])]})
    said = capsys.readouterr().out
    assert f"a run failed: {HOSTILE[0]}" in said
    cell = v4.new_code_cell(outputs=[v4.new_output("stream", name="stdout", text=said)])
    harmless(notebook_html(v4.new_notebook(cells=[cell])), HOSTILE[0])


def test_nothing_is_served_beyond_jupyterlabs_defaults():
    """No server of our own, and no option that opens JupyterLab to others: its token, its origin and its address."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout.split("\0")
    if not any(names):
        pytest.skip("no git here to say which files are the project's")
    opens = re.compile(
        r"allow.?root|allow_origin|(ServerApp|NotebookApp|IdentityProvider)\.(token|password|ip|allow)"
        r"|--(ip|token|password)\b|disable_check_xsrf|http\.server|socketserver|\.serve_forever|0\.0\.0\.0|uvicorn|flask"
    )
    for name in names:
        path = ROOT / name
        if name.startswith("tests/"):  # a test may serve to itself
            continue
        if path.suffix in (".py", ".ipynb", ".toml", ".yml", ".json", "") and path.is_file():
            found = opens.search(path.read_text(encoding="utf-8", errors="ignore"))
            assert not found, f"{name}: {found[0]}"
    assert not [
        n for n in names if Path(n).name.startswith(("jupyter_", "ipython_config")) and n.endswith((".py", ".json"))
    ]
