"""Failures explained: from the lines of a vLLM log to the cause, the line that proves it, and what to do.

The way of a log: ``log_lines`` takes the prefixes off, ``exceptions`` reads the tracebacks, ``story`` cuts it into
runs, ``root_cause`` picks the exception that is the cause, and the first of ``rules`` that matches it explains it.
"""

from __future__ import annotations

from server_manager.diagnosis.diagnose import diagnose
from server_manager.diagnosis.log_source import diagnose_file
from server_manager.diagnosis.refusals import diagnose_refusal
from server_manager.diagnosis.report import Diagnosis, Fix

__all__ = ["Diagnosis", "Fix", "diagnose", "diagnose_file", "diagnose_refusal"]
