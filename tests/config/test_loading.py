"""Settings from YAML files and the command line: parsing, errors, the shipped files, --help."""

from __future__ import annotations

import tempfile
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest
from config_helpers import (
    CONFIGS,
    MINIMAL,
    SHIPPED,
    assert_plain,
    config_of,
    error_of,
    make_parser,
    valid,
    write,
)
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentError

from segcoord.cli.common import new_parser
from segcoord.config.loading import add_settings, parse, read_yaml
from segcoord.config.messages import parser_error
from segcoord.config.schema import CONFIGS as TASKS
from segcoord.config.schema import (
    GROUPS,
    ClassConfig,
    DataConfig,
    ModelConfig,
    SegmentationConfig,
    TrainConfig,
)
from segcoord.utils.errors import UserError

# -- precedence


def test_defaults_are_those_of_the_classes(tmp_path: Path) -> None:
    assert config_of("--config", write(tmp_path, MINIMAL)) == valid()
    options = "--data.layout=voc", "--data.root=here", "--train.max_steps=5"
    assert config_of(*options) == valid()  # no file is needed


def test_every_kind_of_value_in_a_file(tmp_path: Path) -> None:
    text = """
model: {output_stride: 8, atrous_rates: [1, 2, 3], aspp_dropout: 0, encoder_weights: imagenet}
data:
  layout: folder
  root: 2026  # the name of a folder may look like a number
  images: photos/{split}
  crop_size: [64, 96]
  scale: [1, 1.5]
  flip: false
  void_ids: [7, 9]
  classes:
    - {name: road, color: [128, 64, 128]}
    - name: "off"
      color: [1, 2, 3]
      id: 40
train: {max_steps: 5, lr: 1e-3, optimizer: adamw, momentum: null}
"""
    config = config_of("--config", write(tmp_path, text))
    assert config.model == ModelConfig(
        output_stride=8, atrous_rates=[1, 2, 3], aspp_dropout=0.0, encoder_weights="imagenet"
    )
    assert config.data == DataConfig(
        "folder",
        "2026",
        classes=[ClassConfig("road", [128, 64, 128]), ClassConfig("off", [1, 2, 3], 40)],
        void_ids=[7, 9],
        images="photos/{split}",
        crop_size=(64, 96),
        scale=(1.0, 1.5),
        flip=False,
    )
    # PyYAML reads 1e-3 as a string; the user means the number.
    assert config.train == TrainConfig(5, lr=0.001, optimizer="adamw", momentum=None)
    config.check()


def test_command_line_beats_file_beats_layer(tmp_path: Path) -> None:
    layer = {
        "data": {"layout": "cityscapes", "root": "layer", "workers": 7},
        "train": {"max_steps": 1, "lr": 0.1, "seed": 3},
    }
    path = write(tmp_path, "data: {root: file}\ntrain: {lr: 0.2, max_steps: 2}\n")
    config = config_of(f"--config={path}", "--train.lr=0.3", layers=(("a run", layer),))
    assert (config.data.layout, config.data.workers, config.train.seed) == ("cityscapes", 7, 3)
    assert (config.data.root, config.train.max_steps) == ("file", 2)
    assert config.train.lr == 0.3
    # The position of the option does not matter.
    assert config_of("--train.lr=0.3", f"--config={path}", layers=(("a run", layer),)) == config


def test_a_later_file_beats_an_earlier_one(tmp_path: Path) -> None:
    first = write(tmp_path, MINIMAL + "model: {output_stride: 8}\n", "first.yaml")
    second = write(tmp_path, "train: {max_steps: 6}\n", "second.yaml")
    for argv in (
        ["--config", first, "--config", second],
        [f"--config={first}", "--config", second],
    ):
        config = config_of(*argv)
        assert (config.train.max_steps, config.model.output_stride) == (6, 8)


