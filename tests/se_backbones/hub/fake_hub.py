"""The Hugging Face hub's client, with a folder in the place of its server."""

import inspect
import shutil
from pathlib import Path


class FakeHub:
    """Stands for ``HfApi``; ``download`` for ``hf_hub_download``. ``calls`` has what was asked for.

    An argument that the installed client would not take it does not take either."""

    def __init__(self, root: Path):
        self.root, self.calls = root, []

    def __call__(self, token=None):
        return self

    def create_repo(self, repository, private=None, exist_ok=False):
        self.calls.append((repository, private, exist_ok))
        (self.root / repository).mkdir(parents=True, exist_ok=exist_ok)
        return type("Url", (), {"repo_id": repository})

    def file_exists(self, repository, name, revision=None):
        return (self.root / repository / name).exists()

    def upload_folder(self, repo_id, folder_path, revision, commit_message, ignore_patterns):
        ignore = shutil.ignore_patterns(*(ignore_patterns or ()))
        shutil.copytree(folder_path, self.root / repo_id, ignore=ignore, dirs_exist_ok=True)
        return f"https://example.com/{repo_id}/commit/1"

    def download(self, repository, filename, revision=None, token=None):
        path = self.root / repository / filename
        if not path.exists():
            raise OSError(f"404 for {repository}/{filename}")
        self.calls.append((filename, revision, token))
        return str(path)

    def put_in_place(self, monkeypatch, client):
        """Of the package ``huggingface_hub``."""
        for name in ("create_repo", "file_exists", "upload_folder"):
            setattr(self, name, _with_signature(getattr(client.HfApi, name), getattr(self, name), self))
        self.download = _with_signature(client.hf_hub_download, self.download)
        monkeypatch.setattr(client, "HfApi", self)
        monkeypatch.setattr(client, "hf_hub_download", self.download)


def _with_signature(real, stand_in, *first):
    def call(*args, **kwargs):
        inspect.signature(real).bind(*first, *args, **kwargs)
        return stand_in(*args, **kwargs)

    return call
