"""Where models are published: a folder on this machine, or a repository of the Hugging Face hub.

    hf://user/name, hf://user/name@revision    a repository
    user/name                                  a repository, unless the folder user/ or user/name exists here
    any other text                             a folder

A folder appears complete or not at all: it is written under a temporary name next to its own and renamed. A repository gets all
files in one commit. The package huggingface_hub is imported only for repositories; its settings and its stored token apply.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from scoresde._files import sync_folder, writing
from scoresde._validation import shown
from scoresde.experiment.hub.manifest import MANIFEST, FileFacts, TransferError, check_file, copy_file, read_manifest

_SCHEME = "hf://"
_REPOSITORY = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(@(?P<revision>[\w./-]{1,200}))?")


class Place(Protocol):
    """A place where a model can be published and fetched."""

    def check_free(self, overwrite: bool) -> None:
        """Raise TransferError if the place is taken, unless ``overwrite`` allows to replace what is there."""

    def staging(self) -> Any:
        """A context with an empty folder, in which the model is put together."""

    def publish(self, folder: Path, overwrite: bool, message: str) -> None:
        """Publish a complete folder."""

    def fetch(self, folder: Path) -> None:
        """Fetch the published files into a folder, and check each of them."""


def parse_place(text: str | Path, *, public: bool = False) -> LocalFolder | HubRepository:
    """The place that a text names. ``public`` is whether a new repository is visible to everyone.

    Raises TransferError for a text that names no place.
    """
    name = str(text)
    if name.startswith(_SCHEME):
        found = _REPOSITORY.fullmatch(name.removeprefix(_SCHEME))
        if found is None:
            raise TransferError(f"{shown(name)} is not a repository: give hf://user/name, or hf://user/name@revision")
        return HubRepository(found["repo"], found["revision"], public)
    if not name.strip() or "://" in name:
        raise TransferError(f"{shown(name)} is not a place: give hf://user/name, or the path of a folder")
    found = _REPOSITORY.fullmatch(name)
    if isinstance(text, str) and found is not None and not Path(name).exists() and not Path(name).parent.exists():
        return HubRepository(found["repo"], found["revision"], public)
    return LocalFolder(Path(name).expanduser())


@contextmanager
def hidden_folder(target: Path) -> Iterator[Path]:
    """An empty folder with a temporary name next to ``target``. It is removed at the end, unless it was renamed."""
    with writing(target):
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{target.absolute().name}.", suffix=".tmp", dir=target.absolute().parent))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def publish_folder(folder: Path, target: Path) -> None:
    """Give a complete folder its name. A folder that has the name already is replaced."""
    for file in folder.rglob("*"):
        if file.is_file():
            _sync(file)
    folder.chmod(0o755)
    target = target.absolute()
    with writing(target):
        if target.is_dir() and any(target.iterdir()):
            with hidden_folder(target) as old:
                os.replace(target, old / "replaced")
                os.replace(folder, target)
        else:
            os.replace(folder, target)
        sync_folder(target.parent)


def _sync(file: Path) -> None:
    number = os.open(file, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def check_target(target: Path, overwrite: bool, owned: Callable[[Path], bool], what: str) -> None:
    """Raise TransferError if a folder may not be written: it holds files, and is not ``owned`` or not to be overwritten."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise TransferError(f"{target} is not a folder: give another path")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not owned(target):
        raise TransferError(f"{target} contains other files and is not {what}: give a new or empty folder")
    if not overwrite:
        raise TransferError(f"{target} exists: give another folder, or --overwrite to replace it and everything in it")


@dataclass(frozen=True)
class LocalFolder:
    """A folder on this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def check_free(self, overwrite: bool) -> None:
        """Raise TransferError if the folder exists, unless it is a published model and may be overwritten."""
        check_target(self.path, overwrite, lambda p: (p / MANIFEST).is_file(), f"a published model (no {MANIFEST})")

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A temporary folder on the same file system."""
        with hidden_folder(self.path) as folder:
            yield folder

    def publish(self, folder: Path, overwrite: bool, message: str) -> None:
        """Rename the folder."""
        self.check_free(overwrite)
        publish_folder(folder, self.path)

    def fetch(self, folder: Path) -> None:
        """Copy and check the files of the manifest. Links are not followed."""
        if not self.path.is_dir():
            raise TransferError(
                f"{self.path} is not a folder, and is not a repository: give hf://user/name, or a folder"
            )
        for name, facts in read_manifest(self.path / MANIFEST, str(self)).items():
            self._check_parents(name)
            check_file(self.path / name, name, facts, str(self))
            copy_file(self.path / name, folder / name)
            check_file(folder / name, name, facts, str(self))
        copy_file(self.path / MANIFEST, folder / MANIFEST)

    def _check_parents(self, name: str) -> None:
        for parent in list(Path(name).parents)[:-1]:
            if (self.path / parent).is_symlink():
                raise TransferError(f"{self}: {parent} is a symbolic link, which pull does not follow")


