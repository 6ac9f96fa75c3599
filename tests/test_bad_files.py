"""Property tests over what lies on disks: dataset folders, caches, checkpoints, run directories."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import operator
import os
import pickle
import shutil
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import JUNK, cases, enough, success_or_one_error
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from training_child import DATA, MEMORY, MODELS, TINY

from lab4_core import checkpoint, engine, inference, paths, runlog
from lab4_core.config import Config
from lab4_core.data import Clips, Lab4Folder, VideoData, lab4_folder
from lab4_core.data.bair_folder import TABLES, BairFolder
from lab4_core.errors import Lab4Error
from lab4_core.plots.results import results_table
from lab4_core.runlog import Run
from lab4_core.sweeps.point import read_status

# Every case begins as a copy of something whole, here.
WHOLE: dict[str, Path] = {}


@pytest.fixture(scope="module", autouse=True)
def whole():
    base = Path(tempfile.mkdtemp(prefix="lab4-files-", dir=MEMORY if MEMORY.is_dir() else None))
    WHOLE["base"], WHOLE["dataset"] = base, base / "dataset"
    noise = np.random.default_rng(0)
    for folder, n in (("train/train_img", 5), ("train/train_label", 5), ("val/val_img", 3), ("val/val_label", 3),
                      ("test/test_img/0", 1), ("test/test_label/0", 2)):  # fmt: skip
        (WHOLE["dataset"] / folder).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(noise.integers(0, 255, (8, 16, 3), np.uint8)).save(WHOLE["dataset"] / folder / f"{i}.png")
    (WHOLE["dataset"] / "train/clips.csv").write_text("start\n0\n3\n")
    WHOLE["robot"] = base / "robot"
    for folder in ("train/traj_0_to_1/0", "train/traj_0_to_1/1", "test/traj_0_to_1/0"):
        (WHOLE["robot"] / folder).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(noise.integers(0, 255, (8, 8, 3), np.uint8)).save(WHOLE["robot"] / folder / f"{i}.png")
        for table, columns in TABLES.items():
            lines = [",".join(f"{v:.4f}" for v in row) for row in noise.random((3, columns))]
            (WHOLE["robot"] / folder / table).write_text("\n".join(lines))
    values = {**TINY, **MODELS["compact"], "steps": 8, "epochs": 2, "eval_frames": 4, "data": {**DATA, "frames": 6}}
    WHOLE["run"] = engine.train(Config.from_dict(values), out=base).dir
    (WHOLE["run"] / "result.json").rename(base / "result.json")  # unfinished: it will be taken up
    yield
    shutil.rmtree(base)


@contextlib.contextmanager
def copy_of(what: str):
    """A copy to spoil, and quiet about what is said of it."""
    with tempfile.TemporaryDirectory(dir=WHOLE["base"]) as folder:
        copy = Path(folder) / WHOLE[what].name
        shutil.copytree(WHOLE[what], copy)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield copy


PIECES = [
    b"", b"\0" * 100, b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", b"GIF89a", b"%!PS-Adobe EPSF-3.0\n(x) print", b"\x80\x04N.",
    b"start\n0\n", b"start\n0\n99\n", b"start\n1\n", b"start\n0\n1\n1\n", "start\n0\n٣\n".encode(), b"start,x\n0\n",
]  # fmt: skip
BYTES = st.one_of(st.binary(max_size=40), st.sampled_from(PIECES))


@st.composite
def damage(draw, content: bytes) -> bytes:
    """A file's bytes cut short, with some of them changed, lengthened, or replaced."""
    at = draw(st.integers(0, max(0, len(content) - 1)))
    match draw(st.sampled_from(["cut", "flip", "flip", "many", "longer", "other"])):
        case "cut":
            return content[:at]
        case "flip":
            return content[:at] + bytes([draw(st.integers(0, 255))]) + content[at + 1 :]
        case "many":
            piece = draw(st.binary(min_size=1, max_size=64))
            return content[:at] + piece + content[at + len(piece) :]
        case "longer":
            return content + draw(st.binary(max_size=64))
    return draw(BYTES)


# ---------------------------------------------------------------------------------------------------- datasets


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def header(width: int, height: int, depth: int = 8, colour: int = 2) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)


