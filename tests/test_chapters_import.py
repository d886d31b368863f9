"""What a chapter built can be imported: its exported cells run, nothing else does, and lines keep their numbers."""

import inspect
import sys
import traceback
from importlib import import_module, reload

import jupytext
import pytest

from lbdl import chapters
from lbdl.chapters import cells, exported, path_of, sections

SCRIPT = '''# ---
# jupyter:
#   kernelspec:
#     name: python3
# ---

# %% [markdown]
# # 71 A chapter
#
# Some words.

# %%
raise RuntimeError("the set-up ran")

# %% tags=["export"]
import math

RATE = 0.5 * 2


def area(radius):
    """The area of a circle."""
    return math.pi * radius**2


def divide(x):
    return x / 0


# %% tags=["figure-1.1"]
raise RuntimeError("a figure was drawn")

# %% tags=["equation-1.2", "export"]
class Circle:
    sides = [1]

    def area(self):
        return area(RATE)

# %%
SECRET = 1
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of chapters with one in it, numbered as none of the book is."""
    monkeypatch.setattr(chapters, "FOLDER", tmp_path)
    (tmp_path / "71_circles.py").write_text(SCRIPT)
    yield tmp_path
    for number in (71, 72):
        sys.modules.pop(f"lbdl.chapters.ch{number}", None)
        vars(chapters).pop(f"ch{number}", None)


@pytest.fixture
def circles(folder):
    return import_module("lbdl.chapters.ch71")


def line_of(text):
    return SCRIPT[: SCRIPT.index(text)].count("\n") + 1


# Importing.


def test_exported_cells_are_run_and_no_others(circles):
    from lbdl.chapters.ch71 import area  # as chapters do

    assert area(1) == pytest.approx(3.14159, abs=1e-5)
    assert circles.Circle().area() == circles.area(1) and circles.RATE == 1
    assert not hasattr(circles, "SECRET")  # and no RuntimeError was raised


def test_sources_and_tracebacks_point_into_the_chapter(circles, folder):
    file = str(folder / "71_circles.py")
    assert inspect.getsourcefile(circles.area) == file
    assert inspect.getsource(circles.Circle).startswith("class Circle:\n    sides = [1]\n")
    source, line = inspect.getsourcelines(circles.area)
    assert source[-1] == "    return math.pi * radius**2\n" and line == line_of("def area(radius)")
    with pytest.raises(ZeroDivisionError) as caught:
        circles.divide(1)
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.filename, last.lineno, last.line) == (file, line_of("return x / 0"), "return x / 0")


def test_a_changed_chapter_is_read_anew(circles, folder):
    (folder / "71_circles.py").write_text(SCRIPT.replace("0.5 * 2", "0.5 * 4"))
    assert reload(circles).RATE == 2
    assert not list(folder.glob("**/*.pyc"))


@pytest.mark.parametrize("name", ["ch123", "Ch71"])
def test_odd_names_are_refused(folder, name):
    with pytest.raises(ModuleNotFoundError, match=rf"expected chapters to be named ch01, ch02, …, got {name}"):
        import_module(f"lbdl.chapters.{name}")


def test_an_unknown_chapter_is_refused_and_those_that_exist_are_named(folder):
    (folder / "02_other.py").write_text("")
    with pytest.raises(ModuleNotFoundError, match=r"no chapter 99 .*: expected one of ch02, ch71$"):
        import_module("lbdl.chapters.ch99")
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(ModuleNotFoundError, match="expected one of none"):
        import_module("lbdl.chapters.ch99")


def test_other_modules_are_found_as_ever():
    assert import_module("lbdl.chapters") is chapters
    with pytest.raises(ModuleNotFoundError, match="No module named 'lbdl_that_is_not_there'"):
        import_module("lbdl_that_is_not_there")


def test_a_chapter_is_found_by_its_number(folder):
    assert path_of(71) == path_of("71") == folder / "71_circles.py"


# What a cell tagged export may hold.


def script(tmp_path, *parts):
    path = tmp_path / "73_script.py"
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "code",
    [
        "print(1)",
        "x: int = print(1)",
        "x = [print(i) for i in (1, 2)]",
        "x += 1",
    ],
)
def test_an_exported_cell_that_computes_is_refused_with_file_and_line(tmp_path, code):
    path = script(tmp_path, "# %%", "y = 1", "", '# %% tags=["export"]', "", "x = 1", code, "")
    first = code.splitlines()[0]
    with pytest.raises(SyntaxError) as caught:
        exported(path)
    assert "73_script.py, line 7:" in str(caught.value)
    assert str(caught.value).endswith(f"and this is: {first}")


def test_an_exported_cell_may_define(tmp_path):
    code = ["import math", "X: int = 1", "X = {'a': [1, 2]}", "class C:", "    x = print(1) if X else 2", "# a comment"]
    assert exported(script(tmp_path, '# %% tags=["export"]', *code)).splitlines()[1:] == code


def test_an_exported_cell_that_is_no_python_is_refused_with_file_and_line(tmp_path):
    path = script(tmp_path, "# %%", "y = 1", "", '# %% tags=["export"]', "x = 1", "def f(:")
    with pytest.raises(SyntaxError) as caught:
        exported(path)
    assert (caught.value.filename, caught.value.lineno) == (str(path), 6)


def test_what_is_not_exported_is_blanked_and_every_line_keeps_its_number(folder):
    kept, original = exported(folder / "71_circles.py").splitlines(), SCRIPT.splitlines()
    assert len(kept) == len(original)
    assert all(line in ("", before) for line, before in zip(kept, original, strict=True))
    assert "RuntimeError" not in "".join(kept)


# Reading scripts: as jupytext does.

TRICKY = '''# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# - a list
#   - in a list
#
# ```python
# # %% no cell begins here
# ```
#
# `# %%` and #hash and $\\\\sum_i x_i$ — Greek: αβγ


