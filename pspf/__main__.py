"""The `pspf` command as a module: `python -m pspf`."""

from pspf.cli.main import main

if __name__ == "__main__":
    main()
