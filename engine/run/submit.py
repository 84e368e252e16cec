"""A training as a job of a SLURM cluster: queued by submitit, its processes joined by torchrun on every node."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import UserError
from engine.train.stopping import GRACE

NOTICE = GRACE  # seconds before its end in which a job is told
_STARTS = 1000  # how often a job may use its time up and be queued again
# Options of sbatch that have a word of their own here, or on which a job's end, its processes and its log depend.
_OWN = {
    "nodes": "--nodes", "N": "--nodes", "gpus": "--gpus", "G": "--gpus", "gpus-per-node": "--gpus", "time": "--time",
    "t": "--time", "cpus-per-task": "--cpus", "c": "--cpus", "partition": "--partition", "p": "--partition",
    "comment": "--comment", "output": "--folder", "o": "--folder", "error": "--folder", "e": "--folder",
    "ntasks": "--gpus", "n": "--gpus", "ntasks-per-node": "--gpus", "signal": "--time", "array": "another job for each",
    "a": "another job for each", "no-requeue": "the training itself, without tools/submit.py",
}  # fmt: skip


@dataclass
class Resources:
    """What a job asks for.

    Attributes:
        nodes: machines.
        gpus: of each of them, a process for each; 0: one process a machine, on its CPUs.
        cpus: cores of each machine; None: the cluster's default.
        minutes: until the job is told to end, and queued again.
        partition, comment: as sbatch's options.
        more: other options of sbatch, by their names; True for one without a value.
    """

    nodes: int = 1
    gpus: int = 1
    cpus: int | None = None
    minutes: int = 60
    partition: str | None = None
    comment: str | None = None
    more: dict[str, str | bool] = field(default_factory=dict)

    @property
    def processes(self) -> int:
        """On each machine."""
        return max(self.gpus, 1)


class Job:
    """What runs on each node: torchrun with the training in it. submitit keeps it in a file and calls it there.

    A preempted job, and one whose time is up, is told ``NOTICE`` seconds before. Its processes then end with a
    checkpoint, and it is queued again; from its second start on, the training has ``--resume``.
    """

    def __init__(self, command: Sequence[str], processes: int, again: bool = False):
        self.command, self.processes, self.again = list(command), processes, again
        self._torchrun: subprocess.Popen | None = None
        self._stopping = False

    def __call__(self) -> None:
        """Raises RuntimeError where the training ends with an error."""
        here = import_submitit().JobEnvironment()
        again = self.again or int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0
        command = resumed(self.command) if again else self.command
        words = torchrun(command, list(here.hostnames), self.processes, here.job_id)
        print(shlex.join(words), flush=True)
        # A session of its own: SLURM's signals are answered here alone.
        environment = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(NOTICE), **os.environ}
        self._torchrun = subprocess.Popen(words, env=environment, start_new_session=True)
        signal.signal(signal.SIGTERM, self._stop)  # scancel's, and of clusters that give no notice
        if here.global_rank:  # the first node's queues the job again; if another one failed, SLURM would end it before
            signal.signal(getattr(signal, f"SIG{here.USR_SIG}"), self._stop)
        code = self._torchrun.wait()
        if code and not self._stopping:
            raise RuntimeError(f"the training's processes on {here.hostname} ended with exit code {code}")

    def checkpoint(self):
        """What is to be queued in place of this, when the processes have ended with a checkpoint. submitit calls it."""
        self._stop()
        return import_submitit().helpers.DelayedSubmission(Job(self.command, self.processes, again=True))

    def _stop(self, *_) -> None:
        self._stopping = True
        with suppress(ProcessLookupError, ChildProcessError):
            self._torchrun.send_signal(signal.SIGTERM)
            # Not `wait`: this may have interrupted that, which holds a lock.
            os.waitid(os.P_PID, self._torchrun.pid, os.WEXITED | os.WNOWAIT)

    def __reduce__(self):
        return Job, (self.command, self.processes, self.again)


def submit(command: Sequence[str], resources: Resources, folder: Path, cluster: str = "slurm"):
    """Queues a training.

    Args:
        command: the training's script, or an installed command, and its arguments.
        folder: for the job's own log and files, to be seen from all nodes.
        cluster: ``slurm``, or ``local`` for this machine.

    Returns:
        submitit's job.

    Raises:
        UserError: submitit or the cluster is not there, the command is none, or the cluster does not take the job.
    """
    checked = resolved(command)
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise UserError("there is no sbatch here: submit from a node of a SLURM cluster, or look with --dry-run")
    submitit = import_submitit()
    try:
        return _executor(resources, folder, cluster).submit(Job(checked, resources.processes))
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise UserError(f"the job was not taken: {error}") from error


def sbatch_script(command: Sequence[str], resources: Resources, folder: Path) -> str:
    """The script that ``submit`` would hand to sbatch, and in a comment what then runs on each node."""
    executor = _executor(resources, folder, "slurm")
    nodes = [f"NODE{number}" for number in range(resources.nodes)]
    runs = torchrun(resolved(command), nodes, resources.processes, "JOB")
    script = executor._make_submission_file_text(executor._submitit_command_str, "")
    return f"{script}\n# on each node:\n# {shlex.join(runs)}\n"


def torchrun(command: Sequence[str], nodes: Sequence[str], processes: int, job: str) -> list[str]:
    """The words that start a training's processes on one of the nodes.

    Args:
        nodes: their names, the same on each of them; the processes meet on the first.
        processes: on each node.
        job: by its number, jobs on one node meet at ports of their own.
    """
    number = int(re.sub(r"\D", "", job) or 0)
    meeting = "localhost:0" if len(nodes) == 1 else f"{nodes[0]}:{20000 + number % 10000}"
    return [
        sys.executable, "-m", "torch.distributed.run",
        "--nnodes", str(len(nodes)), "--nproc-per-node", str(processes),
        "--rdzv-backend", "c10d", "--rdzv-endpoint", meeting, "--rdzv-id", job, "--max-restarts", "0",
        *([] if command[0].endswith(".py") else ["--no-python"]), *command,
    ]  # fmt: skip


def resumed(command: Sequence[str]) -> list[str]:
    """The command that goes on with what the command began."""
    return [word for word in command if word not in ("--overwrite", "--resume")] + ["--resume"]


def resolved(command: Sequence[str]) -> list[str]:
    """The command with the whole path of its script. Raises UserError where there is no such one."""
    name, *arguments = command
    if name.endswith(".py"):
        found = os.path.abspath(name) if os.path.isfile(name) else None
    else:
        found = shutil.which(name)
    if found is None:
        raise UserError(f"{name} is neither a script (.py) nor an installed command: name the training, as one runs it")
    return [found, *arguments]


def other_options(words: Sequence[str]) -> dict[str, str | bool]:
    """Options of sbatch from ``OPTION=VALUE``, or ``OPTION`` for one without a value, with dashes or without.

    Raises:
        UserError: no option, an empty value, or one that this command gives itself: the message says by what.
    """
    found: dict[str, str | bool] = {}
    for word in words:
        name, equals, value = word.partition("=")
        name = name.strip().lstrip("-").replace("_", "-")
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name) or (equals and not value):
            raise UserError(f"--sbatch {word}: give OPTION=VALUE, as account=vision, or OPTION, as exclusive")
        if name in _OWN:
            raise UserError(f"--sbatch {word}: use {_OWN[name]} in its place")
        if len(name) == 1:
            raise UserError(f"--sbatch {word}: give the option's long name, as account for A")
        found[name.replace("-", "_")] = value if equals else True  # submitit's spelling, whose own these replace
    return found


def minutes_of(time: str) -> int:
    """The minutes of a time as sbatch takes it: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS; begun ones are
    whole. Raises UserError."""
    days, _, rest = time.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdecimal() for part in parts) or not (days.isdecimal() or "-" not in time) or len(parts) > 3:
        raise UserError(f"--time {time}: give minutes, HH:MM:SS or D-HH:MM:SS")
    numbers = list(map(int, parts))
    if days:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    else:
        hours, minutes, seconds = {1: (0, *numbers, 0), 2: (0, *numbers), 3: tuple(numbers)}[len(numbers)]
    whole = (int(days or 0) * 24 + hours) * 60 + minutes + (seconds > 0)
    if 60 * whole <= 2 * NOTICE:
        raise UserError(f"--time {time}: a job is told to end {NOTICE // 60} minutes before; give more than twice that")
    return whole


def import_submitit():
    """The package. Raises UserError that says how to get it."""
    try:
        import submitit
    except ImportError as error:
        raise UserError('submitit is not installed: pip install -e ".[cluster]"') from error
    return submitit


def _executor(resources: Resources, folder: Path, cluster: str):
    submitit = import_submitit()
    if cluster == "local":
        executor = submitit.LocalExecutor(folder)
        given = {"timeout_min": resources.minutes, "gpus_per_node": resources.gpus, "nodes": resources.nodes}
        executor.update_parameters(**given, tasks_per_node=1, signal_delay_s=NOTICE, stderr_to_stdout=True)
        return executor

    class Executor(submitit.SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 1  # as `submit` looks for sbatch itself, a script can be written anywhere

    executor = Executor(folder, max_num_timeout=_STARTS)
    executor.update_parameters(
        job_name="se-backbones",
        time=resources.minutes,
        nodes=resources.nodes,
        ntasks_per_node=1,  # torchrun, which starts the processes
        signal_delay_s=NOTICE,
        stderr_to_stdout=True,
        # The cores again: since SLURM 22.05 srun does not take them over from sbatch, and would give a node's task one.
        srun_args=["--kill-on-bad-exit=1", *([f"--cpus-per-task={resources.cpus}"] if resources.cpus else [])],
        additional_parameters={"requeue": True, **resources.more},
        **{
            name: value
            for name, value in {
                "gpus_per_node": resources.gpus or None,
                "cpus_per_task": resources.cpus,
                "partition": resources.partition,
                "comment": resources.comment,
            }.items()
            if value is not None
        },
    )
    return executor
