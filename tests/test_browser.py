"""The widgets in a real browser: JupyterLab in headless Chromium runs cells of the notebooks, moves what they show, and
the pictures change; exported pages show every figure without a network. One server, one notebook and one kernel for all
of it; skipped where there is no Chromium."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest
from nbformat import v4
from playwright import sync_api as playwright
from test_widgets import write_log

from lab4_core.pages.export import export_html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path (apt-get install chromium)")

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PATIENCE = float(os.environ.get("LAB4_PATIENCE", 60))  # seconds that any one wait may take

# Two short clips of the dancer instead of a training: what the players need is a clip and a prediction of it.
CLIPS = """
import numpy as np

import lab4_core as l4
from lab4_core import widgets

data = {"kind": "dancer", "clips": 1, "frames": 80, "test_clips": 1}
dataset = l4.load_data(l4.Config.from_dict({"model": "tiny", "data": data}))
truth, pose = dataset.val.frames[:80], dataset.val.cond[:80]
prediction = truth.roll(3, 0)
print("the clip is there")
"""
CELLS = {
    "clips": CLIPS,
    "player": "widgets.rollout_player(prediction, truth, pose)",
    "poses": "widgets.pose_player(truth, pose)",
    "watch": "widgets.watch({run!r}, every=0.2)",
    "compare": "widgets.compare([l4.Run(p) for p in {runs!r}], quantity='KL')",
    "end": "print('all cells have run')",
}


def cells_of(number: str, *needles: str) -> list[str]:
    """The code cells of a real notebook that hold one of these words, in their order."""
    (path,) = (p for p in NOTEBOOKS if p.name.startswith(number))
    code = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    return [source for source in code if any(needle in source for needle in needles)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """Two runs as a training leaves them, the first in the midst of it."""
    folder = tmp_path_factory.mktemp("runs")
    return [write_log(folder / "a-123456", 20), write_log(folder / "b-123456", 100, name="b", finished=True)]


@pytest.fixture(scope="module")
def server(tmp_path_factory, runs) -> Iterator[str]:
    """A JupyterLab with one notebook, on a port and with a token of its own; the address that opens the notebook."""
    folder = tmp_path_factory.mktemp("lab")
    schedules = cells_of("04", 'profile: str = "smoke"', "import lab4_core as l4", "widgets.Knobs(")
    assert len(schedules) == 3, "notebook 04: parameters, imports, and the schedule with its controls"
    filled = [text.format(run=str(runs[0]), runs=[str(r) for r in runs]) if "{run" in text else text
              for text in CELLS.values()]  # fmt: skip
    notebook = v4.new_notebook(cells=[v4.new_code_cell(source) for source in schedules + filled])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "widgets.ipynb")
    shutil.copy(next(p for p in NOTEBOOKS if p.name.startswith("09")), folder / "stored.ipynb")

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    token, own = secrets.token_hex(16), {f"JUPYTER_{k}_DIR": str(folder / k) for k in ("CONFIG", "DATA", "RUNTIME")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, **own, "IPYTHONDIR": str(folder / "ipython"), "PYTHONPATH": path}
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--ServerApp.port={port}",
               "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}",
               "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=", "--LabApp.check_for_updates_class="
               "jupyterlab.NeverCheckForUpdate"]  # fmt: skip
    log = folder / "server.log"
    with open(log, "wb") as out:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        end = time.monotonic() + PATIENCE
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{url}/api?token={token}", timeout=5):
                break
            assert process.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.1)
        yield f"{url}/lab/tree/{{}}?token={token}&reset"
    finally:
        process.terminate()  # it shuts its kernels down
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=flags, timeout=1000 * PATIENCE)
        yield chromium
        chromium.close()


def open_notebook(browser, address: str):
    """A page on a notebook, so tall that every output is in sight and so in the document."""
    page = browser.new_page(viewport={"width": 1300, "height": 4500})
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    return page


@pytest.fixture(scope="module")
def lab(browser, server):
    """The notebook in JupyterLab, all its cells run."""
    page = open_notebook(browser, server.format("widgets.ipynb"))
    page.wait_for_function("window.jupyterapp && jupyterapp.commands.hasCommand('notebook:run-all-cells')")
    kernel = "jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel"
    page.wait_for_function(f"{kernel}?.status === 'idle'")  # cells that are run earlier are run by nobody
    page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
    done = page.locator(".jp-OutputArea-output", has_text="all cells have run")
    broken = page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]')
    done.or_(broken).first.wait_for()
    assert broken.count() == 0, broken.first.inner_text()
    yield page
    page.close()


def cell(page, name: str):
    """The output of one of CELLS, or of the cell of notebook 04 that stands before them."""
    at = {"schedule": 2, **{key: 3 + i for i, key in enumerate(CELLS)}}[name]
    return page.locator(".jp-CodeCell").nth(at).locator(".jp-OutputArea")


def source(output) -> str:
    """What the picture of a widget shows: an address that is another one for every value."""
    return output.locator("img.widget-image").get_attribute("src")


def changes(output, before: str, seconds: float = PATIENCE) -> bool:
    """Whether the picture becomes another one within so many seconds, and is one."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if source(output) != before:
            return output.locator("img.widget-image").evaluate("img => img.decode().then(() => img.naturalWidth > 100)")
        time.sleep(0.02)
    return False


