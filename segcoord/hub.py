"""A model as a folder of safetensors and JSON, on this machine or on the Hugging Face hub.

The folder is laid out as segmentation_models_pytorch lays out its own (base/hub_mixin.py): the
keywords of its class in config.json, its tensors under its names in model.safetensors. So
`smp.from_pretrained` opens it too. What smp has no place for, classes and normalisation, stands
under a key that smp hands on without looking into it.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from segcoord.encoders.tensors import first_sentence, known_as, some
from segcoord.errors import UserError
from segcoord.files import atomic_write
from segcoord.model_card import model_card

if TYPE_CHECKING:
    from segcoord.model import SegmentationModel

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
OURS = "_segcoord"  # smp drops the keywords that begin with an underscore
CLASS = "_model_class"  # where smp reads which of its classes to make

Model = TypeVar("Model", bound="SegmentationModel")


class HubMixin:
    """`save_pretrained`, `from_pretrained` and `push_to_hub`, in the manner of smp's models."""

    def save_pretrained(
        self: SegmentationModel, folder: str | Path, *, metrics: dict[str, float] | None = None
    ) -> None:
        """Writes config.json, model.safetensors and, unless there is one, a README.md.

        The network itself can't tell how good it is and what it was trained on: complete the card.

        Args:
            folder: made if need be. A stop half-way leaves it without a config.json, by which every
                reader knows a folder.
            metrics: scores for the card, by name, in 0..1.

        Raises:
            UserError: a model whose weights are no longer smp's (folded, exported), a config.json
                of another program, or files that can't be written.
        """
        folder, config = Path(folder), _smp_config(self)
        tensors = {name: t.cpu().contiguous() for name, t in self.net.state_dict().items()}
        plain = self.to_plain() | {"version": version("segcoord")}
        if (folder / CONFIG).is_file() and CLASS not in _read_config(folder):
            raise UserError(
                f"{folder / CONFIG}: is another program's, and would be replaced; choose another "
                "folder"
            )
        try:
            (folder / CONFIG).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: can't be written ({error.strerror})") from error
        with atomic_write(folder / WEIGHTS) as temporary:
            try:
                save_file(tensors, temporary, {"format": "pt", "sha256": _digest(tensors)})
            except SafetensorError as error:  # how its writer tells of a full disk
                raise OSError(first_sentence(error)) from error
            temporary.chmod(0o644)
        if not (folder / CARD).exists():
            with atomic_write(folder / CARD) as temporary:
                temporary.write_text(model_card(self, config[CLASS], metrics or {}), "utf-8")
        with atomic_write(folder / CONFIG) as temporary:
            temporary.write_text(json.dumps(config | {OURS: plain}, indent=2), "utf-8")

    def push_to_hub(
        self: SegmentationModel,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload a model of segcoord",
        metrics: dict[str, float] | None = None,
    ) -> str:
        """Uploads what `save_pretrained` writes; a README.md that is there stays as it is.

        Args:
            repo_id: "user/name", made if need be.
            private: whether the repository is; a new one is as your account has it by default
                unless given.
            token: unless given, the one that `hf auth login` has left, or HF_TOKEN.
            commit_message: of the commit.
            metrics: as of `save_pretrained`.

        Returns:
            The commit's address.

        Raises:
            UserError: as `save_pretrained`; the hub can't be reached or refuses; what should be
                private is there already, and public.
        """
        from huggingface_hub import HfApi

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, metrics=metrics)
            with _told(repo_id, "could not be uploaded", "Check the login (hf auth login)"):
                api = HfApi(token=token)
                repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
                # One that was there before stays as open as it was, whatever is asked for.
                if private and not api.model_info(repo_id).private:
                    raise UserError(
                        f"{repo_id}: is there already, and public; make it private in "
                        "its settings on the hub, or choose another name"
                    )
                keep = [CARD] if api.file_exists(repo_id, CARD) else []
                commit = api.upload_folder(
                    repo_id=repo_id,
                    folder_path=folder,
                    commit_message=commit_message,
                    ignore_patterns=keep,
                )
        return str(commit)

    @classmethod
    def from_pretrained(
        cls: type[Model],
        source: str | Path,
        *,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Model:
        """The model of a folder or of a repository on the hub, in eval mode, channels_last.

        Args:
            source: a folder of `save_pretrained`, which needs no network; or "user/name" on the
                hub, unless there is a folder of that name.
            device: where it goes.
            revision: branch, tag or commit on the hub; its main branch unless given.
            token: for a private repository; unless given, the one of `hf auth login` or HF_TOKEN.
            cache_dir: where downloads are kept; the hub's own cache unless given.
            local_files_only: take a repository from the cache alone.

        Raises:
            UserError: no such folder or repository, a hub that can't be reached, or files that
                aren't segcoord's or are damaged.
        """
        folder = Path(source)
        if not folder.is_dir():
            if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(source)):
                raise UserError(
                    f"{source}: no such folder, and not a repository's name, user/name say"
                )
            folder = _download(str(source), revision, token, cache_dir, local_files_only)
        pretrained = read_pretrained(folder)
        try:
            model = cls.from_plain(pretrained["model"])
        except UserError as error:
            raise UserError(f"{folder / CONFIG}: {error}") from error
        own, given = model.state_dict(), pretrained["state_dict"]
        wrong = [n for n in own if n not in given or given[n].shape != own[n].shape]
        wrong += [n for n in given if n not in own]
        if wrong:
            raise UserError(
                f"{folder / WEIGHTS}: not the weights of the model that {CONFIG} describes: "
                f"{len(wrong)} tensors are missing, unknown or of another shape ({some(wrong)})"
            )
        model.load_state_dict(given)
        return model.to(device, memory_format=torch.channels_last).eval()


