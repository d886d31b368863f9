"""Widgets: controls that refuse wrong values, and pictures that are the same whichever way the sliders were moved."""

import asyncio
import functools
import io

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.image import AxesImage
from PIL import Image

from lbdl import choice, explore, slider, toggle, widgets
from lbdl import words as words_to_type
from lbdl.widgets import Canvas, Explorer

# Controls.


@pytest.mark.parametrize(
    "make, arguments, kind, words",
    [
        (slider, (5, 5, 5), ValueError, "expected low < high, got an empty range from 5 to 5"),
        (slider, (float("nan"), 5, 5), ValueError, "expected low < high"),
        (slider, (0, 5, 6), ValueError, "expected a value from 0 to 5, got 6"),
        (slider, (0, 5, -0.1), ValueError, r"expected a value from 0 to 5, got -0\.1"),
        (slider, (0, 5, float("nan")), ValueError, "expected a value from 0 to 5, got nan"),
        (slider, (0, 5, 1, 0), ValueError, "expected a step above 0, got 0"),
        (slider, (0, 5, 1, -1), ValueError, "expected a step above 0, got -1"),
        (slider, (0, 5, 1, None, True), ValueError, "expected low > 0 with log=True, got 0"),
        (slider, (0, 10, 3, 2), ValueError, "expected a value on a step of 2 from 0, got 3"),
        (slider, (0.0, 1.0, 0.123), ValueError, r"expected a value on a step of 0\.01 from 0, got 0\.123"),
        (slider, (1, 100, 3, None, True), ValueError, r"expected a value on a step of 0\.05 from 0, got 0\.47"),
        (choice, ([],), ValueError, "expected at least one option, got none"),
        (choice, (["a", "b"], "c"), ValueError, r"expected one of \['a', 'b'\], got 'c'"),
        (toggle, (1,), TypeError, "expected True or False, got 1"),
        (toggle, (None,), TypeError, "expected True or False, got None"),
        (words_to_type, (1, ["a"]), TypeError, "expected texts, got 1"),
        (words_to_type, ("a", ["b", None]), TypeError, "expected texts, got None"),
    ],
)
def test_a_control_refuses_what_makes_no_sense(make, arguments, kind, words):
    with pytest.raises(kind, match=f"^{make.__name__}: {words}"):
        make(*arguments)


@pytest.mark.parametrize(
    "control, kind, step",
    [
        (slider(1, 9, 3), int, 1),
        (slider(1, 9, 3, step=2), int, 2),
        (slider(1, 9, 3, step=0.5), float, 0.5),
        (slider(1, 100, 10, log=True), float, 0.05),
        (slider(0.1, 10, 1, step=0.2, log=True), float, 0.2),
        (slider(0.0, 1, 0), float, 0.01),
        (slider(0.0, 5.0, 0.0), float, 0.05),
        (slider(-1.0, 1.0, -1.0), float, 0.02),
        (slider(0.0, 7.0, 0.0), float, 0.05),
        (slider(0.0, 0.3, 0.0), float, 0.002),
        (slider(0.0, 1000.0, 0.0), float, 10),
    ],
)
def test_a_slider_is_whole_only_if_all_its_numbers_are_and_makes_a_hundred_round_steps_or_more(control, kind, step):
    knob = control.make()
    assert type(knob.value) is kind and knob.step == pytest.approx(step)


@pytest.mark.parametrize(
    "control",
    [
        slider(1, 9, 3),
        slider(0, 100, 14, step=7),
        slider(-1.0, 1.0, 0.24),
        slider(0.0, 1.0, 0.35, step=0.07),
        slider(3e-4, 1.0, 3e-4, log=True),
        slider(1, 1000, 10, log=True),
        choice(["relu", "tanh"], "tanh"),
        choice([1, 2, 4]),
        choice([(3, 3), (5, 5)]),  # kernel sizes, which ipywidgets alone would take for labels and values
        toggle(True),
        words_to_type("a cat", ["", "two dogs", "ü < 3"]),
    ],
)
def test_a_control_starts_at_its_value_and_takes_each_of_its_samples(control):
    knob = control.make(description="name")
    assert knob.value == (pytest.approx(control.value) if isinstance(control.value, float) else control.value)
    for sample in control.samples:
        knob.value = sample
        assert knob.value == (pytest.approx(sample) if isinstance(sample, float) else sample)