def encoded(im: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    im.save(out, kind, **options)
    return out.getvalue()


def pictures() -> dict[str, bytes]:
    size = (16, 8)
    modes = {mode: encoded(Image.new(mode, size)) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")}
    frames = [Image.new("RGB", size, (i, 0, 0)) for i in range(3)]
    return modes | {
        "transparent": encoded(Image.new("P", size), transparency=0),
        "animated": encoded(frames[0], save_all=True, append_images=frames[1:]),
        "16 bit RGB": png([header(16, 8, 16), (b"IDAT", zlib.compress((b"\0" + b"\1" * 96) * 8)), (b"IEND", b"")]),
        "one pixel": encoded(Image.new("RGB", (1, 1))),
        "larger": encoded(Image.new("RGB", (40, 30))),
        "jpeg": encoded(Image.new("RGB", size), "JPEG"),
        "gif": encoded(Image.new("P", size), "GIF"),
        "bomb": png([header(50_000, 50_000), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]),
        "no size": png([header(0, 0), (b"IDAT", b""), (b"IEND", b"")]),
        "little data": png([header(16, 8), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]),
        "text bomb": png([header(16, 8), (b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000), 9)), (b"IEND", b"")]),
    }


PICTURES = pictures()
NAMES = ["7.png", "frame0.png", "00.png", "x.png", "-1.png", "²3.png", "٣.png", "9" * 30 + ".png", ".5.png", "5.PNG",
         "5.jpg", "5", "a b5.png", "<img src=x onerror=alert(1)>5.png", "$x_{5.png", "clips.csv"]  # fmt: skip


def spoil(data: st.DataObject, root: Path) -> None:
    """One of the things that happen to folders of pictures."""
    files = sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink())
    folders = sorted(p for p in root.rglob("*") if p.is_dir() and not p.is_symlink())
    if not files:
        return
    file, folder = data.draw(st.sampled_from(files)), data.draw(st.sampled_from(folders))
    happens = ["delete", "bytes", "picture", "picture", "rename", "copy", "link", "pipe", "folder", "gone",
               "folder link", "folder rename", "folder file", "clips"]  # fmt: skip
    match data.draw(st.sampled_from(happens)):
        case "delete":
            file.unlink()
        case "bytes":
            file.write_bytes(data.draw(damage(file.read_bytes())))
        case "picture":
            file.write_bytes(PICTURES[data.draw(st.sampled_from(sorted(PICTURES)))])
        case "rename":
            file.replace(file.with_name(data.draw(st.sampled_from(NAMES))))
        case "copy":
            shutil.copy(file, folder / data.draw(st.sampled_from(NAMES)))
        case "link":
            file.unlink()
            places = [
                root.parent.parent / "result.json",
                file,
                root / "nowhere",
                "/dev/zero",
                "../../val/val_img/0.png",
            ]
            file.symlink_to(data.draw(st.sampled_from(places)))
        case "pipe":
            file.unlink()
            os.mkfifo(file)
        case "folder":
            file.unlink()
            file.mkdir()
        case "gone":
            shutil.rmtree(folder)
        case "folder link":
            shutil.rmtree(folder)
            folder.symlink_to(data.draw(st.sampled_from([WHOLE["base"], folder, root / "train/train_img", "..", "/"])))
        case "folder rename":
            name = data.draw(
                st.sampled_from(["1", "00", "x", b"\xff1".decode("utf-8", "surrogateescape"), "<b>1", "a\n1"])
            )
            if not folder.with_name(name).exists():
                folder.rename(folder.with_name(name))
        case "folder file":
            shutil.rmtree(folder)
            folder.write_bytes(b"")
        case "clips":
            for split in ("train", "val"):
                if (root / split).is_dir() and not (root / split / "clips.csv").is_dir():
                    (root / split / "clips.csv").unlink(missing_ok=True)
                    (root / split / "clips.csv").write_bytes(data.draw(BYTES))


def whole_data(data: VideoData, height: int, width: int) -> None:
    for clips in (data.train, data.val):
        assert isinstance(clips, Clips) and clips.frames.dtype == torch.uint8
        assert len(clips.frames) == len(clips.cond) and clips.frames.shape[1:] == (3, height, width)
        assert clips.starts[0] == 0 and clips.starts[-1] < len(clips.frames)


