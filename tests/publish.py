"""Make what is stored: the outputs in the chapters' notebooks, and the concordance with the book.

    python -m tests.publish                all chapters, and chapters/README.md
    python -m tests.publish 04 05          these chapters, and chapters/README.md
    python -m tests.publish 6.3 6.4        set-up and these sections alone; all other outputs stay as they are
    python -m tests.publish --draft 6.3    first move chapters/drafts/06.3.py into its chapter, in the book's order
    python -m tests.publish --fresh 04     also replace outputs that differ by less than the tests would see
    python -m tests.publish --concordance  only chapters/README.md and cover.png, the picture in the project's README

Everything runs twice, side by side: as it is, and with the arithmetic of another processor. Nothing is written while
the two differ by what the tests would see, because that test would then fail elsewhere.

Running it twice without a change changes no byte: cells have ids made from their source, figures are deterministic,
what is live (widgets, progress) is not stored, and outputs that are the same to the regression test stay as they are.
"""

import argparse
import base64
import hashlib
import html
import io
import itertools
import os
import re
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jupytext
import nbformat
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image, ImageOps

from lbdl import chapters, data
from lbdl.bars import VARIABLE
from lbdl.figures import png
from lbdl.show import MEASURED
from tests import running
from tests.compare import UNSTABLE, differences

BOOK = data.FOLDER / "book.yaml"
CELL_TIMEOUT = 600
COVER = (("01", "1.1a"), ("01", "1.2"), ("01", "1.3b"), ("01", "1.4b"))  # the figures on the README's picture
COVER_SIZE = (1600, 900)
OTHER_NUMERICS = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}  # moves what other processors move
SUMMARY = re.compile(r'summary\[f?"(.+?)"\] =')  # a row of the table of what a chapter has trained
CLAIM = re.compile(rf'✓ (.+?)(?:: <b>(.+?)</b>, here &nbsp; <span class="{MEASURED}">(.+?)</span>)?', re.DOTALL)
# A solution's code is folded away, in JupyterLab and in Colab; its tag hide-input does it on a page made by MyST or
# Jupyter Book. VS Code reads no such mark from a file.
FOLDED = {"jupyter": {"source_hidden": True}, "cellView": "form"}
KEPT = ("tags", "lines_to_next_cell")  # of a cell's metadata; with the second, jupytext writes the .py as it was


def book() -> dict:
    """What the book contains: chapters with their sections, figures, tables, equations and index terms."""
    return yaml.safe_load(BOOK.read_text(encoding="utf-8"))


def _with_ids(notebook) -> None:
    """Give each cell an id made from its source, so that ids neither depend on chance nor on the cells around."""
    seen: Counter = Counter()
    for cell in notebook.cells:
        digest = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        seen[digest] += 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"


def stored(output: dict) -> dict | None:
    """An output as it is kept: without live parts; None if nothing is left."""
    if "data" not in output:
        return output
    for form in UNSTABLE:
        output["data"].pop(form, None)
    return output if output["data"] else None


def read(script: Path):
    """A chapter as a notebook without outputs, with the metadata that is stored."""
    notebook = jupytext.read(script)
    _with_ids(notebook)
    pairing = {key: value for key, value in notebook.metadata.jupytext.items() if key != "text_representation"}
    kernel = dict(notebook.metadata.kernelspec)
    notebook.metadata = {"jupytext": pairing, "kernelspec": kernel, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key in KEPT}
        if "solution" in cell.metadata.get("tags", ()):
            cell.metadata.update(FOLDED)
    return notebook


def sections_of(notebook) -> list[str]:
    """The section of each cell, as lbdl.chapters.sections counts them: "" before the first, "end" after the last."""
    found, current = [], ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and re.search(r"^## ", cell.source, re.MULTILINE):
            heading = chapters.SECTION.search(cell.source)
            current = f"{heading[1]}.{heading[2]}" if heading else "end"
        found.append(current)
    return found


