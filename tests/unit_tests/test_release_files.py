"""What releases hang on: workflows, metadata and the commands that they name."""

from __future__ import annotations

import importlib.metadata
import re
import runpy
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import langchain_ws_responses

if TYPE_CHECKING:
    from pathlib import Path

NAME = "langchain-ws-responses"


@pytest.fixture
def github(project: Path) -> Path:
    found = project / ".github"
    if not found.is_dir():
        pytest.skip("no .github: this is no clone")
    return found


def read(path: Path) -> Any:
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    # YAML 1.1 reads the key `on` as true.
    return {("on" if key is True else key): value for key, value in data.items()}


def steps(workflow: Any) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_every_python_of_the_metadata_is_tested(github: Path) -> None:
    tested = read(github / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    classifiers = importlib.metadata.metadata(NAME).get_all("Classifier") or []
    promised = [found[1] for line in classifiers if (found := re.search(r":: (3\.\d+)$", line))]
    assert tested == promised
    assert importlib.metadata.metadata(NAME)["Requires-Python"] == f">={promised[0]}"


def test_commands_of_the_workflows_exist(github: Path, project: Path) -> None:
    named = set()
    for path in (github / "workflows").glob("*.yml"):
        for step in steps(read(path)):
            named |= set(
                re.findall(r"(?:\.ci|tools|tests|langchain_ws_responses)/[\w./]+", step.get("run", ""))
            )
    assert {".ci/run", "tools/check_wheel.py"} <= named
    assert [name for name in named if not (project / name).exists()] == []


def test_releases_are_published_without_a_token_and_only_from_tags(github: Path) -> None:
    workflow = read(github / "workflows" / "release.yml")
    assert workflow["on"] == {"push": {"tags": ["v*"]}}
    assert workflow["permissions"] == {"contents": "read"}
    publish = workflow["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["needs"] == "build"
    (step,) = [step for step in publish["steps"] if "pypi-publish" in step.get("uses", "")]
    assert "password" not in step.get("with", {})
    assert "secrets." not in (github / "workflows" / "release.yml").read_text(encoding="utf-8")


def test_issue_templates_ask_for_what_helps(github: Path) -> None:
    bug = read(github / "ISSUE_TEMPLATE" / "bug_report.yml")
    asked = {field["id"]: field for field in bug["body"] if "id" in field}
    assert "doctor" in asked["doctor"]["attributes"]["label"]
    assert asked["doctor"]["validations"]["required"]
    for path in (github / "ISSUE_TEMPLATE").glob("*_*.yml"):
        assert {"name", "description", "body"} <= set(read(path))


def test_version_and_changelog_agree(project: Path) -> None:
    version = langchain_ws_responses.__version__
    assert importlib.metadata.version(NAME) == version
    newest = re.search(r"^## \[(.+?)\]", (project / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert newest is not None
    assert newest[1] == version


def test_every_runtime_dependency_has_both_bounds() -> None:
    requires = importlib.metadata.requires(NAME) or []
    runtime = [line for line in requires if "extra ==" not in line]
    assert len(runtime) == 8
    assert [line for line in runtime if ">=" not in line or "<" not in line] == []


def test_the_check_of_the_wheel_reads_bounds_as_they_stand(project: Path) -> None:
    if not (project / "tools").is_dir():
        pytest.skip("no tools: this is no source tree")
    check_wheel = runpy.run_path(str(project / "tools" / "check_wheel.py"))
    lowest = check_wheel["lowest"]
    assert lowest(["a>=1.2,<2", "b_c >= 0.14"]) == ["a==1.2", "b_c==0.14"]
    with pytest.raises(check_wheel["Failed"], match="'c<2' has no lower bound"):
        lowest(["c<2"])
    runtime = [line for line in importlib.metadata.requires(NAME) or [] if "extra ==" not in line]
    written = {re.split("[<>=]", line)[0] for line in check_wheel["section"]("dependencies")}
    assert written == {re.split("[<>=]", line)[0] for line in runtime}


def test_the_command_is_installed_under_the_name_of_the_package() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name=NAME)
    assert script.value == "langchain_ws_responses._cli:main"
