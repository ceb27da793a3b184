"""A worker's part of the organisation: what its agents share, among them and through the first process with all."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megagraph.approvals import Approve
from megagraph.home import Home
from megagraph.limits import Limits
from megagraph.mailroom import Mailroom
from megagraph.models import ModelChoice
from megagraph.organisation import Organisation
from megagraph.prices import Price
from megagraph.programs.sandbox import Sandbox
from megagraph.prompts import Prompts
from megagraph.scenario import Scenario
from megagraph.specs import AgentSpec
from megagraph.workers.far import FarHold
from megagraph.workers.link import Link
from megagraph.workers.mail import BranchMailroom


@dataclass(frozen=True)
class Posting:
    """What a worker is given to start with. All of it can be pickled."""

    home: Path
    run: str
    scratch: Path
    scenario: Scenario
    """Without its checks, which are the first process's to carry out."""
    choice: ModelChoice
    """Without the script of a rehearsal, which is in the scenario's folder."""
    limits: Limits
    prompts: Prompts
    prices: dict[str, Price | None]
    sandbox: Sandbox | None
    no_sandbox: str
    """Why there is none."""
    approve: Approve
    mcp: Any
    """The MCP servers, of which each worker starts its own."""
    gone: Collection[str]
    """Tools that the run had before and has not any more."""


class Desk:
    """The first process, for those who ask it something."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def admit(self, lead: str, wave: int, wishes: Sequence[dict[str, Any]]) -> tuple[list[AgentSpec], list[str]]:
        admitted: tuple[list[AgentSpec], list[str]] = await self._link.ask("admit", lead, wave, list(wishes))
        return admitted


class Office(Organisation):
    """The organisation, as far as it is at work in this process."""

    link: Link

    def __init__(self, home: Home, posting: Posting, link: Link, **parts: Any) -> None:
        self.link = link
        super().__init__(
            goal=posting.scenario.goal,
            ledger=home.ledger(posting.run),
            workspace=home.workspace(posting.run),
            prices=posting.prices,
            guards=posting.scenario.guards,
            prompts=posting.prompts,
            scratch=posting.scratch,
            programs=posting.scenario.programs,
            sandbox=posting.sandbox,
            no_sandbox=posting.no_sandbox,
            approve=posting.approve,
            shared=True,
            front=Desk(link),
            **parts,
        )
        self.programs_at_once = FarHold(link, "programs_at_once")
        self.rechecking = FarHold(link, "rechecking")

    @property
    def branches(self) -> BranchMailroom:
        """The mailroom, which knows that it is a part."""
        assert isinstance(self.mailroom, BranchMailroom)
        return self.mailroom

    def _make_mailroom(self) -> Mailroom:
        return BranchMailroom(self._notice, self._changed, self.link)

    async def restore(self) -> None:
        await asyncio.to_thread(self._restore)

    def _restore_parts(self, agents: Sequence[Any]) -> None:
        # The meter is the first process's, which has read of them itself.
        pass

    def heard(self, verb: str, args: tuple[Any, ...]) -> None:
        """Take in a message of the first process."""
        match verb, args:
            case "take", (str(head), list(letters)):
                self.branches.take_over(head)
                for letter in letters:
                    self.branches.deliver(letter)
            case "answers", (dict(answers),):
                self.take_answers(answers)
            case "stop", (str(reason),):
                super().stop(reason)
            case "park", ():
                self.mailroom.park()
            case "version", (str(version),):
                self.version = version
            case "closed", (list(names),):
                self.branches.heard(verb, names)
                for name in names:
                    # Their rows and the word of it are the first process's.
                    self.models.dismiss(name)
            case _:
                assert self.branches.heard(verb, *args), verb

    def stop(self, reason: str) -> None:
        if not self.stopped:
            self.link.tell("stop", reason, self.failed)
        super().stop(reason)

    async def change_files(self, method: str, *args: Any, **kwargs: Any) -> Any:
        # Of the version that comes of it all workers are told, in order.
        return await self.link.ask("files", method, args, kwargs)

    def note_time(self) -> None:
        # How long the run has worked is known to the first process.
        pass

    async def aclose(self) -> None:
        for close in self._closing:
            await close()
