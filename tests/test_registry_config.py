"""Every registered part round-trips through JSON; every mistake in a configuration has one clear error."""

import dataclasses
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lab4_core import cli, registry
from lab4_core.config import Config
from lab4_core.data import load_data
from lab4_core.errors import Lab4Error
from lab4_core.losses import Elbo
from lab4_core.presets import PRESETS, PROFILES, load_config
from lab4_core.training import build_model

ROOT = Path(__file__).resolve().parent.parent
PARTS = [(family, kind) for family in registry.FAMILIES for kind in registry.kinds(family)]


@pytest.mark.parametrize("family,kind", PARTS)
def test_every_part_round_trips_through_json(family, kind):
    cls = registry.part_class(family, kind)
    values = {"root": "somewhere"} if (family, kind) in (("data", "lab4"), ("data", "bair")) else {}
    part = cls(**values)
    spec = json.loads(json.dumps(registry.spec_of(part)))
    assert registry.build(family, spec) == part
    assert cls.__doc__ and "(" not in cls.__doc__.split("\n")[0][:1], "a part says what it is"
    with pytest.raises(Lab4Error, match="no_such_field"):
        registry.build(family, {**spec, "no_such_field": 1})


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("profile", PROFILES)
def test_presets_and_profiles_are_configurations(preset, profile):
    cfg = load_config(profile, preset)
    assert Config.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg


def test_the_lab_preset_is_the_labs_defaults():
    cfg = load_config("full", "lab")
    assert (cfg.batch_size, cfg.epochs, cfg.n_frames, cfg.eval_frames, cfg.grad_clip) == (2, 70, 16, 630, 1.0)
    assert (cfg.optimizer.kind, cfg.optimizer.lr, cfg.lr_schedule.milestones) == ("adam", 1e-3, (2, 5))
    assert (cfg.annealing.kind, cfg.annealing.cycles, cfg.annealing.ratio) == ("cyclical", 10, 1.0)
    tf = cfg.teacher_forcing
    assert (tf.ratio, tf.start_decay, tf.decay_step, tf.draw) == (1.0, 10, 0.1, "epoch")
    assert (cfg.loss.mse, cfg.loss.kld, cfg.windows, cfg.shuffle) == ("mean", "sum", "fixed", False)


@pytest.mark.parametrize(
    "values,message",
    [
        ({"batchsize": 4}, "did you mean 'batch_size'"),
        ({"batch_size": 0}, "batch_size = 0: expected 1 or more"),
        ({"batch_size": 2.5}, "batch_size = 2.5: expected a whole number"),
        ({"epochs": "many"}, "epochs = 'many': expected a whole number"),
        ({"annealing": "cyclic"}, "did you mean 'cyclical'"),
        ({"annealing": {"cycles": 3}}, "expected a name or a dict with 'kind'"),
        ({"annealing.ratios": 1}, "did you mean 'ratio'"),
        ({"annealing.ratio": 0}, "ratio = 0.0: expected more than 0"),
        ({"annealing.start": 2}, "expected 0 to stop"),
        ({"teacher_forcing.ratio": 1.5}, "a probability"),
        ({"windows": "sliding"}, "expected one of 'fixed', 'random'"),
        ({"steps": 10, "minutes": 1}, "at most one of them"),
        ({"n_frames": 1}, "n_frames = 1"),
        ({"optimizer.lr": "nan"}, "expected a number"),
        ({"optimizer.lr": -1}, "expected more than 0"),
        ({"model.f_dim": 100}, "a multiple of 8"),
        ({"precision": "fp16"}, "expected one of"),
        ({"name": "../away"}, "letters, digits"),
        ({"fast_partial": 0}, "a share in"),
        ({"n_past": 16}, "n_frames = 16: expected more than n_past = 16"),
        ({"eval_frames": 2, "n_past": 2}, "eval_frames = 2: expected more than n_past"),
        ({"annealing": {"kind": "cyclical", "start": 1.0, "stop": 0.5}}, "start = 1.0: expected 0 to stop = 0.5"),
        ({"model": {"kind": "lab", "n_dim": 4, "l_dim": 6}}, "f_dim + l_dim + n_dim = 138: expected a multiple of 4"),
    ],
)
def test_a_mistake_is_one_error_that_names_it(values, message):
    with pytest.raises(Lab4Error) as e:
        Config.from_dict(values)
    assert message in str(e.value)


