"""Widgets: controls that refuse wrong values, and pictures that are the same whichever way the sliders were moved."""

import asyncio
import io
from functools import partial

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.image import AxesImage
from PIL import Image

from lbdl import choice, explore, slider, toggle, widgets, words
from lbdl.widgets import Canvas, Explorer

# Controls.


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((5, 5, 5), "expected low < high, got an empty range from 5 to 5"),
        ((6, 5, 5), "expected low < high"),
        ((float("nan"), 5, 5), "expected low < high"),
        ((0, 5, 6), "expected a value from 0 to 5, got 6"),
        ((0, 5, -0.1), r"expected a value from 0 to 5, got -0\.1"),
        ((0, 5, float("nan")), "expected a value from 0 to 5, got nan"),
        ((0, 5, 1, 0), "expected a step above 0, got 0"),
        ((0, 5, 1, -1), "expected a step above 0, got -1"),
        ((0, 5, 1, None, True), "expected low > 0 with log=True, got 0"),
        ((-1, 5, 1, None, True), "expected low > 0 with log=True, got -1"),
        ((0, 10, 3, 2), "expected a value on a step of 2 from 0, got 3"),
        ((0.0, 1.0, 0.123), "expected a value on a step of 0.01 from 0, got 0.123"),
        ((1, 100, 3, None, True), "expected a value on a step of 0.05 from 0, got 0.47"),
    ],
)
def test_a_slider_refuses_what_makes_no_sense(arguments, words):
    with pytest.raises(ValueError, match=f"slider: {words}"):
        slider(*arguments)


@pytest.mark.parametrize(
    "control, kind",
    [
        (slider(1, 9, 3), int),
        (slider(1, 9, 3, step=2), int),
        (slider(0.0, 1, 0.5), float),
        (slider(1, 9, 3, step=0.5), float),
        (slider(1, 100, 10, log=True), float),
    ],
)
def test_a_slider_gives_whole_numbers_only_if_all_its_numbers_are_whole(control, kind):
    assert type(control.make().value) is kind


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
        words("a cat", ["", "two dogs", "ü < 3"]),
    ],
)
def test_a_control_starts_at_its_value_and_takes_each_of_its_samples(control):
    knob = control.make(description="name")
    assert knob.value == (pytest.approx(control.value) if isinstance(control.value, float) else control.value)
    for sample in control.samples:
        knob.value = sample
        assert knob.value == (pytest.approx(sample) if isinstance(sample, float) else sample)


@pytest.mark.parametrize("control", [slider(1, 9, 3), slider(-1.0, 1.0, 0.24), slider(0.01, 100, 1, log=True)])
def test_the_samples_of_a_slider_are_its_ends_and_something_between(control):
    low, middle, high = control.samples
    assert low < middle < high
    knob = control.make()
    for beyond in (low - 1, high + 1):
        knob.value = beyond
        assert low - 1e-9 <= knob.value <= high + 1e-9


def test_a_logarithmic_slider_has_its_middle_in_the_middle_of_the_exponents():
    assert slider(0.01, 100, 1, log=True).samples[1] == pytest.approx(1)


@pytest.mark.parametrize(
    "low, high, step", [(0, 1, 0.01), (0, 5, 0.05), (-1, 1, 0.02), (0, 7, 0.05), (0, 0.3, 0.002), (0, 1000, 10)]
)
def test_the_step_is_by_default_a_round_number_that_makes_a_hundred_steps_or_more(low, high, step):
    assert slider(float(low), float(high), float(low)).make().step == pytest.approx(step)


def test_a_step_that_is_given_is_taken_over():
    assert slider(0.0, 5.0, 1.0, step=0.5).make().step == 0.5
    assert slider(0, 5, 1).make().step == 1
    assert slider(0.1, 10, 1, step=0.2, log=True).make().step == 0.2


def test_the_samples_of_a_choice_are_all_its_options_and_it_starts_at_the_first():
    control = choice(["a", "b", "c"])
    assert (control.value, control.samples) == ("a", ["a", "b", "c"])


def test_a_choice_of_nothing_is_refused():
    with pytest.raises(ValueError, match="choice: expected at least one option, got none"):
        choice([])


def test_a_choice_that_starts_at_none_of_its_options_is_refused():
    with pytest.raises(ValueError, match=r"choice: expected one of \['a', 'b'\], got 'c'"):
        choice(["a", "b"], "c")


def test_a_toggle_has_two_states():
    assert sorted(toggle().samples) == [False, True]
    assert toggle().value is False


@pytest.mark.parametrize("wrong", ["yes", 1, None])
def test_a_toggle_that_is_neither_on_nor_off_is_refused(wrong):
    with pytest.raises(TypeError, match=f"toggle: expected True or False, got {wrong!r}"):
        toggle(wrong)


