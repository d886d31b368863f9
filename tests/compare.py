"""Whether two runs of a cell gave the same outputs, as a careful person would say: the heart of the regression test.

Text must be the same, whole numbers too; decimal numbers may differ in their last digits. Pictures are held by their
description, and as tightly as the figure says of itself: exact ones by their pixels and every number, those of trained
networks by their size, by how much is drawn, and by the words of the description (claims hold the numbers), measured
ones by the words alone. What is marked as measured (times, devices) is not compared. Live widgets are not compared:
their still picture is.
"""

import base64
import io
import re

import numpy as np
from PIL import Image

from lbdl.show import HELD, MEASURED

RELATIVE, ABSOLUTE = 1e-3, 1e-6  # how far decimal numbers may be apart
PIXEL_STEP, PIXEL_SHARE = 40, 1e-3  # "exact" pictures: at most this share of pixels may differ by more than this step
EXACT_MEAN = 1.0  # and the mean difference of all pixels, of 255, may not be more than this
INK_BLOCK, INK_FACTOR = 8, 2.0  # "trained" pictures: what is drawn, by blocks of pixels, may change by this factor

NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?(?![\w])|\bnan\b|\binf\b")
WHOLE = re.compile(r"[-+−]?\d+")
SPAN = re.compile(rf'<span class="{MEASURED}">.*?</span>', re.DOTALL)
UNSTABLE = ("application/vnd.jupyter.widget-view+json",)


def same_text(stored: str, new: str, numbers: str = "close") -> bool:
    """Whether two texts agree. Decimals may differ by little; with numbers="any" all numbers may differ."""
    stored, new = (SPAN.sub("<span/>", text).strip() for text in (stored, new))
    if stored == new:
        return True
    if NUMBER.sub("#", stored) != NUMBER.sub("#", new):
        return False
    if numbers == "any":
        return True
    return all(_same_number(a, b) for a, b in zip(NUMBER.findall(stored), NUMBER.findall(new), strict=True))


def _same_number(a: str, b: str) -> bool:
    if a == b:
        return True
    if WHOLE.fullmatch(a) and WHOLE.fullmatch(b):
        return False
    left, right = (float(text.replace("−", "-")) for text in (a, b))
    return bool(np.isclose(left, right, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True))


def _pixels(encoded: str | bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"), dtype=np.float32)


def picture_difference(stored: str, new: str, held: str) -> str | None:
    """What is wrong between two PNGs in base64, or None. `held` is "exact", "trained" or "measured"."""
    if held not in HELD:
        raise ValueError(f"expected held to be one of {', '.join(HELD)}, got {held!r}")
    if stored == new or held == "measured":
        return None
    try:
        before, now = _pixels(stored), _pixels(new)
    except (OSError, ValueError) as error:
        return f"a picture cannot be read: {error}"
    if before.shape != now.shape:
        return f"the picture was {before.shape[1]} x {before.shape[0]} pixels, now {now.shape[1]} x {now.shape[0]}"
    if held == "exact":
        change = np.abs(before - now)
        share, mean = float((change.max(-1) > PIXEL_STEP).mean()), float(change.mean())
        if share > PIXEL_SHARE:
            return f"{share:.2%} of the pixels changed (allowed {PIXEL_SHARE:.2%})"
        return (
            f"the pixels changed by {mean:.1f} of 255 on average (allowed {EXACT_MEAN})" if mean > EXACT_MEAN else None
        )
    before, now = _ink(before), _ink(now)
    if max(before, now) > INK_FACTOR * min(before, now):
        return f"the drawing covered {before:.1f} of 255, now {now:.1f} (allowed a factor of {INK_FACTOR:g})"
    return None


def _ink(pixels: np.ndarray) -> float:
    """How much is drawn: the mean difference of blocks of pixels from the paper, of 255."""
    high, wide = (size // INK_BLOCK for size in pixels.shape[:2])
    cut = pixels[: high * INK_BLOCK, : wide * INK_BLOCK]
    blocks = cut.reshape(high, INK_BLOCK, wide, INK_BLOCK, 3).mean((1, 3))
    return float(np.abs(blocks - np.median(blocks, (0, 1))).mean())


def _normal(outputs: list[dict]) -> list[tuple[str, dict[str, str], str]]:
    """Outputs as (kind, {form: content}, held): streams joined by name and put first, then displays in order."""
    streams: dict[str, str] = {}
    shown = []
    for output in outputs:
        kind = output["output_type"]
        if kind == "stream":
            streams[output["name"]] = streams.get(output["name"], "") + output["text"]
        elif kind == "error":
            shown.append(("error", {"name": output["ename"], "value": output["evalue"]}, "exact"))
        else:
            forms = {mime: content for mime, content in output["data"].items() if mime not in UNSTABLE}
            if forms:
                held = output.get("metadata", {}).get("lbdl", {}).get("held", "exact")
                shown.append(("display", forms, held))
    return [(name, {"text": text}, "exact") for name, text in sorted(streams.items())] + shown


def differences(stored: list[dict], new: list[dict]) -> list[str]:
    """All that differs between the stored outputs of a cell and new ones, a message each; empty when they agree."""
    before, now = _normal(stored), _normal(new)
    kinds = [kind for kind, _, _ in before], [kind for kind, _, _ in now]
    if kinds[0] != kinds[1]:
        listed = "\n".join(f"  {kind}: {_excerpt(forms)}" for kind, forms, _ in now)
        return [f"the outputs were {kinds[0] or 'none'}, now they are {kinds[1] or 'none'}:\n{listed}"]
    found = []
    for (kind, old_forms, old_held), (_, new_forms, new_held) in zip(before, now, strict=True):
        if set(old_forms) != set(new_forms) or old_held != new_held:
            found.append(f"{kind} had {sorted(old_forms)} ({old_held}), now {sorted(new_forms)} ({new_held})")
            continue
        for form in old_forms:
            found += _form_difference(kind, form, old_forms[form], new_forms[form], new_held)
    return found


def _form_difference(kind: str, form: str, stored: object, new: object, held: str) -> list[str]:
    if form in ("image/png", "image/jpeg"):
        problem = picture_difference(stored, new, held)
        return [f"{kind} {form}: {problem}"] if problem else []
    stored, new = (text if isinstance(text, str) else repr(text) for text in (stored, new))
    if same_text(stored, new, "close" if held == "exact" else "any"):
        return []
    return [f"{kind} {form}\n  stored: {_clip(stored)}\n  now:    {_clip(new)}"]


def _clip(text: str, most: int = 600) -> str:
    return text if len(text) <= most else text[:most] + " …"


def _excerpt(forms: dict[str, str]) -> str:
    return _clip(str(forms.get("text/plain") or next(iter(forms.values()))), 200)
