"""Between the form's fields on switching and the variables of a model's ``NAME.env``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from server_manager import NO_WORDS, SLEEP_AFTER_VARIABLE, STOP_AFTER_VARIABLE, SWITCHABLE_VARIABLE

SWITCH_VARIABLES = (SWITCHABLE_VARIABLE, SLEEP_AFTER_VARIABLE, STOP_AFTER_VARIABLE)
_Minutes = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
_AS_FOR_ALL = "none: as `defaults.env` says"


class SwitchForm(BaseModel):
    """What a model's form says of switching."""

    switchable: Literal["", "yes", "no"] | None = Field(
        None, description=f"Whether it is served with sleep mode, where there is a GPU; {_AS_FOR_ALL}."
    )
    sleep_after: _Minutes | None = Field(
        None, description=f"Minutes without use until it is put to sleep, 0: never; {_AS_FOR_ALL}."
    )
    stop_after: _Minutes | None = Field(
        None, description=f"Minutes without use until it is stopped, 0: never; {_AS_FOR_ALL}."
    )


def switch_fields(own: Mapping[str, str]) -> dict[str, Any]:
    """The fields, from the variables that are the model's own; ``None`` (or "") for what is as for all."""
    switchable = own.get(SWITCHABLE_VARIABLE, "").strip().lower()
    return {
        "switchable": ("no" if switchable in NO_WORDS else "yes") if switchable else "",
        "sleep_after": _minutes(own.get(SLEEP_AFTER_VARIABLE, "")),
        "stop_after": _minutes(own.get(STOP_AFTER_VARIABLE, "")),
    }


def switch_env(form: Mapping[str, Any]) -> dict[str, str]:
    """The variables that filled-in fields mean."""
    found = {}
    if form.get("switchable"):
        found[SWITCHABLE_VARIABLE] = str(form["switchable"])
    for field, variable in (("sleep_after", SLEEP_AFTER_VARIABLE), ("stop_after", STOP_AFTER_VARIABLE)):
        if form.get(field) is not None:
            found[variable] = f"{form[field]:.10g}"
    return found


def _minutes(text: str) -> float | None:
    try:
        minutes = float(text)
    except ValueError:
        return None
    return minutes if math.isfinite(minutes) and minutes >= 0 else None
