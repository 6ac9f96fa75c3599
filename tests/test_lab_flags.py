"""Every command line of the five reports, as typed but for the paths: what it means, and that it truly runs."""

import shlex
from pathlib import Path

import pytest

from lab4_core import cli
from lab4_core.cli.lab_flags import LabFlags, find_checkpoint, lab_overrides, local_path
from lab4_core.config import Config
from lab4_core.errors import Lab4Error

ONE = "--DR DATA --save_root OUT --tfr {} --tfr_sde 5 --kl_anneal_type {} --kl_anneal_ratio 1.5 --num_epoch 22 "
ONE += "--fast_train --fast_train_epoch 22 --batch_size 4"
TWO = "--DR DATA --save_root OUT --use_wandb --num_epoch {} --per_save 1 --num_workers {} --batch_size 8"
THREE = "--DR DATA --save_root OUT --fast_train --tfr {} --num_epoch 27 --fast_train_epoch 32 --kl_anneal_ratio 0.6 "
THREE += "--kl_anneal_cycle 5 "

# the template counts epochs from 0 and looks late: it takes two more of the fast ones than it is told
COMMON_ONE = {"epochs": 22, "fast_epochs": 24, "batch_size": 4, "teacher_forcing.start_decay": 5, "eval_frames": 630}
COMMON_THREE = {"epochs": 27, "fast_epochs": 34, "batch_size": 2, "annealing.ratio": 0.6, "annealing.kind": "cyclical"}

TRAINER = [
    # report_000
    (ONE.format(0, "Cyclical"),
     COMMON_ONE | {"teacher_forcing.ratio": 0.0, "annealing.kind": "cyclical", "annealing.ratio": 1.5}),
    (ONE.format(1, "Cyclical"),
     COMMON_ONE | {"teacher_forcing.ratio": 1.0, "annealing.kind": "cyclical", "annealing.cycles": 10}),
    (ONE.format(0, "Monotonic"), COMMON_ONE | {"annealing.kind": "monotonic", "annealing.ratio": 1.5}),
    (ONE.format(0, "NoKL_Annealing"), COMMON_ONE | {"annealing.kind": "none", "annealing.stop": 1.0}),
    ("--DR DATA --save_root OUT --num_epoch 100 --fast_train --fast_train_epoch 9 --kl_anneal_type NoKL_Annealing "
     "--tfr 0 ",
     {"epochs": 100, "fast_epochs": 11, "annealing.kind": "none", "teacher_forcing.ratio": 0.0, "batch_size": 2}),
    # report_002
    ("--DR DATA --save_root OUT --fast_train --kl_anneal_type Cyclical",
     {"fast_epochs": 7, "fast_partial": 0.4, "annealing.kind": "cyclical", "annealing.cycles": 10, "epochs": 70}),
    ("--DR DATA --save_root OUT --fast_train --kl_anneal_type Monotonic",
     {"fast_epochs": 7, "annealing.kind": "monotonic", "annealing.ratio": 1.0, "annealing.start": 0.0}),
    ("--DR DATA --save_root OUT --fast_train --kl_anneal_type None",
     {"fast_epochs": 7, "annealing.kind": "none", "annealing.stop": 1.0}),
    (TWO.format(300, 6), {"epochs": 300, "save_every": 1, "batch_size": 8, "fast_epochs": 0}),
    ("--DR DATA --save_root OUT --num_epoch 300 --per_save 1 --num_workers 6 --batch_size 8 --use_wandb",
     {"epochs": 300, "save_every": 1, "batch_size": 8}),
    (TWO.format(1000, 10), {"epochs": 1000, "batch_size": 8}),
    (TWO.format(1000, 6), {"epochs": 1000, "batch_size": 8}),
    (TWO.format(70, 6), {"epochs": 70, "batch_size": 8, "optimizer.kind": "adam", "optimizer.lr": 1e-3}),
    ("--DR DATA --save_root OUT --num_epoch 500 --per_save 1 --num_workers 6 --batch_size 8 --kl_anneal_ratio 0.5 "
     "--tfr_sde 20 --tfr_d_step 0.05",
     {"epochs": 500, "annealing.kind": "cyclical", "annealing.ratio": 0.5, "teacher_forcing.start_decay": 20,
      "teacher_forcing.decay_step": 0.05, "teacher_forcing.ratio": 1.0}),
    # report_003: tfr and kl_anneal_type are changed "to get other kind of plots"
    (THREE.format("0.0") + "--plot_training_loss",
     COMMON_THREE | {"annealing.cycles": 5, "teacher_forcing.ratio": 0.0}),
    (THREE.format("0.5") + "--plot_training_loss", COMMON_THREE | {"teacher_forcing.ratio": 0.5}),
    (THREE.format("0.0") + "--plot_training_loss --kl_anneal_type Monotonic",
     COMMON_THREE | {"annealing.kind": "monotonic"}),
    (THREE.format("0.0") + "--plot_psnr --fast_partial 0.0025",
     COMMON_THREE | {"fast_partial": 0.0025, "annealing.cycles": 5}),
    (THREE.format(" 0.0") + "--plot_training_loss --no_weight_interpolation",
     COMMON_THREE | {"teacher_forcing.ratio": 0.0, "strategies": []}),
    # report_000, "validation"
    ("--DR DATA --save_root OUT --test --ckpt OUT/epoch=99.ckpt", {"epochs": 70, "model.kind": "lab"}),
    # the rest of the template's flags
    ("--DR DATA --save_root OUT --device cpu --gpu 1 --lr 1e-4 --optim AdamW --train_vi_len 8 --val_vi_len 70 "
     "--frame_H 16 --frame_W 32 --F_dim 64 --L_dim 16 --N_dim 8 --D_out_dim 96 --partial 0.5 --store_visualization",
     {"device": "cpu", "optimizer.kind": "adamw", "optimizer.lr": 1e-4, "n_frames": 8, "eval_frames": 70,
      "data.height": 16, "data.width": 32, "model.f_dim": 64, "model.l_dim": 16, "model.n_dim": 8, "model.d_dim": 96,
      "partial": 0.5}),
]  # fmt: skip

