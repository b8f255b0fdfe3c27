"""The `prefill-cloud` script: thin, so that Ctrl-C while Python still imports leaves no trace."""

import sys


def main() -> None:
    """Run the command."""
    try:
        from prefill_stack.cli import main as command

        command()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
