"""A person's mistake ends in one line and exit code 2; a bug keeps its traceback."""

import errno
import os
import subprocess
import sys

import pytest

from engine.errors import UserError, main_guard


def fail(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_the_code_of_main_is_passed_on(returned, code):
    assert main_guard(lambda: returned) == code


def test_user_error_is_printed_without_traceback(capsys):
    assert main_guard(fail(UserError("config.yaml: no key SOLVER.LR; nearest: SOLVER.BASE_LR"))) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: config.yaml: no key SOLVER.LR; nearest: SOLVER.BASE_LR\n"
    assert captured.out == ""


def test_only_the_first_of_several_processes_prints(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert main_guard(fail(UserError("wrong"))) == 2
    assert capsys.readouterr().err == ""


def test_interruption_gives_the_shells_number():
    assert main_guard(fail(KeyboardInterrupt())) == 130


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        main_guard(fail(ZeroDivisionError()))


def test_a_full_disk_is_no_bug(capsys):
    assert main_guard(fail(OSError(errno.ENOSPC, "No space left on device", "run/plots/confusion.png"))) == 2
    assert capsys.readouterr().err == "error: run/plots/confusion.png: No space left on device\n"
    with pytest.raises(OSError):
        main_guard(fail(OSError(errno.EBADF, "Bad file descriptor")))


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8:strict"])
def test_letters_that_a_console_has_not_come_as_escapes(encoding):
    code = (
        "import sys; from engine.errors import UserError, main_guard\n"
        "def main():\n"
        "    print('caf\\u00e9 \\u884c \\udcff'); raise UserError('\\u884c \\udcff')\n"
        "sys.exit(main_guard(main))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, timeout=30)
    assert done.returncode == 2 and done.stderr.startswith(b"error: ") and done.stdout.startswith(b"caf")
    assert b"\\udcff" in done.stdout and b"Traceback" not in done.stderr


def test_a_reader_that_leaves_is_no_error():
    code = (
        "import sys; from engine.errors import main_guard\n"
        "def main():\n"
        "    for number in range(200_000): print(number)\n"
        "sys.exit(main_guard(main))"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    writer.stdout.readline()
    writer.stdout.close()
    assert writer.stderr.read() == b""
    writer.stderr.close()
    assert writer.wait(timeout=30) == 0
