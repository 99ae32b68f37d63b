"""`python -m vistool` is `vistool`."""

from vistool.cli.app import main

if __name__ == "__main__":
    main()
