"""A network as a folder: what is saved comes back, and what is not of one piece is refused. Nothing is fetched."""

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from se_backbones import (
    SEConfig,
    create_backbone,
    fold_constant_gates,
    from_pretrained,
    fuse,
    insert_se,
    push_to_hub,
    save_pretrained,
)
from se_backbones.hub import folder as module
from se_backbones.hub.config import NetworkConfig
from se_backbones.weights import CAFFE_BGR, IMAGENET_RGB, WeightsError, load_weights, read_state_dict
from tests.se_backbones.hub.fake_hub import FakeHub
from tests.se_backbones.networks import images, randomised

pytest.importorskip("safetensors")

CIFAR = "se_resnet20_cifar"
CLASSES = ["cat", "dog", "a | b"]
OTHER_SE = SEConfig((4, 8, 2), "pre", squeeze="max", gate="tanh", bias=False, without=("stage2.unit2",),
                    hidden=(("stage3.unit1", 5),))  # fmt: skip


def with_se_inserted():
    network = create_backbone("resnet20_cifar", 3)
    insert_se(network)
    return network


def folded():
    network = create_backbone(CIFAR, 3).eval()
    with torch.no_grad():
        network.se_sites()[4].gate.make_constant()
    fold_constant_gates(network, [images(32, 32)], tolerance=0)
    assert network.spec.se.without
    return network


NETWORKS = {
    "plain": lambda: create_backbone("resnet20_cifar", 3),
    "settings of SE": lambda: create_backbone(CIFAR, 3, se=OTHER_SE),
    "stages by name": lambda: create_backbone(CIFAR, 3, se=SEConfig(stages=("stage3",))),
    "SE taken from its row": lambda: create_backbone(CIFAR, 3, se=None),
    "SE put in": with_se_inserted,
    "a gate folded": folded,
    "pruned": lambda: create_backbone(
        CIFAR, 3, widths=[("stage1.unit1.conv1", 7, 16), ("stage1.unit1.bn1", 7, 7), ("stage1.unit1.conv2", 16, 7)]
    ),
    "GroupNorm, dropout": lambda: create_backbone("se_mobilenet_v1_050", 3, norm="GN", dropout=0.25),
    "dilated": lambda: create_backbone("se_mobilenet_v1_050", 3, last_dilation=2),
    "maps alone": lambda: create_backbone("se_mobilenet_v1_050", 0, out_features=["stage2", "stage1"]),
    "frozen": lambda: create_backbone(CIFAR, 3, freeze_at=2),
    "half precision": lambda: create_backbone(CIFAR, 3).half(),
}


@pytest.fixture
def saved(tmp_path):
    """(network, folder) of a small one."""
    network = randomised(create_backbone(CIFAR, 3)).eval()
    return network, save_pretrained(network, tmp_path / "saved", preprocessing=IMAGENET_RGB, classes=CLASSES)


def edit(folder, **values):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))


