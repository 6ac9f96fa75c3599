"""The BAIR layout and the release's TFRecords: what is read is what lies there, and every mistake has one error."""

import io
import os
import shutil
import struct

import numpy as np
import pytest
import torch
from cases import cases, success_or_one_error
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lab4_core.data import BairFolder, Robot, convert_tfrecords, write_bair
from lab4_core.data.bair_folder import _key, read_table
from lab4_core.data.bair_tfrecord import read_sequence
from lab4_core.data.tfrecord import masked_crc, read_example, read_records
from lab4_core.errors import Lab4Error

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    data = Robot(clips=2, val_clips=1, test_clips=1, frames=5, height=16, width=16).load()
    return write_bair(data, tmp_path_factory.mktemp("bair") / "root")


@pytest.fixture
def root(written, tmp_path):
    return shutil.copytree(written, tmp_path / "root")


def load(root, **values):
    return BairFolder(root=str(root), height=16, width=16, **values).load()


def test_the_real_sample_is_read_as_it_lies(real_bair):
    data = BairFolder(root=str(real_bair)).load()
    folder = next(real_bair.glob("test/*/*"))
    assert data.train.frames.shape == (30, 3, 64, 64) and data.train.cond.shape == (30, 7)
    for i in (0, 2, 10, 29):  # 2 before 10: by number
        picture = np.asarray(Image.open(folder / f"{i}.png").convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(data.train.frames[i].numpy(), picture)
    actions = np.genfromtxt(folder / "actions.csv", delimiter=",")
    places = np.genfromtxt(folder / "endeffector_positions.csv", delimiter=",")
    assert np.allclose(data.val.cond.numpy(), np.concatenate([actions, places], 1), atol=1e-7)
    assert "trained and scored on it" in data.name, "there is no train folder, and the result says so"
    assert torch.equal(data.test[0].truth, data.val.frames)


def test_splits_limits_and_order(root):
    data = load(root)
    assert (len(data.train.frames), len(data.val.frames), len(data.test)) == (10, 5, 1)
    assert data.name == "bair" and data.train.starts == (0, 5)
    assert len(load(root, clips=1).train.frames) == 5
    (root / "train" / "traj_0_to_255" / "1").rename(root / "train" / "traj_0_to_255" / "10")
    (root / "validate").rename(root / "elsewhere")
    again = load(root)
    assert torch.equal(again.train.frames, data.train.frames)
    assert torch.equal(again.val.frames, again.test[0].truth), "without validate, test is the validation"


def test_folders_of_any_name_have_an_order():
    names = ["traj_256_to_511", "traj_0_to_255", "traj_0", "0 copy", "0", "x", "12", "2"]
    assert sorted(names, key=_key) == ["x", "0", "0 copy", "traj_0", "traj_0_to_255", "2", "12", "traj_256_to_511"]


def test_names_that_are_no_unicode(root):
    strange = os.fsdecode(b"\xff1")
    (root / "test/traj_0_to_255/0").rename(root / "test/traj_0_to_255" / strange)
    moved = root.rename(root.with_name(os.fsdecode(b"set \xff")))
    assert load(moved).test[0].name.endswith(strange)


def test_a_changed_file_is_noticed(root):
    before = load(root).digest
    assert load(root).digest == before
    path = root / "train" / "traj_0_to_255" / "0" / "actions.csv"
    path.write_text(path.read_text().replace("0.", "0.1", 1))
    assert load(root).digest != before


@pytest.mark.parametrize(
    "text,message",
    [
        ("1,2,3,4\n" * 4, "has 4 rows: expected 5, one for each frame"),
        ("1,2,3,4\n" * 6, "has 6 rows: expected 5"),
        ("1,2,3,4\n1,nan,3,4\n" + "1,2,3,4\n" * 3, "row 2 holds 'nan': expected 4 finite numbers"),
        ("1,2,3,4\n" * 2 + "1,2,x,4\n" + "1,2,3,4\n" * 2, "row 3 holds 'x'"),
        ("dx,dy,dz,grip\n" + "1,2,3,4\n" * 5, "row 1 holds 'dx'"),
        ("1;2;3;4\n" * 5, "row 1 has 1 value between commas .*: expected 4 numbers with commas"),
        ("1\t2\t3\t4\n" * 5, "row 1 has 1 value"),
        ("1,2,3\n" * 5, "row 1 has 3 values"),
        ("", "has 0 rows"),
        ("1,2,3,inf\n" * 5, "row 1 holds 'inf'"),
    ],
)
def test_a_bad_table_names_file_and_row(root, text, message):
    path = root / "train" / "traj_0_to_255" / "1" / "actions.csv"
    path.write_text(text)
    with pytest.raises(Lab4Error, match=message) as e:
        load(root)
    assert "actions.csv" in str(e.value)


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path):
    (tmp_path / "a.csv").write_bytes("\ufeff1, 2\r\n3,4e-1\r\n".encode())
    assert read_table(tmp_path / "a.csv", 2, 2).tolist() == [[1, 2], [3, np.float32(0.4)]]
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Lab4Error, match="cannot be read"):
        read_table(tmp_path / "b.csv", 2, 2)


