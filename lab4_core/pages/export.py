"""An executed notebook as one HTML file that needs nothing else: no script, no network, no files beside it.

nbconvert's own page loads MathJax, require.js, jQuery, mermaid and the widget manager from the network. Here its
`basic` template gives the body, formulas become MathML while the page is written, and what needs a live kernel is
left out.
"""

from __future__ import annotations

import os
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

from lab4_core.errors import Lab4Error
from lab4_core.pages.mathml import markdown_html
from lab4_core.paths import write_text

# Widgets and JavaScript are absent: without a kernel they are dead, and each has a static twin, in the same output or
# beside it.
SHOWN = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/plain"]
DEAD = {"application/vnd.jupyter.widget-view+json", "application/javascript"}

CSS = """
:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #1b1f24;
  font: 1.0625rem/1.6 system-ui, "Segoe UI", "Noto Sans", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 5rem; overflow-wrap: break-word; }
h1, h2, h3, h4 { line-height: 1.25; margin: 2.2em 0 .6em; text-wrap: balance; }
h1 { font-size: 2.1rem; margin-top: .5em; } h2 { font-size: 1.5rem; border-top: 1px solid #d9dee3; padding-top: 1em; }
h3 { font-size: 1.2rem; } h4 { font-size: 1.05rem; }
p, ul, ol, dl, blockquote { margin: .8em 0; max-width: 44rem; } li { margin: .25em 0; }
a { color: #0a58a8; } blockquote { border-left: 4px solid #b9c6d3; padding-left: 1em; margin-left: 0; color: #48525c; }
img, video, svg { max-width: 100%; height: auto; }
figure { margin: 1.6em 0; } figcaption { margin-top: .5em; font-size: .93rem; color: #48525c; max-width: 44rem; }
table { border-collapse: collapse; margin: 1.2em 0; font-size: .95rem; font-variant-numeric: tabular-nums; }
.output, .rendered_html { overflow-x: auto; overflow-y: hidden; } caption { text-align: left; padding-bottom: .5em; }
th, td { padding: .35em .8em; border-bottom: 1px solid #d9dee3; text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid #8693a0; }
code, pre, kbd { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: .9em; }
:not(pre) > code { background: #f2f4f6; padding: .1em .3em; border-radius: 3px; }
pre { background: #f6f8fa; padding: .8em 1em; border-radius: 4px; line-height: 1.45; white-space: pre-wrap; }
.text_cell_render pre { white-space: pre; overflow-x: auto; }
p:has(> math[display=block]) { max-width: none; width: fit-content; min-width: min(44rem, 100%); }
.output_error pre { background: #fdecea; }
math { font-family: "Latin Modern Math", "STIX Two Math", "Cambria Math", "DejaVu Math TeX Gyre", math;
  font-size: 1.08em; }
.formula { white-space: nowrap; }
math[display=block] { margin: 1.2em 0; overflow-x: auto; overflow-y: hidden; padding: .2em 0; }
math [mathvariant^=bold] { font-weight: bold; } math [mathvariant=monospace] { font-family: monospace; }
/* Chromium moves the boxes in a cell only by the -webkit- keywords. */
mtd[columnalign=left] { text-align: left; text-align: -webkit-left; }
mtd[columnalign=right] { text-align: right; text-align: -webkit-right; }
mtable[columnspacing^="0em"] > mtr > mtd { padding-left: 0; padding-right: 0; }
mtable[columnspacing^="0em"] > mtr > mtd:nth-child(2n+3) { padding-left: 2em; }
@media print { body { font-size: 10pt; } main { max-width: none; padding: 0; } h1, h2, h3, h4 { break-after: avoid; }
  figure, img, tr, pre, math { break-inside: avoid; } a { color: inherit; }
  .output, .rendered_html { overflow: visible; } table { font-size: 8pt; } th, td { padding: .2em .4em; } }
"""

HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
# The addresses of a srcset: each up to a blank, then what follows it up to a comma (a data: address has commas inside)
SRCSET = re.compile(r"[\s,]*(\S*[^\s,])(?:,+(?=\s|$)|[^,]*)")
# Tells the browser itself to load nothing: whatever a notebook puts into the page, it stays offline.
POLICY = "default-src 'none'; img-src data:; media-src data:; font-src data:; style-src 'unsafe-inline'"


def export_html(
    notebook_path: str | os.PathLike, html_path: str | os.PathLike, title: str | None = None, show_code: bool = False
) -> Path:
    """Write an executed notebook as one self-contained page; returns the path of the page.

    title: of the browser's tab; by default the notebook's first heading. show_code: keep the cells' source.
    Raises `Lab4Error` for a file that is not a notebook, a formula that cannot be converted, or a page that would
    load something from outside.
    """
    notebook_path, html_path = Path(notebook_path), Path(html_path)
    try:
        notebook = nbformat.read(notebook_path, as_version=4)
    except Exception as e:  # a wrong file can fail in any way
        raise Lab4Error(f"cannot read {notebook_path}: {e}; expected a Jupyter notebook") from e
    page = notebook_html(notebook, title=title, show_code=show_code, name=notebook_path.stem)
    check_offline(page)
    write_text(html_path, page)
    return html_path


