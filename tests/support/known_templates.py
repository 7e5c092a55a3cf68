"""Chat templates that write what those of known models write for system, user and assistant messages.

They are our own words for the published structure: who is marked how, what is put first, what of an earlier answer is
dropped, what ends a prompt. Tools, which most of the originals know, are left out but for Qwen3's mark of them.
"""

from __future__ import annotations

# DeepSeek-R1-Distill-*: BOS and the system's words stand bare, an answer's thinking is dropped, and the prompt ends in
# an opened thought. As first published it ended in the mark of the assistant.
_R1 = (
    "{{ bos_token }}{% for message in messages if message['role'] == 'system' %}{{ message['content'] }}{% endfor %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<｜User｜>{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}"
    "<｜Assistant｜>{{ message['content'].split('</think>')[-1] }}<｜end▁of▁sentence｜>"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>%s{% endif %}"
)
R1_DISTILL = _R1.replace("%s", "<think>\n")
R1_DISTILL_EARLY = _R1.replace("%s", "")

_CHATML_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}<|im_start|>system\n{{ messages[0]['content'] }}<|im_end|>\n{% endif %}"
)
# Qwen2.5: a system message of the model's own where there is none.
_QWEN25 = (
    "<|im_start|>system\n"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% else %}%s{% endif %}<|im_end|>\n"
    "{% for message in messages %}{% if not (loop.first and message['role'] == 'system') %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN25 = _QWEN25.replace("%s", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.")
QWEN25_MATH = _QWEN25.replace("%s", "Please reason step by step, and put your final answer within \\boxed{}.")

# QwQ: no system message of its own, an answer's thinking is dropped, the prompt ends in an opened thought.
QWQ = (
    _CHATML_SYSTEM + "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|im_start|>assistant\n{{ message['content'].split('</think>')[-1].lstrip('\\n') }}<|im_end|>\n"
    "{% elif not (loop.first and message['role'] == 'system') %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)

# Qwen3: the thinking of answers before the last question is dropped, that of later ones is kept;
# `enable_thinking=false` puts an empty thought.
QWEN3 = (
    _CHATML_SYSTEM + "{% set ns = namespace(last=-1) %}"
    "{% for message in messages %}{% if message['role'] == 'user' and not"
    " (message['content'].startswith('<tool_response>') and message['content'].endswith('</tool_response>')) %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for message in messages %}{% set content = message['content'] %}"
    "{% if message['role'] == 'assistant' %}<|im_start|>assistant\n"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n')"
    " if '</think>' in content else '' %}"
    "{% set said = content.split('</think>')[-1].lstrip('\\n') %}"
    "{% if loop.index0 > ns.last and (loop.last or thought) %}"
    "<think>\n{{ thought }}\n</think>\n\n{{ said }}{% else %}{{ said }}{% endif %}<|im_end|>\n"
    "{% elif not (loop.first and message['role'] == 'system') %}"
    "<|im_start|>{{ message['role'] }}\n{{ content }}<|im_end|>\n"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)

# Llama 3.2 Instruct: always a system message, with two dates; contents are stripped.
LLAMA32 = (
    "{{ bos_token }}{% if date_string is not defined %}"
    "{% set date_string = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: {{ date_string }}\n\n"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] | trim }}{% endif %}<|eot_id|>"
    "{% for message in messages %}{% if not (loop.first and message['role'] == 'system') %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)

# Mistral Instruct: turns must alternate; the marks are plain text to v0.1 and control tokens to v0.3.
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}[INST] {{ message['content'] }} [/INST]"
    "{% else %}{{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)

# Gemma: the assistant is the model, and there is no system.
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