@pytest.mark.parametrize("kind", NETWORKS)
def test_what_is_saved_comes_back(kind, tmp_path):
    network = randomised(NETWORKS[kind]()).eval()
    classes = CLASSES if network.num_classes else None
    save_pretrained(network, tmp_path, preprocessing=CAFFE_BGR, classes=classes)
    # What is frozen is the user's choice anew; a live normalisation computes the same, and rounds otherwise.
    again = from_pretrained(tmp_path, freeze_at=2 if kind == "frozen" else 0)
    assert again.spec == network.spec and again.feature_info == network.feature_info and not again.training
    assert again.num_classes == network.num_classes and again.out_features == network.out_features
    theirs = again.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in network.state_dict().items())
    report = again.weights_report
    assert report.preprocessing == CAFFE_BGR.as_dict() and report.preprocessing_basis == "stated"
    assert report.classes == classes and not report.warnings and not report.allowed
    x = images(33, 40)
    with torch.no_grad():
        ours, theirs = (net.float().forward_features(x) for net in (network, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_it_is_saved_again_as_it_came(saved, tmp_path):
    _, folder = saved
    again = save_pretrained(from_pretrained(folder), tmp_path / "again")
    assert (again / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    ours, theirs = (read_state_dict(path / "model.safetensors").metadata for path in (again, folder))
    assert ours == theirs and {"preprocessing", "classes", "se", "tensors_sha256"} <= ours.keys()


def test_the_weights_speak_for_themselves(saved):
    _, folder = saved
    file = folder / "model.safetensors"
    network = create_backbone(CIFAR, 3)
    assert load_weights(network, file, preprocessing=IMAGENET_RGB).classes == CLASSES
    with pytest.raises(WeightsError, match="BGR"):
        load_weights(network, file, preprocessing=CAFFE_BGR)
    with pytest.raises(WeightsError, match="trained with SE gate 'sigmoid', and the model has 'tanh'"):
        load_weights(create_backbone(CIFAR, 3, se=SEConfig(gate="tanh")), file)


def test_what_the_one_who_loads_wants_otherwise(saved):
    network, folder = saved
    other = from_pretrained(folder, num_classes=7, freeze_at=2, dropout=0.5)
    assert other.head.out_features == 7 and set(other.weights_report.allowed) == {"fc.weight", "fc.bias"}
    assert torch.equal(other.state_dict()["conv1.weight"], network.conv1.weight)
    assert from_pretrained(folder, num_classes=0, out_features=["stage1"]).stages == ("stem", "stage1")
    with pytest.raises(ValueError, match="freeze_at must be"):
        from_pretrained(folder, freeze_at=9)
    # Classes of a classifier that started anew are not those of the one that was left aside.
    save_pretrained(other, folder)
    assert from_pretrained(folder).weights_report.classes is None


# --- what cannot be saved


def changed_layer():
    network = create_backbone(CIFAR, 3)
    network.conv1 = nn.Conv2d(3, 16, 5)
    return network


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        (changed_layer, {}, r"layers .* were changed in it, .* \(conv1.weight, conv1.bias\)"),
        (lambda: create_backbone(CIFAR, 3), {"classes": ["cat"]}, "has 3 outputs, and 1 classes are named"),
        (lambda: create_backbone(CIFAR, 3), {"classes": "abc"}, "classes must be a list of names; got the one text"),
        (lambda: create_backbone(CIFAR, 3).state_dict(), {}, "a network is saved, and this is a OrderedDict"),
        (lambda: create_backbone(CIFAR, 3), {"license": "MIT\nx: y"}, "license must be a name"),
        (lambda: create_backbone(CIFAR, 3), {"preprocessing": {"mean": 0}}, "preprocessing needs channel_order"),
        (
            lambda: fuse(create_backbone(CIFAR, 3).eval()),
            {},
            "layers of .* were changed in it, by fusing",
        ),
        (lambda: nn.Sequential(create_backbone(CIFAR, 3)), {}, r"find_network\(model\) is the network in it"),
    ],
)
def test_what_would_not_come_back_is_not_saved(network, arguments, message, tmp_path):
    with pytest.raises(WeightsError, match=message):
        save_pretrained(network(), tmp_path / "folder", **arguments)
    assert not (tmp_path / "folder").exists()


def test_a_row_that_is_not_the_tables(tmp_path):
    network = create_backbone(CIFAR, 3)
    network.spec = replace(network.spec, name="resnet110_cifar")
    with pytest.raises(WeightsError, match="the row resnet110_cifar is of another network"):
        save_pretrained(network, tmp_path)


def test_numbers_that_are_none_leave_the_folder_as_it_was(saved):
    network, folder = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with torch.no_grad():
        network.fc.bias[1] = float("nan")
    with pytest.raises(WeightsError, match=re.escape(str(folder / "model.safetensors"))):
        save_pretrained(network, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_another_programs_folder_is_left_alone(saved, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(WeightsError, match="is of another program"):
        save_pretrained(saved[0], tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


def test_a_card_that_a_person_wrote_stays(saved):
    network, folder = saved
    (folder / "README.md").write_text("mine")
    save_pretrained(network, folder, about="other")
    assert (folder / "README.md").read_text() == "mine"


@pytest.mark.parametrize("name", [CIFAR, "vgg16", "se_mobilenet_v1_050"])
def test_a_classifier_that_was_put_in_the_place_of_the_first_is_saved_with_its_size(name, tmp_path):
    """As code for torchvision's networks does it: ``network.fc = nn.Linear(…)``."""
    with torch.device("meta"):
        network = create_backbone(name, 3)
    if name == CIFAR:
        network = create_backbone(name, 3)
        network.fc = nn.Linear(64, 5)
        again = from_pretrained(save_pretrained(network, tmp_path, classes="a b c d e".split()))
        assert again.num_classes == 5 and torch.equal(again.fc.weight, network.fc.weight)
        assert again.weights_report.classes == "a b c d e".split()
    network.set_head(nn.Linear(network.head.in_features, 7, device="meta"))
    config = NetworkConfig.of(network, classes="a b c d e f g".split())
    assert config.num_classes == network.num_classes == 7


def test_wrappers_are_looked_through(saved, tmp_path):
    network, folder = saved
    save_pretrained(nn.DataParallel(network), tmp_path, preprocessing=IMAGENET_RGB, classes=CLASSES)
    assert (tmp_path / "config.json").read_bytes() == (folder / "config.json").read_bytes()


# --- what does not load


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "other"}, "is not of save_pretrained"),
        ({"architecture": "se_resnet21_cifar"}, "the nearest names are"),
        ({"architecture": 3}, "architecture must be str; found 3"),
        ({"num_classes": ...}, "num_classes must be int; found nothing"),
        ({"num_classes": True}, "num_classes must be int; found True"),
        ({"num_classes": 4}, "the network has 4 outputs, and 3 classes are named"),
        ({"num_classes": 10**30, "classes": None}, "config.json: "),
        ({"norm": "GN"}, "is of another network than model.safetensors holds"),
        ({"norm": "LN"}, "config.json: "),
        ({"out_features": ["stage1"]}, "needs stage3 among out_features"),
        ({"se": {"reduction": 0}}, "SE reduction must be"),
        ({"se": {"gates": 1}}, "se has the setting 'gates', which this version does not know"),
        ({"se": None}, "is of another network than model.safetensors holds: .*se.fc"),
        ({"widths": [["stage1.unit1.conv1", 7]]}, "widths must be triples"),
        ({"widths": [3]}, "config.json: "),
        ({"preprocessing": {"channel_order": "GRB"}}, "config.json: preprocessing needs"),
        ({"preprocessing": CAFFE_BGR.as_dict()}, "its preprocessing are not those that model.safetensors states"),
        ({"classes": ["dog", "cat", "a | b"]}, r"save_pretrained\(network, folder, classes=…\)"),
        ({"tensors_sha256": "0"}, "the checksums differ"),
    ],
)
def test_a_config_that_says_something_else(saved, values, message):
    edit(saved[1], **values)
    with pytest.raises(WeightsError, match=message) as caught:
        from_pretrained(saved[1])
    assert str(saved[1] / "config.json") in str(caught.value)