def read_pretrained(folder: str | Path) -> dict:
    """What `save_pretrained` wrote, as the checkpoint of a training has it.

    Returns:
        {"model": architecture, labels and normalisation in plain types, "state_dict": tensors}.

    Raises:
        UserError: not such a folder, of another program, or damaged.
    """
    folder = Path(folder)
    config = _read_config(folder)
    plain = config.get(OURS)
    if not isinstance(plain, dict):
        hint = f"; smp.from_pretrained opens such a {config[CLASS]}" if CLASS in config else ""
        raise UserError(f"{folder / CONFIG}: not of a model that segcoord saved{hint}")
    missing = {"format", "spec", "labels", "mean", "std"} - plain.keys()
    if missing:
        raise UserError(f"{folder / CONFIG}: {OURS} lacks {', '.join(sorted(missing))}")
    tensors = _read_weights(folder / WEIGHTS)
    return {"model": plain, "state_dict": {f"net.{name}": t for name, t in tensors.items()}}


def _read_config(folder: Path) -> dict:
    path = folder / CONFIG
    if not path.is_file():
        held = some(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else ""
        found = f"it holds {held}" if held else "it is empty or doesn't exist"
        raise UserError(f"{folder}: no model there, for it has no {CONFIG} ({found})")
    try:
        config = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: damaged, not JSON ({first_sentence(error)})") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: found {type(config).__name__}, expected an object")
    return config


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(
            f"{path}: no such file. Weights are read from safetensors alone, never from a pickle."
        )
    if foreign := known_as(path):
        raise UserError(f"{path}: {foreign}, expected weights. Download the file itself.")
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged or cut short ({first_sentence(error)})") from error
    # smp writes no checksum; where there is one, it is ours.
    if told.get("sha256", _digest(tensors)) != _digest(tensors):
        raise UserError(f"{path}: damaged since it was written: its checksum differs")
    return tensors


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _smp_config(model: SegmentationModel) -> dict:
    """The keywords with which smp makes this network anew, and the name of their class.

    Raises:
        UserError: smp would make another one.
    """
    net = model.net
    config = getattr(net, "config", None)
    if not isinstance(config, dict):
        raise UserError(f"a {type(net).__name__} can't be shared so; share the checkpoint it is of")
    # Ours leaves the logits at their stride; smp's user expects them at the input's size, which is
    # the default of every class, and no tensor depends on it.
    config = {k: v for k, v in config.items() if k != "upsampling" and not k.startswith("_")}
    with torch.device("meta"):
        expected = type(net)(**config).state_dict().keys()
    if expected != net.state_dict().keys():
        raise UserError(
            "a model without its batch norms can't be shared, for nothing could train on from it; "
            "load it by segcoord.load(path, fold=False)"
        )
    return config | {CLASS: type(net).__name__}


def _download(
    repo_id: str,
    revision: str | None,
    token: str | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
) -> Path:
    from huggingface_hub import snapshot_download

    with _told(repo_id, "no such folder here, and the hub gave nothing", "Check the name"):
        return Path(
            snapshot_download(
                repo_id,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                allow_patterns=[CONFIG, WEIGHTS],
            )
        )


@contextmanager
def _told(repo_id: str, what: str, remedy: str) -> Iterator[None]:
    """The hub's errors in words; each of its versions has other classes for them."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{repo_id}: {what} ({first_sentence(error)}). {remedy}, and the connection."
        ) from error
