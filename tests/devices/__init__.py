"""What each chapter may do on the CPU beside an accelerator, and how its exported models are tried; a file a chapter.

ALLOWED_ON_CPU: section, or the widgets of a section -> the heavy operations that may run there on CPU tensors, each
with the reason. MODELS: exported class -> function of it that returns (model, input): small, on the CPU; several
inputs as a tuple.
"""

import importlib
import importlib.util

from tests.running import SCRIPTS

_places = {f"ch{script.name[:2]}": f"tests.devices.ch{script.name[:2]}" for script in SCRIPTS}
_there = {chapter: place for chapter, place in _places.items() if importlib.util.find_spec(place)}
_files = {chapter: importlib.import_module(place) for chapter, place in _there.items()}
ALLOWED_ON_CPU = {place: names for file in _files.values() for place, names in file.ALLOWED_ON_CPU.items()}
MODELS = {f"{chapter}.{name}": make for chapter, file in _files.items() for name, make in file.MODELS.items()}