def test_dotted_keys_change_one_value_whatever_their_order():
    a = Config.from_dict({"annealing.cycles": 4, "annealing": "cyclical", "annealing.start": "0.01"})
    assert (a.annealing.cycles, a.annealing.start) == (4, 0.01)
    b = load_config("full", "compact", overrides={"annealing": "none"})
    assert b.annealing.kind == "none", "a new part replaces what a preset said of the old one"


def test_the_fingerprint_follows_what_is_computed_and_nothing_else():
    cfg = Config()
    assert cfg.replace(name="other", device="cpu").fingerprint("d") == cfg.fingerprint("d")
    assert cfg.replace(seed=1).fingerprint("d") != cfg.fingerprint("d")
    assert cfg.replace(**{"annealing.cycles": 9}).fingerprint("d") != cfg.fingerprint("d")
    assert cfg.fingerprint("other data") != cfg.fingerprint("d")


def test_data_comes_from_the_argument_then_the_environment(monkeypatch):
    assert load_config("smoke").data.kind == "dancer"
    monkeypatch.setenv("LAB4_DATA", "from_env")
    assert load_config("smoke").data.root == "from_env"
    assert load_config("smoke", data="given").data.root == "given"
    with pytest.raises(Lab4Error, match="did you mean 'smoke'"):
        load_config("smok")


def test_layers_of_overrides():
    from lab4_core.config import layer

    preset = {"annealing.cycles": 4, "steps": 60}
    assert layer(preset, {"annealing": "cyclical"})["annealing.cycles"] == 4, "the kind it already has"
    assert layer({}, {"model": "lab"}) == {"model": "lab"}
    assert layer(preset, {"annealing": "none"}) == {"annealing": "none", "steps": 60}
    assert layer(preset, {"annealing.kind": "none"}) == layer(preset, {"annealing": "none"})
    assert layer(preset, {"annealing": "cyclical", "annealing.ratio": 0.5})["annealing.ratio"] == 0.5
    assert layer(preset, {"minutes": 2.0}) == {"annealing.cycles": 4, "minutes": 2.0}
    assert load_config("smoke", "compact", overrides={"minutes": 2}).steps is None


def test_no_file_hides_a_public_function():
    """Python binds an imported submodule to its package under its own name."""
    import importlib

    import lab4_core as l4
    from lab4_core.paths import ROOT

    for path in (ROOT / "lab4_core").glob("*.py"):
        assert path.stem not in l4.__all__
    importlib.import_module("lab4_core.inference")
    assert callable(l4.rollout) and callable(l4.predict)


EXTENSION = {
    "models": """
from lab4_core.models.tiny import Tiny
from lab4_core.registry import register
from dataclasses import dataclass

@register("model", "mine")
@dataclass(frozen=True, kw_only=True)
class Mine(Tiny):
    "Tiny by another name."
""",
    "strategies": """
from dataclasses import dataclass
from lab4_core.registry import register
from lab4_core.strategies.base import Strategy

@register("strategy", "brighter")
@dataclass(frozen=True, kw_only=True)
class Brighter(Strategy):
    "Feeds the model what is a little too bright."
    def feed(self, x_in, x_last, rng):
        return x_in + 0.1
""",
}