def test_another_gate_takes_the_same_tensors_and_is_refused(saved):
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    edit(folder, se=config["se"] | {"gate": "tanh"})
    with pytest.raises(WeightsError, match="trained with SE gate 'sigmoid', and the model has 'tanh'"):
        from_pretrained(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "[" * 100_000])
def test_a_config_that_is_none(saved, text):
    (saved[1] / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=r"config\.json: (is not JSON|holds no JSON object)"):
        from_pretrained(saved[1])


def test_a_save_that_was_interrupted_is_told(saved, monkeypatch):
    network, folder = saved

    def full(*_):
        raise OSError(28, "No space left on device")

    with torch.no_grad():
        network.fc.bias += 1
    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        save_pretrained(network, folder)
    with pytest.raises(WeightsError, match="a save was interrupted"):
        from_pretrained(folder)


def test_no_pickle_is_run(saved, tmp_path):
    _, folder = saved
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return Path.touch, (ran,)

    for name in ("model.safetensors", "pytorch_model.bin"):
        (folder / name).write_bytes(pickle.dumps({"weight": Trap()}))
    with pytest.raises(WeightsError):
        from_pretrained(folder)
    assert not ran.exists()


@pytest.mark.parametrize("source", ["absent", "/absent/folder", "a/b/c"])
def test_no_such_folder(source):
    with pytest.raises(WeightsError, match="no such folder; a repository of the Hugging Face hub is named OWNER/NAME"):
        from_pretrained(source)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_is_not_the_folder(saved, name):
    with pytest.raises(WeightsError, match=r"is a file, and from_pretrained takes the folder.*pretrained=FILE"):
        from_pretrained(saved[1] / name)


