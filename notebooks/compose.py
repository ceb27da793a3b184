# %% [markdown]
# # A run of one's own: models, checks, limits, answers
#
# A run is composed of a goal, models, limits and checks. The organisation is not: the boss makes it.

# %%
from megagraph import Check, FileCheck, Limits, MegaGraph, RunCheck
from megagraph.rehearsal import RehearsalModel, Script, call, finish, recruit, run_program, wait_for, write_file

# %% [markdown]
# ## The model
#
# Any LangChain chat model that can call tools, or a name such as `openai:gpt-5-mini`. Here it is a script again,
# written in this cell: a function for each agent, which yields the agent's turns. That is how to try limits, checks
# and tools before a model is paid.


# %%
def boss(brief):
    heard = yield call("ask_human", question="What is the mean of no numbers: an error, or 0?")
    heard = yield recruit(
        {
            "name": "coder",
            "role": "programmer",
            "instructions": f"Write stats.py. On no numbers: {heard.text}",
            "deliverables": ["stats.py"],
        },
        {
            "name": "tester",
            "role": "tester",
            "instructions": "Test stats.py.",
            "deliverables": ["test_stats.py"],
            "depends_on": ["coder"],
        },
    )
    yield from wait_for(heard, ["coder", "tester"])
    yield finish("stats.py is written and tested.", ["stats.py", "test_stats.py"])


def coder(brief):
    empty = "raise ValueError('no numbers')" if "error" in brief.task else "return 0"
    yield write_file("stats.py", f"def mean(xs):\n    if not xs:\n        {empty}\n    return sum(xs) / len(xs)\n")
    yield finish("mean() is there.", ["stats.py"])


def tester(brief):
    yield write_file("test_stats.py", "from stats import mean\n\nassert mean([1, 2, 6]) == 3\nprint('1 passed')\n")
    yield run_program("test_stats.py")
    yield finish("The test passes.", ["test_stats.py"])


model = RehearsalModel(script=Script({"boss": boss, "coder": coder, "tester": tester}, pace=0.2))

# %% [markdown]
# ## Checks and limits
#
# Checks decide what the result is worth, from outside. They are data, or functions of yours, which are given the files.


# %%
def refuses_nothing(files):
    """The mean of no numbers is an error."""
    space = {}
    exec(files["stats.py"], space)
    try:
        return False, f"mean([]) is {space['mean']([])}"
    except ValueError as error:
        return True, f"mean([]) says: {error}"


mega = MegaGraph(
    model,
    checks=[
        FileCheck(file="stats.py"),
        RunCheck(run=("test_stats.py",), contains="1 passed"),
        Check.call(refuses_nothing, name="no numbers, no mean"),
    ],
    limits=Limits(calls=4, agents=5, depth=2),
    unsafe_programs=True,
)

# %% [markdown]
# ## Start, answer
#
# Every step can be awaited, and does not have to be: `run.sync` and `mega.sync` have the same calls without `await`.

# %%
run = await mega.start("A module stats.py with the mean of a list of numbers, tested.")
result = await run.watch()
print(result.status, "-", result.reason)

# %% [markdown]
# Agents may ask a person. Nothing is lost while they wait, and nothing runs: this can be answered tomorrow.

# %%
run.questions()

# %%
question = run.questions()[0]
await run.answer(question["id"], "an error")
run = await mega.resume(run.id)
result = await run.result()
print(result.status, "-", result.reason)

# %% [markdown]
# ## A limit, a pause
#
# Four calls were allowed, over all agents and processes. Reaching a limit pauses the run. Now it may have more, and
# we pause it ourselves on the way.

# %%
more = Limits(calls=40, agents=5, depth=2)
run = await mega.resume(run.id, limits=more)
run.show()
async for _event in run.events("tester", follow=True):
    break
paused = await run.pause()
print(paused.status, "-", paused.reason)

# %%
run = await mega.resume(run.id, limits=more)
result = await run.watch()

# %%
for verdict in result.verdicts:
    print("passed" if verdict.passed else "FAILED", verdict.check, "-", verdict.detail[:80])
assert result.passed

# %%
print(run.files["stats.py"])

# %%
await mega.aclose()
