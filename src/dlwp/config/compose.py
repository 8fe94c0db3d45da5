"""Own the way from words to one checked config: Hydra composes, `check` checks, plain containers come out.

Knows nothing of torch, nor of what the parts do.
"""

from __future__ import annotations

import copy
import json
import math
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.resolvers import oc

from dlwp import settings
from dlwp.config import check, faults, foreign, schema
from dlwp.config.catalog import Catalog, own_folder
from dlwp.errors import ConfigError, DataError

_SCHEMAS = {
    "train_schema": settings.CommandSettings,
    "trainer_schema": settings.TrainerSettings,
    "logger_schema": settings.LoggerSettings,
    "search_schema": settings.SearchSettings,
}
_PATHS = ("run_dir", "resume", "data.root")
VERSION_BASE: dict[str, str] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}
"""Hydra below 1.4 warns without it, from 1.4 on with it."""


@dataclass
class Config:
    """A composed and checked config.

    Attributes:
        values: plain containers, wholly resolved.
        stored: the same with `${oc.env:...}` left unresolved, so that no secret lands on disk.
        choices: group -> chosen option, None where the section has none.
        words: the settings as typed.
        typed: the words that lead here from dlwp's own files: of a replay, those of the first run and the new ones.
        resume: the run folder or checkpoint that `resume=` names; the values came from its config.yaml and the words.
        warnings: sentences on settings that are allowed and doubtful.
        foreign: it is of a run that this account did not begin. trusted: what was typed as `trust=[...]`.
        hearing: sections (`_target_`) of what hears the run beside its settings' callbacks; nothing of them is stored.
    """

    values: dict[str, Any]
    stored: dict[str, Any]
    choices: dict[str, str | None]
    words: list[str]
    typed: list[str] = field(default_factory=list)
    resume: Path | None = None
    warnings: list[str] = field(default_factory=list)
    foreign: bool = False
    trusted: list[str] = field(default_factory=list)
    hearing: list[dict[str, Any]] = field(default_factory=list)

    def yaml(self, decided: Mapping[str, Any]) -> str:
        """Return the text of a run's config.yaml, from which the run can be replayed and resumed.

        Args:
            decided: full key -> the value that stands for its `auto`.
        """
        kept = copy.deepcopy({key: self.stored[key] for key in self.stored if key not in settings.OF_ONE_COMMAND})
        for name, value in decided.items():
            *sections, key = name.split(".")
            holder = kept
            for section in sections:
                holder = holder[section]
            holder[key] = value
        chosen = " ".join(f"{group}={option}" for group, option in self.choices.items() if option)
        head = [
            "# A run of dlwp; to start it anew: dlwp-train --config-dir THIS_FOLDER --config-name config",
            f"# typed: {json.dumps(self.typed)}",
            f"# chosen: {chosen}",
            f"defaults: [{', '.join(foreign.DEFAULTS)}]",
        ]
        return "\n".join(head) + "\n" + OmegaConf.to_yaml(OmegaConf.create(kept))


def compose(words: Sequence[str], *, config_dir: Path | None = None, config_name: str = "train") -> Config:
    """Compose words into a checked config.

    Args:
        words: settings as typed, such as "model=resnet"; `resume=RUN` takes the config of that run instead of files.
        config_dir: the user's own config folder, searched before dlwp's.
        config_name: the config to begin with.

    Raises:
        ConfigError: with every mistake found.
    """
    found = composed(words, config_dir=config_dir, config_name=config_name)[0]
    refuse_alone(found.values)
    return found


def refuse_alone(values: Mapping[str, Any]) -> None:
    """Refuse the keys of a sweep where there is none.

    Raises:
        ConfigError: one is set.
    """
    if values["jobs"] is not None:
        raise ConfigError(f"jobs={values['jobs']} is for a sweep: add -m and several values, e.g. -m seed=1,2,3")
    if values["sweep_resume"] is not None:
        raise ConfigError(f"sweep_resume= goes on with a sweep: dlwp-train -m sweep_resume={values['sweep_resume']}")


