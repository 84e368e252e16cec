"""A person's mistake ends in one line and exit code 2; a bug keeps its traceback."""

import errno
import os
import subprocess
import sys

import numpy as np
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


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((1 << 50,), np.dtype("uint8")),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB.\nOf the allocated memory"),  # a subclass of it
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_too_little_memory_is_said_with_what_helps(error, capsys):
    assert main_guard(fail(error)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: out of memory") and "SOLVER.IMS_PER_BATCH" in said and said.count("\n") == 1


def run(code, **streams):
    code = f"import sys; from engine.errors import main_guard\n{code}\nsys.exit(main_guard(main))"
    return subprocess.run([sys.executable, "-c", code], text=True, timeout=60, **streams)


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_full_standard_output_is_said(lines):
    """A line stays in Python's buffer until the end; many do not."""
    with open("/dev/full", "w") as full:
        done = run(f"def main(): [print(n) for n in range({lines})]", stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (2, "error: standard output: No space left on device\n")


def test_nowhere_to_print_an_error_is_no_traceback():
    with open("/dev/full", "w") as full:
        done = run("def main(): raise SystemExit(main_guard(lambda: open('/none/none')))", stdout=full, stderr=full)
    assert done.returncode == 2


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
