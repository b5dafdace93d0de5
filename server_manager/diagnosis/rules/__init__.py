"""The table of causes, by topic. The first row that matches wins, so the special ones stand before the general.

To add a cause: a row in the file of its topic, a log (or the lines that prove it) in ``tests/vllm_logs``, and its
Chinese in ``webui/locales/failures.zh-CN.yaml``.
"""

from __future__ import annotations

from server_manager.diagnosis.rules import files, flags, gpu, hub, memory, model, network, processes, software

__all__ = ["RULES", "STRAY_RULES"]

RULES = (
    *flags.RULES,
    *processes.RULES,
    *network.RULES[:3],
    *memory.RULES,
    *gpu.RULES,
    *files.RULES,
    *hub.RULES,
    *software.RULES,
    *model.RULES,
    *network.RULES[3:],
)
"""For exceptions."""

STRAY_RULES = processes.STRAY_RULES
"""For lines that are no exceptions, in logs that hold none."""
