"""Going on from an adapter: find it, let it decide the model and `lora.*`, check that it fits its base."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.adapter_files import ADAPTER_TENSORS_NAME, Adapter, read_adapter
from toolkit.checksums import SUMS_NAME, check_sums, file_sha256
from toolkit.config import FinetuneConfig, LoraConfig
from toolkit.config_files import load_config
from toolkit.errors import Problem, ToolkitError
from toolkit.models import ModelFacts, find_model, is_adapter
from toolkit.protocols import Trainer
from toolkit.runs import RunFolder, find_run, is_run, runs_root

_LEAVE_OUT = "Leave it out: an adapter goes on as it began"


@dataclass(frozen=True)
class AdapterStart:
    """Where a run begins. `run` is the one that trained the adapter, if it is known."""

    adapter: Adapter
    run: RunFolder | None

    def lineage(self) -> dict[str, str]:
        """Return what the manifest says of it."""
        tensors = self.adapter.folder / ADAPTER_TENSORS_NAME
        return {"path": str(self.adapter.folder.resolve()), "sha256": file_sha256(tensors)}

    def load_into(self, trainer: Trainer) -> None:
        """Overwrite a trainer's fresh adapters. Raises ToolkitError unless the names are the same, one for one."""
        names = set(trainer.state().weights)
        problems = [
            Problem(f"the adapter lacks {name}", str(self.adapter.folder)) for name in names - set(self.adapter.tensors)
        ]
        if problems:
            raise ToolkitError.gather(problems[:10])
        trainer.set_weights(self.adapter.tensors)


def start_from_adapter(config: FinetuneConfig) -> tuple[FinetuneConfig, ModelFacts, AdapterStart]:
    """Find the adapter that `config.adapter` names, and fill in the model and the section `lora` from it.

    Raises:
        ToolkitError: there is no such adapter, its base cannot be found, it is another one than `config.model`, or
            options that were given contradict it; all of the last kind at once.
    """
    if config.adapter is None:
        raise ValueError("no adapter is named")
    folder, run = find_adapter(config.adapter)
    adapter = read_adapter(folder)
    config, facts = _find_base(_with_method(config, run), adapter, run)
    problems = []
    if config.method == "full":
        hint = "Choose method: lora, or train the merged model"
        problems.append(Problem("full trains every weight, so it cannot go on from an adapter", "method", hint))
    adapter = read_adapter(folder, facts.tensors.entries)
    lora, contradictions = _settings(config.lora, adapter, facts)
    if problems + contradictions:
        raise ToolkitError.gather(problems + contradictions)
    return config.model_copy(update={"lora": lora}), facts, AdapterStart(adapter, run)


def find_adapter(text: str) -> tuple[Path, RunFolder | None]:
    """Return the adapter folder that a name or path means (an adapter, a checkpoint or a run), and its run if any.

    Raises:
        ToolkitError: nothing of that name is here, or it has no adapter, or the checkpoint is corrupted.
    """
    path = Path(text).expanduser()
    for folder in (path, path / "adapter"):
        if is_adapter(folder):
            if (folder.parent / SUMS_NAME).is_file() and (problems := check_sums(folder.parent)[0]):
                raise ToolkitError.gather(problems)
            return folder, _run_of(folder)
    try:
        run = find_run(text)
    except ToolkitError as error:
        what = f"no adapter, checkpoint or run of this name (runs are looked for in {runs_root()})"
        raise ToolkitError(what, where=text, hint=error.problems[0].hint) from error
    if is_adapter(run.adapter):
        return run.adapter, run
    if run.manifest().get("method") == "full":
        hint = f"Go on from its model: --model {run.model}"
        raise ToolkitError("this run trained every weight and has no adapter", where=text, hint=hint)
    hint = f"Go on with the run itself: toolkit finetune --resume {run.name}"
    raise ToolkitError("this run has no finished adapter yet", where=text, hint=hint)


def _run_of(folder: Path) -> RunFolder | None:
    """Return the run of `<run>/adapter` or `<run>/checkpoints/step-000100/adapter`."""
    parents = folder.resolve().parents
    return next((RunFolder(path) for path in (parents[0], *parents[2:3]) if is_run(path)), None)


