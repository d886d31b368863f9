"""Figures: the same bytes every time, small, described in words, closed; colours that can be seen."""

import importlib.util
import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.colors import is_color_like, to_rgb
from PIL import Image

from lbdl import color, data, figure, figures, log_scale, use_style


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


def typical():
    """A figure like most: two panels of lines and points, labels, a title, mathematics."""
    fig, (left, right) = plt.subplots(1, 2)
    x = np.linspace(0, 10, 400)
    for k, shade in enumerate((color.data, color.model, color.truth, color.gradient)):
        left.plot(x, np.sin(x + k) * np.exp(-x / 10), color=shade)
        left.text(10, np.sin(10 + k) / 3, f"curve {k}", color=shade)
    left.set(xlabel="steps", ylabel=r"loss $\mathscr{L}(w)$", title="Training")
    noise = np.random.default_rng(0).normal(size=(2, 200))
    right.scatter(*noise, s=8, color=color.data)
    right.set(xlabel="x", ylabel="y", title="Data")
    return fig


def typical_png() -> bytes:
    return figures._sharp(typical())


# The bytes.


def test_a_figure_drawn_twice_is_the_same_bytes_small_with_a_palette_and_without_a_date():
    content = typical_png()
    assert content == typical_png() and len(content) < 45_000
    picture = Image.open(io.BytesIO(content))
    assert picture.mode == "P" and not picture.info.keys() & {"Software", "Creation Time", "date:create"}
    fig = typical()
    fig.axes[0].lines[0].set_linewidth(2.5)
    assert figures._sharp(fig) != content


def shades():
    """A figure of smooth shades, which 256 colours may not be enough for."""
    fig = plt.figure(figsize=(3, 2))
    x, y = np.meshgrid(np.linspace(0, 1, 100), np.linspace(0, 1, 100))
    fig.subplots().imshow(np.stack([x, y, 1 - x * y], -1))
    return fig


@pytest.mark.parametrize("draw", [typical, shades])
def test_the_stored_picture_shows_no_difference_to_what_was_drawn(draw):
    picture = figures.pixels(draw())
    stored = Image.open(io.BytesIO(figures.compact(picture))).convert("RGB")
    change = np.abs(np.asarray(picture, np.int16) - np.asarray(stored, np.int16)).max(-1)
    assert change.max() <= 24
    assert (change > 8).mean() <= 2e-3


def test_a_small_picture_of_many_colours_keeps_them_all():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    stored = Image.open(io.BytesIO(figures.compact(Image.fromarray(noise))))
    assert stored.mode == "RGB" and np.array_equal(np.asarray(stored), noise)


def photograph():
    """A figure with a photograph: more colours than a drawing ever has."""
    fig = plt.figure(figsize=(4, 4))
    fig.subplots().imshow(data.photographs("test").images[0].permute(1, 2, 0).numpy())
    return fig


def test_a_photograph_is_stored_as_jpeg_and_looks_the_same():
    picture = figures.pixels(photograph())
    content = figures.compact(picture)
    stored = Image.open(io.BytesIO(content))
    assert stored.format == "JPEG"
    change = np.abs(np.asarray(picture, np.int16) - np.asarray(stored, np.int16))
    assert change.mean() < 3
    png = io.BytesIO()
    picture.save(png, "png", optimize=True)
    assert len(content) < len(png.getvalue()) / 3


def test_a_picture_is_announced_as_what_it_is(displayed):
    for draw in (typical, photograph):
        figure("1.1", "a caption", "words", draw())
    forms = [set(forms) & {"image/png", "image/jpeg"} for forms, _ in displayed[::2]]
    assert forms == [{"image/png"}, {"image/jpeg"}]
    assert displayed[2][1]["image/jpeg"] == {"width": 400, "height": 400, "alt": "words"}


def test_pixels_are_those_of_the_figure():
    fig = plt.figure(figsize=(2, 1), dpi=50, facecolor=color.model)
    picture = figures.pixels(fig)
    assert picture.size == (100, 50) and picture.mode == "RGB"
    assert {tuple(p) for p in np.asarray(picture).reshape(-1, 3)} == {(0x00, 0x77, 0xBB)}


# What `figure` shows.


def small():
    return plt.figure(figsize=(1, 1))


def test_a_figure_is_shown_with_its_text_size_and_how_it_is_held(displayed):
    small().set_size_inches(6, 3)
    figure("3.2", "What to see.", "A line from\n   0 to 1.", held="trained")
    (picture, metadata), _ = displayed
    assert picture["text/plain"] == "A line from 0 to 1."
    assert metadata["image/png"] == {"width": 600, "height": 300, "alt": "A line from 0 to 1."}
    assert metadata["lbdl"] == {"held": "trained"}
    assert Image.open(io.BytesIO(picture["image/png"])).size == (1200, 600)  # sharp on high-density screens