def test_a_line_to_type_in_sends_every_letter():
    assert words("a", ["b"]).make().continuous_update


@pytest.mark.parametrize("value, samples, wrong", [(1, ["a"], 1), ("a", ["b", None], None)])
def test_words_that_are_no_texts_are_refused(value, samples, wrong):
    with pytest.raises(TypeError, match=f"words: expected texts, got {wrong!r}"):
        words(value, samples)


# Canvas: scenes of all that may move. Each takes values of `a` from 0 to 1; what moves lies above what does not.

X = np.linspace(0, 1, 40)
PICTURE = np.outer(X, X)
SIZE, DPI = (3, 2), 60


def one_axes(fig):
    ax = fig.subplots()
    ax.set(xlim=(-0.5, 1.5), ylim=(-0.5, 1.5))
    return ax


def lines(fig):
    ax = one_axes(fig)
    (first,), (second,) = ax.plot(X, X), ax.plot(X, 1 - X)

    def update(a):
        first.set_data(X, a * X)
        second.set_ydata(1 - a * X)
        return "two lines"

    return update


def points(fig):
    dots = one_axes(fig).scatter(X, X)

    def update(a):
        dots.set_offsets(np.c_[X, a * X])
        dots.set_sizes([5 + 30 * a])
        return "points"

    return update


def coloured_points(fig):
    dots = one_axes(fig).scatter(X, X, c=X, vmin=0, vmax=1)

    def update(a):
        dots.set_array(a * X)
        return "points whose colours change, and nothing else"

    return update


def image(fig):
    ax = fig.subplots()
    ax.axis("off")
    shown = ax.imshow(PICTURE, vmin=0, vmax=1)

    def update(a):
        shown.set_data(a * PICTURE)
        return "an image"

    return update


def mesh(fig):
    shown = one_axes(fig).pcolormesh(X, X, PICTURE, vmin=0, vmax=1)

    def update(a):
        shown.set_array(a * PICTURE)
        return "a mesh"

    return update


def image_with_scale(fig):
    ax = fig.subplots()
    ax.axis("off")
    shown = ax.imshow(PICTURE)
    fig.colorbar(shown).outline.set_visible(False)

    def update(a):
        shown.set_data((1 + a) * PICTURE)
        shown.autoscale()
        return "an image whose colour bar follows"

    return update


def texts(fig):
    ax = one_axes(fig)
    label = ax.text(0.2, 0.2, "")

    def update(a):
        label.set_text(f"a = {a}" if a else "")
        ax.set_title(f"title {a}")
        return "a label and a title"

    return update


def bars(fig):
    patches = one_axes(fig).bar([0, 0.5, 1], [0.1, 0.1, 0.1], width=0.2)

    def update(a):
        for height, patch in zip((0.2, 0.5, 0.9), patches, strict=True):
            patch.set_height(a * height)
        return "bars"

    return update


def area(fig):
    ax = one_axes(fig)
    filled = ax.fill_between(X, 0 * X, X)
    arrow = ax.annotate("", (1, 1), (0, 0), arrowprops={"arrowstyle": "->"})

    def update(a):
        filled.set_data(X, 0 * X, a * X)
        arrow.xy = (a, 1.2)
        return "an area and an arrow"

    return update


def added_and_removed(fig):
    ax, drawn = one_axes(fig), []

    def update(a):
        while drawn:
            drawn.pop().remove()
        drawn.extend(ax.plot(X, X * k / 8, color="black")[0] for k in range(round(8 * a)))
        return "new lines each time"

    return update


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
        return "a text that comes and goes"

    return update


def hidden_and_shown(fig):
    ax = one_axes(fig)
    (line,) = ax.plot(X, X)

    def update(a):
        line.set_visible(a > 0.5)
        return "a line that comes and goes"

    return update


def moves_only_above_a_half(fig):
    ax = one_axes(fig)
    (first,), (second,) = ax.plot(X, X), ax.plot(X, 1.2 + 0 * X)

    def update(a):
        first.set_ydata(a * X)
        if second.get_ydata()[-1] != 1.2 + round(a) / 5:
            second.set_ydata(1.2 + round(a) / 5 + 0 * X)
        return "two lines, of which one moves rarely"

    return update


def limits(fig):
    ax = fig.subplots()
    (line,) = ax.plot(X, X)

    def update(a):
        line.set_ydata((1 + 9 * a) * X)
        ax.set(xlim=(-0.5, 1.5 + a), ylim=(-1, 2 + 9 * a))
        return "axes that grow"

    return update


def limits_that_follow(fig):
    ax = fig.subplots()
    ax.margins(0.2)
    (line,) = ax.plot(X, X)

    def update(a):
        line.set_ydata((1 + 9 * a) * X)
        ax.relim()
        ax.autoscale()  # matplotlib computes the limits only when it draws
        return "axes that follow the data"

    return update


