"""The page: complete, readable, and nothing in it comes from outside."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat import v4
from PIL import Image

from lab4_core.errors import Lab4Error
from lab4_core.pages.export import check_offline, export_html, notebook_html
from lab4_core.pages.mathml import markdown_html, mathml

FORMULA = (
    r"\log p_\theta(x \mid c) \ge \mathbb{E}_q\left[\log p_\theta(x \mid z, c)\right] - \beta\,\mathrm{KL}(q \,\|\, p)"
)


def picture(kind: str) -> str:
    """A small picture as base64; a GIF has three frames."""
    frames = [Image.new("RGB", (64, 32), (80 * i, 120, 200)) for i in range(3)]
    file = io.BytesIO()
    frames[0].save(file, kind, **({"save_all": True, "append_images": frames[1:]} if kind == "gif" else {}))
    return base64.b64encode(file.getvalue()).decode()


def output(**data: str) -> nbformat.NotebookNode:
    return v4.new_output("display_data", {k.replace("_", "/", 1): v for k, v in data.items()})


WIDGET = v4.new_output(
    "display_data",
    {
        "application/vnd.jupyter.widget-view+json": {"model_id": "a" * 32, "version_major": 2},
        "text/plain": "IntSlider()",
    },
)
GIF = f"""<figure><img src="data:image/gif;base64,{picture("gif")}" alt="A dancer">
<figcaption>Rolled out.</figcaption></figure>"""


def notebook(*cells) -> nbformat.NotebookNode:
    return v4.new_notebook(cells=list(cells), metadata={"language_info": {"name": "python"}})


@pytest.fixture
def example(tmp_path: Path) -> Path:
    nb = notebook(
        v4.new_markdown_cell(f"# Lab 4: *annealing* & more\n\nThe bound is $${FORMULA}$$ in nats."),
        v4.new_markdown_cell(
            "## Curves\n\n| type | PSNR |\n|---|---|\n| cyclical | `$x$` |\n\n```python\ny = '$x$'\n```"
        ),
        v4.new_code_cell(
            "SECRET = 1", outputs=[output(image_png=picture("png"), text_plain="<Figure>")], execution_count=7
        ),
        v4.new_code_cell("video", outputs=[output(text_html=GIF, text_plain="Video(3 frames)"), WIDGET]),
        v4.new_code_cell("print('<b>')", outputs=[v4.new_output("stream", name="stdout", text="a <b> & c\n")]),
        v4.new_code_cell("warn()", outputs=[v4.new_output("stream", name="stderr", text="12%|###      |")]),
        v4.new_code_cell("m", outputs=[output(text_latex=r"$\displaystyle \frac{a}{b}$", text_plain="a/b")]),
        v4.new_code_cell("js", outputs=[output(application_javascript="alert(1)", text_plain="<JS>")]),
    )
    nb.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2}}
    path = tmp_path / "executed.ipynb"
    nbformat.write(nb, path)
    return path


@pytest.fixture
def page(example: Path, tmp_path: Path) -> BeautifulSoup:
    return BeautifulSoup(export_html(example, tmp_path / "out" / "page.html").read_text("utf-8"), "html.parser")


def test_a_page_is_a_complete_document(page: BeautifulSoup):
    assert page.html["lang"] == "en"
    assert page.find("meta", charset="utf-8")
    assert page.title.text == "Lab 4: annealing & more"
    assert [h.text for h in page.find_all(["h1", "h2"])] == ["Lab 4: annealing & more", "Curves"]
    assert [td.text for td in page.find_all("td")] == ["cyclical", "$x$"]


def test_the_title_can_be_given_and_is_escaped(example: Path, tmp_path: Path):
    text = export_html(example, tmp_path / "page.html", title="run <script>").read_text("utf-8")
    assert "<title>run &lt;script&gt;</title>" in text


def test_pictures_are_inside_and_described(page: BeautifulSoup):
    png, gif = page.find_all("img")
    assert png["src"] == f"data:image/png;base64,{picture('png')}"
    assert gif["src"] == f"data:image/gif;base64,{picture('gif')}"
    assert gif["alt"] == "A dancer"
    assert png["alt"] == "Picture in the section “Curves”"
    assert page.figcaption.text == "Rolled out."


def test_code_and_prompts_are_hidden_unless_asked_for(example: Path, tmp_path: Path, page: BeautifulSoup):
    assert "SECRET" not in page.text
    assert "[7]" not in page.text
    shown = export_html(example, tmp_path / "shown.html", show_code=True).read_text("utf-8")
    assert "SECRET" in shown
    assert "[7]" not in shown


def test_what_only_lives_with_a_kernel_is_left_out(page: BeautifulSoup):
    assert page.find("script") is None
    for gone in ("IntSlider", "12%|", "alert", "widget-state"):
        assert gone not in str(page)
    assert "a <b> & c" in page.text


def test_a_widget_that_brings_its_static_twin_shows_it():
    both = {**WIDGET.data, "text/html": GIF, "image/png": picture("png")}
    player = v4.new_code_cell("player", outputs=[v4.new_output("display_data", both)])
    html = notebook_html(notebook(v4.new_markdown_cell("# One"), player))
    assert [img["alt"] for img in BeautifulSoup(html, "html.parser").find_all("img")] == ["A dancer"]
    assert "IntSlider" not in html and "model_id" not in html


def test_no_line_begins_with_the_stop_behind_a_formula():
    html = markdown_html("so $a^2$, then $b$ and\n$x$ and $b$.\n\n$$c$$\n\n(of $d$) and $e$ too")
    together = BeautifulSoup(html, "html.parser").find_all("span", "formula")
    assert [span.get_text()[-1] for span in together] == [",", ".", ")"] and html.count("<math ") == 7
    assert all(len(span.find_all("math")) == 1 for span in together)  # the words between two may be broken anywhere


def test_formulas_of_text_and_of_outputs_become_mathml(page: BeautifulSoup):
    formula, fraction = page.find_all("math")
    assert formula["alttext"] == FORMULA
    assert formula["display"] == "block"
    assert fraction.mfrac
    assert page.find("code", string="$x$")
    assert "y = '$x$'" in page.pre.text


def test_a_failed_export_leaves_the_old_page(example: Path, tmp_path: Path):
    path = tmp_path / "page.html"
    path.write_text("old")
    nbformat.write(notebook(v4.new_markdown_cell(r"$\frac{1}{2$")), example)
    with pytest.raises(Lab4Error, match="frac"):
        export_html(example, path)
    nbformat.write(notebook(v4.new_markdown_cell("![x](../figures/x.png)")), example)
    with pytest.raises(Lab4Error, match=r"figures/x\.png"):
        export_html(example, path)
    assert path.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["executed.ipynb", "page.html"]


@pytest.mark.parametrize("content", ["{}", "no json", '{"cells": 3}', None])
def test_a_file_that_is_no_notebook_is_named(content: str | None, tmp_path: Path):
    path = tmp_path / "wrong.ipynb"
    if content is not None:
        path.write_text(content)
    with pytest.raises(Lab4Error, match=r"wrong\.ipynb"):
        export_html(path, tmp_path / "page.html")


# ------------------------------------------------------------------------------------------------------ formulas


@pytest.mark.parametrize(
    ("source", "display"),
    [
        ("a $x^2$ b", "inline"),
        ("$$x^2$$", "block"),
        ("text\n\n\\begin{align}\nx^2 &= 1 \\\\\n y &= 2\n\\end{align}\n", "block"),
        ("$$\n\\begin{aligned} x^2 &= 1 \\\\ y &= 2 \\end{aligned}\n$$", "block"),
        ("- in a list $x^2$", "inline"),
        ("## in a heading $x^2$", "inline"),
    ],
)
def test_every_way_to_write_a_formula(source: str, display: str):
    html = markdown_html(source)
    (math,) = BeautifulSoup(html, "html.parser").find_all("math")
    assert math["display"] == display
    assert math.msup.text == "x2"
    assert "$" not in re.sub(r'alttext="[^"]*"', "", html)


@pytest.mark.parametrize("source", ["`$x$`", "    $x$", "```\n$x$\n```", r"costs \$5 and \$6"])
def test_a_dollar_that_is_no_formula(source: str):
    html = markdown_html(source)
    assert "<math" not in html
    assert "$" in html


@pytest.mark.parametrize(
    "latex",
    [
        r"\foo x",
        r"\frac{1}{2",
        r"a \\ b",
        r"\left( a",
        r"\begin{foo} a \end{foo}",
        r"a & b",
        r"\text{\bar}",
        "x_1_2",
        r"\hat",
    ],
)
def test_what_cannot_be_shown_is_refused_by_name(latex: str):
    with pytest.raises(Lab4Error, match=re.escape(repr(latex))):
        mathml(latex, "inline")


MATHML = "{http://www.w3.org/1998/Math/MathML}"


def parts(latex: str, tag: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(mathml(latex, "block")).iter(MATHML + tag))


def test_equations_are_aligned_at_the_sign():
    for environment in ("align", "align*", "aligned", "split"):
        rows = parts(rf"\begin{{{environment}}} a &= b \\ c &= d \end{{{environment}}}", "mtr")
        assert [[cell.get("columnalign") for cell in row] for row in rows] == [["right", "left"]] * 2


def test_bars_do_not_grow_and_functions_stand_apart():
    for bar in parts(r"\lVert x \rVert + \Vert y \Vert", "mo"):
        assert bar.text == "+" or bar.get("stretchy") == "false"
    assert len(parts(r"\log p", "mspace")) == 1
    assert len(parts(r"10 \log_{10} \frac{1}{2}", "mspace")) == 2
    assert not parts(r"\log(p) + \max_i\left(a_i\right) + \mathrm{KL}(q)", "mspace")


# ----------------------------------------------------------------------------------------------------- offline


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://a.org/x.js"></script>',
        "<script>fetch('//a.org')</script>",
        '<script type="module">import "https://a.org/x.mjs"</script>',
        '<link rel="stylesheet" href="//a.org/x.css">',
        '<IMG SRC="http://a.org/x.png" alt="">',
        '<img src="figures/x.png" alt="">',
        '<img srcset="https://a.org/x.png 2x" alt="">',
        '<img srcset="data:image/png;base64,AAAA 1x, https://a.org/x.png 2x" alt="">',
        '<img srcset="data:image/png;base64,AAAA, https://a.org/x.png" alt="">',
        '<video poster="https://a.org/x.png"></video>',
        '<video><source src="https://a.org/x.mp4"></video>',
        '<iframe src="https://a.org"></iframe>',
        '<object data="https://a.org"></object>',
        '<base href="https://a.org/">',
        '<meta http-equiv="refresh" content="0;url=https://a.org">',
        '<style>@import "https://a.org/x.css";</style>',
        "<style>b { background: url( 'https://a.org/x.png' ) }</style>",
        '<b style="background: URL(//a.org/x.png)">x</b>',
        '<svg><image xlink:href="https://a.org/x.png"/></svg>',
        '<svg><use href="https://a.org/x.svg#a"/></svg>',
    ],
)
def test_whatever_loads_is_found(html: str):
    with pytest.raises(Lab4Error, match="not self-contained"):
        check_offline(f"<html><body>{html}</body></html>")


@pytest.mark.parametrize(
    "html",
    [
        '<a href="https://arxiv.org/abs/1903.10145">Fu et al.</a>',
        '<a href="#part">part</a>',
        '<img src="data:image/gif;base64,AAAA" alt="">',
        '<img srcset="data:image/png;base64,AAAA 1x,data:image/png;base64,BBBB 2x, #a" alt="">',
        '<video src="data:video/mp4;base64,AAAA"></video>',
        '<svg><use href="#a"/></svg>',
        "<style>b { background: url(data:image/png;base64,AAAA); fill: url(#a) }</style>",
        "<p>see https://a.org/x.js and url(https://a.org)</p>",
        '<script type="application/json">{"a": 1}</script>',
    ],
)
def test_what_loads_nothing_is_let_through(html: str):
    check_offline(f"<html><body>{html}</body></html>")


def test_nbconverts_own_page_would_not_pass(example: Path):
    """The check sees what it is for."""
    from nbconvert import HTMLExporter

    html, _ = HTMLExporter().from_filename(str(example))
    with pytest.raises(Lab4Error, match=r"mathjax|require"):
        check_offline(html)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_draws_the_page(tmp_path: Path):
    """Formulas have a size, the limits of the sum stand above and below, and the policy stops what would load."""
    nb = notebook(v4.new_markdown_cell(r"$$\sum_{t=1}^{T} \frac{x_t}{2}$$"))
    html = notebook_html(nb).replace("default-src 'none';", "default-src 'none'; script-src 'nonce-test';")
    probe = """<script>window.bad = 1</script><script nonce="test">
        const box = s => document.querySelector(s).getBoundingClientRect();
        const [sum, low, high] = [...document.querySelector('munderover').children].map(e => e.getBoundingClientRect());
        document.title = JSON.stringify({height: box('math').height, stacked: high.bottom <= low.top,
            fraction: box('mfrac').height > box('mi').height, bad: window.bad ?? 0});</script>"""
    path = tmp_path / "page.html"
    path.write_text(html.replace("</body>", probe + "</body>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    result = subprocess.run(["chromium", *options, path.as_uri()], capture_output=True, text=True, timeout=60)
    title = re.search(r"<title>(.*?)</title>", result.stdout)
    assert title, result.stderr[-2000:]
    measured = dict(re.findall(r'"(\w+)":([\w.]+)', title[1]))
    assert float(measured["height"]) > 30
    assert (measured["stacked"], measured["fraction"], measured["bad"]) == ("true", "true", "0")


def test_links_between_notebooks_stay_text_and_others_stay_links(tmp_path):
    """The page travels alone; a reference on the web may be followed by whoever is online."""
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell(
                "[◀ 05 V](05_v.ipynb) · **06 T** · [07 X ▶](07_x.ipynb)\n\n# T\n\n[next](07_x.ipynb) and [paper](https://example.org/a)"
            )
        ]
    )
    nbformat.write(notebook, tmp_path / "t.ipynb")
    page = export_html(tmp_path / "t.ipynb", tmp_path / "t.html").read_text()
    assert "07_x.ipynb" not in page and "next" in page and 'href="https://example.org/a"' in page
    assert "◀" not in page and "06 T" not in page
