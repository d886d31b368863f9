"""Every section runs on the pretend accelerator (tests/accelerator.py), on which mixing devices is an error.

Installing the accelerator changes PyTorch for good, so each section runs in a copy of this process.
"""

import contextlib
import io
import json

from lbdl import chapters
from tests import run_on_accelerator
from tests.devices import ALLOWED_ON_CPU
from tests.prove.test_alone import EVERY_SECTION, in_a_copy


def on_the_accelerator(script, section: str) -> tuple[dict[str, dict], list[str]]:
    """The heavy operations on CPU tensors, and what went wrong."""

    def action() -> str:
        run_on_accelerator.prepare()
        return json.dumps(run_on_accelerator.report(script, [section]))

    with contextlib.redirect_stdout(io.StringIO()):
        said = in_a_copy(action)
    assert said.startswith("["), said
    return json.loads(said)


@EVERY_SECTION
def test_a_section_on_the_accelerator(script, section):
    heavy, problems = on_the_accelerator(script, section)
    assert not problems, "\n".join(problems)
    for place, operations in heavy.items():
        allowed = ALLOWED_ON_CPU.get(place, set())
        unlisted = {name: found for name, found in operations.items() if name not in allowed}
        assert not unlisted, f"heavy operations of {place} on CPU tensors, not in tests/devices: {unlisted}"
        idle = allowed - set(operations)
        assert not idle, f"tests/devices allows {place} {sorted(idle)}, which it does not do: take it off the list"


def test_the_data_page_on_the_accelerator(tmp_path):
    """It has no numbered sections; one number makes a section of it all. The spectrograms are of what is heard."""
    page = chapters.path_of(0).read_text(encoding="utf-8")
    draft = tmp_path / "00_draft.py"
    draft.write_text(page.replace("# ## ", "# ## 0.1 ", 1), encoding="utf-8")
    for section in ("0.1", "end"):
        heavy, problems = on_the_accelerator(draft, section)
        assert not problems, "\n".join(problems)
        assert set(heavy[section]) <= {"_fft_r2c"}