def test_lists_on_the_command_line() -> None:
    config = config_of(
        "--data.layout=folder",
        "--data.root=here",
        "--train.max_steps=5",
        "--data.crop_size=[64, 96]",
        "--data.void_ids=[3]",
        '--data.classes=[{"name": "a", "color": [1, 2, 3]}, {name: b, color: [4, 5, 6], id: 9}]',
        "--model.atrous_rates=null",
    )
    assert config.data.crop_size == (64, 96)
    assert config.data.void_ids == [3]
    assert config.data.classes == [ClassConfig("a", [1, 2, 3]), ClassConfig("b", [4, 5, 6], 9)]
    assert config.model.atrous_rates is None


def test_command_with_only_data_settings_accepts_a_training_file(tmp_path: Path) -> None:
    parser = new_parser("check", "Check.")
    add_settings(parser, "data")
    path = write(tmp_path, MINIMAL + "model: {output_stride: 8}\n")
    assert parser.instantiate(parse(parser, [f"--config={path}"])).data == valid().data
    with pytest.raises(UserError, match=r"unknown key 'tarin'"):
        parse(parser, [f"--config={write(tmp_path, MINIMAL + 'tarin: {lr: 1}')}"])


# -- base


def test_base_is_overridden_key_by_key(tmp_path: Path) -> None:
    write(tmp_path, "data: {root: a, scale: [1, 2], flip: true}\ntrain: {lr: 1}\n", "base.yaml")
    path = write(tmp_path, "base: base.yaml\ndata: {root: b, scale: [3, 4]}\nmodel: {x: 1}\n")
    assert read_yaml(path) == {
        "data": {"root": "b", "scale": [3, 4], "flip": True},
        "train": {"lr": 1},
        "model": {"x": 1},
    }


def test_chain_of_bases_relative_to_each_file(tmp_path: Path) -> None:
    write(tmp_path, "train: {lr: 1, seed: 1, max_steps: 1}\n", "common/root.yaml")
    write(tmp_path, "base: root.yaml\ntrain: {lr: 2, seed: 2}\n", "common/middle.yaml")
    path = write(tmp_path, "base: ../common/middle.yaml\ntrain: {lr: 3}\n", "mine/top.yaml")
    assert read_yaml(path) == {"train": {"lr": 3, "seed": 2, "max_steps": 1}}
    absolute = write(tmp_path, f"base: {tmp_path / 'common' / 'middle.yaml'}\n", "abs.yaml")
    assert read_yaml(absolute) == {"train": {"lr": 2, "seed": 2, "max_steps": 1}}


def test_lists_of_classes_are_replaced_not_joined(tmp_path: Path) -> None:
    write(tmp_path, "data: {classes: [{name: a, color: [1, 2, 3]}], void_ids: [1]}", "base.yaml")
    own = "base: base.yaml\ndata: {classes: [{name: b, color: [4, 5, 6]}], void_ids: []}"
    assert read_yaml(write(tmp_path, own)) == {
        "data": {"classes": [{"name": "b", "color": [4, 5, 6]}], "void_ids": []}
    }


@pytest.mark.parametrize("files", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_cycle_of_bases(tmp_path: Path, files: list[str]) -> None:
    for name, base in zip(files, [*files[1:], files[0]]):
        write(tmp_path, f"base: ./{base}.yaml\n", f"{name}.yaml")
    with pytest.raises(UserError, match=r"a\.yaml: names itself as base, through .*a\.yaml"):
        read_yaml(tmp_path / "a.yaml")


def test_missing_file_names_those_that_exist(tmp_path: Path) -> None:
    path = write(tmp_path, "base: bas.yaml\n")
    with pytest.raises(UserError, match=r"bas\.yaml: no such configuration file; found .*own"):
        read_yaml(path)
    assert "gone.yaml: no such configuration file" in error_of("--config", tmp_path / "gone.yaml")


@pytest.mark.parametrize("base", ["5", "[a.yaml]", "{a: b}"])
def test_base_that_is_not_a_path(tmp_path: Path, base: str) -> None:
    with pytest.raises(UserError, match=r"own\.yaml: base"):
        read_yaml(write(tmp_path, f"base: {base}\n"))


# -- errors in files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found NoneType, expected keys like 'data:'"),
        ("- a\n- b\n", "found list"),
        ("just words", "found str"),
        ("data: [", "not a readable YAML file"),
        ("data: !!python/object/apply:os.getcwd []\n", "not a readable YAML file"),
    ],
)
def test_file_without_settings(tmp_path: Path, text: str, message: str) -> None:
    assert f"own.yaml: {message}" in error_of("--config", write(tmp_path, text))


