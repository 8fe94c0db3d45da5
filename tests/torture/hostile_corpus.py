"""Own the hostile runs of promise 8: each makes something a stranger could send, says how a person loads it, and what
that must be refused with. Honest twins of each kind must be taken: what is refused is the hostile part alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

STEP = Path("run/checkpoints/step-00000004")
RESUME = ("train", "resume=run")
EVALUATE = ("evaluate", "checkpoint=run")
REPLAY = ("train", "--config-dir", "run", "--config-name", "config", "run_dir=outputs/r")
Make = Callable[[], None]


class Case(NamedTuple):
    """Something that a stranger could send.

    Args:
        make: lays the files into the current folder, which holds a stranger's run.
        words: the command and its words.
        refusal: what the one line of the refusal must hold (a regular expression); None: it must be taken.
    """

    make: Make
    words: tuple[str, ...]
    refusal: str | None


CASES: dict[str, Case] = {}


class Evil:
    """What runs a program when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch EVIL",)


def add(name: str, words: tuple[str, ...], make: Make, refusal: str | None) -> None:
    """Take a case in."""
    assert name not in CASES
    CASES[name] = Case(make, words, refusal)


def _seal() -> None:
    """Make the manifest fit the files: a stranger can do that too."""
    from dlwp.runs import manifest

    entries = {path.name: manifest.entry(path.read_bytes()) for path in STEP.iterdir() if path.name != manifest.NAME}
    (STEP / manifest.NAME).write_bytes(manifest.text_of(entries))