@dataclass(frozen=True)
class Origin:
    """What the head of a run's config.yaml says of how it was made."""

    typed: list[str]
    choices: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Origin | None:
        """Read the head of a config; None where it is not that of a run."""
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n", 3)[:3]
        said = dict(line[2:].split(": ", 1) for line in lines if re.match(r"# (typed|chosen): ", line))
        if "chosen" not in said:
            return None
        try:
            typed = said.get("typed", "")
            words = json.loads(typed) if typed.startswith("[") else shlex.split(typed)  # as a shell's words before 0.1
            return cls([str(word) for word in words], dict(pair.split("=", 1) for pair in said["chosen"].split()))
        except ValueError as error:
            raise ConfigError(f"the first lines of {path} are damaged ({error})") from error


@dataclass(frozen=True)
class Place:
    """Where a config comes from.

    Attributes:
        words: the settings without `resume=`.
        catalog: the folders that are searched.
        primary: the config to begin with.
        resume: the run or checkpoint whose config.yaml that is.
        origin: how that run was made, where the config is a run's (`resume=`, or `--config-dir RUN`).
        foreign, trusted: as in `Config`. notes: what to warn of.
    """

    words: list[str]
    catalog: Catalog
    primary: str
    resume: Path | None
    origin: Origin | None
    foreign: bool
    trusted: list[str]
    notes: list[str]


def locate(words: Sequence[str], *, config_dir: Path | None = None, config_name: str = "train") -> Place:
    """Find the folders and the config that words are to be composed from.

    Raises:
        ConfigError: no such folder, config or run; or a group is chosen in a replay.
    """
    rest, resume, notes = _take_resume(check.spelt_out(words))
    if resume is not None and (config_dir is not None or config_name != "train"):
        notes.append("--config-dir and --config-name have no effect with resume=: the run's own config counts")
    catalog = Catalog(resume or config_dir)
    primary = "config" if resume else config_name.removesuffix(".yaml")
    folder = resume or config_dir
    is_foreign = folder is not None and foreign.is_foreign(folder)
    trusted = _trusted(rest)
    if folder is not None and is_foreign:
        foreign.check(folder, trusted)
    origin = Origin.read(catalog.primary(primary))
    if origin is not None:
        _refuse_groups(rest, origin, catalog)
    return Place(rest, catalog, primary, resume, origin, is_foreign, trusted, notes)


def _trusted(words: Sequence[str]) -> list[str]:
    """Return what was typed as `trust=[...]`; what stands so in a file is nobody's word."""
    typed = [check.split(word)[2] or "" for word in words if check.split(word)[1] == "trust"]
    return [name for text in typed for name in re.findall(r"[\w.]+", text)]


def composed(
    words: Sequence[str], *, config_dir: Path | None = None, config_name: str = "train", sweep: bool = False
) -> tuple[Config, DictConfig]:
    """Compose words into a checked config, and return Hydra's own config with it (for `hydra.mode`).

    With `sweep`, words of several values are allowed, and left out.
    """
    place = locate(words, config_dir=config_dir, config_name=config_name)
    parsed = check.parse(place.words, place.catalog, sweep=sweep)
    whole, own = _composed(place, [word for word in parsed if not word.several])
    changes: list[str] = []
    if place.origin is not None:
        _forget(whole, parsed)
    if place.resume is not None:
        changes = _changes(parsed, _trained(place, place.resume), whole)
    choices = place.origin.choices if place.origin is not None else own["runtime"]["choices"]
    config = finish(whole, choices, words, place.catalog, place.resume)
    config.foreign, config.trusted = place.foreign, place.trusted
    config.warnings += [*place.notes, *changes]
    config.typed = _overlaid(place.origin.typed if place.origin is not None else [], place.words)
    return config, own


