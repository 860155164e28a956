"""Sound directories of models and adapters, and ways in which a stranger's may not be so."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from tiny import VOCABULARY, save_tiny_tokenizer
from tiny_model import tiny_llama

from speakeasy.weights.adapters import (
    Adapter,
    draw_lora,
    read_adapter,
    select_layers,
    target_names,
    write_mlx,
    write_peft,
)
from speakeasy.weights.checkpoint import (
    check_directory,
    fingerprint,
    linear_layers,
    model_shape,
    tensor_index,
)
from speakeasy.weights.safetensors_io import read_tensor

LAYERS = 2

ODD = (
    None, True, -1, 0, 10**12, 10**400, 1e308, float("nan"), float("inf"), "", "\ud800",
    "\n\x1b[31m", "../../x", "x" * 5000, [], [[]], {}, {"a": 1}, [1, "a"], "(a+)+$", 3.5,
)  # fmt: skip


def make_sound(root: Path) -> Path:
    """A model in one file, the same in two, and an adapter of it in either format."""
    model = tiny_llama(root / "model", vocab_size=VOCABULARY, layers=LAYERS)
    save_tiny_tokenizer(model)
    shutil.copytree(model, root / "sharded")
    tensors = load_file(model / "model.safetensors")
    (root / "sharded" / "model.safetensors").unlink()
    halves = {f"model-{n}.safetensors": sorted(tensors)[n::2] for n in (0, 1)}
    for file, names in halves.items():
        save_file({name: tensors[name] for name in names}, root / "sharded" / file)
    write(
        root / "sharded" / "model.safetensors.index.json",
        {"weight_map": {name: file for file, names in halves.items() for name in names}},
    )
    layers = linear_layers(model)
    chosen = select_layers(layers, "attention")
    generator = np.random.default_rng(0)
    drawn = draw_lora(chosen, 4, 0)
    adapter = Adapter(
        tensors={n: t + generator.standard_normal(t.shape).astype("f4") for n, t in drawn.items()},
        r=4,
        alpha=16.0,
        rslora=False,
        dropout=0.0,
        targets=target_names(layers, chosen),
        base=str(model),
        base_fingerprint=fingerprint(model),
    )
    write_peft(adapter, root / "peft")
    write_mlx(adapter, root / "mlx", LAYERS)
    return root


@cache
def meaning_of_sound(directory: Path) -> Any:
    return meaning(directory)


def meaning(directory: Path) -> Any:
    """Everything that speakeasy takes from a directory, to be compared."""
    if (directory / "config.json").exists() or not (directory / "adapter_config.json").exists():
        check_directory(directory)
        tensors = tensor_index(directory)
        shapes = {name: (info.dtype, info.shape) for name, info in tensors.items()}
        values = {name: read_tensor(info).tobytes() for name, info in tensors.items()}
        return shapes, values, model_shape(directory), linear_layers(directory)
    adapter = read_adapter(directory)
    tensors = {name: (t.shape, t.tobytes()) for name, t in adapter.tensors.items()}
    scales = {module: adapter.lora(module).scale for module in adapter.modules}
    return tensors, scales, set(adapter.modules)


# --- one thing changed -----------------------------------------------------------------------


def write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value), encoding="utf-8")


def weights_of(directory: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(directory.glob("*.safetensors")))


def parts(file: Path) -> tuple[dict[str, Any], bytes]:
    """A safetensors file's header and its data."""
    raw = file.read_bytes()
    stop = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:stop]), raw[stop:]


def put(file: Path, header: str, data: bytes) -> None:
    text = header.encode("utf-8", errors="surrogatepass")
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


def truncate(directory: Path, rng: random.Random) -> None:
    file = weights_of(directory, rng)
    raw = file.read_bytes()
    file.write_bytes(raw[: rng.choice([0, 7, 8, rng.randrange(len(raw)), len(raw) - 1])])


def lengthen(directory: Path, rng: random.Random) -> None:
    file = weights_of(directory, rng)
    file.write_bytes(file.read_bytes() + bytes(rng.randrange(1, 100)))


def header_length(directory: Path, rng: random.Random) -> None:
    file = weights_of(directory, rng)
    raw = file.read_bytes()
    true = int.from_bytes(raw[:8], "little")
    length = rng.choice([0, true - 1, true + 1, len(raw), 2**31, 2**63, 2**64 - 1])
    file.write_bytes(length.to_bytes(8, "little") + raw[8:])


