"""Files that claim more than there is in them, or take memory out of all proportion: each is refused at once."""

import json
import pickle
import struct
import tracemalloc
import zipfile

import pytest

from se_backbones.weights import WeightsError, load_safely
from se_backbones.weights.formats.torch_file import LEGACY_MAGIC
from tests.se_backbones.weights.formats.test_hostile import crafted_zip, refused


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