# --- the hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    client = pytest.importorskip("huggingface_hub")
    fake = FakeHub(tmp_path / "hub")
    fake.put_in_place(monkeypatch, client)
    return fake


def test_there_and_back(hub, saved):
    network, folder = saved
    said = {"preprocessing": IMAGENET_RGB, "classes": CLASSES}
    address = push_to_hub(network, "someone/net", private=True, about="Of cats.", license="mit", **said)
    assert address == "https://example.com/someone/net/commit/1" and hub.calls == [("someone/net", True, True)]
    assert sorted(path.name for path in (hub.root / "someone/net").iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip
    again = from_pretrained("someone/net", revision="v1")
    assert hub.calls[1:] == [("config.json", "v1", None), ("model.safetensors", "v1", None)]
    assert again.weights_report.source == "someone/net" and again.weights_report.classes == CLASSES
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in network.state_dict().items())
    loaded = create_backbone(CIFAR, 3, pretrained="hf://someone/net")  # as MODEL.WEIGHTS takes it too
    assert loaded.weights_report.preprocessing == IMAGENET_RGB.as_dict()
    assert from_pretrained("hf://someone/net").weights_report.source == "hf://someone/net"

    (hub.root / "someone/net/README.md").write_text("mine")
    push_to_hub(network, "someone/net", about="New.", **said)
    assert (hub.root / "someone/net/README.md").read_text() == "mine"


def test_what_the_hub_refuses_is_said_and_what_cannot_be_saved_is_not_sent(hub, saved, monkeypatch):
    with pytest.raises(WeightsError, match="1 classes are named"):
        push_to_hub(saved[0], "someone/net", classes=["one"])
    assert hub.calls == []
    with pytest.raises(WeightsError, match="no folder here and so a repository .*404 for someone/other/config.json"):
        from_pretrained("someone/other")

    def refuse(*_, **__):
        raise OSError("403 Forbidden")

    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(WeightsError, match="someone/net: could not be written .*403 Forbidden"):
        push_to_hub(saved[0], "someone/net")


# --- the model card


def test_the_card_is_read_by_the_hub_and_its_code_runs(tmp_path, monkeypatch):
    client = pytest.importorskip("huggingface_hub")
    network = randomised(create_backbone(CIFAR, 3, se=OTHER_SE)).eval()
    monkeypatch.chdir(tmp_path)
    said = {"preprocessing": IMAGENET_RGB, "classes": CLASSES, "about": "Trained on *cats*.", "license": "apache-2.0"}
    save_pretrained(network, "net", **said)
    card = client.ModelCard.load("net/README.md")
    assert card.data.license == "apache-2.0" and card.data.library_name == "se-backbones"
    assert card.data.pipeline_tag == "image-classification" and "squeeze-and-excitation" in card.data.tags
    for text in ("reduction ((", "not its usual settings", "cat, dog, a \\| b", "Trained on *cats*.", "0.485"):
        assert text in card.text
    (code,) = re.findall(r"^```python\n(.*?)^```$", card.text, re.MULTILINE | re.DOTALL)
    names = {"images": images(32, 32)}
    exec(code, names)
    with torch.no_grad():
        assert torch.equal(names["logits"], network(names["images"])) and set(names["maps"]) == set(network.stages)


def test_the_card_shows_names_by_the_letter(tmp_path):
    save_pretrained(create_backbone(CIFAR, 3), tmp_path / "my_net", classes=["*a*", "b_c", "d"])
    card = (tmp_path / "my_net" / "README.md").read_text(encoding="utf-8")
    assert "my\\_net\n" in card and "| outputs | \\*a\\*, b\\_c, d |" in card
