"""Pictures that move in JupyterLab and stand still everywhere else.

Each is a pure function from a state (a frame's number, the values of some controls, a run's directory) to a picture,
with controls around it where somebody has the notebook open. Elsewhere (papermill, nbval, nbconvert, an exported
page, a viewer without a kernel) the same object shows its static twin: a figure with caption and alt text.
"""

from lab4_core.widgets.comparison import compare
from lab4_core.widgets.knobs import Choice, Knobs, Several, Slider, Switch
from lab4_core.widgets.live import Live
from lab4_core.widgets.player import Player, pose_player, rollout_player
from lab4_core.widgets.watcher import Watcher, watch

__all__ = [
    "Choice",
    "Knobs",
    "Live",
    "Player",
    "Several",
    "Slider",
    "Switch",
    "Watcher",
    "compare",
    "pose_player",
    "rollout_player",
    "watch",
]