def ticks_and_labels(fig):
    ax = one_axes(fig)

    def update(a):
        ax.set_xlabel(f"label {a}")
        ax.set_yticks([0, 1], ["none", f"{a}"])
        return "ticks and labels"

    return update


def around_the_axes(fig):
    top = fig.suptitle("")
    ax = one_axes(fig)
    ax.text(0, 0, "fixed")
    aside = fig.text(0.5, 0.5, "")

    def update(a):
        top.set_text(f"title {a}")
        aside.set_text(f"a = {a}")
        return "texts of the figure"

    return update


def legend(fig):
    ax = one_axes(fig)
    ax.plot(X, X, label="line")
    text = ax.legend(loc="upper left").get_texts()[0]

    def update(a):
        text.set_text(f"a = {a}")
        return "the text in a legend"

    return update


def ground_and_frame(fig):
    ax = one_axes(fig)

    def update(a):
        ax.set_facecolor((1, 1, a))
        ax.spines["left"].set_visible(a > 0.5)
        ax.spines["bottom"].set_color((a, 0, 0))
        return "what the axes themselves are made of"

    return update


def two_axes(fig):
    left, right = fig.subplots(1, 2)
    for ax in (left, right):
        ax.set(xlim=(-0.5, 1.5), ylim=(-0.5, 1.5))
    (first,), (second,) = left.plot(X, X), right.plot(X, X)

    def update(a):
        first.set_ydata(a * X)
        second.set_ydata(1 - a * X)
        right.set_visible(a > 0.4)
        return "two axes, of which one comes and goes"

    return update


def axes_in_axes(fig):
    ax = one_axes(fig)
    ax.plot(X, X)
    inset = ax.inset_axes([0.1, 0.6, 0.3, 0.3])
    (line,) = inset.plot(X, X)

    def update(a):
        line.set_ydata(a * X)
        inset.set_ylim(-0.1, 1 + a)
        return "axes in axes"

    return update


def in_space(fig):
    ax = fig.add_subplot(projection="3d")
    (line,) = ax.plot(X, X, X)

    def update(a):
        line.set_data_3d(X, X, a * X)
        ax.view_init(30, 90 * a)
        return "a line in space, seen from around it"

    return update


SCENES = [
    lines,
    points,
    coloured_points,
    image,
    mesh,
    image_with_scale,
    texts,
    bars,
    area,
    added_and_removed,
    sometimes_there,
    hidden_and_shown,
    moves_only_above_a_half,
    limits,
    limits_that_follow,
    ticks_and_labels,
    around_the_axes,
    legend,
    ground_and_frame,
    two_axes,
    axes_in_axes,
    in_space,
]
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


@pytest.mark.parametrize("scene", SCENES)
def test_a_moved_picture_is_the_one_drawn_anew_pixel_for_pixel(scene):
    moved = Canvas(scene, SIZE, DPI, {"a": START})
    drawn_anew = list(drawn_plainly(scene, *MOVES))
    for step, a in enumerate(MOVES):
        assert pixels_that_differ(drawn(moved, a), drawn_anew[step]) == 0, f"after move {step}, to {a}"
    fresh = Canvas(scene, SIZE, DPI, {"a": START})
    assert pixels_that_differ(drawn(moved, 0.75), drawn(fresh, 0.75)) == 0, "from a fresh canvas"
    assert pixels_that_differ(drawn_anew[1], drawn_anew[0]) > 0  # the scene does move


def test_the_axes_are_not_drawn_again_when_only_lines_move(monkeypatch):
    canvas = Canvas(lines, SIZE, DPI, {"a": START})
    canvas.draw({"a": START})
    full = []
    draw = FigureCanvasAgg.draw
    monkeypatch.setattr(FigureCanvasAgg, "draw", lambda self: (full.append(1), draw(self)))
    for a in MOVES:
        canvas.draw({"a": a})
    assert not full


def test_what_update_leaves_alone_is_not_drawn_again(monkeypatch):
    def scene(fig):
        ax = one_axes(fig)
        ax.imshow(PICTURE)
        ax.scatter(X, X, c=X)
        ax.text(0, 0, "fixed")
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
    for a in MOVES:
        canvas.draw({"a": a})
    assert not drawn_again


def test_a_canvas_keeps_the_words_of_the_last_move():
    canvas = Canvas(lambda fig: lambda a: f"a is {a}", SIZE, DPI, {"a": START})
    assert canvas.words == "a is 0.25"
    canvas.draw({"a": 1.0})
    assert canvas.words == "a is 1.0"


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


def test_a_scene_must_return_its_update():
    with pytest.raises(TypeError, match="scene: expected it to return its update function, got None"):
        Canvas(lambda fig: None, SIZE, DPI, {})


