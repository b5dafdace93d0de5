"""The smoke test of a server: does it talk sense?

Four short prompts are completed greedily (``asking.py``); what comes back is measured (``figures.py``) and judged by
limits that were measured on real vLLM (``judge.py``, ``docs/benchmarks/smoke.md``).
"""
