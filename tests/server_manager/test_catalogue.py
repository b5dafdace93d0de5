"""Model files: those shipped, the user's own, and what is said about bad ones."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from server_manager.catalogue import Catalogue
from server_manager.errors import NotAllowed, SpecError, StateDirError, UnknownModel
from server_manager.model_spec import ModelSpec


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    folder = tmp_path / "shipped"
    folder.mkdir()
    (folder / "small.yaml").write_text("model: org/small\nmax-model-len: 2048\n")
    return folder


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def catalogue(models: Path, shipped: Path) -> Catalogue:
    return Catalogue(models, shipped)


def test_the_shipped_files_are_without_fault(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "none")
    assert not catalogue.problems
    assert {"SmolLM2-135M-Instruct", "Qwen2-0.5B-Instruct", "Qwen2.5-7B-Instruct-AWQ", "Qwen3-8B"} <= set(
        catalogue.names()
    )
    for spec in catalogue.specs():
        assert spec.shipped
        assert not spec.warnings, spec.warnings
        assert spec.served_model_name == spec.name == spec.model.split("/")[1]
        assert not spec.trust_remote_code
        assert isinstance(spec.options["max-model-len"], int)
        assert (spec.options.get("reasoning-parser") == "qwen3") == spec.name.startswith("Qwen3-")


def test_names_are_in_natural_order_the_users_own_first(catalogue: Catalogue, models: Path, shipped: Path) -> None:
    for name in ("m-14B", "m-4B", "m-0.6B"):
        (models / f"{name}.yaml").write_text("model: a/b\n")
    assert catalogue.names() == ("m-0.6B", "m-4B", "m-14B", "small")


def test_a_users_file_goes_before_a_shipped_one(catalogue: Catalogue, models: Path) -> None:
    assert catalogue.get("small").shipped
    (models / "small.yaml").write_text("model: mine/small\n")
    spec = catalogue.get("small")
    assert (spec.model, spec.shipped, spec.path) == ("mine/small", False, models / "small.yaml")
    (models / "small.yaml").write_text("modle: mine/small\n")
    assert "small" not in catalogue.names()
    with pytest.raises(SpecError, match="no 'model'"):
        catalogue.get("small")


def test_changes_are_seen(catalogue: Catalogue, models: Path) -> None:
    assert catalogue.reload()
    assert not catalogue.reload()
    (models / "new.yaml").write_text("model: a/b\n")
    assert catalogue.reload()
    assert "new" in catalogue.names()
    (models / "defaults.env").write_text("HF_ENDPOINT=https://hf-mirror.com\n")
    assert catalogue.get("new").source == "mirror"
    (models / "new.yaml").unlink()
    assert "new" not in catalogue.names()


def test_the_environment_beside_a_file(catalogue: Catalogue, models: Path) -> None:
    (models / "defaults.env").write_text("# for all\nHF_ENDPOINT=https://hf-mirror.com\nexport A='x y' # why\n")
    (models / "small.env").write_text("VLLM_USE_MODELSCOPE=True\nA=${HOME}\nB\n")
    spec = catalogue.get("small")
    assert spec.env == {"HF_ENDPOINT": "https://hf-mirror.com", "A": "${HOME}", "VLLM_USE_MODELSCOPE": "True"}
    assert spec.source == "modelscope"
    assert spec.warnings == ("models/small.env line 3: 'B' has no value and is left out.",)


def test_a_bad_environment_file(catalogue: Catalogue, models: Path) -> None:
    (models / "small.env").write_text("A=1\n\nthis is no line\n")
    with pytest.raises(SpecError, match=r"small\.env line 3") as caught:
        catalogue.get("small")
    assert caught.value.facts["line"] == 3
    (models / "small.env").unlink()
    (models / "defaults.env").write_text("=1\n")
    assert catalogue.get("small").env == {}
    assert "defaults.env line 1" in str(catalogue.problems[0])


def test_the_environment_of_a_model_whose_file_is_broken(catalogue: Catalogue, models: Path) -> None:
    (models / "defaults.env").write_text("A=1\nB=2\n")
    (models / "small.env").write_text("B=3\n")
    (models / "small.yaml").write_text("model: [\n")
    assert catalogue.environment("small") == {"A": "1", "B": "3"}
    assert catalogue.environment("other") == {"A": "1", "B": "2"}
    with pytest.raises(SpecError):
        catalogue.environment("../small")


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        ("", None, "not a list of"),
        ("# nothing\n", None, "not a list of"),
        ("- a\n- b\n", 1, "not a list of"),
        ("just words\n", 1, "not a list of"),
        ("max-model-len: 5\n", None, "no 'model'"),
        ("seed: 1\nmodel: [a, b]\n", 2, "'model' is not a text"),
        ("seed: 1\nmodel: 7\n", 2, "'model' is not a text"),
        ("seed: 1\nmodel: ''\n", 2, "'model' is not a text"),
        ("seed: 1\nmodel: --trust-remote-code\n", 2, "neither the id"),
        ("model: a/b\nseed: 1\nmax-model-len: 5\nseed: 2\n", 4, "line 2 already"),
        ("model: a/b\nmax-model-len: 5\nmax_model_len: 6\n", 3, "line 2 already"),
        ("model: a/b\nhf-overrides:\n  x: 1\n  x: 2\n", 4, "twice"),
        ("model: a/b\n  seed: 1\n", 2, "mapping values are not allowed"),
        ("model: a/b\nseed: [1, 2\n", 3, "expected"),
        ("model: a/b\nx: !!python/object/apply:os.system ['true']\n", 2, "constructor"),
        ("model: a/b\nx: 2024-13-45\n", 2, "month"),
        ("model: a/b\nx: \x07\n", 2, "special characters"),
        ("model: a/b\nyes: 1\n", 2, "not the name of a flag"),
        ("model: a/b\n? [1]\n: 2\n", 2, "not the name of a flag"),
        ("model: a/b\n--seed: 1\n", 2, "without dashes"),
        ("model: a/b\n'a b': 1\n", 2, "cannot be a flag"),
        ("model: a/b\nenforce-eager: 1\n", 2, "switch"),
        ("model: a/b\nmax-model-len: true\n", 2, "needs a value"),
        ("model: a/b\ndtype: [half, auto]\n", 2, "one value"),
        ('model: a/b\ntokenizer: "a\\0b"\n', 2, "no argument can have"),
        ("model: a/b\nx: !!binary aGk=\n", 2, "neither text"),
        ("model: a/b\nhf-overrides: {when: 2024-01-01}\n", 2, "neither text"),
        ("model: a/b\nx: &x [*x]\n", None, "refers to itself"),
        ("model: a/b\n---\nmodel: c/d\n", 2, "another document"),
    ],
)
def test_bad_files_are_reported_with_their_line_and_the_others_load(
    content: str, line: int | None, says: str, catalogue: Catalogue, models: Path
) -> None:
    (models / "bad.yaml").write_text(content)
    assert catalogue.names() == ("small",)
    (problem,) = catalogue.problems
    assert says in problem.message
    assert problem.facts["path"] == str(models / "bad.yaml")
    assert problem.facts["line"] == line
    assert problem.message.startswith(f"models/bad.yaml line {line}:" if line else "models/bad.yaml")
    with pytest.raises(SpecError):
        catalogue.get("bad")


def test_files_that_are_no_text_or_too_much(catalogue: Catalogue, models: Path) -> None:
    (models / "latin.yaml").write_bytes("model: a/b\n# größer\n".encode("latin-1"))
    (models / "big.yaml").write_text("model: a/b\n" + "# x\n" * 100_000)
    (models / "deep.yaml").write_text("model: a/b\nx: " + "[" * 5_000)
    bomb = "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 12))
    (models / "bomb.yaml").write_text(f"model: a/b\nx0: &x0 [a]\n{bomb}")
    (models / "dir.yaml").mkdir()
    (models / ".hidden.yaml").write_text("nonsense")
    said = {Path(str(problem.facts["path"])).stem: problem for problem in catalogue.problems}
    assert set(said) == {"latin", "big", "deep", "bomb"}
    assert said["latin"].facts["line"] == 2
    assert "UTF-8" in said["latin"].message
    assert "256 KiB" in said["big"].message
    assert "deep" in said["deep"].message
    assert catalogue.names() == ("small",)


def test_utf8_with_a_byte_order_mark(catalogue: Catalogue, models: Path) -> None:
    (models / "bom.yaml").write_bytes(b"\xef\xbb\xbfmodel: /data/\xe6\xa8\xa1\xe5\x9e\x8b\r\nseed: 1\r\n")
    assert catalogue.get("bom").serve_args() == ("/data/模型", "--seed", "1")


def test_a_bad_file_name(catalogue: Catalogue, models: Path) -> None:
    (models / "my model.yaml").write_text("model: a/b\n")
    (problem,) = catalogue.problems
    assert "'my model' cannot be the name" in problem.message


def test_the_same_model_twice(catalogue: Catalogue, models: Path) -> None:
    (models / "x.yaml").write_text("model: a/b\n")
    (models / "x.yml").write_text("model: c/d\n")
    assert "x" not in catalogue.names()
    assert "same model" in catalogue.problems[0].message


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            "max-modle-len: 5",
            "models/w.yaml line 2: 'max-modle-len' is not a flag that vLLM 0.32 has; did you mean 'max-model-len'? "
            "It is passed on as it stands.",
        ),
        ("zzz: 5", "models/w.yaml line 2: 'zzz' is not a flag that vLLM 0.32 has. It is passed on as it stands."),
        (
            "dtype: float17",
            "models/w.yaml line 2: \"float17\" is not a value that 'dtype' takes in vLLM 0.32; it takes",
        ),
        ("disable-log-stats: false", "models/w.yaml line 2: 'disable-log-stats: false' changes nothing"),
        (
            "enable_prefix_caching: false",
            "models/w.yaml line 2: 'enable_prefix_caching: false' works here, but not with `vllm serve --config`; "
            "'no-enable-prefix-caching: true' does.",
        ),
    ],
)
def test_doubts_are_warnings(text: str, warning: str, catalogue: Catalogue, models: Path) -> None:
    (models / "w.yaml").write_text(f"model: a/b\n{text}\n")
    (said,) = catalogue.get("w").warnings
    assert said.startswith(warning)


def test_an_unknown_key_reaches_vllm_untouched(catalogue: Catalogue, models: Path) -> None:
    (models / "new.yaml").write_text("model: a/b\nflag_of_tomorrow: {a: [1]}\nanother: x y\n")
    assert catalogue.get("new").serve_args() == ("a/b", "--flag-of-tomorrow", '{"a": [1]}', "--another", "x y")


def test_unknown_model(catalogue: Catalogue) -> None:
    with pytest.raises(UnknownModel) as caught:
        catalogue.get("../small")
    assert caught.value.facts["known"] == ("small",)


def test_save_and_delete(shipped: Path, tmp_path: Path) -> None:
    models = tmp_path / "new" / "models"
    catalogue = Catalogue(models, shipped)
    spec = ModelSpec("mine", "/data/模型", {"enable-prefix-caching": False, "seed": "7"}, {"HF_TOKEN": "hf_x"})
    path = catalogue.save(spec)
    assert path == models / "mine.yaml"
    assert path.read_text() == "model: /data/模型\nno-enable-prefix-caching: true\nseed: '7'\n"
    assert stat.S_IMODE((models / "mine.env").stat().st_mode) == 0o600
    assert catalogue.get("mine") == ModelSpec("mine", spec.model, spec.options, spec.env, path)
    assert sorted(os.listdir(models)) == ["mine.env", "mine.yaml"]

    catalogue.save(ModelSpec("mine", "a/b"))
    assert catalogue.get("mine").env == {}
    assert os.listdir(models) == ["mine.yaml"]
    catalogue.delete("mine")
    assert catalogue.names() == ("small",)


def test_saving_does_not_copy_the_defaults(catalogue: Catalogue, models: Path) -> None:
    (models / "defaults.env").write_text("A=1\nB=2\n")
    catalogue.save(ModelSpec("mine", "a/b", env={"A": "1", "B": "3"}))
    assert (models / "mine.env").read_text() == "B='3'\n"
    assert catalogue.get("mine").env == {"A": "1", "B": "3"}


def test_a_shipped_model_can_be_overridden_and_comes_back(catalogue: Catalogue) -> None:
    catalogue.save(ModelSpec("small", "mine/small"))
    assert catalogue.get("small").model == "mine/small"
    catalogue.delete("small")
    assert catalogue.get("small").model == "org/small"
    with pytest.raises(NotAllowed):
        catalogue.delete("small")


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "defaults", ""])
def test_delete_leaves_other_files_alone(name: str, catalogue: Catalogue, models: Path) -> None:
    (models / "defaults.env").write_text("A=1\n")
    with pytest.raises(SpecError):
        catalogue.delete(name)
    assert (models / "defaults.env").exists()
    with pytest.raises(UnknownModel):
        catalogue.delete("missing")


def test_what_could_not_be_read_again_is_not_saved(catalogue: Catalogue, models: Path) -> None:
    catalogue.save(ModelSpec("mine", "a/b", {"seed": 1}))
    with pytest.raises(SpecError, match="switch"):
        catalogue.save(ModelSpec("mine", "a/b", {"enforce-eager": "yes"}))
    with pytest.raises(SpecError, match="YAML"):
        catalogue.save(ModelSpec("mine", "a/b", {"x": object()}))
    assert catalogue.get("mine").options == {"seed": 1}


def test_a_folder_that_cannot_be_written(tmp_path: Path, shipped: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirError) as caught:
        Catalogue(tmp_path / "file" / "models", shipped).save(ModelSpec("mine", "a/b"))
    assert "--models-dir" in str(caught.value)


def test_a_full_disk_leaves_the_old_file(catalogue: Catalogue, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue.save(ModelSpec("mine", "a/b"))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateDirError, match="No space left"):
        catalogue.save(ModelSpec("mine", "c/d"))
    assert catalogue.get("mine").model == "a/b"
    assert os.listdir(models) == ["mine.yaml"]
