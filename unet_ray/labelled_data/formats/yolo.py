"""YOLO label files: a text file per image, and the files that name the classes."""

from __future__ import annotations

import codecs
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from io import BufferedReader, TextIOWrapper
from pathlib import PurePosixPath
from reprlib import repr as shorten

import yaml

from unet_ray.flags import MAX_CLASS_ID
from unet_ray.labelled_data.annotations import LabelError, Polygon
from unet_ray.labelled_data.annotations_builder import AnnotationsBuilder
from unet_ray.labelled_data.formats.label_format import LabelFormat
from unet_ray.labelled_data.formats.parts.shapes import (
    FEW_POINTS,
    NO_OUTLINE,
    drop_suffix,
    is_text,
    outline_box,
)

CLASS_FILES = (
    "data.yaml",
    "data.yml",
    "dataset.yaml",
    "dataset.yml",
    "classes.txt",
    "obj.names",
    "_darknet.labels",
    "classification.txt",
    "class_names.txt",
    "predefined_classes.txt",
)
"""Files that name the classes, beside or above the label files, the most trusted first."""
_LONGEST_LINE = 2**24
"""Longest line (characters): a polygon of half a million corners."""
_LONGEST_YAML = 2**20
"""Largest YAML (bytes); a thousand names take 20 KB."""
_NULLS = ("", "~", "null", "Null", "NULL")
"""Texts that are null in YAML unless they are quoted."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_IMAGE_PATH = re.compile(r"\.(jpe?g|jpe|png|tiff?|bmp|webp|gif|jp2|avif)$", re.IGNORECASE)
_FORM = "a line is a class number and the corners x y x y …, as shares of width and height"
_FARTHEST = 1.0
"""Largest distance of a coordinate from the image, as a share of its size."""
_SLACK = 0.01
"""Largest distance from the image that rounding can cause, as a share of its size."""
_BOX_SLACK = 0.05
"""Largest distance by which boxes may leave the image, as a share of its size."""


@dataclass(frozen=True)
class _Line:
    """A line that describes an object."""

    where: str
    number: int
    """Number of the class."""
    values: array[float]
    """The numbers that follow it."""

    @property
    def is_pose(self) -> bool:
        """True for a box with keypoints, each of which has a visibility of 0, 1 or 2."""
        keypoints = self.values[4:]
        if not keypoints or len(keypoints) % 3:
            return False
        return self.box_fits and all(seen in (0, 1, 2) for seen in keypoints[2::3])

    @property
    def box_fits(self) -> bool:
        """True if the first four numbers can be centre, width and height of a box."""
        x, y, width, height = self.values[:4]
        reach_x = abs(x - 0.5) + width / 2
        reach_y = abs(y - 0.5) + height / 2
        return width > 0 and height > 0 and max(reach_x, reach_y) <= 0.5 + _BOX_SLACK


def _recognises(head: bytes) -> bool:
    return head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" not in head


def _parse(file: BufferedReader, name: str, builder: AnnotationsBuilder) -> None:
    if PurePosixPath(name).name.lower() in CLASS_FILES:
        _parse_names(file, name, builder)
        return
    lines: list[_Line] = []
    seen: set[tuple[int, bytes]] = set()
    for number, text in _read_lines(file):
        text = text.partition("#")[0]
        fields = [field for field in re.split(r"[ \t]+", text) if field]
        if not fields:
            continue
        if not lines and _holds_no_labels(name, text.strip()):
            builder.left_out["text files that hold no labels"] += 1
            return
        line = _read_line(f"line {number}", fields)
        key = line.number, line.values.tobytes()
        if key in seen:
            builder.left_out["repeated lines"] += 1
            continue
        seen.add(key)
        lines.append(line)
    stem = drop_suffix(name)
    image = builder.add_image(stem, places=_list_places(stem), is_normalised=True)
    rows: dict[int, int] = {}
    for line in _drop_extras(lines, builder):
        if line.number not in rows:
            rows[line.number] = builder.add_category(str(line.number), line.number)
        _add_object(builder, image, rows[line.number], line)


def _read_lines(file: BufferedReader) -> Iterator[tuple[int, str]]:
    """Yield the number, from 1, and the text of each line of a file, without byte order mark."""
    is_wide = file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    text = TextIOWrapper(file, "utf-16" if is_wide else "utf-8-sig")
    number = 0
    try:
        while line := text.readline(_LONGEST_LINE):
            number += 1
            if len(line) == _LONGEST_LINE:
                raise LabelError(f"line {number} has more than {_LONGEST_LINE} characters")
            yield number, line.rstrip("\n")
    except UnicodeDecodeError:
        raise LabelError(f"not UTF-8 text after line {number}; save it as UTF-8") from None
    finally:
        text.detach()


def _holds_no_labels(name: str, first: str) -> bool:
    """Tell whether a file is one that exports add to labels: a readme, a list of images."""
    if _IMAGE_PATH.search(first):
        return True
    is_readme = PurePosixPath(name).name.lower().startswith("readme")
    return is_readme and not first[0].isdigit()


def _list_places(stem: str) -> list[str]:
    """Return where the image may be: YOLO looks for `labels/…` in `images/…`."""
    parts = stem.split("/")
    for place in reversed(range(len(parts) - 1)):
        if parts[place] == "labels":
            parts[place] = "images"
            return ["/".join(parts)]
    return []


def _read_line(where: str, fields: list[str]) -> _Line:
    for place, field in enumerate(fields):
        if not _NUMBER.fullmatch(field):
            remedy = "; write decimal points, and blanks between numbers" if "," in field else ""
            what = "a coordinate" if place else "the class"
            raise LabelError(
                f"{where}: {what} is {shorten(field)}, which is not a number{remedy}; {_FORM}"
            )
    number = float(fields[0])
    values = array("d", map(float, fields[1:]))
    if not (0 <= number <= MAX_CLASS_ID and number.is_integer()):
        raise LabelError(f"{where}: the class is {fields[0]}; give a whole number from 0; {_FORM}")
    if len(values) < 2:
        raise LabelError(f"{where}: no outline follows the class; {_FORM}")
    return _Line(where, int(number), values)


def _drop_extras(lines: list[_Line], builder: AnnotationsBuilder) -> Iterator[_Line]:
    """Yield the lines without keypoints, confidences and track numbers, so that pairs remain.

    Raises:
        LabelError: Only some lines have an odd count of numbers, so one may be cut off.
    """
    plain = [line for line in lines if not line.is_pose]
    odd = [line for line in plain if len(line.values) % 2]
    even = [line for line in plain if len(line.values) % 2 == 0]
    if odd and even:
        raise LabelError(
            f"{odd[0].where} has {len(odd[0].values)} numbers after the class, {even[0].where} has "
            f"{len(even[0].values)}: a number is missing, or the last one is a confidence; "
            "complete the line, or remove the confidence"
        )
    for line in lines:
        values = line.values
        if line.is_pose:
            builder.left_out["keypoints"] += len(values[4:]) // 3
            values = values[:4]
        elif len(values) % 2:
            if len(values) < 5:
                raise LabelError(f"{line.where} has {len(values)} numbers after the class; {_FORM}")
            last = values[-1]
            if 0 <= last <= 1:
                builder.left_out["confidences"] += 1
            elif last > 1 and last.is_integer() and max(values[:-1]) <= 1 + _SLACK:
                builder.left_out["numbers of tracks"] += 1
            else:
                raise LabelError(
                    f"{line.where} has {len(values)} numbers after the class, which are not pairs, "
                    f"and the last, {last:g}, is not a confidence; {_FORM}"
                )
            values = values[:-1]
        yield _Line(line.where, line.number, values)


def _add_object(builder: AnnotationsBuilder, image: int, category: int, line: _Line) -> None:
    values = line.values
    low, high = min(values), max(values)
    if low < -_FARTHEST or high > 1 + _FARTHEST:
        farthest = high if high > 1 - low else low
        raise LabelError(
            f"{line.where} has the coordinate {farthest:g}, perhaps in pixels or per cent; give "
            "shares of width and height, from 0 to 1"
        )
    if len(values) == 2:
        builder.left_out[FEW_POINTS] += 1
        return
    if len(values) == 4:
        box = _read_box(line)
        builder.left_out[NO_OUTLINE if box else "boxes without area"] += 1
        if box:  # not all of its pixels belong to the object
            builder.add_object(image, category, [box], label=line.where, is_ignored=True)
        return
    if low < -_SLACK or high > 1 + _SLACK:
        builder.left_out["outlines that leave the image: cut off at its edge"] += 1
    if len(values) == 8 and _is_box(values):
        builder.left_out["outlines that are boxes, upright or turned: taken as outlines"] += 1
    builder.add_object(image, category, [Polygon(values)], label=line.where)


def _read_box(line: _Line) -> Polygon | None:
    """Return the outline of a box; None for one without area."""
    x, y, width, height = line.values
    if width == 0 or height == 0:
        return None
    if not line.box_fits:
        raise LabelError(
            f"{line.where} has four numbers: as centre, width and height, they are a box that "
            "leaves the image, and two corners are not an outline; give x y width height, or three "
            "corners"
        )
    return outline_box(
        left=x - width / 2, top=y - height / 2, right=x + width / 2, bottom=y + height / 2
    )


def _is_box(corners: array[float]) -> bool:
    """Tell whether opposite sides of an outline of four corners are parallel and equally long."""
    x1, y1, x2, y2, x3, y3, x4, y4 = corners
    # both diagonals have the same centre
    is_same_x = abs(x1 + x3 - x2 - x4) < 1e-4
    is_same_y = abs(y1 + y3 - y2 - y4) < 1e-4
    return is_same_x and is_same_y


def _parse_names(file: BufferedReader, name: str, builder: AnnotationsBuilder) -> None:
    if PurePosixPath(name).suffix.lower() in (".yaml", ".yml"):
        names = _read_yaml_names(file, builder)
    else:
        names = dict(enumerate(_list_names(file)))
    for number, text in names.items():
        builder.add_category(text, number)


def _list_names(file: BufferedReader) -> Iterator[str]:
    """Yield the names of a file with one on each line."""
    first_blank = 0
    for number, line in _read_lines(file):
        text = line.strip()
        if not text:
            first_blank = first_blank or number
            continue
        if first_blank:
            raise LabelError(
                f"line {first_blank} is blank, so the numbers of the classes after it can be "
                "read in two ways; remove the line, or give the class a name"
            )
        yield text


class _NodeLoader(yaml.BaseLoader):
    """Composes YAML without aliases, which can expand a short text to a huge one."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the next node."""
        if self.check_event(yaml.AliasEvent):
            line = self.peek_event().start_mark.line + 1
            raise LabelError(f"line {line}: aliases are not read; write out what it stands for")
        return super().compose_node(parent, index)


