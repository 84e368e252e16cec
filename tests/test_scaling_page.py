"""docs/scaling.md: recipes are of one piece, commands are taken by what they name, and the tables are right."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import yaml
from torch import nn

from detection.train import Options
from engine.run.command_line import parse_training, training_parser
from se_backbones import create_backbone

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


def cells(first):
    """The cells behind the first of a table's row."""
    (row,) = re.findall(rf"^\| {first} \|(.*)\|$", PAGE, re.MULTILINE)
    return [cell.strip() for cell in row.split("|")]


def test_the_sums_take_what_their_formula_says():
    size = 4 * sum(parameter.numel() for parameter in meta_network().parameters())
    for gpus in (16, 32, 64):
        machines = gpus // 8
        rates = [450e9, *(gigabits * 1e9 / 8 for gigabits in (8 * 400, 400, 100, 25))]
        shares = [7 / 8, *[(machines - 1) / machines] * 4]
        seconds = [2 * share * size / rate for share, rate in zip(shares, rates, strict=True)]
        assert cells(gpus) == [f"{1000 * value:.1f}" for value in seconds]


def test_the_buckets_are_those_of_pytorch():
    network, macs = meta_network(), {}

    def count(module, _, output):
        kernel = module.weight[0].numel()  # multiply-adds of one output
        macs[module] = output.numel() * kernel

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    network(torch.empty(1, 3, 224, 224, device="meta"))
    backwards = list(network.named_parameters())[::-1]
    limits = [dist._DEFAULT_FIRST_BUCKET_BYTES, 25 * 2**20]
    buckets, _ = dist._compute_bucket_assignment_by_size([parameter for _, parameter in backwards], limits)
    sizes, ready, done = [], [], 0
    for bucket in buckets:
        names = [backwards[place][0] for place in bucket]
        sizes.append(sum(4 * backwards[place][1].numel() for place in bucket) / 2**20)
        done += sum(macs.get(network.get_submodule(n.removesuffix(".weight")), 0) for n in names if ".weight" in n)
        ready.append(100 * done / sum(macs.values()))
    assert cells("MiB") == [f"{size:.1f}" for size in sizes]
    assert cells("ready after") == [f"{value:.1f} %" if value < 1 else f"{value:.0f} %" for value in ready]


def meta_network():
    with torch.device("meta"):
        return create_backbone("se_resnet50").eval()
