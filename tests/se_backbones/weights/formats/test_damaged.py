"""A file that is cut short or has a bit changed is an error that names it, and the model stays as it was."""

import gzip
import os
import pickle

import pytest
import torch

from se_backbones.weights import WeightsError, convert_file, load_safely, load_weights, read_state_dict
from se_backbones.weights.formats.safe_load import file_sha256


@pytest.fixture(scope="module")
def state(filled):
    """A part of a network, small enough to damage at many places."""
    full = filled("resnet18", 1, num_classes=2).state_dict()
    return {name: tensor for name, tensor in full.items() if name.startswith(("conv1", "bn1", "layer1.0", "fc"))}


@pytest.fixture(scope="module", params=["zip", "legacy", "safetensors", "pkl"])
def whole(request, state, tmp_path_factory):
    """One whole file of each form."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "zip":
        torch.save({"state_dict": state, "epoch": 1}, folder / "w.pth")
    elif request.param == "legacy":
        torch.save({"state_dict": state, "epoch": 1}, folder / "w.pth", _use_new_zipfile_serialization=False)
    elif request.param == "safetensors":
        pytest.importorskip("safetensors.torch").save_file(state, folder / "w.safetensors")
    else:
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        (folder / "w.pkl").write_bytes(pickle.dumps({"model": arrays}, protocol=2))
    return next(folder.iterdir())


def is_zip(path):
    return path.read_bytes()[:2] == b"PK"


def test_the_whole_file_loads(whole, state):
    assert read_state_dict(whole).state_dict.keys() == state.keys()


@pytest.mark.parametrize("share", [0.0005, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_cut_short(whole, share, tmp_path):
    data = whole.read_bytes()
    path = tmp_path / whole.name
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(WeightsError) as caught:
        load_safely(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("missing", [1, 8, 100])
def test_last_bytes_missing(whole, missing, tmp_path):
    path = tmp_path / whole.name
    path.write_bytes(whole.read_bytes()[:-missing])
    with pytest.raises(WeightsError, match=str(path)):
        load_safely(path)


def test_bytes_too_many(whole, state, tmp_path):
    path = tmp_path / whole.name
    path.write_bytes(whole.read_bytes() + bytes(100))
    if is_zip(whole):  # a zip file's directory is looked for from its end: bytes behind it are no part of it
        assert read_state_dict(path).state_dict.keys() == state.keys()
        return
    with pytest.raises(WeightsError, match=str(path)):
        load_safely(path)


def test_empty_and_missing(whole, tmp_path):
    path = tmp_path / whole.name
    with pytest.raises(WeightsError, match="no such file"):
        load_safely(path)
    path.write_bytes(b"")
    with pytest.raises(WeightsError, match="empty"):
        load_safely(path)


def flips(size, count=40):
    """Places over the whole file, the beginning and the end in detail."""
    return sorted({*range(40), *(size * i // count for i in range(count)), *range(size - 40, size)})


def test_a_changed_bit_in_a_zip_file(state, tmp_path):
    """Every entry of torch.save's zip files has a checksum: any change is found, or changes nothing."""
    path = tmp_path / "w.pth"
    torch.save({"state_dict": state, "epoch": 1}, path)
    data = bytearray(path.read_bytes())
    found = 0
    for place in flips(len(data)):
        data[place] ^= 0x10
        path.write_bytes(data)
        data[place] ^= 0x10
        try:
            loaded = read_state_dict(path).state_dict
        except WeightsError as error:
            assert str(path) in str(error)
            found += 1
        else:  # in the archive's own fields that nobody reads: a date, a version
            assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.items())
    assert found > 60


