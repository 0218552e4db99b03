"""`python -m pspf` is the `pspf` command."""

from pspf.cli.main import main

if __name__ == "__main__":
    main()
