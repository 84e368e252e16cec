"""What torch's own safe loader takes loads here too; what could not be checked is refused."""

import collections
import io
import json
import struct
import warnings

import pytest
import torch

from se_backbones.weights import WeightsError, load_safely, read_state_dict
from se_backbones.weights.formats.torch_file import check_zip

MATRIX = torch.arange(12.0).reshape(4, 3)
TYPES = """float64 float32 float16 bfloat16 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu
    float4_e2m1fn_x2 int64 int32 int16 int8 uint64 uint32 uint16 uint8 complex128 complex64 complex32
    bits8 bits16""".split()
NOT_TO_READ = ("float4_e2m1fn_x2", "bits8", "bits16")  # torch has no way to their numbers


def with_attribute(tensor):
    tensor.note = 3
    return tensor


def values():
    """Values as training scripts keep them beside weights."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    yield "scheduler", torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 30, 60]).state_dict()
    yield "counter", collections.Counter("abca")
    yield "counter, empty", collections.Counter()
    yield "complex", [1j, complex(float("inf"), -2.5)]
    yield "bytearray", [bytearray(b"ab\xff"), bytearray(), b"raw\x00"]
    yield "ordered", collections.OrderedDict(a=1, b=[2])
    yield "set and size", [{1, 2}, torch.Size([1, 2]), torch.device("cuda:1"), torch.strided, torch.per_tensor_affine]
    yield "types", [torch.float32, torch.float8_e5m2, torch.uint16, torch.int4, torch.quint8]
    yield "keys", {(1, (2, "a")): 1, 1j: 2, torch.float16: 3, b"x": 4, None: 5}
    yield "large", [10**600, -(2**63), 2**31]


def tensors():
    for name in TYPES:
        yield name, torch.zeros(48, dtype=torch.uint8).view(getattr(torch, name))
    yield "bool", torch.tensor([True, False])
    yield "uint64", torch.tensor([2**64 - 1], dtype=torch.uint64)
    yield "parameter", torch.nn.Parameter(MATRIX.clone())
    yield "parameter with an attribute", with_attribute(torch.nn.Parameter(MATRIX.clone()))
    yield "tensor with an attribute", with_attribute(MATRIX.clone())
    yield "buffer", torch.nn.Buffer(MATRIX.clone())
    yield "expanded", torch.ones(1).expand(5)
    yield "conjugate", torch.tensor([1j, 2]).conj()
    yield "channels last", torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)
    yield "scalar and empty", torch.tensor(2.0)
    yield "empty", torch.zeros(0, 3)
    yield "without numbers", torch.empty(3, 2, device="meta")
    yield "sparse", MATRIX.to_sparse()
    yield "sparse rows", MATRIX.to_sparse_csr()
    yield "quantised", torch.quantize_per_tensor(MATRIX, 0.1, 10, torch.quint8)
    yield "quantised by channel", torch.quantize_per_channel(MATRIX, torch.ones(4), torch.zeros(4), 0, torch.qint8)
    yield "in half bytes", torch.quantize_per_channel(MATRIX, torch.ones(4), torch.zeros(4), 0, torch.quint4x2)


VALUES = dict(values())
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's quantised and sparse tensors are deprecated, or in beta
    TENSORS = dict(tensors())


def saved(value, path, legacy=False):
    torch.save({"beside": value}, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", VALUES)
def test_values(name, legacy, tmp_path):
    path = saved(VALUES[name], tmp_path / "w.pth", legacy)
    assert load_safely(path) == {"beside": VALUES[name]}


def same(first, second):
    if first.is_meta or first.layout != torch.strided or first.is_quantized:
        return (first.shape, first.dtype, first.layout) == (second.shape, second.dtype, second.layout)
    return first.dtype == second.dtype and first.tolist() == second.tolist()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", TENSORS)
def test_tensors(name, legacy, tmp_path):
    path = saved(TENSORS[name], tmp_path / "w.pth", legacy)
    try:
        theirs = torch.load(path, weights_only=True)["beside"]
    except Exception:  # torch does not read this one back: then neither do we, and say so
        assert legacy
        with pytest.raises(WeightsError, match="refuses it"):
            load_safely(path)
        return
    ours = load_safely(path)["beside"]
    assert (theirs.shape, theirs.dtype) == (ours.shape, ours.dtype)
    if name not in NOT_TO_READ:
        assert same(ours, theirs)


def test_without_checksums(tmp_path):
    """torch.serialization.set_crc32_options(False) writes none, and torch.load wants none."""
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": MATRIX}, tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(load_safely(tmp_path / "w.pth")["w"], MATRIX)


def test_nested_tensors_could_not_be_checked(tmp_path):
    saved(torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="_rebuild_nested_tensor"):
        load_safely(tmp_path / "w.pth")


def crafted(tmp_path, body):
    """A file whose pickle is a dictionary with one value, put together from instructions."""
    import zipfile

    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}X\x01\x00\x00\x00w" + body + b"s.")
        archive.writestr("a/version", "3\n")
        archive.writestr("a/data/0", bytes(16))
    return tmp_path / "w.pth"


STORAGE = b"(X\x07\x00\x00\x00storagectorch.storage\nUntypedStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x10tQ"
V3 = b"ctorch._utils\n_rebuild_tensor_v3\n("
HOOKS = b"\x89ccollections\nOrderedDict\n)R"
FLOATS = STORAGE.replace(b".storage\nUntyped", b"\nFloat").replace(b"cpuK\x10", b"cpuK\x04")
PLAIN = b"ctorch._utils\n_rebuild_tensor_v2\n(" + FLOATS + b"K\x00K\x04\x85K\x01\x85" + HOOKS + b"tR"


def named(text):
    return b"X" + struct.pack("<I", len(text)) + text


@pytest.mark.parametrize(
    ("body", "message"),
    [
        # sixteen bytes are no five float32
        (
            V3 + STORAGE + b"K\x00K\x05\x85K\x01\x85" + HOOKS + b"ctorch\nfloat32\ntR",
            "reaches beyond its data",
        ),
        (V3 + STORAGE + b"K\x00K\x04\x85K\x01\x85" + HOOKS + b"NtR", "unknown way"),
        # torch makes a quantised tensor of this size before it looks at its storage
        (
            b"ctorch._utils\n_rebuild_qtensor\n(" + STORAGE + b"K\x00\x8a\x06\x00\x00\x00\x00\x00\x01\x85K\x00\x85"
            b"ctorch\nper_tensor_affine\nG?\xf0\x00\x00\x00\x00\x00\x00K\x00\x87" + HOOKS + b"tR",
            "larger than its data",
        ),
        # a length and not bytes: 2 GB of zeros
        (b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R", "makes bytes in an unknown way"),
        (b"c__builtin__\ncomplex\n" + named(b"1j") + b"\x85R", "complex number"),
        (b"ccollections\nCounter\n" + named(b"aab") + b"\x85R", "counts something"),
        # attributes that a tensor has by itself
        *(
            (
                b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\nctorch\nTensor\n("
                + FLOATS + b"K\x00K\x04\x85K\x01\x85" + HOOKS + b"t}" + named(name) + b"NstR",
                "changes",
            )
            for name in (b"data", b"__class__", b"grad_fn", b"_backward_hooks", b"__reduce_ex__")
        ),
        (b"ctorch._utils\n_rebuild_parameter_with_state\n(" + PLAIN + b"\x88N}" + named(b"data") + b"NstR", "changes"),
        # a function in the place of what rebuilds a tensor
        (b"ctorch._tensor\n_rebuild_from_type_v2\n(c__builtin__\nset\nctorch\nTensor\n)NtR", "class of its own"),
        (b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n(ctorch\nfloat32\nK\x04)\x88tR", "unknown way"),
    ],
)  # fmt: skip
def test_the_same_names_with_other_arguments(body, message, tmp_path):
    with pytest.raises(WeightsError, match=message):
        load_safely(crafted(tmp_path, body))


def test_the_crafted_tensor_is_whole(tmp_path):
    assert load_safely(crafted(tmp_path, PLAIN))["w"].shape == (4,)


@pytest.mark.parametrize("call", [b"c__builtin__\nset\n", b"ccollections\nOrderedDict\n", b"c__builtin__\nbytearray\n"])
def test_one_value_copied_many_times(call, tmp_path):
    if b"bytearray" in call:
        value = b"c_codecs\nencode\n" + named(b"a" * 10_000) + named(b"latin1") + b"\x86R"
    else:
        value = b"](" + b"".join(b"K" + bytes([i % 256]) + b"N\x86" for i in range(5000)) + b"e"
    body = value + b"q\x01(" + (call + b"h\x01\x85R") * 3000 + b"t\x86"
    with pytest.raises(WeightsError, match="more (values|bytes) than the file holds"):
        check_zip(crafted(tmp_path, body))


def test_expanded_tensors_have_a_limit(tmp_path):
    """Views of one number: together no more than the file has bytes."""
    torch.save([torch.zeros(1).expand(900) for _ in range(50)], tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="reaches beyond its data"):
        load_safely(tmp_path / "w.pth")


# --- safetensors ---


def safetensors_file(path, header, data=b""):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def one(dtype, size):
    return {"w": {"dtype": dtype, "shape": [16], "data_offsets": [0, size]}}


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        ("BOOL", 16), ("U8", 16), ("I8", 16), ("F8_E5M2", 16), ("F8_E4M3", 16), ("F8_E8M0", 16), ("I16", 32),
        ("U16", 32), ("F16", 32), ("BF16", 32), ("I32", 64), ("U32", 64), ("F32", 64), ("C64", 128), ("F64", 128),
        ("I64", 128), ("U64", 128), ("F8_E4M3FNUZ", 16), ("F8_E5M2FNUZ", 16),
    ],
)  # fmt: skip
def test_element_types_of_safetensors(dtype, size, tmp_path):
    path = safetensors_file(tmp_path / "w.safetensors", one(dtype, size), bytes(size))
    assert load_safely(path)["w"].shape == (16,)


@pytest.mark.parametrize("dtype", ["F6_E2M3", "F6_E3M2"])
def test_an_element_type_that_torch_lacks_is_no_damage(dtype, tmp_path):
    path = safetensors_file(tmp_path / "w.safetensors", one(dtype, 12), bytes(12))
    with pytest.raises(WeightsError, match=f"holds {dtype} numbers, a type that torch .* does not have"):
        load_safely(path)


@pytest.mark.parametrize(
    "metadata",
    [
        {"architecture": "resnet", "classes": "80", "se": "true", "preprocessing": "imagenet"},
        {"classes": "[1", "se": "[]", "preprocessing": "{}", "backbone": "se_resnet50"},
        {"format": "pt", "preprocessing": '{"mean": [1]}', "tensors_sha256": "of something else"},
        {"preprocessing": json.dumps({"channel_order": "BGR", "scale": 255, "mean": [1, 2, 3], "std": [1, 1, 1]})},
    ],
)
def test_metadata_in_other_peoples_words(metadata, tmp_path):
    header = {"__metadata__": metadata, "layer1.0.conv1.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    weights = read_state_dict(safetensors_file(tmp_path / "w.safetensors", header, bytes(4)))
    assert (weights.architecture, weights.classes, weights.se) == (None, None, None)
    assert weights.facts.basis == "published"  # of the layout, and not of the file
    assert {key: weights.metadata[key] for key in metadata} == metadata


def test_a_file_object_is_given_to_torch_and_not_a_name(tmp_path):
    buffer = io.BytesIO()
    torch.save({"w": MATRIX}, buffer)
    for name in ("w.safetensors", "w.pkl", "w.caffemodel", "w", "w.gz"):
        (tmp_path / name).write_bytes(buffer.getvalue())
        assert torch.equal(load_safely(tmp_path / name)["w"], MATRIX)
