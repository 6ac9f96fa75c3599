"""Datasets: one file a kind. Importing this package registers the built-in ones.

    data = load_data(cfg)            # VideoData: uint8 frames and conditions, in memory

A new dataset is a new file here with one `@register("data", ...)` dataclass, and a line below.
"""

from __future__ import annotations

import functools

from lab4_core.data.dancer import Dancer
from lab4_core.data.lab4_folder import Lab4Folder
from lab4_core.data.lab4_write import write_lab4
from lab4_core.data.store import Clips, Dataset, TestClip, VideoData, to_float

__all__ = [
    "Clips",
    "Dancer",
    "Dataset",
    "Lab4Folder",
    "TestClip",
    "VideoData",
    "load_data",
    "to_float",
    "write_lab4",
]


def load_data(cfg) -> VideoData:
    """The dataset a configuration names (or a `Dataset` itself), loaded once in a process.

    Files that change later are seen by the next process. Raises `Lab4Error` naming the path and what was expected.
    """
    return _load(cfg if isinstance(cfg, Dataset) else cfg.data)


@functools.lru_cache(maxsize=4)
def _load(dataset: Dataset) -> VideoData:
    return dataset.load()
