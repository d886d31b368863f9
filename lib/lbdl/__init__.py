"""The small shared module of the runnable companion to The Little Book of Deep Learning.

What a chapter teaches is in the chapter. Here is what surrounds it: devices, figures, widgets, claims, exercises,
data, the training loop, and the import of what chapters built.
"""

from lbdl.bars import progress
from lbdl.claims import ClaimError, claim, claims_made
from lbdl.devices import device, peak_memory, seconds, seed, synchronize
from lbdl.exercises import check
from lbdl.figures import color, figure, log_scale, use_style
from lbdl.inside import attention_maps
from lbdl.schematics import schematic
from lbdl.show import note, table
from lbdl.training import History, Muon, batches, fit
from lbdl.widgets import choice, explore, slider, toggle, words

use_style()