def test_binary_file(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_bytes(b"\xff\xfe\0")
    assert "own.yaml: not a readable YAML" in error_of("--config", tmp_path / "own.yaml")
    assert "not a readable YAML" in error_of("--config", tmp_path)  # a folder


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("data: {cropsize: 9}", "data.cropsize", "data.crop_size"),
        ("train: {learning_rates: 9}", "train.learning_rates", None),
        ("train: {maxsteps: 9}", "train.maxsteps", "train.max_steps"),
        ("trian: {lr: 9}", "trian", "train"),
        ("lr: 9", "lr", None),
        ("xyzzy: 9", "xyzzy", None),
    ],
)
def test_unknown_key_names_file_and_nearest(
    tmp_path: Path, text: str, key: str, nearest: str | None
) -> None:
    path = write(tmp_path, text)
    message = error_of("--config", path)
    assert message.startswith(f"{path}: unknown key '{key}'")
    if nearest:
        assert message.endswith(f"; did you mean {nearest}?")


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [
        ("train", "lr", "fast"),
        ("train", "lr", "null"),
        ("train", "batch_size", "3.5"),
        ("train", "batch_size", "[1]"),
        ("train", "seed", "true"),
        ("train", "optimizer", "adam"),
        ("model", "atrous_rates", "[a, b, c]"),
        ("data", "crop_size", "513.5"),
        ("data", "crop_size", "[513]"),
        ("data", "crop_size", "[1, 2, 3]"),
        ("data", "crop_size", "[10.5, 10]"),
        ("data", "flip", "perhaps"),
        ("data", "void_ids", "255"),
        ("data", "classes", "5"),
        ("train", "class_weights", "balanced"),
        ("train", "loggers", "[tensorboard]"),
        ("train", "patience", "never"),
    ],
)
def test_wrong_type_names_file_and_key(tmp_path: Path, group: str, key: str, value: str) -> None:
    settings = {"data": "layout: voc, root: here", "train": "max_steps: 5", "model": ""}
    settings[group] += f", {key}: {value}" if settings[group] else f"{key}: {value}"
    path = write(tmp_path, "\n".join(f"{g}: {{{s}}}" for g, s in settings.items()))
    message = error_of("--config", path)
    expected = f"{path}: {group}.{key}: found {value}, expected "
    assert message.replace('"', "").startswith(expected)
    assert_plain(message)


@pytest.mark.parametrize("task", TASKS)
def test_no_message_of_the_parser_reaches_the_user(task: str) -> None:
    """For any setting; those that are text accept everything."""
    parser, rejected = make_parser(task), 0
    types = get_type_hints(TASKS[task])
    for group, field in ((g, f) for g in GROUPS for f in fields(types[g])):
        for value in ("?", "[?]", "{a: ?}", ""):
            try:
                parser.parse_args([f"--{group}.{field.name}={value}"])
            except ArgumentError as error:
                typed = [(None, f"{group}.{field.name}", value)]
                message = str(parser_error(error, parser, typed))
                if "missing, but required" not in message:
                    assert message.startswith(f"{group}.{field.name}: found {value}, expected ")
                    rejected += 1
                assert_plain(message)
    assert rejected > 60


