"""Commands inside a process: `python -m tests.process.each '[["worker", "nope"], ...]'` prints how each ended."""

import contextlib
import io
import json
import sys
from collections.abc import Sequence

from pspf.cli.main import main
from pspf.cli.options import verbosity


def run_here(arguments: Sequence[str]) -> tuple[int, str, str]:
    """Run one command line; return its exit code, stdout and stderr."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    verbosity.on = False
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(arguments))
        except SystemExit as ended:
            code = int(ended.code or 0)
    out_text, err_text = (stream.buffer.getvalue().decode() for stream in (out, err))
    return code, out_text, err_text


if __name__ == "__main__":
    results = [run_here(arguments) for arguments in json.loads(sys.argv[1])]
    print(json.dumps([dict(zip(("code", "out", "err"), result, strict=True)) for result in results]))