def _read_yaml_names(file: BufferedReader, builder: AnnotationsBuilder) -> dict[int, str]:
    """Return number → name of the classes of a data.yaml."""
    root = _compose_yaml(file)
    if not isinstance(root, yaml.MappingNode):
        raise LabelError("not a data.yaml: it does not hold keys and values")
    values = {key.value: value for key, value in root.value if isinstance(key, yaml.ScalarNode)}
    if "kpt_shape" in values:
        raise LabelError(
            f"line {_line_of(values['kpt_shape'])}: kpt_shape means that the label files hold "
            "keypoints, not outlines; export segmentation"
        )
    names, count = values.get("names"), values.get("nc")
    if names is None and count is None:
        raise LabelError("not a data.yaml: it has neither names nor nc")
    if isinstance(names, yaml.ScalarNode) and not names.style and names.value in _NULLS:
        names = None
    if names is None:
        builder.notes.append("data.yaml has no names: classes are called by their numbers")
        return {}
    found = _read_names(names)
    stated = count.value if isinstance(count, yaml.ScalarNode) else None
    if stated and _NUMBER.fullmatch(stated) and float(stated) != len(found):
        raise LabelError(
            f"line {_line_of(count)}: nc is {shorten(stated)}, but there are {len(found)} names; "
            "correct one of them"
        )
    return found