def _with_method(config: FinetuneConfig, run: RunFolder | None) -> FinetuneConfig:
    """Take `method` and `base` from the adapter's run, unless they were given: on a quantised base it goes on there."""
    if run is None or not run.config_path.is_file() or "method" in config.model_fields_set:
        return config
    of_run = load_config(FinetuneConfig, run.config_path)
    base = config.base if "base" in config.model_fields_set else of_run.base
    return config.model_copy(update={"method": of_run.method, "base": base})


def _find_base(config: FinetuneConfig, adapter: Adapter, run: RunFolder | None) -> tuple[FinetuneConfig, ModelFacts]:
    base = adapter.config.get("base_model_name_or_path")
    if "model" in config.model_fields_set:
        facts = find_model(config.model)
        if _is_another(base, facts, run):
            hint = f"Leave --model out, or give {base}"
            raise ToolkitError(f"the adapter was trained on another model, {base}", where=config.model, hint=hint)
        return config, facts
    if not base:
        hint = "Say which it is: --model with a folder or hub name"
        raise ToolkitError("the adapter does not name its base model", where=adapter.folder, hint=hint)
    try:
        facts = find_model(str(base))
    except ToolkitError as error:
        what = f"the adapter's base model cannot be had: {error.problems[0]}"
        raise ToolkitError(what, where=adapter.folder, hint="Say where it is now: --model") from error
    return config.model_copy(update={"model": str(base)}), facts


def _is_another(base: Any, facts: ModelFacts, run: RunFolder | None) -> bool:
    """Say whether a model is known to be another one than the adapter's base; not knowing is no."""
    known = run.manifest().get("model_sha256") if run else None
    if known is not None:
        return known != facts.sha256()
    if not base or str(base) == facts.name:
        return False
    try:
        return find_model(str(base)).sha256() != facts.sha256()
    except ToolkitError:
        return False


def _settings(given: LoraConfig, adapter: Adapter, facts: ModelFacts) -> tuple[LoraConfig, list[Problem]]:
    """Return the section `lora` that is the adapter's, and a problem for each option that contradicts it."""
    where = str(adapter.folder)
    problems = [
        Problem(f"an adapter with {key} can be used and exported, but not trained on", where)
        for key in ("rank_pattern", "alpha_pattern")
        if adapter.config.get(key)
    ]
    if adapter.is_dora and adapter.is_rslora:
        problems.append(
            Problem("an adapter that is DoRA and rsLoRA at once can be exported, but not trained on", where)
        )
    lora = LoraConfig(
        rank=int(adapter.config["r"]),
        alpha=float(adapter.config["lora_alpha"]),
        variant="dora" if adapter.is_dora else "rslora" if adapter.is_rslora else "lora",
        target_modules=_targets(adapter, facts),
        dropout=given.dropout if "dropout" in given.model_fields_set else _dropout(adapter),
    )
    for key in ("rank", "alpha", "variant"):
        asked, own = getattr(given, key), getattr(lora, key)
        if key in given.model_fields_set and asked != own:
            problems.append(Problem(f"{asked} was asked for, but the adapter has {own}", f"lora.{key}", _LEAVE_OUT))
    if given.target_modules and _matching(given, facts) != set(adapter.modules):
        asked, own = ", ".join(given.target_modules), ", ".join(lora.target_modules or ())
        what = f"{asked} was asked for, but the adapter has {own}"
        problems.append(Problem(what, "lora.target_modules", _LEAVE_OUT))
    return lora, problems


def _targets(adapter: Adapter, facts: ModelFacts) -> tuple[str, ...]:
    """Return the shortest names that mean the adapter's modules and no others."""
    last = tuple(sorted({module.rpartition(".")[2] for module in adapter.modules}))
    return last if _matching(LoraConfig(target_modules=last), facts) == set(adapter.modules) else adapter.modules


def _matching(lora: LoraConfig, facts: ModelFacts) -> set[str]:
    return set(filter(lora.targets, (name.removesuffix(".weight") for name in facts.block_matrices)))


def _dropout(adapter: Adapter) -> float:
    return float(adapter.config.get("lora_dropout") or 0.0)
