"""A timm network with random weights and ours, loaded from its file, compute the same function."""

import pytest
import torch

from se_backbones import find_spec
from se_backbones.weights import load_weights
from tests.se_backbones.networks import distinct_rows

DISTINCT = distinct_rows()
TOLERANCE = 1e-5  # relative to each stage's largest number, float32


def test_same_outputs_as_timm(
    timm_twin, timm_model, empty, run_ours, run_theirs, difference, names_and_shapes_fit, tmp_path
):
    name, theirs_name, arguments = timm_twin
    if name not in DISTINCT:
        timm = pytest.importorskip("timm")
        assert names_and_shapes_fit(lambda: timm.create_model(theirs_name), name, **arguments)
        return
    theirs = timm_model(theirs_name)
    path = tmp_path / "theirs.safetensors"
    pytest.importorskip("safetensors.torch").save_file(theirs.state_dict(), path)
    ours = empty(name, **arguments)  # all NaN: whatever is not loaded shows
    # The plain names are others' too.
    report = load_weights(ours, path, network=None if find_spec(name).se else name)
    path.unlink()
    assert not report.missing and not report.unexpected and not report.warnings
    assert len(report.loaded) == len(theirs.state_dict())

    stem = "pool0" if name.endswith("_caffe") else "maxpool"
    modules = {"stem": stem, **{f"res{stage + 1}": f"layer{stage}" for stage in range(1, 5)}}
    worst = 0.0
    for height, width in ((97, 111),) if "154" in name else ((224, 224), (97, 111)):
        x = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(height))
        worst = max(worst, difference(run_ours(ours, x), run_theirs(theirs, x, modules)))
    print(f"{name}: {worst:.2e}")
    assert worst <= TOLERANCE
