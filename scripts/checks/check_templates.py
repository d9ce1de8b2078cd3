"""Compares chat templates as Bonfire renders them with Transformers' apply_chat_template, byte by byte.

    pip install transformers jinja2
    python scripts/checks/check_templates.py FOLDER

Every .jinja file of FOLDER renders every conversation below, as a row of a data set, with and without a request that the
assistant speak. Transformers' clock is set to the day that Bonfire always has. Where Transformers refuses a conversation,
Bonfire must refuse it too. Published templates are, for example, in the folders chat_templates of huggingface/trl and of
chujiezheng/chat_templates.
"""

import argparse
import datetime
import json
import subprocess
import sys
from pathlib import Path

from transformers.utils import chat_template_utils

CARGO = ["cargo", "run", "--quiet", "--release", "--workspace", "--example", "render-chat"]

TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "sep_token": "<sep>",
    "cls_token": "<cls>",
    "mask_token": "<mask>",
}

CALL = {
    "type": "function",
    "id": "call12345",
    "function": {"name": "look", "arguments": {"z": 1, "b": [True, None, 1.5], "ä": "<ö>"}},
}
TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks for something.",
        "parameters": {"type": "object", "properties": {"z": {"type": "integer", "description": "how often"}}, "required": ["z"]},
        "return": {"type": "string"},
    },
}


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


ROWS = {
    "one turn": {"messages": [turn("user", " hello\nthere "), turn("assistant", "hi")]},
    "system and four turns": {
        "messages": [
            turn("system", "Be brief."),
            turn("user", "What's 2+2?"),
            turn("assistant", "4\n"),
            turn("user", "And é 日本 🙂?"),
            turn("assistant", " <b>&amp;'\"{{ x }} "),
        ]
    },
    "the user last": {"messages": [turn("user", "a"), turn("assistant", "b"), turn("user", "c")]},
    "a tool is called": {
        "messages": [
            turn("user", "look for it"),
            turn("assistant", None, tool_calls=[CALL]),
            turn("tool", '{"found": 3}', name="look", tool_call_id="call12345"),
            turn("assistant", "three"),
        ],
        "tools": [TOOL],
    },
    "something is thought": {
        "messages": [
            turn("user", "think"),
            turn("assistant", "so", reasoning_content="well\n"),
            turn("user", "again"),
            turn("assistant", "thus", reasoning_content="hm"),
        ]
    },
    "documents, parts of text and the row's own fields": {
        "messages": [
            turn("user", [{"type": "text", "text": "what is "}, {"type": "text", "text": "in it?"}]),
            turn("assistant", "this"),
        ],
        "documents": [{"title": "One", "text": "It is this."}],
        "enable_thinking": False,
        "date_string": "01 Jan 2025",
    },
}


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


def expected(template, row, prompt):
    row = dict(row)
    messages = chat_template_utils._normalize_chat_messages(row.pop("messages"))
    for message in messages:
        # Lists of text parts are put together, as templates that know text alone need it.
        if isinstance(message.get("content"), list):
            message["content"] = "".join(part["text"] for part in message["content"])
    tools, documents = row.pop("tools", None), row.pop("documents", None)
    rendered, _ = chat_template_utils.render_jinja_template(
        [messages], tools, documents, template, add_generation_prompt=prompt, **{**TOKENS, **row}
    )
    return rendered[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--renderer", help="the example render-chat, where it is built already")
    args = parser.parse_args()
    chat_template_utils.datetime = Clock
    jobs, wanted = [], []
    for path in sorted(args.folder.glob("*.jinja")):
        template = path.read_bytes().decode()
        for name, row in ROWS.items():
            for prompt in [False, True]:
                jobs.append({"template": template, "tokens": TOKENS, "row": row, "prompt": prompt})
                try:
                    text = expected(template, row, prompt)
                except Exception as error:  # noqa: BLE001  whatever a template does
                    text, wanted_error = None, f"{type(error).__name__}: {error}"
                wanted.append((path.name, name, prompt, text, None if text is not None else wanted_error))
    lines = "".join(json.dumps(job) + "\n" for job in jobs)
    command = [args.renderer] if args.renderer else CARGO
    done = subprocess.run(command, input=lines.encode(), stdout=subprocess.PIPE, check=True)
    got = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert len(got) == len(wanted)
    equal = refused = 0
    templates = set()
    for (file, name, prompt, text, error), answer in zip(wanted, got):
        templates.add(file)
        if text is None and "error" in answer:
            refused += 1
        elif text is not None and answer.get("text") == text:
            equal += 1
        else:
            print(f"{file}, {name}, prompt={prompt}:")
            print(f"  Transformers: {text if text is not None else error!r}" if text is None else f"  Transformers: {text!r}")
            print(f"  Bonfire:      {answer.get('text', answer.get('error'))!r}")
    all_of = len(wanted)
    print(
        f"{len(templates)} templates, {len(ROWS)} conversations: {equal} equal, {refused} refused by both, "
        f"{all_of - equal - refused} differ"
    )
    sys.exit(equal + refused != all_of)


if __name__ == "__main__":
    main()
