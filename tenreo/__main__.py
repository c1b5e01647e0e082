"""Run the command line with `python -m tenreo`."""

from tenreo.cli.app import main

if __name__ == "__main__":
    main()
