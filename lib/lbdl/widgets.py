"""Widgets: a picture under sliders that follows the hand, and the same picture still where no kernel runs.

A scene draws what does not move and returns `update`, which moves the rest and says in words what is seen:

    def scene(fig):
        ax = fig.subplots()
        ax.set(xlim=(0, 1), ylim=(-1, 1))
        (line,) = ax.plot(x, 0 * x)

        def update(frequency):
            line.set_data(x, torch.sin(frequency * x))
            return f"a sine that swings {frequency / 6.28:.1f} times"

        return update

    explore(scene, "3.1a", "A wave and its frequency.", frequency=slider(1, 20, 6))

Drawing axes, ticks and labels is what costs time, so they are drawn once and kept. Only artists that `update`
touched are drawn again, over the kept background: draw what moves above what does not.

A picture keeps the names that its scene uses as they were when it was shown, whatever later cells call by them.
"""

import asyncio
import contextlib
import html
import inspect
import io
import math
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import FunctionType

import ipywidgets
import matplotlib.axis
import matplotlib.spines
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from lbdl.figures import HELD, LOGICAL_DPI, SHARPNESS, compact, picture_bundle, pixels, publish_caption
from lbdl.show import publish

Scene = Callable[[Figure], Callable[..., str]]
REST = 0.4  # seconds without a move after which the picture is drawn again in full sharpness
WIDGET = "application/vnd.jupyter.widget-view+json"  # the MIME type of a live widget
CONTROL_WIDTH = "345px"
LETTER, WIDE_LABEL = 7.2, 130  # pixels of a letter, on average; and of a label that gets a row of its own


@dataclass
class Control:
    """A control of `explore`: its range in words, the values that tests try, and how to make its ipywidget."""

    value: object
    span: str
    samples: list
    make: Callable[..., ipywidgets.ValueWidget]


def slider(low: float, high: float, value: float, step: float | None = None, log: bool = False) -> Control:
    """A slider from `low` to `high`, both included.

    Args:
        low, high: the ends. If both, and the value and the step, are int, so are the values of the slider.
        value: where it starts.
        step: by default 1 for int, else a round number near a hundredth of the range; for `log` a step of the
            exponent of 10.
        log: move by factors instead of differences; the ends must then be positive.

    Raises:
        ValueError: an empty range, a value outside it or between two steps, a step of 0 or less, or a logarithm
            of 0 or less.
    """
    if not low < high:
        raise ValueError(f"slider: expected low < high, got an empty range from {low} to {high}")
    if not low <= value <= high:
        raise ValueError(f"slider: expected a value from {low} to {high}, got {value}")
    if step is not None and step <= 0:
        raise ValueError(f"slider: expected a step above 0, got {step}")
    if log and low <= 0:
        raise ValueError(f"slider: expected low > 0 with log=True, got {low}")
    whole = all(isinstance(v, int) for v in (low, high, value, step or 1)) and not log
    span = f"{low:g} to {high:g}"
    if log:
        kind, samples, form = ipywidgets.FloatLogSlider, [low, math.sqrt(low * high), high], {"readout_format": ".1e"}
        low, high, at, step = math.log10(low), math.log10(high), math.log10(value), step or 0.05
    else:
        kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
        at, step = value, step or _step(low, high, whole)
        samples = [low, low + round((high - low) / 2 / step) * step, high]
        decimals = len(f"{step:.10g}".partition(".")[2])  # 0.025 has three
        form = {} if whole else {"readout_format": f".{decimals}f"}
    steps = (at - low) / step
    if abs(steps - round(steps)) > 1e-6:  # the browser would move it to the next step by itself
        raise ValueError(f"slider: expected a value on a step of {step:g} from {low:g}, got {at:g}")
    return Control(value, span, samples, lambda **k: kind(value, min=low, max=high, step=step, **form, **k))


def _step(low: float, high: float, whole: bool) -> float:
    """1 for whole numbers, else the largest of 1, 2, 5 times a power of 10 that divides the range into 100 or more."""
    if whole:
        return 1
    power = 10.0 ** math.floor(math.log10((high - low) / 100))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= (high - low) / 100 * (1 + 1e-9))


