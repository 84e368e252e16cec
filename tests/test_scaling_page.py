"""The recipes of docs/scaling.md are of one piece, and their commands are taken by what they name."""

import re
import sys
import types
from pathlib import Path

import pytest
import yaml

from detection.train import Options
from engine.run.command_line import parse_training, training_parser

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")


def block(kind):
    (text,) = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return text


def test_the_pods_of_the_job_meet_on_the_first(monkeypatch):
    torchrun = pytest.importorskip("torch.distributed.run")
    service, job = yaml.safe_load_all(block("yaml"))
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    program, *words = container["command"]
    assert program == "torchrun" and all(isinstance(word, str) for word in words)
    given = torchrun.get_args_parser().parse_args(words)
    assert spec["completionMode"] == "Indexed"
    assert given.nnodes == str(spec["completions"]) == str(spec["parallelism"])
    assert int(given.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]
    name = service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"  # the word, by which a service is headless
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]} and pod["subdomain"] == name
    port = service["spec"]["ports"][0]["port"]
    assert given.rdzv_endpoint == f"{job['metadata']['name']}-0.{name}:{port}"
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert int(environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < pod["terminationGracePeriodSeconds"]
    assert given.training_script == "tools/train_net.py"
    monkeypatch.setattr(sys, "argv", [given.training_script, *given.training_script_args])
    _, options = parse_training(training_parser("", ""), {})
    assert options["resume"] and options["overrides"] == ["OUTPUT_DIR", "/shared/output/mine"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_rays_workers_resume_the_run(monkeypatch):
    """With a stand-in for Ray, which runs what it is given."""
    asked, ran = {}, []

    class Trainer:
        def __init__(self, train, **settings):
            asked.update(settings, train=train)

        def fit(self):
            asked["train"]({})

    ray, torch_part = types.ModuleType("ray.train"), types.ModuleType("ray.train.torch")
    for name in ("RunConfig", "FailureConfig", "ScalingConfig"):
        setattr(ray, name, lambda **settings: settings)
    torch_part.TorchTrainer = Trainer
    for name, module in (("ray", types.ModuleType("ray")), ("ray.train", ray), ("ray.train.torch", torch_part)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("detection.train.run_detection", ran.append)
    exec(compile(block("python"), "scaling.md", "exec", dont_inherit=True), {"__name__": "__main__"})
    assert ran == [Options(config="/shared/FILE", overrides=["OUTPUT_DIR", "/shared/output/mine"], resume=True)]
    assert asked["scaling_config"]["num_workers"] == 16 and asked["run_config"]["failure_config"]["max_failures"] == 3
