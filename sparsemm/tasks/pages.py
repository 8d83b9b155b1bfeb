"""Rendered pages with the text and the box of every word: documents, word lists and charts.

Everything follows from (namespace, kind, index), so a page can be made again anywhere. The namespaces
train, heads and eval never share a seed or a string, and one font belongs to eval alone.
"""

import hashlib
import random
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

Namespace = Literal["train", "heads", "eval"]
Kind = Literal["document", "words", "chart"]

LETTERS = "abcdefghjkmnpqrstuvwxyz"  # i, l and o look like digits
DIGITS = "0123456789"
# matplotlib ships these files, so that every machine draws the same glyphs; "aileron" is Pillow's own.
SHARED_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif", "aileron")
EVAL_ONLY_FONTS = ("DejaVuSerif-Bold",)


def owner(text: str) -> Namespace:
    """The one namespace that may print `text`: 3/4 of all strings go to train, 1/8 to heads, 1/8 to eval."""
    share = hashlib.sha256(text.encode()).digest()[0] / 256
    return "train" if share < 0.75 else "heads" if share < 0.875 else "eval"


def fonts_of(namespace: Namespace) -> tuple[str, ...]:
    """Names of the fonts that pages of this namespace are set in."""
    return SHARED_FONTS + EVAL_ONLY_FONTS if namespace == "eval" else SHARED_FONTS


@dataclass(frozen=True)
class Word:
    """A string on a page and its ink box (left, top, right, bottom) in pixels, right and bottom exclusive."""

    text: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class PageSpec:
    """What a page looks like: the difficulty of a synthetic task.

    Raises:
        ValueError: a size that is not a positive multiple of 16 pixels, no entries, or an unknown font.
    """

    kind: Kind
    width: int = 256  # pixels
    height: int = 256  # pixels
    entries: tuple[int, int] = (12, 12)  # fewest and most entries, inclusive
    font_size: tuple[int, int] = (18, 20)  # pixels, inclusive
    contrast: tuple[int, int] = (120, 255)  # grey levels between ink and paper, inclusive
    fonts: tuple[str, ...] = ()  # empty: all that the namespace may use

    def __post_init__(self) -> None:
        for name, size in (("width", self.width), ("height", self.height)):
            if size <= 0 or size % 16:
                raise ValueError(
                    f"{name}={size}: must be a positive multiple of 16 pixels. "
                    f"Try {max(16, size // 16 * 16)}."
                )
        for name, limits in (
            ("entries", self.entries),
            ("font_size", self.font_size),
            ("contrast", self.contrast),
        ):
            if len(limits) != 2 or not 0 < limits[0] <= limits[1]:
                raise ValueError(f"{name}={list(limits)}: expected [least, most] with 0 < least <= most.")
        if self.contrast[1] > 255:
            raise ValueError(f"contrast={list(self.contrast)}: grey levels end at 255.")
        unknown = set(self.fonts) - set(SHARED_FONTS + EVAL_ONLY_FONTS)
        if unknown:
            raise ValueError(
                f"fonts={sorted(unknown)}: unknown. Choose from {SHARED_FONTS + EVAL_ONLY_FONTS}."
            )


@dataclass(frozen=True)
class Page:
    """A rendered page. `pairs` are (key, value) for documents and charts; `words` are in reading order."""

    image: Image.Image  # mode L
    words: tuple[Word, ...]
    pairs: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """All words in reading order, as a reader would say them."""
        return " ".join(word.text for word in self.words)