def flip_in_header(directory: Path, rng: random.Random) -> None:
    file = weights_of(directory, rng)
    raw = bytearray(file.read_bytes())
    place = rng.randrange(8, 8 + int.from_bytes(raw[:8], "little"))
    raw[place] ^= rng.randrange(1, 256)
    file.write_bytes(raw)


def field(directory: Path, rng: random.Random) -> None:
    """Another dtype, an absurd shape, offsets that overlap, reach out or run backwards."""
    file = weights_of(directory, rng)
    header, data = parts(file)
    name = rng.choice(sorted(header.keys() - {"__metadata__"}))
    entry = header[name]
    start, stop = entry["data_offsets"]
    key, values = rng.choice(
        [
            ("dtype", ("I32", "U8", "F64", "F16", "F8_E4M3", "Q4", 7, ["F32"], {"F32": 1})),
            (
                "shape",
                (
                    [2**62, 2**62, 0], [2**40, 2**40], [-1, -1], [0], [1] * 65, [True], [2.0, 2.0],
                    "", "32", {}, [[2]], [10**4000], None,
                ),
            ),
            (
                "data_offsets",
                (
                    [0, stop], [start, stop + 4], [stop, start], [-4, stop], [start], [], "01",
                    [0, 10**4000], [2**63, 2**63], [start, start], {"0": 1, "1": 2},
                ),
            ),
        ]
    )  # fmt: skip
    entry[key] = rng.choice(values)
    if rng.random() < 0.1:
        del entry[key]
    put(file, json.dumps(header), data)


def header_shape(directory: Path, rng: random.Random) -> None:
    """A header that is no header, or a name in it that is no name."""
    file = weights_of(directory, rng)
    header, data = parts(file)
    name = rng.choice(sorted(header.keys() - {"__metadata__"}))
    text = json.dumps(header)
    odd = json.dumps(rng.choice(ODD))
    twice = json.dumps({name: header[name]})[1:-1]
    put(
        file,
        rng.choice(
            [
                odd,
                "[" * rng.choice([10, 200_000]),
                text[:-1] + f', "x": {odd}}}',
                text[:-1] + f", {twice}}}",
                text[:-1] + f', "__metadata__": {odd}}}' if odd != "null" else "{",
                text.replace(name, rng.choice(["", "a\\nb\\u001b[2J", "\\ud800", "x" * 100_000])),
                text.encode("utf-16").decode("utf-16") + "}",
            ]
        ),
        data,
    )


def swap(directory: Path, rng: random.Random) -> None:
    """Two tensors of different sizes in each other's place."""
    file = weights_of(directory, rng)
    header, data = parts(file)
    names = sorted(header.keys() - {"__metadata__"})
    one = rng.choice(names)
    size = np.prod(header[one]["shape"])
    others = [n for n in names if np.prod(header[n]["shape"]) != size]
    other = rng.choice(others)
    header[one]["data_offsets"], header[other]["data_offsets"] = (
        header[other]["data_offsets"],
        header[one]["data_offsets"],
    )
    put(file, json.dumps(header), data)


def not_finite(directory: Path, rng: random.Random) -> None:
    file = weights_of(directory, rng)
    tensors = load_file(file)
    tensor = tensors[rng.choice(sorted(tensors))]
    tensor.reshape(-1)[rng.randrange(tensor.size)] = rng.choice([np.nan, np.inf, -np.inf])
    save_file(tensors, file, metadata={"format": "pt"})


def reshaped(directory: Path, rng: random.Random) -> None:
    """A sound file whose tensor is another one: longer, flat, of whole numbers, renamed, gone."""
    file = weights_of(directory, rng)
    tensors = load_file(file)
    name = rng.choice(sorted(tensors))
    tensor = tensors.pop(name)
    for new in rng.choice(
        [
            {name: np.concatenate([tensor, tensor])},
            {name: tensor.reshape(-1)[:-1]},
            {name: tensor[None]},
            {name: tensor.astype(np.int32)},
            {name: tensor[:0]},
            {f"{name}.x": tensor},
            {f"../../{name}": tensor},
            {},
        ]
    ).items():
        tensors[new[0]] = np.ascontiguousarray(new[1])
    save_file(tensors, file, metadata={"format": "pt"})


