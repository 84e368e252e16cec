"""Damage of which neither zipfile nor tarfile says a word is told before an image is missing or in another class."""

import struct
import zipfile

import numpy as np
import pytest

from classification.index.class_folders import find_split
from classification.index.index import open_index
from engine.errors import UserError
from tests.classification.index.archives import make_tar, make_zip

CLASSES = ("aster", "tulip")


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "set" / "train" / name).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "set" / "train" / name / f"{number}.jpg").write_bytes(random.bytes(700))
    return tmp_path / "set"


@pytest.fixture
def names_of(tmp_path):
    """(bytes of an archive) → the names of its images."""

    def names_of(data):
        path = tmp_path / "x"
        path.write_bytes(data)
        index = open_index(find_split(path, "train"), tmp_path / "cache")
        return [index.name(position) for position in range(len(index))]

    return names_of


def directory_entry(data, name):
    """Where a name begins in a zip's directory, behind all data."""
    return data.rindex(name)


@pytest.mark.parametrize(
    "name",
    [b"Train/tulip/2.jpg", b"train/tulap/2.jpg", b"train/aster/9.jpg", b"train/tulip.2.jpg", b"train/tulip/2.jpq"],
    ids=["in no split", "another class", "another name", "no class", "no image"],
)
def test_a_name_that_is_another_one_in_front_of_the_data(folder, tmp_path, names_of, name):
    data = bytearray(make_zip(folder, tmp_path / "whole.zip").read_bytes())
    assert len(names_of(data)) == 8
    at = directory_entry(data, b"train/tulip/2.jpg" if b"aster" not in name else b"train/aster/3.jpg")
    data[at : at + len(name)] = name
    with pytest.raises(UserError, match="damaged archive: .*another name"):
        names_of(data)


def test_a_directory_of_which_an_entry_takes_the_next_for_its_comment(folder, tmp_path, names_of):
    path = make_zip(folder, tmp_path / "whole.zip")
    data = bytearray(path.read_bytes())
    at = directory_entry(data, b"train/tulip/2.jpg") - 46
    struct.pack_into("<H", data, at + 32, 46 + len(b"train/tulip/3.jpg"))  # the length of its comment
    (tmp_path / "shorter.zip").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "shorter.zip") as archive:
        assert len(archive.namelist()) == 7  # without a word
    with pytest.raises(UserError, match="damaged archive: .*as many entries"):
        names_of(data)


@pytest.mark.parametrize("offset", [2**31, 2**32 - 2])
def test_a_place_outside_of_the_archive(folder, tmp_path, names_of, offset):
    data = bytearray(make_zip(folder, tmp_path / "whole.zip").read_bytes())
    struct.pack_into("<I", data, directory_entry(data, b"train/tulip/2.jpg") - 46 + 42, offset)
    with pytest.raises(UserError, match="damaged archive: .*not where its directory says"):
        names_of(data)


def test_what_stands_in_front_of_a_zip_does_no_harm(folder, tmp_path, names_of):
    """A program that unpacks it, say."""
    data = make_zip(folder, tmp_path / "whole.zip").read_bytes()
    assert len(names_of(b"PK\x03\x04" + bytes(96) + data)) == 8


@pytest.mark.parametrize("lost", [512, 4096])
def test_a_header_that_a_lost_block_of_a_disk_has_filled_with_zeros(folder, tmp_path, names_of, lost):
    whole = make_tar(folder, tmp_path / "whole.tar", folders=False).read_bytes()
    assert len(names_of(whole)) == 8
    data = bytearray(whole)
    data[3072 : 3072 + lost] = bytes(lost)
    with pytest.raises(UserError, match="damaged archive: there is more behind the mark"):
        names_of(data)


def test_two_tars_one_behind_the_other_are_not_taken_for_the_first(folder, tmp_path, names_of):
    data = make_tar(folder, tmp_path / "whole.tar").read_bytes()
    assert len(names_of(data + bytes(3 * 512))) == 8  # padding
    with pytest.raises(UserError, match="another tar was put behind"):
        names_of(data + data)