TESTER = [
    "--DR DATA --save_root TESTED --test --ckpt OUT/epoch=99.ckpt",  # report_000
    "--DR DATA --save_root TESTED --ckpt_path OUT",  # report_002
    r"--DR DATA --save_root TESTED --ckpt_path '.\OUT'",  # report_002, on Windows
]


def value(cfg, key):
    found = cfg.to_dict()
    for name in key.split("."):
        found = found[name]
    return found


@pytest.mark.parametrize(("line", "expected"), TRAINER)
def test_trainer_command_line(line, expected, tmp_path):
    argv = ["train", *shlex.split(line.replace("DATA", str(tmp_path / "LAB4_Dataset")).replace("OUT", str(tmp_path)))]
    cfg, _ = cli.parse(argv).configuration()
    assert {k: value(cfg, k) for k in expected} == expected
    # what no flag says is the lab's: its model, its learning rate, as many epochs as it says, every epoch whole
    assert (cfg.model.kind, cfg.lr_schedule.kind, cfg.windows, cfg.steps) == ("lab", "multistep", "fixed", None)
    assert cfg.data.root == str(tmp_path / "LAB4_Dataset")


def test_lab_flags_yield_to_preset_profile_and_set():
    line = "train --preset compact --profile smoke --num_epoch 3 --tfr 0.5 --set teacher_forcing.draw=frame"
    cfg, _ = cli.parse(shlex.split(line)).configuration()
    assert (cfg.model.kind, cfg.steps, cfg.epochs) == ("compact", 150, 3)
    assert (cfg.teacher_forcing.ratio, cfg.teacher_forcing.start_decay, cfg.teacher_forcing.draw) == (0.5, 10, "frame")


def test_an_annealing_flag_means_the_labs_annealing_whatever_the_preset():
    cfg, _ = cli.parse(shlex.split("train --preset compact --kl_anneal_type Cyclical")).configuration()
    assert (cfg.annealing.cycles, cfg.annealing.unit) == (10, "epoch")


def test_flags_without_effect_say_why_in_one_line_each():
    flags = LabFlags(num_workers=6, gpu=1, kl_anneal_type="None", kl_anneal_ratio=1.5, fast_train_epoch=9)
    values, notes = lab_overrides(flags)
    assert values == {"annealing": {"kind": "none"}}
    assert len(notes) == 4 and all("\n" not in line and "has no effect: " in line for line in notes)
    assert notes[0] == "--num_workers 6 has no effect: frames live in memory, no worker processes are used"
    assert lab_overrides(LabFlags(num_epoch=3)) == ({"epochs": 3}, [])


@pytest.mark.parametrize(("flags", "near"), [
    (LabFlags(kl_anneal_type="Cyclicl"), "did you mean 'cyclical'"),
    (LabFlags(optim="Adan"), "did you mean 'adam'"),
])  # fmt: skip
def test_unknown_words_name_the_nearest(flags, near):
    with pytest.raises(Lab4Error, match=near):
        lab_overrides(flags)


def test_windows_paths_are_converted_only_when_they_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "LAB4_template" / "checkpoints").mkdir(parents=True)
    assert local_path(r"LAB4_template\checkpoints") == "LAB4_template/checkpoints"
    assert local_path(r"results\new") == r"results\new"
    odd = tmp_path / r"with\backslash"
    odd.mkdir()
    assert local_path(r"with\backslash") == r"with\backslash"


