from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.builders import make_tiny_model, read_model_files, write_model_files
from unet_ray.errors import InputError
from unet_ray.flags import ClassSpec
from unet_ray.imaging.channels import ChosenChannels
from unet_ray.imaging.regions.postprocessing import ObjectRule, Postprocessing
from unet_ray.network.config import PredictorConfig, UNetConfig
from unet_ray.network.model_folder import Model, load_model, save_model, state_bytes
from unet_ray.network.predictor import Predictor
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet
from unet_ray.storage.storage import Content, Storage

PREPROCESSING = Preprocessing("uint8", (100.0,), (50.0,))
OLD_MODELS = Path(__file__).parents[1] / "old_output/models"


def make_model() -> Model:
    config = UNetConfig(1, 1, 2, 1)
    rules = Postprocessing((ObjectRule(),))
    return Model(config, state_bytes(UNet(config)), (ClassSpec(1, "a"),), PREPROCESSING, rules)


def make_separating_model() -> Model:
    config = UNetConfig(1, 2, 2, 1)
    rules = Postprocessing((ObjectRule(0.5, 0.5, 3, 0.25),), steps=8)
    return Model(config, state_bytes(UNet(config)), (ClassSpec(1, "a"),), PREPROCESSING, rules)


def files_of(folder: Storage) -> set[str]:
    return {entry.path for entry in folder.entries()}


@pytest.mark.parametrize("make", [make_model, make_separating_model])
def test_a_model_folder_gives_the_model_back(root: str, make: Callable[[], Model]) -> None:
    saved = make()
    save_model(saved, Storage.of(root).join("m"))
    loaded = load_model(Storage.of(root).join("m"))
    assert loaded == saved
    assert loaded.digest == saved.digest
    for name, tensor in loaded.build().state_dict().items():
        assert torch.equal(tensor, saved.build().state_dict()[name])


@pytest.mark.parametrize(("score", "stored"), [(None, None), (0.0, [0.0]), (0.25, [0.25])])
def test_a_smallest_score_is_stored_only_where_one_was_chosen(
    tmp_path: Path, score: float | None, stored: list[float] | None
) -> None:
    """Models before 2026-11-26, and those that are not tuned, have none; their digest stays."""
    folder, rules = Storage.of(str(tmp_path)), (ObjectRule(0.5, 0.5, 3, score),)
    saved = replace(make_separating_model(), postprocessing=Postprocessing(rules, steps=8))
    save_model(saved, folder)
    assert read_model_files(tmp_path)[0]["parting"].get("min_scores") == stored
    loaded = load_model(folder)
    assert (loaded.postprocessing.rules, loaded.digest) == (rules, saved.digest)


def test_the_digest_sees_weights_and_meaning_and_nothing_else() -> None:
    torch.manual_seed(0)
    one = make_model()
    stricter = Postprocessing((ObjectRule(0.6),))
    assert replace(one, postprocessing=stricter).digest != one.digest
    assert replace(one, classes=(ClassSpec(1, "b"),)).digest != one.digest
    assert replace(one, weights=make_model().weights).digest != one.digest
    assert replace(one, metrics={"x": 1}, versions={"y": "2"}).digest == one.digest
    assert replace(one, pixel_size_um=(0.5, 0.5)).digest == one.digest


def test_the_pixel_size_of_the_training_images_comes_back(tmp_path: Path) -> None:
    saved = replace(make_model(), pixel_size_um=(0.5, 2.0))
    save_model(saved, Storage.of(str(tmp_path)))
    assert load_model(Storage.of(str(tmp_path))) == saved


def test_a_model_of_an_earlier_version_has_no_pixel_size() -> None:
    assert load_model(Storage.of(f"{OLD_MODELS}/plain")).pixel_size_um is None


