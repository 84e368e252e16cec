"""Batches: the same whatever the workers and the start; broken files are named, counted and replaced."""

import json
import logging
import os
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from classification.config import load_config
from classification.images import batches as data
from classification.images.broken_files import BrokenFiles
from classification.images.transforms import TestTransform
from classification.index.class_folders import find_split
from classification.index.index import make_index, open_index
from classification.model import build_network
from classification.task import CLASS_FOLDERS
from classification.train import _training_steps
from engine.errors import UserError
from engine.images.reading import open_image, read_image
from engine.train.sampling import derive_seed
from tests.classification.index.archives import make_tar, make_zip

CLASSES = ["field", "kitchen", "street"]
BROKEN = (3, 5, 8)
PHOTOS = Path(os.environ.get("SE_DATA", Path(__file__).resolve().parents[4] / "shared" / "data")) / "coco_mini" / "val"


def save_photo(path, number):
    coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize((60, 48)).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(11):
        save_photo(folder / f"{number}.jpg", number)
    return folder


@pytest.fixture(scope="module")
def index(folder):
    return make_index([f"{i}.jpg" for i in range(11)], [i % 3 for i in range(11)], CLASSES, folder)


@pytest.fixture(scope="module")
def partly_broken(folder, tmp_path_factory):
    """The same with a file that is cut short, one that opens and cannot be decoded, and one that is missing."""
    other = tmp_path_factory.mktemp("broken")
    for number in range(11):
        content = (folder / f"{number}.jpg").read_bytes()
        if number == BROKEN[0]:
            content = content[: len(content) // 2]
        if number == BROKEN[1]:
            table = content.index(b"\xff\xc4") + 5  # how many Huffman codes there are of each length
            content = content[:table] + b"\xff" * 16 + content[table + 16 :]
        if number != BROKEN[2]:
            (other / f"{number}.jpg").write_bytes(content)
    return make_index([f"{i}.jpg" for i in range(11)], [i % 3 for i in range(11)], CLASSES, other)


def cfg(*overrides):
    tiny = [
        "INPUT.TRAIN_SIZE", 32, "INPUT.TEST_SIZE", 32, "INPUT.TEST_RESIZE", 40, "SOLVER.IMS_PER_BATCH", 4,
        "SOLVER.MAX_ITER", 7, "TEST.IMS_PER_BATCH", 4, "DATALOADER.NUM_WORKERS", 0, "MODEL.DEVICE", "cpu",
    ]  # fmt: skip
    return load_config(None, list(map(str, [*tiny, *overrides])))


def batches(index, *overrides, start=0, rank=0, processes=1):
    return list(data.training_batches(index, cfg(*overrides), start, rank, processes))


def same(ours, theirs):
    return len(ours) == len(theirs) and all(
        torch.equal(a.images, b.images)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.indices, b.indices)
        and torch.equal(a.chosen, b.chosen)
        and a.broken == b.broken
        for a, b in zip(ours, theirs, strict=True)
    )


AUGMENTED = ("INPUT.RAND_AUGMENT.OPS", 1, "INPUT.COLOR_JITTER", 0.3)


