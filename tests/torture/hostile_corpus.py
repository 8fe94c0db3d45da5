"""Own the hostile files of promise 8: each makes something a stranger could send, and says how a person loads it."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

STEP = Path("run/checkpoints/step-00000004")
RESUME = ("train", "resume=run")
EVALUATE = ("evaluate", "checkpoint=run")
REPLAY = ("train", "--config-dir", "run", "--config-name", "config", "run_dir=outputs/r")
CIFAR = ("train", "data=cifar10", "data.root=data", "data.download=false", "model=linear", "run_dir=outputs/r")
MNIST = ("train", "data=mnist", "data.root=data", "data.download=false", "model=linear", "run_dir=outputs/r")
Make = Callable[[], None]
CASES: dict[str, tuple[Make, tuple[str, ...]]] = {}
"""Name -> (what lays the files into the current folder, which holds a stranger's run; the command and its words)."""


class Evil:
    """What runs a program when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch EVIL",)


def add(name: str, words: tuple[str, ...], make: Make) -> None:
    """Take a case in."""
    assert name not in CASES
    CASES[name] = (make, words)


def _seal() -> None:
    """Make the manifest fit the files: a stranger can do that too."""
    from dlwp.runs import manifest

    contents = {path.name: path.read_bytes() for path in STEP.iterdir() if path.name != manifest.NAME}
    (STEP / manifest.NAME).write_bytes(manifest.text_of(contents))


def _write(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def several(files: dict[str, bytes | str]) -> Make:
    """Return what lays several files."""

    def make() -> None:
        for name, data in files.items():
            _write(Path(name), data)

    return make


def stored(name: str, data: bytes | str) -> Make:
    """Return what puts a file into the checkpoint, with a manifest that fits."""
    return lambda: (_write(STEP / name, data), _seal())[0]


def config_text(change: Callable[[str], str]) -> Make:
    """Return what changes the text of the run's and the checkpoint's config."""

    def make() -> None:
        text = change(Path("run/config.yaml").read_text())
        for path in (Path("run/config.yaml"), STEP / "config.yaml"):
            _write(path, text)
        _seal()

    return make


def config(**sections: Any) -> Make:
    """Return what replaces sections of the config; a key a__b is the key b of the section a."""

    def change(text: str) -> str:
        values = yaml.safe_load(text)
        for name, value in sections.items():
            section, _, key = name.partition("__")
            if key:
                values[section][key] = value
            else:
                values[section] = value
        head = "".join(line + "\n" for line in text.splitlines()[:3])
        return head + yaml.safe_dump(values, sort_keys=False)

    return config_text(change)


def record(**values: Any) -> Make:
    """Return what changes state.json, with a manifest that fits."""

    def make() -> None:
        found = json.loads((STEP / "state.json").read_text()) | values
        stored("state.json", json.dumps(found))()

    return make


# ---- what a config names --------------------------------------------------------------------------------------------

_TARGETS: dict[str, dict[str, Any]] = {
    "os.system": {"command": "touch EVIL"},
    "posix.system": {"command": "touch EVIL"},
    "builtins.eval": {},
    "builtins.exec": {},
    "builtins.open": {"file": "EVIL", "mode": "w"},
    "subprocess.Popen": {"args": ["touch", "EVIL"]},
    "pickle.loads": {},
    "shutil.rmtree": {"path": ".."},
    "torch.load": {"f": "evil.pt", "weights_only": False},
    "torch.hub.load": {"repo_or_dir": "evil", "model": "evil", "source": "local"},
    "torch.utils.cpp_extension.load_inline": {"name": "evil", "cpp_sources": "EVIL"},
    "torch.utils.collect_env.run": {"command": "touch EVIL"},
    "torch.serialization.os.system": {"command": "touch EVIL"},
    "torch.jit.load": {"f": "evil.pt"},
    "torch.package.PackageImporter": {"file_or_buffer": "evil.pt"},
    "torch.distributed.nn.RemoteModule": {"remote_device": "cpu", "module_cls": "os.system"},
    "torch.save": {"obj": 1, "f": "EVIL"},
    "pathlib.Path.unlink": {"self": "keep"},
    "torchvision.datasets.LSUN": {"root": "run", "classes": "train"},
    "torchvision.datasets.utils.download_url": {"url": "http://127.0.0.1:9/", "root": "."},
    "importlib.import_module": {"name": "evil"},
    "evil.Model": {},
    "run.evil.Model": {},
    "timm.create_model": {"model_name": "hf_hub:evil/evil"},
    "dlwp.runs.files.remove_tree": {"path": "keep"},
    "dlwp.runs.files.write_atomic": {"path": "EVIL", "data": "x"},
    "dlwp.runs.folder.RunFolder.create": {"path": "EVIL"},
    "dlwp.commands.train.main": {},
    "dlwp.api.train": {},
    "dlwp.parts.locate": {"target": "os.system", "key": "x"},
    "dlwp.parts.instantiate": {"section": {"a": 1}, "key": "x"},
}


def _with_evil_modules(make: Make) -> Make:
    def lay() -> None:
        for name in ("evil.py", "run/evil.py", "timm/__init__.py"):
            _write(Path(name), "import os\nos.system('touch EVIL')\n")
        _write(Path("run/__init__.py"), "")
        _write(Path("evil.pt"), pickle.dumps(Evil()))
        make()

    return lay


for _number, (_target, _arguments) in enumerate(_TARGETS.items()):
    _section = {"_target_": _target, **_arguments}
    add(f"model {_target}", (RESUME, EVALUATE, REPLAY)[_number % 3], _with_evil_modules(config(model=_section)))
for _place in ("data", "criterion", "optimizer", "scheduler", "metrics__evil", "callbacks", "trainer__step"):
    _evil: Any = {"_target_": "os.system", "command": "touch EVIL"}
    add(f"os.system as {_place}", RESUME, config(**{_place: {"evil": _evil} if _place == "callbacks" else _evil}))
add("os.system nested", EVALUATE, config(model__extra={"_target_": "os.system", "command": "touch EVIL"}))
add("a callback twice", RESUME, config(callbacks={"evil": {"_target_": "dlwp.runs.files.remove_tree", "path": "keep"}}))
add(
    "trust in the file", RESUME, config(trust=["os", "posix"], model={"_target_": "os.system", "command": "touch EVIL"})
)
add("a string as step", RESUME, config(trainer__step="os.abort"))

# ---- what a config is -----------------------------------------------------------------------------------------------

add("python tag", RESUME, config_text(lambda text: text + "evil: !!python/object/apply:os.system ['touch EVIL']\n"))
_LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
add("billion laughs", RESUME, config_text(lambda text: text + _LAUGHS))
add("nested 100,000 deep", RESUME, config_text(lambda text: text + "notes: " + "[" * 100_000 + "]" * 100_000))
add("config of 50 MB", RESUME, config_text(lambda text: text + "#" + "x" * 50_000_000))
add("not text", RESUME, config_text(lambda text: text + "\x00\x01"))
add("environment", RESUME, config(notes="${oc.env:HOME}"))
add("environment, replayed", REPLAY, config(notes="${oc.env:HOME}"))
add("environment, evaluated", EVALUATE, config(tags=["${oc.env:PATH}"]))
add("references that multiply", RESUME, config(notes="${tags}${tags}", tags=["${notes}"]))
add("a resolver", RESUME, config(notes="${hydra:runtime.cwd}"))
add("Hydra's own section", REPLAY, config(hydra={"callbacks": {"x": {"_target_": "os.system"}}}))
add("Hydra's search path", REPLAY, config(hydra={"searchpath": ["pkg://evil"]}))
add("other defaults", REPLAY, config(defaults=["/hydra/launcher: evil", "_self_"]))
add("a package", REPLAY, config_text(lambda text: "# @package hydra\n" + text))
add("a run_dir", REPLAY[:-1], config(run_dir="../outside"))
add("a group beside it", RESUME, lambda: _write(Path("run/hydra/config.yaml"), "job: {chdir: true}\n"))
add("a damaged head", RESUME, config_text(lambda text: '# typed: "\n# chosen: x\n' + text))

# ---- what a checkpoint holds ----------------------------------------------------------------------------------------

_DEEP = "[" * 200_000 + "]" * 200_000
add("state.json nested", RESUME, stored("state.json", _DEEP))
add("state.json a pickle", EVALUATE, stored("state.json", pickle.dumps(Evil())))
add("state.json of 300 MB", RESUME, stored("state.json", b"[" + b"0," * 150_000_000 + b"0]"))
add("state.json a list", RESUME, stored("state.json", "[]"))
add("structure deep", RESUME, record(structure={"model": [[[[{"$tensor": "../../x"}]]]], "optimizer": {}}))
add("structure a number", EVALUATE, record(structure=3))
add("aliases a list", EVALUATE, record(aliases=[1]))
add("progress of other fields", RESUME, record(progress={"evil": 1}))
add("progress without sense", RESUME, record(progress={"step": "x", "position": -5, "epoch": 1e300}))
add("no format", RESUME, record(format_version=None))
add("format of a text", EVALUATE, record(format_version="__import__('os').system('touch EVIL')"))
add("stateful without sense", RESUME, record(stateful={"tally": 3, "Recording": {"offset": "x"}}))
add("offset beyond", RESUME, record(stateful={"Recording": {"offset": -(10**9), "aside": 0, "last": {}}}))
add("weights a pickle", EVALUATE, stored("model.safetensors", pickle.dumps(Evil())))


def _safetensors(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


_HEADERS: dict[str, bytes] = {
    "of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "out of range": _safetensors({"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}),
    "overlapping": _safetensors({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}, b"\0" * 4),
    "nested": _safetensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "of no type": _safetensors({"a": {"dtype": "EVIL", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
    "of another model": _safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
    "empty": b"",
}
for _name, _bytes in _HEADERS.items():
    add(f"safetensors {_name}", EVALUATE, stored("model.safetensors", _bytes))


def manifest(entries: dict[str, Any]) -> Make:
    """Return what writes a manifest of these entries, with a fitting hash of its own."""
    from dlwp.runs import manifest as manifests

    return lambda: _write(STEP / manifests.NAME, manifests._with_own_hash({"files": entries}))


_ENTRY = {"size": 10, "sha256": "0" * 64}
add("MANIFEST naming /etc/passwd", EVALUATE, manifest({"/etc/passwd": _ENTRY, "state.json": _ENTRY}))
add("MANIFEST naming ../../x", RESUME, manifest({"../../../keep": _ENTRY, "state.json": _ENTRY}))
add("MANIFEST of sizes", EVALUATE, manifest({"state.json": {"size": 10**13, "sha256": "x"}}))
add("MANIFEST of texts", EVALUATE, manifest({"state.json": {"size": "x", "sha256": 3}}))
add("MANIFEST nested", RESUME, lambda: _write(STEP / "MANIFEST.json", _DEEP))
for _text in ("../../x", "/etc", "step-00000004/../../..", "\xff\xfe", "x" * 10**7):
    add(f"pointer {_text[:20]!r}", EVALUATE, several({f"run/checkpoints/{name}": _text for name in ("last", "best")}))


def _pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


for _file in (
    "config.yaml",
    "summary.json",
    "metrics.jsonl",
    "checkpoints/last",
    str(STEP.relative_to("run") / "state.json"),
):
    add(f"{_file} a pipe", RESUME, lambda file=_file: _pipe(Path("run") / file))  # type: ignore[misc]
for _file in ("config.yaml", "summary.json", str(STEP.relative_to("run") / "state.json")):
    add(f"{_file} is /dev/zero", RESUME, lambda file=_file: _link(Path("run") / file, "/dev/zero"))  # type: ignore[misc]
for _file in (".lock", "metrics.jsonl", "run.log", "tensorboard"):
    add(f"{_file} leads outside", RESUME, lambda file=_file: _link(Path("run") / file, str(Path("keep").resolve())))  # type: ignore[misc]
add("summary.json nested", RESUME, lambda: _write(Path("run/summary.json"), _DEEP))
add("metrics.jsonl nested", RESUME, lambda: _write(Path("run/metrics.jsonl"), _DEEP + "\n"))
for _command in ("train resume=evil.pt", "evaluate checkpoint=evil.pt"):
    add(f"a .pt file: {_command}", tuple(_command.split()), lambda: _write(Path("evil.pt"), pickle.dumps(Evil())))

# ---- data -----------------------------------------------------------------------------------------------------------


def _png(width: int, height: int, extra: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(width * 3 + 1)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _text_bomb() -> bytes:
    data = b"k\0\0" + zlib.compress(bytes(200_000_000), 9)
    return struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))


def picture(data: Callable[[], bytes]) -> Make:
    """Return what lays a file between two honest pictures."""

    def make() -> None:
        for kind in ("cat", "dog"):
            for number in range(2):
                _write(Path(f"data/cifar10/train/{kind}/{number}.png"), _png(8, 8))
        _write(Path("data/cifar10/train/dog/1.png"), data())

    return make


_EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(EVIL) (w) file\n"
add("PNG of 20000x20000", CIFAR, picture(lambda: _png(20_000, 20_000)))
add("PNG of 9470x9470", CIFAR, picture(lambda: _png(9_470, 9_470)))
add("PNG with a text bomb", CIFAR, picture(lambda: _png(8, 8, _text_bomb())))
add("EPS as a picture", CIFAR, picture(lambda: _EPS))
add("a picture that is a pickle", CIFAR, picture(lambda: pickle.dumps(Evil())))
add("a picture that is a page", CIFAR, picture(lambda: b"<html>"))
add("a picture cut off", CIFAR, picture(lambda: _png(8, 8)[:45]))
add("a picture that is a pipe", CIFAR, lambda: (picture(bytes)(), _pipe(Path("data/cifar10/train/cat/0.png")))[0])
_PICKLE = pickle.dumps(Evil())
_BATCHES = ("batches.meta", "data_batch_1", "test_batch")
add("a batch that is a pickle", CIFAR, several({f"data/cifar-10-batches-py/{name}": _PICKLE for name in _BATCHES}))
add("MNIST as .pt", MNIST, several({f"data/MNIST/processed/{name}.pt": _PICKLE for name in ("training", "test")}))
_IDX = {
    "train-images-idx3": 47_040_016,
    "train-labels-idx1": 60_008,
    "t10k-images-idx3": 7_840_016,
    "t10k-labels-idx1": 10_008,
}
_FALSE = {f"data/MNIST/raw/{name}-ubyte": struct.pack(">I", 2051) + b"\xff" * (n - 4) for name, n in _IDX.items()}
add("MNIST of a false head", MNIST, several(_FALSE))
add("SVHN that is a pickle", ("train", "data=svhn", *MNIST[2:]), lambda: _write(
    Path("data/train_32x32.mat"), pickle.dumps(Evil())))  # fmt: skip

# ---- archives -------------------------------------------------------------------------------------------------------


def tar(**members: Any) -> Make:
    """Return what writes set.tar of members with the given fields, each after an honest one."""

    def make() -> None:
        with tarfile.open("set.tar.gz", "w:gz") as archive:
            for name in ("set/a", "set/b"):
                archive.addfile(_member(name, size=3), io.BytesIO(b"abc"))
            archive.addfile(_member(**members), io.BytesIO(bytes(members.get("size", 0))))

    return make


def _member(name: str, **fields: Any) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(found, field, value)
    return found


UNPACK = ("unpack", "set.tar.gz")
add("tar with ..", UNPACK, tar(name="set/../../EVIL"))
add("tar with an absolute name", UNPACK, tar(name=str(Path("/tmp/EVIL"))))
add("tar with a link", UNPACK, tar(name="set/c", type=tarfile.SYMTYPE, linkname="/etc"))
add("tar with a hard link", UNPACK, tar(name="set/c", type=tarfile.LNKTYPE, linkname="../../keep"))
add("tar with a device", UNPACK, tar(name="set/c", type=tarfile.CHRTYPE, devmajor=1, devminor=5))
add("tar with a pipe", UNPACK, tar(name="set/c", type=tarfile.FIFOTYPE))
add("tar with a member twice", UNPACK, tar(name="set/a", size=3))
add("tar with another folder", UNPACK, tar(name="other/a", size=3))
add("tar bomb", UNPACK, tar(name="set/c", size=200_000_000))
add("a page as a tar", UNPACK, lambda: _write(Path("set.tar.gz"), "<html>"))
add("gzip bomb", ("unpack", "set.gz"), lambda: _write(Path("set.gz"), _gzip(200_000_000)))


def _gzip(size: int) -> bytes:
    import gzip

    return gzip.compress(bytes(size))
