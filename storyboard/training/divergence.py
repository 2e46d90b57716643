"""Whether a training diverges, by its losses."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from storyboard.errors import TrainingError
from storyboard.training.hyperparameters import Hyperparameters

WINDOW = 20  # steps whose mean loss is judged: a single one depends on its timesteps
RISEN = 3.0  # times the first mean: steps were too large, whatever the loss does later
WORSE = 2.0  # times the first loss, where a base begins worse than no answer


@dataclass
class LossWatch:
    """Looks at the losses of a training after each step.

    Args:
        no_answer: The loss of a UNet that answers 0. Noise has a mean square of 1, and so has v
            where latents have, so it is the mean weight of timesteps, summed over a step's batches.
    """

    no_answer: float
    hyperparameters: Hyperparameters
    has_told: bool = False

    def look(self, losses: Sequence[float]) -> None:
        """Print a line, once, where the loss has risen well above where it began.

        Args:
            losses: Of all steps so far, one at least.

        Raises:
            TrainingError: The last loss is not finite, or the mean of the last is above that of no
                answer. At usual rates it stays below a tenth of that.
        """
        step, total = len(losses), self.hyperparameters.train_steps
        rate = self.hyperparameters.learning_rate
        if not math.isfinite(losses[-1]):
            raise TrainingError(
                f"The loss is {losses[-1]} at step {step} of {total}: halve learning_rate "
                f"({rate:g}) and run this cell again; the earlier LoRA is untouched."
            )
        if step < 2 * WINDOW:
            return

        first, last = _mean(losses[:WINDOW]), _mean(losses[-WINDOW:])
        if last > max(self.no_answer, WORSE * losses[0]):
            raise TrainingError(
                f"The loss rose from {first:.2f} to {last:.2f} by step {step} of {total}, "
                f"where no answer would cost {self.no_answer:.2f}: halve learning_rate ({rate:g}) "
                "and run this cell again; the earlier LoRA is untouched."
            )
        if last > RISEN * first and not self.has_told:
            self.has_told = True
            print(
                f"train: the loss rose from {first:.2f} to {last:.2f} by step {step}, "
                f"learning_rate={rate:g} may be too large: look at the previews",
                flush=True,
            )


def _mean(losses: Sequence[float]) -> float:
    return sum(losses) / len(losses)
