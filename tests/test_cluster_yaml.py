"""`cluster.yaml` and the Kubernetes manifests fit Ray's schema, our versions and our flags."""

import re
import shlex
import tomllib
from dataclasses import fields
from pathlib import Path

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from unet_ray.segmentation.config import SegmentConfig

REPOSITORY = Path(__file__).parent.parent
TEXT = (REPOSITORY / "cluster.yaml").read_text()
CLUSTER = yaml.safe_load(TEXT)
NODE_TYPES = CLUSTER["available_node_types"]


def test_the_cluster_passes_rays_schema_and_preparation() -> None:
    prepared = prepare_config(yaml.safe_load(TEXT))
    validate_config(prepared)
    assert prepared["available_node_types"]["gpu"]["resources"]["GPU"] == 1


def test_the_cluster_names_the_versions_of_pyproject() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    pinned = {d for d in project["dependencies"] if "==" in d}
    assert set(re.findall(r'"([^" ]+==[^" ]+)"', " ".join(CLUSTER["setup_commands"]))) == pinned


def test_an_idle_cluster_is_only_its_head_and_the_head_does_no_work() -> None:
    head = NODE_TYPES[CLUSTER["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]
    workers = [node for name, node in NODE_TYPES.items() if name != CLUSTER["head_node_type"]]
    assert all(node["min_workers"] == 0 for node in workers)
    assert all(
        node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"} for node in workers
    )
    assert sum(node["max_workers"] for node in workers) >= CLUSTER["max_workers"]
    assert CLUSTER["idle_timeout_minutes"] <= 10


def test_nothing_listens_beyond_loopback_and_no_keys_are_in_it() -> None:
    starts = CLUSTER["head_start_ray_commands"][-1], CLUSTER["worker_start_ray_commands"][-1]
    assert all("RAY_AUTH_MODE=token" in start for start in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "~/.ray/auth_token" in CLUSTER["file_mounts"]
    assert all(node["node_config"]["IamInstanceProfile"]["Name"] for node in NODE_TYPES.values())
    for forbidden in ("0.0.0.0", "AWS_SECRET", "AWS_ACCESS", "auth_token="):
        assert forbidden not in TEXT


def test_lines_that_must_be_changed_are_marked() -> None:
    assert TEXT.count("# CHANGE:") == 4
    for changed in ("ami-0000", "example.com", "region:", "IamInstanceProfile"):
        assert "CHANGE" in next(line for line in TEXT.splitlines() if changed in line)


def test_the_kubernetes_job_names_our_versions_and_flags() -> None:
    """KubeRay's own schema (v1, strict) was checked once; this checks what may drift."""
    job = yaml.safe_load((REPOSITORY / "jobs/rayjob.yaml").read_text())["spec"]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert (
        f"ray[data,train,default]=={job['rayClusterSpec']['rayVersion']}" in project["dependencies"]
    )
    groups = job["rayClusterSpec"]["workerGroupSpecs"]
    specs = [
        group["template"]["spec"] for group in (job["rayClusterSpec"]["headGroupSpec"], *groups)
    ]
    assert {spec["containers"][0]["image"].split(":")[-1] for spec in specs} == {project["version"]}
    words = shlex.split(job["entrypoint"])
    known = {f"--{field.name.replace('_', '-')}" for field in fields(SegmentConfig)}
    assert {word for word in words if word.startswith("--")} <= known
    assert words[1].endswith("jobs/segment.py")
    most = sum(group["maxReplicas"] for group in groups if group["groupName"] == "gpu")
    assert words[words.index("--actors") + 1] == f"1,{most}"


def test_the_cron_job_creates_that_job() -> None:
    documents = list(yaml.safe_load_all((REPOSITORY / "jobs/cronjob.yaml").read_text()))
    pod = documents[-1]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["command"][-1] == "/night/rayjob.yaml"
    assert pod["volumes"][0]["configMap"]["name"] in (REPOSITORY / "README.md").read_text()
    assert pod["serviceAccountName"] in {document["metadata"]["name"] for document in documents}
