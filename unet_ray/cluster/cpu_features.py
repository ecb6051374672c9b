"""Instruction sets of the CPUs of this machine and of a cluster."""

from __future__ import annotations

import re
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_CPU_INFO = "/proc/cpuinfo"
_BFLOAT16 = frozenset(("avx512_bf16", "amx_bf16", "bf16"))
"""Flags of CPUs that multiply in bfloat16: of Intel and AMD, of Intel, and of ARM. Other CPUs take
4 to 8 times as long in bfloat16 as in float32."""


def cpu_has_bfloat16(cpu_info: str = _CPU_INFO) -> bool:
    """Tell whether this machine's CPU multiplies in bfloat16, as far as Linux shows it.

    Args:
        cpu_info: File that lists the flags of the CPUs.
    """
    try:
        found = Path(cpu_info).read_text(errors="replace")
    except OSError:  # not Linux
        return False
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", found, re.MULTILINE)
    return bool(lines) and all(_BFLOAT16 & set(line.split()) for line in lines)


def cluster_has_bfloat16() -> bool:
    """Tell whether the CPUs of all nodes of the cluster multiply in bfloat16."""
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    answers = []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        ask = ray.remote(num_cpus=0, scheduling_strategy=there)(cpu_has_bfloat16)
        answers.append(ask.remote())
    return all(ray.get(answers))
