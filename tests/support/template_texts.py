"""The texts of stand-ins for the chat templates of well-known families: written anew, with what makes each special."""

from __future__ import annotations

_CHATML_TOOLS = """
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] }}{%- else %}{{- 'Be of help.' }}{%- endif %}
    {{- '\\n# Tools\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- elif default_system is defined %}
    {{- '<|im_start|>system\\n' + default_system + '<|im_end|>\\n' }}
{%- endif %}
"""
_TOOL_RESULT = """
    {%- elif message.role == 'tool' %}
        {%- if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
"""
_TOOL_CALLS = """
        {%- for call in message.tool_calls or [] %}
            {%- set call = call.function if call.function is defined else call %}
            {{- '\\n<tool_call>\\n{"name": "' ~ call.name ~ '", "arguments": ' ~ call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
"""
QWEN25 = f"""{_CHATML_TOOLS}
{{%- for message in messages %}}
    {{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}}
        {{{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}}}
    {{%- elif message.role == 'assistant' %}}
        {{{{- '<|im_start|>assistant' }}}}
        {{%- if message.content or not message.tool_calls %}}{{{{- '\\n' + message.content }}}}{{%- endif %}}
        {_TOOL_CALLS}
        {{{{- '<|im_end|>\\n' }}}}
    {_TOOL_RESULT}
    {{%- endif %}}
{{%- endfor %}}
{{%- if add_generation_prompt %}}{{{{- '<|im_start|>assistant\\n' }}}}{{%- endif %}}
"""
_NO_THOUGHT = """
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
"""
# Reasoning is shown after the last question of a person only; thinking can be turned off.
QWEN3 = f"""{_CHATML_TOOLS}
{{%- set found = namespace(query=messages | length - 1, searching=true) %}}
{{%- for message in messages[::-1] %}}
    {{%- set at = messages | length - 1 - loop.index0 %}}
    {{%- if found.searching and message.role == 'user' and not message.content.startswith('<tool_response>') %}}
        {{%- set found.searching = false %}}
        {{%- set found.query = at %}}
    {{%- endif %}}
{{%- endfor %}}
{{%- for message in messages %}}
    {{%- set content = message.content if message.content is string else '' %}}
    {{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}}
        {{{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}}}
    {{%- elif message.role == 'assistant' %}}
        {{%- set reasoning = '' %}}
        {{%- if message.reasoning_content is string %}}
            {{%- set reasoning = message.reasoning_content %}}
        {{%- elif '</think>' in content %}}
            {{%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}}
            {{%- set content = content.split('</think>')[-1].lstrip('\\n') %}}
        {{%- endif %}}
        {{{{- '<|im_start|>assistant\\n' }}}}
        {{%- if loop.index0 > found.query and (loop.last or reasoning) %}}
            {{{{- '<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}}}
        {{%- else %}}{{{{- content }}}}{{%- endif %}}
        {_TOOL_CALLS}
        {{{{- '<|im_end|>\\n' }}}}
    {_TOOL_RESULT}
    {{%- endif %}}
{{%- endfor %}}
{{%- if add_generation_prompt %}}
    {{{{- '<|im_start|>assistant\\n' }}}}
    {_NO_THOUGHT}
{{%- endif %}}
"""
# As QWEN3, but the prompt opens the reasoning, so that an answer does not.
QWEN3_THINKING = QWEN3.replace(_NO_THOUGHT, "{{- '<think>\\n' }}")
QWQ = """
{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{{- '<|im_start|>user\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' + message.content.split('</think>')[-1].lstrip('\\n') + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}
"""
R1 = """
{%- set top = namespace(system='') -%}
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}{%- set top.system = message['content'] -%}{%- endif -%}
{%- endfor -%}
{{- bos_token }}{{ top.system }}
{%- for message in messages -%}
    {%- if message['role'] == 'user' -%}{{ '<｜User｜>' + message['content'] }}
    {%- elif message['role'] == 'assistant' and message['content'] is not none -%}
        {%- set content = message['content'] -%}
        {%- if '</think>' in content -%}{%- set content = content.split('</think>')[-1] -%}{%- endif -%}
        {{ '<｜Assistant｜>' + content + eos_token }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<｜Assistant｜><think>\\n' }}{%- endif -%}
"""
LLAMA2 = """
{%- if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set messages = messages[1:] %}
{%- else %}{% set system = false %}{% endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- set content = message['content'] %}
    {%- if loop.first and system %}{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + content %}{% endif %}
    {%- if message['role'] == 'user' %}{{- bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
    {%- else %}{{- ' ' + content.strip() + ' ' + eos_token }}{% endif %}
{%- endfor %}
"""
LLAMA3 = """
{%- for message in messages %}
    {%- set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim %}
    {%- if loop.first %}{{- bos_token }}{% endif %}
    {{- content + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}
"""
LLAMA32 = """
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now('%Y') if strftime_now is defined else '2024' %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{%- if tools is not none %}{{- 'Environment: ipython\\n' }}{%- endif %}
{{- 'Today: ' + date_string + '\\n\\n' }}
{%- if messages[0]['role'] == 'system' %}
    {{- messages[0]['content'] | trim }}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- '<|eot_id|>' }}
{%- if tools is not none %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\nFunctions:\\n' }}
    {%- for tool in tools %}{{- tool | tojson(indent=4) }}{{- '\\n\\n' }}{%- endfor %}
    {{- messages[0]['content'] | trim + '<|eot_id|>' }}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}{{- raise_exception('one call at a time') }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}{{- '}<|eot_id|>' }}
    {%- elif message.role in ['tool', 'ipython'] %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + message.content + '<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {%- if message.content is string %}{{- message.content | trim }}
        {%- else %}
            {%- for part in message.content %}
                {%- if part['type'] == 'text' %}{{- part['text'] | trim }}{%- endif %}
            {%- endfor %}
        {%- endif %}
        {{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""
# Tools stand before the last question, so that they move from turn to turn.
MISTRAL = """
{%- set asked = namespace(last=-1) %}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}{%- set asked.last = loop.index0 %}{%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {%- if tools is not none and loop.index0 == asked.last %}
            {{- '[AVAILABLE_TOOLS][' }}
            {%- for tool in tools %}{{- tool | tojson }}{%- if not loop.last %}{{- ', ' }}{%- endif %}{%- endfor %}
            {{- '][/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST]' + message['content'] + '[/INST]' }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- '[TOOL_CALLS][' }}
        {%- for call in message.tool_calls %}{{- call.function | tojson }}{%- endfor %}
        {{- ']' + eos_token }}
    {%- elif message['role'] == 'assistant' %}{{- message['content'] + eos_token }}
    {%- elif message['role'] == 'tool' %}{{- '[TOOL_RESULTS]' + message['content'] + '[/TOOL_RESULTS]' }}
    {%- else %}{{- raise_exception('Only user, assistant and tool roles are supported.') }}
    {%- endif %}
{%- endfor %}
"""
GEMMA = """
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}{{- raise_exception('System role not supported') }}{%- endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate') }}
    {%- endif %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}
"""
# The end of a turn takes the line end behind it.
PHI = """
{%- for message in messages %}
    {%- if message['role'] == 'assistant' %}
        {{- '<|assistant|>\\n' }}{% generation %}{{- message['content'] + '<|end|>\\n' }}{% endgeneration %}
    {%- else %}{{- '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- else %}{{- eos_token }}{%- endif %}
"""
# Only the last turn is shown, and all that transformers gives.
LAST_ONLY = """
{%- for document in documents or [] %}{{- '[' ~ document.title ~ ': ' ~ document.text ~ ']' }}{%- endfor %}
{%- for message in messages %}
    {%- if loop.index0 < messages | length - 1 %}{% continue %}{% endif %}
    {{- bos_token ~ sep_token ~ mask_token ~ (tools is not none) ~ (documents is none) ~ message.content }}
{%- endfor %}
"""
