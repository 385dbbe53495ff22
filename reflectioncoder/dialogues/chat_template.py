"""The chat template of a trained model, with which servers write conversations in the format of appendix C.

The content of a message is a string, null, or a list of parts, in every role: servers such as vLLM make a list of
every string. Parts are those of the OpenAI interface (`{"type": "text", "text": ...}`, joined by line breaks) or, in
training data, blocks of a type (`{"type": "code", "content": ...}`). The text of system and developer messages begins
the next user message, because the format has no such roles.

Servers tokenize the rendered text as one string, so the template breaks up special tokens inside content ("<|user|>"
becomes "<| user|>"). `tokens.encode_dialogue` keeps such text unchanged and encodes it as plain text.
"""

from __future__ import annotations

from reflectioncoder.dialogues.tokens import SPECIAL_TOKENS

CHAT_TEMPLATE = """\
{%- macro clean(text) -%}
{%- set out = namespace(text=text) -%}
{%- for name in @NAMES@ -%}
{%- set out.text = out.text | replace('<|' + name + '|>', '<| ' + name + '|>') -%}
{%- endfor -%}
{%- if eos_token %}{% set out.text = out.text | replace(eos_token, eos_token[:1] + ' ' + eos_token[1:]) %}{% endif -%}
{%- if bos_token %}{% set out.text = out.text | replace(bos_token, bos_token[:1] + ' ' + bos_token[1:]) %}{% endif -%}
{{- out.text -}}
{%- endmacro -%}
{%- macro block(type, text) -%}
{{- '<|' + type + '|>' }}{{ clean(text) }}{{ '<|endofblock|>' -}}
{%- endmacro -%}
{%- macro joined(content) -%}
{%- if content is string -%}
{{- content -}}
{%- elif content is iterable -%}
{%- for part in content -%}
{{- '' if loop.first else '\n' -}}
{%- if part is string -%}
{{- part -}}
{%- elif part['text'] is string -%}
{{- part['text'] -}}
{%- elif part['content'] is string -%}
{{- part['content'] -}}
{%- else -%}
{{- raise_exception('a part of type ' + (part['type'] | string) + ' has no text; this model reads text only') -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- macro blocks(content, before) -%}
{%- set typed = namespace(found=false) -%}
{%- if content is not string and content is iterable -%}
{%- for part in content if part is not string -%}
{%- if part['content'] is string or part['type'] in ['code', 'execution'] %}{% set typed.found = true %}{% endif -%}
{%- endfor -%}
{%- endif -%}
{%- if typed.found -%}
{%- for part in content -%}
{{- block(part['type'], (before if loop.first else '') + joined([part])) -}}
{%- endfor -%}
{%- else -%}
{{- block('text', before + joined(content)) -}}
{%- endif -%}
{%- endmacro -%}
{%- set state = namespace(system='') -%}
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] in ['system', 'developer'] -%}
{%- set text = joined(message['content']) -%}
{%- if text %}{% set state.system = state.system + text + '\n\n' %}{% endif -%}
{%- elif message['role'] == 'user' -%}
{{- '<|user|>' }}{{ blocks(message['content'], state.system) }}{{ '<|endofmessage|>' -}}
{%- set state.system = '' -%}
{%- elif message['role'] == 'assistant' -%}
{{- '<|assistant|>' }}{{ blocks(message['content'], '') }}{{ '<|endofmessage|>' -}}
{%- else -%}
{{- raise_exception('role ' + message['role'] + ' is not one of system, developer, user, assistant') -}}
{%- endif -%}
{%- endfor -%}
{%- if state.system %}{{ '<|user|>' }}{{ block('text', state.system[:-2]) }}{{ '<|endofmessage|>' }}{% endif -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>' + ('' if reflect else '<|text|>') -}}
{%- endif -%}
""".replace("@NAMES@", str([token[2:-2] for token in SPECIAL_TOKENS]))