def execute(script: Path, sections: Collection[str] = (), numerics: dict[str, str] | None = None, before=None):
    """Run a chapter in a fresh kernel and return it as a notebook with outputs, ready to be stored.

    Args:
        sections: run only the set-up, these, and the table of claims at the end; the other outputs are taken from
            `before`. All, when left out.
        numerics: environment variables that change the arithmetic, such as OTHER_NUMERICS.
        before: the notebook as it is stored.

    Raises:
        ValueError: a cell of another section is not in `before`.
        RuntimeError: a cell failed.
    """
    os.environ[VARIABLE] = "0"
    notebook = read(script)
    wanted = [not sections or place in ("", "end", *sections) for place in sections_of(notebook)]
    _take([cell for cell, run in zip(notebook.cells, wanted, strict=True) if not run], before)
    part = nbformat.v4.new_notebook(metadata=notebook.metadata)
    part.cells = _to_run(notebook, wanted, before)
    client = NotebookClient(
        part,
        kernel_name="python3",
        timeout=CELL_TIMEOUT,
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],  # else every kernel warns that it listens on a port of this machine
        resources={"metadata": {"path": str(script.parent)}},
    )
    try:
        client.execute(env={**os.environ, **(numerics or {})})
    except CellExecutionError as error:  # it cannot come back from another process as it is
        raise RuntimeError(f"{script.name}, with {numerics or 'the numerics of this machine'}: {error}") from None
    ran = {cell.id for cell, run in zip(notebook.cells, wanted, strict=True) if run}
    for count, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        cell.execution_count = count
        for output in cell.outputs:  # a result repeats the number of its cell
            if "execution_count" in output:
                output["execution_count"] = count
        cell.metadata.pop("execution", None)
        if cell.id in ran:
            cell.outputs = [kept for output in cell.outputs if (kept := stored(output))]
    return notebook


def _take(cells: list, before) -> None:
    """Give cells that do not run the outputs that are stored for them."""
    earlier = {cell.id: cell for cell in before.cells} if before else {}
    for cell in cells:
        if cell.cell_type == "code":
            if cell.id not in earlier:
                raise ValueError(f"a cell of another section is new: run make outputs for it, too.\n{cell.source}")
            cell.outputs = earlier[cell.id].outputs


def _to_run(notebook, wanted: list[bool], before) -> list:
    """The cells that run; in place of those that do not, one that tells the tables at the end what those would."""
    cells, left_out = [], nbformat.v4.new_notebook()
    for cell, run in zip(notebook.cells, wanted, strict=True):
        if run and left_out.cells:
            claimed = {s: c for claims in claims_stored(left_out).values() for s, c in claims.items()}
            told = [f"import lbdl.claims\nlbdl.claims.made.update({claimed!r})"]
            if trained := trained_stored(left_out.cells, before):
                told.append(f"summary.update({trained!r})")
            cells.append(nbformat.v4.new_code_cell("\n".join(told)))
            left_out.cells = []
        (cells if run else left_out.cells).append(cell)
    return cells


def trained_stored(cells: list, before) -> dict[str, tuple]:
    """What these cells write into their chapter's `summary` (name -> parameters, multiplications, seconds, results),
    as the table of what was trained, which is made of it, is stored."""
    names = [name for cell in cells for name in SUMMARY.findall(cell.source)]
    patterns = [re.sub(r"\\{.*?\\}", ".+", re.escape(name)) for name in names]  # of an f-string anything fits
    tables = [cell for cell in before.cells if "in summary.items()" in cell.source] if before else []
    pages = [output.get("data", {}).get("text/html", "") for cell in tables for output in cell.outputs]
    found = {}
    for row in re.findall(r"<tr>(<td.*?)</tr>", "".join(pages)):
        values = [html.unescape(re.sub(r"<.*?>", "", cell)) for cell in re.findall(r"<td.*?</td>", row)]
        name, parameters, multiplications, seconds, *results = values
        if any(re.fullmatch(pattern, name) for pattern in patterns):
            counts = (int(number.replace(",", "")) for number in (parameters, multiplications))
            found[name] = (*counts, float(seconds), *results)
    return found