@pytest.mark.parametrize(
    "control, samples",
    [
        (slider(1, 9, 3), [1, 5, 9]),
        (slider(-1.0, 1.0, 0.24), [-1, 0, 1]),
        (slider(0.01, 100, 1, log=True), [0.01, 1, 100]),
        (choice(["a", "b", "c"]), ["a", "b", "c"]),
        (toggle(), [True, False]),
    ],
)
def test_the_samples_of_a_slider_are_its_ends_and_its_middle_and_of_others_all(control, samples):
    assert control.samples == pytest.approx(samples)


def test_by_default_a_choice_starts_at_the_first_option_and_a_toggle_is_off():
    assert choice(["a", "b", "c"]).value == "a" and toggle().value is False


def test_a_line_to_type_in_sends_every_letter():
    assert words_to_type("a", ["b"]).make().continuous_update


# Canvas: scenes of all that may move. Each takes values of `a` from 0 to 1; what moves lies above what does not.

X = np.linspace(0, 1, 40)
PICTURE = np.outer(X, X)
SIZE, DPI = (3, 2), 60


def one_axes(fig):
    ax = fig.subplots()
    ax.set(xlim=(-0.5, 1.5), ylim=(-0.5, 1.5))
    return ax


SCENES = []


def scene(draw):
    """Adds the words that every update must return."""

    @functools.wraps(draw)
    def with_words(fig):
        update = draw(fig)
        return lambda a: f"moved: {update(a)}"

    SCENES.append(with_words)
    return with_words


@scene
def lines(fig):
    ax = one_axes(fig)
    (first,), (second,) = ax.plot(X, X), ax.plot(X, 1 - X)
    return lambda a: (first.set_data(X, a * X), second.set_ydata(1 - a * X))


@scene
def points(fig):
    dots = one_axes(fig).scatter(X, X)
    return lambda a: (dots.set_offsets(np.c_[X, a * X]), dots.set_sizes([5 + 30 * a]))


@scene
def colours_of_points(fig):
    dots = one_axes(fig).scatter(X, X, c=X, vmin=0, vmax=1)
    return lambda a: dots.set_array(a * X)


@scene
def image(fig):
    ax = fig.subplots()
    ax.axis("off")
    shown = ax.imshow(PICTURE, vmin=0, vmax=1)
    return lambda a: shown.set_data(a * PICTURE)


@scene
def mesh(fig):
    shown = one_axes(fig).pcolormesh(X, X, PICTURE, vmin=0, vmax=1)
    return lambda a: shown.set_array(a * PICTURE)


@scene
def image_whose_colour_bar_follows(fig):
    ax = fig.subplots()
    ax.axis("off")
    shown = ax.imshow(PICTURE)
    fig.colorbar(shown).outline.set_visible(False)
    return lambda a: (shown.set_data((1 + a) * PICTURE), shown.autoscale())


@scene
def label_and_title(fig):
    ax = one_axes(fig)
    label = ax.text(0.2, 0.2, "")
    return lambda a: (label.set_text(f"a = {a}" if a else ""), ax.set_title(f"title {a}"))


@scene
def bars(fig):
    patches = one_axes(fig).bar([0, 0.5, 1], [0.1, 0.1, 0.1], width=0.2)
    return lambda a: [patch.set_height(a * height) for height, patch in zip((0.2, 0.5, 0.9), patches, strict=True)]


@scene
def area_and_arrow(fig):
    ax = one_axes(fig)
    filled = ax.fill_between(X, 0 * X, X)
    arrow = ax.annotate("", (1, 1), (0, 0), arrowprops={"arrowstyle": "->"})
    return lambda a: (filled.set_data(X, 0 * X, a * X), setattr(arrow, "xy", (a, 1.2)))


@scene
def added_and_removed(fig):
    ax, drawn = one_axes(fig), []

    def update(a):
        while drawn:
            drawn.pop().remove()
        drawn.extend(ax.plot(X, X * k / 8, color="black")[0] for k in range(round(8 * a)))

    return update


