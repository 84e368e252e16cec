"""Where a run's data lie."""

import pytest

from engine.errors import UserError
from places365.layout import find_root


def test_data_are_looked_for_here_and_then_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLACES365_DATASETS", str(tmp_path / "sets"))
    with pytest.raises(UserError, match="places365.*sets/places365"):
        find_root("places365")
    (tmp_path / "sets" / "places365").mkdir(parents=True)
    assert find_root("places365") == tmp_path / "sets" / "places365"
    (tmp_path / "places365").mkdir()
    assert find_root("places365").resolve() == tmp_path / "places365"
    (tmp_path / "places365" / "__init__.py").touch()  # this package, as in the repository's own folder
    assert find_root("places365") == tmp_path / "sets" / "places365"
