"""Jobs of a cluster: what is asked for, what runs on each node, and that a preempted job goes on where it was."""

import os
import re
import signal
import sys
import time

import pytest

from engine.errors import UserError
from engine.run import submit as module
from engine.run.submit import (
    Job,
    Resources,
    minutes_of,
    other_options,
    resolved,
    resumed,
    sbatch_script,
    submit,
    torchrun,
)

# A training in short: it notes each start, works until it is told to end, takes its time to save, and with --resume is
# done. Ends with 2 where it was stopped, as a training does.
TRAINING = """
import os, pathlib, signal, sys, time
run = pathlib.Path(sys.argv[1])
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
with open(run / "starts", "a") as file:
    print(*sys.argv[2:], os.environ["WORLD_SIZE"], file=file)
while "--resume" not in sys.argv and not told:
    time.sleep(0.05)
if told:
    time.sleep(0.5)
    (run / "saved").touch()
    sys.exit(2)
"""


@pytest.fixture
def training(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TRAINING)
    return [str(script), str(tmp_path), "--config", "a b.yaml"]


@pytest.fixture(autouse=True)
def signals():
    """As a job that runs here changes them, put back."""
    numbers = signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    assert condition()


def test_a_preempted_job_is_queued_again_and_resumes(training, tmp_path):
    submitit = pytest.importorskip("submitit")
    job = submit(training, Resources(gpus=0), tmp_path / "jobs", "local")
    starts = tmp_path / "starts"
    wait_for(starts.exists)
    (task,) = running(job)
    os.kill(task, signal.SIGUSR2)  # as SLURM does
    wait_for(job.done)
    assert (tmp_path / "saved").exists()
    assert starts.read_text().splitlines() == ["--config a b.yaml 1", "--config a b.yaml --resume 1"]
    assert job.result() is None and isinstance(job, submitit.LocalJob)


def running(job):
    """The ids of the job's tasks: the children of its controller."""
    return list(map(int, open(f"/proc/{job.job_id}/task/{job.job_id}/children").read().split()))


