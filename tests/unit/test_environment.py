"""Configuration files, decisions and the environment: what is read, refused, and never guessed."""

import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clients.configuration import (
    Approval,
    DaemonConfiguration,
    load_configuration,
    load_daemon_configuration,
)
from clients.decisions import Decision, Decisions
from clients.environment import ELSEWHERE, PLACES, Override, overrides_in
from clients.premises import premises_of
from federation.canonical import digest
from federation.errors import ConfigurationError, PrivacyError

FILE = """\
id = "bank"
title = "Bank"
most_people = 9
table = "t.parquet"
approval = "person"
federation = "test"
salt = "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"
held_out_fraction = 0.25
schema = "schema.toml"
roster = "roster.toml"
coordinator_address = "127.0.0.1:9092"
root_certificates = "ca.pem"
state = "state"

[policy]
coordinator = "abababababababababababababababababababababababababababababababab"
approved_peers = ["bank-b", "bank-c"]
purposes = ["credit-scoring"]
least_participants = 3
least_quorum = 3
least_threshold = 3
least_colluders = 1
least_audited_share = 0.0
longest_validity_days = 31
rounds_per_hour = 600
delta = 1e-6
epsilon_per_plan = 1.0
epsilon_per_year = 2.0
epsilon_lifetime = 5.0
"""
DECIDED = (
    *("id", "title", "most_people", "not_held", "approval", "federation", "salt"),
    *("held_out_fraction", "policy", "columns", "consent", "retention"),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "institution.toml"
    path.write_text(FILE)
    return path


def test_the_environment_overrides_where_things_are_and_the_file_says_the_rest(path: Path) -> None:
    plain = load_daemon_configuration(path, {})
    found = load_daemon_configuration(
        path,
        {
            "FEDSCORE_STATE": "/var/lib/bank",
            "FEDSCORE_TABLE": "tables/new.parquet",
            "FEDSCORE_COORDINATOR_ADDRESS": "coordinator.example:443",
            "PATH": "/bin",
        },
    )
    assert (found.state, found.coordinator_address) == ("/var/lib/bank", "coordinator.example:443")
    assert found.table == str(path.parent / "tables" / "new.parquet")
    assert (found.policy, found.schema, found.approval) == (
        plain.policy,
        str(path.parent / "schema.toml"),
        Approval.PERSON,
    )


def test_the_environment_of_the_process_is_what_counts_unless_another_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSCORE_STATE", "/elsewhere")
    assert load_daemon_configuration(path).state == "/elsewhere"
    assert load_daemon_configuration(path, {}).state == str(path.parent / "state")


@pytest.mark.parametrize("setting", sorted(PLACES))
def test_every_place_can_be_overridden_and_is_told(path: Path, setting: str) -> None:
    variable = f"FEDSCORE_{setting.upper()}"
    others = {"coordinator_address": "host:1", "health_address": "127.0.0.1:1", "carrier": "socket"}
    value = others.get(setting, "/new/place")
    assert getattr(load_daemon_configuration(path, {variable: value}), setting) == value
    (override,) = overrides_in({variable: value, "HOME": "/root"})
    assert override == Override(variable=variable, setting=setting, value=value)
    assert str(override) == f"{variable} overrides the file: {setting} = '{value}'"


@pytest.mark.parametrize("setting", DECIDED)
def test_what_people_decide_is_not_overridden(path: Path, setting: str) -> None:
    assert setting in DaemonConfiguration.__struct_fields__
    with pytest.raises(ConfigurationError, match=f"FEDSCORE_{setting.upper()} overrides nothing"):
        load_daemon_configuration(path, {f"FEDSCORE_{setting.upper()}": "automatic"})


def test_every_setting_is_either_a_place_or_decided() -> None:
    assert set(DaemonConfiguration.__struct_fields__) == PLACES | set(DECIDED)
    assert not PLACES & set(DECIDED)


@pytest.mark.parametrize(
    "variable",
    [
        "FEDSCORE_POLICY__EPSILON_PER_PLAN",
        "FEDSCORE_POLICY__LEAST_QUORUM",
        "FEDSCORE_APPROVAL",
    ],
)
def test_a_variable_for_the_policy_is_refused_with_the_reason(path: Path, variable: str) -> None:
    with pytest.raises(ConfigurationError, match="What people decide stands in the file"):
        load_daemon_configuration(path, {variable: "9"})


@pytest.mark.parametrize(
    "variable",
    ["FEDSCORE_", "FEDSCORE_STAT", "FEDSCORE_state", "FEDSCORE_STATE_", "FEDSCORE_STATE__X"],
)
def test_an_unknown_variable_is_an_error_that_lists_what_there_is(
    path: Path, variable: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_daemon_configuration(path, {variable: "x"})
    assert variable in str(refused.value)
    for setting in PLACES:
        assert f"FEDSCORE_{setting.upper()}" in str(refused.value)


def test_variables_that_others_use_are_left_alone(path: Path) -> None:
    environment = dict.fromkeys((*ELSEWHERE, "FEDSCORED", "fedscore_state"), "x")
    assert load_daemon_configuration(path, environment) == load_daemon_configuration(path, {})
    assert {"FEDSCORE_DATA", "FEDSCORE_REQUIRE", "FEDSCORE_SOCKET"} == ELSEWHERE


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("FEDSCORE_STATE", "", "FEDSCORE_STATE is empty"),
        ("FEDSCORE_COORDINATOR_ADDRESS", "nowhere", "host:port"),
    ],
)
def test_a_value_that_a_setting_cannot_have_is_refused(
    path: Path, variable: str, value: str, told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        load_daemon_configuration(path, {variable: value})


def test_a_configuration_of_a_simulation_reads_no_environment(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = FILE.splitlines(keepends=True)
    path.write_text("".join(lines[:4] + lines[lines.index("[policy]\n") :]))
    monkeypatch.setenv("FEDSCORE_TABLE", "/other")
    monkeypatch.setenv("FEDSCORE_NONSENSE", "1")
    assert load_configuration(path).table == str(path.parent / "t.parquet")


@given(
    environment=st.dictionaries(
        st.sampled_from(sorted(PLACES)).map(lambda name: f"FEDSCORE_{name.upper()}")
        | st.text(max_size=9).map(lambda name: f"FEDSCORE_{name}")
        | st.text(max_size=9),
        st.text(max_size=9),
        max_size=4,
    )
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_environment_gives_anything_but_a_configuration_or_an_error(
    path: Path, environment: dict[str, str]
) -> None:
    try:
        found = load_daemon_configuration(path, environment)
    except ConfigurationError:
        return
    assert found.policy == load_daemon_configuration(path, {}).policy
    assert found.approval is Approval.PERSON


# Secrets are files.


def premises_with_keys(path: Path, mode: int) -> Path:
    (path.parent / "state").mkdir(mode=0o700)
    key = path.parent / "secret.key"
    key.write_bytes(b"key")
    key.chmod(mode)
    return key


@pytest.mark.parametrize("variable", ["FEDSCORE_IDENTITY_KEY", "FEDSCORE_NODE_KEY"])
def test_keys_may_lie_elsewhere_if_nobody_else_may_read_them(path: Path, variable: str) -> None:
    key = premises_with_keys(path, 0o400)
    found = premises_of(load_daemon_configuration(path, {variable: str(key)}))
    places = {"FEDSCORE_IDENTITY_KEY": found.identity, "FEDSCORE_NODE_KEY": found.node}
    assert places.pop(variable) == key
    assert [one.parent for one in places.values()] == [found.directory]
    for mode in (0o440, 0o604, 0o620):
        key.chmod(mode)
        with pytest.raises(ConfigurationError, match="Others may read a private key"):
            premises_of(load_daemon_configuration(path, {variable: str(key)}))


@pytest.mark.parametrize("name", ["identity.key", "node.key"])
def test_a_key_in_the_state_that_others_may_read_is_refused(path: Path, name: str) -> None:
    premises_with_keys(path, 0o600)
    configuration = load_daemon_configuration(path, {})
    premises_of(configuration)
    key = path.parent / "state" / name
    key.write_bytes(b"key")
    key.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        premises_of(configuration)
    assert stat.S_IMODE(key.stat().st_mode) == 0o640


def test_a_key_under_something_that_is_no_directory_is_a_configuration_error(path: Path) -> None:
    key = premises_with_keys(path, 0o600)
    with pytest.raises(ConfigurationError, match="Cannot read the key"):
        premises_of(load_daemon_configuration(path, {"FEDSCORE_NODE_KEY": f"{key}/deeper"}))


# Whatever the files hold.

TOML_VALUES = st.sampled_from(
    [
        *("-1", "0", "1", "3", "9" * 30, "1.5", "nan", "inf", "-inf", "1e400", "true", "[]"),
        *("{}", '""', '"x"', '"\\u0000"', "[1]", '["a", "a"]', "1979-05-27", "[[1], 2]", "x", ""),
        *("'''", '"' + "ab" * 32 + '"', '"person"', '"roster"', "{a = 1}", '"' + "é" * 400 + '"'),
    ]
)
LINES = [line.partition(" ")[0] for line in FILE.splitlines() if " = " in line]


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """Returns the file with some lines replaced, doubled or gone, or with bytes changed."""
    lines = FILE.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        name = lines[at].partition(" ")[0]
        match draw(st.sampled_from(("value", "value", "value", "double", "delete", "name"))):
            case "value":
                lines[at] = f"{name} = {draw(TOML_VALUES)}"
            case "double":
                lines.append(lines[at])
            case "delete" if len(lines) > 1:
                del lines[at]
            case _:
                lines[at] = f"{draw(st.sampled_from(LINES))} = {draw(TOML_VALUES)}"
    content = "\n".join(lines).encode()
    if draw(st.booleans()):
        return content
    place = draw(st.integers(0, len(content)))
    return content[:place] + draw(st.binary(max_size=4)) + content[place:]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(content=b"a" * 10 + b" = " + b"[" * 3000)
@example(content=b"\xff\xfe")
@example(content=b"a." * 300 + b"b = 1")
@given(content=spoiled() | st.binary(max_size=60))
def test_no_file_gives_anything_but_a_configuration_or_an_error(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "institution.toml"
    path.write_bytes(content)
    for load in (load_configuration, lambda path: load_daemon_configuration(path, {})):
        try:
            found = load(path)
        except (ConfigurationError, PrivacyError):
            continue
        assert found.policy.limits.yearly <= found.policy.limits.lifetime
        assert "\0" not in found.table


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(content=b"approved")
@example(content=b"approved\n")
@example(content=b"Approved")
@example(content=b"undecided")
@given(content=st.binary(max_size=20) | st.text(max_size=12).map(str.encode))
def test_no_file_of_a_decision_approves_but_the_word_itself(tmp_path: Path, content: bytes) -> None:
    plan = digest("test/plan")
    (tmp_path / plan).write_bytes(content)
    try:
        found = Decisions(tmp_path).of(plan)
    except ConfigurationError:
        assert content not in {one.value.encode() for one in Decision}
    else:
        assert found.value.encode() == content
        assert found.lets_in(Approval.PERSON) == (found is Decision.APPROVED)
