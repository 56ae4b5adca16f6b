"""`slsr explore`: what it finds by itself, what it refuses, what it says."""

import logging
import shutil
import socket

import pytest
from explored import make_place, use_tiny_backbone

from slsr.explore import serving


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("files")).sources


@pytest.fixture
def explore(run_slsr, monkeypatch, tmp_path):
    """A function: run the command in an empty folder, up to the moment when it would serve."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.getLogger("slsr"), "level", logging.NOTSET)
    use_tiny_backbone(monkeypatch)
    served = []

    def serve(server, ready):
        ready()
        served.append(server)
        server.close()

    def open_server(app, host, port, really=serving.open_server):
        server = really(app, host, port)
        server.page = app
        return server

    monkeypatch.setattr(serving, "open_server", open_server)
    monkeypatch.setattr(serving, "serve", serve)

    def run(*arguments):
        served.clear()
        return *run_slsr("explore", *arguments), served[0] if served else None

    return run


@pytest.fixture
def artifacts(files, tmp_path):
    """The files where the pipeline leaves them."""
    folder = tmp_path / "artifacts"
    for source, target in (
        (files.models[1], "train/none/model.safetensors"),
        (files.models[0], "train/slsr/model.safetensors"),
        (files.gallery, "prepared/gallery.parquet"),
        (files.query, "prepared/query.parquet"),
        (files.train, "prepared/train.parquet"),
        (files.generated, "generated/images.parquet"),
    ):
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / target)
    shutil.copytree(files.clusters, folder / "clusters")


def page(server, path):
    return server.page.test_client().get(path, headers={"Host": "localhost"})


def test_without_arguments_it_shows_what_the_pipeline_has_written(explore, artifacts, tmp_path):
    code, out, err, server = explore("--port", 0)
    assert code == 0, err
    assert out == f"open http://127.0.0.1:{server.effective_port}/ (Ctrl-C ends it)\n"
    assert "warning" not in err
    about = page(server, "/about").text
    assert about.index(">SLSR</th>") < about.index(">baseline</th>")
    for path in ("/pick/q", "/pick/g", "/clusters", "/generated"):
        assert page(server, path).status_code == 200
    assert any((tmp_path / ".scratch/explore").glob("features-*.npy"))
    assert explore("--port", 0)[0] == 0


def test_a_gallery_of_your_own_goes_without_the_queries_of_the_pipeline(explore, artifacts, files, tmp_path):
    code, _, err, server = explore(tmp_path / "artifacts/train/slsr", "--gallery", files.gallery, "--port", 0)
    assert code == 0, err
    assert page(server, "/pick/q").status_code == 404
    assert page(server, "/pick/g").status_code == 200


def test_an_empty_folder_says_what_to_do(explore):
    code, out, err, _ = explore()
    assert (code, out) == (2, "")
    assert err.startswith("slsr: nothing to show: no model, clusters or generated images under artifacts/")
    assert len(err.splitlines()) == 1


def test_bad_input_is_one_line_and_2(explore, artifacts, files, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.safetensors").write_bytes(b"not a model")
    for arguments, message in (
        (["--gallery", "none.parquet"], "--gallery none.parquet: no such file"),
        (["--clusters", files.query], "not a folder"),
        (["empty"], "empty: a folder without model.safetensors"),
        (["missing.safetensors"], "missing.safetensors: no such model"),
        (["x.safetensors"], "x.safetensors: not a readable safetensors file"),
        (["--gallery", "x.safetensors"], "x.safetensors: not a readable Parquet table"),
        (["--device", "quantum"], "device 'quantum' is not available here"),
        (["--clusters", "empty"], "empty/assignments.parquet: no such table"),
    ):
        code, out, err, server = explore("--port", 0, *arguments)
        assert (code, out, server) == (2, "", None), arguments
        assert message in err
        assert len([line for line in err.splitlines() if line.startswith("slsr: ")]) == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_listening_beyond_this_machine_must_be_said(explore, artifacts, host):
    code, _, err, server = explore("--host", host, "--port", 0)
    assert (code, server) == (2, None)
    assert err.startswith(f"slsr: --host {host}: others on the network could open the page")


def test_exposed_it_warns_asks_for_a_token_and_knows_its_names(explore, artifacts):
    code, out, err, server = explore("--host", "0.0.0.0", "--expose", "--port", 0, "--allowed-host", "lab.example")
    assert code == 0, err
    assert "warning: listening on 0.0.0.0" in err
    token = out.split("?token=")[1].split()[0]
    assert len(token) >= 32
    client = server.page.test_client()
    for host in ("lab.example", "192.0.2.7:8008", socket.gethostname()):
        assert client.get("/about", headers={"Host": host}).text.startswith("refused: open the address with the token")
    assert client.get("/about", headers={"Host": "evil.example"}).text.startswith("refused: the host")
    assert client.get(f"/?token={token}", headers={"Host": "lab.example"}).status_code == 302


def test_a_token_can_be_asked_for_on_a_shared_machine(explore, artifacts):
    _, out, _, server = explore("--token", "--port", 0)
    assert "/?token=" in out
    assert page(server, "/about").status_code == 403


def test_a_taken_port_is_said(explore, artifacts):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        code, _, err, _ = explore("--port", holder.getsockname()[1])
    assert code == 2
    assert "is taken; choose another with --port" in err


def test_a_browser_is_opened_when_asked_for(explore, artifacts, monkeypatch):
    import webbrowser

    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    explore("--port", 0)
    assert opened == []
    _, out, _, _ = explore("--port", 0, "--open")
    assert out.startswith(f"open {opened[0]} ")
