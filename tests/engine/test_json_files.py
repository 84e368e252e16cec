"""JSON in each of its encodings, and what cannot be read said with its place."""

import codecs
import json

import pytest

from engine.errors import UserError
from engine.json_files import read_json

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
