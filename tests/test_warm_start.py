"""A training that begins with what another one has learnt."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

import lab4_core as l4
from lab4_core import tensor_files, weights
from lab4_core.config import Config
from lab4_core.data import load_data
from lab4_core.errors import Lab4Error
from lab4_core.training import Learner, build_model

CPU = torch.device("cpu")
TINY = {"data": {"kind": "dancer", "clips": 1, "frames": 24, "test_clips": 1}, "model": {"kind": "compact", "width": 8},
        "optimizer": "adamw", "batch_size": 2, "n_frames": 3, "steps": 4, "epochs": 1, "eval_frames": 6,
        "device": "cpu", "name": "tiny", "precision": "fp32"}  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    run = l4.train(Config.from_dict(TINY), out=tmp_path_factory.mktemp("runs"))
    return weights.export_weights(run, tmp_path_factory.mktemp("files") / "tiny.safetensors")


def warm(file, **more) -> Config:
    return Config.from_dict(TINY | {"strategies": ["ema", {"kind": "warm_start", "weights": str(file)}]} | more)


def built(cfg: Config):
    return build_model(cfg, load_data(cfg).train, CPU)


def test_it_begins_with_the_files_weights_in_the_scene_of_its_own_clips(file, capsys):
    cfg = warm(file, data=TINY["data"] | {"seed": 1}, seed=3)
    model = built(cfg)
    learnt = load_file(file)
    for name, value in model.state_dict().items():
        assert torch.equal(value, learnt[name]) == (name != "scene"), name
    plain = built(cfg.replace(strategies=[]))
    assert torch.equal(model.scene, plain.scene), "the scene of the new clips"
    average = Learner(cfg, model, CPU).memory[0]
    assert torch.equal(average["place"], learnt["place"]), "an average begins there too, wherever it stands in the list"
    assert not capsys.readouterr().err


def test_what_does_not_fit_begins_at_random_and_says_so(file, capsys):
    model = built(cfg := warm(file, **{"model.pose_reach": 2}))
    plain = built(cfg.replace(strategies=[]))
    learnt, before = load_file(file), plain.state_dict()
    Learner(cfg, model, CPU)
    said = capsys.readouterr().err
    for name, value in model.state_dict().items():
        if name == "pose_stem.weight":
            assert torch.equal(value, before[name]) and name in said
        elif value.shape == learnt[name].shape and name != "scene":
            assert torch.equal(value, learnt[name]), name
    wider = built(cfg := warm(file, **{"model.width": 16}))
    plain = built(cfg.replace(strategies=[]))
    Learner(cfg, wider, CPU)
    assert "tensors begin at random (all)" in capsys.readouterr().err
    for name, value in wider.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), f"{name}: a few that fit by chance are no start"


def test_other_content_is_another_run_and_a_run_goes_on_with_its_own(file, tmp_path):
    learnt = load_file(file)
    other = tmp_path / "other.safetensors"
    save_file(learnt, other)
    cfg = warm(other)
    assert cfg.strategies[1].digest == tensor_files.digest(other)
    learnt["place"] += 1
    save_file(learnt, other)
    assert warm(other).fingerprint() != cfg.fingerprint()
    with pytest.raises(Lab4Error, match=rf"other\.safetensors: content .*: expected {cfg.strategies[1].digest}"):
        built(cfg)
    learnt["place"][:] = float("nan")
    save_file(learnt, other)
    with pytest.raises(Lab4Error, match="place holds a number that is not finite"):
        built(warm(other))


def test_files_that_cannot_be_read_are_named_before_anything_begins(tmp_path):
    with pytest.raises(Lab4Error, match=r"none\.safetensors: no such file"):
        warm(tmp_path / "none.safetensors")
    with pytest.raises(Lab4Error, match="a folder, expected a file"):
        warm(tmp_path)
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    with pytest.raises(Lab4Error, match=r"bad\.safetensors: not a whole safetensors file"):
        built(warm(tmp_path / "bad.safetensors"))


def test_an_exported_file_names_the_start_without_the_folder(file, tmp_path):
    run = l4.train(warm(file), out=tmp_path)
    header, _ = tensor_files.read(weights.export_weights(run, tmp_path / "x.safetensors"))
    start = header["config"]["strategies"][1]
    assert start == {"kind": "warm_start", "weights": "tiny.safetensors", "digest": tensor_files.digest(file)}
    assert l4.pretrained(tmp_path / "x.safetensors", out=tmp_path).config.strategies[1].digest == start["digest"]