def press(output, key: str, nth: int = 0) -> None:
    """A key on the handle of the nth slider."""
    handle = output.locator(".noUi-handle").nth(nth)
    handle.focus()
    handle.press(key)


def test_a_slider_of_a_notebook_redraws_its_picture(lab):
    output = cell(lab, "schedule")
    for slider in range(4):  # start, stop, cycles, ratio
        before = source(output)
        press(output, "ArrowRight" if slider != 1 else "ArrowLeft", slider)
        assert changes(output, before), f"slider {slider}"
    before = source(output)
    output.locator("select").first.select_option("monotonic")
    assert changes(output, before)


def frame(output) -> int:
    return int(output.locator(".widget-readout").first.inner_text())


def test_a_clip_can_be_scrubbed(lab):
    for name in ("player", "poses"):
        output = cell(lab, name)
        before, at = source(output), frame(output)
        press(output, "ArrowRight")
        assert changes(output, before), name
        assert frame(output) == at + 1


def test_a_clip_plays_and_pauses(lab):
    output = cell(lab, "player")
    output.locator("button", has_text="¼×").click()  # 16 seconds from end to end
    before, at = source(output), frame(output)
    output.get_by_role("button", name="play", exact=True).click()
    assert changes(output, before)
    end = time.monotonic() + PATIENCE
    while frame(output) < at + 3 and time.monotonic() < end:
        time.sleep(0.05)
    assert frame(output) >= at + 3, "it goes on by itself"
    output.get_by_role("button", name="pause", exact=True).click()
    seen = [None, (frame(output), source(output))]
    while seen[-1] != seen[-2] and time.monotonic() < end:  # what was under way arrives
        time.sleep(1.0)
        seen.append((frame(output), source(output)))
    stopped, shown = seen[-1]
    assert seen[-2] == (stopped, shown) and stopped < 79, f"it does not stand still: {[s[0] for s in seen[1:]]}"
    press(output, "Home")
    assert changes(output, shown)
    assert frame(output) == 0


def test_what_can_be_moved_has_a_name(lab):
    """A slider's handle has none: ipywidgets gives it no attribute. Its name stands before it, as text."""
    for name in ("player", "schedule", "compare"):
        output = cell(lab, name)
        heard = output.aria_snapshot()
        assert not re.search(r'^\s*- (button|combobox|listbox|checkbox)(?! ".*\w)', heard, re.MULTILINE), heard
        assert "Picture: " in heard
    player = cell(lab, "player")
    for button in ("play", "repeat", "¼×", "½×", "1×", "2×", "4×"):
        assert player.get_by_role("button", name=button, exact=True).get_attribute("title"), button
    playwright.expect(player.get_by_text("6 frames of the rollout")).to_be_visible()


def test_the_controls_of_a_player_stay_on_two_lines(lab):
    before = lab.viewport_size
    lab.set_viewport_size({"width": 900, "height": before["height"]})
    try:
        player = cell(lab, "player")
        for row in (("play", "repeat", "frame"), ("speed", "¼×", "4×")):
            boxes = [player.get_by_text(text, exact=True).first.bounding_box() for text in row]
            middles = [box["y"] + box["height"] / 2 for box in boxes]
            assert max(middles) - min(middles) < 8, dict(zip(row, middles))
        cut = "all => all.filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText)"
        assert player.locator("button").evaluate_all(cut) == [], "names that are cut off"
    finally:
        lab.set_viewport_size(before)


def test_the_curves_grow_while_the_run_trains(lab, runs):
    output = cell(lab, "watch")
    line = output.locator(".widget-html-content")
    assert "step 20 of 100" in line.inner_text()
    for steps in (60, 80):
        before = source(output)
        write_log(runs[0], steps)
        assert changes(output, before), "no new picture"
        playwright.expect(line).to_contain_text(f"step {steps} of 100", timeout=1000 * PATIENCE)
    before = source(output)
    output.locator("button", has_text="stop watching").click()
    time.sleep(1.0)
    write_log(runs[0], 100, finished=True)
    assert not changes(output, before, seconds=1.5), "it was told to stop"
    assert "step 80" in line.inner_text()


