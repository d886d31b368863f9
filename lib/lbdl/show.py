"""How the companion puts something under a cell: a part that tests compare, and a part that only people read."""

import html

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
