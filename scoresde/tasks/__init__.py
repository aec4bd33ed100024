"""Uses of a trained score as functions: edit, restore, purify, compare and interpolate data.

Each function takes a sampler, a process and a score, then the data. The score can be guided, and the sampler is any that fits.
"""

from scoresde.tasks.editing import edit, purify
from scoresde.tasks.encoding import anomaly_map, interpolate
from scoresde.tasks.restoration import colorize, inpaint, super_resolve

__all__ = ["anomaly_map", "colorize", "edit", "inpaint", "interpolate", "purify", "super_resolve"]