@cases(400)
@given(st.data())
def test_dataset_folders(data):
    with copy_of("dataset") as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "CACHE", root.parent / "cache")
        for _ in range(data.draw(st.integers(1, 3))):
            spoil(data, root)
        if data.draw(st.integers(0, 9)) == 0:  # a file that vanishes between listing and reading
            read = lab4_folder.read_png

            def vanishing(path, **kwargs):
                Path(path).unlink()
                return read(path, **kwargs)

            patch.setattr(lab4_folder, "read_png", vanishing)
        clip_length = data.draw(st.sampled_from([None, None, 2, 100]))
        part = Lab4Folder(root=str(root), height=8, width=16, clip_length=clip_length)
        loaded = success_or_one_error("dataset folders", [root], part.load)
        left = list((root.parent / "cache").glob("*")) if (root.parent / "cache").exists() else []
        if isinstance(loaded, Lab4Error):
            assert left == [], "nothing is half-written"
            return
        whole_data(loaded, 8, 16)
        for path in root.rglob("*.png"):  # nothing was read from outside of the root
            assert not path.is_file() or path.resolve().is_relative_to(root)
        assert all(not p.name.startswith(".") for p in left)


ROOTS = ["\0", "~nobody/x", "x" * 5000, "/dev/null", "/proc/self/mem", "//", "loop"]


@cases(40)
@given(st.one_of(st.text(max_size=20), st.sampled_from(ROOTS)))
def test_roots(root):
    if root == "loop":
        root = str(WHOLE["base"] / "loop")
        with contextlib.suppress(FileExistsError):
            os.symlink(root, root)
    success_or_one_error("roots", ["data root", "data lab4"], Lab4Folder(root=root).load)


@cases(100)
@given(st.data())
def test_caches(data):
    """A cache is an aid: whatever became of its file, the dataset is the same."""
    with copy_of("dataset") as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "CACHE", root.parent / "cache")
        part = Lab4Folder(root=str(root), height=8, width=16)
        digest = part.load().digest
        (file,) = (root.parent / "cache").iterdir()
        file.write_bytes(data.draw(damage(file.read_bytes())))
        assert success_or_one_error("caches", [root], part.load).digest == digest


CELLS = ["", "nan", "inf", "1e39", "-1e400", "x", "1;2", "0x1", "١", " 1 ", "1_0", "\0", "1 2", '"1"', "1,2", "\ufeff1"]


@cases(250)
@given(st.data())
def test_robot_folders(data):
    """Frames and the two tables beside them."""
    with copy_of("robot") as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "CACHE", root.parent / "cache")
        for _ in range(data.draw(st.integers(0, 2))):
            spoil(data, root)
        tables = [p for p in sorted(root.rglob("*.csv")) if p.is_file() and not p.is_symlink()]
        for table in data.draw(st.lists(st.sampled_from(tables), max_size=2, unique=True)) if tables else ():
            lines = table.read_bytes().decode("utf-8", "replace").splitlines() or [""]
            i = data.draw(st.integers(0, len(lines) - 1))
            words = lines[i].split(",")
            match data.draw(st.sampled_from(["cell", "cell", "row gone", "row twice", "column", "bytes", "header"])):
                case "cell":
                    words[data.draw(st.integers(0, len(words) - 1))] = data.draw(
                        st.one_of(st.sampled_from(CELLS), st.text())
                    )
                    lines[i] = ",".join(words)
                case "row gone":
                    del lines[i]
                case "row twice":
                    lines.insert(i, lines[i])
                case "column":
                    lines[i] += ",1"
                case "header":
                    lines.insert(0, "a,b,c,d")
                case "bytes":
                    table.write_bytes(data.draw(damage(table.read_bytes())))
                    continue
            table.write_text("\n".join(lines), encoding="utf-8", errors="replace")
        part = BairFolder(root=str(root), height=8, width=8)
        loaded = success_or_one_error("robot folders", [root], part.load)
        if not isinstance(loaded, Lab4Error):
            whole_data(loaded, 8, 8)
            assert torch.isfinite(loaded.train.cond).all() and loaded.train.cond.shape[1] == 7


