"""A log line is written whatever the files in it are called, and whatever the console can show."""

import io
import logging

import pytest

from engine.logs.run_log import log_to, setup_logging

pytestmark = pytest.mark.usefixtures("runs_in_this_process")


@pytest.mark.parametrize("encoding, shown", [("utf-8", r"caf\xe9 and 東京"), ("ascii", r"caf\xe9 and \u6771\u4eac")])
def test_names_of_any_bytes_can_be_logged(tmp_path, monkeypatch, capsys, encoding, shown):
    console = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", console)
    package = f"room_of_{encoding.replace('-', '_')}"
    setup_logging([package])
    setup_logging([package])  # a second run in this process says each line once, too
    log_to(tmp_path)
    logging.getLogger(package).warning("replaced: %s and 東京", "caf\udce9")
    for handler in logging.getLogger(package).handlers:
        handler.flush()
    console.flush()
    assert console.buffer.getvalue().decode(encoding).count(shown) == 1
    assert r"caf\xe9 and 東京" in (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "Logging error" not in capsys.readouterr().err