def make_page(namespace: Namespace, spec: PageSpec, index: int) -> Page:
    """Render page `index` of a namespace.

    Raises:
        ValueError: the page has no room for a single entry.
    """
    forbidden = set(spec.fonts) - set(fonts_of(namespace))
    if forbidden:
        raise ValueError(
            f"fonts={sorted(forbidden)}: kept for the eval namespace; {namespace} pages may not use them."
        )
    rng = random.Random(f"{namespace}/{spec.kind}/{index}")
    paper = rng.randint(215, 255)
    ink = max(0, paper - rng.randint(*spec.contrast))
    image = Image.new("L", (spec.width, spec.height), paper)
    font_name = rng.choice(spec.fonts or fonts_of(namespace))
    pen = _Pen(rng, namespace, image, ink, font_name, spec)
    words, pairs = pen.chart() if spec.kind == "chart" else pen.lines()
    if not words:
        raise ValueError(
            f"width={spec.width} height={spec.height}: no entry fits at font_size={list(spec.font_size)}. "
            "Use a larger page."
        )
    return Page(image, tuple(words), tuple(pairs))


def png_sha256(image: Image.Image) -> str:
    """A content hash of the pixels, to prove that two sets of images are disjoint."""
    return hashlib.sha256(f"{image.mode}{image.size}".encode() + image.tobytes()).hexdigest()


@cache
def load_font(name: str, size: int) -> FreeTypeFont:
    """A font by the name used in this module, `size` in pixels."""
    if name == "aileron":
        return ImageFont.truetype(BytesIO(_aileron()), size)
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), size)


def _aileron() -> bytes:
    font = ImageFont.load_default(size=10)
    assert isinstance(font, FreeTypeFont)
    return font.font_bytes


@cache
def _allowed(text: str, namespace: Namespace) -> bool:
    return owner(text) == namespace