# ------------------------------------------------------------------------------------------------- checkpoints


class Evil:
    """What a checkpoint must never do when it is read."""

    def __reduce__(self):
        return (os.system, (f"touch {WHOLE['base'] / 'ran'}",))


@functools.cache
def foreign() -> dict[str, bytes]:
    def saved(value: Any, **options: Any) -> bytes:
        out = io.BytesIO()
        torch.save(value, out, **options)
        return out.getvalue()

    zipped, npz = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    np.savez(npz, a=np.zeros(3))
    scripted = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), scripted)
    return {
        "pickle": pickle.dumps(Evil()),
        "evil": saved(Evil()),
        "evil inside": saved({"learner": Evil(), "weights": Evil()}),
        "evil legacy": saved({"weights": Evil()}, _use_new_zipfile_serialization=False),
        "bomb": zipped.getvalue(),
        "npz": npz.getvalue(),
        "list": saved([1]),
        "number": saved(3),
        "tensor": saved(torch.zeros(2)),
        "empty": saved({}),
        "legacy": saved({"a": torch.zeros(2)}, _use_new_zipfile_serialization=False),
        "scripted": scripted.getvalue(),
        "model": saved(torch.nn.Linear(1, 1)),
        "huge": saved({"weights": torch.zeros(1).expand(10**12)}),
        "sparse": saved({"state_dict": {"a": torch.zeros(2, 2).to_sparse()}}),
    }


def take_up(folder: Path) -> Any:
    """What a training does first: a training that is built, and the checkpoint it goes on from."""
    run = Run(WHOLE["run"])
    data = engine.load_data(run.config)
    training = engine._Training(run.config, data, Run(folder), ())
    training.log.close()
    assert training.step >= 0 and np.isfinite(training.seconds)
    return training


def read_weights(folder: Path) -> Any:
    model = inference.load_model(Run(folder), "cpu")
    assert all(torch.isfinite(p).all() for p in model.parameters())
    return model


USES = {"last.pt": take_up, "previous.pt": take_up, "best.pt": read_weights}


@cases(120)
@given(st.data())
def test_checkpoints_damaged(data):
    """Truncated, garbled or foreign: refused, or passed over for the one before. None runs code."""
    name = data.draw(st.sampled_from(sorted(USES)))
    with copy_of("run") as folder:
        path = folder / name
        others = {other: (folder / other).read_bytes() for other in USES}
        path.write_bytes(data.draw(st.one_of(damage(path.read_bytes()), st.sampled_from(list(foreign().values())),
                                             st.sampled_from(list(others.values())))))  # fmt: skip
        if name == "last.pt" and data.draw(st.booleans()):
            (folder / "previous.pt").unlink()
        success_or_one_error("checkpoints damaged", [path], lambda: USES[name](folder))
        success_or_one_error("checkpoints imported", [path], lambda: inference.import_checkpoint(path, folder / "out"))
    assert not (WHOLE["base"] / "ran").exists(), "code from a checkpoint was run"


def leaves(tree: Any, way: tuple = ()) -> list[tuple]:
    """The ways to everything in a tree."""
    if isinstance(tree, (dict, list)) and tree:
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return [way, *(leaf for key, value in items for leaf in leaves(value, (*way, key)))]
    return [way]


TENSORS = st.sampled_from([
    torch.zeros(()), torch.zeros(3), torch.zeros(2, 2, dtype=torch.int32), torch.full((8,), float("nan")),
    torch.zeros(1).expand(10**9), torch.zeros(2, 2).to_sparse(), torch.zeros(2, dtype=torch.complex64), torch.empty(0),
])  # fmt: skip


@cases(200)
@given(st.data())
def test_checkpoints_of_other_content(data):
    """Whole files in which one thing is not what it should be."""
    name = data.draw(st.sampled_from(["last.pt", "last.pt", "best.pt"]))
    with copy_of("run") as folder:
        state = checkpoint.load(folder / name)
        way = data.draw(st.sampled_from([w for w in leaves(state) if w]))
        inner = functools.reduce(operator.getitem, way[:-1], state)
        if data.draw(st.booleans()) and isinstance(inner, dict):
            del inner[way[-1]]
        else:
            inner[way[-1]] = data.draw(st.one_of(JUNK, TENSORS))
        with contextlib.suppress(Exception):  # what torch cannot even write is no checkpoint
            torch.save(state, folder / name)
            for other in {"last.pt": ["previous.pt"]}.get(name, []):
                (folder / other).unlink()
        success_or_one_error("checkpoints of other content", [folder / name], lambda: USES[name](folder))


