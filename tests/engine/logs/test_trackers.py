"""Services that get a run's figures: each figure once however often the run is cut off, and their failures are no
run's."""

import sys
import types

import pytest

from engine import compat  # noqa: F401  (before detectron2)
from engine.config.defaults import LOGGERS
from engine.errors import UserError
from engine.json_files import read_json
from engine.logs.trackers import TRACKERS, begin_trackers, check_loggers
from engine.logs.writers import make_writers

from detectron2.utils.events import EventStorage

SETTINGS = {f"SOLVER.KEY_{number}": number for number in range(250)} | {"LONG": "x" * 900}


class Service:
    """A service's memory, and stand-ins for both packages that write into it.

    Attributes:
        runs: name there → {step: figures}; begun: (name there, what it was begun with); ended: how runs ended.
    """

    def __init__(self):
        self.runs, self.begun, self.ended, self.parameters, self.broken = {}, [], [], {}, False

    def start(self, known, **given):
        name = known or f"run{len(self.runs)}"
        self.parameters = self.parameters if known else {}
        self.runs.setdefault(name, {})
        self.begun.append((name, given))
        return name

    def log(self, name, figures, step):
        if self.broken:
            raise ConnectionError("no route to host")
        assert step not in self.runs[name], f"step {step} twice"
        self.runs[name][step] = figures

    def wandb(self):
        def init(dir, name, config, id, resume):
            assert resume == "allow"
            known = self.start(id, dir=dir, name=name)
            self.parameters.update(config)
            return types.SimpleNamespace(
                id=known,
                log=lambda figures, step: self.log(known, figures, step),
                finish=lambda exit_code: self.ended.append(exit_code),
            )

        return types.SimpleNamespace(init=init)

    def mlflow(self):
        def start_run(run_id, run_name):
            self.active = self.start(run_id, name=run_name)
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id=self.active))

        def log_params(params):
            assert len(params) <= 100 and all(len(value) <= 500 for value in params.values())
            assert not params.keys() & self.parameters.keys(), "changing a parameter is not allowed"
            self.parameters.update(params)

        return types.SimpleNamespace(
            start_run=start_run,
            log_params=log_params,
            log_metrics=lambda figures, step: self.log(self.active, figures, step),
            end_run=lambda status: self.ended.append({"FINISHED": 0, "FAILED": 1}[status]),
        )


@pytest.fixture(params=["wandb", "mlflow"])
def service(request, monkeypatch):
    found = Service()
    found.name = request.param
    monkeypatch.setitem(sys.modules, request.param, getattr(found, request.param)())
    return found


def begin(folder, service, start=0, *others):
    """The writers of a run but for the console; the folder stands for its staging, too."""
    names = [service.name, *others]
    return make_writers(folder, 9, start, names, begin_trackers(folder, folder, names, SETTINGS, start))[1:]


def train(folder, service, steps, start=0, fails_at=None, writers=None):
    """The figures of so many steps, a line each; dies behind one of them."""
    writers = writers or begin(folder, service, start)
    try:
        with EventStorage(start) as storage:
            for step in range(start + 1, steps + 1):
                storage.iter = step
                storage.put_scalar("total_loss", step / 10, smoothing_hint=False)
                if step % 2 == 0:
                    storage.put_scalar("toy/sum", float(step), smoothing_hint=False)
                for writer in writers:
                    writer.write()
                if step == fails_at:
                    raise RuntimeError("a bug")
    finally:
        for writer in writers:
            writer.close()


def figures(first, last):
    return {
        step: {"total_loss": step / 10} | ({"toy/sum": float(step)} if step % 2 == 0 else {})
        for step in range(first, last + 1)
    }


def test_the_names_in_the_config_are_those_that_there_are():
    assert LOGGERS == ("tensorboard", *TRACKERS)


def test_every_figure_is_handed_on_once_and_the_run_is_gone_on_with(service, tmp_path):
    with pytest.raises(RuntimeError):
        train(tmp_path / "mine", service, 5, fails_at=5)
    train(tmp_path / "mine", service, 7, start=3)  # from the checkpoint behind step 3
    assert service.runs == {"run0": figures(1, 7)} and service.ended == [1, 0]
    assert [name for name, _ in service.begun] == ["run0", "run0"] and service.begun[0][1]["name"] == "mine"
    assert read_json(tmp_path / "mine" / "loggers.json") == {service.name: "run0"}
    assert service.parameters.keys() == SETTINGS.keys()
    train(tmp_path / "mine", service, 2)  # begun again: another run there
    assert service.runs["run1"] == figures(1, 2)


def test_a_line_that_a_kill_kept_from_the_runs_own_log_is_not_lost(service, tmp_path):
    train(tmp_path, service, 4)
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:3]))
    service.runs["run0"].pop(4)
    train(tmp_path, service, 6, start=2)
    assert service.runs == {"run0": figures(1, 6)}


def test_a_service_that_fails_is_left_alone(service, tmp_path, caplog):
    writers = begin(tmp_path, service, 0, "tensorboard")
    service.broken = True
    train(tmp_path, service, 3, writers=writers)
    assert caplog.text.count("fails (ConnectionError: no route to host)") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3 and list(tmp_path.glob("events.out*"))


def test_a_service_that_does_not_begin_says_why_and_leaves_no_folder(service, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("API key missing")

    monkeypatch.setattr(service, "start", refuse)
    with pytest.raises(UserError, match=f"LOGGERS {service.name}: it cannot begin a run .*API key missing"):
        begin(tmp_path / "a" / "run", service)
    assert not (tmp_path / "a").exists()


def test_where_a_second_service_refuses_the_first_ones_run_has_failed(tmp_path, monkeypatch):
    service = Service()
    monkeypatch.setitem(sys.modules, "wandb", service.wandb())
    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace(start_run=None))
    with pytest.raises(UserError, match="LOGGERS mlflow: it cannot begin a run"):
        begin_trackers(tmp_path, tmp_path, ["wandb", "mlflow"], SETTINGS, 0)
    assert service.ended == [1] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", TRACKERS)
def test_what_is_not_installed_is_said(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, name, None)  # as import takes it for one that is not there
    with pytest.raises(UserError, match=f"the package {name} is not installed.*pip install {name}; or take it out"):
        check_loggers(["tensorboard", name])
    monkeypatch.delitem(sys.modules, name)
    (tmp_path / name).mkdir()  # what the services leave beside a command is no package
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UserError, match="is not installed"):
        check_loggers([name])
    sys.modules.pop(name, None)


def test_tensorboard_can_be_left_out(tmp_path):
    writers = make_writers(tmp_path, 9, 0, [])
    assert len(writers) == 2 and not list(tmp_path.glob("events.out*"))
    for writer in writers:
        writer.close()
