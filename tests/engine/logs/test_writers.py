"""What a run writes while it trains: an error names the file, and a lost console is none."""

import errno
import subprocess
import sys

import pytest

from engine import compat  # noqa: F401  (before detectron2)
from engine.logs.writers import make_writers, saying_beside
from tests.full_disk import largest_file

from detectron2.utils.events import EventStorage

LOGGING = """
import logging, sys
from pathlib import Path
from engine.errors import main_guard
from engine.logs.run_log import log_to, setup_logging
def main():
    setup_logging(())
    log_to(Path(sys.argv[1]))
    for number in range(3):
        logging.getLogger("engine.run").info("line %d", number)
sys.exit(main_guard(main))
"""


def log(run, stdout=subprocess.DEVNULL):
    command = [sys.executable, "-c", LOGGING, str(run)]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120)


def test_a_log_without_room_ends_the_run_with_one_line(tmp_path):
    (tmp_path / "log.txt").symlink_to("/dev/full")
    done = log(tmp_path)
    assert (done.returncode, done.stderr) == (2, f"error: {tmp_path / 'log.txt'}: No space left on device\n")


def test_a_run_outlives_its_console(tmp_path):
    """As in `train | head -1`, or when the terminal is closed; the log file goes on."""
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as gone:
        gone.wait()
        done = log(tmp_path, stdout=gone.stdin)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(": ")[1] for line in (tmp_path / "log.txt").read_text().splitlines()] == [
        f"line {number}" for number in range(3)
    ]


def test_figures_without_room_name_their_file(tmp_path, capfd):
    with EventStorage(1) as storage:
        storage.put_scalar("total_loss", 1.0)
        _, figures, board = make_writers(tmp_path, 10, 0)
        for writer, name in ((figures, "metrics.jsonl"), (board, "events.out.tfevents")):
            for act in (writer.write, writer.close):
                with largest_file(0), pytest.raises(OSError) as raised:
                    act()
                assert raised.value.errno == errno.EFBIG and raised.value.filename.startswith(str(tmp_path / name))
    assert capfd.readouterr().err == ""  # TensorBoard's thread has its own way of saying it


def test_a_folder_without_room_for_figures_is_named(tmp_path, capfd):
    with largest_file(0), pytest.raises(OSError) as raised:
        make_writers(tmp_path, 10, 0)
    assert raised.value.filename.startswith(str(tmp_path / "events.out.tfevents"))
    assert capfd.readouterr().err == ""


def test_a_set_of_runs_is_told_of_at_the_end_of_each_line(tmp_path, caplog):
    caplog.set_level("INFO", logger="engine.run")
    with EventStorage(4) as storage:
        storage.put_scalars(total_loss=1.0, lr=0.1, time=2.0, data_time=0.0, images_per_second=1.0)
        console = make_writers(tmp_path, 10, 0)[0]
        with saying_beside(lambda seconds: f"run 3 of 5, {seconds:.0f} s left of it"):
            console.write()
        console.write()
    first, second = (record.getMessage() for record in caplog.records)
    assert first == f"{second}  run 3 of 5, 12 s left of it"