def _composed(place: Place, words: Sequence[check.Word]) -> tuple[DictConfig, DictConfig]:
    with _hydra_at(place.catalog):
        try:
            texts = [for_hydra(word.text) for word in words]
            return _without_hydra(hydra.compose(place.primary, texts, return_hydra_config=True))
        except faults.FAULTS as error:
            raise _explained(error, words, place.primary, place.catalog) from error


def check_sweep(place: Place, words: Sequence[Sequence[str]] | None = None) -> tuple[list[str], int | None]:
    """Check each single value of a sweep before its first job.

    Args:
        place: with its words. words: those to check for each key, where its values are no list (a search).

    Returns:
        The keys that vary, and the number of jobs where it can be known.

    Raises:
        ConfigError: with every mistake found.
    """
    parsed = check.parse(place.words, place.catalog, sweep=True)
    several = [word for word in parsed if word.several]
    listed = [check.parse_each(word, place.catalog) for word in several if word.sweep]
    if words is not None:
        listed = [[check.parse([one], place.catalog)[0] for one in each] for each in words]
    base, _ = _composed(place, [word for word in parsed if not word.several] + [values[0] for values in listed])
    singles = [value for values in listed for value in values]
    check.raise_all(faults.of_words(singles, base, place.catalog))
    known = len(listed) == len(several)
    return [word.key for word in several], math.prod(map(len, listed)) if known else None


def check_choices(place: Place) -> None:
    """Compose a sweep once for each option of each group that varies, to explain what Hydra refused.

    Raises:
        ConfigError: of the first option that does not go with the other words.
    """
    parsed = check.parse(place.words, place.catalog, sweep=True)
    listed = [word for word in parsed if word.several and word.sweep]
    first = {word.key: check.parse_each(word, place.catalog)[0] for word in listed}
    for word in listed:
        for one in check.parse_each(word, place.catalog):
            chosen = [word for word in parsed if not word.several] + list((first | {word.key: one}).values())
            _composed(place, chosen)


def of_job(config: DictConfig, choices: Mapping[str, Any], words: Sequence[str], folder: Path | None) -> Config:
    """Turn the config that Hydra hands to a job of a sweep into a checked config."""
    typed = [word.removeprefix("++") if for_hydra(word.removeprefix("++")) == word else word for word in words]
    found = finish(config, choices, typed, Catalog(folder))
    found.foreign, found.trusted = folder is not None and foreign.is_foreign(folder), _trusted(words)
    return found


def finish(
    config: DictConfig, choices: Mapping[str, Any], words: Sequence[str], catalog: Catalog, resume: Path | None = None
) -> Config:
    """Check a composed config and turn it into plain containers.

    Raises:
        ConfigError: with every mistake found.
    """
    check.raise_all(faults.of_references(config))
    values = _plain(OmegaConf.to_container(config, resolve=True))
    own = {group: choices.get(group) for group in catalog.groups()}
    found, warnings = schema.check_values(values, catalog)
    found += schema.check_classes(values, own, catalog)
    if values.get("resume") is not None:
        found.append("resume is typed with the command (resume=RUN), not set in a config")
    if resume is not None and values.get("run_dir") is not None:
        found.append("run_dir cannot be given with resume=: a resumed run goes on in its own folder")
    check.raise_all(found)
    stored = _stored(config)
    for section in schema.SECTIONS:
        stored[section] = values[section] | stored[section]
    for holder in (values, stored):  # a user's YAML may be a `_target_` alone, and every run has batches
        if isinstance(holder.get("data"), dict):
            holder["data"].setdefault("batch_size", settings.DataKeys().batch_size)
    _expand_home(values)
    warnings += schema.secrets(stored)
    return Config(values, stored, own, list(words), list(words), resume, warnings)