def test_find_checkpoint(tmp_path):
    import os

    for i, name in enumerate(["epoch=1.ckpt", "epoch=2.ckpt"]):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (i, i))
    assert find_checkpoint(str(tmp_path / "epoch=1.ckpt")) == (tmp_path / "epoch=1.ckpt", None)
    newest, line = find_checkpoint(str(tmp_path))
    assert newest == tmp_path / "epoch=2.ckpt" and "epoch=2.ckpt" in line
    run = tmp_path / "lab-0123456789ab"  # a run of ours, newer than both
    run.mkdir()
    (run / "config.json").write_text("{}")
    (run / "best.pt").write_bytes(b"")
    assert find_checkpoint(str(tmp_path))[0] == run
    other = tmp_path / "lab-trained-before"  # something was written into it since, such as test/
    other.mkdir()
    (other / "config.json").write_text("{}")
    (other / "best.pt").write_bytes(b"")
    os.utime(other / "best.pt", (3, 3))
    (other / "test").mkdir()
    (tmp_path / "lab-begun-just-now").mkdir()
    (tmp_path / "lab-begun-just-now" / "config.json").write_text("{}")
    assert find_checkpoint(str(tmp_path))[0] == run, "the newest weights"
    assert find_checkpoint(str(run / "best.pt")) == (run, None) and find_checkpoint(str(run)) == (run, None)
    (run / "last.pt").write_bytes(b"")
    found, line = find_checkpoint(str(run / "last.pt"))
    assert found == run and "taking" in line and "best.pt" in line, "a run is scored by its result, and says so"
    assert find_checkpoint(str(tmp_path / "epoch=99.ckpt"))[0] == run  # what training left in its place
    with pytest.raises(Lab4Error, match=r"no checkpoint at .*nowhere"):
        find_checkpoint(str(tmp_path / "nowhere" / "epoch=99.ckpt"))


def test_the_lines_of_report_000_train_evaluate_and_test(tmp_path, monkeypatch, capsys, own_cache):
    """Its three commands one after the other, at a size for a test: runs, scores, pictures and the submission."""
    monkeypatch.chdir(tmp_path)

    def lab4(line):
        code = cli.main(shlex.split(line))
        return code, capsys.readouterr()

    assert lab4("data --out DATA --clips 1 --frames 12 --test_clips 1")[0] == 0
    size = " --F_dim 8 --L_dim 4 --N_dim 4 --D_out_dim 8 --train_vi_len 3 --val_vi_len 6"
    line = ONE.format(0, "Cyclical").replace("OUT", "check/points").replace("22", "2")
    code, said = lab4(f"train {line} {size} --num_workers 2 --plot_training_loss")
    run = Path(said.out.splitlines()[-1])
    assert code == 0 and run.parent == tmp_path / "check" / "points"
    assert "--num_workers 2 has no effect" in said.err and (run / "figures" / "training_loss.png").is_file()

    code, said = lab4("train --DR DATA --save_root check/points --test --ckpt check/points/epoch=99.ckpt")
    assert code == 0 and "repeat first" in said.out and run.name in said.err
    assert (run / "figures" / "psnr_per_frame.png").is_file()

    for line in TESTER:
        code, said = lab4("test " + line.replace(r".\OUT", r"check\points").replace("OUT", "check/points"))
        assert code == 0 and (tmp_path / "TESTED" / "submission.csv").is_file(), said.err
        rows = (tmp_path / "TESTED" / "submission.csv").read_text().splitlines()
        assert len(rows) == 1 + 12 and len(rows[0].split(",")) == 1 + 3 * 32 * 64
        assert (tmp_path / "TESTED" / "pred_seq0.gif").is_file()
        (tmp_path / "TESTED" / "submission.csv").unlink()


def test_flags_of_the_pose_version_among_those_of_the_robot_say_so():
    flags = LabFlags(
        niter=5, optim="AdamW", num_epoch=3, train_vi_len=9, kl_anneal_type="Monotonic", fast_train=True, lr=0.1
    )
    values, notes = lab_overrides(flags)
    assert values["epochs"] == 5 and values["optimizer.lr"] == 0.1
    for name in ("optim", "num_epoch", "train_vi_len", "kl_anneal_type", "fast_train"):
        assert sum(note.startswith(f"--{name} ") and "BAIR" in note for note in notes) == 1, notes
    assert not any(note.startswith(("--lr", "--niter")) for note in notes)


def test_the_labs_adamw_has_the_betas_of_torch():
    cfg = Config.from_dict(lab_overrides(LabFlags(optim="AdamW"))[0])
    assert (cfg.optimizer.kind, cfg.optimizer.beta1, cfg.optimizer.beta2) == ("adamw", 0.9, 0.999)
