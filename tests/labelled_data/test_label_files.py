"""Label files are parsed in a confined child; one that is broken costs one line or one image."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import encode_pillow
from unet_ray.errors import InputError
from unet_ray.labelled_data import label_files
from unet_ray.labelled_data.find_labelled import find_labelled
from unet_ray.labelled_data.label_files import LabelFile, read_label_file, read_label_folder
from unet_ray.labelled_data.labelled_set import LabelOptions
from unet_ray.labelled_data.readers import FileReader
from unet_ray.storage.roots import Roots
from unet_ray.storage.storage import Storage

BOX = [1, 1, 4, 1, 4, 3, 1, 3]


def make_coco(*names: str) -> bytes:
    """Return a COCO file with one object in each image."""
    document: dict[str, Any] = {
        "categories": [{"id": 1, "name": "cell"}],
        "images": [{"id": n, "file_name": name} for n, name in enumerate(names)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "segmentation": [BOX]}
            for n in range(len(names))
        ],
    }
    return json.dumps(document).encode()


def read(path: Path) -> LabelFile:
    return read_label_file(Storage.of(str(path)), {}, f"--masks {path}")


def write_images(folder: Path, *names: str) -> None:
    for name in names:
        data = encode_pillow(np.zeros((8, 8, 3), np.uint8))
        Storage.of(str(folder)).write(f"images/{name}", data)


def test_a_label_file_is_read_with_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_bytes(make_coco("a.png", "b.png")[:-1] + b" " * 9_000_000 + b"}")  # several pieces
    found = read(path)
    assert found.annotations.images["name"].to_pylist() == ["a.png", "b.png"]
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.entry.path, found.entry.size) == ("labels.json", path.stat().st_size)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is in none of the supported formats: "),
        (b"<annotations/>", "it is in none of the supported formats: "),
        (make_coco("a.png")[:-2], r"line 1, column \d+: "),
        (b'{"images": [],\n"annotations": [}', "line 2, column 17: "),
        (
            make_coco("a.png").replace(b'"a.png"', b"7"),
            r"images\[0\] has the file_name 7; give text",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_with_the_place(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "labels.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"^--masks {path}: {message}") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"labels.json: there is no such file, or no permission to read it"
    ):
        read(tmp_path / "labels.json")


def test_a_file_that_takes_too_much_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "labels.json"
    path.write_bytes(make_coco("a.png")[:-2] + b', {"x": [' + b"[1]," * 20_000_000)
    monkeypatch.setattr(label_files, "_MEMORY_LIMIT_BYTES", 2**31)
    with pytest.raises(InputError, match="labels.json: decoding needs more than 2.0 GiB"):
        read(path)
    path.write_bytes(make_coco("a.png"))
    read(path)


def test_nothing_that_a_child_replies_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "labels.json"
    path.write_bytes(make_coco("a.png"))
    for reply in (b"", b"x" * 100, bytes(1000)):
        monkeypatch.setattr(label_files.Decoder, "call", lambda *_, reply=reply: reply)
        with pytest.raises(
            InputError, match="labels.json: the reply of its parser is not annotations"
        ):
            read(path)


def test_a_file_that_shrinks_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "labels.json"
    path.write_bytes(make_coco("a.png"))
    entry = Storage.of(str(path)).entry()
    path.write_bytes(make_coco("a.png")[:20])
    monkeypatch.setattr(Storage, "entry", lambda _: entry)
    with pytest.raises(InputError, match="the file became shorter while it was read"):
        read(path)


def test_a_broken_file_of_a_folder_costs_its_image(tmp_path: Path) -> None:
    names = [f"{n}.png" for n in range(6)]
    write_images(tmp_path, *names)
    labels = Storage.of(f"{tmp_path}/labels")
    for n, name in enumerate(names):
        content = make_coco(name)
        labels.write(f"{n}.json", content[:-5] if n == 3 else content)
    files = read_label_folder(labels, labels.entries(), {})
    assert [len(file.sha256) for file in files] == [64, 64, 64, 0, 64, 64]
    assert files[3].annotations.images["error"].to_pylist()[0].startswith("3.json: line 1, column")
    found = find_labelled(f"{tmp_path}/images", f"{tmp_path}/labels", LabelOptions())
    assert found.names == tuple(names)
    reader = FileReader(found.access, found.items)
    for n in (0, 1, 2, 4, 5):
        assert (reader.read(n)[1][0] > 0).sum() == 6
    with pytest.raises(Exception, match="unreadable: 3.json: line 1, column"):
        reader.read(3)
    hashes = [hashlib.sha256(make_coco(name)).hexdigest() for name in names]
    assert [item.label_sha256 for item in found.items][:3] == hashes[:3]


def test_names_that_lead_out_of_the_images_open_nothing(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    (tmp_path / "secret.png").write_bytes(encode_pillow(np.zeros((8, 8, 3), np.uint8)))
    names = ["../secret.png", f"{tmp_path}/secret.png", f"file://{tmp_path}/secret.png", "a.png"]
    path = tmp_path / "labels.json"
    path.write_bytes(make_coco(*names))
    found = find_labelled(f"{tmp_path}/images", str(path), LabelOptions())
    assert [item.image.uri for item in found.items] == [f"{tmp_path}/images/a.png"]
    assert found.orphans == tuple(f"{name}: no image has its name" for name in names[:3])


@pytest.mark.parametrize("folder", [".", "labels"])
@pytest.mark.parametrize("name", ["classes.txt", "label_colors.txt"])
def test_names_of_classes_are_not_read_through_a_link_that_leads_out(
    tmp_path: Path, folder: str, name: str
) -> None:
    """They become names of classes, which messages and models show."""
    images, labels = tmp_path / "set" / "images", tmp_path / "set" / "labels"
    for place in (images, labels):
        place.mkdir(parents=True)
    (tmp_path / "secret").write_text("255 0 0 password\n")
    (tmp_path / "set" / folder / name).symlink_to(tmp_path / "secret")
    for stem in ("a", "b"):
        (images / f"{stem}.png").write_bytes(encode_pillow(np.zeros((8, 8, 3), np.uint8)))
        if name == "classes.txt":
            (labels / f"{stem}.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
        else:
            red = np.full((8, 8, 3), [255, 0, 0], np.uint8)
            (labels / f"{stem}.png").write_bytes(encode_pillow(red))
    with pytest.raises(InputError, match=rf"{name}: .*its real path is {tmp_path}/secret"):
        find_labelled(str(images), str(labels), LabelOptions())
    followed = find_labelled(str(images), str(labels), LabelOptions(roots=Roots(None, True)))
    assert "password" in followed.classes[0].name


def test_a_link_to_nothing_among_the_labels_is_one_line(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    (tmp_path / "data.yaml").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="data.yaml: cannot be accessed: .* a link to nothing"):
        find_labelled(f"{tmp_path}/images", f"{tmp_path}/labels", LabelOptions())


def test_one_label_file_in_a_folder_has_its_names_of_classes_there(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    (tmp_path / "labels" / "classes.txt").write_text("leaf\n")
    found = find_labelled(f"{tmp_path}/images", f"{tmp_path}/labels", LabelOptions())
    assert [spec.name for spec in found.classes] == ["leaf"]
