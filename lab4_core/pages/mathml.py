"""Formulas as MathML, which browsers draw by themselves: mathematics on a page without a script."""

from __future__ import annotations

import re
from html import escape
from xml.etree import ElementTree

from latex2mathml.converter import convert as latex_to_mathml
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from lab4_core.errors import Lab4Error


class _Renderer(IPythonRenderer):
    """nbconvert's own, which already tells a formula from a dollar in code; only what it writes for one differs."""

    def inline_math(self, body: str) -> str:
        return mathml(body, display="inline")

    def block_math(self, body: str) -> str:
        return mathml(body, display="block")

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", display="block")


def markdown_html(source: str) -> str:
    """Markdown as HTML, its formulas ($…$, $$…$$, LaTeX environments) as MathML."""
    html = MarkdownWithMath(renderer=_Renderer(escape=False, exclude_anchor_links=True)).render(source)
    # browsers break lines between a formula and the full stop behind it
    stopped = r'<math [^>]*display="inline"(?:(?!</math>).)*</math>[.,;:!?)]+'  # one formula, and what stops it
    return re.sub(stopped, r'<span class="formula">\g<0></span>', html, flags=re.DOTALL)


_FUNCTION = r"\\(?:log|ln|exp|sin|cos|tanh|det|max|min|Pr|mathrm\{(?:KL|PSNR|SSIM|MSE)\})(?![A-Za-z])"
_SCRIPT = r"(?:\\limits|[_^](?:\{[^{}]*\}|[^\\{}\s]|\\[A-Za-z]+))*+"
_ENVIRONMENTS = {"align*", "array", "cases", "matrix", "pmatrix", "bmatrix", "Bmatrix", "vmatrix", "Vmatrix"}
_REWRITES = [  # what MathJax understands in a notebook and latex2mathml does not, in terms that it does
    (r"\\(begin|end)\{(?:aligned|align|split|eqnarray)\*?\}", r"\\\1{align*}"),
    (r"\\(begin|end)\{(?:gathered|gather)\*?\}", r"\\\1{matrix}"),
    (r"\\(?:begin|end)\{(?:equation|displaymath|math)\*?\}", ""),
    (r"\\(?:notag|nonumber)(?![A-Za-z])", ""),
    (r"\\tag\{([^{}]*)\}", r"\\qquad\\text{(\1)}"),
    (r"\\arg(?![A-Za-z])", r"\\mathrm{arg}"),
    (r"\\operatorname\*?\{", r"\\mathrm{"),
    (r"\\[lr]?Vert(?![A-Za-z])", r"\\|"),  # the converter's own would stretch with the formula
    (r"\\[lr]vert(?![A-Za-z])", "|"),
    # TeX sets a thin space beside a named function; MathML has none beside an identifier.
    (rf"(?<=[\w)}}\]])\s*({_FUNCTION})", r"\\,\1"),
    (
        rf"({_FUNCTION}{_SCRIPT})\s*(?=\w|\\(?:[A-Za-z]|\{{))(?!\\(?:left|[bB]igg?[lr]?|right|q?quad|text)(?![A-Za-z]))",
        r"\1\\,",
    ),
]


def mathml(latex: str, display: str) -> str:
    """One formula as a MathML element. display: "inline" or "block".

    Raises `Lab4Error` with the formula if the result would not show what was written: the converter itself silently
    lets through an unknown command, an open brace or a stray line break.
    """

    def refuse(why: object) -> Lab4Error:
        return Lab4Error(f"cannot convert the formula {latex.strip()!r} to MathML: {why}")

    plain = re.sub(r"\\[\\{}]", "", latex)
    if plain.count("{") != plain.count("}"):
        raise refuse("expected as many { as }")
    for opening, closing in ((r"\\left\b", r"\\right\b"), (r"\\begin\{", r"\\end\{")):
        if len(re.findall(opening, latex)) != len(re.findall(closing, latex)):
            raise refuse(f"expected as many {opening[1:-2]} as {closing[1:-2]}")
    source = latex
    for pattern, replacement in _REWRITES:
        source = re.sub(pattern, replacement, source)
    for environment in re.findall(r"\\begin\{([^{}]*)\}", source):
        if environment not in _ENVIRONMENTS:
            raise refuse(f"the environment {environment} is not known to the converter")
    try:
        converted = latex_to_mathml(source, display=display)
        converted = re.sub(r"\\([_%#])", r"\1", converted)  # inside \text the converter leaves escapes as typed
        ElementTree.fromstring(converted)
    except Exception as e:  # the converter has a dozen error types without a common base
        raise refuse(f"{type(e).__name__} {e}".strip()) from e
    if unknown := re.findall(r"\\[A-Za-z]+|\\.", converted):
        raise refuse(f"{unknown[0]} is not known to the converter")
    if 'linebreak="newline"' in converted:
        raise refuse(r"\\ outside an environment such as aligned")
    return converted.replace("<math ", f'<math alttext="{escape(latex.strip())}" ', 1)