def test_batches_do_not_depend_on_workers_start_or_process(partly_broken):
    whole = batches(partly_broken, *AUGMENTED)
    assert len(whole) == 7 and any(batch.broken for batch in whole)
    assert same(batches(partly_broken, *AUGMENTED, "DATALOADER.NUM_WORKERS", 2), whole)
    assert same(batches(partly_broken, *AUGMENTED, start=4), whole[4:])
    shares = [batches(partly_broken, *AUGMENTED, rank=rank, processes=2) for rank in range(2)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
        assert torch.equal(torch.cat([part.indices for part in parts]), batch.indices)


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_batches_from_an_archive_are_those_from_its_folder(folder, tmp_path, make):
    """Bit for bit, broken files and their replacements included, whichever process reads."""
    for number in range(11):
        path = tmp_path / "set" / "train" / CLASSES[number % 3] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((folder / f"{number}.jpg").read_bytes()[: -500 if number == BROKEN[0] else None])
    paths = tmp_path / "set", make(tmp_path / "set", tmp_path / "archive")
    on_disk, archived = (open_index(find_split(path, "train"), tmp_path / "cache") for path in paths)
    expected = batches(on_disk, *AUGMENTED)
    assert any(batch.broken for batch in expected)
    for workers in (0, 2):
        found = batches(archived, *AUGMENTED, "DATALOADER.NUM_WORKERS", workers)
        for batch in found:
            batch.broken = [(p, message.replace(f"{paths[1]}/", f"{paths[0]}/")) for p, message in batch.broken]
        assert same(found, expected)
    read = [list(data.test_batches(index, range(11), cfg())) for index in (on_disk, archived)]
    assert all(torch.equal(a.images, b.images) for a, b in zip(*read, strict=True))
    with open(paths[1], "ab") as file:
        file.write(bytes(512))
    for workers in (0, 2):
        with pytest.raises(UserError, match=r"^the archive .*archive was changed while it was in use"):
            batches(archived, "DATALOADER.NUM_WORKERS", workers)


@pytest.mark.parametrize("images, batch", [(11, 4), (11, 8), (9, 8), (40, 4)])
def test_every_crop_size_has_an_equal_share_of_the_epochs(folder, images, batch):
    index = make_index([f"{i % 11}.jpg" for i in range(images)], [0] * images, CLASSES, folder)
    sizes = ("INPUT.TRAIN_SIZE_START", 32, "INPUT.TRAIN_SIZE", 96, "SOLVER.IMS_PER_BATCH", batch)
    steps = 6 * -(-images // batch)  # six epochs
    shown = [len(b.images[0, 0]) for b in batches(index, *sizes, "SOLVER.MAX_ITER", steps)]
    assert shown == sorted(shown) and [shown.count(side) * 3 for side in (32, 64, 96)] == [steps] * 3


def test_another_seed_or_epoch_is_another_augmentation(index):
    dataset = data.TrainingSet(index, cfg())
    other = data.TrainingSet(index, cfg("SEED", 2))
    first = dataset[0, 5].pixels
    assert torch.equal(dataset[0, 5].pixels, first)
    assert not torch.equal(dataset[1, 5].pixels, first) and not torch.equal(other[0, 5].pixels, first)


def test_an_epoch_has_every_image_with_its_label(index):
    epoch = batches(index)[:3]
    positions = torch.cat([batch.indices for batch in epoch])
    assert set(positions.tolist()) == set(range(11)) and positions.dtype == torch.int64
    for batch in epoch:
        assert batch.labels.tolist() == [index.label(i) for i in batch.indices.tolist()]
        assert batch.labels.dtype == torch.int64 and batch.broken == []


@pytest.mark.parametrize("workers", [0, 1])
def test_images_are_bytes_with_the_channels_last_in_memory(index, workers):
    batch = batches(index, "SOLVER.MAX_ITER", 1, "DATALOADER.NUM_WORKERS", workers)[0]
    assert batch.images.shape == (4, 3, 32, 32) and batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert not batch.images.is_contiguous()
    ten = next(data.test_batches(index, range(5), cfg("TEST.CROPS", 10, "TEST.IMS_PER_BATCH", 20)))
    assert ten.images.shape == (2, 10, 3, 32, 32)  # 20 crops at a time
    assert ten.images.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


def test_a_broken_file_is_replaced_and_named(index, partly_broken):
    whole, replaced = batches(index), batches(partly_broken)
    met = set()
    for expected, batch in zip(whole, replaced, strict=True):
        assert torch.equal(batch.indices, expected.indices)
        names = {f"{position}.jpg" for position, message in batch.broken if f"{position}.jpg" in message}
        assert len(names) == len({position for position, _ in batch.broken})
        met |= {position for position, _ in batch.broken}
        for row, position in enumerate(batch.indices.tolist()):
            if position in BROKEN:
                assert batch.images[row].float().std() > 0
            else:
                assert torch.equal(batch.images[row], expected.images[row])
                assert batch.labels[row] == expected.labels[row]
    assert met == set(BROKEN)


def test_the_label_is_that_of_the_replacement_and_the_draw_that_of_the_position(folder, partly_broken):
    dataset, replacements = data.TrainingSet(partly_broken, cfg()), set()
    for epoch in range(4):
        item = dataset[epoch, BROKEN[0]]
        shown = []
        for number in set(range(11)) - set(BROKEN):
            rng = np.random.default_rng(derive_seed(dataset.seed, epoch, BROKEN[0]))
            if np.array_equal(item.pixels.numpy(), dataset.transform(open_image(folder / f"{number}.jpg"), rng)):
                shown.append(number)
        assert len(shown) == 1 and item.index == BROKEN[0] and item.label == partly_broken.label(shown[0])
        assert item.chosen == shown[0]
        replacements.update(shown)
    assert len(replacements) > 1  # another one each epoch


@pytest.mark.parametrize("held, together", [(0, [1]), (15_000, range(2, 11)), (2**25, [11])])
def test_images_made_together_are_those_made_alone(partly_broken, held, together, monkeypatch):
    dataset, positions = data.TrainingSet(partly_broken, cfg(*AUGMENTED)), [(2, i) for i in range(11)]
    open_image(partly_broken.path(BROKEN[1]))  # its damage shows when its pixels are asked for
    alone = [dataset[position] for position in positions]
    finished, finish = [], dataset._finish
    monkeypatch.setattr(data, "MAX_HELD_BYTES", held)
    monkeypatch.setattr(dataset, "_finish", lambda drafts: finished.append(len(drafts)) or finish(drafts))
    items = dataset.__getitems__(positions)
    assert sum(finished) == 11 and max(finished) in together
    for item, expected in zip(items, alone, strict=True):
        assert torch.equal(item.pixels, expected.pixels)
        assert (item.label, item.index, item.broken) == (expected.label, expected.index, expected.broken)
        assert item.chosen == expected.chosen
    assert [item.index for item in items if item.broken] == list(BROKEN)


@pytest.mark.parametrize("workers", [0, 1])
def test_when_nothing_can_be_read_one_line_says_so(tmp_path, workers):
    empty = make_index([f"{i}.jpg" for i in range(4)], [0] * 4, CLASSES, tmp_path)
    with pytest.raises(UserError) as caught:
        batches(empty, "DATALOADER.NUM_WORKERS", workers)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: none of") and "\n" not in message and ".jpg" in message


def test_unlabelled_images_and_uneven_batches_are_user_errors(folder):
    unlabelled = make_index(["0.jpg", "1.jpg"], [0, -1], CLASSES, folder)
    with pytest.raises(UserError, match="1 images have no label .*; the first is 1.jpg"):
        batches(unlabelled)
    labelled = make_index(["0.jpg", "1.jpg"], [0, 1], CLASSES, folder)
    with pytest.raises(UserError, match="SOLVER.IMS_PER_BATCH"):
        batches(labelled, processes=3)
    with pytest.raises(UserError, match="no images"):
        batches(make_index([], [], CLASSES, folder))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_reads_the_positions_in_their_order(folder, partly_broken, workers):
    given = cfg("DATALOADER.NUM_WORKERS", workers)
    read = list(data.test_batches(partly_broken, range(1, 10), given))
    assert [len(batch) for batch in read] == [4, 4, 1]
    assert torch.cat([batch.indices for batch in read]).tolist() == list(range(1, 10))
    assert all(torch.equal(batch.chosen, batch.indices) for batch in read)
    assert [position for batch in read for position, _ in batch.broken] == list(BROKEN)
    transform = TestTransform(given)
    for batch in read:
        for image, label, position in zip(batch.images, batch.labels, batch.indices.tolist(), strict=True):
            assert label == partly_broken.label(position)
            if position in BROKEN:
                assert not image.any()
            else:
                expected = transform(read_image(folder / f"{position}.jpg"))
                assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_a_batch_splits_into_views_of_equal_size(partly_broken):
    batch = next(batch for batch in batches(partly_broken) if batch.broken)
    parts = batch.split(2)
    assert [len(part) for part in parts] == [2, 2]
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    assert torch.equal(torch.cat([part.indices for part in parts]), batch.indices)
    assert torch.equal(torch.cat([part.chosen for part in parts]), batch.chosen)
    assert parts[1].images.data_ptr() == batch.images[2:].data_ptr()
    assert [entry for part in parts for entry in part.broken] == batch.broken
    assert [len(part) for part in batch.split(3)] == [1, 1, 2] and len(batch.split(9)) == 4


def test_an_error_names_the_images_that_were_shown_and_its_own_keys(tmp_path, partly_broken):
    given = cfg("MODEL.BACKBONE.ARCHITECTURE", "resnet18", "DATA.MAX_BROKEN_SHARE", 1.0)
    trainer = SimpleNamespace(model=build_network(given, 3), device=torch.device("cpu"), iteration=0)
    task = _training_steps(trainer, CLASS_FOLDERS, partly_broken, None, given, tmp_path, {})
    batch = next(batch for batch in task.batches if batch.broken)
    named = task.name_images(batch).split(", ")
    assert len(named) == 4 and not {f"{position}.jpg" for position in BROKEN} & set(named)
    for name, position in zip(named, batch.indices.tolist(), strict=True):
        assert position in BROKEN or name == f"{position}.jpg"
    assert "SOLVER.WARMUP_EPOCHS" in task.advice and "annotations" not in task.advice


RARE = ("DATALOADER.CLASS_BALANCE", 1, "INPUT.COLOR_JITTER", 0.3)


@pytest.fixture(scope="module")
def uneven(folder):
    """Nine images of one class, two of another and none of a third."""
    return make_index([f"{i}.jpg" for i in range(11)], [0] * 9 + [2] * 2, CLASSES, folder)


def test_balanced_batches_do_not_depend_on_workers_start_or_process(uneven):
    whole = batches(uneven, *RARE)
    for start in (1, 2, 4):  # an epoch is three steps
        assert same(batches(uneven, *RARE, start=start), whole[start:])
    assert same(batches(uneven, *RARE, "DATALOADER.NUM_WORKERS", 2), whole)
    shares = [batches(uneven, *RARE, rank=rank, processes=2) for rank in range(2)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)


def test_an_image_of_a_rare_class_is_seen_again_and_otherwise(uneven):
    epoch = batches(uneven, *RARE)[:3]
    labels = torch.cat([batch.labels for batch in epoch]).bincount(minlength=3).tolist()
    assert labels[1] == 0 and abs(labels[0] - 6) <= 1 and abs(labels[2] - 6) <= 1  # 12 are shown
    seen = [(int(i), image) for batch in epoch for i, image in zip(batch.indices, batch.images, strict=True)]
    again = [image for i, image in seen if i == 10]
    assert len(again) >= 2 and not torch.equal(again[0], again[1])


def test_the_loss_of_a_training_has_the_classes_weights(uneven, tmp_path):
    given = cfg("MODEL.BACKBONE.ARCHITECTURE", "resnet18", "SOLVER.CLASS_WEIGHTS", "balanced")
    trainer = SimpleNamespace(model=build_network(given, 3), device=torch.device("cpu"), iteration=0)
    batch = batches(uneven)[0]
    logits = torch.randn(4, 3)
    task = _training_steps(trainer, CLASS_FOLDERS, uneven, None, given, tmp_path, {})
    weights = torch.tensor([11 / 18, 0, 11 / 4])  # 1/9 and 1/2 over their mean for an image, 2/11
    expected = F.cross_entropy(logits, batch.labels, weights, reduction="none").mean()
    assert torch.allclose(task.losses(lambda x: logits, batch)["loss_cls"], expected)


def broken(*positions):
    return [(position, f"{position}.jpg: cannot be read") for position in positions]


def test_broken_files_are_named_once_and_survive_a_restart(tmp_path, index, caplog):
    caplog.set_level(logging.WARNING, logger="classification.images.broken_files")
    files = BrokenFiles(tmp_path, 11, 0.5)
    files.add([], index)
    assert not list(tmp_path.iterdir())
    files.add(broken(3, 8), index)
    files.add(broken(3), index)
    assert len(files) == 2 and [record.message.count("3.jpg") for record in caplog.records] == [1, 0]
    with open(files.path, "a") as file:
        file.write('{"file": "cut o')  # a kill while it was written
    again = BrokenFiles(tmp_path, 11, 0.5)
    assert len(again) == 2
    again.add(broken(8, 1), index)
    kept = [json.loads(line)["file"] for line in files.path.read_text().splitlines() if line.endswith("}")]
    assert kept == ["3.jpg", "8.jpg", "1.jpg"]
    assert len(BrokenFiles(tmp_path, 11, 0.5)) == 3


@pytest.fixture
def missing(tmp_path):
    return make_index([f"{i}.jpg" for i in range(11)], [0] * 11, CLASSES, tmp_path / "nowhere")


def test_too_many_broken_files_stop_the_run_whichever_process_met_them(tmp_path, missing):
    first, second = BrokenFiles(tmp_path, 11, 0.3), BrokenFiles(tmp_path, 11, 0.3)  # 3 of 11
    first.add(broken(0, 1), missing)
    second.add(broken(1, 2), missing)
    first.add(broken(2), missing)
    with pytest.raises(UserError, match="4 of 11 training images .*DATA.MAX_BROKEN_SHARE 0.3 allows 3") as caught:
        first.add(broken(5), missing)
    assert "5.jpg" in str(caught.value) and str(first.path) in str(caught.value)


def test_files_that_were_mended_before_the_run_goes_on_count_no_more(tmp_path, folder, missing):
    with pytest.raises(UserError):
        BrokenFiles(tmp_path, 11, 0.3).add(broken(0, 1, 2, 5), missing)
    missing.root.mkdir()
    for number in range(3):
        (missing.root / f"{number}.jpg").write_bytes((folder / f"{number}.jpg").read_bytes())
    again = BrokenFiles(tmp_path, 11, 0.3)
    again.add(broken(7), missing)
    assert set(again.names) == {"5.jpg", "7.jpg"}
    again.add(broken(8), missing)
    with pytest.raises(UserError, match="4 of 11"):
        again.add(broken(9), missing)


def test_a_single_broken_file_of_a_small_set_is_let_pass(tmp_path, missing):
    files = BrokenFiles(tmp_path / "a", 11, 0.01)
    files.add(broken(0), missing)
    with pytest.raises(UserError):
        files.add(broken(1), missing)
    with pytest.raises(UserError):
        BrokenFiles(tmp_path / "b", 11, 0.0).add(broken(0), missing)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no {PHOTOS} (set SE_DATA to the data's folder)")
def test_real_photos_at_full_size():
    real_photos = sorted(PHOTOS.glob("*.jpg"))[:8]
    index = make_index(real_photos, [0] * len(real_photos), ["photo"], real_photos[0].parent)
    given = cfg("INPUT.TRAIN_SIZE", 224, "INPUT.TEST_SIZE", 224, "INPUT.TEST_RESIZE", 256)
    for batch in islice(data.training_batches(index, given, 0, 0, 1), 2):
        assert batch.broken == [] and batch.images.shape == (4, 3, 224, 224)
        assert batch.images.float().std() > 20
