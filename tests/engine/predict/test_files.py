"""What a prediction says of the files in a folder that it does not take."""

import json

import numpy as np
import pytest

from engine.errors import UserError
from engine.images.writing import write_image
from engine.predict.files import predict_files


def predict(folder, output):
    return predict_files([folder], output, "found.json", lambda images: images, lambda image, _: (image, {}), 1)


@pytest.mark.parametrize("other, code", [("notes.txt", 0), ("b.heic", 1), ("b.jpg.part", 1)])
def test_files_passed_over_are_told_of_and_pictures_are_a_problem(tmp_path, capsys, other, code):
    write_image(tmp_path / "in" / "a.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "in" / other).write_bytes(b"")
    report = predict(tmp_path / "in", tmp_path / "out")
    told = f"passed over: 1 .{other.rpartition('.')[2]}"
    assert told in capsys.readouterr().err
    assert (report.exit_code, report.problems) == (code, [told] * code)
    assert len(json.loads((tmp_path / "out" / "found.json").read_text())) == report.pictures == 1


def test_a_folder_of_nothing_else_is_a_mistake(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.heic").write_bytes(b"")
    with pytest.raises(UserError, match=r"passed over: 1 \.heic"):
        predict(tmp_path / "in", tmp_path / "out")