def test_runs_can_be_chosen_and_compared(lab):
    output = cell(lab, "compare")
    lists = output.locator("select")
    before = source(output)
    lists.nth(1).select_option("loss")
    assert changes(output, before)
    before = source(output)
    lists.nth(0).select_option(["b"])
    assert changes(output, before)


def test_a_stored_notebook_shows_the_twins_and_no_dead_widget(browser, server):
    """What `make lab` opens before anything has run: pictures, not "Error displaying widget"."""
    page = open_notebook(browser, server.format("stored.ipynb"))
    page.wait_for_selector('figure img[alt^="film strip of a rollout"]', state="attached")
    assert "Error displaying widget" not in page.content() and "Loading widget" not in page.content()
    page.close()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[p.stem for p in NOTEBOOKS])
def test_an_exported_page_is_whole_without_a_network(browser, tmp_path: Path, path: Path):
    html = export_html(path, tmp_path / "page.html")
    page, asked, said = browser.new_page(), [], []
    page.set_default_timeout(1000 * PATIENCE)
    page.route("**/*", lambda r: r.continue_() if r.request.url.startswith("file:") else (asked.append(r), r.abort()))
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.goto(html.as_uri())
    pictures = page.evaluate(
        """async () => {
            const images = [...document.images];
            await Promise.allSettled(images.map(image => image.decode()));
            const films = [...document.querySelectorAll('video')];
            await Promise.all(films.map(f => f.readyState ? 0 : new Promise(done => {
                f.onloadedmetadata = f.onerror = done; })));
            return [...images.map(i => [i.alt, i.naturalWidth]), ...films.map(f => [f.ariaLabel, f.videoWidth])];
        }"""
    )
    assert pictures and [alt for alt, width in pictures if width < 50] == []
    assert not [r.request.url for r in asked if not r.request.url.startswith("data:")] and not said
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0, "nothing is wider than the page"
    page.close()


TRAINING = """
from lab4_core import runlog

small = {{**data, "frames": 60, "height": 16, "width": 32}}
length = {{"steps": 120, "epochs": 12, "n_frames": 4, "eval_every": 0}}
cfg = l4.Config.from_dict({{"model": "tiny", "data": small, **length}})
folder = runlog.folder_of(cfg, l4.load_data(cfg).digest, {out!r})
with widgets.watch(folder, every=0.2):
    run = l4.train(cfg, {out!r})
"""


def run_new_cell(page, code: str) -> None:
    """Insert a cell below the last one and run it."""
    page.evaluate(
        """async code => {
            const { commands, shell } = jupyterapp, notebook = shell.currentWidget.content;
            notebook.activeCellIndex = notebook.widgets.length - 1;
            await commands.execute('notebook:insert-cell-below');
            notebook.activeCell.model.sharedModel.setSource(code);
            commands.execute('notebook:run-cell');
        }""",
        code,
    )


def test_around_a_training_the_curves_grow_in_its_own_cell(lab, tmp_path: Path):
    """The kernel is busy with the training; the watcher's thread draws all the same."""
    run_new_cell(lab, TRAINING.format(out=str(tmp_path)))
    output = lab.locator(".jp-CodeCell").last.locator(".jp-OutputArea")
    line = output.locator(".widget-html-content")
    line.wait_for()
    seen, pictures, end = [], set(), time.monotonic() + PATIENCE
    while "finished" not in (text := line.inner_text()) and time.monotonic() < end:
        seen.append(text)
        pictures.add(source(output))
        time.sleep(0.02)
    assert "finished, step 120 of 120" in line.inner_text(), seen[-1:]
    steps = {text.split("step ")[1].split()[0] for text in seen if "step " in text}
    assert len(steps - {"120"}) >= 2 and len(pictures) >= 2, f"nothing was drawn on the way: {sorted(steps)}"
    lab.wait_for_function(
        """() => { const cells = jupyterapp.shell.currentWidget.content.widgets;
            const outputs = cells[cells.length - 1].model.outputs.toJSON();
            return outputs.some(o => (o.data?.['text/html'] || '').includes('finished, step 120')); }"""
    )  # what is stored with the notebook is the twin of the run as it ended


def test_the_words_of_a_run_reach_the_browser_as_words(lab, runs):
    """The status line is HTML: what a run's files say must not become markup there."""
    folder = write_log(runs[0].parent / "c-123456", 20)
    (folder / "result.json").write_text(json.dumps({"status": "failed", "reason": "<img src=x alt=bad>"}))
    run_new_cell(lab, f"widgets.watch({str(folder)!r})")
    lab.locator(".widget-html-content", has_text="<img src=x alt=bad>").wait_for()
    assert lab.locator("img[alt=bad]").count() == 0
