"""Entry of the `tailbudget` command: it imports no extra until the first word asks for one."""

import sys


def main() -> None:
    """Run the command line; exits with 0, 1 for an error that is explained in one line, or 2 for wrong usage."""
    try:
        from .cli import run
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit("tailbudget: this command needs more than the base install: pip install 'tailbudget[all]'")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
