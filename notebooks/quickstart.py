# %% [markdown]
# # Quickstart
#
# One goal goes in; one agent, the boss, gets it and recruits the others. Here the agents are played by a script (a
# *rehearsal*), so nothing is asked of a language model and no key is needed. All around the model is real.
#
# To run this yourself: `pip install 'megagraph[notebook]'`. Runs are kept in the folder `.megagraph` beside the
# notebook.

# %%
from megagraph import MegaGraph, find_scenario

mega = MegaGraph("rehearsal", unsafe_programs=True)
run = await mega.start(find_scenario("policy").with_(size=24))

# %% [markdown]
# `run.watch()` shows the organisation while it works, and returns when it has ended. `run.show()` does not wait; and
# in any cell, `run` as the last line shows how it stands. Ctrl-C (or the stop button) pauses the run, and a line says
# how to go on with it.
#
# Click on an agent to unfold its team, or type into the filter.

# %%
result = await run.watch()

# %%
print(result.status, result.passed, f"{result.calls} calls, {result.input_tokens:,} tokens in")
print(result.report.summary)

# %% [markdown]
# ## What it made
#
# `run.files` is a mapping from path to text.

# %%
run.files

# %%
path = next(path for path in run.files if path.endswith(".md"))
print(path)
print(run.files[path][:600])

# %% [markdown]
# ## What happened
#
# `run.agents`, `run.calls` and `run.letters` are tables, and so is `run.files.table()`. They are plain sequences of
# rows, and pandas takes them.

# %%
run.letters[:5]

# %%
import pandas

calls = pandas.DataFrame(run.calls)
calls.groupby("agent")[["input_tokens", "output_tokens"]].sum().nlargest(5, "input_tokens")

# %%
run.timeline()

# %%
run.cost()

# %% [markdown]
# The whole run as one page that needs nothing else, to keep or to send:

# %%
run.write_report("run.html")

# %% [markdown]
# ## Without `await`
#
# `mega.sync` and `run.sync` have the same calls for scripts, functions and those who do not like `await`. The run
# then works in the background, also while a cell computes.

# %%
small = mega.sync.start(find_scenario("policy").with_(size=13))
small.sync.result().status

# %% [markdown]
# ## With a language model
#
# ```python
# mega = MegaGraph("openai:gpt-5-mini", limits=Limits(calls=200, cost_usd=2))
# run = await mega.start("Write a command-line todo list in Python, with tests")
# await run.watch()
# ```
#
# Any server that speaks OpenAI's protocol will do (`base_url="http://localhost:8000/v1"`), and any LangChain chat
# model.

# %%
await mega.aclose()
