"""Where the harness keeps what it fetches and makes: all of it under build/."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "vm"
VENV = ROOT / "build" / "vm-venv"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