def _take_resume(words: Sequence[str]) -> tuple[list[str], Path | None, list[str]]:
    rest = [word for word in words if not re.match(r"\+{0,2}resume=", word)]
    named = [word.partition("=")[2].strip("'\"") for word in words if word not in rest]
    if len(named) > 1:
        raise ConfigError(f"'resume' is given twice ({', '.join(named)})")
    if not named or named[0] == "null":
        return rest, None, []
    if not named[0]:
        raise ConfigError("'resume=' has no value. Write resume=RUN_FOLDER, or resume=last")
    from dlwp.runs import manifest
    from dlwp.runs.folder import find_run

    run, checkpoint = find_run(os.path.expanduser(named[0]))  # noqa: PTH111 ("last" is no path)
    notes: list[str] = []
    if checkpoint is not None and "resume_fallback=true" in [word.lower() for word in rest]:
        checkpoint, notes = manifest.instead_of(checkpoint)
    elif checkpoint is not None:
        manifest.verified(checkpoint, "config.yaml")
    found = checkpoint or run
    if not (found / "config.yaml").exists():
        raise ConfigError(f"'{found}' has no config.yaml, so it cannot be resumed")
    return rest, found, notes


def for_hydra(word: str) -> str:
    """Return a word as Hydra takes it: a key that dlwp reads itself may be missing in the part's YAML."""
    sign, key, _ = check.split(word)
    return f"++{word}" if not sign and schema.reads(key) else word


def _refuse_groups(words: Sequence[str], origin: Origin, catalog: Catalog) -> None:
    """Refuse options of groups in a replay: `+model=vit` would mix both models."""
    for word in words:
        _, key, written = check.split(word)
        group = key.split("@")[0]
        if group in catalog.groups() and (written is None or not written.startswith("{")):
            before = [one for one in origin.typed if check.split(one)[1] != "run_dir"]  # that folder is not empty
            anew = _overlaid(before, [f"{group}={written or 'NAME'}"])
            raise ConfigError(
                f"'{word}' cannot change in a replay; set single keys ({group}.KEY=VALUE) "
                f"or start anew: {shlex.join(['dlwp-train', *anew])}"
            )


