"""What each chapter may do on the CPU beside an accelerator, and how its exported models are tried; a file a chapter.

ALLOWED_ON_CPU: section, or the widgets of a section -> the heavy operations that may run there on CPU tensors, each
with the reason. MODELS: exported class -> function of it that returns (model, input): small, on the CPU; several
inputs as a tuple.
"""

import importlib

from tests.running import SCRIPTS

_files = {script.name[:2]: importlib.import_module(f"tests.devices.ch{script.name[:2]}") for script in SCRIPTS}
ALLOWED_ON_CPU = {place: names for file in _files.values() for place, names in file.ALLOWED_ON_CPU.items()}
MODELS = {f"ch{number}.{name}": make for number, file in _files.items() for name, make in file.MODELS.items()}