def write(path: Path, data: bytes | str) -> None:
    """Lay a file, in place of what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def several(files: dict[str, bytes | str]) -> Make:
    """Return what lays several files."""

    def make() -> None:
        for name, data in files.items():
            write(Path(name), data)

    return make


def stored(name: str, data: bytes | str) -> Make:
    """Return what puts a file into the checkpoint, with a manifest that fits."""
    return lambda: (write(STEP / name, data), _seal())[0]


def config_text(change: Callable[[str], str]) -> Make:
    """Return what changes the text of the run's and the checkpoint's config."""

    def make() -> None:
        text = change(Path("run/config.yaml").read_text())
        for path in (Path("run/config.yaml"), STEP / "config.yaml"):
            write(path, text)
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


def progress(**values: Any) -> Make:
    """Return what changes the progress in state.json, with a manifest that fits."""
    return lambda: record(progress=json.loads((STEP / "state.json").read_text())["progress"] | values)()


# ---- honest twins ---------------------------------------------------------------------------------------------------


def untouched() -> None:
    """Lay nothing beside what is there."""


add("honest: a run gone on with", RESUME, untouched, None)
add("honest: a run gone on with, with a fallback", (*RESUME, "resume_fallback=true"), untouched, None)
add("honest: a run evaluated", EVALUATE, untouched, None)
add("honest: a run replayed", REPLAY, untouched, None)
add("honest: a config written again", RESUME, config(notes="of a stranger"), None)
add("honest: a record written again", RESUME, progress(), None)
add("honest: weights sealed again", EVALUATE, lambda: _seal(), None)

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
            write(Path(name), "import os\nos.system('touch EVIL')\n")
        write(Path("run/__init__.py"), "")
        write(Path("evil.pt"), pickle.dumps(Evil()))
        make()

    return lay


def wants(key: str, target: str) -> str:
    """Return the refusal of a part that is not to be built."""
    return re.escape(f"{key} wants to run '{target}'. If you trust its maker: trust=")


for _number, (_target, _arguments) in enumerate(_TARGETS.items()):
    _section = {"_target_": _target, **_arguments}
    _words = (RESUME, EVALUATE, REPLAY)[_number % 3]
    add(f"model {_target}", _words, _with_evil_modules(config(model=_section)), wants("model._target_", _target))
for _place in ("data", "criterion", "optimizer", "scheduler", "metrics__evil", "callbacks", "trainer__step"):
    _evil: Any = {"_target_": "os.system", "command": "touch EVIL"}
    _key = _place.replace("__", ".") + (".evil" if _place == "callbacks" else "")
    add(f"os.system as {_place}", RESUME, config(**{_place: {"evil": _evil} if _place == "callbacks" else _evil}),
        wants(f"{_key}._target_", "os.system"))  # fmt: skip
_evil = {"_target_": "os.system", "command": "touch EVIL"}
add("os.system nested", EVALUATE, config(model__extra=_evil), wants("model.extra._target_", "os.system"))
add("os.system as an augmentation", RESUME, config(data__augment=["flip", _evil]),
    wants("data.augment[1]._target_", "os.system"))  # fmt: skip
_evil_callback = {"evil": {"_target_": "dlwp.runs.files.remove_tree", "path": "keep"}}
_refusal = wants("callbacks.evil._target_", "dlwp.runs.files.remove_tree")
add("a callback", RESUME, config(callbacks=_evil_callback), _refusal)
_refusal = wants("model._target_", "os.system")
add("trust in the file", RESUME, config(trust=["os", "posix"], model=_evil), _refusal)
add("a string as step", RESUME, config(trainer__step="os.abort"), wants("trainer.step", "os.abort"))

# ---- what a config is -----------------------------------------------------------------------------------------------

add(
    "python tag",
    RESUME,
    config_text(lambda text: text + "evil: !!python/object/apply:os.system ['touch EVIL']\n"),
    r"is not the config of a run: line \d+ holds tag:yaml.org,2002:python/object/apply:os.system",
)
_LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
add(
    "billion laughs",
    RESUME,
    config_text(lambda text: text + _LAUGHS),
    r"is not the config of a run: line \d+ holds an alias",
)
add(
    "nested 100,000 deep",
    RESUME,
    config_text(lambda text: text + "notes: " + "[" * 100_000 + "]" * 100_000),
    r"is not the config of a run: line \d+ is nested deeper than 40",
)
add(
    "config of 50 MB",
    RESUME,
    config_text(lambda text: text + "#" + "x" * 50_000_000),
    "config.yaml cannot be read .it has 50,0.*at most 1,048,576 are expected",
)
add(
    "not text",
    RESUME,
    config_text(lambda text: text + "\x00\x01"),
    "is not the config of a run: unacceptable character #x0000",
)
add(
    "environment",
    RESUME,
    config(notes="${oc.env:HOME}"),
    "reads ..oc.env:HOME.. If you trust its maker: trust=.oc.env.",
)
add(
    "environment, replayed",
    REPLAY,
    config(notes="${oc.env:HOME}"),
    "reads ..oc.env:HOME.. If you trust its maker: trust=.oc.env.",
)
add(
    "environment, evaluated",
    EVALUATE,
    config(tags=["${oc.env:PATH}"]),
    "reads ..oc.env:PATH.. If you trust its maker: trust=.oc.env.",
)
add(
    "references that multiply",
    RESUME,
    config(notes="${tags}${tags}", tags=["${notes}"]),
    r"is not the config of a run: line \d+ holds the reference '..notes.'",
)
add(
    "a resolver",
    RESUME,
    config(notes="${hydra:runtime.cwd}"),
    r"is not the config of a run: line \d+ holds the reference '..hydra:runtime.cwd.'",
)
add(
    "Hydra's own section",
    REPLAY,
    config(hydra={"callbacks": {"x": {"_target_": "os.system"}}}),
    "is not the config of a run: it sets 'hydra'",
)
add(
    "Hydra's search path",
    REPLAY,
    config(hydra={"searchpath": ["pkg://evil"]}),
    "is not the config of a run: it sets 'hydra'",
)
add(
    "other defaults",
    REPLAY,
    config(defaults=["/hydra/launcher: evil", "_self_"]),
    "is not the config of a run: its defaults are others",
)
add(
    "a package",
    REPLAY,
    config_text(lambda text: "# @package hydra\n" + text),
    "is not the config of a run: it names a @package",
)
add("a run_dir", REPLAY[:-1], config(run_dir="../outside"), "is not the config of a run: it sets 'run_dir'")
add(
    "a group beside it",
    RESUME,
    lambda: write(Path("run/hydra/config.yaml"), "job: {chdir: true}\n"),
    "run holds 'hydra/config.yaml', which is no file of a run",
)
add(
    "a damaged head",
    RESUME,
    config_text(lambda text: '# typed: "\n# chosen: x\n' + text),
    "the first lines of .* are damaged .No closing quotation",
)

# ---- what a checkpoint holds ----------------------------------------------------------------------------------------

DEEP = "[" * 200_000 + "]" * 200_000
add("state.json nested", RESUME, stored("state.json", DEEP), "state.json is no record of a run .RecursionError")
add(
    "state.json a pickle",
    EVALUATE,
    stored("state.json", pickle.dumps(Evil())),
    "state.json is no record of a run .UnicodeDecodeError",
)
add(
    "state.json of 300 MB",
    RESUME,
    stored("state.json", b"[" + b"0," * 150_000_000 + b"0]"),
    "state.json has more than 33,554,432 bytes",
)
add(
    "state.json a list", RESUME, stored("state.json", "[]"), "state.json is no record of a run .TypeError: list indices"
)
add(
    "structure deep",
    RESUME,
    record(structure={"model": [[[[{"$tensor": "../../x"}]]]], "optimizer": {}}),
    "although its files are whole .KeyError: '../../x'",
)
add(
    "structure a number",
    EVALUATE,
    record(structure=3),
    "although its files are whole .TypeError: .*'int'",
)
add(
    "aliases a list",
    EVALUATE,
    record(aliases=[1]),
    "although its files are whole .AttributeError: 'list' object has no attribute 'get'",
)
add(
    "progress of other fields",
    RESUME,
    record(progress={"evil": 1}),
    "does not fit the parts of its config .TypeError.*'evil'",
)
_PROGRESS: dict[str, tuple[Any, ...]] = {
    "step": ("x", -1, 3, 10**30),
    "samples": ("x", 10**400),
    "epoch": (1e300, -1),
    "position": (-5, 1.5),
    "pending": (3, [4]),
    "best_value": ("x",),
    "best_step": (0.5,),
    "last_values": ({"loss": "x"},),
    "elapsed_s": ("x",),
    "order": (3,),
    "total_steps": ("x",),
    "cycles": (3, [["x", 4]], [[5, 9]]),
    "pieces": (-1,),
}
for _name, _values in _PROGRESS.items():
    for _value in _values:
        _why = f"{_name} (is|are) {re.escape(f'{_value!r:.40}')}"
        add(f"progress {_name} {_value!r:.20}", RESUME, progress(**{_name: _value}),
            f"does not fit the parts of its config .ValueError: .*{_why}")  # fmt: skip
_refusal = "does not fit the parts of its config .ValueError: non-hexadecimal number found"
add("chain of the samples", RESUME, record(stateful={"chain": {"chain": "EVIL"}}), _refusal)
_refusal = "does not fit the parts of its config .ValueError: not enough values to unpack"
add("progress of half a cycle", RESUME, progress(cycles=[[0]]), _refusal)
add("no format", RESUME, record(format_version=None), "state.json is no record of a run .TypeError: int")
add(
    "format of a text",
    EVALUATE,
    record(format_version="__import__('os').system('touch EVIL')"),
    "state.json is no record of a run .ValueError: invalid literal for int",
)
add(
    "stateful without sense",
    RESUME,
    record(stateful={"tally": 3}),
    "does not fit the parts of its config .TypeError: 'int' object is not subscriptable",
)
add(
    "a time that is none",
    RESUME,
    record(stateful={"Recording": {"offset": 0, "aside": "x", "last": {}}}),
    "does not fit the parts of its config .ValueError: could not convert string to float",
)
add("offset beyond", RESUME, record(stateful={"Recording": {"offset": -(10**9), "aside": 0, "last": {}}}), None)
add(
    "weights a pickle",
    EVALUATE,
    stored("model.safetensors", pickle.dumps(Evil())),
    "although its files are whole .SafetensorError: .*header too large",
)


def _safetensors(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


_ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
_HEADERS: dict[str, tuple[bytes, str]] = {
    "of 2^63 bytes": (struct.pack("<Q", 2**63) + b"{}", "header too large"),
    "out of range": (
        _safetensors({"a": _ONE | {"shape": [10**9], "data_offsets": [0, 4 * 10**9]}}),
        "not fully covered",
    ),
    "overlapping": (_safetensors(dict.fromkeys("ab", _ONE), b"\0" * 4), "invalid offset for tensor"),
    "nested": (_safetensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "recursion limit exceeded"),
    "of no type": (_safetensors({"a": _ONE | {"dtype": "EVIL"}}, b"\0" * 4), "unknown variant `EVIL`"),
    "of another model": (_safetensors({"a": _ONE}, b"\0" * 4), "KeyError: 'stages.0.0.weight'"),
    "empty": (b"", "header too small"),
}
for _name, (_bytes, _why) in _HEADERS.items():
    add(f"safetensors {_name}", EVALUATE, stored("model.safetensors", _bytes), f"although its files are whole.*{_why}")


def manifest(**entries: Any) -> Make:
    """Return what adds entries to the manifest of the honest files, or replaces some; its own hash fits."""
    from dlwp.runs import manifest as manifests

    def make() -> None:
        honest = json.loads((STEP / manifests.NAME).read_bytes())["files"]
        write(STEP / manifests.NAME, manifests._with_own_hash({"files": honest | entries}))

    return make


def named_outside(name: str) -> Make:
    """Return what lets state.json name a group of tensors that lies outside, whole as the manifest has it."""

    def make() -> None:
        data = _safetensors({"secret": _ONE}, bytes(4))
        write(Path("keep/x.safetensors"), data)
        found = json.loads((STEP / "state.json").read_text())
        found["structure"][name] = {"secret": {"$tensor": "secret"}}
        stored("state.json", json.dumps(found))()
        entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        manifest(**{f"{name}.safetensors": entry})()

    return make


_PASSWD = {"size": Path("/etc/passwd").stat().st_size, "sha256": "0" * 64}
_FALLBACK = (*RESUME, "resume_fallback=true")
add("MANIFEST naming /etc/passwd", _FALLBACK, manifest(**{"/etc/passwd": _PASSWD}), "holds no /etc/passwd")
add("MANIFEST naming ../../x", _FALLBACK, manifest(**{"../../../keep": _PASSWD}), "holds no ../../../keep")
add("a name outside that nobody asks for", RESUME, manifest(**{"/etc/passwd": _PASSWD}), None)
_OUT = "../../../keep/x"
add("tensors outside", RESUME, named_outside(_OUT), f"holds no {_OUT}.safetensors")
add("MANIFEST of a size", EVALUATE, manifest(**{"state.json": {"size": 10**13, "sha256": "x"}}),
    "state.json has more than 33,554,432 bytes")  # fmt: skip
add("MANIFEST of a size of weights", EVALUATE, manifest(**{"model.safetensors": {"size": 10**13, "sha256": "x"}}),
    "model.safetensors is damaged .*expected 10,000,000,000,000")  # fmt: skip
add("MANIFEST of texts", EVALUATE, manifest(**{"state.json": {"size": "x", "sha256": 3}}),
    "MANIFEST.json is damaged .invalid literal for int")  # fmt: skip
add(
    "MANIFEST nested",
    RESUME,
    lambda: write(STEP / "MANIFEST.json", DEEP),
    "MANIFEST.json is damaged .maximum recursion depth",
)
for _text in ("../../keep/step-00000001", "/etc", "step-00000004/../../..", "\xff\xfe", "x" * 10**7):
    _both: dict[str, bytes | str] = {f"run/checkpoints/{name}": _text for name in ("last", "best")}
    _why = (
        "it has 10,000,000 bytes, at most 1,000" if len(_text) > 1000 else "is damaged: it should hold a name such as"
    )
    _lay = lambda files=_both: (Path("keep/step-00000001").mkdir(), several(files)())[1]  # noqa: E731
    add(f"pointer {_text[:30]!r}", EVALUATE, _lay, f"run/checkpoints/best .*{_why}")
