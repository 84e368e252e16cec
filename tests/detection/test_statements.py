"""What a detector states in its checkpoint: its network, its images, its classes, how numbers become boxes."""

import fnmatch
import json

import pytest
import torch

from detection.config import get_cfg
from detection.initial_weights import load_initial_weights
from detection.model import build_detector, with_classes
from detection.task_info import DETECTION
from detection.train import Options, describe, load_data, run_detection
from detection.trained import load_detector
from engine.errors import UserError
from engine.run.initial_weights import find_trained_weights, load_trained_weights, restore_weights
from engine.train.checkpoint import load_checkpoint, save_checkpoint
from se_backbones.weights import convert_file

CPU = ["MODEL.DEVICE", "cpu"]
# The rest of MODEL: what shows in the tensors' names and shapes, and what an evaluation or a training may choose.
MARKED = (
    "MODEL.MASK_ON", "MODEL.KEYPOINT_ON", "MODEL.META_ARCHITECTURE", "MODEL.*.NAME", "MODEL.*.HEAD_NAME",
    "MODEL.*.NUM_CLASSES", "MODEL.*.NUM_CONV*", "MODEL.*.CONV*_DIM*", "MODEL.*.*FC*", "MODEL.*.CLS_AGNOSTIC_*",
    "MODEL.*.OUT_*", "MODEL.FPN.IN_FEATURES", "MODEL.*.NUM_KEYPOINTS", "MODEL.RESNETS.DEPTH", "MODEL.RESNETS.*GROUP*",
    "MODEL.RESNETS.*_CHANNELS", "MODEL.RESNETS.DEFORM_*", "MODEL.RESNETS.NORM", "MODEL.BACKBONE.WIDTHS",
)  # fmt: skip
STATED = ("MODEL.PIXEL_*", "MODEL.BACKBONE.ARCHITECTURE", "MODEL.SE.*")  # beside the settings, whatever the task
FREE = (
    "MODEL.DEVICE", "MODEL.WEIGHTS*", "MODEL.ALLOW", "MODEL.LOAD_PROPOSALS", "MODEL.BACKBONE.FREEZE_AT",
    "MODEL.BACKBONE.RECOMPUTE", "MODEL.*.MIN_SIZE", "MODEL.*_THRESH*", "MODEL.*.IOU*", "MODEL.*.BATCH_SIZE_PER_IMAGE",
    "MODEL.*.POSITIVE_FRACTION", "MODEL.*LOSS*", "MODEL.*.SMOOTH_L1_*", "MODEL.*TOPK*", "MODEL.*.PROPOSAL_APPEND_GT",
    "MODEL.*.TRAIN_ON_PRED_BOXES", "MODEL.*.MIN_KEYPOINTS_*", "MODEL.*.IGNORE_VALUE", "MODEL.PANOPTIC_FPN.*",
    "MODEL.RETINANET.PRIOR_PROB",
)  # fmt: skip
DIFFERENT = {
    "MODEL.ANCHOR_GENERATOR.SIZES": "[[8], [16], [32], [64], [128]]",
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": "[[0.25, 1.0, 4.0]]",
    "MODEL.ANCHOR_GENERATOR.OFFSET": "0.5",
    "MODEL.RPN.BBOX_REG_WEIGHTS": "(2.0, 2.0, 1.0, 1.0)",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": "(20.0, 20.0, 10.0, 10.0)",
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": "1",
    "MODEL.FPN.FUSE_TYPE": "avg",
}


@pytest.fixture(scope="module")
def files(tiny, val_data, tmp_path_factory):
    """A detector's checkpoint, one that only has the config of its run, and a converted file."""
    folder = tmp_path_factory.mktemp("run")
    cfg = with_classes(tiny(*CPU), len(val_data.class_names), "the set")
    content = {**describe(cfg, val_data), "iteration": 4, "model": build_detector(cfg).state_dict()}
    own = save_checkpoint(folder / "model_final.pth", content)
    earlier = save_checkpoint(folder / "earlier.pth", {k: v for k, v in content.items() if k != "unmarked"})
    convert_file(own, folder / "converted.safetensors")
    return {"own": str(own), "earlier": str(earlier), "converted": str(folder / "converted.safetensors")}


@pytest.fixture
def detector(tiny, val_data):
    def make(*overrides):
        cfg = with_classes(tiny(*CPU, *overrides), len(val_data.class_names), "the set")
        return build_detector(cfg), cfg

    return make