def _compose_yaml(file: BufferedReader) -> yaml.Node | None:
    data = file.read(_LONGEST_YAML + 1)
    if len(data) > _LONGEST_YAML:
        raise LabelError(f"the YAML has more than {_LONGEST_YAML} bytes, the limit of a data.yaml")
    try:
        return yaml.compose(data.decode("utf-8-sig"), _NodeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise LabelError(f"{line}not valid YAML: {error.problem or error.context}") from None
    except RecursionError:
        raise LabelError("not a data.yaml: it is nested too deeply") from None
    except UnicodeDecodeError:
        raise LabelError("not UTF-8 text; save it as UTF-8") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        if isinstance(error, LabelError):
            raise
        raise LabelError(f"not valid YAML: {str(error).splitlines()[0]}") from None


def _read_names(node: yaml.Node) -> dict[int, str]:
    """Return number → name of a list of names, or of a mapping from numbers to names."""
    if isinstance(node, yaml.SequenceNode):
        return {number: _read_name(each) for number, each in enumerate(node.value)}
    if not isinstance(node, yaml.MappingNode):
        raise LabelError(f"line {_line_of(node)}: names is {shorten(node.value)}; give a list")
    found: dict[int, str] = {}
    for key, value in node.value:
        number = key.value
        is_number = isinstance(number, str) and re.fullmatch(r"\d{1,10}", number, re.ASCII)
        if not is_number or int(number) > MAX_CLASS_ID or int(number) in found:
            raise LabelError(
                f"line {_line_of(key)}: a class has the number {shorten(number)}; give each class "
                "a whole number of its own"
            )
        found[int(number)] = _read_name(value)
    return found


def _read_name(node: yaml.Node) -> str:
    name = node.value if isinstance(node, yaml.ScalarNode) else None
    if not is_text(name):
        raise LabelError(f"line {_line_of(node)}: the name of a class is not text")
    return str(name)


def _line_of(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


FORMAT = LabelFormat("YOLO text", (".txt",), _recognises, _parse, is_per_image=True)
CLASSES_FORMAT = LabelFormat(
    "YOLO class names",
    (".yaml", ".yml", ".names", ".labels"),
    _recognises,
    _parse_names,
    prepare=partial(yaml.compose, "names: [a, 'b', {c: \"d\"}]", _NodeLoader),
)