def notebook_html(notebook: Any, title: str | None = None, show_code: bool = False, name: str = "notebook") -> str:
    """The page of `export_html` as a string, not yet checked. name: the title if there is no heading either."""
    notebook = _without_the_live_parts(notebook, show_code)
    exporter = HTMLExporter(
        config=Config({"NbConvertBase": {"display_data_priority": SHOWN}}),
        template_name="basic",
        filters={"markdown2html": markdown_html},
        exclude_input=not show_code,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    body, _ = exporter.from_notebook_node(notebook)
    # links to neighbouring notebooks would lead nowhere from a page on its own: the line of them goes, the text of
    # others stays
    body = re.sub(r'<p>(?:(?!</p>).)*<a href="[^":]*\.ipynb">(?:◀|[^<]*▶)(?:(?!</p>).)*</p>', "", body, flags=re.DOTALL)
    body = re.sub(r'<a href="[^":]*\.ipynb">(.*?)</a>', r"\1", body)
    title = title or _first_heading(notebook) or name
    highlighting = HtmlFormatter(style="default").get_style_defs(".highlight")
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}{highlighting}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _without_the_live_parts(notebook: Any, show_code: bool) -> Any:
    """A copy in which a page alone can show every output, and every picture has an alt text."""
    notebook = nbformat.from_dict(notebook)
    notebook.metadata.pop("widgets", None)
    heading, cells = "", []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = (HEADING.findall(cell.source) or [heading])[-1]
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_live(output)]
            for output in cell.outputs:
                _prepare_output(output, alt=f"Picture in the section “{heading}”" if heading else "Picture")
            if not cell.outputs and not show_code:
                continue
        cells.append(cell)
    notebook.cells = cells
    return notebook


def _is_live(output: Any) -> bool:
    """Progress bars and warnings (stderr), and what needs a kernel or a script and has no static twin (the name that
    every widget has as plain text does not count as one)."""
    data = output.get("data", {})
    return output.get("name") == "stderr" or (not DEAD.isdisjoint(data) and data.keys() <= DEAD | {"text/plain"})


def _prepare_output(output: Any, alt: str) -> None:
    """Treat math in an output like math in text, and give a picture without a description `alt`."""
    data = output.get("data", {})
    for kind in DEAD & data.keys():
        del data[kind]
    if "text/latex" in data:
        data["text/markdown"] = data.pop("text/latex")
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            about = output.metadata.setdefault(kind, {})
            about["alt"] = about.get("alt") or alt
    if "image/svg+xml" in data:  # nbconvert writes it without a description
        data["text/html"] = data.get("text/html") or data.pop("image/svg+xml")
    if "text/html" in data:
        data["text/html"] = re.sub(r"<img\b(?![^>]*\salt=)", lambda m: f'<img alt="{escape(alt)}"', data["text/html"])


def _first_heading(notebook: Any) -> str | None:
    """The first heading as plain text, without its marks for emphasis and code."""
    found = HEADING.search("\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown"))
    return re.sub(r"[*`$]", "", found[1]) if found else None


# ------------------------------------------------------------------------------------------------- nothing from outside


def check_offline(html: str) -> None:
    """Raise `Lab4Error` if a page would load anything when it is opened; clickable links may go anywhere except to a
    script.

    Everything it shows must be in it as `data:`. Scripts and frames are refused outright, since what they load cannot
    be read off the page.
    """
    loads = _Loads()
    loads.feed(html)
    loads.close()
    if loads.found:
        shown = "; ".join(dict.fromkeys(loads.found[:5]))
        raise Lab4Error(f"the page is not self-contained: {shown}; expected only data: inside the file itself")


def is_script(address: str) -> bool:
    """Whether a browser would run an address; white space and control characters inside it do not stop one."""
    return re.sub(r"[\x00-\x20]", "", address).lower().startswith(("javascript:", "vbscript:", "data:text/html"))


class _Loads(HTMLParser):
    """Collects what a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self.in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.in_style = tag == "style"
        if tag in ("iframe", "frame", "object", "embed", "base"):
            self.found.append(f"<{tag}>")
        if tag == "script" and not values.get("type", "").endswith("json"):
            self.found.append(f"<script {values.get('src', '')}>")
        if tag == "meta" and values.get("http-equiv", "").lower() == "refresh":
            self.found.append("<meta refresh>")
        self.found += [f"<{tag} {name}>" for name in values if name.startswith("on")]  # a script in an attribute
        if tag in ("a", "area"):  # clickable
            links = [values.pop("href", ""), values.pop("xlink:href", "")]
            self.found += [f"<{tag} {link[:100]}>" for link in links if is_script(link)]
        for name in ("src", "href", "xlink:href", "poster", "background"):
            self.see(f"<{tag} {name}>", values.get(name, ""))
        for address in SRCSET.findall(values.get("srcset", "")):
            self.see(f"<{tag} srcset>", address)
        self.see_css(f"<{tag} style>", values.get("style", ""))

    def handle_endtag(self, tag: str) -> None:
        self.in_style = False

    def handle_data(self, data: str) -> None:
        if self.in_style:
            self.see_css("<style>", data)

    def see(self, where: str, address: str) -> None:
        address = address.strip()
        if address and not address.startswith(("data:", "#")):
            self.found.append(f"{where} {address[:100]}")

    def see_css(self, where: str, css: str) -> None:
        for address in re.findall(r"""url\(\s*["']?([^"')]*)""", css, re.IGNORECASE):
            self.see(f"{where} url", address)
        if re.search(r"@import", css, re.IGNORECASE):
            self.found.append(f"{where} @import")