def test_one_number_is_a_square_crop(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    assert config_of("--config", path, "--data.crop_size", "193").data.crop_size == (193, 193)


def test_yaml_1_1_booleans_are_strings(tmp_path: Path) -> None:
    """`off` is a setting and `no` may be a class; options of type bool still accept them."""
    data = "layout: voc, root: here, pack: off, classes: [{name: no, color: [1, 2, 3]}]"
    config = config_of("--config", write(tmp_path, f"data: {{{data}}}\ntrain: {{max_steps: 5}}"))
    assert config.data.pack == "off"
    assert config.data.classes[0].name == "no"
    for word, expected in (("no", False), ("off", False), ("yes", True), ("True", True)):
        text = f"data: {{layout: voc, root: here, flip: {word}}}\ntrain: {{max_steps: 5}}"
        assert config_of("--config", write(tmp_path, text)).data.flip is expected


def test_wrong_layout_names_the_right_ones(tmp_path: Path) -> None:
    message = error_of("--config", write(tmp_path, MINIMAL.replace("voc", "vco")))
    assert "data.layout: found vco, expected voc, cityscapes or folder" in message


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("data: {layout: voc}\ntrain: {max_steps: 5}", ["data.root"]),
        ("model: {}", ["data.layout", "data.root"]),
    ],
)
def test_missing_settings_are_named(tmp_path: Path, text: str, missing: list[str]) -> None:
    message = error_of("--config", write(tmp_path, text))
    assert message.splitlines()[0].endswith(f"required: {', '.join(missing)}")


def test_steps_or_epochs_whichever_is_given_last(tmp_path: Path) -> None:
    steps = write(tmp_path, MINIMAL)
    epochs = write(tmp_path, "base: own.yaml\ntrain: {epochs: 2.5}\n", "epochs.yaml")
    for argv, expected in (
        (["--config", steps], (5, None)),
        (["--config", steps, "--train.epochs=3"], (None, 3)),
        (["--config", steps, "--train.epochs", "3"], (None, 3)),
        (["--config", epochs], (None, 2.5)),
        (["--config", epochs, "--train.max_steps=7"], (7, None)),
        (["--config", epochs, "--config", steps], (5, None)),
    ):
        train = config_of(*argv).train
        train.check()
        assert (train.max_steps, train.epochs) == expected
    layer = ("a run", {"train": {"max_steps": 9, "epochs": None}})  # config.yaml of a run
    assert config_of("--config", epochs, layers=(layer,)).train.epochs == 2.5
    for lengths in ({}, {"max_steps": 5, "epochs": 2}):
        with pytest.raises(UserError, match=r"train\.max_steps and train\.epochs: found \["):
            TrainConfig(**lengths).check()


def test_value_that_yaml_reads_as_a_date(tmp_path: Path) -> None:
    path = write(tmp_path, "data: {layout: voc, root: 2026-11-22}\ntrain: {max_steps: 5}\n")
    assert config_of("--config", path).data.root == "2026-11-22"


@pytest.mark.parametrize("text", ["resume: there", "config: other.yaml", "run: x", "data_: {}"])
def test_keys_that_are_not_settings(tmp_path: Path, text: str) -> None:
    assert "unknown key" in error_of("--config", write(tmp_path, f"{MINIMAL}{text}\n"))


# -- errors on the command line


@pytest.mark.parametrize(
    ("option", "nearest"),
    [
        ("--train.lrr=1", "--train.lr"),
        ("--data.cropsize=[9,9]", "--data.crop_size"),
        ("--trian.max_steps=1", "--train.max_steps"),
        ("--data.rot=x", "--data.root"),
        ("--resum=x", "--resume"),
        ("--xyzzy=1", None),
    ],
)
def test_unknown_option_names_the_nearest(tmp_path: Path, option: str, nearest: str | None) -> None:
    path = write(tmp_path, MINIMAL)
    for spelling in ([option], option.split("=")):
        first, last = error_of("--config", path, *spelling).splitlines()
        assert first.startswith(f"unknown option {spelling[0]}")
        assert first.endswith(f"; did you mean {nearest}?" if nearest else spelling[0])
        assert last == "See: train.py --help"


def test_options_cannot_be_abbreviated(tmp_path: Path) -> None:
    """A script's --train.max must not turn into another setting when one is added."""
    assert "unknown option" in error_of("--config", write(tmp_path, MINIMAL), "--train.max=9")