def test_a_new_part_is_one_new_file(tmp_path, monkeypatch):
    """Written beside the others, named nowhere else, and trained with; in a process of its own, which forgets it."""
    script = ["import importlib, sys, lab4_core as l4"]
    for package, text in EXTENSION.items():
        (tmp_path / package).mkdir()
        (tmp_path / package / "mine.py").write_text(text)
        script.append(f"importlib.import_module('lab4_core.{package}').__path__.append({str(tmp_path / package)!r})")
    script.append("""
from lab4_core import registry
from lab4_core.losses import Loss
from lab4_core.schedules import Annealing
from dataclasses import dataclass

@registry.register("loss", "squared")  # these two families are files: in a file of one's own, or a cell
@dataclass(frozen=True, kw_only=True)
class Squared(Loss):
    "Nothing but the squared error."
    def __call__(self, x_pred, x, kld, n_latent, beta):
        mse = (x_pred - x).square().mean((0, 2, 3, 4)).sum()
        return {"loss": mse + 0 * kld.sum(), "mse": mse, "kld": kld.mean(0).sum()}

@registry.register("annealing", "half")
@dataclass(frozen=True, kw_only=True)
class Half(Annealing):
    "Always a half."
    def __call__(self, step, total_steps):
        return 0.5

cfg = l4.Config.from_dict({"model": "mine", "strategies": "brighter", "loss": "squared", "annealing": "half",
                           "steps": 2, "epochs": 1, "n_frames": 3, "eval_frames": 4, "device": "cpu",
                           "lr_schedule": "constant",
                           "data": {"kind": "dancer", "clips": 1, "frames": 12, "test_clips": 1}})
assert cfg.strategies[0].feeds and not cfg.strategies[0].augments
run = l4.train(cfg, out=sys.argv[1])
print(run.result["status"], run.result["effective_beta"])
""")
    done = subprocess.run([sys.executable, "-c", "\n".join(script), str(tmp_path / "runs")], capture_output=True,
                          text=True, cwd=ROOT)  # fmt: skip
    assert done.stdout.splitlines()[-1:] == ["finished None"], done.stderr[-2000:]


HALF = """
from __future__ import annotations
from dataclasses import dataclass
from lab4_core.registry import register
from lab4_core.schedules import Annealing

@register("annealing", "half")
@dataclass(frozen=True, kw_only=True)
class Half(Annealing):
    "Always a share."
    share: float = 0.5
    def __call__(self, step, total_steps):
        return self.share
"""


def in_a_process(code: str, **env: str) -> str:
    """What Python prints of this code, or its error, with these variables."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT), **env})  # fmt: skip
    return done.stdout + done.stderr


def test_parts_in_a_file_of_ones_own(tmp_path):
    """Named by its relative path, and found by the processes that work elsewhere; imported by its author, once."""
    (tmp_path / "mine.py").write_text(HALF)
    code = f"""