class _Pen:
    """Draws one page; every choice comes from the page's own random generator."""

    def __init__(
        self,
        rng: random.Random,
        namespace: Namespace,
        image: Image.Image,
        ink: int,
        font: str,
        spec: PageSpec,
    ):
        self.rng, self.namespace, self.ink, self.font, self.spec = rng, namespace, ink, font, spec
        self.width, self.height = image.size
        self.draw = ImageDraw.Draw(image)

    def string(self, *alphabets: str) -> str:
        """A random string of this namespace, one character from each alphabet."""
        while True:
            text = "".join(self.rng.choice(alphabet) for alphabet in alphabets)
            if _allowed(text, self.namespace):
                return text

    def unique(self, count: int, *alphabets: str) -> list[str]:
        found: dict[str, None] = {}
        while len(found) < count:
            found[self.string(*alphabets)] = None
        return list(found)

    def put(self, text: str, left: int, top: int, font: FreeTypeFont) -> Word:
        x, y = left - int(font.getbbox(text)[0]), top - int(font.getbbox(text)[1])
        self.draw.text((x, y), text, font=font, fill=self.ink)
        mask, (dx, dy) = font.getmask2(text, "L")
        ink = mask.getbbox()  # font.getbbox would count the blank beside the glyphs
        highest = max(0, y + dy + ink[1])  # STIX digits pass the upper edge of a chart by a pixel
        return Word(text, (x + dx + ink[0], highest, x + dx + ink[2], y + dy + ink[3]))

    def lines(self) -> tuple[list[Word], list[tuple[str, str]]]:
        """Entries "key: value" (or single words) on rows, with free space shared out at random."""
        rng, spec = self.rng, self.spec
        count = rng.randint(*spec.entries)
        mixed = LETTERS + DIGITS
        if spec.kind == "document":
            keys = self.unique(count, LETTERS, LETTERS)
            values = [self.string(mixed, mixed, mixed, mixed) for _ in keys]
        else:
            keys, values = [], [self.string(*[mixed] * rng.randint(3, 6)) for _ in range(count)]
        rows: list[list[tuple[int, FreeTypeFont, int]]] = []  # per row: (entry, font, width)
        for entry in range(count):
            font = load_font(self.font, rng.randint(*spec.font_size))
            parts = (f"{keys[entry]}:", values[entry]) if keys else (values[entry],)
            need = sum(_width(font, part) for part in parts) + (_space(font) if keys else 0)
            if need > self.width:
                continue
            used = sum(width for _, _, width in rows[-1]) + 10 * len(rows[-1]) if rows else self.width
            if used + need <= self.width and rng.random() < 0.85:
                rows[-1].append((entry, font, need))
            else:
                rows.append([(entry, font, need)])
        heights = [max(_height(font) for _, font, _ in row) for row in rows]
        while rows and sum(heights) + 2 * (len(rows) - 1) > self.height:
            rows.pop()
            heights.pop()
        words: list[Word] = []
        pairs: list[tuple[str, str]] = []
        above = _shares(rng, self.height - sum(heights) - 2 * max(0, len(rows) - 1), len(rows) + 1)
        top = 0
        for row, height, gap in zip(rows, heights, above, strict=False):
            top += gap
            before = _shares(
                rng, self.width - sum(width for _, _, width in row) - 10 * (len(row) - 1), len(row) + 1
            )
            left = 0
            for (entry, font, width), space in zip(row, before, strict=False):
                left += space
                base = top + (height - _height(font)) // 2
                if keys:
                    key = self.put(f"{keys[entry]}:", left, base + _drop(font, f"{keys[entry]}:"), font)
                    value_left = left + _width(font, f"{keys[entry]}:") + _space(font)
                    value = self.put(values[entry], value_left, base + _drop(font, values[entry]), font)
                    words += [key, value]
                    pairs.append((keys[entry], values[entry]))
                else:
                    words.append(self.put(values[entry], left, base + _drop(font, values[entry]), font))
                left += width + 10
            top += height + 2
        return words, pairs

    def chart(self) -> tuple[list[Word], list[tuple[str, str]]]:
        """Bars with a key below and the value above; heights are proportional to the values."""
        rng = self.rng
        font = load_font(self.font, rng.randint(*self.spec.font_size))
        widest = max(_width(font, "999"), _width(font, "mm")) + 6
        count = min(rng.randint(*self.spec.entries), self.width // widest)
        keys = self.unique(count, LETTERS, LETTERS)
        values = [
            int(
                self.string(DIGITS[1:], DIGITS)
                if rng.random() < 0.5
                else self.string(DIGITS[1:], DIGITS, DIGITS)
            )
            for _ in keys
        ]
        line = _height(font) + 3
        floor, tallest = self.height - line, self.height - 2 * line
        if count < 1 or tallest < 1:
            return [], []
        pitch = self.width // count
        shift = rng.randint(0, self.width - pitch * count)
        tops, bottoms = [], []
        for column, (key, value) in enumerate(zip(keys, values, strict=True)):
            center = shift + pitch * column + pitch // 2
            bar = round(tallest * value / max(values))
            half = max(2, pitch // 4)
            shade = rng.randint(90, 200)
            self.draw.rectangle((center - half, floor - bar, center + half, floor - 1), fill=shade)
            label, above = str(value), floor - bar - line
            tops.append(self.put(label, center - _width(font, label) // 2, above + _drop(font, label), font))
            bottoms.append(self.put(key, center - _width(font, key) // 2, floor + 2 + _drop(font, key), font))
        self.draw.line((0, floor, self.width, floor), fill=self.ink)
        return tops + bottoms, [(key, str(value)) for key, value in zip(keys, values, strict=True)]


def _width(font: FreeTypeFont, text: str) -> int:
    x0, _, x1, _ = font.getbbox(text)
    return int(x1 - x0)


def _height(font: FreeTypeFont) -> int:
    _, y0, _, y1 = font.getbbox("Ag|")
    return int(y1 - y0)


def _drop(font: FreeTypeFont, text: str) -> int:
    """How far the ink of `text` starts below the top of the line, in pixels."""
    return int(font.getbbox(text)[1] - font.getbbox("Ag|")[1])


def _space(font: FreeTypeFont) -> int:
    return max(3, int(font.getlength(" ")))


def _shares(rng: random.Random, total: int, parts: int) -> list[int]:
    """Cut a non-negative length into `parts` random pieces."""
    cuts = sorted(rng.randint(0, max(0, total)) for _ in range(parts - 1))
    return [high - low for low, high in zip([0, *cuts], [*cuts, max(0, total)], strict=True)]
