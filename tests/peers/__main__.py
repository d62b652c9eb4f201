"""`PYTHONPATH=tests python -m peers` builds every target program (install.sh comes first)."""

from .harness import ensure_built

if __name__ == "__main__":
    ensure_built()
