"""Property tests over what people type: configurations, `--set`, notebook parameters, sweeps, submissions."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from cases import JUNK, NUMBERS, SCALARS, WORDS, cases, enough, success_or_one_error
from hypothesis import example, given
from hypothesis import strategies as st

from lab4_core import cli, registry
from lab4_core.cli import options
from lab4_core.config import Config, families
from lab4_core.errors import Lab4Error
from lab4_core.paths import NOTEBOOKS
from lab4_core.presets import load_config
from lab4_core.submission import read_submission, write_submission
from lab4_core.sweeps import sweep

FIELDS = [f.name for f in dataclasses.fields(Config)]
PARTS = families()
KINDS = {name: registry.kinds(family) for name, family in PARTS.items()}
INNER = sorted(
    f"{name}.{f.name}"
    for name, family in PARTS.items()
    for kind in KINDS[name]
    for f in dataclasses.fields(registry.part_class(family, kind))
    if name != "strategies"
)
KEYS = st.one_of(st.sampled_from(FIELDS), st.sampled_from(INNER), st.sampled_from(["lr", "model.", ".x", "data.x.y"]),
                 st.text(max_size=4))  # fmt: skip
KIND_NAMES = st.sampled_from(sorted({kind for kinds in KINDS.values() for kind in kinds}))
OVERRIDES = st.dictionaries(KEYS, st.one_of(JUNK, SCALARS, KIND_NAMES), min_size=1, max_size=3)


def parts_of(names) -> list[str]:
    """What an error may name: the keys, their last words, the families and kinds they speak of."""
    words = [word for name in names for word in (str(name), *str(name).split("."))]
    return [*words, *(PARTS[w] for w in words if w in PARTS), "overrides"]


def use(cfg: Config) -> None:
    """A configuration that was taken can be written, read, named, and its small parts do what they are for."""
    assert Config.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg
    assert len(cfg.fingerprint("data")) == 12
    for step in (0, 1, 7, 99):
        assert cfg.annealing(step, 100) >= 0 and math.isfinite(cfg.annealing(step, 100))
        assert 0 <= cfg.lr_schedule(step, 100) <= 1
        weight = cfg.teacher_forcing.gt_weight(cfg.seed, step, step, 100, 2, 3)
        assert weight.shape == (2, 3) and (weight >= 0).all() and (weight <= 1).all()
    cfg.optimizer.build([torch.nn.Parameter(torch.zeros(2, 2))])


def configure(values) -> Config:
    cfg = Config.from_dict(values)
    use(cfg)
    return cfg


@cases(1500)
@given(OVERRIDES)
@example({"annealing": {"kind": "cyclical", "cycles": 10**308}})
@example({"annealing.ratio": 1e-320})
@example({"seed": -1})
@example({"seed": 2**64})
@example({"strategies": 5})
@example({"strategies": None})
@example({"lr_schedule": {"kind": "multistep", "gamma": 1e300}})
@example({"optimizer": {"kind": "adam", "beta1": 5.0}})
@example({1: 2})
def test_configurations(values):
    success_or_one_error("configurations", parts_of([*values, *map(str, values.values())]), lambda: configure(values))


@cases(700)
@given(st.lists(st.one_of(st.tuples(KEYS, st.one_of(st.sampled_from(WORDS), SCALARS.map(str), JUNK.map(repr))).map(
    lambda kv: f"{kv[0]}={kv[1]}"), st.text(max_size=8)), min_size=1, max_size=2))  # fmt: skip
def test_set(texts):
    def run():
        use(load_config("smoke", "compact", overrides=options.set_overrides(texts)))

    keys = [text.partition("=")[0].strip() for text in texts]
    success_or_one_error("--set", ["--set", *parts_of(keys), *texts], run)


@cases(40)
@given(st.sampled_from(FIELDS + INNER), st.sampled_from(WORDS))
def test_the_command_line(field, value):
    """All of the way, for a few: the command that gets a wrong value ends with 2, or with the parser's own error."""
    try:
        cfg = success_or_one_error(
            "command lines",
            parts_of([field]),
            lambda: cli.parse(["train", "--set", f"{field}={value}"]).configuration(),
        )
    except SystemExit as e:
        assert e.code == 2
        return
    assert isinstance(cfg, (tuple, Lab4Error))


def configuration_cell(number: str) -> str:
    """The lines of a notebook that make its configuration from its parameters."""
    notebook = nbformat.read(next(NOTEBOOKS.glob(f"{number}_*.ipynb")), as_version=4)
    (source,) = [c.source for c in notebook.cells if c.cell_type == "code" and "cfg = l4.load_config(" in c.source][:1]
    lines = source.splitlines()
    (end,) = [i for i, line in enumerate(lines) if line.startswith("cfg = l4.load_config(")]
    kept = [
        line
        for line in lines[: end + 1]
        if line.startswith(("import lab4_core", "from lab4_core.config", "changes", "cfg"))
    ]
    return "\n".join(kept)


PARAMETERS = st.fixed_dictionaries(
    {}, optional={"profile": JUNK, "preset": JUNK, "data": JUNK, "seed": JUNK, "minutes": JUNK,
                  "overrides": st.one_of(OVERRIDES, JUNK)},
)  # fmt: skip