@pytest.mark.parametrize(
    ("chosen", "image_channels"),
    [(("actin", "DAPI"), None), ((2, 0), 5), ((2, 0), None), (("µm–tubulin", "x" * 256), None)],
)
def test_channels_are_kept_and_part_of_the_digest(
    tmp_path: Path, chosen: tuple[str, ...] | tuple[int, ...], image_channels: int | None
) -> None:
    config = UNetConfig(2, 1, 2, 1)
    plain = replace(
        make_model(),
        network=config,
        weights=state_bytes(UNet(config)),
        preprocessing=Preprocessing("uint8", (1.0, 2.0), (3.0, 4.0)),
    )
    model = replace(plain, input_channels=chosen, image_channels=image_channels)
    save_model(model, Storage.of(str(tmp_path)))
    loaded = load_model(Storage.of(str(tmp_path)))
    assert loaded == model
    assert (loaded.input_channels, loaded.image_channels) == (chosen, image_channels)
    described = json.loads((tmp_path / "model.json").read_text())
    assert described["input_channels"] == list(chosen)
    others = [plain, replace(model, input_channels=chosen[::-1])]
    if image_channels:
        others.append(replace(model, image_channels=None))
    assert model.digest not in {other.digest for other in others}
    save_model(plain, Storage.of(str(tmp_path)))
    assert "input_channels" not in json.loads((tmp_path / "model.json").read_text())


def test_as_many_channels_are_chosen_as_the_network_takes() -> None:
    model = load_model(Storage.of(str(OLD_MODELS / "plain")))
    assert model.select_channels(None) == model.inputs
    assert model.select_channels("R, 1,index:2") == ChosenChannels(("R", "1", "index:2"))
    with pytest.raises(
        InputError, match=r"--channels DAPI: the number of channels is 1, .* on 3 channels, colours"
    ):
        model.select_channels("DAPI")


def test_metrics_that_are_not_numbers_do_not_keep_a_model_from_loading(tmp_path: Path) -> None:
    """A class that is in no validation image has no score; earlier versions wrote NaN."""
    save_model(replace(make_model(), metrics={"dice": math.nan}), Storage.of(str(tmp_path)))
    assert math.isnan(load_model(Storage.of(str(tmp_path))).metrics["dice"])


