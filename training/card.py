"""The card of a trained policy, written from the record that lies beside its weights and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from sifthinker.policy.errors import UsageError

TRAINING_FILE = "training.json"
"""The record of a run beside weights: in every checkpoint, in the policy's folder, in what is merged of it."""
_LICENCES = {"embedded": "apache-2.0"}


def write_card(folder: Path, name: str, *, scores: Path | None = None, merged: str | None = None) -> None:
    """Write README.md beside the weights.

    Args:
        folder: of the weights; with `training.json` where they were trained here.
        name: of the policy.
        scores: what `sifthinker train score --json` wrote.
        merged: what was merged into what, where that was done.

    Raises:
        UsageError: the scores' file is something else.
    """
    path = folder / TRAINING_FILE
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    parts = [_head(record), f"# {name}\n", _what(record, merged)]
    if record:
        parts += [_how(record), _data(record), _scores(record)]
    if scores is not None:
        parts.append(_measured(scores))
    parts.append(_use(name))
    if record.get("versions"):
        parts.append("## Versions\n\n" + ", ".join(f"{k} {v}" for k, v in record["versions"].items()) + "\n")
    (folder / "README.md").write_text("\n".join(parts), encoding="utf-8")


def _head(record: dict[str, Any]) -> str:
    model = record.get("model", "")
    fields: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "image-text-to-text"}
    if model in _LICENCES:
        fields["license"] = _LICENCES[model]
    elif "/" in model and not model.startswith((".", "/", "~")) and model.count("/") == 1:
        fields["base_model"] = model
    return f"---\n{yaml.safe_dump(fields, sort_keys=True)}---\n"


def _what(record: dict[str, Any], merged: str | None) -> str:
    base = Path(record["model"]).name if record.get("model", "").startswith(("/", ".", "~")) else record.get("model")
    text = "A vision-language policy that speaks focus traces: areas with boxes and depths, what each shows, an answer."
    text += " Its boxes are shares of the image's width and height, depths run from 0 (near) to 1 (far)."
    if base:
        text += f" It began as `{base}`."
    if merged:
        text += f" {merged}"
    return text + "\n"


def _how(record: dict[str, Any]) -> str:
    recipe = dict(record.get("recipe", {}))
    shown = {key: value for key, value in recipe.items() if key not in ("data", "name", "report") and value is not None}
    trainable, parameters = record.get("trainable") or 0, record.get("parameters") or 0
    text = f"## How it was trained ({record.get('kind', 'sft')})\n\n"
    text += f"{trainable:,} of {parameters:,} parameters, {record.get('steps')} steps on {record.get('processes')} "
    text += f"process(es), begun {record.get('begun')}; the weights are {_which(record)}. Recipe:\n\n"
    return f"{text}```yaml\n{yaml.safe_dump(shown, sort_keys=False)}```\n"


def _which(record: dict[str, Any]) -> str:
    averaged = record.get("averaged") or 1
    step = f"of step {record.get('step')}"
    return f"those {step}" if averaged == 1 else f"the mean of the last {averaged} checkpoints, up to that {step}"


def _data(record: dict[str, Any]) -> str:
    data = record.get("data", {})
    lines = [f"## Data\n\n`{data.get('folder')}`: {data.get('records'):,} records, sha256 `{data.get('sha256')}`."]
    lines[0] += f" Trained on {record.get('trained_on'):,}, {record.get('asked'):,} held out.\n"
    for name in ("dataset", "teacher", "depth", "expansion"):
        if told := data.get(name):
            lines.append(f"- {name}: " + ", ".join(f"{key} {count:,}" for key, count in told.items()))
    return "\n".join(lines) + "\n"


def _scores(record: dict[str, Any]) -> str:
    asked = [line for line in record.get("scores", []) if "eval_score" in line]
    if not asked:
        return "## Scores while it was trained\n\nNone were taken.\n"
    names = sorted({name for line in asked for name in line if name.startswith("eval_") and not name.endswith("_n")})
    rows = ["| step | " + " | ".join(name[5:] for name in names) + " |", "|---" * (len(names) + 1) + "|"]
    for line in asked:
        mark = " (these weights)" if line["step"] == record.get("step") else ""
        rows.append(f"| {line['step']}{mark} | " + " | ".join(_number(line.get(name)) for name in names) + " |")
    told = f"{record.get('asked'):,} questions held out of the data, asked by the agent, greedily."
    return f"## Scores while it was trained\n\n{told}\n\n" + "\n".join(rows) + "\n"


def _measured(path: Path) -> str:
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        modes = {mode: told["modes"][mode]["scores"] for mode in told["modes"]}
        names = ["accuracy", "hiou", "valid", "depth_error", "seconds", "images", "tokens"]
        rows = ["| | " + " | ".join(modes) + " |", "|---" * (len(modes) + 1) + "|"]
        rows += [f"| {name} | " + " | ".join(_number(s.get(name)) for s in modes.values()) + " |" for name in names]
        head = f"{told['n']} questions, `{told['command']}`:"
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not what `sifthinker train score --json` writes: {error!r}") from None
    return f"## Scores\n\n{head}\n\n" + "\n".join(rows) + "\n"


def _use(name: str) -> str:
    return (
        "## Use\n\n```bash\n"
        f'sifthinker ask image.png "Which is closer, … or …?" --policy ./{name}\n'
        "```\n\nWith transformers alone: `AutoModelForImageTextToText.from_pretrained` and "
        "`AutoProcessor.from_pretrained` (an adapter goes through peft, or is merged first with `sifthinker merge`).\n"
    )


def _number(value: Any) -> str:
    return "–" if not isinstance(value, (int, float)) else f"{value:.3f}"