def _overlaid(before: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return the words of a first run with those typed later in place of theirs."""
    keys = {check.split(word)[1] for word in words}
    return [word for word in before if check.split(word)[1] not in keys] + list(words)


def _forget(whole: DictConfig, words: Sequence[check.Word]) -> None:
    """Take back what a run's config says for a single command, unless it was typed with this one."""
    typed = {word.key for word in words}
    for name in settings.OF_ONE_COMMAND:
        if name in whole and name not in typed:
            whole[name] = settings.default_of(name)


def _changes(words: Sequence[check.Word], trained: DictConfig, whole: DictConfig) -> list[str]:
    """Refuse on a resume what would make another run of it; where that is what is asked for, return a note of it.

    The config is held against that of the checkpoint: a run's config.yaml may have been changed by hand.
    """
    before, now = (_leaves(_plain(OmegaConf.to_container(one, resolve=False))) for one in (trained, whole))
    typed = {word.key for word in words if not word.is_hydra}
    changed = []
    for key, value in now.items():
        is_typed = settings.is_within(key, typed)
        free = settings.is_within(key, (*settings.FREE_ON_RESUME, *settings.OF_ONE_COMMAND))
        if not free and (key in before or is_typed) and check.typed(before.get(key)) != check.typed(value):
            changed.append(f"{key} ({check.typed(before.get(key))} → {check.typed(value)})")
    text = f"resume with a changed {', '.join(changed)} is another experiment"
    if changed and whole.resume_exact:
        raise ConfigError(f"{text}. If you mean it: resume_exact=false")
    return [f"{text} (resume_exact=false)"] if changed else []


def _trained(place: Place, resume: Path) -> DictConfig:
    """Return the config of the checkpoint that a run goes on from; of the run where there is none that is whole."""
    from dlwp.runs import manifest
    from dlwp.runs.folder import RunFolder

    run, last = RunFolder(resume), None
    with suppress(DataError):  # told when the checkpoint is read, with the way out
        last = run.pointed("last")
    for path in (last, *reversed(run.saved())):
        with suppress(DataError):
            if path is not None:
                text = manifest.verified(path, "config.yaml").decode()
                if place.foreign:
                    foreign.check(path, place.trusted)
                return _loaded(text)
    return _loaded((resume / "config.yaml").read_text(encoding="utf-8"))


def _loaded(text: str) -> DictConfig:
    config = OmegaConf.create(text)
    assert isinstance(config, DictConfig)
    return config


def _leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value of everything that is not a section."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


def _explained(error: BaseException, words: Sequence[check.Word], primary: str, catalog: Catalog) -> ConfigError:
    """Return the fault: of single words, judged against the config without them, else of the files."""
    chosen = [word.text for word in words if word.key in catalog.groups() or word.is_hydra]
    try:
        base, _ = _without_hydra(hydra.compose(primary, chosen, return_hydra_config=True))
    except faults.FAULTS as inner:
        return faults.of_files(inner, primary, catalog)
    found = faults.of_words(words, base, catalog)
    return ConfigError(found[0], found[1:]) if found else faults.of_files(error, primary, catalog)


# -------------------------------------------------------------------------------------------- Hydra itself


class UserFolder(SearchPathPlugin):
    """Puts the user's folder before dlwp's: Hydra's own --config-dir comes after it, and would be ignored."""

    folder: ClassVar[Path | None] = None

    def manipulate_search_path(self, search_path: Any) -> None:
        """Prepend the folder, if there is one."""
        if self.folder is not None:
            search_path.prepend(provider="dlwp-user", path=f"file://{self.folder}")


@contextmanager
def prepared(catalog: Catalog) -> Iterator[None]:
    """Register the schemas, and the user's folder for as long as the block lasts."""
    store = ConfigStore.instance()
    for name, node in _SCHEMAS.items():
        if f"{name}.yaml" not in store.repo:
            store.store(name=name, node=node)
    Plugins.instance().register(UserFolder)
    before = UserFolder.folder
    UserFolder.folder = catalog.folders[0] if len(catalog.folders) > 1 else None
    try:
        yield
    finally:
        UserFolder.folder = before


@contextmanager
def _hydra_at(catalog: Catalog) -> Iterator[None]:
    """Initialise Hydra for dlwp's configs, within another Hydra application too."""
    instance = GlobalHydra.instance()
    outer = instance.hydra
    instance.clear()
    try:
        with prepared(catalog), hydra.initialize_config_dir(str(own_folder()), **VERSION_BASE):
            yield
    finally:
        GlobalHydra.instance().clear()  # another object by now: Hydra puts back a copy
        if outer is not None:
            GlobalHydra.instance().initialize(outer)


def _without_hydra(whole: DictConfig) -> tuple[DictConfig, DictConfig]:
    own = whole._get_node("hydra")
    assert isinstance(own, DictConfig)
    OmegaConf.set_readonly(whole, False)
    OmegaConf.set_struct(whole, False)
    del whole["hydra"]
    OmegaConf.set_struct(whole, True)
    return whole, own


def _stored(config: DictConfig) -> dict[str, Any]:
    """Resolve everything but the environment: `${oc.env:NAME}` stays as text."""
    loose = OmegaConf.create(_plain(OmegaConf.to_container(config, resolve=False)))
    register = getattr(OmegaConf, "register_resolver" if hydra.__version__ >= "1.4" else "register_new_resolver")
    register("oc.env", lambda *words: "${oc.env:" + ",".join(map(str, words)) + "}", replace=True)
    try:
        OmegaConf.resolve(loose)
    finally:
        register("oc.env", oc.env, replace=True)
    return _plain(OmegaConf.to_container(loose, resolve=False))


def _plain(container: Any) -> dict[str, Any]:
    assert isinstance(container, dict)
    return container


def _expand_home(values: dict[str, Any]) -> None:
    for name in _PATHS:
        section, _, key = name.rpartition(".")
        holder = values.get(section) if section else values
        if isinstance(holder, dict) and isinstance(holder.get(key), str) and holder[key].startswith("~"):
            holder[key] = str(Path(holder[key]).expanduser())