import os, sys, subprocess
os.chdir({str(tmp_path)!r})
from lab4_core.config import Config
half = Config.from_dict({{"annealing": "half", "annealing.share": 0.25}})
os.chdir("/")
again = Config.from_dict(half.to_dict())
print(again == half, half.annealing(0, 1), half.code() != Config().code())
child = "from lab4_core.registry import kinds; print('half' in kinds('annealing'))"
print(subprocess.run([sys.executable, "-c", child], capture_output=True, text=True).stdout)
"""
    assert in_a_process(code, LAB4_PARTS="mine.py").split() == ["True", "0.25", "True", "True"]
    code = f"import sys; sys.path.append({str(tmp_path)!r}); import mine; from lab4_core.registry import build; "
    code += "print(type(build('annealing', 'half')) is mine.Half)"
    assert in_a_process(code, LAB4_PARTS=str(tmp_path / "mine.py")).split() == ["True"]
    code = "from lab4_core import cli; cli.main(['train', '--annealing', 'halve'])"
    assert "did you mean 'half'" in in_a_process(code, LAB4_PARTS=str(tmp_path / "mine.py"))


@pytest.mark.parametrize(
    "text,message",
    [
        (None, "expected a Python file"),
        ("a folder", "expected a Python file"),
        ("x = 1\nx = (", "line 2: SyntaxError"),
        ("\n\nimport no_such_module", "line 3: ModuleNotFoundError: No module named 'no_such_module'"),
        (HALF.replace('"half"', '"cyclical"'), "annealing 'cyclical' is lab4_core.schedules.Cyclical already"),
        (HALF.replace("share: float", "share: list"), "expected bool, int, float"),
    ],
)
def test_a_file_of_ones_own_that_cannot_be_used(tmp_path, text, message):
    path = tmp_path / "mine.py"
    if text == "a folder":
        path.mkdir()
    elif text is not None:
        path.write_text(text)
    code = "from lab4_core import cli; cli.main(['train', '--annealing', 'half']); cli.main(['train'])"
    first, again = in_a_process(code, LAB4_PARTS=str(path)).splitlines()
    assert first.startswith(f"lab4: error: LAB4_PARTS: {path}") and message in first and again == first


def test_a_cell_may_be_run_again_but_takes_no_ones_name():
    cell = HALF.replace("from __future__ import annotations\n", "")
    code = f"cell = {cell!r}; exec(cell); exec(cell.replace('0.5', '0.75')); "
    code += "from lab4_core.registry import build; print(build('annealing', 'half').share)"
    assert in_a_process(code) == "0.75\n"
    code = f"exec({cell.replace('half', 'none')!r})"
    assert "AssertionError: annealing 'none' is lab4_core.schedules" in in_a_process(code)


def test_a_dataset_that_is_named_is_not_the_one_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LAB4_DATA", str(tmp_path))
    for line, kind, root in (
        ("train", "lab4", str(tmp_path)),
        ("train --set data=dancer", "dancer", None),
        ("train --data elsewhere --set data=bair", "bair", "elsewhere"),  # its own root
        ('train --data elsewhere --set \'data={"kind": "bair", "clips": 3}\'', "bair", "elsewhere"),
    ):
        data = cli.parse(shlex.split(line)).configuration()[0].data
        assert (data.kind, getattr(data, "root", None)) == (kind, root), line


def test_the_data_are_those_of_the_models_conditions(monkeypatch):
    monkeypatch.setattr(registry.part_class("model", "tiny"), "conditions", "actions")
    assert load_config("smoke", "lab", overrides={"model": "tiny"}).data.kind == "robot"
    assert load_config("smoke", "lab").data.kind == "dancer"


def test_a_model_that_could_not_be_loaded_again_is_refused_before_it_is_trained(monkeypatch):
    cfg = Config.from_dict({"model": "tiny", "data": {"kind": "dancer", "clips": 1, "frames": 12, "test_clips": 0}})
    build = type(cfg.model).build

    def reads_a_number(self, *shapes):
        torch.linspace(0, 1, 3)[1].item()
        return build(self, *shapes)

    monkeypatch.setattr(type(cfg.model), "build", reads_a_number)
    with pytest.raises(Lab4Error, match=r"model tiny: .*item"):
        build_model(cfg, load_data(cfg).train, torch.device("cpu"))


def test_an_heir_of_a_loss_answers_for_its_own_formula():
    class Heir(Elbo):
        pass

    class Sure(Elbo):
        sums_over_steps = True

    assert Elbo.sums_over_steps and Sure.sums_over_steps and not Heir.sums_over_steps


def test_a_field_of_a_type_that_cannot_be_typed_is_refused_where_it_is_written():
    for hint in (list[str], tuple[int, float], dict):
        cls = dataclasses.make_dataclass("Odd", [("field", hint, dataclasses.field(default=None))], frozen=True)
        with pytest.raises(AssertionError, match=r"Odd\.field"):
            registry.register("loss", "odd")(cls)
    assert "odd" not in registry.kinds("loss")


def test_a_part_may_be_given_by_its_name_and_not_as_a_class():
    assert Config(annealing="monotonic").annealing == registry.build("annealing", "monotonic")
    with pytest.raises(Lab4Error, match="model = <class"):
        Config.from_dict({"model": registry.part_class("model", "tiny")})


def test_a_root_beside_a_dataset_of_another_kind_is_one_too_many():
    with pytest.raises(Lab4Error, match="'somewhere' and a dataset of the kind 'dancer': expected one of them"):
        load_config("smoke", "lab", "somewhere", {"data": "dancer"})
    with pytest.raises(Lab4Error, match=r"strategies\.decay: expected the whole list"):
        Config.from_dict({"strategies.decay": 1})


def test_a_config_made_in_python_checks_its_types_too():
    cfg = Config(seed="3", hold_out="0", strategies="ema")
    assert (cfg.seed, cfg.hold_out) == (3, 0) and cfg == Config(seed=3, hold_out=0, strategies=["ema"])
    for name, value in {"epochs": 1.5, "steps": "x", "grad_clip": None, "name": 3, "precision": "fp16"}.items():
        with pytest.raises(Lab4Error, match=f"^{name} = {value!r}: expected"):
            Config(**{name: value})


def test_a_folder_is_remembered_by_its_whole_path(tmp_path, monkeypatch):
    """A run is looked at from other folders than the one it was made in."""
    (tmp_path / "frames").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_config("smoke", "compact", "frames").data.root == str(tmp_path / "frames")
    assert load_config("smoke", "compact", "nowhere").data.root == "nowhere", "for the error to name it as it was given"
