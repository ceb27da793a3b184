# %% [markdown]
# # Resume and branch
#
# A run can be stopped at any moment by anything, and goes on where it was. And from any moment of any agent another
# run can be begun that goes on otherwise, and pays only for what follows.

# %%
from megagraph import Check, Edits, MegaGraph
from megagraph.rehearsal import RehearsalModel, Script, finish, read_file, recruit, wait_for, write_file

HOURS = "Open from Tuesday to Sunday, 10 to 17 o'clock."
DUG = "The harbour was dug in 1862 by four hundred men with spades."
HISTORY = "\n".join([DUG] * 6)


def boss(brief):
    heard = yield recruit(
        {"name": "historian", "role": "historian", "instructions": "Collect facts.", "deliverables": ["facts.md"]},
        {
            "name": "writer",
            "role": "writer",
            "instructions": "Tell the whole history.",
            "deliverables": ["page.md"],
            "depends_on": ["historian"],
        },
    )
    yield from wait_for(heard, ["historian", "writer"])
    yield finish("The page is written.", ["page.md"])


def historian(brief):
    yield write_file("facts.md", f"# Facts\n\n{HISTORY}\n\n{HOURS}\n")
    yield finish("The facts are in facts.md.", ["facts.md"])


def writer(brief):
    yield read_file("facts.md")
    parts = [HISTORY] if "whole" in brief.task else [DUG]
    parts += [HOURS] if "visitor" in brief.task else []
    yield write_file("page.md", "# The harbour museum\n\n" + "\n\n".join(parts) + "\n")
    yield finish("The page is in page.md.", ["page.md"])


model = RehearsalModel(script=Script({"boss": boss, "historian": historian, "writer": writer}, pace=0.2))
mega = MegaGraph(
    model,
    checks=[
        Check.call(lambda files: len(files["page.md"].split()) < 40, name="short"),
        Check.call(lambda files: "Open from" in files["page.md"], name="says when it is open"),
    ],
)

# %% [markdown]
# ## Stopped in the middle
#
# `abort` stops at once, in the middle of model calls, much as a crash would. What was answered is kept.

# %%
run = await mega.start("A web page about the harbour museum.")
async for _event in run.events("writer", follow=True):
    break
stopped = await run.abort()
print(run.status, "after", stopped.calls, "calls")

# %%
run = await mega.resume("last")
result = await run.watch()
print(result.status, result.passed, [(verdict.check, verdict.passed) for verdict in result.verdicts])

# %% [markdown]
# ## Where it went wrong
#
# The page is too long, and does not say when the museum is open. `run.history()` has what every agent did; each step
# is an address.

# %%
for step in run.history():
    print(f"{step.address:20} {step.what}")

# %% [markdown]
# ## Three other ways
#
# Just before the writer's first step we give it other instructions. What would be kept, and what would run again?

# %%
plan = await run.plan_branch("writer:think#1", instructions="Be short.")
print("runs again:", ", ".join(filter(None, plan.again.values())))
print("is taken over:", plan.dump()["kept"])

# %% [markdown]
# `branch_many` makes a branch for each change, lets all work at once under one set of limits, and ranks them by the
# checks. For a single one: `branch = await run.branch("writer:think#1", instructions="…")`, then `await
# mega.resume(branch.id)`.

# %%
ways = ["Be short.", "Be short, and think of the visitor.", "Tell the whole history to the visitor."]
ranked = await mega.branch_many(run.id, "writer:think#1", [Edits(instructions=way) for way in ways])
for place in ranked:
    print(f"{place.passed} of {len(place.result.verdicts)} checks  {place.edits.instructions}")

# %% [markdown]
# ## Side by side
#
# The historian and its facts are the first run's: only the writer and the boss made calls.

# %%
best = ranked[0].run
comparison = run.compare(best)
print("calls taken over:", comparison.kept_calls[1], "of", comparison.runs[1].calls)
comparison

# %%
for diff in best.diff(run):
    print(diff.patch[:900])

# %%
best

# %% [markdown]
# The first run is as it was.

# %%
assert ranked[0].result.passed and not run.outcome().passed
for other in mega.runs():
    print(other.id == run.id, other.parent == run.id, other.outcome().passed)

# %%
await mega.aclose()
