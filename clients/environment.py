"""What the environment may override of an institution's configuration: where things are.

`FEDSCORE_STATE=/var/lib/bank` stands for `state = "/var/lib/bank"`, for those who start the daemon
by a unit or a container. What people decide (policy, approval), who the institution is, and what is
counted about its people stand in the file alone: a variable leaves no trace that anybody reads, and
one that is left over would decide for people without their knowledge. So every other name that
begins with FEDSCORE_ is an error; a setting that is added later is one of those until it is named
here. Secrets are never values: settings name the files that hold them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from federation.errors import ConfigurationError

PREFIX: Final = "FEDSCORE_"
NESTED: Final = "__"

PLACES: Final = frozenset(
    {
        "carrier",
        "coordinator_address",
        "health_address",
        "identity_key",
        "node_key",
        "postgresql_connection",
        "root_certificates",
        "roster",
        "schema",
        "snapshots",
        "state",
        "table",
    }
)
"""The settings that the environment may override."""

ELSEWHERE: Final = frozenset({"FEDSCORE_DATA", "FEDSCORE_REQUIRE", "FEDSCORE_SOCKET"})
"""Variables of fedscore that are no settings of an institution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One setting that the environment overrides.

    Attributes:
        variable: its name in the environment.
        setting: its name in the file, one of PLACES.
        value: as given, not empty.
    """

    variable: str
    setting: str
    value: str

    def __str__(self) -> str:
        """What a log says of it."""
        return f"{self.variable} overrides the file: {self.setting} = {self.value!r}"


def overrides_in(environment: Mapping[str, str]) -> tuple[Override, ...]:
    """Returns what an environment overrides, by name.

    Raises:
        ConfigurationError: a name that is not known, or not one of PLACES, or an empty value.
    """
    found = []
    for variable, value in sorted(environment.items()):
        if not variable.startswith(PREFIX) or variable in ELSEWHERE:
            continue
        setting = variable.removeprefix(PREFIX).lower()
        if setting not in PLACES or variable != PREFIX + setting.upper():
            raise ConfigurationError(
                f"{variable} overrides nothing. {_why_not(setting)}The environment may say "
                f"{', '.join(sorted(PREFIX + name.upper() for name in PLACES))}. Unset it, and say "
                "anything else in the configuration file."
            )
        if not value:
            raise ConfigurationError(f"{variable} is empty: unset it, or give it a value.")
        found.append(Override(variable=variable, setting=setting, value=value))
    return tuple(found)


def _why_not(setting: str) -> str:
    section = setting.split(NESTED, maxsplit=1)[0]
    if section in ("policy", "approval"):
        return "What people decide stands in the file, where they read it. "
    return ""


def overridden(
    content: dict[str, Any], overrides: Iterable[Override], kind: type[msgspec.Struct]
) -> dict[str, Any]:
    """Returns the content of a configuration file with settings replaced, each of its own type.

    Args:
        content: as decoded from TOML.
        overrides: of settings that `kind` has.
        kind: what the content will be converted to.

    Raises:
        ConfigurationError: a value is none of its setting's type; names the variable.
    """
    types = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    changed = dict(content)
    for one in overrides:
        try:
            value = msgspec.convert(one.value, types[one.setting], strict=False)
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"{one.variable}: {error}.") from error
        changed[one.setting] = msgspec.to_builtins(value)
    return changed
