"""Errors out of worker processes: a person sees the message, all of it, and no traceback."""

import pytest
from torch.utils.data import DataLoader, Dataset

from engine.errors import UserError
from engine.loading import start_worker, without_traceback
from engine.media import UnreadableMedia


class Failing(Dataset):
    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 2

    def __getitem__(self, index):
        if index == 0:
            return 0
        try:
            raise OSError("engine.errors.UserError: of the one that caused it")
        except OSError as cause:
            raise self.error from cause


@pytest.mark.parametrize("error", [UserError("one: line"), UserError("a\n  b\nc"), UnreadableMedia("a.jpg: broken")])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_user_error_keeps_its_message(error, workers):
    loader = DataLoader(Failing(error), batch_size=1, num_workers=workers, worker_init_fn=start_worker)
    batches = without_traceback(loader)
    assert next(batches).item() == 0
    with pytest.raises(UserError) as caught:
        next(batches)
    assert str(caught.value) == str(error)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_keeps_its_traceback(workers):
    loader = DataLoader(Failing(ZeroDivisionError("a bug")), batch_size=1, num_workers=workers)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(without_traceback(loader))
