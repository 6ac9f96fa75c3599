"""Conditional VAEs that predict video: models, training step, rollouts and the tools around them.

Public names are loaded on first use, so importing the package does not import torch.
"""

import importlib
import sys

# public name -> file that defines it; no file may share one of these names, or importing it would hide the function
_WHERE = {
    "Lab4Error": "errors",
    "Config": "config",
    "register": "registry",
    "load_config": "presets",
    "load_data": "data",
    "train": "engine",
    "evaluate": "inference",
    "rollout": "inference",
    "test": "inference",
    "load_run": "inference",
    "load_model": "inference",
    "predict": "inference",
    "pretrained": "weights",
    "Run": "runlog",
    "Video": "media",
}
__all__ = sorted(_WHERE)
__version__ = "0.1.0"


def __getattr__(name: str):
    if name in _WHERE:
        return getattr(importlib.import_module(f"lab4_core.{_WHERE[name]}"), name)
    try:  # l4.plots and other modules work without being imported first
        if not name.startswith("_"):
            return importlib.import_module(f"lab4_core.{name}")
    except ModuleNotFoundError as e:
        if e.name != f"lab4_core.{name}":
            raise
    message = f"module 'lab4_core' has no attribute {name!r}"
    raise AttributeError(message, name=name, obj=sys.modules[__name__])


def __dir__():
    return [*__all__, "__version__", "plots", "widgets"]
