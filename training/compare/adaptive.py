"""The rule of mode adaptive in a comparison: found once, the same for every question and worker, and written down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field

from sifthinker.agent.config import focus_config
from sifthinker.nodes.weigh import rule_for
from sifthinker.policy.base import Policy
from sifthinker.policy.calibration_store import calibration_of

RULE_SETTINGS = frozenset({"confidence_threshold", "depth_tolerance"})
"""Settings of a run that are the rule's: no other mode depends on them."""


class AdaptiveRule(BaseModel):
    """When mode adaptive goes on to tools, and where that is from. A bound that is None plays no part."""

    confidence_threshold: float | None
    depth_tolerance: float | None
    source: Literal["given", "learnt", "default"]
    data: str = Field(default="", description="Name of the questions that it was learnt on.")
    data_sha256: str = Field(default="", description="Of these questions, as in `results.json`.")

    @property
    def bounds(self) -> dict[str, float | None]:
        """What the answers depend on."""
        return {"confidence_threshold": self.confidence_threshold, "depth_tolerance": self.depth_tolerance}

    @property
    def settings(self) -> dict[str, float]:
        """The rule as settings of a run: a bound that plays no part is one that nothing crosses."""
        threshold, tolerance = self.confidence_threshold, self.depth_tolerance
        return {
            "confidence_threshold": 0.0 if threshold is None else threshold,
            "depth_tolerance": 1.0 if tolerance is None else tolerance,
        }


def adaptive_rule(policy: Policy, settings: Mapping[str, Any]) -> AdaptiveRule:
    """The rule that a policy is asked with now.

    Args:
        policy: a calibration of it may be stored.
        settings: fields of `FocusConfig`; a bound that they give wins.
    """
    config = focus_config(**settings)
    rule = rule_for(policy, config)
    learnt = calibration_of(policy) if rule.source == "learnt" else None
    return AdaptiveRule(
        confidence_threshold=rule.confidence_threshold,
        depth_tolerance=rule.depth_tolerance,
        source=rule.source,
        data="" if learnt is None else learnt.data,
        data_sha256="" if learnt is None else learnt.data_sha256,
    )


def remarks(rules: Mapping[str, AdaptiveRule], data_sha256: str) -> list[str]:
    """What is to be kept in mind of the rules, by policy, on the questions of that hash."""
    told = []
    for name, rule in rules.items():
        if rule.data_sha256 == data_sha256:
            told.append(
                f"The rule of mode adaptive for {name} was learnt on these very questions: on others expect less of it."
            )
        elif rule.source == "default":
            told.append(
                f"No rule of mode adaptive was learnt for {name}: a confidence of {rule.confidence_threshold} is asked "
                "for. `sifthinker calibrate` learns one."
            )
    return told