# %%
# only a comment

# %% tags=["export", "figure-3.1"]
def f(x):
    """Text with [brackets].

    # a comment in a text
    """
    return x  # %% not a cell either


#
y = 1
# %%
x = 1


# %% [markdown] tags=["exercise"]
# ## 3.1 A section
# %% tags=[]
print('%d # %%' % 3);
# %% a title tags=["solution"]
z = 1'''


def read(path):
    return [(cell.kind, cell.tags, cell.source) for cell in cells(path)]


def read_by_jupytext(path):
    notebook = jupytext.read(path)
    return [(cell.cell_type, list(cell.metadata.get("tags", [])), cell.source) for cell in notebook.cells]


def test_cells_are_those_of_jupytext_in_kind_tags_and_source(tmp_path):
    path = script(tmp_path, TRICKY)
    assert read(path) == read_by_jupytext(path)
    assert len(read(path)) == 7


def test_the_chapters_themselves_are_read_as_jupytext_does():
    scripts = sorted(chapters.FOLDER.glob("[0-9][0-9]_*.py"))
    assert scripts
    for path in scripts:
        assert read(path) == read_by_jupytext(path), path.name


def test_each_cell_knows_its_line_and_an_empty_script_has_none(tmp_path):
    path = script(tmp_path, "# %%", "", "", "x = 1", "# %% [markdown]", "# text", "", "# %%", "y = 1")
    assert [cell.line for cell in cells(path)] == [4, 6, 9]
    assert cells(script(tmp_path, "")) == []


@pytest.mark.parametrize(
    "lines",
    [
        ('# %% tags=["export"] jupyter={"source_hidden": true}', "x = 1"),
        ("# %%", "x = 1", "#%%", "y = 1"),
        ("# %% [md]", "# text"),
    ],
)
def test_a_mark_that_would_be_read_differently_from_jupytext_is_refused(tmp_path, lines):
    path = script(tmp_path, *lines)
    with pytest.raises(SyntaxError, match=r"73_script\.py, line \d: expected a cell to begin with"):
        assert read(path) == read_by_jupytext(path)


# Sections.


def test_cells_are_sorted_into_the_sections_of_the_book(tmp_path):
    path = script(
        tmp_path,
        "# %% [markdown]\n# # 3 Title\n\n# %%\nsetup = 1\n",
        "# %% [markdown]\n# Before.\n#\n# ## 3.1 First\n\n# %%\na = 1\n",
        "# %% [markdown]\n# ### 3.9 not a section\n\n# %%\nb = 1\n",
        "# %% [markdown]\n# ## 3.2 Second\n\n# %%\nc = 1\n",
        "# %% [markdown]\n# ## M.2 Bits\n\n# %%\nm = 1\n",
        "# %% [markdown]\n# ## What was measured\n\n# %%\nd = 1",
    )
    code = {name: [c.source for c in inside if c.kind == "code"] for name, inside in sections(path).items()}
    assert code == {"": ["setup = 1"], "3.1": ["a = 1", "b = 1"], "3.2": ["c = 1"], "M.2": ["m = 1"], "end": ["d = 1"]}