@pytest.mark.parametrize("returned", [None, "", " \n", 3])
def test_an_update_must_say_in_words_what_is_seen(returned):
    with pytest.raises(TypeError, match="update: expected it to return in words what is seen, got"):
        Canvas(lambda fig: lambda a: returned, SIZE, DPI, {"a": START})


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


def test_controls_are_labelled_with_spaces_for_underscores():
    explorer = Explorer(
        lambda fig: lambda learning_rate: "words", SIZE, {"learning_rate": slider(0.1, 1, 0.1, log=True)}
    )
    box, _, _ = explorer.live(b"").children
    assert box.children[0].description == "learning rate"
    assert explorer.describe() == "Here: words. Controls: learning rate 0.1 (0.1 to 1)."


def test_the_description_says_what_the_docstring_and_update_say_and_the_controls_in_one_line(displayed):
    def scene(fig):
        """What stays
        in the picture.
        """
        return lambda a, b: f"a is {a}"

    explore(scene, "3.1", "caption", SIZE, a=slider(1, 5, 2), b=toggle())
    ((forms, _), _) = displayed
    assert forms["text/plain"] == (
        "What stays in the picture. Here: a is 2. Controls: a 2 (1 to 5); b False (on or off)."
    )


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


def test_explore_gives_the_same_picture_every_time(displayed):
    for _ in range(2):
        explore(wave, "3.1", "caption", SIZE, height=slider(0.0, 0.8, 0.5))
    (first, _), _, (second, _), _ = displayed
    assert first["image/png"] == second["image/png"]


def test_explorers_are_kept_so_that_tests_can_move_them(displayed):
    explore(wave, "3.1", "caption", SIZE, height=slider(0.0, 0.8, 0.5))
    (explorer,) = widgets.shown
    assert explorer.start == {"height": 0.5}


def test_a_terminal_shows_the_description(capsys, monkeypatch):
    monkeypatch.setattr(widgets, "shown", [])
    explore(wave, "3.1", "caption", SIZE, height=slider(0.0, 0.8, 0.5))
    words = "Here: a line that rises <by> +0.5. Controls: height 0.5 (0 to 0.8)."
    assert capsys.readouterr().out == f"[Figure 3.1, live] {words}\n"


def test_explore_needs_a_control():
    with pytest.raises(ValueError, match=r"explore 3\.1: expected at least one control, got none"):
        explore(wave, "3.1", "caption")


def test_explore_refuses_what_is_no_control():
    with pytest.raises(TypeError, match=r"expected height to be a control, like slider\(…\), got 0\.5"):
        explore(wave, "3.1", "caption", height=0.5)


def test_explore_refuses_an_unknown_way_to_hold_because_nothing_would_be_compared(displayed):
    with pytest.raises(ValueError, match="expected held to be one of exact, trained, measured, got 'loosely'"):
        explore(wave, "3.1", "caption", SIZE, held="loosely", height=slider(0.0, 0.8, 0.5))


def test_explore_refuses_an_empty_caption(displayed):
    with pytest.raises(ValueError, match=r"3\.1: expected a caption, got an empty one"):
        explore(wave, "3.1", " ", SIZE, height=slider(0.0, 0.8, 0.5))


@pytest.mark.parametrize("scene", [lambda fig: None, lambda fig: lambda a: None])
def test_explore_refuses_a_scene_without_update_or_words_and_shows_nothing(displayed, scene):
    with pytest.raises(TypeError, match="expected it to return"):
        explore(scene, "3.1", "caption", SIZE, a=slider(0, 1, 0))
    assert not displayed and not widgets.shown


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


def test_a_picture_keeps_the_names_of_its_section_when_later_cells_change_them(displayed):
    names = {}
    exec(NOTEBOOK, names)
    explore(names["scene"], "3.1", "caption", SIZE, a=slider(1, 5, 2))
    names.update(height=100, curve=None)
    (explorer,) = widgets.shown
    canvas = Canvas(explorer.scene, SIZE, DPI, {"a": 1})  # as the first move makes it
    assert canvas.words == "up to 0.5"
    canvas.draw({"a": 4})
    assert canvas.words == "up to 2.0"


def test_a_scene_sees_names_that_were_changed_before_it_is_shown(displayed):
    names = {}
    exec(NOTEBOOK, names)
    names["height"] = 2
    explore(names["scene"], "3.1", "caption", SIZE, a=slider(1, 5, 2))
    assert widgets.shown[0].sharp.words == "up to 4"


@pytest.mark.parametrize("scene", [None, "wave", partial(wave)])
def test_a_scene_that_is_no_function_is_refused(displayed, scene):
    with pytest.raises(TypeError, match=r"explore 3\.1: expected the scene to be a function, got"):
        explore(scene, "3.1", "caption", SIZE, height=slider(0.0, 0.8, 0.5))
