"""Figures: one style, one colour for one role, a text description for each, and the same PNG bytes every time."""

import html
import importlib.util
import io
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from PIL import Image

from lbdl.show import HELD, publish

SHARPNESS = 2  # stored pixels per logical pixel, so that figures stay sharp on high-density screens
LOGICAL_DPI = 100  # a figure of 7 inches is shown 700 pixels wide
PALETTE_ERROR, SEEN, SHARE_SEEN = 24, 8, 2e-3  # a palette may move no pixel by over 24 of 255, few by over 8
PHOTOGRAPHIC = 2**14  # a picture of more colours than this holds photographs

# Paul Tol's vibrant and muted schemes: told apart with any colour vision, dark enough for text on white.
color = SimpleNamespace(
    data="#444444",  # what was observed
    model="#0077bb",  # what a model computes
    truth="#009988",  # the ground truth behind the data
    gradient="#e66b22",  # gradients, residuals, steps
    train="#0077bb",  # measured on the training set
    test="#cc3311",  # measured on data never trained on
    input="#33bbee",
    weights="#ee3377",
    output="#5544aa",
    quiet="#bbbbbb",  # context that should stay in the background
    classes=[
        "#332288",
        "#cc6677",
        "#117733",
        "#ddaa33",
        "#88ccee",
        "#882255",
        "#44aa99",
        "#999933",
        "#aa4499",
        "#777777",
    ],
)


def use_style() -> None:
    """Make matplotlib draw in the companion's style; importing lbdl does it."""
    spec = importlib.util.find_spec("font_source_sans_pro")
    if spec is not None:  # without the font, matplotlib's own takes over
        for face in ("Regular", "It", "Bold", "BoldIt"):
            file = Path(spec.submodule_search_locations[0]) / "files" / f"SourceSansPro-{face}.ttf"
            if file.exists():
                font_manager.fontManager.addfont(file)
    plt.style.use(Path(__file__).with_name("style.mplstyle"))


def pixels(fig: Figure) -> Image.Image:
    """Draw a figure and return it as an RGB picture."""
    fig.canvas.draw()
    return Image.fromarray(np.asarray(fig.canvas.buffer_rgba())).convert("RGB")


def compact(picture: Image.Image) -> bytes:
    """A small file, always the same: JPEG where there are photographs in a picture, else PNG."""
    if picture.getcolors(PHOTOGRAPHIC) is not None:
        return png(picture)
    stream = io.BytesIO()
    picture.save(stream, "jpeg", quality=85, subsampling=0, optimize=True)
    return stream.getvalue()


def png(picture: Image.Image) -> bytes:
    """A small PNG: with a palette of 256 colours where nobody sees the difference, else with all; no time stamps."""
    stream = io.BytesIO()
    for rounds in (0, 1):  # of k-means, which finds better colours for smooth shades and takes longer
        small = picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=rounds, dither=Image.Dither.NONE)
        change = np.abs(np.asarray(small.convert("RGB"), np.int16) - np.asarray(picture, np.int16)).max(-1)
        if change.max() <= PALETTE_ERROR and (change > SEEN).mean() <= SHARE_SEEN:
            small.save(stream, "png", optimize=True)
            return stream.getvalue()
    picture.save(stream, "png", optimize=True)
    return stream.getvalue()


def _sharp(fig: Figure) -> bytes:
    fig.set_dpi(LOGICAL_DPI * SHARPNESS)
    return compact(pixels(fig))


def picture_bundle(image: bytes, size: tuple[float, float], alt: str, held: str) -> tuple[dict, dict]:
    """The MIME forms and the display metadata of a picture with its text description."""
    width, height = (round(inches * LOGICAL_DPI) for inches in size)
    form = "image/png" if image.startswith(b"\x89PNG") else "image/jpeg"
    return {form: image}, {form: {"width": width, "height": height, "alt": alt}, "lbdl": {"held": held}}


def figure(number: str, caption: str, alt: str, fig: Figure | None = None, held: str = "exact") -> None:
    """Show a finished figure with number, caption and text description, and close it.

    Args:
        number: the book's number ("1.1"), or section and letter ("1.1a") for a figure that the book does not have.
        caption: what to see in it; Markdown is not interpreted.
        alt: the figure in words with its key numbers, computed: the alternative text for readers who cannot see it,
            and the first thing that the regression test compares.
        fig: the figure; by default the current one.
        held: how tightly the test holds it. "exact": to its pixels, and to the numbers of its description; "trained":
            to its size and to not being blank, because a training ends elsewhere on another processor (claims hold
            its numbers); "measured": not at all, because it shows times. The words are always held.

    Raises:
        ValueError: an unknown `held`, an empty text, or no figure.
    """
    if held not in HELD:
        raise ValueError(f"figure {number}: expected held to be one of {', '.join(HELD)}, got {held!r}")
    if not alt.strip():
        raise ValueError(f"figure {number}: expected a text description, got an empty one")
    if fig is None:
        if not plt.get_fignums():
            raise ValueError(f"figure {number}: expected an open figure, and there is none: draw one first")
        fig = plt.gcf()
    alt = " ".join(alt.split())
    rich, metadata = picture_bundle(_sharp(fig), fig.get_size_inches(), alt, held)
    plt.close(fig)
    publish(alt, rich, metadata, terminal=f"[Figure {number}] {alt}")
    publish_caption(number, caption, alt, held)


def publish_caption(number: str, caption: str, alt: str, held: str) -> None:
    """The line under a picture: its number and caption, and its description folded away.

    Raises:
        ValueError: an empty caption.
    """
    if not caption.strip():
        raise ValueError(f"figure {number}: expected a caption, got an empty one")
    caption = " ".join(caption.split())
    words = f"<b>Figure {html.escape(number)}.</b> {html.escape(caption)}"
    described = f"<details><summary>in words</summary>{html.escape(alt)}</details>"
    publish(
        f"Figure {number}. {caption}",
        {"text/html": f"<div>{words} {described}</div>"},
        {"lbdl": {"held": held}},
        terminal="",
    )


def log_scale(axis: Axis, ticks: list[float]) -> None:
    """Make an axis logarithmic, with plain numbers at the given ticks and nothing between them.

    >>> log_scale(ax.xaxis, [10, 20, 50, 100])

    Raises:
        ValueError: no ticks, or one that has no logarithm.
    """
    if not ticks or min(ticks) <= 0:
        raise ValueError(f"log_scale: expected ticks above 0, got {ticks}")
    set_scale = axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale
    set_scale("log")
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_minor_locator(NullLocator())
