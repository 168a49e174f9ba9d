# SPDX-License-Identifier: BSD-3-Clause
"""docs/reproduce.md: its example runs, its tables and commands are true."""

import re
import shlex
from pathlib import Path

from eegfast.training import load_recipe, recipe_names
from eegfast.training.reproduction import plan_reproduction

PAGE = (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text()


def test_example_runs():
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    exec(compile(block, "docs/reproduce.md", "exec"), {})


def test_table_of_recipes():
    rows = re.findall(r"^\| `([\w-]+)` \| .*?\| `([\w-]+)`.*?\| `([\w-]+)`", PAGE, re.MULTILINE)
    assert sorted(name for name, *_ in rows) == recipe_names()
    for name, paper, honest in rows:
        protocols = load_recipe(name).protocols
        assert (protocols["paper"].name, protocols["honest"].name) == (paper, honest)


def test_commands():
    commands = re.findall(r"^eegfast reproduce (.*?)(?:  +#.*)?$", PAGE, re.MULTILINE)
    assert len(commands) == 7
    for command in commands:
        name, *words = shlex.split(command)
        settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
        root = words[words.index("--root") + 1] if "--root" in words else None
        plan_reproduction(load_recipe(name), root, quick="--quick" in words, settings=settings)