@scene
def sometimes_there(fig):
    ax, drawn = one_axes(fig), []
    (line,) = ax.plot(X, X)
    ax.plot(X, 1.2 + 0 * X)

    def update(a):
        line.set_ydata(a * X)
        if a < 0.5 and not drawn:
            drawn.append(ax.text(0, 1, "less than a half"))
        elif a >= 0.5 and drawn:
            drawn.pop().remove()

    return update


@scene
def hidden_and_shown(fig):
    ax = one_axes(fig)
    (line,) = ax.plot(X, X)
    return lambda a: line.set_visible(a > 0.5)


@scene
def order(fig):
    ax = one_axes(fig)
    (thick,), (thin,) = ax.plot(X, X, linewidth=9), ax.plot(X, X, linewidth=3)
    return lambda a: (thick.set_zorder(3 + a), thin.set_zorder(4 - a))


@scene
def moves_only_above_a_half(fig):
    ax = one_axes(fig)
    (first,), (second,) = ax.plot(X, X), ax.plot(X, 1.2 + 0 * X)

    def update(a):
        first.set_ydata(a * X)
        if second.get_ydata()[-1] != 1.2 + round(a) / 5:
            second.set_ydata(1.2 + round(a) / 5 + 0 * X)

    return update


@scene
def limits(fig):
    ax = fig.subplots()
    (line,) = ax.plot(X, X)
    return lambda a: (line.set_ydata((1 + 9 * a) * X), ax.set(xlim=(-0.5, 1.5 + a), ylim=(-1, 2 + 9 * a)))


@scene
def limits_that_follow(fig):
    ax = fig.subplots()
    ax.margins(0.2)
    (line,) = ax.plot(X, X)  # matplotlib computes the limits only when it draws
    return lambda a: (line.set_ydata((1 + 9 * a) * X), ax.relim(), ax.autoscale())


@scene
def ticks_and_labels(fig):
    ax = one_axes(fig)
    return lambda a: (ax.set_xlabel(f"label {a}"), ax.set_yticks([0, 1], ["none", f"{a}"]))


@scene
def around_the_axes(fig):
    top = fig.suptitle("")
    one_axes(fig).text(0, 0, "fixed")
    aside = fig.text(0.5, 0.5, "")
    return lambda a: (top.set_text(f"title {a}"), aside.set_text(f"a = {a}"))


@scene
def legend(fig):
    ax = one_axes(fig)
    ax.plot(X, X, label="line")
    text = ax.legend(loc="upper left").get_texts()[0]
    return lambda a: text.set_text(f"a = {a}")


@scene
def ground_and_frame(fig):
    ax = one_axes(fig)
    left, bottom = ax.spines["left"], ax.spines["bottom"]
    return lambda a: (ax.set_facecolor((1, 1, a)), left.set_visible(a > 0.5), bottom.set_color((a, 0, 0)))


@scene
def two_axes_of_which_one_comes_and_goes(fig):
    left, right = fig.subplots(1, 2)
    for ax in (left, right):
        ax.set(xlim=(-0.5, 1.5), ylim=(-0.5, 1.5))
    (first,), (second,) = left.plot(X, X), right.plot(X, X)
    return lambda a: (first.set_ydata(a * X), second.set_ydata(1 - a * X), right.set_visible(a > 0.4))


@scene
def axes_in_axes(fig):
    ax = one_axes(fig)
    ax.plot(X, X)
    inset = ax.inset_axes([0.1, 0.6, 0.3, 0.3])
    (line,) = inset.plot(X, X)
    return lambda a: (line.set_ydata(a * X), inset.set_ylim(-0.1, 1 + a))


@scene
def seen_from_around(fig):
    ax = fig.add_subplot(projection="3d")
    (line,) = ax.plot(X, X, X)
    return lambda a: (line.set_data_3d(X, X, a * X), ax.view_init(30, 90 * a))


START, MOVES = 0.25, (0.25, 1.0, 0.0, 0.25, 1.0)


def drawn(canvas, a):
    return np.asarray(canvas.draw({"a": a}))


def pixels_that_differ(one, other):
    return (one != other).any(-1).sum()