def choice(options: list, value: object = None) -> Control:
    """A slider over named options (menus lose their arrow keys to JupyterLab); it starts at `value`, else the first.

    Raises:
        ValueError: no options, or a value that is none of them.
    """
    options = list(options)
    if not options:
        raise ValueError("choice: expected at least one option, got none")
    value = options[0] if value is None else value
    if value not in options:
        raise ValueError(f"choice: expected one of {options}, got {value!r}")
    named = [(str(option), option) for option in options]  # without names, ipywidgets reads pairs as (name, value)
    span = "one of " + ", ".join(map(str, options))
    return Control(value, span, options, lambda **k: ipywidgets.SelectionSlider(options=named, value=value, **k))


def toggle(value: bool = False) -> Control:
    """A check box.

    Raises:
        TypeError: a value that is neither True nor False.
    """
    if not isinstance(value, bool):
        raise TypeError(f"toggle: expected True or False, got {value!r}")
    return Control(value, "on or off", [True, False], lambda **k: ipywidgets.Checkbox(value, **k))


def words(value: str, samples: list[str]) -> Control:
    """A line to type in, with `value` at first; the picture follows every letter. The tests type the `samples`.

    Raises:
        TypeError: a value or a sample that is no text.
    """
    if wrong := [text for text in (value, *samples) if not isinstance(text, str)]:
        raise TypeError(f"words: expected texts, got {wrong[0]!r}")
    return Control(value, "any words", list(samples), lambda **k: ipywidgets.Text(value, **k))


def _steady(value: object) -> object:
    """A slider moved there and back gives 0.30000000000000004: make it the 0.3 that it was."""
    return float(f"{value:.10g}") if isinstance(value, float) else value


class Canvas:
    """One scene at one resolution, with what does not move kept as a background.

    Artists tell by their `stale` flag that they changed since they were last drawn: those that `update` touches are
    found that way, left out of the background, and drawn over it. If an axis itself changes, all is drawn again.
    """

    def __init__(self, scene: Scene, size: tuple[float, float], dpi: int, values: dict):
        self.fig = Figure(size, dpi=dpi)  # not through pyplot, which would keep and show it
        FigureCanvasAgg(self.fig)
        self.update = scene(self.fig)
        if not callable(self.update):
            raise TypeError(f"scene: expected it to return its update function, got {self.update!r}")
        self.moving: list[Artist] = []
        self.arrays: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # the values last drawn
        self.background = None
        self.words = self._move(values)
        self._mark()
        self.fig.canvas.draw()
        self.fig.set_layout_engine("none")  # the axes now stay where they are

    def _move(self, values: dict) -> str:
        words = self.update(**values)
        if not isinstance(words, str) or not words.strip():
            raise TypeError(f"update: expected it to return in words what is seen, got {words!r}")
        return words

    def _movable(self) -> list[Artist]:
        """All artists but the frames of the axes and what is in space, in the order in which they are drawn."""
        frame = (matplotlib.axis.Axis, matplotlib.spines.Spine)
        found = []
        for ax in sorted((ax for ax in self.fig.axes if ax.name != "3d"), key=lambda ax: ax.zorder):
            inside = [a for a in ax.get_children() if not isinstance(a, frame) and a is not ax.patch]
            found += sorted(inside, key=lambda a: a.zorder)
        apart = (self.fig.patch, *self.fig.axes, *self.fig.subfigs)
        own = [a for a in self.fig.get_children() if a not in apart]
        return found + own

    def _mark(self) -> None:
        """Make stale what matplotlib changes without saying so: arrays set, limits to come, views in space."""
        for ax in self.fig.axes:
            ax.viewLim  # noqa: B018  reading it applies limits that were asked for and not yet computed
            if ax.name == "3d":
                ax.stale = True
        for artist in self._movable():
            array = artist.get_array() if hasattr(artist, "get_array") else None
            if array is not self.arrays.get(artist):
                self.arrays[artist], artist.stale = array, True

    def draw(self, values: dict) -> Image.Image:
        """Move the scene to the values of its controls and return the picture."""
        self.words = self._move(values)
        self._mark()
        if self.background is None or self.fig.stale:  # what is animated does not tell the figure that it changed
            self.background = None
            self.moving = [a for a in self._movable() if a.stale or a.get_animated()]
            for artist in self.moving:
                artist.set_animated(True)  # matplotlib leaves animated artists out of a full drawing
            self.fig.canvas.draw()
            self.background = self.fig.canvas.copy_from_bbox(self.fig.bbox)
        else:
            self.fig.canvas.restore_region(self.background)
        for artist in self._movable():  # in the order of now: what moves may also come to lie on top
            if artist.get_animated() and (artist.axes is None or artist.axes.get_visible()):
                artist.draw(self.fig.canvas.get_renderer())
        size, drawn = self.fig.canvas.get_width_height(), self.fig.canvas.buffer_rgba()
        return Image.frombuffer("RGBA", size, drawn).convert("RGB")

    def draw_all(self, values: dict) -> Image.Image:
        """The same, drawn from nothing: right also where what moves lies below, or does not tell that it changed."""
        self.words = self._move(values)
        for artist in self.moving:
            artist.set_animated(False)
        self.moving, self.background = [], None
        return pixels(self.fig)


