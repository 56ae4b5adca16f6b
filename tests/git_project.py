"""A small git repository with metrics, in which the gate runs in this process."""

import json
import os
import subprocess
from pathlib import Path

IDENTITY = {
    "GIT_AUTHOR_NAME": "t",
    "GIT_AUTHOR_EMAIL": "t@example.org",
    "GIT_COMMITTER_NAME": "t",
    "GIT_COMMITTER_EMAIL": "t@example.org",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}


class GitProject:
    """A folder under git."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def new(cls, folder: Path) -> "GitProject":
        folder.mkdir(parents=True, exist_ok=True)
        project = cls(folder)
        project.git("init", "--quiet", "--initial-branch", "main")
        return project

    def git(self, *arguments: str) -> str:
        command = ["git", *arguments]
        environment = os.environ | IDENTITY
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def write(self, **files: object) -> None:
        """`slsr={...}` writes metrics/slsr.json; `gate="..."` and `accepted="..."` the YAML of that name."""
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            path = self.folder / "metrics" / f"{name}.{'yaml' if name in ('gate', 'accepted') else 'json'}"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    def commit(self, **files: object) -> str:
        self.write(**files)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "a change")
        return self.git("rev-parse", "HEAD")
