"""The README is true: its queries run, its flags are the jobs' flags, CI calls its test command."""

import re
from dataclasses import fields
from pathlib import Path

import duckdb
import pytest

from unet_ray.evaluation.config import EvaluateConfig
from unet_ray.output.config import ExportConfig, PruneConfig, ReportConfig, VerifyConfig
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import make_archive
from unet_ray.tables.schemas import SCHEMAS, described
from unet_ray.training.config import TrainConfig

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text()
CONFIGS = {
    "train.py": TrainConfig,
    "segment.py": SegmentConfig,
    "evaluate.py": EvaluateConfig,
    "verify.py": VerifyConfig,
    "prune.py": PruneConfig,
    "report.py": ReportConfig,
    "export.py": ExportConfig,
}


@pytest.mark.usefixtures("ray_local")
def test_its_queries_run_as_printed(
    tmp_path: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_archive(Storage.of(f"{tmp_path}/data"), labelled=0, check=0, archive=2)
    segment(
        SegmentConfig(
            model=tiny_model,
            images=made.archive.uri,
            output=f"{tmp_path}/tables",
            max_error_rate=1.0,
            threshold=0.3,
        )
    )
    monkeypatch.chdir(tmp_path)
    largest, sizes, why, view = (found for found in _run_queries())
    assert [row[0] for row in largest] == ["cell", "fibre"]
    assert len(sizes) == 10
    assert any("corrupt.png" in uri and reason.startswith("unreadable") for uri, reason in why)
    assert view == [(2,)]


def _run_queries() -> list[list[tuple[object, ...]]]:
    found = []
    for query in re.findall(r"```sql\n(.*?)```", README, re.DOTALL):
        duckdb.sql(query)
        is_view = query.startswith("CREATE")
        found.append(
            duckdb.sql("SELECT count(*) FROM current_images" if is_view else query).fetchall()
        )
    return found


@pytest.mark.parametrize("job", CONFIGS)
def test_its_flags_are_the_flags(job: str) -> None:
    (row,) = re.findall(rf"^\| `{job}` \| (.*) \|$", README.split("## Flags")[1], re.MULTILINE)
    flags = {f"--{field.name.replace('_', '-')}" for field in fields(CONFIGS[job])}
    assert set(re.findall(r"--[a-z-]+", row)) == flags


def test_its_fields_are_those_of_the_schemas() -> None:
    (block,) = re.findall(r"<!-- fields -->\n(.*?)\n<!-- end of fields -->", README, re.DOTALL)
    assert block == described()
    assert all(f"| `{name}` |" in block for name in SCHEMAS)


def test_ci_calls_its_test_command() -> None:
    assert "<!-- tests -->" in (REPOSITORY / ".ci/run").read_text()
    (command,) = re.findall(r"<!-- tests -->\n```bash\n(.*?)\n```", README, re.DOTALL)
    assert command.endswith('-m pytest -m "not soak and not gpu"')
