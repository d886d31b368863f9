"""How the companion puts something under a cell: a part that tests compare, and a part that only people read."""

import html
from collections.abc import Collection, Sequence

from IPython import get_ipython
from IPython.display import display

HELD = ("exact", "trained", "measured")  # how tightly the tests hold a picture; `figure` says what each means
MEASURED = "lbdl-measured"  # class of the HTML spans that hold what varies between machines; never compared


def in_notebook() -> bool:
    """True when an IPython kernel is there to carry displays (JupyterLab, VS Code, nbval)."""
    return getattr(get_ipython(), "kernel", None) is not None


def measured(text: object) -> str:
    """HTML for a value that differs between machines or runs: a time, a device, the last digits of a training."""
    return f'<span class="{MEASURED}">{html.escape(str(text))}</span>'


def publish(text: str, rich: dict | None = None, metadata: dict | None = None, terminal: str | None = None) -> None:
    """Show `text` under the cell, in a richer form where the front end knows one.

    Args:
        text: the plain text; stable from run to run, it is what tests compare.
        rich: more forms by MIME type, such as {"text/html": …} or {"image/png": bytes}.
        metadata: display metadata by MIME type.
        terminal: what to print instead of `text` when there is no notebook; "" for nothing.
    """
    if in_notebook():
        display({"text/plain": text, **(rich or {})}, metadata=metadata or {}, raw=True)
    elif terminal != "":
        print(text if terminal is None else terminal)


def note(text: str, value: object = None) -> None:
    """One line under the cell: `text` is compared by the tests, `value` only shown.

    >>> note("time of one step", "3.1 ms")
    """
    if value is None:
        publish(text, {"text/html": html.escape(text)})
    else:
        publish(text, {"text/html": f"{html.escape(text)}: {measured(value)}"}, terminal=f"{text}: {value}")


def table(head: Sequence[str], rows: Sequence[Sequence], varies: Collection[str] = ()) -> None:
    """A table under the cell; the columns named in `varies` are shown, and not compared by the tests.

    Raises:
        ValueError: no rows, a row that is shorter or longer than the head, an unknown column in `varies`.
    """
    if not rows or any(len(row) != len(head) for row in rows):
        raise ValueError(f"table: expected rows of {len(head)} values, got {[len(row) for row in rows]}")
    if unknown := set(varies) - set(head):
        raise ValueError(f"table: expected varies to be among {list(head)}, got {sorted(unknown)}")
    left = ' style="text-align:left"'
    cells = [
        [(measured if c in varies else html.escape)(str(v)) for c, v in zip(head, row, strict=True)] for row in rows
    ]
    body = "".join(f"<tr>{''.join(f'<td{left}>{cell}</td>' for cell in row)}</tr>" for row in cells)
    titles = "".join(f"<th{left}>{html.escape(title)}</th>" for title in head)
    compared = [" | ".join(str(v) for c, v in zip(head, row, strict=True) if c not in varies) for row in rows]
    publish(
        "\n".join(compared),
        {"text/html": f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"},
        terminal="\n".join(" | ".join(map(str, row)) for row in rows),
    )