@cases(500)
@given(PARAMETERS)
@example({"overrides": [1]})
@example({"profile": ["smoke"]})
@example({"overrides": {3: 4}})
@example({"data": 7})
def test_notebook_parameters(given_):
    """As papermill injects them, in the lines of notebook 06 that read them."""
    defaults = {"profile": "smoke", "preset": "compact", "data": "", "out": "", "seed": 0, "minutes": 0.0}
    parameters = {**defaults, "overrides": {}, **given_}

    def run():
        exec(CELL, parameters)
        use(parameters["cfg"])

    inner = given_.get("overrides", {})
    names = [*given_, *(inner if isinstance(inner, dict) else []), "data lab4"]
    success_or_one_error("notebook parameters", parts_of([*names, *map(str, given_.values())]), run)


CELL = configuration_cell("06")


LINES = ["seed: [0, 1]\n", "- {seed: 1}\n", "a: 2020-13-45\n", "a: &x [*x]\n", "? [1]\n", "- - 1\n", "{", "seed: []\n",
         "a: !!python/x 1\n", "2: 3\n", "a: .nan\n", "x: {a: 1}\n"]  # fmt: skip
YAML = st.one_of(st.text(max_size=30), st.binary(max_size=30), JUNK.map(repr),
                 st.lists(st.sampled_from(LINES), max_size=4).map("".join))  # fmt: skip


@cases(250)
@given(YAML)
def test_sweep_files(content):
    def run():
        points = sweep.read_file(path)
        assert all(isinstance(p, dict) for p in points)
        for p in points:
            sweep.fingerprint(sweep.notebook_parameters(p, {"profile": "smoke"}))

    path = FOLDER / "sweep.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    success_or_one_error("sweep files", [path, "sweep"], run)


def test_a_grid_that_never_ends_is_refused():
    with pytest.raises(Lab4Error, match="points: expected at most"):
        sweep.expand({f"k{i}": list(range(10)) for i in range(12)})


# ------------------------------------------------------------------------------------------------- submissions

SHAPE, CLIP = (3, 2, 2), 2
GOOD = [",".join(["id", *map(str, range(12))])] + [",".join([str(i), *map(str, range(12))]) for i in range(4)]
CELLS = st.one_of(
    st.sampled_from(["", "256", "-1", "1.0", " 1", "nan", "1e2", "١", "0x1", "007", "\0", "é"]), st.text(max_size=3)
)


@st.composite
def submissions(draw) -> bytes:
    rows = [line.split(",") for line in GOOD]
    for _ in range(draw(st.integers(0, 3))):
        i = draw(st.integers(0, max(0, len(rows) - 1)))
        match draw(st.sampled_from(["cell", "drop", "add", "double", "cut", "swap"])) if rows else "end":
            case "cell":
                rows[i][draw(st.integers(0, len(rows[i]) - 1))] = draw(CELLS)
            case "drop":
                del rows[i]
            case "add":
                rows[i].append(draw(CELLS))
            case "double":
                rows.insert(i, list(rows[i]))
            case "cut":
                rows[i] = rows[i][: draw(st.integers(1, len(rows[i])))]
            case "swap":
                rows.reverse()
    end = draw(st.sampled_from(["\n", "\r\n", "\r", ""]))
    whole = end.join(",".join(row) for row in rows).encode("utf-8", "surrogatepass")
    return draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\xff"])) + whole


@cases(500)
@given(st.one_of(submissions(), st.binary(max_size=40)))
def test_submissions_read(content):
    path = FOLDER / "submission.csv"
    path.write_bytes(content)
    clips = success_or_one_error("submissions read", [path], lambda: read_submission(path, CLIP, SHAPE))
    if not isinstance(clips, Lab4Error):
        assert all(c.shape == (CLIP, *SHAPE) and c.dtype == np.uint8 for c in clips)


ARRAYS = st.one_of(
    st.tuples(st.lists(st.integers(0, 4), max_size=5), st.sampled_from(["u1", "f4", "f8", "i8", "?", "c8", "U1"])).map(
        lambda t: np.zeros(t[0], t[1])
    ),
    st.sampled_from([np.full((2, 3, 2, 2), v) for v in (np.nan, np.inf, -np.inf, -3.0, 7.0, 1.0)]),
    st.just(torch.zeros(2, 3, 2, 2)),
    st.just(torch.zeros(2, 3, 2, 2, dtype=torch.bfloat16)),
)


@cases(200)
@given(st.lists(ARRAYS, max_size=3))
def test_submissions_written(clips):
    path = FOLDER / "written.csv"
    path.unlink(missing_ok=True)
    result = success_or_one_error(
        "submissions written", [path, "images", "clip"], lambda: write_submission(path, iter(clips))
    )
    assert path.exists() == (not isinstance(result, Lab4Error)), "whole or not at all"
    assert [p.name for p in FOLDER.iterdir() if p.name.startswith(".written")] == []


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    global FOLDER
    FOLDER = tmp_path_factory.mktemp("input")


FOLDER = Path()


def test_how_many_cases_that_were(record_property):
    assert len(NUMBERS) + len(WORDS) > 30
    enough(3500, 7, record_property)
