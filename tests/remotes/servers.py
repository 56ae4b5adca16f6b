"""Real servers on the loopback address: Debian's sshd on a high port, moto's S3, and a plain folder beside them."""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

HOST = "127.0.0.1"
BUCKET = "slsr"
S3_ID, S3_SECRET = "AKIAEXAMPLEOFTESTS", "not-a-secret-of-anybody"
WAIT = 60
# Of what a developer's shell may hold, nothing may reach the servers or hide a missing setting.
FOREIGN = ("AWS_", "SSH_AUTH_SOCK", "DVC_", "S3_")


def clean_environment() -> dict[str, str]:
    """The shell's environment without its own credentials."""
    return {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def wait_for(port: int, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if server.poll() is not None:
            break
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError(f"the server on port {port} did not answer:\n{log.read_text()}")


@contextmanager
def running(command: list[str], port: int, log: Path, environment: dict[str, str] | None = None) -> Iterator[None]:
    """A server process from when it answers to the end of the block."""
    with log.open("w") as file:
        server = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
        )
    try:
        wait_for(port, server, log)
        yield
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@dataclass(frozen=True)
class Remote:
    """Where a DVC remote lies, how a clone reaches it, and a way round DVC to look at what is there."""

    kind: str
    url: str
    settings: dict[str, str] = field(default_factory=dict)  # for .dvc/config
    secrets: dict[str, str] = field(default_factory=dict)  # for .dvc/config.local
    folder: Path | None = None  # of a plain folder and of the SSH server
    endpoint: str | None = None  # of the S3 server

    def configure(self, project, name: str = "store", default: bool = True) -> None:
        """As docs/sharing.md says: the address where git sees it, the secrets where it does not."""
        (project.folder / ".dvc" / "config.local").unlink(missing_ok=True)  # secrets of another kind of remote
        project.run("dvc", "remote", "add", "--force", *(["--default"] if default else []), name, self.url)
        project.run("dvc", "remote", "modify", name, "verify", "true")
        for key, value in self.settings.items():
            project.run("dvc", "remote", "modify", name, key, value)
        for key, value in self.secrets.items():
            project.run("dvc", "remote", "modify", "--local", name, key, value)

    def files(self) -> dict[str, int]:
        """Relative path and size of all that lies there."""
        if self.folder is not None:
            found = [path for path in self.folder.rglob("*") if path.is_file()]
            return {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in found}
        prefix = self.url.removeprefix(f"s3://{BUCKET}/") + "/"
        pages = self._client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return {
            entry["Key"].removeprefix(prefix): entry["Size"] for page in pages for entry in page.get("Contents", [])
        }

    def objects(self) -> set[str]:
        """The md5 of every object of data, as its name says; records of runs and unfinished uploads left out."""
        names = [name.split("/") for name in self.files()]
        return {parts[2] + parts[3] for parts in names if parts[:2] == ["files", "md5"] and "." not in parts[3][:1]}

    def read(self, oid: str) -> bytes:
        name = f"files/md5/{oid[:2]}/{oid[2:]}"
        if self.folder is not None:
            return (self.folder / name).read_bytes()
        prefix = self.url.removeprefix(f"s3://{BUCKET}/")
        return self._client().get_object(Bucket=BUCKET, Key=f"{prefix}/{name}")["Body"].read()

    def overwrite(self, oid: str, content: bytes) -> None:
        name = f"files/md5/{oid[:2]}/{oid[2:]}"
        if self.folder is not None:
            path = self.folder / name
            mode = path.stat().st_mode
            path.chmod(0o644)
            path.write_bytes(content)
            path.chmod(mode)  # a disk that flips a bit leaves the mode, and DVC believes a file that nobody may write
        else:
            prefix = self.url.removeprefix(f"s3://{BUCKET}/")
            self._client().put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=content)

    def delete(self, oid: str) -> None:
        name = f"files/md5/{oid[:2]}/{oid[2:]}"
        if self.folder is not None:
            (self.folder / name).unlink()
        else:
            prefix = self.url.removeprefix(f"s3://{BUCKET}/")
            self._client().delete_object(Bucket=BUCKET, Key=f"{prefix}/{name}")

    def _client(self):
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=S3_ID,
            aws_secret_access_key=S3_SECRET,
            region_name="us-east-1",
        )


def new_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)], check=True)
    return path


@dataclass(frozen=True)
class SshServer:
    """An sshd of this user's, with a key that it accepts and one that it does not."""

    port: int
    key: Path
    strange_key: Path
    home: Path

    def remote(self, name: str, key: Path | None = None, folder: Path | None = None) -> Remote:
        folder = folder or self.home / name
        settings = {"user": getpass.getuser(), "port": str(self.port), "timeout": "20"}
        secrets = {"keyfile": str(key or self.key)}
        return Remote("ssh", f"ssh://{HOST}{folder}", settings, secrets, folder=folder)


def ssh_program(required: bool = True) -> str | None:
    """Where sshd is; a test that needs it is skipped without, but not on CI, which installs it."""
    found = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None and required:
        reason = "no sshd: `apt-get install openssh-server` (Debian) brings it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    program = ssh_program()
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd of root gives up its rights
    host_key, key, strange = (new_key(folder / name) for name in ("host_key", "key", "strange_key"))
    accepted = folder / "authorized_keys"
    accepted.write_text(key.with_suffix(".pub").read_text())
    port = free_port()
    config = folder / "sshd_config"
    config.write_text(
        f"""ListenAddress {HOST}
Port {port}
HostKey {host_key}
AuthorizedKeysFile {accepted}
PidFile {folder / "pid"}
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
MaxSessions 100
Subsystem sftp internal-sftp
"""
    )
    log = folder / "log"
    with running([program, "-D", "-e", "-f", str(config)], port, log, clean_environment()):
        yield SshServer(port, key, strange, folder / "home")


@dataclass(frozen=True)
class S3Server:
    """A server of the S3 protocol, in memory."""

    endpoint: str

    def remote(self, name: str, secret: str = S3_SECRET) -> Remote:
        settings = {"endpointurl": self.endpoint, "region": "us-east-1"}
        secrets = {"access_key_id": S3_ID, "secret_access_key": secret}
        return Remote("s3", f"s3://{BUCKET}/{name}", settings, secrets, endpoint=self.endpoint)


@contextmanager
def s3_server(folder: Path, refuses_everybody: bool = False) -> Iterator[S3Server]:
    port = free_port()
    endpoint = f"http://{HOST}:{port}"
    environment = clean_environment()
    command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
    if refuses_everybody:
        environment["INITIAL_NO_AUTH_ACTION_COUNT"] = "1"  # the bucket; from then on moto asks who is there
    with running(command, port, folder / "log", environment):
        server = S3Server(endpoint)
        server.remote("any")._client().create_bucket(Bucket=BUCKET)
        yield server
