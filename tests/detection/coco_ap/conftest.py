"""What the tests of COCO AP share."""

import pytest

from detection.coco_ap.evaluators import EVALUATORS


@pytest.fixture(params=EVALUATORS)
def evaluator(request):
    pytest.importorskip(EVALUATORS[request.param].module)
    return request.param
