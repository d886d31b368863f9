"""Every chapter runs on the pretend accelerator (tests/accelerator.py), on which mixing devices is an error."""

import pytest

from lbdl import chapters
from tests.running import SCRIPTS
from tests.test_accelerator import ALLOWED_ON_CPU, last_line, run_python


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_chapter_runs_on_the_accelerator(script):
    process = run_python("tests.run_on_accelerator", script.name[:2])
    assert process.returncode == 0, process.stderr
    for place, operations in last_line(process).items():
        unlisted = {name: found for name, found in operations.items() if name not in ALLOWED_ON_CPU.get(place, ())}
        assert not unlisted, f"section {place}: heavy operations on CPU tensors, which ALLOWED_ON_CPU lacks: {unlisted}"
        idle = ALLOWED_ON_CPU.get(place, set()) - set(operations)
        assert not idle, (
            f"section {place}: ALLOWED_ON_CPU has {sorted(idle)}, which it does not do: take it off the list"
        )


def test_the_data_page_runs_on_the_accelerator(tmp_path):
    """It has no numbered sections; one number makes a section of it all. The spectrograms are of what is heard."""
    page = chapters.path_of(0).read_text(encoding="utf-8")
    draft = tmp_path / "00_draft.py"
    draft.write_text(page.replace("# ## ", "# ## 0.1 ", 1), encoding="utf-8")
    process = run_python("tests.run_on_accelerator", str(draft))
    assert process.returncode == 0, process.stderr
    heavy = last_line(process)
    assert set(heavy["0.1"]) | set(heavy["end"]) <= {"_fft_r2c"}
