"""Running command lines as a person does."""

import atexit
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import main_guard
from tests.processes import ENVIRONMENT, ROOT, start_prepared

LONGEST = 300  # seconds


@pytest.fixture(scope="session")
def start():
    """(*words) → the process of ``python *words``, its output in one stream."""

    def start(*words, **kwargs):
        return subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=ROOT,
            env=ENVIRONMENT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **kwargs,
        )

    return start


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """(*words, code=0) → the output of ``python *words``, which must end with that exit code. `start` starts Python
    itself; here a process that has everything imported is forked."""
    folder = tmp_path_factory.mktemp("outputs")

    def run(*words, code=0):
        output = folder / "output.txt"

        def started(context):
            process = context.Process(target=_command, args=(list(map(str, words)), output))
            process.start()
            return process

        process = start_prepared(started)
        process.join(LONGEST)
        if process.exitcode is None:
            process.kill()
            process.join()
        said = output.read_text(errors="replace")
        assert process.exitcode == code, said
        return said

    return run


@pytest.fixture
def call(load_tool, monkeypatch, capsys):
    """(tool, *words) → exit code and output of a command's own main in this process, as ``subprocess.run`` has them:
    where the process itself is shown already, and starting one takes more than what it does."""

    def call(tool, *words):
        monkeypatch.setattr(sys, "argv", [f"tools/{tool}.py", *map(str, words)])
        try:
            code = main_guard(load_tool(tool).main)
        except SystemExit as end:  # argparse's way
            code = end.code
        return subprocess.CompletedProcess(sys.argv, code, *capsys.readouterr())

    return call


def _command(words: list[str], output: Path) -> None:
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT)
    sys.argv, sys.path[0] = words, str(ROOT / "tools")
    try:
        runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which end a loader's workers; multiprocessing would wait for them instead
