"""Names are drawn whatever is in them, in a font that has their characters where there is one."""

import logging
import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from engine import fonts
from engine.fonts import DEFAULT_FONT, drawable, plot_texts
from engine.predict.text import MAX_LETTERS, letters, shown_name

NAMES = [
    "", " ", "cat\n", "a\r\nb", "a\x85b", "a\tb", "\x00", "\x1b[31mred", "l\udce9.png", "\ud800", "\u202egpj.exe",
    "\ufeffcat", "x" * 10_000, "ﷺ" * 200, "مرحبا بالعالم", "עברית", "e\u0301a\u0308", "\u0301", "猫", "日本語",
    "한국어", "हिन्दी", "👨\u200d👩\u200d👧", "\ue000", "\U0010ffff", "$x_1$", "$", "a$b$c{", r"\frac{1}{0}",
    "<b>&amp;</b>", "%s %d", "a|b",
]  # fmt: skip


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """(characters) → the path of a font that has them, and digits and letters, and is the only one installed."""

    def install(characters):
        pen = TTGlyphPen(None)
        pen.moveTo((0, 0))
        for corner in ((0, 500), (500, 500), (500, 0)):
            pen.lineTo(corner)
        pen.closePath()
        signs = sorted({*characters, *map(chr, range(32, 127))})
        names = [".notdef", *(f"sign{ord(sign):x}" for sign in signs)]
        builder = FontBuilder(1000, isTTF=True)
        builder.setupGlyphOrder(names)
        builder.setupCharacterMap(dict(zip(map(ord, signs), names[1:], strict=True)))
        builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
        builder.setupHorizontalMetrics(dict.fromkeys(names, (600, 0)))
        builder.setupHorizontalHeader(ascent=800, descent=-200)
        builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
        builder.setupOS2()
        builder.setupPost()
        builder.save(tmp_path / "Squares.ttf")
        monkeypatch.setattr(fonts, "_installed_fonts", lambda: [tmp_path / "Squares.ttf"])
        fonts._font_for.cache_clear()
        return tmp_path / "Squares.ttf"

    yield install
    fonts._font_for.cache_clear()
    letters.cache_clear()


@pytest.fixture
def no_fonts(monkeypatch):
    monkeypatch.setattr(fonts, "_installed_fonts", list)
    for cached in (fonts._font_for, fonts._say_once, letters):
        cached.cache_clear()
    yield
    for cached in (fonts._font_for, letters):
        cached.cache_clear()


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name_is_drawn(name, no_fonts):
    for size in (10, 33):
        drawn = letters(name, size)
        assert drawn.ndim == 2 and drawn.dtype == np.uint8 and drawn.shape[0] < 3 * size
    words = shown_name([name], 0)
    assert words and len(words) <= MAX_LETTERS + 10 and letters(words, 12).any()


def test_a_decomposed_accent_is_drawn_as_the_composed_one():
    assert np.array_equal(letters("e\u0301", 20), letters("é", 20))


def test_a_class_without_a_name_is_its_number():
    assert [shown_name(["cat", " "], index) for index in range(3)] == ["cat", "1", "2"]


def test_a_font_that_has_the_characters_is_used(installed):
    path = installed("猫子")
    assert drawable("猫子 2") == ("猫子 2", path)
    assert drawable("cat") == ("cat", DEFAULT_FONT)
    assert not np.array_equal(letters("猫", 20), letters("\\u732b", 20))


def test_what_no_font_has_is_spelled_and_said_once(no_fonts, caplog):
    with caplog.at_level(logging.WARNING):
        assert drawable("猫 cat") == ("\\u732b cat", DEFAULT_FONT)
        assert drawable("👍")[0] == "\\U0001f44d"
    assert len(caplog.records) == 1 and "no font installed here" in caplog.text


def test_the_font_that_has_most_is_used_and_the_rest_spelled(installed):
    path = installed("猫")
    assert drawable("猫👍") == ("猫\\U0001f44d", path)


def test_fonts_that_cannot_be_read_are_passed_over(tmp_path, monkeypatch, installed):
    path = installed("猫")
    (tmp_path / "a.ttf").write_bytes(b"no font")
    monkeypatch.setattr(fonts, "_installed_fonts", lambda: [tmp_path / "a.ttf", tmp_path / "absent.ttf", path])
    assert drawable("猫")[1] == path


def test_matplotlib_draws_any_name_without_a_word(tmp_path, installed):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    installed("猫日本語")
    texts, font = plot_texts(NAMES)
    assert font["fontfamily"] == ["DejaVu Sans", "Squares"]
    figure = Figure(figsize=(2, 2))
    axes = figure.add_subplot()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        axes.set_yticks(range(len(texts)), [text[:40] for text in texts], **font)
        FigureCanvasAgg(figure).print_png(tmp_path / "a.png")