def drawn_plainly(scene, *values):
    """What matplotlib itself draws for each value, all of it anew each time."""
    canvas = Canvas(scene, SIZE, DPI, {"a": START})
    for a in values:
        canvas.update(a=a)
        canvas.fig.canvas.draw()
        yield np.array(canvas.fig.canvas.buffer_rgba())[..., :3]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_a_moved_picture_is_the_one_drawn_anew_pixel_for_pixel(scene):
    moved = Canvas(scene, SIZE, DPI, {"a": START})
    drawn_anew = list(drawn_plainly(scene, *MOVES))
    for step, a in enumerate(MOVES):
        assert pixels_that_differ(drawn(moved, a), drawn_anew[step]) == 0, f"after move {step}, to {a}"
    fresh = Canvas(scene, SIZE, DPI, {"a": START})
    assert pixels_that_differ(drawn(moved, 0.75), drawn(fresh, 0.75)) == 0, "from a fresh canvas"
    assert pixels_that_differ(drawn_anew[1], drawn_anew[0]) > 0  # the scene does move


def test_what_update_leaves_alone_is_not_drawn_again(monkeypatch):
    def scene(fig):
        ax = one_axes(fig)
        ax.imshow(PICTURE)
        ax.scatter(X, X, c=X)
        (line,) = ax.plot(X, X)

        def update(a):
            line.set_ydata(a * X)
            return "a line over a picture"

        return update

    canvas = Canvas(scene, SIZE, DPI, {"a": START})
    canvas.draw({"a": START})
    drawn_again = []
    for kind in (AxesImage, PathCollection):
        monkeypatch.setattr(kind, "draw", lambda self, renderer: drawn_again.append(self))
    monkeypatch.setattr(FigureCanvasAgg, "draw", lambda self: drawn_again.append(self))  # axes and all
    for a in MOVES:
        canvas.draw({"a": a})
    assert not drawn_again


def test_a_drawing_fails_until_its_cause_is_gone_and_is_right_then():
    def scene(fig):
        ax = one_axes(fig)
        (line,) = ax.plot(X, X)

        def update(a):
            line.set_ydata(a * X)
            if a == 0.5:
                ax.set(xlim=(-0.5, 2), ylabel=r"$\frac$")  # no mathematics: matplotlib raises when it draws it
            elif a == 1:
                ax.set(xlim=(-0.5, 2), ylabel="")
            return "words"

        return update

    canvas = Canvas(scene, SIZE, DPI, {"a": START})
    drawn(canvas, START)
    for a in (0.5, 0.75):
        with pytest.raises(ValueError, match="frac"):
            canvas.draw({"a": a})
    (drawn_anew,) = drawn_plainly(scene, 1.0)
    assert pixels_that_differ(drawn(canvas, 1.0), drawn_anew) == 0


def test_a_picture_has_the_size_that_was_asked_for():
    assert Canvas(lines, (3.337, 2.111), 100, {"a": START}).draw({"a": START}).size == (333, 211)


# The live widget.


def wave(fig):
    (line,) = one_axes(fig).plot(X, X)

    def update(height, sign="+"):
        if height > 0.9:
            raise ValueError(f"a height of {height} > 0.9")
        line.set_ydata(X * height * (1 if sign == "+" else -0.3))
        return f"a line that rises <by> {sign}{height:.1f}"

    return update


@pytest.fixture
def live():
    """An explorer, its sliders by name, its picture and its words."""
    explorer = Explorer(wave, SIZE, {"height": slider(0.0, 1.0, 0.5), "sign": choice(["+", "-"])})
    box, picture, words = explorer.live(explorer.still()).children
    return explorer, {knob.description: knob for knob in box.children}, picture, words


