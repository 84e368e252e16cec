"""Caffe's files: every form gives the numbers that were written, whatever is wrong is an error with file and layer."""

import io
import itertools
import pickle
import struct
import tracemalloc

import numpy as np
import pytest
import torch

from se_backbones.weights import WeightsError, load_safely
from se_backbones.weights.formats import protobuf_wire
from se_backbones.weights.formats.caffemodel import (
    CaffeLayer,
    caffe_state_dict,
    looks_like_caffemodel,
    read_caffemodel,
)
from se_backbones.weights.formats.protobuf_wire import MAX_FIELDS
from se_backbones.weights.formats.safe_load import open_safely
from se_backbones.weights.formats.wrapped import unwrap
from tests.se_backbones.weights.caffemodel_writer import (
    blob,
    integer,
    layer,
    message,
    net,
    varint,
    write_caffemodel,
)


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


# The types that both forms have.
PLAIN = (
    ("data", "Data", []),
    ("conv1/7x7_s2", "Convolution", [numbers(8, 3, 7, 7)]),
    ("relu", "ReLU", []),
    ("conv2_1_1x1_down", "Convolution", [numbers(4, 8, 1, 1), numbers(4)]),
    ("classifier", "InnerProduct", [numbers(10, 4), numbers(10)]),
)
NORMALISED = (
    ("conv", "Convolution", [numbers(6, 2, 3, 3)]),
    ("conv/bn", "BatchNorm", [numbers(6), numbers(6, seed=1) ** 2, np.float32([4.0])]),
    ("conv/bn/scale", "Scale", [numbers(6, seed=2), numbers(6, seed=3)]),
    ("gate_scale", "Scale", []),  # of two inputs: it has no parameters
)


@pytest.mark.parametrize("v1", [False, True])
@pytest.mark.parametrize(("packed", "legacy", "double"), list(itertools.product([True, False], repeat=3)))
def test_every_form_gives_what_was_written(v1, packed, legacy, double, tmp_path):
    path = write_caffemodel(tmp_path / "a.caffemodel", PLAIN, v1, packed=packed, legacy=legacy, double=double)
    layers = read_caffemodel(path)
    assert [(each.name, each.type) for each in layers] == [(name, kind) for name, kind, _ in PLAIN]
    for found, (_, _, arrays) in zip(layers, PLAIN, strict=True):
        assert len(found.blobs) == len(arrays)
        for tensor, array in zip(found.blobs, arrays, strict=True):
            assert tensor.dtype == torch.float32
            assert tensor.shape == ((1,) * (4 - array.ndim) + array.shape if legacy else array.shape)
            assert np.array_equal(tensor.numpy().reshape(array.shape), array)
    state = caffe_state_dict(layers)
    assert list(state) == [
        "conv1/7x7_s2.weight",
        "conv2_1_1x1_down.weight",
        "conv2_1_1x1_down.bias",
        "classifier.weight",
        "classifier.bias",
    ]
    arrays = [array for _, _, arrays in PLAIN for array in arrays]
    assert all(np.array_equal(tensor, array) for tensor, array in zip(state.values(), arrays, strict=True))


def test_the_tensors_outlive_the_file(tmp_path):
    path = write_caffemodel(tmp_path / "a.caffemodel", PLAIN)
    blobs = read_caffemodel(path)[1].blobs
    path.write_bytes(bytes(path.stat().st_size))
    blobs[0].mul_(2)
    assert np.array_equal(blobs[0], 2 * PLAIN[1][2][0])


def test_normalisation(tmp_path):
    path = write_caffemodel(tmp_path / "a.caffemodel", NORMALISED)
    state = caffe_state_dict(read_caffemodel(path))
    mean, variance, _ = NORMALISED[1][2]
    assert np.array_equal(state["conv/bn.running_mean"], mean / 4)
    assert np.array_equal(state["conv/bn.running_var"], variance / 4)
    assert np.array_equal(state["conv/bn/scale.weight"], NORMALISED[2][2][0])
    assert np.array_equal(state["conv/bn/scale.bias"], NORMALISED[2][2][1])
    assert len(state) == 5


def test_a_factor_of_zero_gives_zeros():
    layers = [CaffeLayer("bn", "BatchNorm", (torch.ones(3), torch.ones(3), torch.zeros(1)))]
    state = caffe_state_dict(layers)
    assert torch.equal(state["bn.running_mean"], torch.zeros(3)) and torch.equal(
        state["bn.running_var"], torch.zeros(3)
    )


