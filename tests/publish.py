"""Make what is stored: the outputs in the chapters' notebooks, and the concordance with the book.

    python -m tests.publish                all chapters, and chapters/README.md
    python -m tests.publish 04 05          these chapters, and chapters/README.md
    python -m tests.publish --fresh 04     also replace outputs that differ by less than the tests would see
    python -m tests.publish --concordance  only chapters/README.md and cover.png, the picture in the project's README

Running it twice without a change changes no byte: cells have ids made from their source, figures are deterministic,
what is live (widgets, progress) is not stored, and outputs that are the same to the regression test stay as they are.
"""

import argparse
import base64
import hashlib
import io
import itertools
import os
from collections import Counter
from pathlib import Path

import jupytext
import nbformat
import yaml
from nbclient import NotebookClient
from PIL import Image, ImageOps

from lbdl import chapters, data
from lbdl.bars import VARIABLE
from lbdl.figures import png
from tests.compare import UNSTABLE, differences

BOOK = data.FOLDER / "book.yaml"
CELL_TIMEOUT = 120
COVER = (("01", "1.1a"), ("01", "1.2"), ("01", "1.3b"), ("01", "1.4b"))  # the figures on the README's picture
COVER_SIZE = (1600, 900)
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


def execute(script: Path):
    """Run a chapter in a fresh kernel and return it as a notebook with outputs, ready to be stored."""
    notebook = jupytext.read(script)
    _with_ids(notebook)
    os.environ[VARIABLE] = "0"
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=CELL_TIMEOUT,
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(script.parent)}},
    )
    client.execute()
    pairing = {key: value for key, value in notebook.metadata.jupytext.items() if key != "text_representation"}
    kernel = dict(notebook.metadata.kernelspec)
    notebook.metadata = {"jupytext": pairing, "kernelspec": kernel, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key in KEPT}
        if "solution" in cell.metadata.get("tags", ()):
            cell.metadata["jupyter"] = {"source_hidden": True}
        if cell.cell_type == "code":
            cell.outputs = [kept for output in cell.outputs if (kept := stored(output))]
    return notebook


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


def write(script: Path, fresh: bool) -> None:
    """Execute a chapter and write its .ipynb."""
    target = script.with_suffix(".ipynb")
    notebook = execute(script)
    if target.exists() and not fresh:
        for message in keep_what_is_the_same(notebook, nbformat.read(target, as_version=4)):
            print(f"  {message}")
    nbformat.validate(notebook)
    nbformat.write(notebook, target)
    print(f"{target.name}: {target.stat().st_size / 1e6:.2f} MB")


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
        if not script.exists():
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
        for section in chapter["sections"]:
            row = [to_section(section), *(to_lines(kind, section) for kind in ("figures", "equations", "tables"))]
            parts.append(f"| {' | '.join(row)} |")
            index += [(term, to_section(section)) for term in contents["index"].get(section, [])]
        parts.append("")
    parts.append("## Index of terms\n\n| term | where it is explained |\n|---|---|")
    parts += [f"| {term} | {link} |" for term, link in sorted(index, key=lambda entry: entry[0].lower())]
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", metavar="CHAPTER", help="two digits, such as 04; all when left out")
    parser.add_argument(
        "--fresh", action="store_true", help="do not keep earlier outputs that the tests hold for the same"
    )
    parser.add_argument("--concordance", action="store_true", help="only write chapters/README.md")
    chosen = parser.parse_args()
    if not chosen.concordance:
        for script in [chapters.path_of(n) for n in chosen.numbers] or sorted(chapters.FOLDER.glob("[0-9][0-9]_*.py")):
            write(script, chosen.fresh)
    (chapters.FOLDER / "cover.png").write_bytes(cover())
    (chapters.FOLDER / "README.md").write_text(concordance(), encoding="utf-8")


if __name__ == "__main__":
    main()