def keys(node, prefix=""):
    for key, value in node.items():
        yield from keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]


def test_every_key_of_the_model_is_compared_or_need_not_be():
    """A key that neither marks a tensor nor is compared would let weights pass that compute something else."""
    found = {key for key in keys(get_cfg()) if key.startswith("MODEL.")}
    compared = {key for pattern in DETECTION.unmarked for key in fnmatch.filter(found, pattern)}
    others = {key for pattern in (*MARKED, *STATED, *FREE) for key in fnmatch.filter(found, pattern)}
    assert found - compared - others == set()
    assert set(DIFFERENT) <= compared and not any("THRESH" in key or "LOSS" in key for key in compared)


@pytest.mark.parametrize("name", ["se_resnet18_caffe", "resnet50_msra"])
@pytest.mark.parametrize("freeze", ["0", "2"])
def test_a_legacy_backbone_inside_a_detector_fits_its_own_config(detector, val_data, name, freeze):
    norm = ["MODEL.RESNETS.NORM", "FrozenBN"] if freeze == "2" else []
    model, cfg = detector("MODEL.BACKBONE.ARCHITECTURE", name, "MODEL.BACKBONE.FREEZE_AT", freeze, *norm)
    state = {key: tensor + 1 for key, tensor in model.state_dict().items()}
    content = {"format": "se-backbones-checkpoint/1", **describe(cfg, val_data), "iteration": 1, "model": state}
    restore_weights(model, content, "own.pth", cfg, DETECTION)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("form", ["own", "earlier", "converted"])
def test_a_config_that_makes_other_boxes_of_the_same_numbers_is_refused(files, detector, tmp_path, form):
    words = [word for key, value in DIFFERENT.items() for word in (key, value)]
    model, cfg = detector("MODEL.WEIGHTS", files[form], *words)
    weights = find_trained_weights(cfg, tmp_path, asked_for=True)
    with pytest.raises(UserError, match="does not fit the config") as error:
        load_trained_weights(model, weights, cfg, DETECTION, tmp_path)
    for key in DIFFERENT:
        assert f"trained with {key} " in str(error.value), key
    if form != "earlier":
        free = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.3", "MODEL.RPN.POST_NMS_TOPK_TEST", "7"]
        model, cfg = detector("MODEL.WEIGHTS", files[form], *free, "INPUT.MIN_SIZE_TEST", "96")
        load_trained_weights(model, find_trained_weights(cfg, tmp_path, True), cfg, DETECTION, tmp_path)


def test_a_dilated_last_stage_has_no_place_in_a_pyramid(detector):
    with pytest.raises(UserError, match="have 4, 8, 16, 16: see MODEL.FPN.IN_FEATURES and MODEL.RESNETS.RES5_DILATION"):
        detector("MODEL.RESNETS.RES5_DILATION", "2")


def test_prediction_compares_a_config_that_is_given(files, tiny, tmp_path):
    (tmp_path / "config.yaml").write_text(tiny("MODEL.ANCHOR_GENERATOR.OFFSET", "0.5").dump())
    load_detector(files["own"], device="cpu")
    with pytest.raises(UserError, match=r"ANCHOR_GENERATOR.OFFSET 0.0, and the config has 0.5"):
        load_detector(files["own"], tmp_path / "config.yaml", device="cpu")


@pytest.mark.parametrize("form", ["own", "converted"])
def test_a_training_may_start_from_other_anchors_and_is_told(files, detector, val_data, tmp_path, form, caplog):
    model, cfg = detector("MODEL.WEIGHTS", files[form], "MODEL.ANCHOR_GENERATOR.OFFSET", "0.5")
    load_initial_weights(model, cfg, tmp_path, val_data.class_names)
    report = json.loads((tmp_path / "weights_report.json").read_text())
    assert any("ANCHOR_GENERATOR.OFFSET" in warning for warning in report["warnings"])
    with pytest.raises(UserError, match="SE gate"):  # another network is none to start from
        load_initial_weights(*detector("MODEL.WEIGHTS", files[form], "MODEL.SE.GATE", "relu"), tmp_path)


