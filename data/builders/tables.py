"""The penguins, and the two tables of facts that are written by hand."""

import csv
import io
from pathlib import Path

from builders.files import Built, in_hash_order, table
from builders.packages import Source

PENGUINS = Source("pip", "palmerpenguins", "0.1.6", "5c3be9af84dd703a25f1aaeadeac6ac770cfd38c1620d00089f581c023129ee0")
DATA = Path(__file__).resolve().parents[1]


def penguins() -> Built:
    """The penguins whose four measurements are all there, with a split."""
    package = PENGUINS.files()["palmerpenguins/data/penguins.csv"].decode()
    rows = [row for row in csv.DictReader(io.StringIO(package)) if row["body_mass_g"] != "NA"]
    for rank, i in enumerate(in_hash_order(len(rows), "penguins")):
        rows[i]["split"] = "train" if rank < 202 else "validation" if rank < 272 else "test"
    return {"penguins.csv": table(rows)}, {"penguins": len(rows)}


def by_hand(file: str) -> Built:
    """A file that no package holds: it stands in data/ as it was written."""
    content = (DATA / file).read_bytes()
    return {file: content}, {"rows": len(content.decode().splitlines()) - 1}