def test_what_is_missing_is_named(root, tmp_path):
    sequence = root / "train" / "traj_0_to_255" / "0"
    (sequence / "2.png").unlink()
    with pytest.raises(Lab4Error, match=r"has no frame 2\.png: expected the frames 0 to 4"):
        load(root)
    (sequence / "2.png").write_bytes(b"no picture")
    with pytest.raises(Lab4Error, match=r"2\.png .* cannot be decoded"):
        load(root)
    (sequence / "endeffector_positions.csv").unlink()
    with pytest.raises(Lab4Error, match=r"endeffector_positions\.csv does not exist"):
        load(root)
    with pytest.raises(Lab4Error, match=r"did you mean .*root"):
        load(tmp_path)
    with pytest.raises(Lab4Error, match="does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(Lab4Error, match="BAIR_DATA"):
        BairFolder().load()


def test_more_than_the_memory_is_refused_before_it_is_read(root, monkeypatch):
    monkeypatch.setattr("lab4_core.paths.free_memory", lambda: 10_000)
    with pytest.raises(Lab4Error, match=r"20 frames take .* data\.clips="):
        load(root)


# ------------------------------------------------------------------ the release


def varint(n: int) -> bytes:
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def message(*fields: tuple[int, bytes]) -> bytes:
    return b"".join(varint(number << 3 | 2) + varint(len(body)) + body for number, body in fields)


def example(features: dict) -> bytes:
    """A serialized tf.train.Example, floats packed and integers not."""
    entries = []
    for name, values in features.items():
        if isinstance(values, bytes):
            kind = (1, message((1, values)))
        elif np.asarray(values).dtype.kind == "f":
            kind = (2, message((1, np.asarray(values, "<f4").tobytes())))
        else:
            kind = (3, b"".join(varint(1 << 3) + varint(int(v)) for v in values))
        entries.append((1, message((1, name.encode()), (2, message(kind)))))
    return message((1, message(*entries)))


def record(body: bytes) -> bytes:
    head = struct.pack("<Q", len(body))
    return head + struct.pack("<I", masked_crc(head)) + body + struct.pack("<I", masked_crc(body))


def sequence(frames, cond, encoded=None):
    features = {}
    for t in range(len(frames)):
        raw = np.ascontiguousarray(frames[t].transpose(1, 2, 0))
        features |= {f"{t}/image_aux1/encoded": encoded(raw) if encoded else raw.tobytes(),
                     f"{t}/image_main/encoded": b"the other camera", f"{t}/action": cond[t, :4],
                     f"{t}/endeffector_pos": cond[t, 4:]}  # fmt: skip
    return features


def png(raw):
    out = io.BytesIO()
    Image.fromarray(raw).save(out, "PNG")
    return out.getvalue()


def test_checksums_are_those_of_the_standard():
    unmasked = (masked_crc(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF
    assert ((unmasked << 15) | (unmasked >> 17)) & 0xFFFFFFFF == 0xE3069283, "CRC-32C of 123456789"


def test_an_example_is_read_back():
    features = {"a": b"bytes", "f": np.array([1.5, -2.0]), "i": np.array([3, 300, 70_000])}
    read = read_example(example(features))
    assert read["a"] == [b"bytes"] and read["f"].tolist() == [1.5, -2.0] and read["i"].tolist() == [3, 300, 70_000]


@pytest.mark.parametrize("encoded", [None, png])
def test_the_release_becomes_the_labs_folders(tmp_path, encoded):
    robot = Robot(frames=4)
    clips = [robot.clip("train", i) for i in range(3)]
    for split, names in (("train", ["traj_0_to_1", "traj_256_to_511"]), ("test", ["traj_0_to_0"])):
        (tmp_path / "release" / split).mkdir(parents=True)
        for k, name in enumerate(names):
            body = b"".join(record(example(sequence(*c, encoded))) for c in clips[: 2 - k])
            (tmp_path / "release" / split / f"{name}.tfrecords").write_bytes(body)
    root = convert_tfrecords(tmp_path / "release", tmp_path / "out")
    data = BairFolder(root=str(root)).load()
    assert sorted(p.name for p in (root / "train" / "traj_0_to_1").iterdir()) == ["0", "1"]
    frames, cond = (np.concatenate(v) for v in zip(clips[0], clips[1], clips[0]))
    assert np.array_equal(data.train.frames.numpy(), frames) and np.array_equal(data.train.cond.numpy(), cond)
    assert len(data.test) == 2


def test_a_broken_release_names_file_and_record_and_leaves_nothing(tmp_path):
    robot = Robot(frames=3)
    whole = record(example(sequence(*robot.clip("train", 0))))
    (tmp_path / "r" / "train").mkdir(parents=True)
    path = tmp_path / "r" / "train" / "traj_0_to_1.tfrecords"
    broken = {
        "ends within it": whole + whole[:-7],
        "no length where one should be": whole + b"\x00" * 40,
        "not a tf.train.Example": record(b"\xff" * 30),
        "no 0/image_aux1/encoded": record(example({"x": b"y"})),
        "expected 4 and 3 numbers": record(example({**sequence(*robot.clip("train", 0)), "1/action": np.zeros(3)})),
        "expected 64 x 64 x 3": record(example({**sequence(*robot.clip("train", 0)), "1/image_aux1/encoded": b"no"})),
    }
    for words, content in broken.items():
        path.write_bytes(content)
        with pytest.raises(Lab4Error, match=words) as e:
            convert_tfrecords(tmp_path / "r", tmp_path / "out")
        assert "traj_0_to_1.tfrecords" in str(e.value)
        assert not (tmp_path / "out").exists()
    (tmp_path / "r" / "train" / "more").mkdir()
    (tmp_path / "r" / "train" / "more" / path.name).write_bytes(whole)
    with pytest.raises(Lab4Error, match="would be one folder of train: expected different names"):
        convert_tfrecords(tmp_path / "r", tmp_path / "out")
    (tmp_path / "r" / "train" / "more" / path.name).unlink()
    path.write_bytes(b"")
    assert list(read_records(path)) == []
    path.unlink()
    with pytest.raises(Lab4Error, match=r"holds no \*\.tfrecords"):
        convert_tfrecords(tmp_path, tmp_path / "out2")


MESSAGES = st.recursive(  # what protobuf can say, nested as an Example nests its features, or otherwise
    st.one_of(
        st.sampled_from(
            [b"", b"\x08\x96\x01", b"0/image_aux1/encoded", b"0/action", b"0/endeffector_pos", b"\xff" * 10]
        ),
        st.binary(max_size=12),
        st.builds(lambda n, v: varint(n << 3) + varint(v), st.integers(1, 4), st.integers(0, 2**70)),
    ),
    lambda inner: st.builds(
        lambda fields: message(*fields), st.lists(st.tuples(st.integers(1, 3), inner), min_size=1, max_size=4)
    ),
    max_leaves=8,
)


@cases(300)
@given(MESSAGES)
def test_bytes_that_are_no_example(body):
    """A checksum of the contents is not checked, so anything may stand there."""
    for said in (body, message((1, body)), message((1, message((1, body)))),
                 message((1, message((1, message((1, b"0/image_aux1/encoded"), (2, body))))))):  # fmt: skip
        success_or_one_error("examples", ["the record"], lambda said=said: read_sequence(said, "the record"))


@pytest.mark.parametrize(
    "feature", [varint(1 << 3) + varint(3), message((1, varint(1 << 3) + varint(3))),
                message((3, varint(1 << 3) + varint(2**64))), message((2, varint(1 << 3) + varint(7)))]
)  # fmt: skip
def test_a_feature_of_another_kind_is_no_example(feature):
    with pytest.raises(Lab4Error, match=r"the record: not a tf\.train\.Example"):
        read_sequence(message((1, message((1, message((1, b"0/action"), (2, feature)))))), "the record")


def test_a_picture_that_is_a_list_of_numbers(tmp_path):
    whole = sequence(*Robot(frames=3).clip("train", 0))
    for numbers in (np.array([1.0, 2.0]), np.array([1, 2])):
        with pytest.raises(Lab4Error, match="the record: no 0/image_aux1/encoded"):
            read_sequence(example({**whole, "0/image_aux1/encoded": numbers}), "the record")
