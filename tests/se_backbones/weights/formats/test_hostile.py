"""Files made to run code, or to take memory: each is refused, and nothing happens.

The payload of every file here would create a file; none may appear.
"""

import collections
import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile

import pytest
import torch

from se_backbones.weights import WeightsError, load_safely, load_weights, read_state_dict
from se_backbones.weights.formats.torch_file import LEGACY_MAGIC


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


# --- sizes ---


@pytest.fixture
def little_memory():
    """The most that Python's side may take for a file of a few kilobytes."""
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6, f"{peak / 1e6:.0f} MB were taken"


def tensor_pickle(count, shape, stride=None, kind=b"FloatStorage", offset=0):
    """data.pkl with one tensor, of any claims."""

    def number(n):
        return b"\x8a\x08" + struct.pack("<q", n)

    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    stride = stride or tuple(1 for _ in shape)
    return (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n("
        + b"(X\x07\x00\x00\x00storagectorch\n" + kind + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + number(count) + b"tQ" + number(offset) + numbers(shape) + numbers(stride)
        + b"\x89ccollections\nOrderedDict\n)RtRs."
    )  # fmt: skip


def test_the_crafted_tensor_loads_when_its_claims_are_true(tmp_path):
    crafted_zip(tmp_path / "w.pth", tensor_pickle(4, (4,)), [("data/0", struct.pack("<4f", 1, 2, 3, 4))])
    assert load_safely(tmp_path / "w.pth")["w"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"count": 10**12, "shape": (4,)}, "should have 4,?000,?000,?000,?000 bytes"),
        ({"count": 4, "shape": (10**12,)}, "reaches beyond its data"),
        ({"count": 4, "shape": (10**6, 10**6), "stride": (0, 0)}, "reaches beyond its data"),
        ({"count": 4, "shape": (4,), "offset": 3}, "reaches beyond its data"),
        ({"count": 4, "shape": (2,), "stride": (-1,)}, "no count"),
        ({"count": -4, "shape": (4,)}, "unknown way"),
        ({"count": 4, "shape": (4,), "kind": b"DoubleStorage"}, "should have 32 bytes"),
        ({"count": 4, "shape": (4,), "kind": b"SecretStorage"}, "SecretStorage"),
    ],
)
def test_tensors_that_claim_more_than_there_is(claims, message, tmp_path, little_memory):
    crafted_zip(tmp_path / "w.pth", tensor_pickle(**claims), [("data/0", bytes(16))])
    with pytest.raises(WeightsError, match=message):
        load_safely(tmp_path / "w.pth")


def test_zip_bomb(tmp_path, little_memory):
    data = tensor_pickle(25_000_000, (25_000_000,))
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", data)
        with archive.open("archive/data/0", "w") as entry:
            for _ in range(100):
                entry.write(bytes(1_000_000))
    assert path.stat().st_size < 1_000_000
    assert "packed" in refused(path)


def test_zip_with_an_entry_of_two_sizes(tmp_path, little_memory):
    """Its directory claims 200 bytes for the 16 that are there; together that is still less than the file has."""
    path = crafted_zip(tmp_path / "w.pth", tensor_pickle(50, (50,)), [("data/0", bytes(16))])
    data = bytearray(path.read_bytes())
    at = data.rindex(b"archive/data/0") - 46
    assert data[at : at + 4] == b"PK\x01\x02"
    data[at + 24 : at + 28] = struct.pack("<I", 200)
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        assert sum(entry.file_size for entry in archive.infolist()) < len(data)
    assert "claim more bytes" in refused(path)


def test_zip_with_two_entries_of_one_name(tmp_path):
    crafted_zip(tmp_path / "w.pth", tensor_pickle(4, (4,)), [("data/0", bytes(16))])
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(tmp_path / "w.pth", "a") as archive,
    ):
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
    assert "two entries" in refused(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02Nr\xff\xff\xff\x7f.", "memo index"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 10**12) + b".", "cut short or damaged"),
        (b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b".", "cut short or damaged"),
        (b"\x80\x02" + b"(" * 10, "cut short or damaged"),
        (b"\x80\x02" + b"]" + b"]" * 5000 + b"a" * 5000 + b".", "nested too deep"),
        (b"\x80\x02]q\x00h\x00a.", "nested too deep"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x02X\x01\x00\x00\x00xQ.", "BINPERSID"),
        (b"\x80\x02N.N.", "follow the end"),
    ],
)
def test_pickles_that_take_memory_or_say_nothing_sensible(data, message, tmp_path, little_memory):
    (tmp_path / "w.pkl").write_bytes(data)
    assert message in refused(tmp_path / "w.pkl")


def test_lists_that_contain_one_list_over_and_over(tmp_path, little_memory, monkeypatch):
    """2 to the power of 50 values in 200 bytes."""
    monkeypatch.setattr("se_backbones.weights.formats.pickle_guard.MAX_INSTRUCTIONS", 20_000)
    body = b"N" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(50))
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02" + body + b".")
    assert "nested too deep" in refused(tmp_path / "w.pkl")


