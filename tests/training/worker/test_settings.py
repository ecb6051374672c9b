"""Settings that the driver hands to the workers of a training."""

from __future__ import annotations

import pickle
from pathlib import Path

from tests.training.worker.builders import make_settings


def test_class_weights_apply_to_the_markers_too(tmp_path: Path) -> None:
    for markers, expected in ((False, (1.0, 5.0)), (True, (1.0, 5.0, 1.0, 5.0))):
        settings = make_settings(tmp_path, class_weights="1,5", markers=markers)
        assert settings.learner.class_weights == expected
    assert make_settings(tmp_path).learner.class_weights is None


def test_the_precision_of_flags_rules_on_gpus_and_that_of_the_cluster_on_cpus(
    tmp_path: Path,
) -> None:
    for precision, on_gpu in (("auto", "bfloat16"), ("float32", "float32")):
        learner = make_settings(tmp_path, precision=precision).learner
        assert (learner.cpu_precision, learner.gpu_precision) == ("float32", on_gpu)


def test_settings_travel_and_are_short_in_ray_s_lists(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    assert pickle.loads(pickle.dumps(settings)).config == settings.config
    assert "setup" not in repr(settings)
