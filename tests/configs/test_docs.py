"""What the pages tell a reader to type exists: commands, options, files and settings."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from hero_pl.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, *languages):
    found = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def commands(page):
    """Lines of shell blocks, continued lines joined, without comments."""
    lines = [line for text in blocks(page, "sh", "") for line in text.replace("\\\n", " ").splitlines()]
    return [part for line in lines for part in re.split(r" && ", re.sub(r"(^|\s)# .*", "", line).strip())]


def words_of(command):
    try:
        return shlex.split(command)
    except ValueError:  # a quotation of something else
        return []


CALLS = [(page.name, words) for page in PAGES for command in commands(page) if (words := words_of(command))]
KNOWN = typer.main.get_command(app)


@pytest.mark.parametrize(("page", "words"), [call for call in CALLS if call[1][0] == "hero_pl"])
def test_commands_and_options_of_the_pages_exist(page, words):
    command = KNOWN
    names = words[1:]
    while names and hasattr(command, "commands"):
        name = names.pop(0)
        if name.startswith("-"):
            return
        assert name in command.commands, f"{page}: hero_pl {name}"
        command = command.commands[name]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    if command.context_settings.get("ignore_unknown_options"):  # those of a configuration are passed on
        return
    assert {word.partition("=")[0] for word in names if word.startswith("--")} <= options | {"--help"}, page


@pytest.mark.parametrize(("page", "words"), CALLS)
def test_files_that_a_command_of_the_pages_needs_exist(page, words):
    needed = [word for word in words if re.match(r"(configs|benchmarks|tests|\.ci)/", word)]
    assert not [word for word in needed if not (ROOT / word).exists()], page


def test_every_page_is_found_from_the_site():
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = yaml.safe_load(site[site.index("nav:") :])
    listed = set(re.findall(r"[\w/-]+\.md", str(nav)))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert listed == pages


def test_keys_of_configurations_in_the_pages_exist(compose):
    known = set(compose(ROOT / "configs" / "quickstart.yaml").config.keys(branches=True))
    tops = {key.partition(".")[0] for key in known} | {"limits"}
    known |= {key.removeprefix("data.") for key in known if key.startswith("data.limits.")}
    for page in PAGES:
        for key in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?=[:=` ])", page.read_text(encoding="utf-8")):
            top, rest = key.split(".", 1)
            file = rest in ("yaml", "json", "jsonl", "html", "csv")
            if top in tops and not file:  # below init_args the component decides
                assert key.partition(".init_args")[0] in known, f"{page.name}: {key}"


@pytest.mark.parametrize("text", blocks(ROOT / "docs" / "howto.md", "yaml"))
def test_settings_of_the_page_are_accepted(text, tmp_path, compose, monkeypatch):
    monkeypatch.setenv("REVIEWER_KEY", "key")
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(text.replace("FOLDER", "hero_pl:pocket-shop"), encoding="utf-8")
    assert compose(ROOT / "configs" / "quickstart.yaml", overlay).config
