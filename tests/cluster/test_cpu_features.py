from pathlib import Path

import pytest

from unet_ray.cluster.cpu_features import cluster_has_bfloat16, cpu_has_bfloat16


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512_bf16 sse", True),
        ("flags\t\t: fpu amx_bf16", True),
        ("Features\t: fp asimd bf16 i8mm", True),  # ARM
        ("flags\t\t: fpu avx2 avx512f avx512_vnni", False),
        ("model name\t: bf16\nflags\t\t: fpu", False),
        ("flags\t\t: fpu avx512_bf16\n\nprocessor\t: 1\nflags\t\t: fpu", False),
        ("", False),
    ],
)
def test_the_flags_of_all_cpus_decide(tmp_path: Path, lines: str, expected: bool) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\n{lines}\n")
    assert cpu_has_bfloat16(str(path)) is expected


def test_a_system_that_does_not_say_has_none(tmp_path: Path) -> None:
    assert not cpu_has_bfloat16(str(tmp_path / "missing"))


@pytest.mark.usefixtures("ray_local")
def test_a_cluster_has_what_each_of_its_nodes_has() -> None:
    assert cluster_has_bfloat16() is cpu_has_bfloat16()