def test_an_error_of_the_training_is_the_jobs(training, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "import_submitit", lambda: Cluster(rank=0))
    monkeypatch.setattr(module, "torchrun", lambda *of: [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(RuntimeError, match="on node0 ended with exit code 3"):
        Job(training, 1)()


class Cluster:
    """submitit, as a job sees it."""

    USR_SIG, hostname, hostnames, job_id = "USR1", "node0", ("node0", "node1"), "4_7"

    def __init__(self, rank):
        self.global_rank = rank

    def JobEnvironment(self):
        return self


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_the_other_nodes_stop_without_an_error(training, tmp_path, monkeypatch, number):
    """One that failed would have SLURM end the first node's task, which has the job to queue again."""
    monkeypatch.setattr(module, "import_submitit", lambda: Cluster(rank=1))
    monkeypatch.setattr(module, "torchrun", lambda command, *of: [sys.executable, *command])
    monkeypatch.setenv("WORLD_SIZE", "2")
    killer = os.fork()
    if killer == 0:
        wait_for((tmp_path / "starts").exists)
        os.kill(os.getppid(), number)
        os._exit(0)
    try:
        Job(training, 1)()
    finally:
        os.waitpid(killer, 0)
    assert (tmp_path / "saved").exists()


def test_slurms_own_restart_resumes_too(training, monkeypatch):
    started = []
    monkeypatch.setattr(module, "import_submitit", lambda: Cluster(rank=0))
    monkeypatch.setattr(module, "torchrun", lambda *of: started.append(of) or [sys.executable, "-c", ""])
    for count in ("0", "1"):
        monkeypatch.setenv("SLURM_RESTART_COUNT", count)
        Job([*training, "--overwrite"], 8)()
    assert [of[0][3:] for of in started] == [["a b.yaml", "--overwrite"], ["a b.yaml", "--resume"]]
    assert started[0][1:] == (["node0", "node1"], 8, "4_7")


def test_every_node_meets_on_the_first_at_a_port_of_the_job():
    words = torchrun(["/x/train.py", "--config", "a"], ["n0", "n1"], 8, "123456_3")
    assert words[:3] == [sys.executable, "-m", "torch.distributed.run"] and words[-3:] == [
        "/x/train.py",
        "--config",
        "a",
    ]
    given = dict(zip(words[3:-3:2], words[4:-3:2], strict=True))
    assert given == {
        "--nnodes": "2", "--nproc-per-node": "8", "--rdzv-backend": "c10d", "--rdzv-endpoint": "n0:24563",
        "--rdzv-id": "123456_3", "--max-restarts": "0",
    }  # fmt: skip
    other = torchrun(["/bin/se-train-net"], ["n0"], 1, "123457")
    assert "localhost:0" in other and other[-2:] == ["--no-python", "/bin/se-train-net"]
    assert resumed(["t.py", "--overwrite", "A", "--resume"]) == ["t.py", "A", "--resume"]


def test_the_script_asks_for_what_was_asked(training, tmp_path):
    pytest.importorskip("submitit")
    more = {"account": "vision", "gres": "gpu:h100:8"}
    text = sbatch_script(training, Resources(2, 8, 96, 1440, "gpu", "an urgent one", more), tmp_path)
    for line in (
        "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=8", "--cpus-per-task=96", "--time=1440", "--requeue",
        "--partition=gpu", "--comment='an urgent one'", "--account=vision", "--gres=gpu:h100:8", "--signal=USR2@300",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in text
    assert "--nnodes 2 --nproc-per-node 8" in text and f"{training[0]} {tmp_path} --config 'a b.yaml'" in text
    # As srun takes no cores over from sbatch since SLURM 22.05, they are in its own words too.
    assert re.search(r"^srun .*--kill-on-bad-exit=1 --cpus-per-task=96 ", text, re.MULTILINE)
    alone = sbatch_script(training, Resources(gpus=0), tmp_path)
    assert "gpus" not in alone and "cpus" not in alone


def test_other_options_of_sbatch_come_as_they_are_written(training, tmp_path):
    words = ["account=vision", "exclusive", "--mem-per-gpu=20G", "nodelist=n[1-4]", "job_name=mine", "comment2=a=b"]
    given = other_options(words)
    assert given == {
        "account": "vision", "exclusive": True, "mem_per_gpu": "20G", "nodelist": "n[1-4]", "job_name": "mine",
        "comment2": "a=b",
    }  # fmt: skip
    pytest.importorskip("submitit")
    lines = sbatch_script(training, Resources(more=given), tmp_path).splitlines()
    for line in ("--account=vision", "--exclusive", "--mem-per-gpu=20G", "--nodelist='n[1-4]'", "--job-name=mine"):
        assert f"#SBATCH {line}" in lines
    assert sum("--job-name" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("=x", "give OPTION=VALUE"),
        ("", "give OPTION=VALUE"),
        ("account=", "give OPTION=VALUE"),
        ("a b", "give OPTION=VALUE"),
        ("time=30", "use --time in its place"),
        ("--gpus-per-node=2", "use --gpus in its place"),
        ("cpus_per_task=2", "use --cpus in its place"),
        ("array=1-4", "use another job for each in its place"),
        ("A=vision", "give the option's long name"),
    ],
)
def test_options_of_sbatch_that_are_none_or_given_already_are_refused(word, message):
    with pytest.raises(UserError, match=f"--sbatch {re.escape(word)}: {message}"):
        other_options([word])


@pytest.mark.parametrize(
    "time, minutes",
    [
        ("90", 90),
        ("90:30", 91),
        ("01:30:00", 90),
        ("2:00:01", 121),
        ("1-0", 1440),
        ("1-2:30", 1590),
        ("2-00:00:00", 2880),
    ],
)
def test_times_are_those_of_sbatch(time, minutes):
    assert minutes_of(time) == minutes


@pytest.mark.parametrize("time", ["", "an hour", "1:2:3:4", "-5", "1-", "x-3", "1.5", "10"])
def test_other_times_are_refused(time):
    with pytest.raises(UserError, match=f"--time {time}: "):
        minutes_of(time)


def test_what_is_missing_is_said(training, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no_such.py is neither a script"):
        resolved(["no_such.py"])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="there is no sbatch here.*--dry-run"):
        submit(training, Resources(), tmp_path)
    with pytest.raises(UserError, match="se-train-net is neither a script .* nor an installed command"):
        resolved(["se-train-net"])
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"submitit is not installed: pip install -e \"\.\[cluster\]\""):
        submit(training, Resources(), tmp_path, "local")
