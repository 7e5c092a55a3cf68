"""The tests that OpenAI's client for Python brings in its source, before us in place of their mock server.

Left out are those of routes that we have not, and `all_params`, which ask for what nobody has at once.
"""

from __future__ import annotations

import shutil

from evals.clients.outcomes import Outcome, Unavailable
from evals.clients.suites.suite import first, place

_RELEASE = "3.57.0"
_FILES = ("chat/test_completions.py", "test_completions.py", "test_models.py")
_OURS = "(create or (Models and (retrieve or list))) and not all_params"
# Models that the tests ask for.
NAMES = ("gpt-6-astra", "gpt-3.5-turbo-instruct", "string")


def openai_tests(http: str) -> Outcome:
    """Runs the tests of completions and models that we have; passes if none fails."""
    at = place(http, "openai-tests")
    source = at.folder / f"openai-{_RELEASE}"
    if not source.is_dir():
        command = ["python", "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "openai"]
        fetched = at.run([*command, f"openai=={_RELEASE}"])
        if fetched.code != 0:
            raise Unavailable(f"the source of openai {_RELEASE} cannot be fetched: {fetched.last_words}")
        shutil.unpack_archive(at.folder / f"openai-{_RELEASE}.tar.gz", at.folder, filter="data")
    files = [f"tests/api_resources/{name}" for name in _FILES]
    command = ["python", "-m", "pytest", "--rootdir", str(source), "-c", str(source / "pyproject.toml")]
    ran = at.run([*command, *(str(source / name) for name in files), "-q", "-n", "0", "-k", _OURS],
                 TEST_API_BASE_URL=f"{http}/v1", PYTHONPATH=str(source))  # fmt: skip
    passed, failed = (int(first(rf"(\d+) {word}", ran.output, "0")) for word in ("passed", "failed"))
    good = ran.code == 0 and passed > 0
    return at.outcome("OpenAI's own tests", "openai", ran, passed=good, note=f"{passed} passed, {failed} failed")
