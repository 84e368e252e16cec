"""Networks with random weights, for comparing ours with others'."""

import math

import pytest
import torch
from torch import nn

from se_backbones import SEConfig, create_backbone, find_spec, list_backbones
from se_backbones.registry import family_of, shapes_of


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Timings and sums do not depend on the machine's cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def randomise_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random values in every tensor, none at its usual start, scaled so that deep networks stay finite."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor, low, high):
        tensor.uniform_(low, high, generator=generator)

    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(17)
            elif name.endswith("running_var"):
                uniform(tensor, 0.5, 2.0)
            elif name.endswith("running_mean"):
                uniform(tensor, -0.3, 0.3)
            elif tensor.dim() > 1:
                bound = math.sqrt(6 / tensor[0].numel())
                uniform(tensor, -bound, bound)
            elif name.endswith("weight"):
                uniform(tensor, 0.3, 0.9)
            else:
                uniform(tensor, -0.4, 0.4)
    return model.eval()


def empty_(build) -> nn.Module:
    """A network built without the time that initialising takes; every number in it is NaN."""
    with torch.device("meta"):
        model = build()
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(math.nan) if tensor.is_floating_point() else tensor.zero_()
    return model.eval()


@pytest.fixture(scope="session")
def randomise():
    return randomise_


@pytest.fixture(scope="session")
def empty():
    """``empty(name, …)``: our network of that name, all NaN, for loading into."""
    return lambda name, *args, **kwargs: empty_(lambda: create_backbone(name, *args, **kwargs))


@pytest.fixture(scope="session")
def filled():
    """``filled(name, seed, …)``: our network of that name with random weights."""
    return lambda name, seed=0, *args, **kwargs: randomise_(
        empty_(lambda: create_backbone(name, *args, **kwargs)), seed
    )


@pytest.fixture(scope="session")
def timm_model():
    """``timm_model(name)``: timm's network of that name with random weights."""
    timm = pytest.importorskip("timm", reason="the peer to compare with; pip install timm")
    return lambda name, seed=0: randomise_(empty_(lambda: timm.create_model(name)), seed)


def timm_name(name: str) -> str:
    """timm's name of one of our networks."""
    if name.endswith("_caffe"):
        return "legacy_" + name.removesuffix("_caffe").replace("se_res", "seres")
    return name.replace("se_res", "seres")


def fitting_se(name: str):
    """The SE settings with timm's rounded widths, where they differ from ours."""
    if name in ("se_resnet18", "se_resnet34"):
        return {"se": SEConfig(reduction=(8, 16, 16, 16))}
    return {}


def pytest_generate_tests(metafunc):
    if "shared_with_timm" in metafunc.fixturenames:
        resnets = [name for name in list_backbones() if find_spec(name).family == "resnet"]
        names = [name for name in resnets if not name.endswith("_msra")]
        metafunc.parametrize("shared_with_timm", names)


@pytest.fixture
def timm_twin(shared_with_timm):
    """Our name, timm's name, and our arguments for the same network."""
    return shared_with_timm, timm_name(shared_with_timm), fitting_se(shared_with_timm)


def stages_of(model: nn.Module, x: torch.Tensor, modules: dict[str, str]) -> dict[str, torch.Tensor]:
    """Runs a network; keeps its ``logits`` and what the named modules put out: ``{"stem": "maxpool", …}``."""
    kept, hooks = {}, []
    for stage, module in modules.items():
        hooks.append(
            model.get_submodule(module).register_forward_hook(
                lambda _module, _inputs, output, stage=stage: kept.__setitem__(stage, output.clone())
            )
        )
    with torch.inference_mode():
        kept["logits"] = model(x)
    for hook in hooks:
        hook.remove()
    return kept


def worst_difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest difference of any stage, relative to the stage's largest number."""
    assert ours.keys() == theirs.keys()
    worst = 0.0
    for stage, tensor in theirs.items():
        assert torch.isfinite(tensor).all() and tensor.abs().max() > 0, stage
        worst = max(worst, ((ours[stage] - tensor).abs().max() / tensor.abs().max()).item())
    return worst


@pytest.fixture(scope="session")
def names_and_shapes_fit():
    """``names_and_shapes_fit(build, name)``: whether somebody's network has the names and shapes that a layout of ours
    knows, and what they become are those of our network. Without memory: for rows that differ from others, whose
    outputs are compared, in numbers of units, groups and channels alone."""

    def fit(build, name, **arguments):
        with torch.device("meta"):
            theirs, ours = build().state_dict(), create_backbone(name, **arguments).state_dict()
        layout = next(one for one in family_of(find_spec(name)).layouts if one.recognises(theirs))
        renamed = {new: layout.tensor_to_ours(new, theirs[old]) for old, new in layout.to_ours(theirs).items()}
        return shapes_of(renamed) == shapes_of(ours)

    return fit


@pytest.fixture(scope="session")
def run_ours():
    """``run_ours(model, x)``: stages and logits of our network."""

    def run(model, x):
        with torch.inference_mode():
            features = model.forward_features(x)
            if model.num_classes:
                features["logits"] = model.classify(features["res5"])
        return features

    return run


@pytest.fixture(scope="session")
def run_theirs():
    return stages_of


@pytest.fixture(scope="session")
def difference():
    return worst_difference