def test_wrong_value_on_the_command_line_does_not_blame_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    for argv in (["--train.max_steps=many"], ["--train.max_steps", "many"]):
        message = error_of("--config", path, *argv)
        assert message.startswith("train.max_steps: found many, expected an integer")


def test_positional_arguments_and_missing_values(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    assert "found 'stray', expected only options" in error_of("--config", path, "stray")
    message = error_of("--config", path, "--train.lr")
    assert message.startswith("--train.lr: found no value, expected a number")
    assert error_of("--config").startswith("--config: found no value")
    message = error_of("--config", path, "--data=5")
    assert message.startswith("data: found 5, expected its settings one by one")
    assert error_of("--config", path, "--data.root.x=1").startswith("unknown option --data.root.x")


# -- the resolved file of a run

NUMBER = st.floats(1e-6, 1e6)


# No control characters, nothing beyond 16 bits (see the test after this one).
TEXT = st.text(
    st.characters(exclude_categories=["C", "Zl", "Zp"], max_codepoint=0xFFFF),
    min_size=1,
    max_size=12,
)


CLASS = st.builds(
    ClassConfig,
    name=TEXT.filter(str.strip),
    color=st.none() | st.lists(st.integers(0, 255), min_size=3, max_size=3),
    id=st.none() | st.integers(0, 65535) | st.lists(st.integers(0, 65535), min_size=1, max_size=2),
)


ANY_CONFIG = st.builds(
    SegmentationConfig,
    model=st.builds(
        ModelConfig,
        encoder=TEXT,
        output_stride=st.sampled_from([8, 16]),
        atrous_rates=st.none() | st.lists(st.integers(1, 99), min_size=3, max_size=3),
        aspp_dropout=st.floats(0, 0.9),
        encoder_weights=st.sampled_from([None, "imagenet"]),
    ),
    data=st.builds(
        DataConfig,
        layout=st.sampled_from(["voc", "cityscapes", "folder"]),
        root=TEXT
        | st.sampled_from(["null", "true", "1e3", "0x10", "-1", "2026-11-22", "[a]", "~"]),
        classes=st.none() | st.lists(CLASS, min_size=1, max_size=3),
        void_ids=st.lists(st.integers(0, 254), max_size=3),
        images=st.sampled_from([None, "{split}/images", "images-{split}"]),
        masks=st.sampled_from([None, "{split}", "a b/{split}"]),
        crop_size=st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
        scale=st.tuples(NUMBER, NUMBER),
        flip=st.booleans(),
    ),
    train=st.builds(
        TrainConfig,
        max_steps=st.integers(1, 10**7),
        optimizer=st.sampled_from(["sgd", "adamw"]),
        lr=NUMBER,
        momentum=st.none() | st.floats(0, 1),
        weight_decay=NUMBER,
        seed=st.integers(0, 2**63 - 1),
    ),
)


# Shrinking a failure would take minutes, and a failing configuration is readable as it is.
@settings(derandomize=True, deadline=None, max_examples=15, phases=[Phase.generate])
@given(ANY_CONFIG)
def test_resolved_file_read_again_is_the_same_configuration(config: SegmentationConfig) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), config.to_yaml())
        assert config_of("--config", path) == config
        assert config_of(layers=(("a run", read_yaml(path)),)) == config  # as --resume does


@pytest.mark.parametrize("task", ["clasification", 7])
def test_unknown_task(tmp_path: Path, task: object) -> None:
    assert "expected segmentation or classification" in error_of(
        "--config", write(tmp_path, MINIMAL + f"task: {task}\n")
    )


def test_duplicate_key(tmp_path: Path) -> None:
    assert "duplicate key 'train'" in error_of(
        "--config", write(tmp_path, MINIMAL + "train: {max_steps: 6}\n")
    )


def test_base_is_incomplete() -> None:
    assert "base" not in SHIPPED
    assert "required: data.layout, data.root" in error_of("--config", CONFIGS / "base.yaml")
