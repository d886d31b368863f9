"""Drive the companion as a reader does: a real JupyterLab in a real browser, with keyboard and mouse.

with serve(folder) as lab, launch() as browser, opened(browser, lab, "01_machine_learning") as notebook:
    notebook.run_all()
    print(notebook.problems())
    for widget in notebook.widgets():
        print(widget.words(), [(slider.label, slider.value()) for slider in widget.sliders()])
"""

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops
from playwright.sync_api import Browser, Locator, Page, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from lbdl.bars import VARIABLE
from lbdl.figures import PALETTE_ERROR

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",  # Chromium refuses its sandbox to root, and CI containers run as root
    "--disable-gpu",  # there is none; drawing in software is also the slower, honest case
    "--disable-dev-shm-usage",  # containers give /dev/shm 64 MB, too little for Lab
    "--no-first-run",  # no welcome page
    "--disable-background-networking",  # and nothing may reach out
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
)
VIEWPORT = {"width": 1280, "height": 900}
START_TIMEOUT = 60  # seconds for the server to answer, and for a page to show its notebook with an idle kernel
RUN_TIMEOUT = 1800  # seconds for all cells of a notebook, some of which train for minutes, on a busy machine
MOVE_TIMEOUT = 10  # seconds from a move to its last picture: far above the aim, for machines that are busy
QUIET = 0.5  # seconds without a new picture after a sharp one, after which several moves are over
KEY_PAUSE = 0.06  # seconds from a picture to the next key press, when they are timed: a key that is held down
POLL, PAGE_POLL = 0.1, 0.05  # seconds between two looks at a server that starts, and at a page
ANNOUNCEMENTS = "@jupyterlab/apputils-extension:announcements"  # asks, over the notebook, whether it may fetch news

# What lbdl.explore shows: controls, picture, words.
EXPLORE = ".jp-OutputArea-output .widget-vbox:has(> img.widget-image)"

# Scripts for the page. Lab's own model, not the page, knows what the cells put out.
IDLE = "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
RUN_ALL = """() => {
    window.ran = false;
    window.jupyterapp.commands.execute('notebook:run-all-cells').finally(() => { window.ran = true; });
}"""
SHUT_DOWN = "() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()"
PROBLEMS = """() => {
    const found = [];
    for (const cell of window.jupyterapp.shell.currentWidget.content.model.cells) {
        const source = cell.sharedModel.source.trim();
        if (cell.type !== 'code' || source === '') continue;
        const where = ` in the cell: ${source.split('\\n')[0]}`;
        if (cell.executionCount === null) found.push('not run to its end' + where);
        for (let i = 0; i < cell.outputs.length; i++) {
            const output = cell.outputs.get(i).toJSON();
            if (output.output_type === 'error') found.push(`${output.ename}: ${output.evalue}` + where);
            if (output.name === 'stderr') found.push(`stderr: ${[output.text].flat().join('').trim()}` + where);
        }
    }
    const prompts = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')];
    if (prompts.some(prompt => prompt.textContent.includes('[*]'))) found.push('a cell is left with [*]');
    return found;
}"""
OUTPUTS = """() => {
    const cells = [...window.jupyterapp.shell.currentWidget.content.model.cells].filter(cell => cell.type === 'code');
    return cells.map(cell => [...Array(cell.outputs.length).keys()].map(i => cell.outputs.get(i).toJSON()));
}"""
STILLS = """() => {
    const found = [];
    for (const cell of window.jupyterapp.shell.currentWidget.content.model.cells) {
        for (let i = 0; i < (cell.outputs?.length ?? 0); i++) {
            const data = cell.outputs.get(i).toJSON().data ?? {};
            const live = 'application/vnd.jupyter.widget-view+json' in data;
            for (const form of ['image/png', 'image/jpeg']) if (live && form in data) found.push(data[form]);
        }
    }
    return found;
}"""
# Counts the pictures of one widget, and for each key press takes the time until its pixels are there: the new source
# is decoded, then a frame begins, and what is posted from within a frame is handled after its painting.
WATCH = """image => {
    if (image.watch) return;
    const watch = image.watch = {shown: 0, pending: 0, last: 0, pressed: null, times: []};
    document.addEventListener('keydown', () => { watch.pressed = performance.now(); }, true);
    const painted = new MessageChannel();
    painted.port1.onmessage = () => {
        watch.shown += 1;
        watch.pending -= 1;
        watch.last = performance.now();
        if (watch.pressed !== null) watch.times.push(watch.last - watch.pressed);
        watch.pressed = null;
    };
    const decoded = () => requestAnimationFrame(() => painted.port2.postMessage(0));
    const replaced = () => { watch.pending -= 1; };  // before it was decoded: nobody saw it
    const changed = () => { watch.pending += 1; image.decode().then(decoded, replaced); };
    new MutationObserver(changed).observe(image, {attributes: true, attributeFilter: ['src']});
}"""
# While a slider moves, pictures are coarse; the one that stays has as many pixels as the first.
SETTLED = """([image, shown, sharp, quiet]) => image.complete && image.naturalWidth === sharp
    && image.watch.pending === 0 && image.watch.shown > shown && performance.now() - image.watch.last > quiet"""