def test_a_changed_bit_in_a_converted_file(filled, tmp_path):
    pytest.importorskip("safetensors")
    torch.save(filled("resnet18", 1, num_classes=2).state_dict(), tmp_path / "w.pth")
    convert_file(tmp_path / "w.pth", tmp_path / "w.safetensors")
    data = bytearray((tmp_path / "w.safetensors").read_bytes())
    for place in (len(data) // 3, len(data) // 2, len(data) - 1):
        data[place] ^= 1
        (tmp_path / "bad.safetensors").write_bytes(data)
        data[place] ^= 1
        with pytest.raises(WeightsError, match="do not match the checksum"):
            load_weights(filled("resnet18", 1, num_classes=2), tmp_path / "bad.safetensors")


def test_a_changed_bit_never_ends_in_another_exception(whole, tmp_path):
    """Without a checksum a change inside a tensor cannot be seen; but whatever is found is a WeightsError."""
    data = bytearray(whole.read_bytes())
    path = tmp_path / whole.name
    for place in flips(len(data), 10):
        for bit in (0x01, 0x80):
            data[place] ^= bit
            path.write_bytes(data)
            data[place] ^= bit
            try:
                read_state_dict(path)
            except WeightsError as error:
                assert str(error)


def test_the_hash_in_a_released_name(state, tmp_path):
    """resnet18-5c106cde.pth: the first digits of the file's sha256."""
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    sha256 = file_sha256(tmp_path / "w.pth")
    good = tmp_path / f"resnet18-{sha256[:8]}.pth"
    if not any(letter in "abcdef" for letter in sha256[:8]):
        good = tmp_path / f"resnet18-{sha256[:24]}.pth"
    (tmp_path / "w.pth").rename(good)
    assert read_state_dict(good).sha256 == sha256
    data = bytearray(good.read_bytes())
    data[-1000] ^= 1
    good.write_bytes(data)
    with pytest.raises(WeightsError, match="its name promises a sha256"):
        read_state_dict(good)
    dated = good.rename(tmp_path / "resnet18-20201231.pth")
    assert read_state_dict(dated).state_dict.keys() == state.keys()
    other = dated.rename(tmp_path / "seresnet50-60a8950a85b2b.pkl")  # thirteen digits, as senet.pytorch names its file
    assert any("60a8950a85b2b in its name" in note for note in read_state_dict(other).notes)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"\xef\xbb\xbfversion https://git-lfs.github.com/spec/v1\r\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\n\n<HTML lang=en>", "web page"),
        ("<!doctype html>".encode("utf-16"), "web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page"),
        (b"<Error><Code>NoSuchKey</Code></Error>", "a text, which begins: '<Error><Code>NoSuchKey"),
        (b'{"error": "Repository not found"}', 'a text, which begins: .{"error": "Repository not found"}'),
        (b"Entry not found", "a text, which begins: 'Entry not found'"),
        (b"Not Found", "a text, which begins: 'Not Found'"),  # whose letters are instructions of a pickle
        (b"../../blobs/0123abcd", "a text"),
        ("找不到".encode() * 500, "a text, which begins: '找不到"),
        (b"hello", "not a weights file"),
        (b"   \n", "not a weights file"),
        (gzip.compress(b"weights", mtime=0), "gzip"),
        (b"BZh91AY&SY", "bzip2"),
        (b"\x89HDF\r\n\x1a\n" + bytes(90), "HDF5"),
        (b"\x93NUMPY\x01\x00v", "NumPy array"),
        (b"\x89PNG\r\n\x1a\n", "picture"),
        (bytes(5000), "zeros alone"),
        (b"", "empty"),
        (b"PK\x05\x06" + bytes(18), "not one of torch.save"),
        (b"PK\x03\x04" + bytes(90), "cut short or damaged"),
    ],
)
def test_what_is_no_weights_file(head, message, tmp_path):
    said = set()
    for name in ("w.pth", "w.safetensors", "w.pkl", "w.bin", "w.caffemodel", "w.pth.tar", "w"):
        (tmp_path / name).write_bytes(head)
        with pytest.raises(WeightsError, match=message) as caught:
            load_safely(tmp_path / name)
        said.add(str(caught.value).replace(str(tmp_path / name), "FILE"))
    assert len(said) == 1  # the suffix changes nothing


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors", "pickle 0", "pickle 1", "pickle 2", "pickle 5"])
def test_what_is_weights_loads_whatever_its_name(form, tmp_path):
    source = tmp_path / "source"
    if form in ("zip", "legacy"):
        torch.save({"w": torch.ones(3)}, source, _use_new_zipfile_serialization=form == "zip")
    elif form == "safetensors":
        pytest.importorskip("safetensors.torch").save_file({"w": torch.ones(3)}, source)
    else:
        source.write_bytes(pickle.dumps({"w": torch.ones(3).numpy()}, protocol=int(form[-1])))
    for suffix in (".pth", ".safetensors", ".pkl", ".bin", ".caffemodel", ".zip", ".tar", ".html", ""):
        (tmp_path / f"w{suffix}").write_bytes(source.read_bytes())
        assert load_safely(tmp_path / f"w{suffix}")["w"].tolist() == [1, 1, 1]


def test_what_is_no_regular_file(tmp_path):
    """A pipe would be waited for, and a device has no end."""
    os.mkfifo(tmp_path / "pipe.pth")
    for path, message in ((tmp_path / "pipe.pth", "no regular file"), ("/dev/zero", "no regular file")):
        with pytest.raises(WeightsError, match=message):
            load_safely(path)
    for name in ("x" * 5000, "a\0b.pth"):
        with pytest.raises(WeightsError, match="cannot be read|no such file"):
            load_safely(tmp_path / name)
        with pytest.raises(WeightsError, match="cannot be read|no such file"):
            read_state_dict(tmp_path / name)


def test_tar_and_folders(tmp_path):
    import tarfile

    (tmp_path / "inner.pth").write_bytes(b"x")
    with tarfile.open(tmp_path / "w.tar", "w") as archive:
        archive.add(tmp_path / "inner.pth", "storages")
    with pytest.raises(WeightsError, match="tar archive"):
        load_safely(tmp_path / "w.tar")
    with pytest.raises(WeightsError, match=r"folder; name a file in it: inner\.pth"):
        load_safely(tmp_path)
