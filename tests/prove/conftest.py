"""make prove [CHAPTER=06] [SECTION=6.3]: which of the deep proofs run, and in which order."""

import pytest

from tests import running


def pytest_addoption(parser):
    parser.addoption("--chapter", default="", help="only what is about this chapter, such as 06")
    parser.addoption("--section", default="", help="only what is about this section, such as 6.3")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Deselect what was not asked for; then the longest first, so that no core waits at the end."""
    chapter, section = config.getoption("--chapter"), config.getoption("--section")
    chapter = chapter or (running.chapter_of(section) if section else "")
    chosen = [item for item in items if _about(item, chapter, section)]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = sorted(chosen, key=_weight, reverse=True)


def _about(item, chapter: str, section: str) -> bool:
    given = item.callspec.params if hasattr(item, "callspec") else {}
    script = given.get("script")
    if not chapter:
        return True
    if script is None or script.name[:2] != chapter:
        return False
    return not section or given.get("section", section) == section


def _weight(item) -> int:
    """How long it may take: a chapter in the browser by all its text, a section by its own."""
    given = item.callspec.params if hasattr(item, "callspec") else {}
    if "section" in given:
        return sum(len(cell.source) for cell in running.alone(given["script"], given["section"]))
    return given["script"].stat().st_size if "script" in given else 0