def test_the_caption_follows_as_text_and_the_description_can_be_unfolded(displayed):
    small()
    figure("3.2", "If x < y & z", "x is 1 < 2")
    _, (caption, _) = displayed
    assert caption["text/plain"] == "Figure 3.2. If x < y & z"
    assert "<b>Figure 3.2.</b> If x &lt; y &amp; z" in caption["text/html"]
    assert "x is 1 &lt; 2</details>" in caption["text/html"]


def test_the_given_figure_is_taken_else_the_current_one_and_closed(displayed):
    first, second, _ = (plt.figure(figsize=(size, 1)) for size in (1, 2, 3))
    figure("1.1", "caption", "words", fig=first)
    figure("1.1", "caption", "words")
    assert [displayed[i][1]["image/png"]["width"] for i in (0, 2)] == [100, 300]
    assert plt.get_fignums() == [second.number]


def test_a_terminal_shows_number_and_words_in_one_line(capsys):
    figure("1.1a", "caption", "words", small())
    assert capsys.readouterr().out == "[Figure 1.1a] words\n"


def test_without_an_open_figure_there_is_nothing_to_show():
    with pytest.raises(ValueError, match=r"figure 1\.1: expected an open figure, and there is none"):
        figure("1.1", "caption", "words")


@pytest.mark.parametrize(
    "caption, alt, held, problem",
    [
        ("caption", "", "exact", "expected a text description, got an empty one"),
        ("caption", " \n ", "exact", "expected a text description, got an empty one"),
        (" ", "words", "exact", "expected a caption, got an empty one"),
        ("caption", "words", "loosely", "expected held to be one of exact, trained, measured, got 'loosely'"),
    ],
)
def test_a_figure_without_words_or_held_in_an_unknown_way_is_refused(caption, alt, held, problem):
    with pytest.raises(ValueError, match=rf"figure 1\.1: {problem}"):
        figure("1.1", caption, alt, small(), held)


# Colours and style.


def roles():
    return {role: shade for role, shade in vars(color).items() if isinstance(shade, str)}


def contrast_with_white(shade):
    """The contrast ratio of the Web Content Accessibility Guidelines, from 1 to 21."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in to_rgb(shade)]
    return 1.05 / (np.dot(linear, (0.2126, 0.7152, 0.0722)) + 0.05)


def test_every_colour_is_one_and_ten_classes_have_ten():
    assert all(is_color_like(shade) for shade in [*roles().values(), *color.classes])
    assert len(set(color.classes)) == 10


# `quiet` is meant to stay in the background, and `input` fills boxes and areas: neither is a colour of text. The
# classes are for points and areas; the words beside them are dark.
@pytest.mark.parametrize("role", sorted(roles().keys() - {"quiet", "input"}))
def test_colours_of_lines_and_labels_stand_out_from_white(role):
    assert contrast_with_white(roles()[role]) >= 3


@pytest.mark.skipif(importlib.util.find_spec("font_source_sans_pro") is None, reason="the font is not installed")
def test_the_font_is_found_where_it_is_installed():
    for weight, style, file in [
        ("normal", "normal", "SourceSansPro-Regular.ttf"),
        ("bold", "normal", "SourceSansPro-Bold.ttf"),
        ("normal", "italic", "SourceSansPro-It.ttf"),
    ]:
        font = font_manager.FontProperties(family=plt.rcParams["font.family"], weight=weight, style=style)
        assert Path(font_manager.findfont(font)).name == file


def test_the_style_is_in_force_and_comes_back_also_without_the_font(monkeypatch):
    assert not plt.rcParams["axes.spines.top"] and plt.rcParams["figure.constrained_layout.use"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with plt.rc_context({"axes.spines.top": True, "font.size": 5}):
        use_style()
        assert not plt.rcParams["axes.spines.top"] and plt.rcParams["font.size"] == 12
        assert "DejaVu Sans" in plt.rcParams["font.family"]


# Logarithmic axes.


@pytest.mark.parametrize("name", ["xaxis", "yaxis"])
def test_a_logarithmic_axis_has_the_ticks_that_were_given_as_plain_numbers(name):
    ax = plt.figure().subplots()
    axis = getattr(ax, name)
    log_scale(axis, [0.01, 1, 200])
    ax.figure.canvas.draw()
    assert axis.get_scale() == "log"
    assert [label.get_text() for label in axis.get_ticklabels()] == ["0.01", "1", "200"]
    assert list(axis.get_minorticklocs()) == []
    other = ax.yaxis if name == "xaxis" else ax.xaxis
    assert other.get_scale() == "linear"


@pytest.mark.parametrize("ticks", [[], [0, 1], [-1, 1]])
def test_ticks_without_a_logarithm_are_refused(ticks):
    with pytest.raises(ValueError, match=r"log_scale: expected ticks above 0, got \["):
        log_scale(plt.figure().subplots().xaxis, ticks)