# --- damaged folders


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.json", b"{", "model.json: not JSON"),
        ("model.json", b"[]", r"model.json: \[\] is not an object"),
        ("model.json", b"{}", "model.json: format is missing"),
        ("model.json", b'{"format": 4}', "model.json: format 4, but this version reads 2 and 3"),
        ("model.json", b'{"format": 3}', "model.json: network is missing"),
        ("model.json", b'{"format": ' + b"[" * 10**5, "model.json: .* more than 64 levels deep"),
        ("model.json", b" " * (2**22 + 1), "model.json: larger than 4194304 bytes"),
        ("weights", b"\x80\x04pickle", r"model-\w+.safetensors: not a safetensors file"),
        ("weights", b"", "cut short: 0 bytes"),
        ("model.json", None, "no model here"),
        ("weights", None, "no model here"),
    ],
)
def test_a_damaged_model_folder_is_refused_in_one_line(
    tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    save_model(make_model(), Storage.of(str(tmp_path)))
    (place,) = tmp_path.glob("*.safetensors" if file == "weights" else file)
    place.unlink()
    if content is not None:
        place.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        load_model(Storage.of(str(tmp_path)))
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_a_flipped_bit_of_the_weights_is_found(tmp_path: Path) -> None:
    save_model(make_model(), Storage.of(str(tmp_path)))
    (file,) = tmp_path.glob("*.safetensors")
    weights = bytearray(file.read_bytes())
    weights[-1] ^= 1
    file.write_bytes(weights)
    with pytest.raises(InputError, match="not the weights of model.json: the digest differs"):
        load_model(Storage.of(str(tmp_path)))


# --- hostile values, with digests that fit them


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a function that replaces a value of a `model.json`."""

    def change(described: dict[str, Any]) -> None:
        *parents, last = path
        found: Any = described
        for part in parents:
            found = found[part]
        found[last] = value

    return change


NAN, INF = math.nan, math.inf
DEEP: Any = []
for _ in range(200):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("thresholds", value=[NAN, 0.5]), r"thresholds\[0\] nan is not a finite number"),
        (put("thresholds", value=[0.5, INF]), r"thresholds\[1\] inf is not a finite number"),
        (put("thresholds", value=[0.5, 1.01]), "thresholds 1.01: choose 0 to 1"),
        (put("thresholds", value=[-0.1, 0.5]), "thresholds -0.1: choose 0 to 1"),
        (put("thresholds", value=[0.5]), "thresholds: 1 found, but 2 needed"),
        (put("thresholds", value=["0.5", 0.5]), r"thresholds\[0\] '0.5' is not a finite number"),
        (put("thresholds", value=0.5), "thresholds 0.5 is not a list"),
        (put("preprocessing", "offset", 0, value=NAN), r"preprocessing.offset\[0\] nan"),
        (put("preprocessing", "offset", 0, value=1e39), "offset 1e[+]39: choose -3.4e[+]38"),
        (put("preprocessing", "offset", 0, value=1e30), "sample 0 after preprocessing -.*: choose"),
        (put("preprocessing", "offset", value=[1.0] * 2), "has 2 offsets and 3 scales"),
        (put("preprocessing", "scale", 2, value=INF), r"preprocessing.scale\[2\] inf"),
        (put("preprocessing", "scale", 2, value=0), "preprocessing scale 0: choose 1.2e-38"),
        (put("preprocessing", "scale", 2, value=1e-46), "preprocessing scale 1e-46"),
        (put("preprocessing", "scale", 2, value=1e-30), "sample 0 after preprocessing -.*: choose"),
        (put("preprocessing", "limits", value=[NAN, NAN]), r"preprocessing.limits\[0\] nan"),
        (put("preprocessing", "limits", value=[2.0, -2.0]), "limits 2.0 and -2.0: the second"),
        (
            put("preprocessing", "limits", value=[1.0]),
            "limits of the preprocessing: 1 found, but 2 needed",
        ),
        (put("preprocessing", "limits", value=[1e30, 1e31]), "preprocessing limits 1e[+]30"),
        (put("preprocessing", "dtype", value="int32"), "dtype int32: choose one of uint8, uint16"),
        (put("preprocessing", value=[]), r"preprocessing \[\] is not an object"),
        (
            put("preprocessing", value={"dtype": "uint8", "offset": [1], "scale": [1]}),
            "preprocessing.limits is missing",
        ),
        (put("classes", 0, "id", value=-5), "class id -5: choose 0 to 2147483647"),
        (put("classes", 0, "id", value=2**40), "class id 1099511627776: choose 0 to 2147483647"),
        (put("classes", 0, "id", value=1.0), r"classes\[0\].id 1.0 is not a whole number"),
        (put("classes", 0, "id", value=True), r"classes\[0\].id True is not a whole number"),
        (put("classes", 1, "id", value=1), "1 is given to 2 classes: ids and names must differ"),
        (
            put("classes", 1, "name", value="cell"),
            "'cell' is given to 2 classes: ids and names must",
        ),
        (put("classes", 1, "name", value=""), r"classes\[1\].name '' is not a text of 1 to 256"),
        (put("classes", 1, "name", value="\x1b]0;x\x07"), r"classes\[1\].name '\\x1b\]0;x\\x07'"),
        (put("classes", 1, "name", value="\ud800"), r"classes\[1\].name '\\ud800'"),
        (put("classes", value=[]), "thresholds: 2 found, but 0 needed"),
        (put("classes", value={"a": 1}), "classes .* is not a list"),
        (put("network", "in_channels", value=2), "preprocessing: 3 found, but 2 needed"),
        (put("network", "in_channels", value=3.0), "network.in_channels 3.0 is not a whole"),
        (put("network", "depth", value=2.0), "network.depth 2.0 is not a whole number"),
        (put("network", "depth", value=8), "depth 8: choose 1 to 7"),
        (put("network", "base_channels", value=2**30), "base_channels 1073741824: choose 1 to"),
        (put("network", "base_channels", value=10**400), "network.base_channels 10+.* is not a"),
        (put("network", "classes", value=3), "filters of the network: 3 found, but 2 needed"),
        (put("network", "padding", value=["same"]), r"network.padding \['same'\] is not a text"),
        (put("network", "padding", value="reflect"), "padding reflect: choose same or valid"),
        (put("network", "depth", value=1), "do not fit the network"),
        (put("input_channels", value=["a"]), "input_channels: 1 given, but the network takes 3"),
        (put("input_channels", value=[]), "input_channels: 0 given, but the network takes 3"),
        (put("input_channels", value=None), "input_channels None is not a list"),
        (put("input_channels", value={"a": 1}), "input_channels .* is not a list"),
        (put("input_channels", value="RGB"), "input_channels 'RGB' is not a list"),
        (put("input_channels", value=["a", "b", 2]), r"input_channels\[2\] 2 is not a text"),
        (
            put("input_channels", value=["a", "b", " A "]),
            "input_channels repeats a channel: a, b, a",
        ),
        (put("input_channels", value=["a", "b", "\n"]), r"input_channels\[2\] '\\n' is not a text"),
        (
            put("input_channels", value=["a", "b", "c" * 257]),
            r"input_channels\[2\] 'ccc.* 1 to 256",
        ),
        (put("input_channels", value=[0, 1, 1]), "input_channels repeats a channel: 0, 1, 1"),
        (put("input_channels", value=[0, 1, 64]), "input_channels 64: choose 0 to 63"),
        (put("input_channels", value=[0, 1, True]), r"input_channels\[2\] True is not a whole"),
        (put("input_channels", value=[0, 1, 2.0]), r"input_channels\[2\] 2.0 is not a whole"),
        (put("image_channels", value="5"), "image_channels '5' is not a whole number"),
        (put("image_channels", value=65), "image_channels 65: choose 1 to 64"),
        (put("image_channels", value=None), "image_channels None is not a whole number"),
        (put("training", value=DEEP), "objects and lists are nested more than 64 levels deep"),
        (put("metrics", value=3), "metrics 3 is not an object"),
        (put("versions", value=None), "versions None is not an object"),
    ],
)
def test_a_model_that_cannot_be_right_is_refused_with_field_value_and_limit(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    folder = Path(make_tiny_model(tmp_path))
    described, weights = read_model_files(folder)
    write_model_files(folder, described, weights)
    load_model(Storage.of(str(folder)))
    change(described)
    write_model_files(folder, described, weights)
    with pytest.raises(InputError, match=message) as error:
        load_model(Storage.of(str(folder)))
    assert str(error.value).startswith(f"{folder}/model")
    assert str(error.value).endswith("; restore the model folder, or train again")
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("thresholds", [2.0], "thresholds of markers 2.0: choose 0 to 1"),
        ("thresholds", [0.5, 0.5], "thresholds of markers: 2 found, but 1 needed"),
        ("min_areas", [-5], "min_areas -5: choose 0 to 2147483647"),
        ("min_areas", [2**40], "min_areas 1099511627776: choose 0"),
        ("min_areas", [3.5], r"parting.min_areas\[0\] 3.5 is not a whole number"),
        ("min_areas", [], "min_areas: 0 found, but 1 needed"),
        ("steps", 2**30, "steps 1073741824: choose 0 to 256"),
        ("steps", -3, "steps -3: choose 0 to 256"),
        ("min_scores", [NAN], r"parting.min_scores\[0\] nan is not a finite number"),
        ("min_scores", [1.5], "min_scores 1.5: choose 0 to 1"),
        ("min_scores", [0.1, 0.1], "min_scores: 2 found, but 1 needed"),
    ],
)
def test_a_separation_that_cannot_be_right_is_refused(
    tmp_path: Path, field: str, value: Any, message: str
) -> None:
    save_model(make_separating_model(), Storage.of(str(tmp_path)))
    described, weights = read_model_files(tmp_path)
    described["parting"][field] = value
    write_model_files(tmp_path, described, weights)
    with pytest.raises(InputError, match=message):
        load_model(Storage.of(str(tmp_path)))


@pytest.mark.parametrize(
    ("file", "sha256", "message"),
    [
        ("../../secret.safetensors", "0" * 64, "weights.file '../../secret.safetensors' is not"),
        ("model-0000000000000000.safetensors", "0" * 64, "no model here"),
        ("model-0000000000000000.safetensors", "A" * 64, "is not 64 hexadecimal digits"),
        ("model.safetensors", "0" * 16, "is not 64 hexadecimal digits"),
    ],
)
def test_weights_are_looked_for_only_under_the_name_that_their_digest_gives(
    tmp_path: Path, file: str, sha256: str, message: str
) -> None:
    save_model(make_model(), Storage.of(str(tmp_path)))
    text = (tmp_path / "model.json").read_text()
    (weights,) = tmp_path.glob("*.safetensors")
    found = weights.name[len("model-") : -len(".safetensors")]
    text = text.replace(weights.name, file)
    (tmp_path / "model.json").write_text(
        "\n".join(
            f'"sha256": "{sha256}"' if f'"sha256": "{found}' in line else line
            for line in text.splitlines()
        )
    )
    with pytest.raises(InputError, match=message):
        load_model(Storage.of(str(tmp_path)))


@pytest.mark.parametrize("value", [NAN, INF])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    network = UNet(UNetConfig(1, 1, 2, 1))
    save_model(make_model(), Storage.of(str(tmp_path)))
    described, _ = read_model_files(tmp_path)
    with torch.no_grad():
        network.head.bias[0] = value
    write_model_files(tmp_path, described, state_bytes(network))
    with pytest.raises(InputError, match=f"tensor head.bias holds {value}; weights must be finite"):
        load_model(Storage.of(str(tmp_path)))
    with pytest.raises(InputError, match="head.bias"):
        save_model(replace(make_model(), weights=state_bytes(network)), Storage.of(str(tmp_path)))


HUGE = """
import json, resource, sys
import torch
from pathlib import Path
from tests.builders import read_model_files, write_model_files
from unet_ray.errors import InputError
from unet_ray.network.model_folder import load_model
from unet_ray.network.config import UNetConfig
from unet_ray.network.unet import UNet
from unet_ray.storage.storage import Storage

folder, base_channels, depth, has_header = Path(sys.argv[1]), *map(int, sys.argv[2:])
described, weights = read_model_files(folder)
described["network"] |= {"base_channels": base_channels, "depth": depth}
if has_header:
    with torch.device("meta"):
        state = UNet(UNetConfig(3, 2, base_channels, depth)).state_dict()
    header, end = {}, 0
    for name, tensor in state.items():
        kind = "F32" if tensor.is_floating_point() else "I64"
        offsets = [end, end := end + tensor.nbytes]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": offsets}
    text = json.dumps(header).encode()
    weights = len(text).to_bytes(8, "little") + text
write_model_files(folder, described, weights)
if has_header:
    (file,) = folder.glob("*.safetensors")
    with file.open("r+b") as opened:
        opened.truncate(len(weights) + end)
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 2**29
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    load_model(Storage.of(str(folder)))
except InputError as error:
    print(error)
assert "torch._dynamo" not in sys.modules  # torch's compiler, which takes a second to load
"""


@pytest.mark.parametrize(
    ("base_channels", "depth", "has_header", "message"),
    [
        (1024, 7, 0, "do not fit the network"),  # 2 TB
        (1024, 2, 1, "the weights do not fit into memory"),  # a file with a hole of 2 GB
    ],
)
def test_no_memory_is_taken_for_a_network_that_the_weights_do_not_fill(
    tmp_path: Path, base_channels: int, depth: int, has_header: int, message: str
) -> None:
    """The child may take half a gigabyte."""
    folder = make_tiny_model(tmp_path)
    command = [sys.executable, "-c", HUGE, folder, *map(str, (base_channels, depth, has_header))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert message in done.stdout


# --- replacement


class _KilledError(BaseException):
    """The process ends here; nothing catches it."""


@dataclass(frozen=True)
class DyingStorage(Storage):
    """A folder whose process dies right before its n-th change."""

    changes_left: list[None] = field(default_factory=list, compare=False)

    def write(self, path: str, data: bytes, may_write: Callable[[], None] = lambda: None) -> None:
        self._spend()
        super().write(path, data, may_write)

    def delete(self, path: str) -> None:
        self._spend()
        super().delete(path)

    def _spend(self) -> None:
        if not self.changes_left:
            raise _KilledError
        self.changes_left.pop()


def place_old_model(folder: Storage) -> Model:
    """Copy a model folder of version 0.1."""
    for file in (OLD_MODELS / "plain").iterdir():
        folder.write(file.name, file.read_bytes())
    return load_model(folder)


def place_model(folder: Storage) -> Model:
    model = make_separating_model()
    save_model(model, folder)
    return model


@pytest.mark.parametrize("place", [place_old_model, place_model])
def test_a_crash_at_any_change_leaves_the_old_or_the_new_model(
    root: str, place: Callable[[Storage], Model]
) -> None:
    new = make_model()
    found = []
    for changes in range(3):
        folder = Storage.of(f"{root}/{changes}")
        old = place(folder)
        dying = DyingStorage(folder.uri, folder.options, changes_left=[None] * changes)
        with pytest.raises(_KilledError):
            save_model(new, dying)
        found.append(load_model(folder) == new)
        assert load_model(folder) in (old, new)
        save_model(new, folder)  # as a training that is run again
        assert load_model(folder) == new
    assert found == [False, False, True]  # before the weights, before model.json, before removing


@pytest.mark.parametrize("place", [place_old_model, place_model])
def test_weights_that_were_replaced_are_removed_and_nothing_else(
    root: str, place: Callable[[Storage], Model]
) -> None:
    folder = Storage.of(root).join("m")
    place(folder)
    others = {"notes.txt", "model-0123456789abcdef.safetensors", "best.safetensors"}
    for name in others:
        folder.write(name, b"somebody's")
    new = make_model()
    save_model(new, folder)
    weights = f"model-{new.weights_sha256[:16]}.safetensors"
    assert files_of(folder) == {"model.json", weights, *others}
    stricter = Postprocessing((ObjectRule(0.75),))
    save_model(replace(new, postprocessing=stricter), folder)  # with the same weights
    assert files_of(folder) == {"model.json", weights, *others}
    assert load_model(folder).postprocessing == stricter


@pytest.mark.parametrize("content", [b"{", b'{"format": 9}', b'{"format": 3}'])
def test_a_description_that_names_no_weights_is_replaced_and_no_file_removed(
    root: str, content: bytes
) -> None:
    folder = Storage.of(root).join("m")
    folder.write("model.json", content)
    folder.write("model.safetensors", b"somebody's")
    save_model(make_model(), folder)
    load_model(folder)
    assert folder.read("model.safetensors") == b"somebody's"


@dataclass(frozen=True)
class ReplacedStorage(Storage):
    """A folder whose model is replaced between the reads of `model.json` and of the weights."""

    replace: list[Callable[[], None]] = field(default_factory=list, compare=False)

    def join(self, path: str) -> Storage:
        joined = super().join(path)
        return ReplacedStorage(joined.uri, joined.options, replace=self.replace)

    def read_content(self, offset: int = 0, size: int | None = None) -> Content:
        if self.replace:
            self.replace.pop()()
        return super().read_content(offset, size)


@pytest.mark.parametrize("place", [place_old_model, place_model])
def test_a_reader_that_races_with_a_replacement_gets_the_new_model(
    root: str, place: Callable[[Storage], Model]
) -> None:
    folder, new = Storage.of(root).join("m"), make_model()
    place(folder)
    racing = ReplacedStorage(folder.uri, folder.options, replace=[lambda: save_model(new, folder)])
    assert load_model(racing) == new


def test_weights_that_cannot_be_removed_are_named(
    root: str, caplog: pytest.LogCaptureFixture
) -> None:
    @dataclass(frozen=True)
    class KeepingStorage(Storage):
        def delete(self, path: str) -> None:
            raise PermissionError("no deletes here")

    folder = Storage.of(root).join("m")
    place_old_model(folder)
    with caplog.at_level(logging.WARNING, "unet_ray"):
        save_model(make_model(), KeepingStorage(folder.uri, folder.options))
    assert f"{folder.uri}/model.safetensors: the weights of the replaced model" in caplog.text
    load_model(folder)


# --- earlier versions


@pytest.mark.parametrize("name", ["plain", "valid", "separated"])
def test_a_model_of_0_1_predicts_the_same_after_it_is_written_anew(
    tmp_path: Path, name: str
) -> None:
    old = load_model(Storage.of(str(OLD_MODELS / name)))
    save_model(old, Storage.of(str(tmp_path)))
    new = load_model(Storage.of(str(tmp_path)))
    assert new.digest == old.digest
    shape = (40, 50, old.network.in_channels)
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    one, two = (
        Predictor(model.build(), model.preprocessing, PredictorConfig()).predict([image])[0]
        for model in (old, new)
    )
    assert (one == two).all()
