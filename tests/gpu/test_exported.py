"""Files of torch.export, made on a CPU and run on a GPU; those of the other formats run on CPUs.

``SE_TEST_DEVICE=cpu`` as in the file beside this one.
"""

import numpy as np
import pytest

from classification.predict.predictor import Predictor as ScenePredictor
from detection.predict.predictor import Predictor
from tests.classification.export import test_export as classifier
from tests.classification.predict.test_predictor import picture as scene
from tests.detection.export import test_export as detector
from tests.detection.test_predict import picture
from tests.gpu.test_gpu import NAME, exact_sums, pytestmark  # noqa: F401  (a fixture, and what holds for the file)

scenes_checkpoint, scenes_pictures = classifier.checkpoint, classifier.pictures
checkpoint, pictures = detector.checkpoint, detector.pictures


@pytest.fixture(scope="module")
def files(request, tmp_path_factory):
    """A classifier's and a detector's."""
    folder = tmp_path_factory.mktemp("exported")
    made = []
    for module, prefix, vary in ((classifier, "scenes_", "batch"), (detector, "", "size")):
        weights, images = (request.getfixturevalue(prefix + name) for name in ("checkpoint", "pictures"))
        path = folder / f"{prefix or 'objects_'}file.pt2"
        module.exported(weights, images, "torch-export", dynamic=(vary,), output=path)
        made.append(path)
    return made


def test_a_classifier_answers_as_on_a_cpu(files):
    images = [scene(40 + number, 60, number) for number in range(5)]
    found, expected = (ScenePredictor.from_checkpoint(files[0], device=name).predict(images) for name in (NAME, "cpu"))
    for one, other in zip(found, expected, strict=True):
        assert one.classes.tolist() == other.classes.tolist()
        np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(one.cam, other.cam, rtol=1e-3, atol=1e-3)


def test_a_detector_finds_what_it_finds_on_a_cpu(files):
    there, here = (Predictor.from_checkpoint(files[1], device=name, threshold=0.3) for name in (NAME, "cpu"))
    for size in ((96, 128), (20, 160), (160, 31), (160, 160)):
        found, expected = (one.predict([picture(*size)])[0] for one in (there, here))
        assert len(found) == len(expected) > 0
        np.testing.assert_allclose(np.sort(found.scores), np.sort(expected.scores), atol=1e-3)
