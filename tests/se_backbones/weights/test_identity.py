"""Which network weights are of: by their layout, by our own format, by who knows; not by a file's word."""

import json

import pytest
import torch

from se_backbones import find_spec, list_backbones
from se_backbones.registry import families
from se_backbones.weights import CAFFE_BGR, IMAGENET_RGB, WeightsError, convert_file, load_weights, read_state_dict
from se_backbones.weights.identity import Doubt
from se_backbones.weights.inserting import insert_se_into_file, load_weights_inserting_se
from se_backbones.weights.layouts import convert_state_dict
from se_backbones.weights.sources import named

RESNET = next(family for family in families() if family.name == "resnet")


@pytest.fixture(scope="module")
def plain(filled):
    """The names and shapes of many networks."""
    return dict(filled("resnet18", 1, num_classes=2).half().state_dict())


@pytest.fixture(scope="module")
def deep(filled):
    return dict(filled("resnet50", 1, num_classes=2).half().state_dict())


@pytest.fixture
def save(tmp_path):
    def save(content, name="w.pth"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save


# --- others' networks under our names ---


def test_a_bare_file_loads_with_one_warning(plain, empty, save):
    report = load_weights(empty("resnet18", num_classes=2), save(plain))
    (warning,) = report.warnings
    for part in ("Places365's wideresnet", "resnetblur", "network='resnet18'", "MODEL.WEIGHTS_NETWORK resnet18"):
        assert part in warning
    assert "resnetaa" not in warning  # of which there is no such depth
    assert load_weights(empty("resnet18", num_classes=2), save(plain), network="resnet18").warnings == []


def test_the_one_who_knows_names_another_network(deep, empty, save):
    with pytest.raises(WeightsError, match="Take 'resnet50_msra'"):
        load_weights(empty("resnet50", num_classes=2), save(deep), network="resnet50_msra")
    with pytest.raises(WeightsError, match="nearest names"):
        load_weights(empty("resnet50", num_classes=2), save(deep), network="resnet5")
    with pytest.raises(WeightsError, match=r"is of no resnet101: its tensors are bottleneck units \[3, 4, 6, 3\]"):
        load_weights(empty("resnet50", num_classes=2), save(deep), network="resnet101")
    with pytest.raises(WeightsError, match="is of the family resnet, and vgg16 of vgg"):
        load_weights(empty("resnet50", num_classes=2), save(deep), network="vgg16")


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("wideresnet18_places365.pth.tar", {}),
        ("w.pth", {"arch": "wideresnet18"}),
        ("w.pth", {"architecture": "WideResNet-18".replace("-", "")}),
        ("w.pth", {"args": {"model": "resnetblur18"}}),
        ("w.pth", {"hyper_parameters": {"cfg": {"backbone": "resnetblur18"}}}),
        ("w.pth", {"meta": {"config": f"{'x = 1' * 60}\nmodel = dict(backbone=dict(arch='resnetblur18'))"}}),
        ("timm_resnetblur18.bt/model.pth", {"model_name": "timm/resnetblur18.bt"}),
    ],
)
def test_a_file_that_calls_itself_after_another_network_is_refused(name, beside, plain, empty, save):
    path = save({"state_dict": plain, **beside}, name)
    model = empty("resnet18", num_classes=2)
    with pytest.raises(WeightsError, match=r"No row of list_backbones\(\) is that network"):
        load_weights(model, path)
    assert torch.isnan(model.conv1.weight).all()
    with pytest.raises(WeightsError, match="--arch resnet18"):
        convert_file(path, path.with_name("o.safetensors"))
    assert not path.with_name("o.safetensors").exists()
    assert load_weights(model, path, network="resnet18").warnings == []


def test_a_name_that_means_something_else(plain, empty, save, tmp_path):
    path, model = save(plain, "wideresnet18.pth"), empty("resnet18", num_classes=2)
    assert len(load_weights(model, path, ["architecture"]).warnings) == 1
    assert convert_file(path, tmp_path / "o.safetensors", architecture="resnet18").architecture == "resnet18"


