"""A model as a folder of safetensors and JSON, on this machine or on the Hugging Face Hub.

The folder has the layout of segmentation_models_pytorch (base/hub_mixin.py): the keyword arguments
of the network's class in config.json, its state dict in model.safetensors. `smp.from_pretrained`
opens it, unless the decoder is light, which smp doesn't have.
Classes and normalization, which smp has no place for, are stored under a key that smp ignores.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segcoord.models.model_card import model_card
from segcoord.models.state_dict import describe_wrong_file, first_sentence
from segcoord.utils.errors import UserError
from segcoord.utils.files import atomic_write, write_json
from segcoord.utils.text import join_first

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
OURS = "_segcoord"  # smp drops keywords that begin with an underscore
CLASS = "_model_class"  # where smp reads the name of its class


def save_pretrained(
    net: nn.Module,
    description: dict,
    folder: str | Path,
    metrics: dict[str, float] | None = None,
    dataset: str = "",
) -> None:
    """Writes config.json, model.safetensors and, unless there is one, README.md.

    Args:
        net: an smp network.
        description: `SegmentationModel.to_dict()`.
        folder: created if missing. After an interrupted write it has no config.json, without which
            no reader accepts it.
        metrics: scores for the model card, by name, in 0..1.
        dataset: on which they were measured, for the model card.

    Raises:
        UserError: a network that is no longer smp's (folded or exported), a config.json
            of another program, or files that can't be written.
    """
    folder, config = Path(folder), _smp_config(net)
    tensors = {name: t.cpu().contiguous() for name, t in net.state_dict().items()}
    description = description | {"version": version("segcoord")}
    if (folder / CONFIG).is_file() and CLASS not in _read_config(folder):
        raise UserError(f"{folder / CONFIG}: written by another program; choose another folder")
    try:
        (folder / CONFIG).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: can't be written ({error.strerror})") from error
    with atomic_write(folder / WEIGHTS) as temporary:
        try:
            save_file(tensors, temporary, {"format": "pt"})
        except SafetensorError as error:  # raised, among others, for a full disk
            raise OSError(first_sentence(error)) from error
        temporary.chmod(0o644)
    if not (folder / CARD).exists():
        with atomic_write(folder / CARD) as temporary:
            parameters = sum(p.numel() for p in net.parameters())
            card = model_card(description, config[CLASS], parameters, metrics or {}, dataset)
            temporary.write_text(card, "utf-8")
    write_json(folder / CONFIG, config | {OURS: description})


def push_to_hub(
    net: nn.Module,
    description: dict,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload a model of segcoord",
    metrics: dict[str, float] | None = None,
    dataset: str = "",
) -> str:
    """Uploads what `save_pretrained` writes, except a README.md that the repository already has.

    Args:
        net, description, metrics, dataset: as for `save_pretrained`.
        repo_id: "user/name", created if missing.
        private: visibility of the repository; the account's default if None.
        token: access token; by default that of `hf auth login` or HF_TOKEN.
        commit_message: of the commit.

    Returns:
        The URL of the commit.

    Raises:
        UserError: as `save_pretrained`; the Hub can't be reached or refuses; `private` is true and
            the repository exists and is public.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(net, description, folder, metrics, dataset)
        with _hub_errors(repo_id, "could not be uploaded", "Check the login (hf auth login)"):
            api = HfApi(token=token)
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            # create_repo leaves the visibility of an existing repository as it is.
            if private and not api.model_info(repo_id).private:
                raise UserError(
                    f"{repo_id}: exists already and is public; make it private in its settings on "
                    "the Hub, or choose another name"
                )
            keep = [CARD] if api.file_exists(repo_id, CARD) else []
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message,
                ignore_patterns=keep,
            )
    return str(commit)


def find_pretrained(source: str | Path, **options: object) -> Path:
    """A local folder as it is; otherwise a repository of the Hub, downloaded into its cache.

    Args:
        source: a folder, or "user/name".
        options: of `huggingface_hub.snapshot_download`.

    Raises:
        UserError: no such folder or repository, or the Hub can't be reached.
    """
    if (folder := Path(source)).is_dir():
        return folder
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(source)):
        raise UserError(
            f"{source}: no such folder, and not the name of a repository such as user/name"
        )
    from huggingface_hub import snapshot_download

    with _hub_errors(source, "no such folder here, and no download", "Check the name"):
        return Path(snapshot_download(str(source), allow_patterns=[CONFIG, WEIGHTS], **options))


def read_pretrained(folder: str | Path) -> dict:
    """What `save_pretrained` wrote, in the form of a training checkpoint.

    Returns:
        {"model": architecture, labels and normalization in plain types, "state_dict": tensors}.

    Raises:
        UserError: not such a folder, of another program, or damaged.
    """
    folder = Path(folder)
    config = _read_config(folder)
    description = config.get(OURS)
    if not isinstance(description, dict):
        hint = f"; smp.from_pretrained opens such a {config[CLASS]}" if CLASS in config else ""
        raise UserError(f"{folder / CONFIG}: not of a model that segcoord saved{hint}")
    missing = {"format", "spec", "labels", "mean", "std"} - description.keys()
    if missing:
        raise UserError(f"{folder / CONFIG}: {OURS} lacks {', '.join(sorted(missing))}")
    tensors = _read_weights(folder / WEIGHTS)
    return {"model": description, "state_dict": {f"net.{name}": t for name, t in tensors.items()}}


def _read_config(folder: Path) -> dict:
    path = folder / CONFIG
    if not path.is_file():
        found = join_first(sorted(p.name for p in folder.iterdir()), 4) if folder.is_dir() else ""
        found = f"it holds {found}" if found else "it is empty or doesn't exist"
        raise UserError(f"{folder}: not a model, because it has no {CONFIG} ({found})")
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
    if foreign := describe_wrong_file(path):
        raise UserError(f"{path}: {foreign}, expected weights. Download the file itself.")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged or cut short ({first_sentence(error)})") from error


def _smp_config(net: nn.Module) -> dict:
    """The keyword arguments with which smp rebuilds a network, and the name of its class.

    Raises:
        UserError: smp would build another network.
    """
    config = getattr(net, "config", None)
    if not isinstance(config, dict):
        raise UserError(f"a {type(net).__name__} can't be shared; share the checkpoint it is from")
    # Our networks return logits at their stride; a user of smp expects them at the input's size,
    # which is the default of every class. No tensor depends on it.
    config = {k: v for k, v in config.items() if k != "upsampling" and not k.startswith("_")}
    with torch.device("meta"):
        expected = type(net)(**config).state_dict().keys()
    if expected != net.state_dict().keys():
        raise UserError(
            "a model with folded batch norms can't be shared, because it can't be trained further; "
            "load it with segcoord.load(path, fold=False)"
        )
    return config | {CLASS: type(net).__name__}


@contextmanager
def _hub_errors(source: str | Path, problem: str, remedy: str) -> Iterator[None]:
    """Wraps the Hub's errors in UserError; their classes vary by version."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{source}: {problem} ({first_sentence(error)}). {remedy}, and the connection."
        ) from error
