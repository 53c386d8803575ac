"""The files in configs/."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from config_helpers import (
    CONFIGS,
    SHIPPED,
    config_of,
    make_parser,
    write,
)

from segcoord.config.loading import parse, read_yaml
from segcoord.config.schema import (
    ClassificationConfig,
    ModelConfig,
)
from segcoord.data.layouts import label_set

# -- the shipped files


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configuration_is_valid_and_survives_being_written(
    tmp_path: Path, name: str
) -> None:
    config = config_of("--config", CONFIGS / f"{name}.yaml")
    config.check()
    assert len(label_set(config.data)) > 1
    assert config_of("--config", write(tmp_path, config.to_yaml())) == config


def test_the_papers_recipe_for_imagenet() -> None:
    """arXiv 2103.02907, section 4.1: 200 epochs of 1281167 images in batches of 256."""
    tree = read_yaml(CONFIGS / "imagenet.yaml")
    assert tree["task"] == "classification"
    parser = make_parser("classification")
    groups = parser.instantiate(parse(parser, ["--config", str(CONFIGS / "imagenet.yaml")]))
    config = ClassificationConfig(groups.model, groups.data, groups.train)
    config.check()
    train = config.train
    assert (train.optimizer, train.momentum, train.weight_decay) == ("sgd", 0.9, 4e-5)
    assert (train.lr, train.schedule, train.batch_size) == (0.05, "cosine", 256)
    assert train.max_steps == 200 * (1281167 // 256)
    assert (config.data.crop_size, config.data.resize, config.data.flip) == (224, 256, True)


@pytest.mark.parametrize("name", ["voc_os16", "voc_os8", "cityscapes_os16", "cityscapes_os8"])
def test_published_settings_of_both_datasets(name: str) -> None:
    """DeepLabV3 (arXiv 1706.05587), section 4.1 and appendix A; DeepLab's code for the rest."""
    config = config_of("--config", CONFIGS / f"{name}.yaml")
    assert config.model == ModelConfig(
        encoder="mobilenetv2_ca_100",
        output_stride=int(name.rpartition("os")[2]),
        atrous_rates=None,
        aspp_dropout=0.1,
        encoder_weights="imagenet",
    )
    assert (config.data.scale, config.data.flip, config.data.color_jitter) == ((0.5, 2), True, 0)
    assert (config.data.classes, config.data.val_split) == (None, "val")
    train = config.train
    assert (train.optimizer, train.momentum, train.lr) == ("sgd", 0.9, 0.007)
    assert (train.weight_decay, train.poly_power, train.batch_size) == (4e-5, 0.9, 16)
    assert train.encoder_lr_factor == 1


@pytest.mark.parametrize(
    ("name", "layout", "split", "crop", "steps"),
    [
        ("voc_os16", "voc", "trainaug", 513, 30_000),
        ("cityscapes_os16", "cityscapes", "train", 769, 90_000),
    ],
)
def test_published_settings_of_each_dataset(
    name: str, layout: str, split: str, crop: int, steps: int
) -> None:
    config = config_of("--config", CONFIGS / f"{name}.yaml")
    assert (config.data.layout, config.data.train_split) == (layout, split)
    assert config.data.crop_size == (crop, crop)
    assert config.train.max_steps == steps


@pytest.mark.parametrize("dataset", ["voc", "cityscapes"])
def test_stride_8_differs_only_in_the_stride(dataset: str) -> None:
    sixteen = config_of("--config", CONFIGS / f"{dataset}_os16.yaml")
    eight = config_of("--config", CONFIGS / f"{dataset}_os8.yaml")
    assert eight == replace(sixteen, model=replace(sixteen.model, output_stride=8))
