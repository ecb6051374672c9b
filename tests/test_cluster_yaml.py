"""cluster.yaml passes Ray's own schema and preparation code, and names the versions of pyproject.toml."""

import re
import tomllib
from pathlib import Path

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

REPOSITORY = Path(__file__).parent.parent
CLUSTER = yaml.safe_load((REPOSITORY / "cluster.yaml").read_text())


def test_it_passes_rays_schema_and_preparation() -> None:
    prepared = prepare_config(CLUSTER)
    validate_config(prepared)
    assert prepared["available_node_types"]["gpu"]["resources"]["GPU"] == 1


def test_it_names_the_versions_of_pyproject() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    pinned = {d for d in project["dependencies"] if "==" in d}
    assert set(re.findall(r'"([^" ]+==[^" ]+)"', " ".join(CLUSTER["setup_commands"]))) == pinned


def test_nothing_listens_beyond_loopback_and_no_keys_are_in_it() -> None:
    text = (REPOSITORY / "cluster.yaml").read_text()
    assert "--dashboard-host=127.0.0.1" in text
    assert "0.0.0.0" not in text
    assert "AWS_SECRET" not in text