@pytest.mark.parametrize("form", ["own", "converted"])
def test_a_whole_detectors_classes_must_be_in_the_datas_order(files, detector, val_data, tmp_path, form):
    model, cfg = detector("MODEL.WEIGHTS", files[form])
    names = val_data.class_names
    load_initial_weights(model, cfg, tmp_path, names)
    with pytest.raises(UserError, match=r"the same names in another order[\s\S]*MODEL.ALLOW"):
        load_initial_weights(model, cfg, tmp_path, names[::-1])
    model, cfg = detector("MODEL.WEIGHTS", files[form], "MODEL.ALLOW", "['classes']")
    load_initial_weights(model, cfg, tmp_path, names[::-1])


def test_a_listing_goes_where_it_belongs(tiny, tmp_path):
    """Of a set that is refused elsewhere than of one that is trained on."""
    cfg = tiny()
    coco = json.loads(open(cfg.DATA.TRAIN.JSON).read())
    coco["annotations"][0]["bbox"][2] = 0
    (tmp_path / "bad.json").write_text(json.dumps(coco))
    cfg = tiny("DATA.TRAIN.JSON", str(tmp_path / "bad.json"))
    with pytest.raises(UserError, match=f"in full in {tmp_path}/refused/annotation_problems_train.json"):
        load_data(cfg, "TRAIN", tmp_path / "run", False, tmp_path / "refused")
    assert not (tmp_path / "run").exists()
    load_data(cfg, "TRAIN", tmp_path / "run", True, tmp_path / "refused")
    assert (tmp_path / "run" / "annotation_problems_train.json").exists()


def test_the_training_set_is_known_again(val_data):
    """By images, boxes and classes, whatever the order of the records and their ids."""
    coco, first = val_data.coco, val_data.fingerprint()
    assert first["count"] == len(coco["images"])

    def changed(**lists):
        return type(val_data)(**{**vars(val_data), "coco": {**coco, **lists}}).fingerprint()

    objects = coco["annotations"]
    assert changed(annotations=[{**a, "id": a["id"] + 100} for a in objects[::-1]]) == first
    assert changed(images=coco["images"][::-1]) == first
    box = {**objects[0], "bbox": [1, *objects[0]["bbox"][1:]]}
    crowd = {**objects[0], "iscrowd": 1}
    for lists in ({"annotations": [box, *objects[1:]]}, {"annotations": [crowd, *objects[1:]]}, {"annotations": []}):
        assert changed(**lists)["digest"] != first["digest"]
    renamed = [{**coco["images"][0], "file_name": "other.png"}, *coco["images"][1:]]
    assert changed(images=renamed)["digest"] != first["digest"]


@pytest.mark.usefixtures("runs_in_this_process")
def test_a_start_that_is_refused_changes_nothing_and_the_advised_one_starts(tiny, tmp_path):
    """From a set with a bad record to a run, and back to the run's folder with settings that cannot be."""
    run, cfg = tmp_path / "run", tiny()
    coco = json.loads(open(cfg.DATA.TRAIN.JSON).read())
    coco["annotations"][0]["bbox"][2] = 0
    (tmp_path / "bad.json").write_text(json.dumps(coco))
    (config := tmp_path / "config.yaml").write_text(cfg.dump())
    words = [*CPU, "OUTPUT_DIR", str(run), "SOLVER.MAX_ITER", "1", "LOG_PERIOD", "1", "SOLVER.WARMUP_ITERS", "0"]
    bad = [*words, "DATA.TRAIN.JSON", str(tmp_path / "bad.json")]
    with pytest.raises(UserError, match="--drop-bad-records"):
        run_detection(Options(str(config), bad))
    assert [path.name for path in run.iterdir()] == ["annotation_problems_train.json"]
    run_detection(Options(str(config), bad, drop_bad_records=True))
    assert load_checkpoint(run / "model_final.pth")["training_images"]["count"] == len(coco["images"])
    assert (run / "annotation_problems_train.json").exists()

    before = {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for options, overrides, said in (
        ({"resume": True}, ["SOLVER.IMS_PER_BATCH", "2"], "1 steps of 4 images"),
        ({"resume": True}, ["MODEL.ANCHOR_GENERATOR.OFFSET", "0.5"], "ANCHOR_GENERATOR.OFFSET"),
        ({"resume": True}, bad[-2:], "--drop-bad-records"),
        ({"overwrite": True}, bad[-2:], "--drop-bad-records"),
        ({"eval_only": True}, ["MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlign"], "POOLER_TYPE"),
        ({"eval_only": True}, ["DATA.VAL.JSON", bad[-1]], "--drop-bad-records"),
    ):
        with pytest.raises(UserError, match=said):
            run_detection(Options(str(config), [*words, *overrides], **options))
        assert {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()} == before, said
