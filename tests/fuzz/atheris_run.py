"""
One target under atheris, which follows what the code does with each input:  python -m tests.fuzz.atheris_run csv ...

What stands behind the target's name goes to libFuzzer: options with one dash, and directories of inputs.
"""

import sys

import atheris

with atheris.instrument_imports(include=["model_repository", "batch"], enable_loader_override=False):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Run until libFuzzer has had enough; its status is 77 when something was found."""
    name, *options = sys.argv[1:]
    TARGETS[name](b"")  # or libraries that are imported late would count as a slow input
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