PLACE = """handle => {
    const slider = handle.closest('.noUi-target').noUiSlider;
    const {min, max} = slider.options.range;
    return (Number(slider.get(true)) - min) / (max - min);
}"""
MOVED = "([image, shown]) => image.watch.shown > shown"
PICTURE = """async image => {
    const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
    return btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(''));
}"""


def find_chromium() -> str | None:
    """Where Chromium or Chrome is installed; None if nowhere."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


def _wait(condition: Callable[[], bool], timeout: float, what: str) -> None:
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout:g} s in vain: {what}")
        time.sleep(POLL)


def _wait_in(page: Page, condition: str, timeout: float, argument: object = None) -> None:
    """Wait until a script is true; on its own, Playwright would ask at each frame, and keep a core busy with it."""
    page.wait_for_function(condition, arg=argument, polling=1000 * PAGE_POLL, timeout=1000 * timeout)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(f"{address}/api/status", timeout=1).status == 200
    except (urllib.error.URLError, TimeoutError):
        return False


@dataclass
class Lab:
    """A JupyterLab that runs: its address, and the folder that it shows."""

    address: str
    folder: Path


@contextmanager
def serve(notebooks: Path) -> Iterator[Lab]:
    """Start JupyterLab on a copy of a folder of notebooks, with settings of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        home = Path(temporary)
        folder = shutil.copytree(notebooks, home / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
        page_config = home / "config" / "labconfig" / "page_config.json"
        page_config.parent.mkdir(parents=True)
        page_config.write_text(json.dumps({"disabledExtensions": {ANNOUNCEMENTS: True}}))
        folders = {
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
            "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "IPYTHONDIR": "ipython",
        }
        environment = {"OMP_NUM_THREADS": "1"} | os.environ  # the browser needs the other core
        environment |= {VARIABLE: "0"} | {name: str(home / part) for name, part in folders.items()}
        port = _free_port()
        command = [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"),
            "--ServerApp.port_retries=0",  # else it would quietly move to another port
            "--IdentityProvider.token=",
            "--LabApp.expose_app_in_browser=True",  # as window.jupyterapp, which the scripts above talk to
            f"--ServerApp.root_dir={folder}",
        ]
        with (home / "log").open("w+") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            address = f"http://127.0.0.1:{port}"
            try:
                _wait(lambda: server.poll() is not None or _answers(address), START_TIMEOUT, "JupyterLab to start")
                if server.poll() is not None:
                    log.seek(0)
                    raise RuntimeError(f"JupyterLab ended while starting:\n{log.read()[-2000:]}")
                yield Lab(address, folder)
            finally:
                server.terminate()
                try:
                    server.wait(START_TIMEOUT)
                except subprocess.TimeoutExpired:
                    server.kill()


@contextmanager
def launch() -> Iterator[Browser]:
    """Start the installed Chromium without a window.

    Raises:
        FileNotFoundError: there is none.
    """
    path = find_chromium()
    if path is None:
        raise FileNotFoundError(f"expected one of {', '.join(PROGRAMS)} to be installed, found none")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def _decoded(encoded: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")


def differ(before: Image.Image, now: Image.Image) -> bool:
    """Whether a careful eye could tell two pictures apart: more than a palette of 256 colours changes any pixel."""
    if before.size != now.size:
        return True
    return max(most for _least, most in ImageChops.difference(before, now).getextrema()) > PALETTE_ERROR


class Slider:
    """One slider of a widget, from its label to its readout."""

    def __init__(self, row: Locator):
        self.handle = row.locator(".noUi-handle")
        self.track = row.locator(".noUi-base")
        self.label = row.locator("label").inner_text()

    def value(self) -> float:
        """The value where the handle stands; for a logarithmic slider its exponent of 10."""
        return float(self.handle.get_attribute("aria-valuetext"))

    def place(self) -> float:
        """Where the handle stands: 0 at the lower end, 1 at the upper."""
        return self.handle.evaluate(PLACE)


class Widget:
    """What one `explore` shows: its controls, its picture, its words.

    Attributes:
        still: the picture that is stored with the notebook, before anything moved.
    """

    def __init__(self, box: Locator, still: Image.Image):
        self.box, self.still, self.page = box, still, box.page
        self.image = box.locator("> img.widget-image").element_handle()
        self.image.scroll_into_view_if_needed()
        self.image.evaluate("image => image.decode()")
        self.image.evaluate(WATCH)

    def sliders(self) -> list[Slider]:
        """Its sliders, those over named options included."""
        return [Slider(row) for row in self.box.locator(".widget-slider").all()]

    def toggles(self) -> list[Locator]:
        """Its check boxes."""
        return self.box.locator(".widget-checkbox input").all()

    def lines(self) -> list[Locator]:
        """Its lines to type in."""
        return self.box.locator(".widget-text input").all()

    def words(self) -> str:
        """What stands under the picture."""
        return self.box.locator("> .widget-html").text_content().strip()

    def wait_for_words(self, words: str) -> None:
        """Wait until these words stand under the picture."""
        self.box.locator("> .widget-html", has_text=words).wait_for(timeout=1000 * MOVE_TIMEOUT)

    def picture(self) -> Image.Image:
        """The picture as it is now."""
        return _decoded(self.image.evaluate(PICTURE))

    def shown(self) -> int:
        """How many pictures it showed so far, since the first."""
        return self.image.evaluate("image => image.watch.shown")

    def settled(self, shown: int, quiet: float = QUIET) -> Image.Image:
        """Wait until moves have their last picture, and return it.

        Args:
            shown: the count of pictures before the moves.
            quiet: seconds without a new picture after a sharp one; a single move needs none, for it has only one.
        """
        try:
            _wait_in(self.page, SETTLED, MOVE_TIMEOUT, [self.image, shown, self.still.width, 1000 * quiet])
        except PlaywrightTimeout as error:
            words = self.words()
            raise TimeoutError(f"no sharp picture followed a move, and under the sliders stands: {words}") from error
        return self.picture()

    def type(self, control: Slider | Locator, *keys: str) -> None:
        """Press keys on a control, fast, and wait for nothing."""
        (control.handle if isinstance(control, Slider) else control).focus()
        for key in keys:
            self.page.keyboard.press(key)

    def press(self, control: Slider | Locator, *keys: str) -> Image.Image:
        """Press keys on a control, fast, and return the last picture that follows."""
        shown = self.shown()
        self.type(control, *keys)
        return self.settled(shown, QUIET if len(keys) > 1 else 0)

    def drag(self, slider: Slider, target: float, moves: int) -> tuple[Image.Image, int]:
        """Drag a slider by mouse to a place; return the last picture that follows, and how many were shown."""
        shown = self.shown()
        slider.handle.scroll_into_view_if_needed()
        handle, track = slider.handle.bounding_box(), slider.track.bounding_box()
        y = handle["y"] + handle["height"] / 2
        self.page.mouse.move(handle["x"] + handle["width"] / 2, y)
        self.page.mouse.down()
        self.page.mouse.move(track["x"] + target * track["width"], y, steps=moves)
        self.page.mouse.up()
        return self.settled(shown), self.shown() - shown

    def key_times(self, slider: Slider, presses: int) -> list[float]:
        """Milliseconds from key to pixels, for single presses that go to and fro between the ends of a slider."""
        slider.handle.focus()
        key = "ArrowRight"
        for _ in range(presses):
            key = {0: "ArrowRight", 1: "ArrowLeft"}.get(slider.place(), key)
            shown = self.shown()
            self.page.keyboard.press(key)
            _wait_in(self.page, MOVED, MOVE_TIMEOUT, [self.image, shown])
            self.page.wait_for_timeout(1000 * KEY_PAUSE)
        self.settled(shown)
        return self.image.evaluate("image => image.watch.times")[-presses:]


class Notebook:
    """A notebook open in JupyterLab."""

    def __init__(self, page: Page):
        self.page = page
        self.page_errors: list[str] = []
        page.on("pageerror", lambda error: self.page_errors.append(f"in the page: {error}"))

    def run_all(self) -> None:
        """Run all cells and wait until they are done."""
        self.page.evaluate(RUN_ALL)
        _wait_in(self.page, "() => window.ran", RUN_TIMEOUT)
        _wait_in(self.page, IDLE, START_TIMEOUT)

    def problems(self) -> list[str]:
        """Errors and warnings under cells, cells that were not run to their end, and errors of the page itself."""
        return self.page.evaluate(PROBLEMS) + self.page_errors

    def outputs(self) -> list[list[dict]]:
        """The outputs of each code cell, in the form in which notebooks store them."""
        return self.page.evaluate(OUTPUTS)

    def widgets(self) -> list[Widget]:
        """What its `explore` calls show, from top to bottom."""
        stills = [_decoded(encoded) for encoded in self.page.evaluate(STILLS)]
        boxes = self.page.locator(EXPLORE)
        if stills:
            boxes.nth(len(stills) - 1).wait_for(timeout=1000 * START_TIMEOUT)
        return [Widget(box, still) for box, still in zip(boxes.all(), stills, strict=True)]


@contextmanager
def opened(browser: Browser, lab: Lab, name: str, screenshot: Path | None = None) -> Iterator[Notebook]:
    """Open a notebook by its name without suffix and wait for its kernel; if something fails, picture the window."""
    page = browser.new_page(viewport=VIEWPORT)
    try:
        notebook = Notebook(page)
        page.goto(f"{lab.address}/lab/tree/{name}.ipynb?reset")  # reset: nothing else is open beside it
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=1000 * START_TIMEOUT)
        _wait_in(page, IDLE, START_TIMEOUT)
        yield notebook
        page.evaluate(SHUT_DOWN)
    except Exception as error:
        if screenshot:
            page.screenshot(path=screenshot)
            error.add_note(f"the window looked like this: {screenshot}")
        raise
    finally:
        page.close()