def claims_stored(notebook) -> dict[str, dict[str, tuple[str, str]]]:
    """Section -> statement -> (bar, measured value as text) of the claims whose outputs a notebook stores."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for cell, section in zip(notebook.cells, sections_of(notebook), strict=True):
        for output in cell.get("outputs", []) if "exercise" not in cell.metadata.get("tags", ()) else ():
            if match := CLAIM.fullmatch(output.get("data", {}).get("text/html", "")):
                bar, value = (match[2], match[3]) if match[2] else ("true", "true")
                found.setdefault(section, {})[html.unescape(match[1])] = html.unescape(bar), html.unescape(value)
    return found


def keep_what_is_the_same(notebook, before) -> list[str]:
    """Put back the earlier outputs of cells whose source and outputs did not change; return messages on the others."""
    earlier = {cell.id: cell for cell in before.cells if cell.cell_type == "code"}
    changed = []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        if cell.id not in earlier:
            changed.append(f"new: {cell.source.splitlines()[0]}")
        elif found := differences(earlier[cell.id].outputs, cell.outputs):
            changed.append(f"changed: {cell.source.splitlines()[0]}\n    {found[0]}")
        else:
            cell.outputs = earlier[cell.id].outputs
            for output in cell.outputs:  # a result repeats the number of its cell, which may have moved
                if "execution_count" in output:
                    output["execution_count"] = cell.execution_count
    return changed


def disagreements(notebook, other) -> list[str]:
    """What the tests would see between two runs of a notebook, a message for each cell."""
    pairs = zip(notebook.cells, other.cells, strict=True)
    found = [(a.source, differences(a.outputs, b.outputs)) for a, b in pairs if a.cell_type == "code"]
    return [f"{source.splitlines()[0]} … {source.splitlines()[-1]}\n    {told[0]}" for source, told in found if told]


def write(script: Path, fresh: bool = False, sections: Collection[str] = ()) -> None:
    """Execute a chapter, or some sections of it, with two kinds of arithmetic, and write its .ipynb.

    Raises:
        SystemExit: the two runs differ by what the tests would see; nothing is written.
    """
    target = script.with_suffix(".ipynb")
    before = nbformat.read(target, as_version=4) if target.exists() else None
    with ProcessPoolExecutor(2) as pool:
        runs = [pool.submit(execute, script, sections, numerics, before) for numerics in ({}, OTHER_NUMERICS)]
        notebook, other = (run.result() for run in runs)
    if found := disagreements(notebook, other):
        listed = "\n  ".join(found)
        raise SystemExit(f"{target.name} depends on the processor: round it, or hold it as trained\n  {listed}")
    if before and not fresh:
        for message in keep_what_is_the_same(notebook, before):
            print(f"  {message}")
    nbformat.validate(notebook)
    nbformat.write(notebook, target)
    print(f"{target.name}: {target.stat().st_size / 1e6:.2f} MB")


def place_draft(section: str) -> Path:
    """Move a draft into its chapter, in the book's order, in place of the section if it is there; return the chapter.

    A draft of the chapter's frame, chapters/drafts/06.py with title, table, set-up and what comes last, begins a new
    chapter, and replaces the frame of one that is there.

    Raises:
        SystemExit: there is no such draft, it is not that section, or the chapter's beginning is missing.
    """
    draft = running.draft_of(section)
    chapter = next(c for c in book()["chapters"] if section in c["sections"])
    script = chapters.FOLDER / f"{chapter['notebook']}.py"
    if not draft.exists():
        raise SystemExit(f"expected a draft {draft.relative_to(chapters.FOLDER.parent)}, found none")
    if (inside := running.sections(draft)) != [section]:
        raise SystemExit(f"{draft.name}: expected the section {section} and nothing else, found {inside}")
    frame = running.front_of(section)
    if not script.exists() and not frame.exists():
        raise SystemExit(f"expected {script.name}, or its frame as a draft {frame.name}, found neither")
    parts = _split(script.read_text(encoding="utf-8")) if script.exists() else {}
    if frame.exists():
        parts |= _split(frame.read_text(encoding="utf-8"))
    parts[section] = "# %% [markdown]\n" + draft.read_text(encoding="utf-8").split("# %% [markdown]\n", 1)[1]
    order = ["", *chapter["sections"], "end"]
    kept = [parts[name].strip("\n") for name in order if name in parts]
    script.write_text("\n\n".join(kept) + "\n", encoding="utf-8")
    for moved in (draft, frame):  # only now: nothing is lost if something above fails
        moved.unlink(missing_ok=True)
    return script


def _split(text: str) -> dict[str, str]:
    """The text of a percent script by section, as lbdl.chapters.sections names them."""
    found, current = {"": ""}, ""
    for part in re.split(r"(?m)^(?=# %% \[markdown\]\n)", text):
        if re.match(r"# %% \[markdown\]\n# ## ", part):
            heading = chapters.SECTION.search(part.split("\n")[1].removeprefix("# "))
            current = f"{heading[1]}.{heading[2]}" if heading else "end"
        found[current] = found.get(current, "") + part
    return found


def picture_of(number: str, figure: str) -> Image.Image:
    """A stored picture of a chapter: the one above the caption "Figure …".

    Raises:
        ValueError: the chapter stores no such figure.
    """
    notebook = nbformat.read(chapters.path_of(number).with_suffix(".ipynb"), as_version=4)
    for cell in notebook.cells:
        outputs = [output.data for output in cell.get("outputs", []) if "data" in output]
        for picture, caption in itertools.pairwise(outputs):
            if caption.get("text/plain", "").startswith(f"Figure {figure}. "):
                return Image.open(io.BytesIO(base64.b64decode(picture["image/png"]))).convert("RGB")
    raise ValueError(f"chapter {number} stores no figure {figure}: run make outputs CHAPTER={number}")


def cover() -> bytes:
    """The README's picture: four figures of the chapters on one page."""
    page = Image.new("RGB", COVER_SIZE, "white")
    wide, high = COVER_SIZE[0] // 2, COVER_SIZE[1] // 2
    for place, (number, figure) in enumerate(COVER):
        picture = ImageOps.contain(picture_of(number, figure), (wide - 60, high - 60), Image.Resampling.LANCZOS)
        left, top = place % 2 * wide, place // 2 * high
        page.paste(picture, (left + (wide - picture.width) // 2, top + (high - picture.height) // 2))
    return png(page)


def _places(script: Path) -> dict[str, tuple[str, int]]:
    """Section or tag -> (heading of its section, line in the script)."""
    found: dict[str, tuple[str, int]] = {}
    for section, inside in chapters.sections(script).items():
        heading = chapters.SECTION.search(inside[0].source) if inside else None
        if heading is None:
            continue
        title = f"{section} {heading[3]}"
        found[section] = (title, inside[0].line)
        for cell in inside:
            for tag in cell.tags:
                found.setdefault(tag, (title, cell.line))
    return found


def concordance() -> str:
    """chapters/README.md: where each section, figure, equation, table and term of the book is in the notebooks."""
    contents = book()
    parts = [
        "# Concordance with the book\n",
        "Made by `make outputs` from `data/book.yaml` and the chapters; do not edit. Section numbers are the book's, "
        "and link to the notebook; figures, equations and tables link to the line of the script that computes them. "
        "What they compute with is in [The data](00_the_data.ipynb).\n",
    ]
    index: list[tuple[str, str]] = []
    for chapter in contents["chapters"]:
        script = chapters.FOLDER / f"{chapter['notebook']}.py"
        if not script.with_suffix(".ipynb").exists():  # running.PAIRED may be older than what was just published
            sections = ", ".join(f"{section} {title}" for section, title in chapter["sections"].items())
            parts.append(f"## {chapter['id']} {chapter['title']}\n\nTo come: {sections}.\n")
            continue
        places = _places(script)

        def to_section(section: str, script=script, places=places) -> str:
            title = places[section][0]
            return f"[{title}]({script.stem}.ipynb#{title.replace(' ', '-')})"

        def to_lines(kind: str, section: str, script=script, places=places) -> str:
            keys = [key for key in contents[kind] if places.get(f"{kind[:-1]}-{key}", ("",))[0] == places[section][0]]
            return ", ".join(f"[{key}]({script.name}#L{places[f'{kind[:-1]}-{key}'][1]})" for key in keys)

        parts.append(
            f"## {chapter['id']} {chapter['title']}\n\n| section | figures | equations | tables |\n|---|---|---|---|"
        )
        for section, title in chapter["sections"].items():
            if section not in places:
                parts.append(f"| {section} {title}: to come | | | |")
                continue
            row = [to_section(section), *(to_lines(kind, section) for kind in ("figures", "equations", "tables"))]
            parts.append(f"| {' | '.join(row)} |")
            index += [(term, to_section(section)) for term in contents["index"].get(section, [])]
        parts.append("")
    parts.append("## Index of terms\n\n| term | where it is explained |\n|---|---|")
    parts += [f"| {term} | {link} |" for term, link in sorted(index, key=lambda entry: entry[0].lower())]
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chosen", nargs="*", metavar="CHAPTER or SECTION", help="such as 04 or 6.3; all when left out")
    parser.add_argument("--draft", action="store_true", help="the section is a draft: move it into its chapter first")
    parser.add_argument("--fresh", action="store_true", help="keep no earlier outputs that the tests hold for the same")
    parser.add_argument("--concordance", action="store_true", help="only write chapters/README.md")
    asked = parser.parse_args()
    if not asked.concordance:
        chosen: dict[Path, list[str]] = {}  # chapter -> its sections; none for all
        for name in asked.chosen or [script.name[:2] for script in running.PAIRED]:
            script = place_draft(name) if asked.draft else chapters.path_of(running.chapter_of(name))
            chosen.setdefault(script, []).extend([name] if "." in name else [])
        for script, sections in chosen.items():
            write(script, asked.fresh, sections)
    (chapters.FOLDER / "cover.png").write_bytes(cover())
    (chapters.FOLDER / "README.md").write_text(concordance(), encoding="utf-8")


if __name__ == "__main__":
    main()