def links(directory: Path, rng: random.Random) -> None:
    """A file of the directory is a link to a file elsewhere, to itself or to nowhere."""
    file = rng.choice(sorted(directory.iterdir()))
    outside = directory.parent / "outside"
    shutil.copyfile(file, outside)
    target = rng.choice([Path("../outside"), outside, Path(file.name), Path("/nowhere/at/all")])
    file.unlink()
    file.symlink_to(target)


def is_another(key: str, value: Any) -> bool:
    """Whether a value is a sound one, with which the adapter or the model is just another."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if key in ("lora_alpha", "scale", "alpha", "max_position_embeddings"):
        return number and abs(value) < 1e30
    return key in ("use_rslora", "rslora") and value is True


def config_value(name: str) -> Callable[[Path, random.Random], None]:
    def change(directory: Path, rng: random.Random) -> None:
        config = json.loads((directory / name).read_text(encoding="utf-8"))
        place, keys = config, [rng.choice(sorted(config))]
        while isinstance(place[keys[-1]], dict) and rng.random() < 0.8:
            place = place[keys[-1]]
            keys.append(rng.choice(sorted(place)))
        place[keys[-1]] = rng.choice([v for v in ODD if not is_another(keys[-1], v)])
        write(directory / name, config)

    return change


def config_text(name: str) -> Callable[[Path, random.Random], None]:
    def change(directory: Path, rng: random.Random) -> None:
        text = rng.choice(["", "{", "[]", "null", '"x"', "NaN", "[" * 200_000, "\udcff", "{}"])
        (directory / name).write_bytes(text.encode("utf-8", errors="surrogateescape"))

    return change


def index_entry(directory: Path, rng: random.Random) -> None:
    file = directory / "model.safetensors.index.json"
    index = json.loads(file.read_text(encoding="utf-8"))
    shards = index["weight_map"]
    name = rng.choice(sorted(shards))
    shards[name] = rng.choice(
        ["../model/model.safetensors", "/etc/passwd", "..", "", ".", "none.safetensors",
         "..\\model.safetensors", "model-0.safetensors\x00", "\ud800", 7, None, "x" * 5000,
         "config.json"]
    )  # fmt: skip
    write(file, index)


def beside(directory: Path, rng: random.Random) -> None:
    """Files that one library would load and another would not."""
    kind = rng.choice(["single", "stray", "adapter", "twice", "code"])
    source = sorted(directory.glob("model*.safetensors"))
    if kind == "single" and len(source) > 1:
        shutil.copyfile(source[0], directory / "model.safetensors")
    elif kind in ("single", "stray"):
        shutil.copyfile(source[0], directory / "model-9.safetensors")
    elif kind == "adapter":
        write(directory / "adapter_config.json", {"base_model_name_or_path": "/somewhere/else"})
    elif kind == "twice":
        both = load_file(source[0]) | load_file(source[-1])
        save_file(both, source[-1], metadata={"format": "pt"})
    else:
        file = rng.choice(["config.json", "tokenizer_config.json"])
        config = json.loads((directory / file).read_text(encoding="utf-8"))
        write(directory / file, config | {"auto_map": {"AutoTokenizer": ["x.X", None]}})


Change = Callable[[Path, random.Random], None]
ANY: tuple[Change, ...] = (
    truncate, lengthen, header_length, flip_in_header, field, field, header_shape, swap, reshaped,
    links,
)  # fmt: skip
ADAPTER: tuple[Change, ...] = (
    *ANY, not_finite, config_value("adapter_config.json"), config_value("adapter_config.json"),
    config_text("adapter_config.json"), config_value("speakeasy.json"),
    config_text("speakeasy.json"),
)  # fmt: skip
MODEL: tuple[Change, ...] = (
    *ANY, config_value("config.json"), config_value("config.json"), config_text("config.json"),
)  # fmt: skip
KINDS: dict[str, tuple[Change, ...]] = {
    "peft": ADAPTER,
    "mlx": ADAPTER,
    "model": (*MODEL, beside),
    "sharded": (*MODEL, index_entry, index_entry, beside),
}