def test_the_state_of_another_run_is_not_taken_up(tmp_path):
    """Swapped between two runs of the same model and data, where every shape fits."""
    runs = []
    for seed in (0, 1):
        cfg = Config.from_dict({**Run(WHOLE["run"]).config.to_dict(), "seed": seed})
        runs.append(engine.train(cfg, out=tmp_path))
    for name in ("last.pt", "best.pt"):
        shutil.copy(runs[0].dir / name, runs[1].dir / name)
    (runs[1].dir / "previous.pt").unlink()
    with pytest.raises(Lab4Error, match=r"best\.pt: of the run '[0-9a-f]{12}': expected the one of"):
        inference.load_model(runs[1])
    (runs[1].dir / "result.json").unlink()
    with pytest.raises(Lab4Error, match=r"last\.pt: of the run .*resume='never' begins anew"):
        engine.train(runs[1].config, out=tmp_path)
    assert engine.train(runs[1].config, out=tmp_path, resume="never").finished


# -------------------------------------------------------------------------------------------- run directories


def look_at(folder: Path) -> None:
    """All that reads a run."""
    run = Run(folder)
    assert repr(run)
    score = run.scores()
    assert score is None or (score._repr_html_() and score.psnr.ndim == 2)
    for kind in ("step", "epoch", "eval"):
        run.metrics(kind)
    assert "<script" not in results_table([run]).to_html()
    read_status(folder)


@cases(350)
@given(st.data())
def test_run_directories(data):
    with copy_of("run") as folder:
        shutil.copy(WHOLE["base"] / "result.json", folder / "result.json")
        names = ["config.json", "result.json", "metrics.jsonl", "scores.npz", "status.json"]
        for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True)):
            path = folder / name
            content = path.read_bytes() if path.exists() else b'{"status": "finished"}'
            match data.draw(st.sampled_from(["bytes", "value", "value", "gone", "folder"])):
                case "bytes":
                    path.write_bytes(data.draw(damage(content)))
                case "value" if name.endswith(".json"):
                    tree = json.loads(content)
                    way = data.draw(st.sampled_from([w for w in leaves(tree) if w]))
                    inner = functools.reduce(operator.getitem, way[:-1], tree)
                    inner[way[-1]] = data.draw(st.one_of(JUNK, st.just("<script>alert(1)</script>")))
                    path.write_text(json.dumps(tree), encoding="utf-8")
                case "value":
                    lines = content.splitlines(keepends=True)
                    lines.insert(data.draw(st.integers(0, len(lines))), data.draw(BYTES))
                    path.write_bytes(b"".join(lines))
                case "gone":
                    path.unlink(missing_ok=True)
                case "folder":
                    path.unlink(missing_ok=True)
                    path.mkdir()
        success_or_one_error(
            "run directories", [folder, "configuration", "strategy", *Config().to_dict()], lambda: look_at(folder)
        )


@cases(60)
@given(st.data())
def test_run_directories_taken_up(data):
    """A spoiled configuration, log or score beside a whole checkpoint loses nothing of the training."""
    with copy_of("run") as folder:
        names = ["config.json", "metrics.jsonl", "scores.npz", "best.pt"]
        for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)):
            content = (folder / name).read_bytes()
            (folder / name).write_bytes(data.draw(damage(content)))
        run = Run(WHOLE["run"])
        runlog.create(folder, run.config)
        training = success_or_one_error("run directories taken up", [folder], lambda: take_up(folder))
        assert not isinstance(training, Lab4Error) and training.step == 8
        assert training.best["epoch"] == -1 or (folder / "scores.npz").stat().st_size > 0


def test_how_many_cases_that_were(record_property):
    enough(1550, 8, record_property)  # with the 3,500 of test_bad_input.py more than 5,000
