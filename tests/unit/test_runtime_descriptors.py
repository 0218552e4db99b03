"""The limit of open file descriptors."""

import resource
import subprocess
import sys


def test_a_worker_process_may_open_as_much_as_the_hard_limit_allows() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "from pspf.runtime.app.plan import WorkerOptions\n"
        "from pspf.runtime.worker.worker import prepare_process\n"
        "prepare_process(WorkerOptions())\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(hard), str(hard)]
