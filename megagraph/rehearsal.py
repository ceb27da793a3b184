"""A scripted chat model: it plays every agent of a scenario, and no language model is called.

A script is a generator function per agent. What it yields is the agent's next turn; what it is sent back is
what the agent heard since. On every call the generator is replayed over the conversation, so the model keeps
no state of its own: it plays on after a crash, in another process, and behind an HTTP server.

    def tester(brief):
        heard = yield write_file("check.py", SOURCE), run_program("check.py")
        if "exit code 0" not in heard.text:
            heard = yield talk("coder", "check.py fails:\\n" + heard.text)
        yield finish("All checks pass.", ["check.py"])

    script = Script({"tester": tester})

A part can also be a plain function of the brief, which has all turns so far, and return the next turn. Only such a
one can play on where a long conversation was compacted and its beginning is not there any more.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeAlias

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable

from megagraph.errors import UsageError
from megagraph.specs import letters_in
from megagraph.tracing import wants_tokens

FAULT_PREFIX = "fault_"
"""Tool-call ids that begin so were spoilt on the wire by a test server; a replay passes over their turns."""

_PIECE = 16
"""Characters of a piece of a call's arguments, where the answer is streamed."""

_EARLIER = "<earlier>"
_NAME = re.compile(r"Your name is `([a-z0-9_]+)`")


@dataclass(frozen=True)
class Call:
    """One tool call of a turn."""

    tool: str
    args: Mapping[str, Any]


@dataclass(frozen=True)
class Heard:
    """What an agent heard between two of its turns."""

    results: tuple[str, ...] = ()
    """The tool results, in the order of the calls."""
    letters: tuple[tuple[str, str, str], ...] = ()
    """(sender, kind, text) of each letter; kinds are `message`, `report`, `failure` and `notice`."""
    text: str = ""
    """Everything heard, as one text."""

    def report_of(self, name: str) -> str | None:
        """The last report of `name` among the letters, or None."""
        return next((t for s, kind, t in reversed(self.letters) if s == name and kind == "report"), None)


@dataclass(frozen=True)
class Past:
    """A turn that the agent has taken, and what it heard after it."""

    calls: tuple[Call, ...]
    text: str
    heard: Heard


@dataclass(frozen=True)
class Brief:
    """Who the agent is and what it was given."""

    name: str
    task: str
    letters: tuple[tuple[str, str, str], ...] = ()
    """(sender, kind, text) of each letter that had come before its first turn."""
    past: tuple[Past, ...] = ()
    """The turns that it has taken, those that are still in its conversation."""
    earlier: str = ""
    """What it is told of those before, where its conversation was compacted."""


Turn: TypeAlias = str | Call | Sequence[str | Call]
Part: TypeAlias = Callable[[Brief], Generator[Turn, Heard, None] | Turn]


def call(tool: str, **args: Any) -> Call:
    """A call of any tool, by its name."""
    return Call(tool, args)


def recruit(*agents: Mapping[str, Any], work_on: bool = False) -> Call:
    return call("recruit", agents=[dict(a) for a in agents], work_on=work_on)


def talk(to: str | Sequence[str], message: str) -> Call:
    return call("talk", to=[to] if isinstance(to, str) else list(to), message=message)


def list_files(pattern: str = "") -> Call:
    return call("list_files", pattern=pattern)


def read_file(path: str) -> Call:
    return call("read_file", path=path)


def write_file(path: str, content: str) -> Call:
    return call("write_file", path=path, content=content)


def edit_file(path: str, old: str, new: str) -> Call:
    return call("edit_file", path=path, old=old, new=new)


def search_files(expression: str, pattern: str = "") -> Call:
    return call("search_files", expression=expression, pattern=pattern)


def run_program(path: str, args: Sequence[str] = (), stdin: str = "") -> Call:
    return call("run_program", path=path, args=list(args), stdin=stdin)


def update_todo(todo: Sequence[str], done: Sequence[str] = ()) -> Call:
    return call("update_todo", todo=list(todo), done=list(done))


def finish(summary: str, artefacts: Sequence[str] = ()) -> Call:
    return call("finish", summary=summary, artefacts=list(artefacts))


def wait_for(heard: Heard, names: Sequence[str]) -> Generator[Turn, Heard, dict[str, str]]:
    """Wait, with turns that ask for nothing, until each of `names` has reported; their reports by name.

    Use it as `reports = yield from wait_for(heard, ["coder", "tester"])`.
    """
    reports: dict[str, str] = {}
    while True:
        reports |= {sender: text for sender, kind, text in heard.letters if kind == "report"}
        missing = [name for name in names if name not in reports]
        if not missing:
            return reports
        heard = yield f"I wait for {', '.join(missing)}."


@dataclass(frozen=True)
class Script:
    """Parts by agent name. `default` plays the agents that have no part of their own."""

    parts: Mapping[str, Part]
    default: Part | None = None
    pace: float = 0.0
    """Seconds an answer takes, so that a rehearsal can be watched."""

    def answer(self, messages: Sequence[BaseMessage]) -> AIMessage:
        """The next turn of the agent whose conversation this is.

        Raises `UsageError` where the script has no part for the agent, or a part that cannot go on.
        """
        brief = read_brief(messages)
        part = self.parts.get(brief.name, self.default)
        if part is None:
            raise UsageError(f"the rehearsal has no part for the agent `{brief.name}`")
        past = tuple(_turns(messages))
        play = part(replace(brief, past=past))
        if not isinstance(play, Generator):
            return _message(brief.name, len(past), play, messages)
        if brief.earlier:
            raise UsageError(
                f"the rehearsal cannot play `{brief.name}` on, whose conversation was compacted.",
                "Give the model a larger `context`, or write the part as a function of its brief.",
            )
        try:
            turn = next(play)
            for each in past:
                turn = play.send(each.heard)
        except StopIteration:
            turn = "I have nothing more to do."
        return _message(brief.name, len(past), turn, messages)