@dataclass(frozen=True)
class HubRepository:
    """A model repository of the Hugging Face hub.

    Args:
        repo: "user/name".
        revision: A branch, tag or commit to fetch; the default branch unless given.
        public: Whether a new repository is visible to everyone.
    """

    repo: str
    revision: str | None = None
    public: bool = False

    def __str__(self) -> str:
        return f"{_SCHEME}{self.repo}{f'@{self.revision}' if self.revision else ''}"

    def check_free(self, overwrite: bool) -> None:
        """Raise TransferError if the repository has files, unless they may be overwritten."""
        if self.revision is not None:
            raise TransferError(f"{self}: push writes to the default branch: give hf://{self.repo}")
        there = self._files()
        if there and not overwrite:
            raise TransferError(
                f"{self} has files ({', '.join(there[:3])}): give another name, or --overwrite to replace them"
            )

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A temporary folder."""
        with tempfile.TemporaryDirectory(prefix="scoresde-push-") as folder:
            yield Path(folder)

    def publish(self, folder: Path, overwrite: bool, message: str) -> None:
        """Create the repository if it does not exist, and commit all files at once."""
        self.check_free(overwrite)
        self._call(lambda api: api.create_repo(self.repo, private=not self.public, exist_ok=True))
        self._call(
            lambda api: api.upload_folder(
                repo_id=self.repo,
                folder_path=str(folder),
                commit_message=message,
                delete_patterns=["*"] if overwrite else None,
            )
        )

    def fetch(self, folder: Path) -> None:
        """Download the files of the manifest, all of one commit, and check each of them."""
        commit = self._call(lambda api: api.repo_info(self.repo, revision=self.revision)).sha
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as place:
            there = self._call(lambda api: api.list_repo_files(self.repo, revision=commit))
            if MANIFEST not in there:
                raise TransferError(f"{self} has no {MANIFEST}: it is not a model that scoresde push wrote")
            files = read_manifest(self._download(MANIFEST, commit, Path(place)), str(self))
            for name, facts in files.items():
                if name not in there:
                    raise TransferError(f"{self}: {name} is missing, but {MANIFEST} lists it")
                self._move(self._download(name, commit, Path(place)), folder / name, name, facts)
            copy_file(Path(place) / MANIFEST, folder / MANIFEST)

    def _move(self, file: Path, target: Path, name: str, facts: FileFacts) -> None:
        check_file(file, name, facts, str(self))
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)

    def _download(self, name: str, commit: str, folder: Path) -> Path:
        self._call(lambda api: api.hf_hub_download(self.repo, name, revision=commit, local_dir=str(folder)))
        return folder / name

    def _files(self) -> list[str]:
        """The files of the default branch. Empty if there is no such repository."""
        if not self._call(lambda api: api.repo_exists(self.repo)):
            return []
        return [name for name in self._call(lambda api: api.list_repo_files(self.repo)) if name != ".gitattributes"]

    def _call(self, action: Callable[[Any], Any]) -> Any:
        """Call the hub. Raises TransferError with the repository and the reason."""
        try:
            from huggingface_hub import HfApi
        except ImportError as problem:
            raise TransferError(f"{self} needs the package huggingface_hub: pip install 'scoresde[hub]'") from problem
        try:
            return action(HfApi(library_name="scoresde"))
        except Exception as problem:
            first = next((line.strip() for line in str(problem).splitlines() if line.strip()), type(problem).__name__)
            hint = " (log in with hf auth login, or set HF_TOKEN)" if "401" in first or "403" in first else ""
            raise TransferError(f"{self}: {first[:400]}{hint}; a folder of this name is ./{self.repo}") from problem
