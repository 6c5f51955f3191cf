"""The documents say what is so: figures come from results, and every command they show runs."""

import hashlib
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from clients.configuration import load_configuration
from experiments.catalogue import EXPERIMENTS
from experiments.documents import DOCUMENTS, rendered
from fedscore.command import app
from fedscore.demo.nation import DATA, SCHEMA, TABLE
from tests.integration.test_command import run

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_figure_in_a_document_is_what_the_results_say(document):
    text = document.read_text()
    assert rendered(text) == text


def test_every_experiment_has_a_table_in_a_document():
    text = "".join(document.read_text() for document in DOCUMENTS)
    for one in EXPERIMENTS.values():
        assert any(f"<!-- {name} -->" in text for name in one.tables), one.name


def test_a_document_that_names_an_unknown_block_is_refused():
    with pytest.raises(KeyError, match="no_such_table"):
        rendered("<!-- no_such_table -->\n<!-- end -->")


def test_every_table_that_the_experiments_page_names_in_italics_exists():
    text = (CHECKOUT / "experiments" / "README.md").read_text()
    prose = re.sub(r"(?s)<!-- (?!end)\w+ -->.*?<!-- end -->", "", text).replace("**", "")
    titles = {name.replace("_", " ") for one in EXPERIMENTS.values() for name in one.tables}
    named = {" ".join(name.split()) for name in re.findall(r"\*([^*`]+)\*", prose)}
    assert len(named) > 10
    assert named <= titles


def test_the_attribution_names_the_very_table_that_is_shipped():
    assert hashlib.sha256(TABLE.read_bytes()).hexdigest() in (DATA / "ATTRIBUTION.md").read_text()


def test_every_file_that_a_document_names_exists():
    for document in CHECKOUT.glob("*.md"):
        text = document.read_text()
        named = re.findall(
            r"`((?:federation|clients|server|fedscore|experiments)/[\w./]*[^\d`])`", text
        )
        linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
        for name in (*named, *linked):
            assert (CHECKOUT / name).exists(), f"{document.name} names {name}"


def test_the_configuration_in_the_readme_is_one(tmp_path):
    text = (CHECKOUT / "README.md").read_text().split("```toml\n")[1].split("```")[0]
    path = tmp_path / "bank-a.toml"
    path.write_text(text.replace('coordinator = "..."', f'coordinator = "{"ab" * 32}"'))
    found = load_configuration(path)
    assert (found.id, found.table) == ("bank-a", str(tmp_path / "bank-a.parquet"))


@pytest.mark.slow
def test_every_command_of_the_readme_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    text = (CHECKOUT / "README.md").read_text()
    block = text.split("## Use it on your own table")[1].split("```")[1]
    commands = [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    assert len(commands) >= 10
    monkeypatch.chdir(tmp_path)
    Path("table.parquet").write_bytes(TABLE.read_bytes())
    for command in commands:
        words = shlex.split(command, comments=True)
        if words[0] == "openssl":
            make_key(Path(words[-1]))
            continue
        if words == [".", ".venv/bin/activate"]:
            continue
        assert words[0] == "fedscore"
        code, _, err = run(monkeypatch, capsys, *words[1:])
        assert (code, err.count("warning")) == (0, 0), f"{command}: {err}"
        if words[1:3] == ["schema", "draft"]:  # a person has confirmed every bound
            Path(words[words.index("--out") + 1]).write_text(SCHEMA.read_text())
    assert Path("scores.parquet").exists()


def test_every_command_for_real_processes_exists_with_these_options():
    text = (CHECKOUT / "README.md").read_text()
    block = text.split("## Real processes")[1].split("```")[1]
    commands = [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    assert len(commands) == 10
    for line in commands:
        _, noun, verb, *options = shlex.split(line, comments=True)
        group = get_command(app).commands[noun]
        group.commands[verb].make_context(verb, options)  # raises on an unknown or missing option


def test_every_command_that_a_document_names_in_its_text_exists():
    groups = {
        name: set(one.commands)
        for name, one in get_command(app).commands.items()
        if hasattr(one, "commands")
    }
    for document in (*CHECKOUT.glob("*.md"), CHECKOUT / "deploy" / "README.md"):
        prose = re.sub(r"(?ms)^```.*?^```$", "", document.read_text())
        for noun, verbs in re.findall(r"`fedscore ([a-z]+) ([a-z|]+)", " ".join(prose.split())):
            unknown = set(verbs.split("|")) - groups.get(noun, set())
            assert not unknown, f"{document.name}: fedscore {noun} {verbs}"


def make_key(path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
