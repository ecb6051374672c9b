"""The zoo through `evaluate` with a trained model: the Dice of the plain set, or exit code 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import start_job
from tests.labelled_data.test_zoo import FORMS, REFUSED, Flags
from tests.labelled_data.zoo import Zoo, draw_scenes
from unet_ray.errors import InputError
from unet_ray.evaluation.config import EvaluateConfig
from unet_ray.evaluation.evaluate import evaluate
from unet_ray.training.config import TrainConfig
from unet_ray.training.train import train

pytestmark = pytest.mark.soak
_AGREES = 0.01
"""Largest difference between the Dice of a form and that of the plain set."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a model that was trained on other discs."""
    zoo = Zoo(tmp_path_factory.mktemp("trained"), draw_scenes(24, seed=7))
    zoo.save_images()
    zoo.save_masks()
    config = TrainConfig(
        images=zoo.images,
        masks=zoo.masks,
        output=f"{zoo.root}/model",
        classes="disc",
        crop=64,
        base_channels=8,
        depth=2,
        epochs=12,
        learning_rate=3e-3,
    )
    train(config)
    return config.output


@pytest.fixture(scope="module")
def plain(model: str, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Return the Dice of the plain set."""
    zoo = Zoo(tmp_path_factory.mktemp("plain"))
    zoo.save_images()
    zoo.save_masks()
    return measure(model, zoo, None)


def measure(model: str, zoo: Zoo, flags: Flags | None) -> float:
    """Return the Dice that `evaluate` finds; raise InputError if it refuses the set."""
    config: dict[str, Any] = {"images": zoo.images, "masks": zoo.masks, "bootstrap": 0}
    found = evaluate(EvaluateConfig(model=model, **(config | (flags or {}))))
    return float(found.metrics()["classes"]["disc"]["dice"])


@pytest.mark.parametrize("name", FORMS)
def test_evaluate_gives_the_dice_of_the_plain_set(
    name: str, model: str, plain: float, tmp_path: Path
) -> None:
    zoo = Zoo(tmp_path)
    assert measure(model, zoo, FORMS[name](zoo)) == pytest.approx(plain, abs=_AGREES)


@pytest.mark.parametrize("name", REFUSED)
def test_evaluate_refuses_and_its_remedy_works(
    name: str, model: str, plain: float, tmp_path: Path
) -> None:
    build, message, remedy = REFUSED[name]
    zoo = Zoo(tmp_path)
    flags = build(zoo)
    with pytest.raises(InputError, match=message):
        measure(model, zoo, flags)
    found = measure(model, zoo, (flags or {}) | (remedy(zoo) or {}))
    assert found == pytest.approx(plain, abs=_AGREES)


@pytest.mark.parametrize(
    ("build", "code"),
    [
        (FORMS["coco_names_of_local_files"], 0),
        (FORMS["yolo_with_its_data_yaml"], 0),
        (FORMS["masks_with_an_affix_and_images_without_masks"], 0),
        (REFUSED["photographs_upside_down"][0], 2),
        (REFUSED["coco_of_unknown_categories"][0], 2),
    ],
)
def test_the_command_ends_with_its_exit_code(
    build: Any, code: int, model: str, tmp_path: Path
) -> None:
    zoo = Zoo(tmp_path)
    flags = {"model": model, "images": zoo.images, "masks": zoo.masks} | (build(zoo) or {})
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    process = start_job("evaluate", *words)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == code, said
    assert ("error:" in said) == (code == 2)
    assert "Traceback" not in said