def load_script(path: Path, parameters: Mapping[str, Any] | None = None) -> Script:
    """The object `script` of a rehearsal file, or what its function `script` makes of the scenario's parameters.

    Raises `UsageError` where there is neither.
    """
    folder = str(path.absolute().parent)
    name = f"megagraph_rehearsal_{hashlib.blake2b(folder.encode(), digest_size=8).hexdigest()}"
    # As a package of its own it can import what lies beside it: `from .texts import …`.
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[folder])
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError(f"no rehearsal at {path}")
    for stale in [loaded for loaded in sys.modules if loaded.startswith(name)]:
        del sys.modules[stale]
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    script = getattr(module, "script", None)
    if callable(script):
        script = script(**(parameters or {}))
    if not isinstance(script, Script):
        raise UsageError(f"{path} defines no `script = Script(...)`")
    return script


class RehearsalModel(BaseChatModel):
    """The chat model over a `Script`. Token counts are approximate, and say what a model would be sent."""

    script: Any
    """A `Script`."""

    @property
    def _llm_type(self) -> str:
        return "rehearsal"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer = self.script.answer(messages)
        answer.usage_metadata = _usage(messages, answer)
        return ChatResult(generations=[ChatGeneration(message=answer)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        result = self._generate(messages)
        pieces = _pieces(result.generations[0].message) if wants_tokens(run_manager) else []
        for piece in pieces:
            await asyncio.sleep(self.script.pace / len(pieces))
            if run_manager is not None:
                await run_manager.on_llm_new_token(piece.text, chunk=piece)
        if self.script.pace and not pieces:
            await asyncio.sleep(self.script.pace)
        return result


def _pieces(message: BaseMessage) -> list[ChatGenerationChunk]:
    """An answer as a model would write it, piece by piece: its text, then the arguments of its calls."""
    chunks = [AIMessageChunk(content=word) for word in re.findall(r"\s*\S+\s*", message.text)]
    for index, call in enumerate(message.tool_calls if isinstance(message, AIMessage) else ()):
        said = json.dumps(call["args"], ensure_ascii=False)
        for i in range(0, len(said), _PIECE):
            name, id_ = (call["name"], call["id"]) if i == 0 else (None, None)
            part = tool_call_chunk(name=name, args=said[i : i + _PIECE], id=id_, index=index)
            chunks.append(AIMessageChunk(content="", tool_call_chunks=[part]))
    return [ChatGenerationChunk(message=chunk) for chunk in chunks]


def read_brief(messages: Sequence[BaseMessage]) -> Brief:
    """Whose conversation this is, read from the system prompt, and the task it was given."""
    system = next((str(m.content) for m in messages if isinstance(m, SystemMessage)), "")
    found = _NAME.search(system)
    if found is None:
        raise UsageError("the rehearsal cannot tell whose turn it is: no `Your name is …` in the prompt")
    before = [m for m in takewhile(lambda m: not isinstance(m, AIMessage), messages) if isinstance(m, HumanMessage)]
    told = [m for m in before if not m.text.startswith(_EARLIER)]
    earlier = "".join(m.text for m in before if m.text.startswith(_EARLIER))
    return Brief(found[1], told[0].text if told else "", _heard(told[1:]).letters, earlier=earlier)


def _turns(messages: Sequence[BaseMessage]) -> Iterator[Past]:
    """The script's own turns, each with what was heard after it. Spoilt turns are passed over."""
    heard: list[BaseMessage] = []
    answer: AIMessage | None = None
    skipping = False
    for message in messages:
        if isinstance(message, AIMessage):
            skipping = _spoilt(message)
            if skipping:
                continue
            if answer is not None:
                yield _past(answer, heard)
            answer, heard = message, []
        elif not (skipping and isinstance(message, ToolMessage)) and not message.text.startswith("<note>"):
            heard.append(message)
    if answer is not None:
        yield _past(answer, heard)


def _past(answer: AIMessage, heard: Sequence[BaseMessage]) -> Past:
    return Past(tuple(Call(call["name"], call["args"]) for call in answer.tool_calls), answer.text, _heard(heard))


def _spoilt(message: AIMessage) -> bool:
    calls = [*message.tool_calls, *message.invalid_tool_calls]
    return any((c["id"] or "").startswith(FAULT_PREFIX) for c in calls) or not (calls or message.text)


def _heard(messages: Sequence[BaseMessage]) -> Heard:
    texts = [m.text for m in messages]
    mail = "\n".join(m.text for m in messages if isinstance(m, HumanMessage))
    return Heard(
        results=tuple(m.text for m in messages if isinstance(m, ToolMessage)),
        letters=tuple(letters_in(mail)),
        text="\n".join(texts),
    )


def _message(name: str, n: int, turn: Turn, messages: Sequence[BaseMessage]) -> AIMessage:
    items = [turn] if isinstance(turn, str | Call) else list(turn)
    calls = [item for item in items if isinstance(item, Call)]
    return AIMessage(
        content="\n".join(item for item in items if isinstance(item, str)),
        tool_calls=[
            {"name": c.tool, "args": dict(c.args), "id": f"{name}_{n}_{i}", "type": "tool_call"}
            for i, c in enumerate(calls)
        ],
        response_metadata={"model_name": "rehearsal", "finish_reason": "tool_calls" if calls else "stop"},
    )


def _usage(messages: Sequence[BaseMessage], answer: AIMessage) -> UsageMetadata:
    count = partial(count_tokens_approximately, use_usage_metadata_scaling=False)
    tokens_in, tokens_out = count(list(messages)), count([answer])
    return {
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
    }