@pytest.mark.parametrize(
    "beside",
    [
        {"arch": "resnet18"}, {"epoch": 3, "args": {"dataset": "wideresnet"}}, {"arch": 18}, {"arch": None},
        {"arch": "resnet18", "config": {"pretrained": None}},
    ],
)  # fmt: skip
def test_its_own_name_is_no_reason_to_refuse_nor_to_be_sure(beside, plain, empty, save):
    report = load_weights(empty("resnet18", num_classes=2), save({"state_dict": plain, **beside}))
    assert len(report.warnings) == 1


def test_a_hubs_file_has_its_name_beside_it(plain, empty, tmp_path):
    library = pytest.importorskip("safetensors.torch")
    for folder, config in (("a", {"architecture": "resnetblur18"}), ("timm/resnetblur18.bt_in1k", None)):
        (tmp_path / folder).mkdir(parents=True)
        library.save_file(plain, tmp_path / folder / "model.safetensors", {"format": "pt"})
        if config:
            (tmp_path / folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(WeightsError, match="resnetblur"):
            load_weights(empty("resnet18", num_classes=2), tmp_path / folder / "model.safetensors")
    (tmp_path / "a" / "config.json").write_text("[")  # somebody's, of no interest
    assert load_weights(empty("resnet18", num_classes=2), tmp_path / "a" / "model.safetensors").loaded


@pytest.mark.parametrize(
    ("source", "name", "sure"),
    [
        ("timm://resnetblur50.bt_in1k", "resnet50", False),
        ("timm://resnetaa50.a1h_in1k", "resnet50", False),
        ("timm://resnet50.a1_in1k", "resnet50", True),
        ("timm://resnet18.fb_swsl_ig1b_ft_in1k", "resnet18", True),
        ("torchvision://resnet50.IMAGENET1K_V2", "resnet50", True),
    ],
)
def test_a_named_source_says_what_it_is(source, name, sure, plain, deep, empty, save, monkeypatch):
    pytest.importorskip(source.partition(":")[0])
    path = save(plain if name == "resnet18" else deep)
    monkeypatch.setattr(named, "hub_file", lambda *_: path)
    monkeypatch.setattr(named, "_fetch", lambda *_: path)
    model = empty(name, num_classes=2)
    if sure:
        assert load_weights(model, source).warnings == []
    else:
        with pytest.raises(WeightsError, match="its release, 'resnet"):
            load_weights(model, source)


def test_released_files_are_known_by_their_checksum(plain, empty, save):
    torchvision = pytest.importorskip("torchvision.models")
    urls = {
        name: [weights.url for weights in torchvision.get_model_weights(name)]
        for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
    }
    for name, released in urls.items():
        for url in released:
            digits = url.rpartition("-")[2].removesuffix(".pth")
            assert RESNET.releases[digits] == name
    weights = read_state_dict(save(plain))
    assert Doubt.of(weights) is not None
    weights.sha256 = "f37072fd" + 56 * "0"
    assert Doubt.of(weights) is None
    weights.sha256 = "0676ba61" + 56 * "0"  # a resnet50's: these tensors are none
    assert Doubt.of(weights) is not None


def test_caffe_style_under_torchvisions_names(deep, empty, save):
    """open-mmlab's resnet50_caffe (its model zoo; style='caffe' in mmdetection's configs)."""
    right, wrong = empty("resnet50_msra", num_classes=2), empty("resnet50", num_classes=2)
    path = save(deep, "resnet50_caffe.pth")
    with pytest.raises(WeightsError, match="Take 'resnet50_msra'"):
        load_weights(wrong, path)
    report = load_weights(right, path, preprocessing=CAFFE_BGR)
    assert len(report.warnings) == 1 and report.preprocessing_basis == "usual"
    bare = save(deep, "backbone.pth")  # nothing tells: most such files are torchvision's
    assert len(load_weights(wrong, bare, preprocessing=IMAGENET_RGB).warnings) == 1
    with pytest.raises(WeightsError, match="nothing in the file tells"):
        load_weights(right, bare)
    report = load_weights(right, bare, preprocessing=CAFFE_BGR, network="resnet50_msra")
    assert report.warnings == [] and torch.equal(right.fc.weight, deep["fc.weight"].float())
    config = {"meta": {"config": f"{'#' * 200}\nbackbone=dict(type='ResNet', depth=50, style='caffe')"}}
    detector = {"state_dict": {f"backbone.{name}": tensor for name, tensor in deep.items()}, **config}
    with pytest.raises(WeightsError, match="Take 'resnet50_msra'"):
        load_weights(wrong, save(detector, "faster_rcnn.pth"))


def test_no_other_layout_is_asked_for(filled, empty, save):
    """SE, other layouts and other families have no look-alikes."""
    for name, layout in (("se_resnet18", "ours"), ("se_resnet50_caffe", "timm-legacy"), ("se_mobilenet_v1", "ours")):
        state = convert_state_dict(filled(name, 1, num_classes=2).state_dict(), "ours", layout)
        assert load_weights(empty(name, num_classes=2), save(state)).warnings == []


@pytest.mark.parametrize("name", [name for name in list_backbones() if find_spec(name).family == "resnet"])
def test_look_alikes_name_rows(name):
    for other in RESNET.look_alikes:
        assert all(find_spec(row).se is None for row in other.rows)
        if other.is_row:
            assert all(find_spec(other.is_row.format(row)).hyper != find_spec(row).hyper for row in other.rows)


@pytest.mark.parametrize(("theirs", "row"), [("resnetblur18", "resnet18"), ("resnetaa50", "resnet50")])
def test_timms_look_alikes_are_what_the_table_says(theirs, row, filled):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        state = timm.create_model(theirs).state_dict()
    ours = filled(row).state_dict()
    assert {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in ours.items()}


# --- a guess stays a guess ---


def test_conversion_hands_the_doubt_on(deep, empty, save, tmp_path):
    done = convert_file(save(deep), tmp_path / "guess.safetensors")
    assert done.architecture == "resnet50" and "others too" in done.notes[-1] and done.metadata["presumed"]
    assert len(load_weights(empty("resnet50", num_classes=2), done.out).warnings) == 1
    assert load_weights(empty("resnet50", num_classes=2), done.out, network="resnet50").warnings == []
    load_weights(empty("resnet50_msra", num_classes=2), done.out, network="resnet50_msra")
    again = convert_file(done.out, tmp_path / "again.pth", "detectron2")
    assert again.metadata["presumed"] and read_state_dict(again.out).presumed
    sure = convert_file(save(deep), tmp_path / "sure.safetensors", architecture="resnet50")
    assert "presumed" not in sure.metadata and load_weights(empty("resnet50", num_classes=2), sure.out).warnings == []
    with pytest.raises(WeightsError, match="says that it is of resnet50, and not of resnet50_msra"):
        load_weights(empty("resnet50_msra", num_classes=2), sure.out, network="resnet50_msra")


def test_insertion_hands_the_doubt_on(plain, empty, save, tmp_path):
    done = insert_se_into_file(save(plain), tmp_path / "se.safetensors")
    assert len(load_weights(empty("se_resnet18", num_classes=2), done.out).warnings) == 1
    sure = insert_se_into_file(save(plain), tmp_path / "sure.safetensors", architecture="resnet18")
    assert load_weights(empty("se_resnet18", num_classes=2), sure.out).warnings == []
    assert len(load_weights_inserting_se(empty("se_resnet18", num_classes=2), save(plain)).warnings) == 1
    with pytest.raises(WeightsError, match="wideresnet"):
        load_weights_inserting_se(empty("se_resnet18", num_classes=2), save(plain, "wideresnet18.pth"))
    report = load_weights_inserting_se(empty("se_resnet18", num_classes=2), save(plain), network="resnet18")
    assert report.warnings == []


# --- what a foreign file says of itself ---


@pytest.mark.parametrize(
    "beside",
    [{}, {"architecture": "se_resnet50"}, {"backbone": "se_resnet50"}, {"metadata": {"architecture": "resnet50"}}],
)
def test_a_foreign_entry_is_not_believed_over_the_layout(beside, filled, empty, save, tmp_path):
    """In Cadene's library se_resnet50 is what is se_resnet50_caffe here (pretrained-models.pytorch#155)."""
    true = filled("se_resnet50_caffe", 1, num_classes=3)
    path = save({**beside, "state_dict": convert_state_dict(true.state_dict(), "ours", "timm-legacy")})
    with pytest.raises(WeightsError, match=r"stride_in_1x1=True \(timm-legacy\)"):
        load_weights(empty("se_resnet50", num_classes=3), path)
    load_weights(empty("se_resnet50_caffe", num_classes=3), path)
    report = load_weights(empty("se_resnet50", num_classes=3), path, network="se_resnet50")  # from one who knows
    assert any("usually have stride_in_1x1=True, ceil_pool=True" in note for note in report.notes)
    assert convert_file(path, tmp_path / "o.safetensors").architecture == "se_resnet50_caffe"


FOREIGN = {
    "se": {"placement": "identity", "gate": "relu", "squeeze": "max"},
    "preprocessing": {"channel_order": "BGR", "scale": 255, "mean": [1, 2, 3], "std": [1, 1, 1]},
    "classes": ["a", "b"],
    "layout": "detectron2",
    "family": "vgg",
    "presumed": True,
}


@pytest.mark.parametrize("form", [None, "pt", "somebody-elses/1", 3])
def test_other_entries_are_not_believed_either(form, filled, empty, save):
    state = filled("se_resnet18", 1, num_classes=2).state_dict()
    path = save({**FOREIGN, "format": form, "state_dict": state})
    report = load_weights(empty("se_resnet18", num_classes=2), path, preprocessing=IMAGENET_RGB)
    assert report.warnings == [] and report.classes is None and report.preprocessing_basis == "published"
    weights = read_state_dict(path)
    assert weights.se is None and weights.metadata["classes"] == ["a", "b"]


@pytest.mark.parametrize(
    "wrong", [{"preprocessing": "imagenet"}, {"preprocessing": 3}, {"classes": "80"}, {"se": True}]
)
def test_entries_of_any_form_are_no_damage(wrong, filled, empty, save):
    state = filled("se_resnet18", 1, num_classes=2).state_dict()
    load_weights(empty("se_resnet18", num_classes=2), save({**wrong, "state_dict": state}))


def test_our_own_format_is_believed(filled, empty, save):
    state = filled("se_resnet18", 1, num_classes=2).state_dict()
    path = save({**FOREIGN, "format": "se-backbones-checkpoint/1", "backbone": "se_resnet18", "model": state})
    weights = read_state_dict(path)
    assert weights.classes == ["a", "b"] and weights.se["gate"] == "relu" and weights.facts.basis == "stated"
    with pytest.raises(WeightsError, match="SE placement 'identity'"):
        load_weights(empty("se_resnet18", num_classes=2), path)


def test_weights_without_numbers_of_their_own_are_named(plain, empty, save):
    for other, what in (
        (plain["conv1.weight"].to("meta"), "meta tensor"),
        (plain["conv1.weight"].to_sparse(), "sparse tensor"),
        (torch.quantize_per_tensor(plain["conv1.weight"].float(), 0.1, 0, torch.qint8), "quantised"),
    ):
        with pytest.raises(WeightsError, match=f"conv1.weight is .*{what}"):
            load_weights(empty("resnet18", num_classes=2), save(plain | {"conv1.weight": other}))


def test_parameters_are_tensors(plain, empty, save, tmp_path):
    """torch.save(dict(model.named_parameters())), with buffers beside."""
    state = {name: torch.nn.Parameter(t) if t.is_floating_point() else t for name, t in plain.items()}
    path = save(state)
    load_weights(empty("resnet18", num_classes=2), path)
    for suffix in (".pkl", ".pth", ".safetensors"):
        convert_file(path, tmp_path / f"o{suffix}", "detectron2")
