"""TRL's GRPOTrainer for multi-image prompts, with what GRPO-SIF adds.

Six things are added, each in one named place, and nothing of TRL's loss is touched:

- prompts shared by their group, when sampling (`_generate_single_turn`) and when learning
  (`_get_per_token_logps_and_entropies`), where the recipe asks for it; otherwise TRL's own code runs;
- prompts as a colocated vLLM takes them (`placeholders`);
- an order of questions that is a function of the seed (`order`), so that a run that goes on asks the same;
- the memory of the progress bonus goes into checkpoints, and rests during evaluations;
- checkpoints that are known to be whole, and are gone on from whatever names transformers writes their weights under;
- what was sampled is told to listeners (tables, the trajectory).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOTrainer
from trl.models.utils import unwrap_model_for_generation

from sifthinker.policy.errors import DataError, UsageError
from sifthinker.training import checkpoints
from sifthinker.training.grpo.attention import rows_of
from sifthinker.training.grpo.order import RoundSampler, order_of
from sifthinker.training.grpo.rollout import Sampling, sample
from sifthinker.training.grpo.sharing import Completions, Prompts, distinct, install
from sifthinker.training.grpo.tables import Rollouts
from sifthinker.training.rewards import ProgressMemory
from sifthinker.training.sft.resuming import restore

PROGRESS = "progress.json"
"""The memory of the progress bonus, in a checkpoint."""


class FocusGRPOTrainer(GRPOTrainer):
    """See the module.

    Args:
        memory: of the progress bonus.
        share_prompts: compute a prompt once for its group.
        on_rollouts: told of each round of sampling in training, in every process.
        on_saved: writes what else belongs into a checkpoint before it appears.
        keep: checkpoints kept.
        arguments: TRL's.
    """

    def __init__(
        self,
        *,
        memory: ProgressMemory,
        share_prompts: bool = False,
        on_rollouts: Callable[[Rollouts], None] | None = None,
        on_saved: Callable[[Path], None] | None = None,
        keep: int = 2,
        **arguments: Any,
    ) -> None:
        self._epochs = float(arguments["args"].num_train_epochs)
        arguments["args"].num_train_epochs = 1  # the order of the questions has the epochs
        super().__init__(**arguments)
        self.memory = memory
        self.share_prompts = share_prompts
        self.on_rollouts = on_rollouts
        self.on_saved = on_saved
        self.keep = keep
        self._staging = False
        self._owner: Tensor | None = None  # of the rows of the round that is being sampled, or of the batch learnt from
        if share_prompts:
            install(self._bare(self.model))
            if self.ref_model is not None:
                install(self._bare(self.ref_model))

    def _get_train_sampler(self, dataset: Any = None) -> RoundSampler:
        rows = len(self.train_dataset if dataset is None else dataset)
        return order_of(rows, self.args, epochs=self._epochs, shuffle=self.shuffle_dataset)

    # ── sampling ──

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        numbers: dict[str, int] = {}
        self._owner = torch.tensor([numbers.setdefault(str(row["id"]), len(numbers)) for row in inputs])
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        output["owner"] = self._owner
        return output

    def _generate_single_turn(
        self,
        prompt_ids: list[list[int]],
        images: list[Any] | None,
        multimodal_fields: dict[str, Any],
        num_generations: int,
        has_tool_images: bool = False,
    ) -> tuple[list[list[int]], Any]:
        if self.use_vllm and self.vllm_mode == "colocate" and images is not None:
            pad = self._image_pad_token_id
            prompt_ids = [placeholders(row, pad, len(some or ())) for row, some in zip(prompt_ids, images, strict=True)]
        if not self.share_prompts or self._owner is None:
            completions, logprobs = super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images
            )
            return completions, logprobs
        counts = [len(some or ()) for some in images] if images is not None else None
        device = self.accelerator.device
        prompts = on_device(self._distinct(prompt_ids, multimodal_fields, counts), device)
        sampling = Sampling(
            self.max_completion_length,
            self.temperature,
            self.eos_token_ids,
            [index for index in (self._image_pad_token_id, self._video_pad_token_id) if index is not None],
        )
        with (
            unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model,
            torch.autocast(device.type, torch.bfloat16) if self.args.bf16 else nullcontext(),
        ):
            learning = model.training
            model.eval()
            bare = self._bare(model)
            completions = sample(bare, prompts, self._owner.to(device), sampling)
            model.train(learning)
        return completions, None

    def _distinct(self, prompt_ids: list[list[int]], fields: dict[str, Any], images: list[int] | None) -> Prompts:
        """The distinct prompts of a round, from the rows that TRL has prepared."""
        assert self._owner is not None
        longest = max(map(len, prompt_ids))

        def padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
            return torch.tensor([[fill] * (longest - len(row)) + list(row) for row in rows])

        mask = padded([[1] * len(row) for row in prompt_ids], 0)
        vision: dict[str, Tensor | None] = {
            name: torch.as_tensor(fields[name]) for name in ("pixel_values", "image_grid_thw") if name in fields
        }
        if "mm_token_type_ids" in fields:
            vision["mm_token_type_ids"] = padded(fields["mm_token_type_ids"], 0)
        return distinct(padded(prompt_ids, self._tokenizer.pad_token_id), mask, self._owner, vision, images)

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: list[Any], completions: list[Any], completion_ids_list: list[Any]
    ) -> Tensor:
        learning = self.model.training
        self.memory.recording = learning
        before = [self.memory.previous(str(row["id"])) for row in inputs]
        rewards: Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self.memory.recording = True
        if learning and self.on_rollouts is not None:
            start = self.accelerator.process_index * len(inputs)
            own = rewards[start : start + len(inputs)].tolist()
            named = {
                name: [None if row[column] != row[column] else row[column] for row in own]
                for column, name in enumerate(self.reward_func_names)
            }
            texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
            step = self.state.global_step + 1
            self.on_rollouts(Rollouts(step, inputs, texts, completion_ids_list, named, before))
        return rewards

    # ── learning ──

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self._owner = inputs.get("owner")
        loss: Tensor = super()._compute_loss(model, inputs)
        return loss

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **vision: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        owner = self._owner
        if not self.share_prompts or owner is None or compute_aux_loss or len(owner) != len(input_ids):
            logps, entropies, aux = super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy,
                compute_aux_loss,
                **vision,
            )
            return logps, entropies, aux
        owner = torch.unique(owner, return_inverse=True)[1].to(input_ids.device)
        ids, mask = input_ids[:, -logits_to_keep:], attention_mask[:, -logits_to_keep:]
        prompts = distinct(
            input_ids[:, :-logits_to_keep],
            attention_mask[:, :-logits_to_keep],
            owner,
            {name: vision.get(name) for name in ("pixel_values", "image_grid_thw", "mm_token_type_ids")},
            vision.get("num_images"),
        )
        rows = rows_of(owner, mask)
        assert rows.places is not None
        tokens = ids[rows.places[0], rows.places[1]][None]  # (1, T)
        with self.accelerator.autocast():
            outputs = model(
                input_ids=tokens, shift_labels=tokens, fused_lm_head=True, completions=Completions(prompts, rows)
            )

        def laid_out(values: Tensor) -> Tensor:
            return values.new_zeros(ids.shape).index_put((rows.places[0], rows.places[1]), values[0])  # type: ignore[index]

        return laid_out(outputs.log_probs), laid_out(outputs.entropy) if compute_entropy else None, None

    def _bare(self, model: Any) -> Any:
        """The model itself: without processes' wrappers and adapters around it."""
        bare = self.accelerator.unwrap_model(model)
        return bare.get_base_model() if hasattr(bare, "get_base_model") else bare

    # ── checkpoints ──

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: a policy's card is written from the run's records, not from TRL's template."""

    def _get_output_dir(self, trial: Any) -> str:
        folder = str(super()._get_output_dir(trial))
        return os.path.join(folder, checkpoints.SAVING) if self._staging else folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint aside, then put it in its place whole."""
        folder, name = Path(self.args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staged = folder / checkpoints.SAVING / name
        self._staging = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = False
        self.accelerator.wait_for_everyone()  # each process writes its own random state
        if self.args.should_save:
            (staged / PROGRESS).write_text(json.dumps(self.memory.state_dict()), encoding="utf-8")
            if self.on_saved is not None:
                self.on_saved(staged)
            checkpoints.publish(staged, folder / name)
            checkpoints.rotate(folder, self.keep)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """As transformers', but a model without an adapter gets all of its weights, or none."""
        if hasattr(self.model, "get_base_model"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            restore(self.model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        path = Path(checkpoint) / PROGRESS
        try:
            self.memory.load_state_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path} cannot be read ({error}): remove that checkpoint to go on from the last."
            ) from error


