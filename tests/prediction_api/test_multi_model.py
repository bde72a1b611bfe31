"""Many models behind one server, asked in this process over a real directory."""

import gc
import shutil
import threading
import weakref
from pathlib import Path

import httpx
import pytest

from model_repository.deployments import Repository
from model_repository.errors import PackageError, SettingsError
from model_repository.signing import new_key_pair
from model_repository.uploads import Store
from prediction_api.many import Deployer, create_app_of_many
from prediction_api.preparation import prepare
from prediction_api.scoring import Codecs, Scorer
from prediction_api.settings import Settings
from prediction_api.state import ServerState
from tests.prediction_api.versions import BODY, CSV, JSON, LONG_BODY, Version

CONFIG = """\
deployment_id: 5fc92906ad764dde6c3264fa
model_id: 5fae9a023ba73530157ebdae
prediction_threshold: 0.9
association_id_settings:
  column_name: {column}
  allow_missing_values: {allowed}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def deploy(root: Path):
    """``deploy("fraud", version, config="...")``, as somebody with a shell does it."""

    def put(name: str, version: Version | bytes | None, config: str | None = None) -> Path:
        directory = root / name
        directory.mkdir(exist_ok=True)
        if version is not None:
            content = version if isinstance(version, bytes) else version.package
            (directory / "new").write_bytes(content)
            (directory / "new").replace(directory / "model.mlpkg")
        if config is not None:
            (directory / "new").write_text(config)
            (directory / "new").replace(directory / "config.yml")
        return directory

    return put


@pytest.fixture
def client_of_many(root: Path, make_client, validator):
    """A client of an app over the directory, which looks at the files at each request."""

    def make(**options: object) -> httpx.AsyncClient:
        settings = Settings(model_repository_path=root, host="0.0.0.0", **options)  # type: ignore[arg-type]
        places = settings.scoring_model_cache_maxsize
        store = Store(root, validator)
        repository = Repository(
            root, build=Deployer(settings), places=places, ttl=0, store=store, patience=settings.request_timeout
        )
        return make_client(create_app_of_many(repository, settings))

    return make


async def predict(client: httpx.AsyncClient, name: str, body: bytes = BODY, **query: str) -> httpx.Response:
    return await client.post(f"/deployments/{name}/predictions", content=body, headers=JSON, params=query)


# Predictions


async def test_each_model_answers_as_it_would_alone(client_of_many, deploy, versions):
    for number, version in enumerate(versions):
        deploy(f"model-{number}", version)
    client = client_of_many()
    for number, version in enumerate(versions):
        answer = await predict(client, f"model-{number}")
        assert answer.content == version.answers[0.5]
        table = await client.post(f"/deployments/model-{number}/predictions", content=LONG_BODY, headers=CSV)
        assert table.content == version.long_answer


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("prefix", ["", "/v1.0", "/predApi/v1.0", "/api/v2"])
async def test_prefixes_and_slashes(client_of_many, deploy, versions, prefix, slash):
    deploy("fraud", versions[0])
    client = client_of_many()
    answer = await client.post(f"{prefix}/deployments/fraud/predictions{slash}", content=BODY, headers=JSON)
    assert answer.content == versions[0].answers[0.5]
    info = await client.get(f"{prefix}/deployments/fraud/info{slash}")
    listed = await client.get(f"{prefix}/deployments{slash}")
    assert {info.status_code, listed.status_code} == ({404} if prefix == "/api/v2" else {200})


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("prefix", ["", "/v1.0", "/predApi/v1.0"])
async def test_explanations(client_of_many, deploy, versions, prefix, slash):
    deploy("fraud", versions[0])
    client = client_of_many()
    by_default = await client.post(
        f"{prefix}/deployments/fraud/predictionExplanations{slash}", content=BODY, headers=JSON
    )
    shap = await predict(client, "fraud", explanationAlgorithm="shap")
    capabilities = (await client.get(f"{prefix}/deployments/fraud/info")).json()["capabilities"]
    for row, other in zip(by_default.json()["data"], shap.json()["data"], strict=True):
        assert {one["feature"] for one in row["predictionExplanations"]} == {"x", "y"}
        assert {one["feature"] for one in other["predictionExplanations"]} == {"x", "y"}
        assert other["shapExplanationsMetadata"][0]["warnings"] == []
    assert capabilities["explanationAlgorithms"] == ["xemp", "shap"]


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("POST", "/deployments/fraud/predictionExplanations", 200, None),
        ("POST", "/deployments/fraud/predictionExplanations?maxExplanations=0", 200, None),
        ("POST", "/deployments/fraud/predictionExplanations?maxExplanations=11", 422, "from 0 to 10"),
        ("POST", "/deployments/fraud/timeSeriesPredictions", 422, "not a time series model"),
        ("POST", "/deployments/nobody/timeSeriesPredictions", 404, "no deployment 'nobody'"),
        ("POST", "/deployments/fraud/predictionsUnstructured", 404, "unstructured"),
        ("GET", "/deployments/fraud/predictions", 405, "does not take GET"),
        ("GET", "/deployments/fraud", 405, "does not take GET"),
        ("PUT", "/deployments", 405, "does not take PUT"),
        ("POST", "/predictions", 404, "many models: use /deployments/<id>/predictions"),
        ("GET", "/docs", 404, "many models"),
        ("GET", "/info", 200, None),
        ("GET", "/ping", 200, None),
        ("GET", "/livez", 200, None),
        ("GET", "/metrics", 200, None),
        ("GET", "/openapi.json", 200, None),
        ("GET", "/deployments/fraud/openapi.json", 200, None),
        ("GET", "/deployments/fraud/docs", 200, None),
        ("POST", "/deployments/fraud/predictions?passthroughColumns=zip", 400, "zip"),
        ("POST", "/deployments/fraud/predictions?no=1", 422, "no is not allowed key"),
        ("GET", "/deployments/fraud/info/more", 404, "no such route"),
    ],
)
async def test_routes(client_of_many, deploy, versions, method, path, status, message):
    deploy("fraud", versions[0])
    answer = await client_of_many().request(method, path, content=BODY, headers=JSON)
    assert answer.status_code == status, answer.text
    if message:
        assert message in answer.json()["message"]


async def test_allow_names_both_methods_of_a_deployment(client_of_many):
    answer = await client_of_many().get("/deployments/fraud")
    assert set(answer.headers["allow"].split(", ")) == {"DELETE", "POST"}


async def test_a_deployment_describes_itself(client_of_many, deploy, versions):
    deploy("fraud", versions[0])
    api = (await client_of_many().get("/deployments/fraud/openapi.json")).json()
    assert api["servers"] == [{"url": "/deployments/fraud"}]
    assert sorted(api["paths"]) == ["/info", "/predictions"]
    assert set(api["components"]["schemas"]["Row"]["properties"]) == {"x", "y"}


async def test_cache_hit_tells_the_truth(client_of_many, deploy, versions):
    """First a load, then none; with one place the other model has to go."""
    deploy("a", versions[0])
    deploy("b", versions[1])
    client = client_of_many(scoring_model_cache_maxsize=1)
    hits = [(await predict(client, name)).headers["x-datarobot-model-cache-hit"] for name in "aababb"]
    assert hits == ["false", "true", "false", "false", "false", "true"]


# Ids


BAD_IDS = [
    *("%2e%2e", "%2E.", "..%2f..%2f", "..%5c", "%252e%252e", ".%00.", "%00", "a%2fb", "%ff", "a%0d%0ab", "%1b"),
    *(".hidden", "a..b", ".uploads", "*", "a;a=b", "a%20b", "%E2%80%AE", "a" * 129, "a" * 5000, "~root", "a:b", "a@b"),
    *("%EF%BC%8E%EF%BC%8E", "e%CC%81", "%C3%A9", "a%5cb", ".tmp", "..."),
]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("name", BAD_IDS)
async def test_bad_ids(client_of_many, root, deploy, versions, method, name):
    """Taken as they stand on the request line: nothing is decoded, and nothing outside is looked at."""
    deploy("fraud", versions[0])
    before = sorted(root.rglob("*"))
    suffix = "/info" if method == "GET" else "/predictions" if method == "POST" else ""
    client = client_of_many()
    request = client.build_request(method, "http://server/", content=BODY if method == "POST" else None, headers=JSON)
    request.url = request.url.copy_with(raw_path=f"/deployments/{name}{suffix}".encode())
    answer = await client.send(request)
    assert answer.status_code == 422
    assert "deployment id" in answer.json()["message"]
    assert sorted(root.rglob("*")) == before


async def test_symbolic_links_are_not_followed(client_of_many, root, deploy, versions, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(versions[0].path, elsewhere / "model.mlpkg")
    (root / "linked").symlink_to(elsewhere)
    (deploy("file", None) / "model.mlpkg").symlink_to("/etc/hostname")
    client = client_of_many()
    for name in ("linked", "file"):
        answer = await predict(client, name)
        assert answer.status_code == 503
        assert "symbolic link" in answer.json()["message"]


@pytest.mark.parametrize("what", ["the package", "the directory"])
async def test_a_link_that_comes_while_it_serves_is_not_followed(
    client_of_many, deploy, versions, what, tmp_path_factory
):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "model.mlpkg").write_text("very s3cret")
    directory = deploy("fraud", versions[0])
    client = client_of_many(deployed_model_resolver_cache_ttl_sec=0)
    assert (await predict(client, "fraud")).content == versions[0].answers[0.5]
    [package] = directory.iterdir()
    package.unlink()
    if what == "the package":
        package.symlink_to(elsewhere / "model.mlpkg")
    else:
        directory.rmdir()
        directory.symlink_to(elsewhere)
    for answer in (await predict(client, "fraud"), await client.get("/deployments/fraud/info")):
        assert answer.status_code == 503
        assert "symbolic link" in answer.json()["message"]
    listed = await client.get("/deployments")
    assert [row["state"] for row in listed.json()["data"]] == ["unavailable"]
    assert "s3cret" not in listed.text


# Configuration


async def test_configuration_has_its_effects(client_of_many, deploy, versions):
    deploy("fraud", versions[0], CONFIG.format(column="id", allowed="false"))
    client = client_of_many()
    answer = await predict(client, "fraud")
    assert answer.content == versions[0].answers[0.9]
    info = (await client.get("/deployments/fraud/info")).json()
    assert info["deploymentId"] == "5fc92906ad764dde6c3264fa"
    assert info["modelId"] == "5fae9a023ba73530157ebdae"
    assert info["target"]["predictionThreshold"] == 0.9
    missing = await predict(client, "fraud", b'[{"x": 1, "y": 2}]')
    assert (missing.status_code, missing.json()["message"]) == (422, "column 'id': the association id is missing")
    empty = await predict(client, "fraud", b'[{"x": 1, "y": 2, "id": "a"}, {"x": 1, "y": 2, "id": ""}]')
    assert (empty.status_code, empty.json()["message"]) == (422, "row 1, column 'id': the association id is missing")


async def test_association_id_may_be_missing(client_of_many, deploy, versions):
    deploy("fraud", versions[0], CONFIG.format(column="id", allowed="true"))
    assert (await predict(client_of_many(), "fraud", b'[{"x": 1, "y": 2}]')).status_code == 200


async def test_single_model_settings_do_not_reach_deployments(client_of_many, deploy, versions):
    deploy("fraud", versions[0])
    client = client_of_many(mlops_association_id_column="key", mlops_model_id="other", mlops_deployment_id="other")
    assert (await predict(client, "fraud")).status_code == 200
    assert (await client.get("/deployments/fraud/info")).json()["modelId"] != "other"


async def test_addressed_by_deployment_id(client_of_many, deploy, versions):
    """A directory's name comes before a configuration's."""
    deploy("fraud", versions[0], "deployment_id: 5fc92906ad764dde6c3264fa")
    deploy("churn", versions[1], "deployment_id: fraud")
    client = client_of_many()
    assert (await predict(client, "5fc92906ad764dde6c3264fa")).content == versions[0].answers[0.5]
    assert (await predict(client, "fraud")).content == versions[0].answers[0.5]


async def test_config_edits_are_noticed(client_of_many, deploy, versions):
    deploy("fraud", versions[0])
    client = client_of_many()
    assert (await predict(client, "fraud")).content == versions[0].answers[0.5]
    deploy("fraud", None, "prediction_threshold: 0.9")
    assert (await predict(client, "fraud")).content == versions[0].answers[0.9]


# What cannot be served


@pytest.mark.parametrize(
    ("package", "config", "reason"),
    [
        pytest.param(b"PK no package" * 9, None, "not a package", id="package"),
        pytest.param(None, "deployment_id: a", "no .mlpkg file", id="no package"),
        pytest.param(True, "deployment_id: [a", "config.yml", id="configuration"),
        pytest.param(True, "prediction_threshold: 2", "prediction_threshold", id="value in the configuration"),
    ],
)
async def test_one_bad_deployment_harms_no_other(client_of_many, deploy, versions, package, config, reason):
    deploy("good", versions[0])
    deploy("bad", versions[1] if package is True else package, config)
    client = client_of_many()
    answer = await predict(client, "bad")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "'bad'" in answer.json()["message"]
    assert reason in answer.json()["message"]
    assert (await predict(client, "good")).status_code == 200
    assert (await client.get("/ping")).status_code == 200
    rows = {row["id"]: row for row in (await client.get("/deployments")).json()["data"]}
    assert rows["bad"]["state"] == "unavailable"
    assert reason in rows["bad"]["reason"]
    assert rows["good"]["state"] == "loaded"


async def test_a_load_that_hangs_harms_no_other(client_of_many, deploy, versions, monkeypatch):
    """Who waits for it is told after the time for a prediction, and served once it is there."""
    deploy("slow", versions[0])
    deploy("good", versions[1])
    released = threading.Event()
    client = client_of_many(request_timeout=0.2)
    assert (await predict(client, "good")).status_code == 200
    with monkeypatch.context() as patch:
        patch.setattr("model_repository.deployments.model_from", lambda *_, **__: released.wait(30))
        answer = await predict(client, "slow")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "loading it took longer than 0.2 s" in answer.json()["message"]
        assert (await predict(client, "good")).status_code == 200
        released.set()


async def test_a_mended_deployment_serves_again(client_of_many, deploy, versions):
    deploy("fraud", b"PK no package")
    client = client_of_many()
    assert (await predict(client, "fraud")).status_code == 503
    deploy("fraud", versions[0])
    assert (await predict(client, "fraud")).content == versions[0].answers[0.5]


# The list


async def test_the_list(client_of_many, deploy, versions):
    deploy("b", versions[1])
    deploy("a", versions[0], "deployment_id: 5fc92906ad764dde6c3264fa\nmodel_id: m")
    client = client_of_many()
    await predict(client, "b")
    listed = (await client.get("/deployments")).json()
    assert {name: listed[name] for name in ("count", "totalCount", "next", "previous")} == {
        "count": 2,
        "totalCount": 2,
        "next": None,
        "previous": None,
    }
    first, second = listed["data"]
    assert first == {
        "id": "a",
        "modelId": "m",
        "deploymentId": "5fc92906ad764dde6c3264fa",
        "name": "seed 0",
        "target": {"name": "bad", "type": "Binary"},
        "state": "available",
        "reason": None,
        "loaded": False,
        "packageBytes": len(versions[0].package),
    }
    assert (second["id"], second["loaded"]) == ("b", True)


async def test_pages(client_of_many, deploy, versions):
    names = [f"model-{number}" for number in range(7)]
    for name in names:
        deploy(name, versions[0])
    client = client_of_many()
    seen: list[str] = []
    link = "/v1.0/deployments?limit=3"
    sizes = []
    while link:
        page = (await client.get(link)).json()
        seen += [row["id"] for row in page["data"]]
        sizes.append(page["count"])
        link = page["next"]
    assert seen == names
    assert sizes == [3, 3, 1]
    assert page["previous"] == "/v1.0/deployments?limit=3&offset=3"
    assert (await client.get("/deployments?offset=99")).json()["data"] == []


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=-1", "offset=x", "limit=1e3", "limit=", "page=1", "limit=" + "9" * 20]
)
async def test_bad_pages(client_of_many, query):
    answer = await client_of_many().get(f"/deployments?{query}")
    assert answer.status_code == 422
    assert query.partition("=")[0] in answer.json()["message"]


# The start


def app_of(root: Path, **options: object):
    settings = Settings(model_repository_path=root, model_management_enabled=False, **options)  # type: ignore[arg-type]
    return prepare(settings).build_app(ServerState(ready=True), 0)


@pytest.mark.parametrize(
    ("files", "path", "mode"),
    [
        pytest.param([], ".", "multi", id="empty directory"),
        pytest.param(["a.mlpkg"], ".", "single", id="one package"),
        pytest.param(["a.mlpkg"], "a.mlpkg", "single", id="path of a package"),
        pytest.param(["a.mlpkg", "notes.txt"], ".", "single", id="one package and something else"),
        pytest.param(["a.mlpkg", "x/b.mlpkg"], ".", "single", id="one package in the root and one below"),
        pytest.param(["a.mlpkg", "b.mlpkg"], ".", "multi", id="two packages"),
        pytest.param(["x/a.mlpkg"], ".", "multi", id="one deployment"),
        pytest.param(["x/a.mlpkg"], "x", "single", id="directory of a deployment"),
    ],
)
async def test_mode(make_client, root, versions, files, path, mode):
    for name in files:
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(versions[0].path, root / name)
    info = (await make_client(app_of(root / path)).get("/info")).json()
    assert info.get("mode", "single") == mode


@pytest.mark.parametrize(
    ("name", "problem"), [("nothing", "no such file or directory"), ("notes.txt", "not a .mlpkg file")]
)
def test_nothing_to_serve(root, name, problem):
    (root / "notes.txt").touch()
    with pytest.raises(SettingsError, match=f"MODEL_REPOSITORY_PATH='.*{name}': .*{problem}"):
        prepare(Settings(model_repository_path=root / name))


def test_packages_in_the_root_of_many_are_named(root, versions, caplog):
    for name in ("a.mlpkg", "b.mlpkg"):
        shutil.copy(versions[0].path, root / name)
    app_of(root)
    assert "a.mlpkg, b.mlpkg: packages in the root of a repository of many models are not served" in caplog.text


async def test_preload(make_client, root, deploy, versions, caplog):
    """Deployments are loaded before the first request, as many as there are places."""
    for name in "abc":
        deploy(name, versions[0])
    deploy("a", None, "prediction_threshold: 0.9")
    client = make_client(app_of(root, preload_models_enabled=True, scoring_model_cache_maxsize=2))
    rows = (await client.get("/deployments")).json()["data"]
    assert [row["loaded"] for row in rows] == [True, True, False]
    assert "3 deployments, but places for 2" in caplog.text
    answer = await predict(client, "a")
    assert answer.headers["x-datarobot-model-cache-hit"] == "true"
    assert answer.content == versions[0].answers[0.9]


async def test_nothing_is_preloaded_unless_asked_for(make_client, root, deploy, versions):
    deploy("a", versions[0])
    client = make_client(app_of(root))
    assert (await predict(client, "a")).headers["x-datarobot-model-cache-hit"] == "false"


# Trusted keys


@pytest.mark.parametrize("as_path", [True, False], ids=["path", "text"])
async def test_unsigned_packages_are_refused_in_both_modes(make_client, root, deploy, versions, as_path):
    _, public = new_key_pair()
    (root / "key.pem").write_bytes(public)
    keys = str(root / "key.pem") if as_path else public.decode().replace("\n", "\\n")
    directory = deploy("fraud", versions[0])
    answer = await predict(make_client(app_of(root, trusted_keys=keys)), "fraud")
    assert answer.status_code == 503
    assert "not signed" in answer.json()["message"]
    with pytest.raises(PackageError, match="not signed"):
        app_of(directory, trusted_keys=keys)


@pytest.mark.parametrize(("keys", "problem"), [("/nowhere/key.pem", ".*No such file"), ("-----BEGIN", "no public key")])
def test_keys_that_cannot_be_read(root, keys, problem):
    with pytest.raises(SettingsError, match=f"TRUSTED_KEYS: {problem}"):
        prepare(Settings(model_repository_path=root, trusted_keys=keys))


# Memory


async def test_what_was_made_for_a_model_goes_with_it(client_of_many, deploy, versions):
    """Readers, writers and scorer of an evicted model are garbage, and so is the model."""
    deploy("a", versions[0])
    deploy("b", versions[1])
    client = client_of_many(scoring_model_cache_maxsize=1)
    await predict(client, "a")
    # type() and not isinstance: that asks every object for its class, and lazy modules of others raise when asked
    made = [weakref.ref(one) for one in gc.get_objects() if type(one) in (Scorer, Codecs)]
    assert made
    await predict(client, "b")
    gc.collect()
    alive = [ref() for ref in made if ref() is not None]
    assert not alive
