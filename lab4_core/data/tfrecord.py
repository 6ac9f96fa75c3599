"""TFRecord files and the `tf.train.Example` in each record, read without TensorFlow.

A record is its length (uint64), a checksum of that, its bytes and a checksum of those, little-endian. An Example is a
protobuf: a map from names to lists of bytes, of floats or of integers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lab4_core.errors import Lab4Error

Value = list[bytes] | np.ndarray
_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), bits reversed
LONGEST = 1 << 30  # bytes of a record: anything longer is not a length


def masked_crc(data: bytes) -> int:
    """The checksum of a TFRecord: CRC-32C, rotated and offset so that a checksum of checksums is harmless."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_POLYNOMIAL * (crc & 1))
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a file, one after the other. The checksum of every length is checked; those of the contents are
    not, since in Python that would take hours for a dataset.

    Raises `Lab4Error` naming the file and the record that is cut off or is not one.
    """
    with open(path, "rb") as file:
        for n in range(1 << 62):
            head = file.read(12)
            if not head:
                return
            length, crc = struct.unpack("<QI", head) if len(head) == 12 else (0, None)
            if crc is not None and (crc != masked_crc(head[:8]) or length > LONGEST):
                raise Lab4Error(f"{path}, record {n}: no length where one should be; expected an uncompressed TFRecord")
            body = file.read(length + 4)
            if crc is None or len(body) < length + 4:
                raise Lab4Error(f"{path}, record {n}: the file ends within it; expected a whole TFRecord")
            yield body[:length]


def read_example(record: bytes) -> dict[str, Value]:
    """The features of a serialized `tf.train.Example`: name -> list of bytes, float32 array or int64 array.

    Raises `ValueError` for bytes that are not one.
    """
    found: dict[str, Value] = {}
    for features in _messages(record):
        for entry in _messages(features):
            parts = dict(_fields(entry))
            if not isinstance(parts.get(1), bytes) or not isinstance(parts.get(2, b""), bytes):
                raise ValueError("a feature without a name")
            found[parts[1].decode()] = _value(parts.get(2, b""))
    return found


def _value(feature: bytes) -> Value:
    for kind, body in _fields(feature):
        if kind not in (1, 2, 3):
            continue
        if not isinstance(body, bytes):
            raise ValueError(f"field {kind} is a number")
        if kind == 3:
            values = [v for number, v in _fields(body) if number == 1]
            numbers = [n for v in values for n in (_varints(v) if isinstance(v, bytes) else [v])]
            return np.array(numbers, np.uint64).astype(np.int64)
        texts = list(_messages(body))
        # floats are packed into one run of bytes, or have four bytes each
        return texts if kind == 1 else np.frombuffer(b"".join(texts), "<f4").copy()
    return []


def _messages(data: bytes) -> Iterator[bytes]:
    """What field 1 holds, each time it occurs: in all the messages read here it is the list."""
    for number, value in _fields(data):
        if number == 1:
            if not isinstance(value, bytes):
                raise ValueError("field 1 is a number")
            yield value


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(number, value) of a message's fields: bytes (of a given length, 4 or 8), or a whole number."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
        else:
            length, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}.get(kind, -1), at)
            value = data[at : at + length]
            if length < 0 or len(value) < length:
                raise ValueError(f"a field of kind {kind} at byte {at} that does not fit")
            at += length
        yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 and value < 1 << 64:
            return value, at
    raise ValueError(f"a number without an end, or too large, at byte {at}")


def _varints(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value