def placeholders(ids: Sequence[int], pad: int | None, images: int) -> list[int]:
    """A prompt with one token for each image, where the processor has put as many as the image has features.

    A colocated vLLM looks at the images itself and puts the tokens of their features in place of the first that it
    finds, whatever follows; TRL (1.16) hands it the processor's. A server is told where they lie, and needs them all.

    Args:
        ids: of the prompt.
        pad: the token that stands for an image.
        images: in the prompt.

    Raises:
        UsageError: the model marks its images otherwise than by one run of that token each.
    """
    kept = [token for place, token in enumerate(ids) if token != pad or place == 0 or ids[place - 1] != pad]
    if (found := sum(token == pad for token in kept)) != images:
        raise UsageError(
            f"A colocated vLLM is handed one run of image tokens for each of {images} images, and this model's prompt "
            f"has {found}: say use_vllm: false."
        )
    return kept


def on_device(prompts: Prompts, device: torch.device) -> Prompts:
    """Prompts with their tensors on a device."""
    vision = {name: tensor.to(device) for name, tensor in prompts.vision.items()}
    return Prompts(prompts.ids.to(device), prompts.mask.to(device), prompts.kinds.to(device), vision)


def everyone(rows: list[Any]) -> list[Any]:
    """The rows of all processes, in the order of the processes."""
    gathered: list[Any] = gather_object(rows)
    return gathered
