"""Entry of the `tailbudget` command: it imports no extra until the first word asks for one."""

import sys


def main() -> None:
    """Run the command line; exits with 0, 1 for an error that is explained in one line, or 2 for wrong usage."""
    if sys.argv[1:2] == ["run"]:
        sys.exit(_run(sys.argv[2:]))
    try:
        from .cli import run
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit("tailbudget: this command needs more than the base install: pip install 'tailbudget[all]'")
    sys.exit(run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    """`tailbudget run` works in the base install, which has no click."""
    from tailbudget.instrument.errors import UserError
    from tailbudget.instrument.run import main as run_command

    try:
        run_command(arguments)
    except UserError as error:
        sys.stderr.write(f"tailbudget: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    main()
