"""JSON in each of its encodings, and what cannot be read said with its place."""

import codecs
import json

import numpy as np
import pytest

from engine.errors import UserError
from engine.json_files import _parse, read_json
from soak.mutation import mutate_json

VALUE = {"name": "Fußgänger 行人", "numbers": [1, 1.5, 10**300]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_every_encoding_of_json_is_read(tmp_path, encoding, ascii_only):
    path = tmp_path / "value.json"
    path.write_bytes(json.dumps(VALUE, ensure_ascii=ascii_only).encode(encoding))
    assert read_json(path) == VALUE


def test_marks_of_either_order_are_read(tmp_path):
    path = tmp_path / "value.json"
    for mark, encoding in ((codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF32_LE, "utf-32-le")):
        path.write_bytes(mark + json.dumps(VALUE).encode(encoding))
        assert read_json(path) == VALUE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{\n"name": "Fußgänger"}'.encode("cp1252"),
            r"annotations: .*value.json is not UTF-8.*line 2, near .*Fu\\xdfg",
        ),
        ('["行人"]'.encode("gbk"), r"byte 2 .*cp1252 or GBK.*iconv -f CP1252 -t UTF-8"),
        ("['\ud83d']".encode("utf-8", "surrogatepass"), r"is not UTF-8"),
        (b"\x89PNG\r\n\x1a\n\xff\xff", r"is not a JSON text.*Is it an archive or a picture"),
        (b"\xff\xfe[\x00\x00", r"is not"),
        (b"", r"is empty"),
        (codecs.BOM_UTF8 + b" \n", r"is empty"),
        (b'{"a": [1, 2,]}', r"line 1, column 13"),
        (b'{"a": [1, 2', r"was it cut off\?"),
        (b'{"a":\n 1' + b"0" * 5000 + b"}", r"line 2, column 2: a whole number of 5001 digits"),
        (b"[" * 100_000 + b"]" * 100_000, r"nested too deeply"),
        (b"<html>", r"not valid JSON: line 1, column 1"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, content, message):
    path = tmp_path / "value.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_json(path, "annotations")


def python_reads(path):
    try:
        return repr(_parse(path.read_bytes(), path, "JSON file"))
    except UserError as error:
        return str(error)


def we_read(path):
    try:
        return repr(read_json(path))
    except UserError as error:
        return str(error)


ODD = (
    "123456789012345678901234567890", "18446744073709551616", "-9223372036854775809", "-0", "-0.0", "1E5", "1e400",
    "5e-324", "0.1234567890123456789", "NaN", "[-Infinity]", '"\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', '"\x01"',
    "[1,]", '{"a": 1, "a": 2}', " [1]\n", "[1] x", "01", "1.", "tru", '{"a"}', '"\x7f\u2028"',
    "[" * 2000 + "]" * 2000,
)  # fmt: skip


@pytest.mark.parametrize("text", ODD)
def test_both_readers_see_one_value(tmp_path, text):
    path = tmp_path / "value.json"
    path.write_text(text, encoding="utf-8")
    assert we_read(path) == python_reads(path)


def test_both_readers_see_one_value_in_damaged_files(tmp_path):
    path, random = tmp_path / "value.json", np.random.default_rng(0)
    value = {"a": [{"b": n, "c": n / 3, "d": [None, True, str(n), {}]} for n in range(30)], "e": "Fußgänger 行人\n"}
    read = 0
    for _ in range(500):
        path.write_bytes(mutate_json(value, random))
        ours = we_read(path)
        assert ours == python_reads(path)
        read += ours.startswith("{")
    assert 50 < read < 480
