"""A command announces that it has started before slow imports."""

import subprocess
import sys

PROGRAM = """
import sys
sys.stderr.isatty = lambda: True

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ImportError("torch would be imported now")

sys.meta_path.insert(0, NoTorch())
from rtd_plugin.cli.main import main
for command in (
    ["train", "--adapter", "lincir"],
    ["evaluate", "--benchmark", "miniature", "--adapter", "lincir"],
    ["search", "a.png", "is red", "--images", "."],
    ["index", ".", "--output", "a.lance"],
    ["export", "run", "--layout", "openai", "file"],
):
    try:
        main(command)
    except SystemExit:
        print("---", file=sys.stderr)
"""


def test_commands_say_that_they_load_before_they_import_torch(tmp_path):
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=True)
    outputs = done.stderr.split("---\n")[:-1]
    assert len(outputs) == 5
    for output in outputs:
        assert output.startswith("Loading …\n")
        assert "torch would be imported now" in output
