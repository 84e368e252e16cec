"""Files made to run code, or to take memory: each is refused, and nothing happens.

The payload of every file here would create a file; none may appear.
"""

import collections
import io
import os
import pickle
import zipfile

import pytest
import torch

from se_backbones.weights import WeightsError, load_safely, load_weights, read_state_dict


class Payload:
    """Runs a function when unpickled."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.fixture
def mark(tmp_path):
    """Where the payload would write."""
    path = tmp_path / "it_ran"
    yield path
    assert not path.exists(), "the payload ran"


def payloads(mark):
    yield "os.system", Payload(os.system, f"touch {mark}")
    yield "eval", Payload(eval, f"open({str(mark)!r}, 'w')")
    yield "in a tuple", (1, [2, {"deep": (Payload(os.system, f"touch {mark}"),)}])
    yield (
        "beside weights",
        {"state_dict": {"fc.bias": torch.zeros(2)}, "epoch": Payload(os.system, f"touch {mark}")},
    )
    yield "open", Payload(open, str(mark), "w")
    yield "torch.load", Payload(torch.load, str(mark))
    yield "as a key", {Payload(os.system, f"touch {mark}"): 1}


PAYLOADS = [name for name, _ in payloads("")]


@pytest.fixture(params=PAYLOADS)
def payload(request, mark):
    return dict(payloads(mark))[request.param]


def refused(path):
    with pytest.raises(WeightsError) as caught:
        load_safely(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def crafted_zip(path, pickled, entries=(), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        for name, data in entries:
            archive.writestr(f"archive/{name}", data)
    return path


def test_the_payload_would_work(tmp_path):
    """Else the tests below prove nothing."""
    pickle.loads(pickle.dumps(Payload(os.system, f"touch {tmp_path / 'ran'}")))
    assert (tmp_path / "ran").exists()


def test_pth(payload, tmp_path):
    torch.save(payload, tmp_path / "w.pth")
    message = refused(tmp_path / "w.pth")
    assert "must not run code" in message and "state_dict()" in message


def test_pth_in_the_older_form(payload, tmp_path):
    torch.save(payload, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert "must not run code" in refused(tmp_path / "w.pth")


@pytest.mark.parametrize("protocol", range(6))
def test_pkl(payload, protocol, tmp_path):
    try:
        data = pickle.dumps(payload, protocol=protocol)
    except Exception:
        pytest.skip("this value has no form in this protocol")
    (tmp_path / "w.pkl").write_bytes(data)
    assert "must not run code" in refused(tmp_path / "w.pkl")


def test_crafted_zip(payload, tmp_path):
    crafted_zip(tmp_path / "w.pth", pickle.dumps(payload))
    assert "must not run code" in refused(tmp_path / "w.pth")


def test_pickle_named_as_something_else(mark, tmp_path):
    data = pickle.dumps(Payload(os.system, f"touch {mark}"))
    for name in ("w.pth", "w.bin", "w.safetensors", "w"):
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("numpy", "load"),
        ("numpy.core.multiarray", "fromfile"),
        ("numpy", "frompyfunc"),
        ("torch.hub", "load"),
        ("torch._utils", "_rebuild_device_tensor_from_numpy"),
        ("torch.storage", "_load_from_bytes"),
        ("builtins", "getattr"),
        ("collections", "OrderedDict.fromkeys"),
        ("argparse", "Namespace.__init__"),
        ("se_backbones", "create_backbone"),
    ],
)
@pytest.mark.parametrize("form", ["pth", "pkl"])
def test_functions_of_known_packages(module, name, form, tmp_path):
    """Only single functions are known, not the packages they come from."""
    data = b"\x80\x04" + b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in (module, name)) + b"\x93)R."
    path = tmp_path / f"w.{form}"
    crafted_zip(path, data) if form == "pth" else path.write_bytes(data)
    assert f"{module}.{name}" in refused(path)


def test_load_weights_leaves_the_model(filled, mark, tmp_path):
    model = filled("resnet18")
    before = model.conv1.weight.clone()
    content = {"state_dict": dict(model.state_dict()), "hook": Payload(os.system, f"touch {mark}")}
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="must not run code"):
        load_weights(model, tmp_path / "w.pth")
    assert torch.equal(model.conv1.weight, before)


def test_whole_models_and_scripts_are_refused(tmp_path):
    model = torch.nn.Conv2d(1, 1, 1)
    torch.save(model, tmp_path / "whole.pth")
    assert "torch.nn.modules.conv.Conv2d" in refused(tmp_path / "whole.pth")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"script/{name}", b"\x80\x02N.")
    assert "TorchScript" in refused(tmp_path / "script.pt")


def test_trace_in_this_process(tmp_path):
    """A pickle that sets attributes on what it finds changes nothing for the next file."""
    evil = b"\x80\x02ccollections\nOrderedDict\nN}X\x08\x00\x00\x00__call__K\x01s\x86b."
    (tmp_path / "w.pkl").write_bytes(evil)
    refused(tmp_path / "w.pkl")
    crafted_zip(tmp_path / "w.pth", evil)
    refused(tmp_path / "w.pth")
    assert collections.OrderedDict(a=1)["a"] == 1
    # An attribute in the place of a method, on the dictionary itself.
    (tmp_path / "v.pkl").write_bytes(b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb.")
    assert "gives a dictionary attributes" in refused(tmp_path / "v.pkl")


def test_checkpoints_with_a_namespace_load(tmp_path):
    """Training scripts keep their arguments so; it carries values and runs nothing."""
    import argparse

    content = {"state_dict": {"layer1.0.conv1.weight": torch.ones(1)}, "args": argparse.Namespace(lr=0.1)}
    torch.save(content, tmp_path / "w.pth")
    assert load_safely(tmp_path / "w.pth")["args"] == {"lr": 0.1}
    assert read_state_dict(tmp_path / "w.pth").metadata["args"] == {"lr": 0.1}


def test_plain_values_survive(tmp_path):
    content = {
        "a": [1, 2.5, (True, None)],
        "b": {"c": "text", 3: b"raw"},
        "d": {1, 2},
        "s": torch.Size([1, 2]),
    }
    for legacy in (False, True):
        torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
        assert load_safely(tmp_path / "w.pth") == content
    del content["s"]
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content))
    assert load_safely(tmp_path / "w.pkl") == content


def test_single_numbers_of_numpy_survive(tmp_path):
    """Training scripts keep their best accuracy so."""
    numpy = pytest.importorskip("numpy")
    content = {"best_prec1": numpy.float64(54.7), "epoch": numpy.int64(-3), "done": numpy.bool_(True)}
    for legacy in (False, True):
        torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
        loaded = load_safely(tmp_path / "w.pth")
        assert loaded == {"best_prec1": 54.7, "epoch": -3, "done": True}
        assert {type(value) for value in loaded.values()} == {float, int, bool}
    torch.save({"a": numpy.arange(3)}, tmp_path / "w.pth")
    assert "NumPy arrays" in refused(tmp_path / "w.pth")


def test_bytes_in_memory_are_no_source():
    with pytest.raises((WeightsError, TypeError)):
        load_safely(io.BytesIO(b""))
