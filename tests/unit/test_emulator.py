"""What the lab's libvirt starts in QEMU's place (deployments/lab/emulator.sh): QEMU, with odd memory."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

EMULATOR = Path(__file__).resolve().parents[2] / "deployments/lab/emulator.sh"
MIB = 2**20


@pytest.fixture
def emulator(tmp_path: Path) -> Path:
    """Under the name of a program that prints what it is started with."""
    script = tmp_path / "printf"
    script.write_text(EMULATOR.read_text())
    script.chmod(0o755)
    return script


def started_with(emulator: Path, *arguments: str) -> list[str]:
    done = subprocess.run([emulator, r"%s\n", *arguments], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def memory(size: int) -> str:
    return f'{{"qom-type":"memory-backend-ram","id":"pc.ram","size":{size}}}'


def test_a_machine_has_memory_that_is_no_multiple_of_256_kib(emulator: Path) -> None:
    size = 96 * MIB + 8192
    assert started_with(
        emulator, "-machine", "pc,memory-backend=pc.ram", "-m", "96", "-object", memory(96 * MIB), "-S"
    ) == ["-machine", "pc,memory-backend=pc.ram", "-m", f"size={size}B", "-object", memory(size), "-S"]


def test_all_else_is_as_libvirt_says(emulator: Path) -> None:
    question = ["-S", "-m", "5", "-name", "a b", "-object", '{"qom-type":"secret","id":"pc.ram"}', ""]
    assert started_with(emulator, *question) == question