def opened(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_a_live_widget_starts_with_the_still_picture(live):
    explorer, _, picture, words = live
    assert bytes(picture.value) == explorer.still()
    assert words.value == "a line that rises &lt;by&gt; +0.5"
    assert explorer.quick is None  # nothing is drawn twice before the first move


def test_moving_a_control_changes_picture_and_words(live):
    explorer, knobs, picture, words = live
    knobs["height"].value = 0.8
    assert words.value == "a line that rises &lt;by&gt; +0.8"
    first = opened(picture.value)
    fresh = explorer.coarse()
    assert pixels_that_differ(first, np.asarray(fresh.draw({"height": 0.8, "sign": "+"}))) == 0
    knobs["sign"].value = "-"
    assert words.value == "a line that rises &lt;by&gt; -0.8"
    assert pixels_that_differ(opened(picture.value), first) > 0


def test_what_update_prints_stands_under_the_sliders(capsys):
    def scene(fig):
        (line,) = fig.subplots().plot([0, 1], [0, 0])

        def update(height):
            print(f"<height> is {height}")
            line.set_ydata([0, height])
            return "a line that rises to the right"

        return update

    explorer = Explorer(scene, SIZE, {"height": slider(0.0, 1.0, 0.5)})
    box, _, words = explorer.live(explorer.still()).children
    capsys.readouterr()
    box.children[0].value = 0.75
    assert words.value == "a line that rises to the right<pre>&lt;height&gt; is 0.75\n</pre>"
    assert capsys.readouterr().out == ""


def test_an_error_in_update_is_shown_in_words_and_the_next_move_recovers(live):
    _, knobs, picture, words = live
    knobs["height"].value = 0.2
    before = bytes(picture.value)
    knobs["height"].value = 1.0
    assert "ValueError: a height of 1.0 &gt; 0.9" in words.value
    assert bytes(picture.value) == before
    knobs["height"].value = 0.2
    assert words.value == "a line that rises &lt;by&gt; +0.2"
    assert bytes(picture.value) == before


def test_after_a_rest_the_picture_is_drawn_in_full_sharpness_once(live, monkeypatch):
    explorer, knobs, picture, _ = live
    monkeypatch.setattr(widgets, "REST", 0.02)
    drawings = []
    draw = explorer.sharp.draw_all
    monkeypatch.setattr(explorer.sharp, "draw_all", lambda values: drawings.append(dict(values)) or draw(values))

    async def move_twice_and_rest():
        knobs["height"].value = 0.7
        knobs["height"].value = 0.8
        quick = opened(picture.value).shape
        await asyncio.sleep(0.1)
        return quick

    quick = asyncio.run(move_twice_and_rest())
    assert quick == (200, 300, 3) and opened(picture.value).shape == (400, 600, 3)
    assert drawings == [{"height": 0.8, "sign": "+"}]


def test_the_coarse_picture_has_its_axes_where_the_sharp_one_has_them(live):
    """Letters are a little wider at low resolution, and the layout would give the axes other places."""
    explorer, *_ = live
    coarse, sharp = (canvas.fig.axes[0].get_position().bounds for canvas in (explorer.coarse(), explorer.sharp))
    assert coarse == pytest.approx(sharp, abs=1e-9)


def test_a_change_that_is_none_draws_nothing(live):
    """When a widget is shown, the browser may put 0.49999999999999994 for 0.5."""
    explorer, knobs, picture, _ = live
    before = bytes(picture.value)
    knobs["height"].value = 0.49999999999999994
    assert bytes(picture.value) == before and explorer.quick is None


def test_the_description_has_the_docstring_the_words_and_the_controls_labelled_with_spaces_in_one_line():
    def scene(fig):
        """What stays
        in the picture.
        """
        return lambda learning_rate, b: f"a is {learning_rate}"

    controls = {"learning_rate": slider(0.1, 1, 0.1, log=True), "b": toggle()}
    explorer = Explorer(scene, SIZE, controls)
    box, _, _ = explorer.live(b"").children
    assert [knob.description for knob in box.children] == ["learning rate", "b"]
    said = "What stays in the picture. Here: a is 0.1. Controls: learning rate 0.1 (0.1 to 1); b False (on or off)."
    assert explorer.describe() == said


# explore: what is stored.


@pytest.fixture
def displayed(displayed, monkeypatch):
    """What is shown, without the explorers of other tests."""
    monkeypatch.setattr(widgets, "shown", [])
    return displayed


def test_explore_shows_picture_description_and_live_widget_in_one_output_and_then_the_caption(displayed):
    explore(wave, "3.1", "A < B", SIZE, held="trained", height=slider(0.0, 0.8, 0.5), sign=choice(["+", "-"]))
    (forms, metadata), (caption, _) = displayed
    assert set(forms) == {"text/plain", "image/png", widgets.WIDGET}
    words = "Here: a line that rises <by> +0.5. Controls: height 0.5 (0 to 0.8); sign + (one of +, -)."
    assert forms["text/plain"] == words
    assert metadata == {"image/png": {"width": 300, "height": 200, "alt": words}, "lbdl": {"held": "trained"}}
    assert opened(forms["image/png"]).shape == (400, 600, 3)
    assert forms[widgets.WIDGET]["model_id"]
    assert caption["text/plain"] == "Figure 3.1. A < B"
    assert "A &lt; B" in caption["text/html"] and "rises &lt;by&gt;" in caption["text/html"]


def test_explore_gives_the_same_picture_every_time_and_keeps_explorers_so_that_tests_can_move_them(displayed):
    for _ in range(2):
        explore(wave, "3.1", "caption", SIZE, height=slider(0.0, 0.8, 0.5))
    (first, _), _, (second, _), _ = displayed
    assert first["image/png"] == second["image/png"]
    assert [explorer.start for explorer in widgets.shown] == [{"height": 0.5}] * 2


def test_a_terminal_shows_the_description(capsys, monkeypatch):
    monkeypatch.setattr(widgets, "shown", [])
    explore(wave, "3.1", "caption", SIZE, height=slider(0.0, 0.8, 0.5))
    words = "Here: a line that rises <by> +0.5. Controls: height 0.5 (0 to 0.8)."
    assert capsys.readouterr().out == f"[Figure 3.1, live] {words}\n"


A_SLIDER = {"a": slider(0, 1, 0)}


@pytest.mark.parametrize(
    "scene, given, kind, words",
    [
        (wave, {}, ValueError, "expected at least one control, got none"),
        (wave, {"height": 0.5}, TypeError, r"expected height to be a control, like slider\(…\), got 0\.5"),
        (wave, {"held": "loosely", **A_SLIDER}, ValueError, "expected held to be one of exact, trained, measured, got"),
        (None, A_SLIDER, TypeError, "expected the scene to be a function, got None"),
        (functools.partial(wave), A_SLIDER, TypeError, "expected the scene to be a function, got"),
        (lambda fig: None, A_SLIDER, TypeError, "scene: expected it to return its update function, got None"),
        (
            lambda fig: lambda a: None,
            A_SLIDER,
            TypeError,
            "update: expected it to return in words what is seen, got None",
        ),
        (lambda fig: lambda a: " \n", A_SLIDER, TypeError, "update: expected it to return in words what is seen, got"),
    ],
)
def test_explore_refuses_what_makes_no_sense_and_shows_nothing(displayed, scene, given, kind, words):
    with pytest.raises(kind, match=words):
        explore(scene, "3.1", "caption", SIZE, **given)
    assert not displayed and not widgets.shown


def test_explore_refuses_an_empty_caption(displayed):
    with pytest.raises(ValueError, match=r"3\.1: expected a caption, got an empty one"):
        explore(wave, "3.1", " ", SIZE, height=slider(0.0, 0.8, 0.5))


# Names: a picture keeps those of its section.

NOTEBOOK = """
height = 0.5

def curve(a):
    return [0, height * a]

def scene(fig):
    (line,) = fig.subplots().plot([0, 1])

    def update(a):
        line.set_ydata(curve(a))
        return f"up to {curve(a)[1]}"

    return update
"""


def test_a_picture_keeps_the_names_of_the_moment_it_was_shown_when_later_cells_change_them(displayed):
    names = {}
    exec(NOTEBOOK, names)
    names["height"] = 2
    explore(names["scene"], "3.1", "caption", SIZE, a=slider(1, 5, 2))
    names.update(height=100, curve=None)
    (explorer,) = widgets.shown
    assert explorer.sharp.words == "up to 4"
    canvas = Canvas(explorer.scene, SIZE, DPI, {"a": 1})  # as the first move makes it
    assert canvas.words == "up to 2"
    canvas.draw({"a": 4})
    assert canvas.words == "up to 8"
