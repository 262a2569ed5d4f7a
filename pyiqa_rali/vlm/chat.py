"""How a prompt becomes the chat that a model sees, and what system message it has.

A chat template may insert a system message of its own where none is given: Qwen2.5-VL's does, Qwen3-VL's does not. A model that
was trained with another one is then asked something else, so the rendered chat can be inspected.
"""

from typing import Any

from jinja2 import TemplateError

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.vlm.prompts import Prompt

MARK = 'system-message-goes-here'


def messages_of(prompt: Prompt) -> list[dict[str, Any]]:
    """Return the conversation in transformers' form: the system message if there is one, then the picture and the question."""
    question = [{'type': 'image'}, {'type': 'text', 'text': prompt.question}]
    system = [] if prompt.system is None else [{'role': 'system', 'content': [{'type': 'text', 'text': prompt.system}]}]
    return [*system, {'role': 'user', 'content': question}]


def training_messages_of(prompt: Prompt) -> list[dict[str, str]]:
    """Return the same conversation in TRL's form; TRL itself puts the picture before the question."""
    system = [] if prompt.system is None else [{'role': 'system', 'content': prompt.system}]
    return [*system, {'role': 'user', 'content': prompt.question}]


def rendered_chat(processor: Any, prompt: Prompt) -> str:
    """Return the chat as the model reads it, up to where its answer begins.

    Args:
        processor: transformers' processor with its chat template.
        prompt: what is asked.

    Raises:
        OptionError: there is a system message, and the template rejects it or leaves it out.
    """
    try:
        text = processor.apply_chat_template(messages_of(prompt), add_generation_prompt=True, tokenize=False)
    except TemplateError as error:
        if prompt.system is None:
            raise OptionError(f'this model has a chat template that cannot be filled in: {error}.') from error
        raise OptionError(f'system_prompt: the chat template of this model takes no system message ({error}). Put the text '
                          'at the beginning of score_prompt instead.') from error
    if prompt.system is not None and prompt.system.strip() not in text:
        raise OptionError('system_prompt: the chat template of this model leaves the system message out. Put the text at the '
                          'beginning of score_prompt instead.')
    return text


def template_system_message(processor: Any) -> str | None:
    """Return the system message that the chat template inserts by itself, or None when it inserts none."""
    bare = rendered_chat(processor, Prompt('?'))
    try:
        marked = rendered_chat(processor, Prompt('?', MARK))
    except OptionError:
        return None  # the template knows no system messages
    before, _, after = marked.partition(MARK)
    if not bare.startswith(before) or not bare.endswith(after) or len(bare) < len(before) + len(after):
        return None
    return bare[len(before):len(bare) - len(after)] or None


def what_is_asked(processor: Any, prompt: Prompt) -> dict[str, Any]:
    """Return what a model sees.

    Returns:
        'system_prompt' (text or None), 'system_prompt_from' (a sentence) and 'chat' (all that is rendered; the picture's
        tokens take the place of its placeholder).
    """
    own = template_system_message(processor) if prompt.system is None else prompt.system
    if prompt.system is not None:
        origin = 'the option system_prompt, or the card beside the weights'
    else:
        origin = 'none: the chat template puts in no message of its own' if own is None else "the chat template's own default"
    return {'system_prompt': own, 'system_prompt_from': origin, 'chat': rendered_chat(processor, prompt)}
