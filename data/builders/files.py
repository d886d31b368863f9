"""Files that come out the same, byte for byte, whenever they are written; and splits that no random state decides."""

import csv
import gzip
import hashlib
import io
import zipfile

import numpy as np

Built = tuple[dict[str, bytes], dict[str, float]]  # files by name, and the numbers that data/README.md says of them


def in_hash_order(count: int, name: str) -> list[int]:
    """A shuffle of range(count) that depends on nothing but the name: by the SHA-256 of name and number."""
    return sorted(range(count), key=lambda i: hashlib.sha256(f"{name} {i}".encode()).digest())


def npz(**arrays: np.ndarray) -> bytes:
    """The bytes of a compressed .npz with fixed dates and order."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(arrays):
            inner = io.BytesIO()
            np.lib.format.write_array(inner, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, inner.getvalue(), compresslevel=9)
    return stream.getvalue()


def table(rows: list[dict]) -> bytes:
    """The bytes of a .csv with a header line, from rows with the same keys."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def gzipped(text: str) -> bytes:
    """The bytes of a .txt.gz without a date or a name inside."""
    return gzip.compress(text.encode(), compresslevel=9, mtime=0)
