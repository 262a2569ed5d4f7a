"""How completions are drawn: settings of the sampler, and how the published models' own code draws them."""

from dataclasses import dataclass, replace
from typing import Any

from pyiqa_rali.core.errors import OptionError

LEFT_TO_CHECKPOINT = ('temperature', 'repetition_penalty')  # settings that may be left to the checkpoint


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Sampling:
    """Settings of a sampler, applied in this order as transformers does.

    Attributes:
        repetition_penalty: divides the logits of tokens that occurred before; 1 does nothing, None takes the value in the
            checkpoint's `generation_config.json`.
        temperature: of the softmax; None takes the checkpoint's.
        top_k: only so many most likely tokens may follow; None has no bound.
        top_p: only the most likely tokens that together have this probability; None has no bound.

    Raises:
        OptionError: a value cannot be used.
    """

    temperature: float | None = 1.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = 1.0

    def __post_init__(self) -> None:
        """Check the values."""
        if self.temperature is not None and not (_is_number(self.temperature) and self.temperature > 0):
            raise OptionError(f'temperature: {self.temperature!r} must be a number above 0; for no sampling use mode '
                              '"greedy".')
        if self.top_k is not None and (not isinstance(self.top_k, int) or isinstance(self.top_k, bool) or self.top_k < 1):
            raise OptionError(f'top_k: {self.top_k!r} must be a whole number of at least 1, or None for no bound.')
        if self.top_p is not None and not (_is_number(self.top_p) and 0 < self.top_p <= 1):
            raise OptionError(f'top_p: {self.top_p!r} must be above 0 and at most 1, or None for no bound.')

    def with_values_of(self, generation_config: Any) -> 'Sampling':
        """Return the settings with what is left to the checkpoint taken from its `GenerationConfig`; 1 where that is silent."""
        found = {name: getattr(generation_config, name, None) or 1.0 for name in LEFT_TO_CHECKPOINT}
        return replace(self, temperature=self.temperature or found['temperature'],
                       repetition_penalty=self.repetition_penalty or found['repetition_penalty'])


@dataclass(frozen=True)
class Release:
    """What the code of a published model does when it scores, and where its prompts can be read.

    Attributes:
        repository: on GitHub.
        prompts_file: the file of that repository that holds the prompts.
        prompts: which of `score_prompt` and `system_prompt` the model was trained with; without a system prompt of its own
            it was trained with the chat template's default.
        sampling: of the one completion that it draws.
        max_new_tokens: the longest completion.
    """

    repository: str
    prompts_file: str
    prompts: tuple[str, ...]
    sampling: Sampling
    max_new_tokens: int


# The two repositories' own code for scoring an image, read in 2026. Neither sets a repetition penalty, and VisualQuality-R1's
# sets no temperature either, so that transformers takes both from the checkpoint's generation_config.json.
RELEASES = {
    'qinsight': Release('bytedance/Q-Insight', 'src/eval/demo_score.py', ('score_prompt', 'system_prompt'),
                        Sampling(temperature=1.0, top_k=50, top_p=0.95, repetition_penalty=None), 1024),
    'visualquality-r1': Release('TianheWu/VisualQuality-R1', 'README.md', ('score_prompt',),
                                Sampling(temperature=None, top_k=50, top_p=1.0, repetition_penalty=None), 2048),
}


def missing_prompts(release: str, given: dict[str, Any]) -> str | None:
    """Return a message about the prompts of a published model that are not given, or None when all are.

    Args:
        release: a key of `RELEASES`.
        given: the values of `score_prompt` and `system_prompt`, None where there is none.
    """
    facts = RELEASES[release]
    missing = [name for name in facts.prompts if given.get(name) is None]
    if not missing:
        return None
    one, names = len(missing) == 1, ' and '.join(missing)
    return (f'{release}: {names} {"is" if one else "are"} not given, so the model is not asked as it was trained, and its '
            f'scores will not be the published ones. The published {"prompt is" if one else "prompts are"} in '
            f'{facts.prompts_file} of the GitHub repository {facts.repository}: write {"it" if one else "them"} into a YAML '
            f'file with the {"key" if one else "keys"} {names}, and give prompts="FILE.yml".')
