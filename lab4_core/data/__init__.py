"""Datasets: one file per kind.

    data = load_data(cfg)            # VideoData: uint8 frames and conditions, in memory

A new dataset is a new file here with one `@register("data", ...)` dataclass, which `registry.kinds` finds.
"""

from __future__ import annotations

import functools

from lab4_core.data.bair_folder import BairFolder
from lab4_core.data.bair_tfrecord import convert_tfrecords
from lab4_core.data.bair_write import write_bair
from lab4_core.data.dancer import Dancer
from lab4_core.data.lab4_folder import Lab4Folder
from lab4_core.data.lab4_write import write_lab4
from lab4_core.data.robot import Robot
from lab4_core.data.store import Clips, Dataset, TestClip, VideoData, to_float
from lab4_core.errors import Lab4Error

__all__ = [
    "BairFolder",
    "Clips",
    "Dancer",
    "Dataset",
    "Lab4Folder",
    "Robot",
    "TestClip",
    "VideoData",
    "convert_tfrecords",
    "load_data",
    "to_float",
    "write_bair",
    "write_lab4",
]


def load_data(cfg) -> VideoData:
    """The dataset that a configuration names (or a `Dataset` itself), loaded once per process; with `cfg.hold_out`,
    that training clip takes the place of val.

    Files that change later are only seen by the next process. Raises `Lab4Error` naming the path and what was expected.
    """
    if isinstance(cfg, Dataset):
        return _load(cfg)
    return _load(cfg.data).hold_out(cfg.hold_out)


@functools.lru_cache(maxsize=4)
def _load(dataset: Dataset) -> VideoData:
    try:
        return dataset.load()
    except OSError as e:
        raise Lab4Error(f"data {dataset.kind}: {e}: expected folders and files that can be read") from e
