"""The memory planner: what a model needs, what is there, and what has to happen so that it can start or wake.

    shape, chosen ──> sizes ──> need ──┐
    history (measured) ──> learned ────┤
    places, world ─────────────────────┴──> planner (release, share) ──> Decision, or InsufficientMemory
    history ──> cost

Everything but ``shape`` (reads a model's files) and ``history`` (one file of its own) is arithmetic.
"""