@pytest.mark.parametrize(
    ("kind", "shapes", "message"),
    [
        ("PReLU", [(4,)], "of this type are not known"),
        ("BN", [(4,), (4,), (4,), (4,)], "of this type are not known"),
        ("Deconvolution", [(4, 4, 2, 2)], "of this type are not known"),
        ("BatchNorm", [(4,), (4,)], "2 blobs, and 3 are expected"),
        ("BatchNorm", [(4,), (5,), (1,)], r"shape \(5,\) is not the vector of 4"),
        ("BatchNorm", [(4,), (4,), (4,)], r"shape \(4,\) is not the vector of 1"),
        ("Scale", [(2, 2)], "not the vector"),
        ("Scale", [(4,), (1,)], "not the vector of 4"),
        ("Convolution", [(4, 4)], "not that of a convolution"),
        ("Convolution", [(4, 4, 1, 1), (3,)], "not the vector of 4"),
        ("Convolution", [(4, 4, 1, 1), (4,), (4,)], "3 blobs, and 1 or 2 are expected"),
        ("InnerProduct", [(2, 1, 4, 4)], "no matrix"),
        ("InnerProduct", [(4,)], "no matrix"),
        ("InnerProduct", [(4, 3), (3,)], "not the vector of 4"),
        ("InnerProduct", [()], "no matrix"),
    ],
)
def test_blobs_that_do_not_fit_their_type(kind, shapes, message, tmp_path):
    layers = [("layer7", kind, [numbers(*shape) for shape in shapes])]
    path = write_caffemodel(tmp_path / "a.caffemodel", layers)
    with pytest.raises(WeightsError, match=message) as caught:
        load_safely(path)
    assert str(path) in str(caught.value) and f"'layer7' of type '{kind}'" in str(caught.value)


def test_two_layers_of_one_name():
    fc = CaffeLayer("fc", "InnerProduct", (torch.ones(2, 2),))
    assert list(caffe_state_dict([fc, CaffeLayer("fc", "ReLU")])) == ["fc.weight"]
    with pytest.raises(WeightsError, match="another layer of this name"):
        caffe_state_dict([fc, CaffeLayer("fc", "InnerProduct", (torch.ones(2, 2),))])
    with pytest.raises(WeightsError, match="no name"):
        caffe_state_dict([CaffeLayer("", "InnerProduct", (torch.ones(2, 2),))])


@pytest.mark.parametrize("suffix", ["caffemodel", "pth", "bin", "pkl", "safetensors"])
@pytest.mark.parametrize("v1", [False, True])
def test_the_one_door_tells_it_by_its_content(suffix, v1, tmp_path):
    path = write_caffemodel(tmp_path / f"w.{suffix}", PLAIN, v1)
    assert open_safely(path).form == "caffemodel"
    found = unwrap(load_safely(path), str(path)).state_dict
    assert found.keys() == caffe_state_dict(read_caffemodel(path)).keys()


def others(tmp_path):
    """Beginnings of files of other forms."""
    tensors = {"name": torch.ones(300)}
    for new in (True, False):
        stream = io.BytesIO()
        torch.save(tensors, stream, _use_new_zipfile_serialization=new)
        yield stream.getvalue()
    for protocol in range(6):
        yield pickle.dumps({"layers": numbers(3).tolist()}, protocol)
    for length in (0x0A, 0x12, 0x06A2, 0x28, 0x200A):
        yield struct.pack("<Q", length) + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
    stream = io.BytesIO()
    np.save(stream, numbers(3))
    yield stream.getvalue()
    yield b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"
    yield from (
        b"<!DOCTYPE html><html>",
        b"\n<html><head>",
        b"\n\n{}",
        b'name: "net"\nlayer {\n',
        b'{"a": 1}',
        b"",
        b"\n",
    )
    yield bytes(1000)
    yield integer(1, 8) + message(2, "pytorch") + message(7, b"")  # ONNX
    yield message(1, "init") + message(2, message(2, "w") + message(4, "Fill") + message(5, b""))  # Caffe2's NetDef
    yield message(1, message(1, "x") + message(2, "Const"))  # TensorFlow's GraphDef


def test_no_other_file_is_taken_for_one(tmp_path):
    for data in others(tmp_path):
        for length in (len(data), 256, 16):
            assert not looks_like_caffemodel(data[:length]), data[:40]