class Explorer:
    """A scene with its controls: draws a picture for given values, and makes the live widget."""

    def __init__(self, scene: Scene, size: tuple[float, float], controls: dict[str, Control], number: str = ""):
        self.scene, self.size, self.controls, self.number = scene, size, controls, number
        self.start = {name: control.value for name, control in controls.items()}
        self.sharp = Canvas(scene, size, LOGICAL_DPI * SHARPNESS, self.start)
        self.quick: Canvas | None = None  # made when the first move comes
        self.image = b""  # the still picture as it was shown

    def coarse(self) -> Canvas:
        """A canvas for quick drawing while a control moves, laid out like the sharp one."""
        canvas = Canvas(self.scene, self.size, LOGICAL_DPI, self.start)
        for axes, same in zip(canvas.fig.axes, self.sharp.fig.axes, strict=True):
            axes.set_position(same.get_position(original=True))  # coarse letters are wider: the axes would jump
        return canvas

    def still(self) -> bytes:
        """The picture at the values that the controls start with, as PNG or JPEG."""
        return compact(self.sharp.draw_all(self.start))

    def describe(self) -> str:
        """The still picture in words: what the scene's docstring says, what `update` says, and the controls."""
        knobs = "; ".join(f"{n.replace('_', ' ')} {c.value} ({c.span})" for n, c in self.controls.items())
        return " ".join(f"{inspect.getdoc(self.scene) or ''} Here: {self.sharp.words}. Controls: {knobs}.".split())

    def live(self, still: bytes) -> ipywidgets.VBox:
        """The widget, showing `still` first. A move costs one quick drawing; the front end holds others back."""
        label = 12 + LETTER * max(len(name) for name in self.controls)
        wide = label > WIDE_LABEL or len(self.controls) == 1
        style, layout = {"description_width": f"{label:.0f}px"}, {"width": "98%" if wide else CONTROL_WIDTH}
        knobs = {
            name: control.make(description=name.replace("_", " "), style=style, layout=layout)
            for name, control in self.controls.items()
        }
        width = f"{round(self.size[0] * LOGICAL_DPI)}px"
        picture = ipywidgets.Image(value=still, format="png", layout={"width": width, "max_width": "100%"})
        words = ipywidgets.HTML(html.escape(self.sharp.words), layout={"max_width": width})
        pending: list[asyncio.TimerHandle] = []
        at = dict(self.start)

        def show(sharp: bool) -> None:
            printed = io.StringIO()  # JupyterLab has no place for what is printed while a slider moves
            try:
                if self.quick is None:
                    with contextlib.redirect_stdout(io.StringIO()):
                        self.quick = self.coarse()
                with contextlib.redirect_stdout(printed):
                    canvas = self.sharp if sharp else self.quick
                    drawn = canvas.draw_all(at) if sharp else canvas.draw(at)
            except Exception as error:  # a reader who edits the scene must see what went wrong, under the sliders
                said = f'<b style="color:#cc3311">{html.escape(f"{type(error).__name__}: {error}")}</b>'
                words.value = said + _as_printed(printed)
                return
            stream = io.BytesIO()
            drawn.save(stream, "png", compress_level=1)
            picture.value, words.value = stream.getvalue(), html.escape(canvas.words) + _as_printed(printed)

        def moved(_change: dict) -> None:
            before = dict(at)
            at.update({name: _steady(knob.value) for name, knob in knobs.items()})
            if at == before:  # when it is shown, the browser puts 0.19999999999999996 for 0.2
                return
            show(sharp=False)
            while pending:
                pending.pop().cancel()
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # no event loop: the quick picture stays
                return
            pending.append(loop.call_later(REST, show, True))

        for knob in knobs.values():
            knob.observe(moved, "value")
        box = ipywidgets.Box(list(knobs.values()), layout={"flex_flow": "row wrap", "max_width": width})
        return ipywidgets.VBox([box, picture, words])


