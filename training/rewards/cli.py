"""`sifthinker rewards`: what completions earn, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sifthinker.agent.words import plain

if TYPE_CHECKING:
    from sifthinker.training.rewards.explain import Explanation

app = typer.Typer(add_completion=False, help="What completions earn in training, and why.", no_args_is_help=True)


@app.command()
def explain(
    file: Annotated[Path, typer.Argument(help="JSON or JSONL: completion, answer, options, boxes, depth (a path).")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
    limit: Annotated[int | None, typer.Option(help="Only so many completions.", min=1)] = None,
) -> None:
    """Show each reward of each completion, robust and published, with what it comes from.

    Answers are verified without a judge; a free text earns its similarity.
    """
    from sifthinker.training.rewards.explain import explain as explained
    from sifthinker.training.rewards.explain import read_records

    records = read_records(file)[:limit]
    found = [explained(record, file.parent, number=number) for number, record in enumerate(records, 1)]
    if as_json:
        typer.echo(json.dumps({"completions": [one.model_dump() for one in found], "means": _means(found)}))
        return
    console = Console(highlight=False)
    for one in found:
        console.print(_table(one))
    if len(found) > 1:
        table = Table("", "robust", "published", title=f"Means of {len(found)} completions", title_justify="left")
        for name, means in _means(found).items():
            table.add_row(name, f"{means['robust']:.3f}", f"{means['published']:.3f}")
        console.print(table)


@app.command()
def attacks(
    count: Annotated[int, typer.Option(help="Questions of the block world.", min=1)] = 40,
    seed: Annotated[int, typer.Option(help="Which questions.")] = 0,
) -> None:
    """Show what attacks on the rewards earn beside the honest trace, by the robust and by the published forms."""
    import numpy as np

    from sifthinker.training.rewards.attacks import (
        ATTACKS,
        REWARDS,
        WRONG_ANSWERS,
        answering,
        earned,
        honest,
        open_sample,
        world_samples,
    )

    samples = list(world_samples(count, seed=seed))
    table = Table(title=f"Mean rewards on {count} questions: robust / published (bold: more than the honest trace)")
    for name in ("", *REWARDS, "sum"):
        table.add_column(name, justify="left" if not name else "right")
    best: dict[tuple[str, str], float] = {}
    for attack, said in {"honest": honest, **ATTACKS}.items():
        rewards = earned([said(sample) for sample in samples], samples)
        cells = []
        for name in (*REWARDS, "sum"):
            cell = Text()
            for form, values in rewards.items():
                parts = [values[name]] if name != "sum" else list(values.values())
                mean = float(np.sum(parts) / len(samples))
                over = mean > best.setdefault((form, name), mean) + 1e-9
                cell.append(" / " if cell else "").append(f"{mean:.2f}", style="bold red" if over else "")
            cells.append(cell)
        table.add_row(attack, *cells)
    console = Console(highlight=False)
    console.print(table)
    table = Table("", "right", "said", "earns", title="Wrong answers to questions without options: robust / published")
    for attack, (question, truth, wrong) in WRONG_ANSWERS.items():
        sample = open_sample(samples[0], question, truth)
        rewards = earned([answering(sample, wrong)], [sample])
        robust, published = (rewards[form]["answer"][0] for form in ("robust", "published"))
        table.add_row(attack, truth, wrong, f"{robust:.2f} / {published:.2f}")
    console.print(table)


def _table(one: Explanation) -> Table:
    """A completion's rewards, a line each."""
    asked = f"{one.question}\n" if one.question else ""
    said = "no answer" if one.said is None else f"“{one.said[:200]}”"
    title = Text(plain(f"{one.id} · {asked}{said}, right is “{one.answer}”"))
    table = Table(title=title, title_justify="left", show_lines=True, expand=False)
    table.add_column("reward")
    table.add_column("robust", justify="right")
    table.add_column("published", justify="right")
    table.add_column("why", overflow="fold")
    for name, reward in one.rewards.items():
        why = Text(plain("\n".join(reward.why)))
        if reward.published_why and reward.published_why != reward.why:
            why.append(plain("\npublished: " + ", ".join(reward.published_why)), style="dim")
        table.add_row(name, f"{reward.robust:.3f}", f"{reward.published:.3f}", why)
    table.add_row("sum", f"{one.robust:.3f}", f"{one.published:.3f}", "")
    return table


def _means(found: Sequence[Explanation]) -> dict[str, dict[str, float]]:
    """Mean of each reward over the completions."""
    if not found:
        return {}
    names = list(found[0].rewards)
    return {
        name: {
            "robust": sum(one.rewards[name].robust for one in found) / len(found),
            "published": sum(one.rewards[name].published for one in found) / len(found),
        }
        for name in names
    }