@pytest.mark.parametrize("v1", [False, True])
def test_the_beginning_is_enough(v1, tmp_path):
    data = write_caffemodel(tmp_path / "a.caffemodel", PLAIN, v1).read_bytes()
    inputs = message(3, "data") + b"".join(integer(4, length) for length in (1, 3, 224, 224)) + integer(5, 0)
    assert looks_like_caffemodel(data[:100])
    assert looks_like_caffemodel((inputs + data)[:150])
    name = len(message(1, "a network"))
    assert looks_like_caffemodel(data[name:][:100])  # a network needs no name
    assert not looks_like_caffemodel(data[:name])


def one(*blobs, name="conv1"):
    return net([layer(name, "Convolution", blobs)])


DATA = message(5, numbers(4).tobytes())


@pytest.mark.parametrize(
    ("data", "message_"),
    [
        (one(blob(numbers(4), shape=(5,))), r"needs 5 numbers, and it has 4"),
        (one(blob(numbers(4), shape=(2**31, 2**31, 2**40))), "numbers, and it has 4"),
        (one(blob(numbers(4), shape=(-4,))), "no count"),
        (one(blob(numbers(4), shape=(-2, -2))), "no count"),
        (one(blob(numbers(4), shape=(-2, -2), legacy=True)), "no count"),
        (one(blob(numbers(4), shape=(0, 4))), "no count"),
        (one(blob(numbers(4), shape=(1,) * 33)), "more than 32"),
        (one(blob(numbers(4), shape=(1,) * 33, packed=False)), "more than 32 axes"),
        (one(b""), "needs 1 numbers, and it has 0"),
        (one(message(7, b"")), "needs 1 numbers, and it has 0"),
        (one(integer(2, 4) + DATA), "no count"),  # channels alone: num is 0
        (one(DATA + message(8, numbers(4).astype(np.float64).tobytes())), "twice"),
        (one(message(5, bytes(15))), "15 bytes, which is no multiple of 4"),
        (one(integer(5, 1)), "should hold numbers"),
        (one(varint(5 << 3 | 1) + bytes(8)), "should hold numbers"),
        (one(integer(7, 1) + DATA), "cannot have"),
        (one(varint(1 << 3 | 5) + bytes(4) + DATA), "cannot have"),
        (one(message(7, varint(1 << 3 | 5) + bytes(4)) + DATA), "should be a whole number"),
        (one(varint(5 << 3 | 2) + varint(1 << 40) + bytes(16)), "bytes more than there are"),
        (one(varint(5 << 3 | 2) + b"\xff" * 10 + b"\x01"), "more than 64 bits"),
        (one(varint(5 << 3 | 2) + b"\xff" * 9 + b"\x7f"), "more than 64 bits"),
        (one(varint(5 << 3 | 3)), "begin no field"),
        (one(b"\0\0"), "begin no field"),
    ],
)
def test_a_wrong_blob_names_file_and_layer(data, message_, tmp_path):
    path = tmp_path / "a.caffemodel"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=message_) as caught:
        load_safely(path)
    assert str(caught.value).startswith(f"{path}: layer 1 'conv1', blob 0: ")


@pytest.mark.parametrize(
    ("data", "message_"),
    [
        (net([]), "no layers"),
        (net([layer("a", "ReLU", []), layer("b", "ReLU", [], v1=True)]), "both of Caffe's forms"),
        (net([message(2, message(1, message(1, "conv") + message(2, "conv")))]), "form of 2013"),
        (net([integer(100, 3)]), "cannot have"),
        (net([message(100, message(1, b"\xff\xfe"))]), "should be a name"),
        (net([message(100, message(1, "a" * 5000))]), "should be a name"),
        (net([message(100, message(1, "a") + integer(7, 3))]), "cannot have"),
        (net([message(2, message(4, "a") + message(5, "Convolution"))]), "cannot have"),
        (net([layer("a", "ReLU", [])]) + bytes(100), "cut short or damaged"),
        (net([layer("a", "ReLU", [])])[:-1], "cut short or damaged"),
        (net([]) + integer(4, 1) * (MAX_FIELDS + 1), "more than 200,000 fields"),
        (one(blob(numbers(1)), name=""), "no name"),
    ],
)
def test_a_wrong_network_names_the_file(data, message_, tmp_path):
    path = tmp_path / "a.caffemodel"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=message_) as caught:
        load_safely(path)
    assert str(caught.value).startswith(str(path))