def _as_printed(printed: io.StringIO) -> str:
    return f"<pre>{html.escape(printed.getvalue())}</pre>" if printed.getvalue() else ""


def with_names_of_now(scene: Scene) -> Scene:
    """The scene with all global names bound to what they mean now, the functions that it calls included.

    Later cells of a notebook may give the same names to other things. A picture that is moved afterwards must not
    see that: it would draw one section's curve through another section's points. Functions in a list, a tuple or a
    dictionary are found, too.
    """
    names = dict(scene.__globals__)
    found = {f for value in names.values() for f in _members(value) if isinstance(f, FunctionType)}
    copies = {id(f): _rebound(f, names) for f in found | {scene} if f.__globals__ is scene.__globals__}
    names.update({name: _exchanged(value, copies) for name, value in names.items()})
    for copy in copies.values():  # a default may be a function, too
        copy.__defaults__ = _exchanged(copy.__defaults__, copies)
    return copies[id(scene)]


def _members(value: object) -> Iterable:
    """What a plain container holds; anything else is alone."""
    if type(value) is dict:
        return value.values()
    return value if type(value) in (list, tuple) else [value]


def _exchanged(value: object, copies: dict[int, FunctionType]) -> object:
    """The value with the functions of `copies` (by id) replaced; itself if it holds none of them."""
    if not any(id(member) in copies for member in _members(value)):
        return value
    if type(value) is dict:
        return {key: copies.get(id(member), member) for key, member in value.items()}
    swapped = [copies.get(id(member), member) for member in _members(value)]
    return type(value)(swapped) if type(value) in (list, tuple) else swapped[0]


def _rebound(function: FunctionType, names: dict) -> FunctionType:
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__, copy.__doc__ = function.__kwdefaults__, function.__doc__
    return copy


shown: list[Explorer] = []  # every explorer of this session, so that tests can move what a reader can


def explore(
    scene: Scene,
    number: str,
    caption: str,
    size: tuple[float, float] = (7, 3.4),
    held: str = "exact",
    **controls: Control,
) -> None:
    """Show a scene under controls; where no kernel runs (GitHub, a printed page) the reader sees its first picture.

    Args:
        scene: takes an empty matplotlib figure, draws what stays, and returns `update`, which takes the controls'
            values by name, moves what moves, and returns in words what is seen. Its docstring says what stays.
        number, caption: as in `figure`.
        size: of the picture, in inches of 100 pixels.
        held: as in `figure`: how tightly the tests hold the first picture.
        controls: by name: slider(…), choice(…), toggle(…) or words(…); the name is the label, with spaces for _.

    Raises:
        ValueError: no controls, an unknown `held`, or an empty caption.
        TypeError: something that is no control; a scene or an update that does not return what it must.
    """
    if not controls:
        raise ValueError(f"explore {number}: expected at least one control, got none")
    for name, control in controls.items():
        if not isinstance(control, Control):
            raise TypeError(f"explore {number}: expected {name} to be a control, like slider(…), got {control!r}")
    if not isinstance(scene, FunctionType):
        raise TypeError(f"explore {number}: expected the scene to be a function, got {scene!r}")
    if held not in HELD:
        raise ValueError(f"explore {number}: expected held to be one of {', '.join(HELD)}, got {held!r}")
    explorer = Explorer(with_names_of_now(scene), size, controls, number)
    shown.append(explorer)
    explorer.image, alt = explorer.still(), explorer.describe()
    image = explorer.image
    rich, metadata = picture_bundle(image, size, alt, held)
    rich[WIDGET] = explorer.live(image)._repr_mimebundle_()[WIDGET]
    publish(alt, rich, metadata, terminal=f"[Figure {number}, live] {alt}")
    publish_caption(number, caption, alt, held)
