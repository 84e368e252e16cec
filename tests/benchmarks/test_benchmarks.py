"""Every benchmark runs through the real command line at a tiny scale, and tells what its page shows."""

import functools
import json
import zipfile

import pytest
import torch
from PIL import Image

from benchmarks import coco_ap, detectors, processes, saving, table, waiting
from benchmarks.measure import Setting
from benchmarks.table import BENCHMARKS, Benchmark, page
from detection.coco_ap.reading import read_input
from engine.errors import UserError
from engine.timing import ratio
from tests.se_backbones.networks import change_rows, small

TINY = ("--rounds", "2", "--batch", "2", "--size", "32", "--device", "cpu", "--precision", "fp32")
WITH_A_COMPILER = "compiled"


@pytest.fixture
def tool(load_tool):
    return load_tool("benchmark")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The data that benchmarks find in SE_DATA: a few photos, and class folders in a zip."""
    folder = tmp_path_factory.mktemp("sets")
    (folder / "coco_mini" / "images").mkdir(parents=True)
    for number in range(3):
        Image.effect_noise((640, 200), 40).convert("RGB").save(folder / "coco_mini" / "images" / f"{number}.jpg")
    with zipfile.ZipFile(folder / "cifar10.zip", "w") as archive:
        for name in ("train/a/1.jpg", "train/b/1.jpg", "train/b/2.jpg"):
            archive.write(folder / "coco_mini" / "images" / "0.jpg", name)
    return folder


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name not in (WITH_A_COMPILER, "coco_ap")])
def test_every_benchmark_runs_and_has_what_its_page_shows(tool, name, tmp_path, monkeypatch, sets):
    if name != "detector":  # Detectron2's own network takes its weights
        change_rows(monkeypatch, small)
    monkeypatch.setenv("SE_DATA", str(sets))
    monkeypatch.setattr(detectors, "HEIGHT", 64)
    monkeypatch.setattr(detectors, "WIDTH", 64)
    monkeypatch.setattr(waiting, "_seconds", lambda *of: 0.5)
    monkeypatch.setattr(saving, "NETWORK", "se_resnet20_cifar")
    monkeypatch.setattr(processes, "NETWORK", "se_resnet20_cifar")
    assert tool.main([name, *TINY, "--json", str(tmp_path / "one.json")]) == 0
    result = json.loads((tmp_path / "one.json").read_text())
    assert result["benchmark"] == name and result["precision"] == "fp32" and result["size"] == 32
    text = page([result])
    assert f"## {name}" in text or not BENCHMARKS[name].shown
    for times in result.get("seconds", {}).values():
        assert times > 0


def test_the_ap_command_is_timed_on_files_that_are_regular(monkeypatch, tool, tmp_path):
    small = Benchmark(functools.wraps(coco_ap.coco_ap)(functools.partial(coco_ap.coco_ap, images=6)))
    monkeypatch.setitem(table.BENCHMARKS, "coco_ap", small)
    run = coco_ap.processor_seconds

    def timed(words):
        assert run(words) > 0
        return 3.0 if "tools/evaluate_coco.py" in words else 2.0

    monkeypatch.setattr(coco_ap, "processor_seconds", timed)
    assert tool.main(["coco_ap", *TINY, "--json", str(tmp_path / "one.json")]) == 0
    result = json.loads((tmp_path / "one.json").read_text())
    assert result["detections"] == 6 * 98
    seconds = result["processor_seconds"]
    assert (seconds["command"], seconds["imports"]) == (3, 2) and seconds["reading_and_evaluating"] > 0
    assert all(row["largest_difference"] < 1e-12 for row in result["evaluators"])
    given = read_input(*coco_ap.drawn_set(tmp_path, 3))
    assert len(given.image_ids) == 3 and len(given.detections) == 3 * 98 and given.notes == []


def test_processor_time_is_that_of_the_whole_command():
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    assert coco_ap.processor_seconds(["-c", busy]) >= 0.3
    with pytest.raises(RuntimeError, match="ended with 3"):
        coco_ap.processor_seconds(["-c", "raise SystemExit(3)"])


def test_each_way_of_waiting_is_a_process_of_its_own(monkeypatch):
    environment = {"GOMP_SPINCOUNT": "7", "OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "2"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    step = f"import os; names = {tuple(environment)}; print(len([n for n in names if n in os.environ]))"
    monkeypatch.setattr(waiting, "STEP", step)
    setting = Setting(1, 32, 1, torch.device("cpu"), torch.float32)
    found = [waiting._seconds(way, changes, "fp32", setting) for way, changes in waiting.WAYS.items()]
    assert found == [0, 0, 1, 1]
    with waiting._busy_process() as process:
        assert process.poll() is None
    assert process.poll() is not None


def test_all_writes_a_page_of_what_there_is(tool, tmp_path, monkeypatch, capsys):
    def fast(setting: Setting) -> dict:
        """Something fast."""
        return {"ratio": {"median": setting.size / setting.batch}, "theirs": "a peer 1.0"}

    def absent(setting: Setting) -> dict:
        """Something else."""
        from benchmarks.measure import import_peer

        return import_peer("a_peer_that_is_not_there")

    variants = ({"precision": "fp32"}, {"batch": 2, "size": 800})
    chosen = {"fast": Benchmark(fast, variants, {"as fast": ("ratio", "median")}), "absent": Benchmark(absent, ({},))}
    monkeypatch.setattr(tool, "BENCHMARKS", chosen)
    monkeypatch.setattr(table, "BENCHMARKS", chosen)
    files = tmp_path / "all.json", tmp_path / "page.md"
    assert tool.main(["all", *TINY, "--json", str(files[0]), "--page", str(files[1])]) == 0
    assert [row["ratio"]["median"] for row in json.loads(files[0].read_text())] == [16, 400]
    assert "| fp32 | 2 | 800 | 400.0 | a peer 1.0 |" in files[1].read_text()
    assert "a_peer_that_is_not_there is not installed" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["tail", "--rounds", "1"], ["nothing"], ["tail", "--size", "8"]])
def test_wrong_usage_is_said(tool, words, capsys):
    with pytest.raises(SystemExit) as ended:
        tool.main(words)
    assert ended.value.code == 2


def test_two_processes_want_an_even_batch(tool):
    with pytest.raises(UserError, match="--batch must be even"):
        tool.main(["processes", *TINY, "--batch", "3"])


def test_a_ratio_is_taken_within_each_round():
    times = {"a": [1.0, 20.0, 3.0], "b": [2.0, 10.0, 3.0]}
    assert ratio(times, "a", "b") == {"median": 1.0, "quartiles": [0.5, 2.0]}