@pytest.mark.parametrize("form", ["pkl", "zip", "legacy"])
@pytest.mark.parametrize(
    "key",
    [
        b"N" + b"\x85" * 300_000,  # ((((None,),),),)
        b"(" * 300_000 + b"N" + b"t" * 300_000,  # the same with marks
        b"N" + b"N\x86" * 300_000,  # pairs
        b"N" + b"q\x00h\x00\x86" * 300_000,  # pairs of one value, fetched from the memo
        b"N" + b"\x85Nb" * 300_000,  # a BUILD that leaves the value as it is
    ],
    ids=["one", "marks", "pairs", "memo", "build"],
)
def test_tuples_in_tuples_as_a_key(key, form, tmp_path):
    """Python hashes them by recursion without a limit: unpickled, they end the process."""
    data = b"\x80\x02}" + key + b"Ns."
    path = tmp_path / f"w.{'pkl' if form == 'pkl' else 'pth'}"
    if form == "pkl":
        path.write_bytes(data)
    elif form == "zip":
        crafted_zip(path, data)
    else:
        parts = [pickle.dumps(value, protocol=2) for value in (1001, {"little_endian": True})]
        path.write_bytes(LEGACY_MAGIC + b"".join(parts) + data + pickle.dumps([], protocol=2))
    assert "nested too deep" in refused(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        # torch.Size of a list with a list in it; a parameter that is a tuple
        (b"\x80\x02}X\x01\x00\x00\x00wctorch\nSize\n]]a\x85Rs.", "something other than counts"),
        (b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_parameter\nN\x85\x85Rs.", "no tensor"),
        # a codec by name is a module to be imported
        (b"\x80\x02}X\x01\x00\x00\x00wc_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86Rs.", "unknown way"),
    ],
)
def test_known_functions_with_other_arguments(data, message, tmp_path):
    crafted_zip(tmp_path / "w.pth", data)
    assert message in refused(tmp_path / "w.pth")


def array_pickle(shape, dtype=b"f4", data=b"\x00" * 16, endian=b"<", descr=b"N", kind=b"B"):
    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value

    sizes = b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in shape) + b"t"
    return (
        b"\x80\x03}" + text(b"w")
        + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        b"(K\x01" + sizes + b"cnumpy\ndtype\n" + text(dtype) + b"\x89\x88\x87R(K\x03" + text(endian) + descr
        + b"NNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + kind + struct.pack("<I", len(data)) + data + b"tbs."
    )  # fmt: skip


def test_the_crafted_array_loads_when_its_claims_are_true(tmp_path):
    (tmp_path / "w.pkl").write_bytes(array_pickle((4,), data=struct.pack("<4f", 1, 2, 3, 4)))
    assert load_safely(tmp_path / "w.pkl")["w"].tolist() == [1, 2, 3, 4]
    (tmp_path / "w.pkl").write_bytes(array_pickle((2, 2), data=struct.pack(">4f", 1, 2, 3, 4), endian=b">"))
    assert load_safely(tmp_path / "w.pkl")["w"].tolist() == [[1, 2], [3, 4]]
    # BINSTRING: Python 2's text, in which the first Detectron wrote its arrays.
    (tmp_path / "w.pkl").write_bytes(array_pickle((2,), data=struct.pack("<2f", -1.5, 3e38), kind=b"T"))
    assert load_safely(tmp_path / "w.pkl")["w"].tolist() == pytest.approx([-1.5, 3e38])


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"shape": (10**12,)}, "needs 4000000000000 bytes and the file has 16"),
        ({"shape": (2**33, 2**33)}, "needs"),
        ({"shape": (-4,)}, "unknown type, shape"),
        ({"shape": (2,), "dtype": b"O"}, "not numeric"),
        ({"shape": (1,), "dtype": b"V16"}, "not numeric"),
        ({"shape": (4,), "descr": b"X\x01\x00\x00\x00f"}, "structured"),
        ({"shape": (4,), "endian": b"!"}, "unknown description"),
    ],
)
def test_arrays_that_claim_more_than_there_is(claims, message, tmp_path, little_memory):
    (tmp_path / "w.pkl").write_bytes(array_pickle(**claims))
    assert message in refused(tmp_path / "w.pkl")


def test_one_text_made_into_bytes_many_times(tmp_path, little_memory):
    text = b"X" + struct.pack("<I", 20_000) + b"a" * 20_000
    again = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02(" + text + b"q\x00" + again * 5000 + b"t.")
    assert "more bytes than the file holds" in refused(tmp_path / "w.pkl")


def test_legacy_storages_that_claim_more(tmp_path, little_memory):
    parts = [pickle.dumps(value, protocol=2) for value in (1001, {"little_endian": True})]
    body = LEGACY_MAGIC + b"".join(parts) + tensor_pickle(10**12, (10**12,)) + pickle.dumps(["0"], protocol=2)
    (tmp_path / "w.pth").write_bytes(body + struct.pack("<q", 10**12) + bytes(16))
    assert "its tensors need 4,000,000,000," in refused(tmp_path / "w.pth")


def safetensors_of(path, **changes):
    """A file of four numbers, its header changed."""
    tensor = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    text = json.dumps({"w": tensor, **changes}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
    return path


def test_the_crafted_safetensors_loads_when_its_header_is_true(tmp_path):
    assert load_safely(safetensors_of(tmp_path / "w.safetensors"))["w"].tolist() == [0] * 4


@pytest.mark.parametrize(
    "changes",
    [
        {"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 16]}},
        {"w": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 16]}},
        {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 10**12]}},
        {"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}},
        {"w": {"dtype": "F32", "shape": [4], "data_offsets": [4, 20]}},
        {"w": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}},
        {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
        {"w": {"dtype": "OBJ", "shape": [4], "data_offsets": [0, 16]}},
        {"w": [1]},
        {"v": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}},  # two tensors of the same bytes
        {"__metadata__": [1]},
        {"__metadata__": {"a": 1}},
    ],
)
def test_safetensors_headers_that_lie(changes, tmp_path, little_memory):
    assert "damaged" in refused(safetensors_of(tmp_path / "w.safetensors", **changes))


def test_safetensors_header_longer_than_the_file(tmp_path, little_memory):
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", 10**15) + b"{}")
    assert "cut short or damaged" in refused(tmp_path / "w.safetensors")


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
