"""What machines and images install: locked packages, each known by its SHA-256, and images known by their digest."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from satx.storage import project_root

ROOT = project_root() or Path()
INFRA = ROOT / "infra"
LOCKS = {name: INFRA / "locks" / f"{name}.txt" for name in ("worker", "mlflow", "build")}
DOCKERFILES = sorted(INFRA.rglob("*Dockerfile"))
MACHINE = {  # where locks are installed
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "sys_platform": "linux",
}
PYTHONS = ("3.11", "3.12")  # of the images, and of the machines


def locked(name: str) -> dict[str, tuple[str, list[str]]]:
    """Return each package of a lock with its version and its hashes; fail if a line is anything else."""
    lines = LOCKS[name].read_text().replace("\\\n", " ").splitlines()
    packages = dict[str, tuple[str, list[str]]]()
    for line in (line for line in lines if line and not line.startswith("#") and line != "--only-binary :all:"):
        found = re.fullmatch(r"([a-z0-9-]+)==([^\s;]+)((?:\s+--hash=sha256:[0-9a-f]{64})+)\s*", line)
        assert found, f"{name}: {line[:80]}"
        packages[found[1]] = (found[2], re.findall(r"sha256:([0-9a-f]{64})", found[3]))
    return packages


def needed(name: str) -> list[Requirement]:
    """Return what the packages of a lock were resolved from."""
    if name == "mlflow":
        return [Requirement(text) for text in ("mlflow[auth]", "psycopg[binary]", "boto3")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    if name == "build":
        return [Requirement(text) for text in project["build-system"]["requires"]]
    extras = project["project"]["optional-dependencies"]
    return [Requirement(text) for text in (*project["project"]["dependencies"], *extras["fleet"], *extras["gpu"])]


@pytest.mark.parametrize("name", LOCKS)
def test_each_package_of_a_lock_has_its_hashes_and_the_tested_version(name: str) -> None:
    pins = [line.split("==") for line in (INFRA / "constraints.txt").read_text().split()]
    tested = {canonicalize_name(package): version for package, version in pins}
    packages = locked(name)
    assert {package: version for package, (version, _) in packages.items() if package in tested} == {
        package: tested[package] for package in packages if package in tested
    }
    assert "--only-binary :all:" in LOCKS[name].read_text().splitlines(), "else pip runs a package's build script"
    assert "://" not in LOCKS[name].read_text()


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_everything_that_its_packages_need(name: str, python: str) -> None:
    packages, seen = locked(name), set[tuple[str, str]]()
    machine = MACHINE | {"python_version": python, "python_full_version": f"{python}.0"}
    left = [(requirement, "") for requirement in needed(name)]
    while left:
        requirement, extra = left.pop()
        if requirement.marker and not requirement.marker.evaluate(machine | {"extra": extra}):
            continue
        package = canonicalize_name(requirement.name)
        assert package in packages, f"{package} is not in infra/locks/{name}.txt: run infra/locks/renew.sh"
        assert requirement.specifier.contains(packages[package][0]), f"{requirement}: run infra/locks/renew.sh"
        for asked in {(package, each) for each in ("", *requirement.extras)} - seen:
            seen.add(asked)
            left += [(Requirement(text), asked[1]) for text in required_by(package)]
    assert len(seen) > len(needed(name)) or name == "build"


def required_by(package: str) -> list[str]:
    """Return what a package requires, if it is installed here, as all are but CUDA's libraries and the build tools."""
    try:
        return requires(package) or []
    except PackageNotFoundError:
        return []


def test_a_worker_gets_cudas_libraries_from_its_lock() -> None:
    cuda = {package for package in locked("worker") if package.startswith("nvidia-")}
    assert {"nvidia-cublas-cu12", "nvidia-cudnn-cu12", "nvidia-cuda-runtime-cu12", "nvidia-nccl-cu12"} <= cuda


def test_machines_and_images_install_only_what_is_known_by_its_hash() -> None:
    found = list[str]()
    for path in (path for path in INFRA.rglob("*") if path.is_file() and path.suffix not in (".md", ".pyc")):
        for line in path.read_text().replace("\\\n", " ").splitlines():
            code = line.partition("#")[0]
            if re.search(r"\bpip3?\s+(install|wheel|download)\b", code):
                found.append(path.name)
                words = set(code.split())
                assert "--require-hashes" in words or {"--no-index", "--no-deps"} <= words, f"{path.name}: {line}"
    assert sorted(found) == sorted(["user-data.sh"] * 2 + ["worker.Dockerfile"] * 4 + ["mlflow.Dockerfile"])


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: str(path.relative_to(INFRA)))
def test_an_image_is_built_on_one_whose_digest_must_be_given(path: Path) -> None:
    text = path.read_text()
    stages, bases = [], re.findall(r"^FROM\s+(.*)$", text, re.MULTILINE)
    assert bases
    for base in bases:
        image, *name = base.split()
        is_stage = image in stages
        stages += name[1:]
        if is_stage:
            continue
        found = re.fullmatch(r"[\w./-]+:[\w.-]+@\$\{(\w+_DIGEST)\}", image)
        assert found, image
        assert re.search(rf"^ARG {found[1]}$", text.partition("FROM")[0], re.MULTILINE), "an argument without a default"
    assert set(re.findall(r"--from=(\S+)", text)) <= {*stages, "exports"}, "exports: --build-context"


def test_the_services_and_pods_run_images_whose_digest_must_be_given() -> None:
    services = yaml.safe_load((INFRA / "control" / "compose.yaml").read_text())["services"]
    assert {"postgres", "mlflow", "mlflow-users"} == set(services)
    required = list[str]()
    for service in services.values():
        if "build" in service:
            assert "image" not in service
            values = list(service["build"]["args"].values())
        else:
            image, _, digest = service["image"].partition("@")
            assert image
            values = [digest]
        for value in values:
            found = re.fullmatch(r"\$\{(\w+_DIGEST):\?[^}]+\}", value)
            assert found, value
            required.append(found[1])
    settings = (INFRA / "control" / "example.env").read_text().splitlines()
    assert {f"{name}=" for name in required} <= set(settings), "no digest has a default"
    pod = yaml.safe_load((INFRA / "kubernetes.yaml").read_text())["spec"]["template"]["spec"]
    assert [container["image"] for container in pod["containers"]] == ["REGISTRY/satx-worker@DIGEST"]


def test_each_image_has_the_command_that_finds_its_digest() -> None:
    command = "docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "
    for name, image in {
        "worker.Dockerfile": "python:3.11-slim",
        "control/example.env": "postgres:17",
        "serving/Dockerfile": "tensorflow/serving:2.19.1",
        "serving/README.md": "tensorflow/serving:2.19.1",
        "kubernetes.yaml": "REGISTRY/satx-worker:TAG",
    }.items():
        assert command + image in (INFRA / name).read_text(), name
    assert command + "python:3.11-slim" in (INFRA / "control" / "example.env").read_text()