def test_an_unknown_type_of_the_old_form_is_named(tmp_path):
    path = tmp_path / "a.caffemodel"
    path.write_bytes(net([message(2, message(4, "odd") + integer(5, 77) + message(6, blob(numbers(1))))]))
    with pytest.raises(WeightsError, match="layer 'odd' of type 'V1 type 77'"):
        load_safely(path)


def test_numbers_in_pieces(tmp_path):
    """A writer may break a repeated field in pieces, packed and not, with anything between them, gradients too."""
    array = numbers(100)
    single = b"".join(varint(5 << 3 | 5) + value.tobytes() for value in array[10:60])
    gradients = b"".join(varint(6 << 3 | 5) + value.tobytes() for value in array)
    pieces = message(5, array[:10].tobytes()) + single + gradients + message(6, b"") + message(5, array[60:].tobytes())
    shape = message(7, integer(1, 10)) + message(7, message(1, varint(10)))
    (tmp_path / "a").write_bytes(one(shape + pieces + message(200, b"of some fork") + message(5, b"")))
    assert np.array_equal(read_caffemodel(tmp_path / "a")[0].blobs[0], array.reshape(10, 10))


def test_damage_is_a_weights_error_or_changes_numbers_alone(tmp_path):
    data = bytearray(write_caffemodel(tmp_path / "whole", (*PLAIN[2:], *NORMALISED), packed=True).read_bytes())
    path = tmp_path / "a.caffemodel"
    refused = 0
    for place, bit in itertools.product(range(0, len(data), max(1, len(data) // 150)), (0x01, 0x80)):
        data[place] ^= bit
        path.write_bytes(data)
        data[place] ^= bit
        try:
            load_safely(path)
        except WeightsError as error:
            assert str(error).startswith(str(path))
            refused += 1
    assert refused > 20


def test_cut_short(tmp_path):
    """Everywhere but between two layers, where the format has no mark of what should follow."""
    data = write_caffemodel(tmp_path / "whole", NORMALISED).read_bytes()
    between = {len(net([]))}
    for count in range(1, len(NORMALISED) + 1):
        between.add(len(write_caffemodel(tmp_path / "part", NORMALISED[:count]).read_bytes()))
    path = tmp_path / "a.caffemodel"
    for length in sorted({*range(1, 40), *range(40, len(data), 7), len(data) - 1} - between):
        path.write_bytes(data[:length])
        with pytest.raises(WeightsError, match="cut short or damaged"):
            read_caffemodel(path)
    path.write_bytes(b"")
    with pytest.raises(WeightsError, match="empty"):
        read_caffemodel(path)


HOSTILE = {
    "a shape": lambda: one(blob(numbers(4), shape=(1,) * 500_000)),
    "shapes": lambda: one(message(7, message(1, b"\1" * 31) * 10_000) + DATA),
    "names": lambda: net([message(100, message(1, "a" * 4000) * 500 + message(7, b""))]),
    "blobs": lambda: net([message(100, b"\x3a\x00" * 500_000)]),
    "pieces": lambda: one((varint(5 << 3 | 5) + bytes(4) + integer(9, 1)) * 100_000),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_no_memory_without_end(what, tmp_path, monkeypatch):
    """A megabyte of what each takes an object to hold: refused long before they are all held."""
    path = tmp_path / "a.caffemodel"
    path.write_bytes(HOSTILE[what]())
    monkeypatch.setattr(protobuf_wire, "MAX_FIELDS", 5000)
    tracemalloc.start()
    with pytest.raises(WeightsError) as caught:
        load_safely(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(str(caught.value)) < 6000
    assert peak < 4e6


def test_more_numbers_than_fields(tmp_path):
    """Numbers that were not packed are one field each; they are read as a row, not one by one."""
    array = numbers(500, 500)
    assert array.size > MAX_FIELDS
    (tmp_path / "a").write_bytes(one(message(7, message(1, varint(500) * 2)) + not_packed(array)))
    assert np.array_equal(read_caffemodel(tmp_path / "a")[0].blobs[0], array)


def not_packed(array):
    rows = np.empty((array.size, 5), np.uint8)
    rows[:, 0] = 5 << 3 | 5
    rows[:, 1:] = array.reshape(-1, 1).view(np.uint8)
    return rows.tobytes()
